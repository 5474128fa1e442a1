"""Environments made for one test."""

import gymnasium
import pytest


@pytest.fixture
def registered():
    """Register a constructor as Odd-v0 for the length of a test; returns the id."""

    def register(constructor):
        gymnasium.register("Odd-v0", entry_point=constructor, max_episode_steps=50)
        return "Odd-v0"

    yield register
    gymnasium.registry.pop("Odd-v0", None)
