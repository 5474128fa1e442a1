"""The two engines of Atari games agree, frame by frame, reward by reward, end by end."""

import sys
from contextlib import closing

import numpy as np
import pytest
from atari_console import first_episode_only, make, random_actions, same_seed, steps

from dqn_cli.config import AtariConfig, Engine, LifeLoss, Preprocess

RULES = {
    "Breakout": {"frame_skip": 4},
    "Pong": {"frame_skip": 2},
    "SpaceInvaders": {"frame_skip": 3, "max_pool": False, "life_loss": LifeLoss.terminal},
    "MsPacman": {"color": True, "resize": [120, 96], "crop": [10, 8, 90, 80], "life_loss": LifeLoss.reset},
    "Seaquest": {"preprocess": Preprocess.nips2013, "life_loss": LifeLoss.terminal, "max_frames": 401},
    "Freeway": {"frame_skip": 1, "full_actions": True, "max_frames": 100},
    "Asterix": {"frame_skip": 5, "color": True},
    "Pacman": {"resize": [250, 160], "max_frames": 300},  # European: the screen has 250 rows
}
ENDS = {"Breakout", "SpaceInvaders", "MsPacman", "Seaquest", "Freeway", "Pacman"}  # seen within the steps


def agree(config, number, seed_of):
    """Play the same on both engines and compare everything; how many steps ended an episode, and in a game's end."""
    slow = AtariConfig(**{**vars(config), "engine": Engine.gymnasium})
    with closing(make(config, seed_of=seed_of)) as native, closing(make(slow, seed_of=seed_of)) as other:
        assert type(native) is not type(other)
        assert (native.spec, native.num_actions) == (other.spec, other.num_actions)
        np.testing.assert_array_equal(native.reset(), other.reset())
        actions = random_actions(native, number, seed=1)
        ends = []
        for one, two in zip(steps(native, actions), steps(other, actions), strict=True):
            for name in ("frame", "next_frame", "reward", "terminated", "truncated", "first"):
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert one.episodes == two.episodes
            ends.append(one.terminated.item() or one.first.item())
    return sum(ends)


@pytest.mark.parametrize("game", RULES)
def test_where_nothing_is_left_to_chance(game):
    config = AtariConfig(id=f"ALE/{game}-v5", sticky=0.0, **RULES[game])
    assert (agree(config, 300, first_episode_only) > 0) == (game in ENDS)


@pytest.mark.parametrize("seed_of", [first_episode_only, same_seed])
def test_sticky_actions_are_drawn_alike(seed_of):
    assert agree(AtariConfig(id="ALE/Breakout-v5", sticky=0.25), 300, seed_of) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="C++ leaves the distribution to the compiler's library")
@pytest.mark.parametrize("game", ["Enduro", "Freeway"])  # with and without FIRE
def test_no_ops_are_drawn_alike(game):
    config = AtariConfig(id=f"ALE/{game}-v5", sticky=0.25, noop_max=30, fire_reset=True, max_frames=12)
    assert agree(config, 60, first_episode_only) == 20
