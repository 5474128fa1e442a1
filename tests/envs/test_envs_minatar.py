"""MinAtar's games: the package's own rules, seen as the runner sees them."""

import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

from dqn_cli.config import MinatarConfig
from dqn_cli.envs import minatar
from dqn_cli.envs.lanes import describe, make_lanes
from dqn_cli.envs.minatar import CELL, GAMES, MinatarGame, make_game
from dqn_cli.errors import ConfigError

pytestmark = pytest.mark.skipif(find_spec("minatar") is None, reason="needs the extra minatar")


def config(game, **settings):
    return MinatarConfig(id=f"MinAtar/{game}", **settings)


def played(game, actions, seed=None):
    """Observations, rewards and ends of an episode: the actions in turn, over and over."""
    seen = [game.reset(seed=seed)[0]]
    rewards, ends = [], []
    for i in range(400):
        frame, reward, terminated, truncated, _ = game.step(actions[i % len(actions)])
        seen.append(frame)
        rewards.append(reward)
        ends.append(terminated)
        if terminated or truncated:
            break
    return np.array(seen), rewards, ends


@pytest.mark.parametrize(
    ("name", "channels", "actions"),
    [
        ("Asterix", 4, ["NOOP", "LEFT", "UP", "RIGHT", "DOWN"]),
        ("Breakout", 4, ["NOOP", "LEFT", "RIGHT"]),
        ("Freeway", 7, ["NOOP", "UP", "DOWN"]),
        ("Seaquest", 10, ["NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE"]),
        ("SpaceInvaders", 6, ["NOOP", "LEFT", "RIGHT", "FIRE"]),
    ],
)
def test_facts(name, channels, actions):
    facts = describe(config(name))
    assert (facts.spec.frame_shape, facts.spec.dtype, facts.spec.stack) == ((10, 10, channels), "bool", 1)
    assert facts.spec.frame_bytes == 100 * channels
    assert (facts.num_actions, facts.discrete, facts.notices) == (len(actions), False, [])
    assert MinatarGame(config(name)).get_action_meanings() == actions
    full = config(name, full_actions=True, frame_stack=2, time_limit_steps=77)
    assert (describe(full).num_actions, describe(full).time_limit_steps) == (6, 77)
    assert describe(full).spec.obs_shape == (2, 10, 10, channels)
    assert MinatarGame(full).get_action_meanings() == ["NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE"]


@pytest.fixture
def theirs(monkeypatch):
    """MinAtar's own environment, without what its window needs."""
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.colors", "seaborn"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["matplotlib"], "pyplot", None, raising=False)
    monkeypatch.setattr(sys.modules["matplotlib"], "colors", None, raising=False)
    from minatar import Environment

    yield Environment
    for name in [name for name in sys.modules if name.partition(".")[0] == "minatar"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize(("sticky", "ramping"), [(0.0, False), (0.1, True), (0.7, False)])
def test_a_game_is_played_as_the_package_plays_it(name, sticky, ramping, theirs):
    ours = MinatarGame(MinatarConfig(id=name, sticky=sticky, ramping=ramping, full_actions=True))
    twin = theirs(GAMES[name], sticky_action_prob=sticky, difficulty_ramping=ramping)
    rng = np.random.default_rng(0)
    seen = 0
    for seed in range(4):
        frame, _ = ours.reset(seed=seed)
        twin.seed(seed)
        twin.reset()
        twin.last_action = 0  # theirs may stick to the last action of the game before
        over = False
        while not over and seen < 3_000:
            np.testing.assert_array_equal(frame, twin.state())
            action = int(rng.integers(6))
            frame, reward, over, truncated, _ = ours.step(action)
            assert (reward, over) == twin.act(action)
            assert not truncated
            seen += 1


@pytest.mark.parametrize("name", GAMES)
def test_a_seed_gives_the_same_episode_whatever_was_played_before(name):
    fresh, used = (MinatarGame(MinatarConfig(id=name, sticky=0.3)) for _ in range(2))
    played(used, [2, 1, 2], seed=5)
    actions = [0, 1, 2, 2, 1]
    for one, other in zip(played(fresh, actions, 9), played(used, actions, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(played(fresh, actions, 9)[0], played(used, actions, 10)[0])


def test_breakout_by_hand():
    """The ball falls from the left edge, a cell to the right and down each step, and is lost at the paddle's row."""
    game = MinatarGame(config("Breakout", sticky=0.0))
    seed = next(seed for seed in range(20) if game.reset(seed=seed)[0][3, 0, 1])
    frames, rewards, ends = played(game, [1], seed)  # LEFT
    assert [tuple(np.argwhere(frame[:, :, 1])[0].tolist()) for frame in frames] == [(3 + i, i) for i in range(7)]
    assert np.argwhere(frames[2][9, :, 0]).tolist() == [[2]]  # the paddle: from 4 to 2
    assert frames[0][:, :, 3].sum() == 30  # bricks
    assert (sum(rewards), ends) == (0.0, [False] * 5 + [True])


def test_sticky_actions_come_as_often_as_they_should():
    game = MinatarGame(config("Breakout", sticky=0.25))
    game.reset(seed=0)
    moved = 0
    for _ in range(4_000):
        game.reset()  # the last action is none
        frame = game.step(1)[0]
        moved += bool(frame[9, 3, 0])
    assert abs(moved / 4_000 - 0.75) < 4 * (0.25 * 0.75 / 4_000) ** 0.5


def test_the_time_limit_truncates_and_an_end_is_none():
    game = MinatarGame(config("Freeway", time_limit_steps=7))
    game.reset(seed=0)
    assert [game.step(0)[2:4] for _ in range(7)] == [(False, False)] * 6 + [(False, True)]
    game = MinatarGame(config("Breakout", sticky=0.0, time_limit_steps=6))
    seed = next(seed for seed in range(20) if game.reset(seed=seed)[0][3, 0, 1])
    game.reset(seed=seed)
    assert [game.step(1)[2:4] for _ in range(6)][-1] == (True, False)


@pytest.mark.parametrize("name", ["Asterix", "Seaquest", "SpaceInvaders"])
@pytest.mark.parametrize("ramping", [True, False])
def test_ramping_is_the_games_own(name, ramping):
    assert MinatarGame(config(name, ramping=ramping))._game.ramping is ramping


def test_the_return_of_random_play():
    """MinAtar's README has .5 for Breakout; 40,000 episodes had a mean of .512 here."""
    lanes = make_lanes(config("Breakout", full_actions=True), 1, lambda lane, episode: None if episode else 0)
    lanes.reset()
    rng, scores = np.random.default_rng(0), []
    while len(scores) < 3_000:
        lanes.send(rng.integers(6, size=1))
        scores += [episode.score for episode in lanes.recv().episodes]
    assert abs(np.mean(scores) - 0.512) < 0.056  # 4 standard errors


def test_lanes_store_bits():
    lanes = make_lanes(config("SpaceInvaders"), 3, lambda lane, episode: 10 * lane + episode)
    frame = lanes.reset()
    assert (frame.shape, frame.dtype) == ((3, 10, 10, 6), np.bool_)
    for _ in range(300):
        lanes.send(np.array([3, 1, 2]))
        step = lanes.recv()
    assert step.frame.dtype == np.bool_
    lanes.close()


def test_pictures():
    game = make_game(config("Breakout"), "rgb_array")
    game.reset(seed=0)
    picture = game.render()
    assert (picture.shape, picture.dtype) == ((10 * CELL, 10 * CELL, 3), np.uint8)
    cells = picture[CELL // 2 :: CELL, CELL // 2 :: CELL]
    np.testing.assert_array_equal(picture, cells.repeat(CELL, 0).repeat(CELL, 1))
    assert not cells[5].any()  # nothing is there
    assert len(np.unique(cells.reshape(-1, 3), axis=0)) == 4  # nothing, paddle, bricks, and the ball upon its trail
    assert (cells[1:4] == cells[1, 5]).all(-1).sum() == 29  # a brick is hidden by the ball


def test_lanes_keep_pictures_and_name_actions():
    lanes = make_lanes(config("Freeway"), 1, lambda lane, episode: 0, "rgb_array")
    lanes.reset()
    assert [picture.shape for picture in lanes.pictures()] == [(420, 420, 3)]
    assert (lanes.action_names, lanes.fps) == (["NOOP", "UP", "DOWN"], 20.0)


def test_a_window(monkeypatch):
    pytest.importorskip("pygame", reason="needs the extra render")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    lanes = make_lanes(config("Breakout"), 2, lambda lane, episode: 0, "human")
    lanes.reset()
    lanes.send(np.array([0, 1]))
    assert lanes.recv().frame.shape == (2, 10, 10, 4)
    assert lanes.pictures() == []
    lanes.close()


def test_an_unknown_game_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"^env.id=MinAtar/Pong is not a game of MinAtar; write one of MinAtar/Aste"):
        describe(config("Pong"))


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(minatar, "find_spec", lambda name: None)
    minatar._rules.cache_clear()
    yield
    minatar._rules.cache_clear()


@pytest.mark.usefixtures("absent")
def test_a_missing_package_is_told_with_its_remedy():
    with pytest.raises(ConfigError) as told:
        describe(config("Breakout"))
    assert str(told.value) == (
        "env.id=MinAtar/Breakout needs a package that is missing (ModuleNotFoundError: No module named 'minatar'); "
        "pip install 'dqn-cli[minatar]'"
    )


def test_nothing_slow_is_imported_and_nothing_is_said():
    code = """
import sys
from dqn_cli.config import MinatarConfig
from dqn_cli.envs.lanes import describe
describe(MinatarConfig(id="MinAtar/Seaquest"))
assert not {"minatar", "seaborn", "pandas", "matplotlib", "torch", "pygame"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
