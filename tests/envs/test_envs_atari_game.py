"""An Atari game on the Gymnasium engine: what only this one can do, and how it is chosen."""

import builtins
import sys
from contextlib import closing

import numpy as np
import pytest
from atari_console import Console, breakout, same_seed, steps

from dqn_cli.config import AtariConfig, Engine, GymConfig
from dqn_cli.envs.atari import AtariLanes
from dqn_cli.envs.atari_game import AtariGame
from dqn_cli.envs.lanes import describe, make_lanes
from dqn_cli.envs.vector import GymLanes
from dqn_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("engine", "render", "kind"),
    [
        (Engine.native, None, AtariLanes),
        (Engine.gymnasium, None, GymLanes),
        (Engine.native, "rgb_array", GymLanes),
        (Engine.gymnasium, "rgb_array", GymLanes),
    ],
)
def test_the_native_engine_is_used_where_it_can_be(engine, render, kind):
    with closing(make_lanes(breakout(engine), 1, same_seed, render)) as lanes:
        assert type(lanes) is kind


def test_every_frame_of_the_emulator_is_shown():
    config = breakout(noop_max=0, fire_reset=True, max_frames=12)
    console = Console(config)
    shown = []

    def look():
        shown.append(console.ale.getScreenRGB())

    console.start(5)
    look()
    console.press(1, 1)  # FIRE
    look()
    with closing(make_lanes(config, 2, same_seed, "rgb_array")) as lanes:
        lanes.reset()
        start = lanes.pictures()
        np.testing.assert_array_equal(start, shown)
        shown.clear()
        for action in (2, 2, 3):
            for _ in range(4):
                console.press(action, 1)
                look()
        results = steps(lanes, np.array([[2, 0], [2, 1], [3, 2]]))
        next(results)
        pictures = lanes.pictures()
        assert len(pictures) == 4
        next(results)
        (last,) = results
        pictures += lanes.pictures()  # of two steps
        np.testing.assert_array_equal(pictures, shown)
        assert pictures[0].shape == (210, 160, 3)
        assert last.first.all()  # the next game has begun, unseen until its first step
        assert lanes.pictures() == []
        list(steps(lanes, np.array([[2, 0]])))
        again = lanes.pictures()
        np.testing.assert_array_equal(again, [*start, *shown[:4]])
        lanes.send(np.array([0, 0]))
        lanes.recv()
        lanes.reset()
        np.testing.assert_array_equal(lanes.pictures(), start)
        assert lanes.fps == 60
        assert lanes.action_names == ["NOOP", "FIRE", "RIGHT", "LEFT"]


def test_a_game_that_is_not_shown_keeps_no_pictures():
    game = AtariGame(breakout())
    game.reset(seed=0)
    game.step(0)
    assert game.render() == []


def test_a_window_is_opened_by_the_emulator(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    asked = []
    set_bool = AtariGame.__init__.__globals__["ALEInterface"].setBool
    monkeypatch.setattr(
        "dqn_cli.envs.atari_game.ALEInterface.setBool",
        lambda self, name, value: (asked.append((name, value)), set_bool(self, name, value))[1],
    )
    with closing(make_lanes(breakout(), 2, same_seed, "human")) as lanes:
        lanes.reset()
        list(steps(lanes, np.array([[1, 1]])))
        assert lanes.pictures() == []
    assert asked == [("display_screen", True), ("display_screen", False)]


def test_what_a_run_must_know():
    facts = describe(breakout(frame_stack=3, color=True, max_frames=43))
    assert (facts.spec.frame_shape, facts.spec.dtype, facts.spec.stack) == ((84, 84, 3), "uint8", 3)
    assert (facts.num_actions, facts.discrete, facts.time_limit_steps, facts.frame_skip) == (4, False, 10, 4)
    assert describe(breakout(full_actions=True)).num_actions == 18


@pytest.mark.parametrize("full_actions", [False, True])
@pytest.mark.parametrize("env_id", ["ALE/Brekout-v5", "CartPole-v1"])
def test_an_unknown_game(env_id, full_actions):
    with pytest.raises(ConfigError, match=rf"^env.id={env_id} is not an Atari game of ale-py; .*--list envs"):
        describe(AtariConfig(id=env_id, full_actions=full_actions))


def test_a_game_without_its_rom(monkeypatch):
    monkeypatch.setattr("ale_py.roms.get_rom_path", lambda game: None)
    with pytest.raises(ConfigError, match=r"^env.id=ALE/Breakout-v5: this ale-py came without the game's ROM"):
        describe(breakout())


def test_a_missing_opencv_is_told_before_a_run_that_needs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "dqn_cli.envs.atari_game")
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    describe(breakout())
    with pytest.raises(ConfigError, match=r"^env.id=ALE/Breakout-v5 needs a package that is missing .*libGL"):
        describe(breakout(Engine.gymnasium))
    with pytest.raises(ConfigError, match="libGL"):
        make_lanes(breakout(), 1, same_seed, "rgb_array")


def test_other_environments_take_no_notice():
    with closing(make_lanes(GymConfig(id="CartPole-v1"), 2, same_seed)) as lanes:
        assert type(lanes) is GymLanes
        assert lanes.reset().shape == (2, 4)
