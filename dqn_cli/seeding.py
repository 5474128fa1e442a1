"""All randomness of a run, from one seed: a SeedSequence with a named child for each purpose."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np


class Purpose(IntEnum):
    """Who draws. The numbers are part of what makes a run repeatable: append, never renumber."""

    NETWORK = 0  # initial weights
    EXPLORATION = 1  # coins and random actions
    REPLAY = 2  # sampled rows
    TRAIN_ENV = 3  # one child per lane
    EVAL_ENV = 4  # one child per evaluation episode
    EVAL_POLICY = 5  # epsilon in evaluation
    BEST_ENV = 6  # fresh episodes that confirm a new best
    UPDATE = 7  # noise and quantiles of updates
    ACTING = 8  # noise and quantiles of the training's actions
    DIAGNOSTICS = 9  # transitions that are looked at, and how


def _child(seed: int, purpose: Purpose, *index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *index))


def generator(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """A stream of its own for `purpose` (and lane, episode, ...)."""
    return np.random.Generator(np.random.PCG64(_child(seed, purpose, *index)))


def integer(seed: int, purpose: Purpose, *index: int) -> int:
    """A seed in [0, 2^31) for code that takes integers: torch, environments (the ALE refuses larger ones)."""
    return int(_child(seed, purpose, *index).generate_state(1)[0]) >> 1


def state_of(stream: np.random.Generator) -> dict[str, Any]:
    """The stream's position as plain data (integers, strings, dictionaries)."""
    return dict(stream.bit_generator.state)


def move_to(stream: np.random.Generator, state: Any) -> None:
    """Put the stream where `state_of` found one. Raises `ValueError` where that is not a position of such a stream."""
    try:
        stream.bit_generator.state = state
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError("not the position of a stream of random numbers") from error
    if state_of(stream) != state:  # numbers are rounded silently
        raise ValueError("not the position of a stream of random numbers")
