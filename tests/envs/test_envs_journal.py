"""JournaledLanes: what comes back goes on as if nothing had happened, and what does not come back is refused."""

import copy
from contextlib import closing
from zlib import crc32

import gymnasium
import numpy as np
import pytest
from atari_console import first_episode_only, random_actions, steps

from dqn_cli.config import AtariConfig, Engine, GymConfig, LifeLoss, MinatarConfig, Preprocess
from dqn_cli.envs import journal
from dqn_cli.envs.journal import JournaledLanes
from dqn_cli.envs.lanes import make_lanes, reseed_every_steps
from dqn_cli.envs.vector import GymLanes
from dqn_cli.errors import CheckpointError, EnvironmentFault

TOY = "dqn_cli.envs.toy"
NEVER = 10**9


def seed_of(lane, episode):
    return 1000 * lane + episode


def journaled(config, num_envs, every, seeds=seed_of):
    return JournaledLanes(lambda asked: make_lanes(config, num_envs, asked), seeds, every)


def assert_same(one, two):
    for name in ("frame", "next_frame", "reward", "terminated", "truncated", "first"):
        mine, other = getattr(one, name), getattr(two, name)
        assert (mine.dtype, mine.tobytes()) == (other.dtype, other.tobytes()), name
    assert one.episodes == two.episodes


def assert_same_state(one, two):
    assert one.keys() == two.keys()
    for name, array in one.items():
        other = two[name]
        assert (array.shape, array.dtype, array.tobytes()) == (other.shape, other.dtype, other.tobytes()), name


def come_back(make, number, moments):
    """Play `number` steps undisturbed; then once more from each of the moments on, each time in new lanes.

    The state at each moment.
    """
    with closing(make()) as lanes:
        lanes.reset()
        actions = random_actions(lanes, number)
        states, results = [lanes.state()], []
        for step in steps(lanes, actions):
            states.append(lanes.state())
            results.append(step)
    for moment in moments:
        with closing(make()) as lanes:
            frame, first = lanes.restore(states[moment])
            assert_same_state(lanes.state(), states[moment])
            if moment:
                np.testing.assert_array_equal(frame, results[moment - 1].frame)
                np.testing.assert_array_equal(first, results[moment - 1].first)
            for i, step in enumerate(steps(lanes, actions[moment:]), start=moment):
                assert_same(step, results[i])
                assert_same_state(lanes.state(), states[i + 1])
    return states


def moments_of(number, last, seed=0):
    """Some moments until `last`, with the first one and the last one."""
    return [0, 1, *np.random.default_rng(seed).integers(2, last, number).tolist(), last]


GYM = {
    "cartpole": (GymConfig(id="CartPole-v1"), 40),
    "frozen lake": (GymConfig(id="FrozenLake-v1"), 15),
    "slow": (GymConfig(id="Acrobot-v1", time_limit_steps=37), 50),
    "chain": (GymConfig(id="DqnChain-v0", module=TOY), 30),
    "bandit": (GymConfig(id="DqnBandit-v0", module=TOY), 7),  # an episode is a step
    "minatar": (MinatarConfig(id="MinAtar/Breakout", sticky=0.25), 25),
}


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("name", GYM)
def test_gymnasium_environments_come_back(name, num_envs):
    config, every = GYM[name]
    states = come_back(lambda: journaled(config, num_envs, every), 500, moments_of(3, 300))
    assert states[300]["lanes.episode"].min() > 0  # all lanes have had a second seed ...
    if num_envs > 1 and name not in {"bandit", "slow"}:  # ... at different times
        assert sum(len(set(state["lanes.begun"])) > 1 for state in states) > 100


PONG = AtariConfig(id="ALE/Pong-v5", sticky=0.25, noop_max=30, max_frames=160)
BREAKOUT = AtariConfig(id="ALE/Breakout-v5", sticky=0.25, noop_max=10, fire_reset=True)
ATARI = {  # lanes, steps between seeds, moments after the first
    "pong, one lane": (PONG, 1, 50, [90, 120]),
    "lives": (AtariConfig(**{**vars(BREAKOUT), "life_loss": LifeLoss.terminal}), 1, 90, [230]),
    "lives end": (AtariConfig(**{**vars(BREAKOUT), "life_loss": LifeLoss.reset}), 4, 60, [80]),
    "cropped": (  # on all sides: what is kept of a screen does not lie in a row
        AtariConfig(**{**vars(BREAKOUT), "preprocess": Preprocess.nips2013, "crop": [18, 4, 80, 70], "color": True}),
        1,
        20,
        [200],
    ),
    "other engine": (
        AtariConfig(**{**vars(BREAKOUT), "life_loss": LifeLoss.reset, "engine": Engine.gymnasium}),
        1,
        30,
        [70],
    ),
}


@pytest.mark.parametrize("name", ATARI)
def test_atari_games_come_back(name, monkeypatch):
    monkeypatch.setattr("dqn_cli.envs.atari.usable_cores", lambda: 5)  # a thread per lane
    config, num_envs, every, moments = ATARI[name]
    states = come_back(lambda: journaled(config, num_envs, every), moments[-1] + 200, moments)
    assert states[moments[-1]]["lanes.episode"].max() > 0
    assert len(set(states[moments[-1]]["lanes.begun"])) >= num_envs - 1  # not all at once


def test_both_engines_agree_where_lanes_get_seeds():
    config = AtariConfig(**{**vars(BREAKOUT), "life_loss": LifeLoss.reset})
    slow = AtariConfig(**{**vars(config), "engine": Engine.gymnasium})
    with closing(journaled(config, 2, 40)) as native, closing(journaled(slow, 2, 40)) as other:
        np.testing.assert_array_equal(native.reset(), other.reset())
        actions = random_actions(native, 110)
        for one, two in zip(steps(native, actions), steps(other, actions), strict=True):
            assert_same(one, two)
        assert native.state()["lanes.episode"].min() > 1
        assert_same_state(native.state(), other.state())
        moment = native.state()
    with closing(journaled(slow, 2, 40)) as crossed:  # a state of one engine is a state of the other
        crossed.restore(moment)


@pytest.mark.parametrize("config", [GymConfig(id="FrozenLake-v1"), PONG], ids=["gymnasium", "native"])
def test_without_seeds_of_their_own_lanes_play_as_ever(config):
    lanes = journaled(config, 2, NEVER, lambda lane, episode: 7 + lane)
    with closing(lanes), closing(make_lanes(config, 2, first_episode_only)) as plain:
        np.testing.assert_array_equal(lanes.reset(), plain.reset())
        actions = random_actions(lanes, 100)
        for one, two in zip(steps(lanes, actions), steps(plain, actions), strict=True):
            assert_same(one, two)
        assert lanes.state()["lanes.current"].min() > 0


class Counter(gymnasium.Env):
    """Starts at its seed, without one at 500, and counts on by the action; pays what it comes to. Ends at 4 mod 10."""

    observation_space = gymnasium.spaces.Box(0, 1e6, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.count = 500 if seed is None else seed
        return self.seen(), {}

    def step(self, action):
        self.count += int(action)
        return self.seen(), float(self.count), self.count % 10 == 4, False, {}

    def seen(self):
        return np.array([self.count], np.float32)


def ones(lanes, number):
    return list(steps(lanes, np.ones((number, lanes.num_envs), np.int64)))


@pytest.mark.parametrize(("every", "asked"), [(5, [0, 2, 4]), (8, [0, 2, 4]), (9, [0, 3]), (4, [0, 1, 2, 3, 4])])
def test_seeds_are_given_at_the_first_episode_after_so_many_steps(every, asked, registered):
    config, seeds = GymConfig(id=registered(Counter)), []

    def tens(lane, episode):  # episodes of 4 steps, with and without a seed
        seeds.append((lane, episode))
        return 10 * episode

    lanes = journaled(config, 1, every, tens)
    lanes.reset()
    ones(lanes, 16)
    assert seeds == [(0, episode) for episode in asked]


def test_a_state_worked_by_hand(registered):
    """Lane 0 has episodes of 4 steps; lane 1 of 2 with a seed and 4 without; both get a seed after 5 steps."""
    config = GymConfig(id=registered(Counter))
    lanes = journaled(config, 2, 5, lambda lane, episode: 10 * episode + 2 * lane)
    assert lanes.reset().tolist() == [[0], [2]]
    ones(lanes, 5)  # lane 1: 3 4 | 501 502 503
    state = lanes.state()
    assert state["lanes.actions"].tolist() == [[1, 1]] * 5
    assert state["lanes.actions"].dtype == np.uint8
    seen = np.array([[1, 2, 3, 4, 501], [3, 4, 501, 502, 503]], np.float32)  # where an episode ends its last frame
    assert state["lanes.checksum"].tolist() == [crc32(frames.tobytes()) for frames in seen]
    assert {
        name: array.tolist() for name, array in state.items() if name not in ("lanes.actions", "lanes.checksum")
    } == {
        "lanes.begun": [0, 0],
        "lanes.episode": [0, 0],
        "lanes.reward": [1 + 2 + 3 + 4 + 501, 3 + 4 + 501 + 502 + 503],
        "lanes.current": [1, 1],
        "lanes.length": [1, 3],
        "lanes.frame": [[501], [503]],
        "lanes.first": [False, False],
    }
    lanes.send(np.array([0, 1]))
    lanes.recv()  # lane 1: 504 | 22
    lanes.send(np.array([1, 0]))
    lanes.recv()
    after = lanes.state()
    assert after["lanes.actions"].tolist() == [[1, 0]] * 5 + [[0, 0], [1, 0]]  # lane 1's own begin with row 6
    assert {
        name: array.tolist() for name, array in after.items() if name not in ("lanes.actions", "lanes.checksum")
    } == {
        "lanes.begun": [0, 6],
        "lanes.episode": [0, 2],
        "lanes.reward": [10 + 501 + 501 + 502, 22],
        "lanes.current": [1, 2],
        "lanes.length": [3, 1],
        "lanes.frame": [[502], [22]],
        "lanes.first": [False, False],
    }
    assert state["lanes.begun"].tolist() == [0, 0]  # a copy
    ones(lanes, 2)  # lane 0: 503, 504 | 20: the oldest seed is lane 1's now, before row 6 of 9
    last = lanes.state()
    assert last["lanes.actions"].tolist() == [[0, 0], [0, 1], [0, 1]]
    assert (last["lanes.begun"].tolist(), last["lanes.first"].tolist()) == ([3, 0], [True, True])
    new = journaled(config, 2, 5, lambda lane, episode: 10 * episode + 2 * lane)
    new.restore(last)
    assert_same_state(new.state(), last)


@pytest.mark.parametrize(("arms", "dtype"), [(256, np.uint8), (257, np.int32)])
def test_every_action_fits(arms, dtype):
    config = GymConfig(id="DqnBandit-v0", module=TOY, kwargs={"means": list(range(arms))})
    lanes = journaled(config, 1, 2)
    lanes.reset()
    for action in (1, 2, 0, arms - 1, arms - 1):
        lanes.send(np.array([action]))
        lanes.recv()
        state = lanes.state()
        new = journaled(config, 1, 2)
        new.restore(state)
        assert_same_state(new.state(), state)
        assert state["lanes.actions"].dtype == dtype
    assert state["lanes.actions"].tolist() == [[arms - 1]]  # steps 2 and 4 were followed by seeds


def test_a_new_rule_for_seeds_does_not_change_what_was_played():
    config = GymConfig(id="FrozenLake-v1")
    states = come_back(lambda: journaled(config, 3, 20), 60, [])
    lanes = journaled(config, 3, 4)
    lanes.restore(states[60])
    assert_same_state(lanes.state(), states[60])


def test_a_lane_takes_no_step_before_its_seed(registered):
    """Lane 1's environment breaks when it is not played as it was."""

    class Strict(Counter):
        def step(self, action):
            if self.count == 12 and action == 0:
                raise OSError("lost")
            return super().step(action)

    config = GymConfig(id=registered(Strict))
    make = lambda: journaled(config, 2, 5, lambda lane, episode: 10 * episode + 12 * lane)  # noqa: E731
    states = come_back(make, 0, [])
    lanes = make()
    lanes.reset()
    ones(lanes, 7)
    assert states[0]["lanes.frame"].tolist() == [[0], [12]]
    state = lanes.state()
    assert state["lanes.begun"].tolist() == [0, 6]
    assert state["lanes.actions"][:6, 1].tolist() == [0] * 6
    make().restore(state)


# what does not come back


class Aging(Counter):
    """Not the same after reset(seed) where an episode was played before."""

    def seen(self):
        return super().seen() + (self.resets > 1) * self.resets


class Moody(Counter):
    """Shows what it wants for a while, the count in the end."""

    made = 0

    def __init__(self):
        Moody.made += 1
        self.mood = Moody.made

    def seen(self):
        return super().seen() + (self.count == 2) * self.mood


class Generous(Counter):
    """Pays what it wants."""

    made = 0

    def __init__(self):
        Generous.made += 1
        self.mood = Generous.made

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + self.mood, *rest


def refused(kind, registered, number):
    config = GymConfig(id=registered(kind))
    lanes = journaled(config, 2, 5)
    lanes.reset()
    ones(lanes, number)
    with pytest.raises(EnvironmentFault) as caught:
        journaled(config, 2, 5).restore(lanes.state())
    return str(caught.value)


@pytest.mark.parametrize(("kind", "number", "where"), [
    (Aging, 9, "lane 0, episode 2"),
    (Moody, 3, "lane 0, episode 0"),
    (Generous, 3, "lane 0, episode 0"),
])  # fmt: skip
def test_an_environment_that_does_not_come_back_is_refused_by_name(kind, number, where, registered):
    assert refused(kind, registered, number) == (
        f"env Odd-v0 does not come back to where it was ({where}): it is not the same after reset(seed) and the same "
        "actions; resume_env=restart begins new episodes instead"
    )


def test_an_environment_that_comes_back_as_long_as_it_had_no_second_seed(registered):
    config = GymConfig(id=registered(Aging))
    lanes = journaled(config, 2, 5)
    lanes.reset()
    ones(lanes, 7)
    journaled(config, 2, 5).restore(lanes.state())


def test_the_lane_that_does_not_come_back_is_named(registered):
    class Half(Moody):
        def seen(self):
            return Counter.seen(self) + (self.mood == 4)  # the second one that restores

    config = GymConfig(id=registered(Half))
    Moody.made = 0
    lanes = journaled(config, 2, NEVER)
    lanes.reset()
    ones(lanes, 5)
    with pytest.raises(EnvironmentFault, match=r"\(lane 1, episode 1\)"):
        journaled(config, 2, NEVER).restore(lanes.state())


@pytest.mark.parametrize(("outcome", "text"), [(None, "step raised TypeError: "), (np.nan, "reward is nan")])
def test_an_environment_that_breaks_when_it_is_played_again(outcome, text, registered):
    class Breaking(Moody):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return (observation, reward, *rest) if self.mood == 1 else outcome and (observation, outcome, *rest)

    Moody.made = 0
    config = GymConfig(id=registered(Breaking))
    lanes = journaled(config, 1, 5)
    lanes.reset()
    ones(lanes, 2)
    with pytest.raises(EnvironmentFault, match=rf"^env Odd-v0: {text}.*, when the same was played again; resume_env="):
        journaled(config, 1, 5).restore(lanes.state())


# what is no state


CARTPOLE = GymConfig(id="CartPole-v1")
NAMES = ["actions", "begun", "checksum", "current", "episode", "first", "frame", "length", "reward"]


@pytest.fixture(scope="module")
def good():
    """A state of 3 lanes, two of them with a second seed."""
    lanes = journaled(CARTPOLE, 3, 25)
    lanes.reset()
    for _ in steps(lanes, random_actions(lanes, 60)):
        state = lanes.state()
        if sorted(state["lanes.begun"])[1] and state["lanes.length"].min() > 0:
            return state
    raise AssertionError


def test_all_of_a_state_is_known(good):
    assert sorted(good) == [f"lanes.{name}" for name in NAMES]
    journaled(CARTPOLE, 3, 25).restore({**good, "memory.rows": np.zeros(3)})  # others may lie beside it


def damages(array):
    yield None
    yield array[..., :-1]
    yield array[None]
    yield array[0]
    yield array[..., None]
    with np.errstate(over="ignore"):
        yield array.astype(np.float16)
    if array.itemsize > 1:
        yield array.astype(array.dtype.newbyteorder())
    for byte in range(array.nbytes):
        wrong = array.copy()
        wrong.reshape(-1).view(np.uint8)[byte] ^= 1
        yield wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_damaged_is_refused(name, good):
    count = 0
    for array in damages(good[f"lanes.{name}"]):
        state = {**good, f"lanes.{name}": array}
        if array is None:
            del state[f"lanes.{name}"]
        with pytest.raises((CheckpointError, EnvironmentFault)) as caught:
            journaled(CARTPOLE, 3, 25).restore(state)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250
        count += 1
    assert count >= 9


HOSTILE = {
    "an action that is none": ("actions", lambda a: np.where(a == 1, 2, a).astype(np.uint8), "actions holds 2, expe"),
    "no row": ("actions", lambda a: a[:0], "begun holds"),
    "no number": ("actions", lambda a: a[0, 0], r"actions is \(\) of uint8"),
    "a row that is none": ("begun", lambda a: a + 60, "begun holds"),
    "no oldest": ("begun", lambda a: np.maximum(a, 1), "begun holds 1, expected 0 to 0"),
    "before the first": ("begun", lambda a: a - 1, "begun holds -1, expected 0 to "),
    "negative": ("episode", lambda a: a - 10, "episode holds -"),
    "enormous": ("episode", lambda a: a + 2**62, "episode holds 46"),
    "overflow": ("current", lambda a: np.full_like(a, 2**63 - 1), "current holds 9223372036854775807, expected 0 to"),
    "too many": ("current", lambda a: a + 1000, "current holds"),
    "backwards": ("current", lambda a: a - 1, "current holds"),
    "long": ("length", lambda a: a + 60, "length holds"),
    "short": ("length", lambda a: a - 60, "length holds -"),
}


@pytest.mark.parametrize(("name", "change", "message"), HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("method", ["restore", "restart", "replayed_steps"])
def test_numbers_that_no_lanes_can_have(method, name, change, message, good, monkeypatch):
    monkeypatch.setattr(GymLanes, "begin", lambda *_: pytest.fail("before anything is played"))
    state = {**good, f"lanes.{name}": change(good[f"lanes.{name}"])}
    with pytest.raises(CheckpointError, match=f"^lanes.{message}"):
        getattr(journaled(CARTPOLE, 3, 25), method)(state)


def test_a_state_of_other_lanes_is_refused(good):
    with pytest.raises(CheckpointError, match=r"^lanes.actions is \(\d+, 3\) of uint8, expected \(\d+, 2\) of uint8$"):
        journaled(CARTPOLE, 2, 25).restore(good)
    with pytest.raises(CheckpointError, match=r"^lanes.frame is \(3, 4\) of float32, expected \(3, 16\) of float32$"):
        journaled(GymConfig(id="FrozenLake-v1"), 3, 25).restore(good)


def test_too_much_to_play_again(good, monkeypatch):
    rows = len(good["lanes.actions"])
    assert journaled(CARTPOLE, 3, 25).replayed_steps(good) == rows
    monkeypatch.setattr(journal, "MAX_REPLAY_STEPS", rows)
    journaled(CARTPOLE, 3, 25).restore(good)
    monkeypatch.setattr(journal, "MAX_REPLAY_STEPS", rows - 1)
    with pytest.raises(
        CheckpointError, match=rf"^lanes.actions: {rows} steps to play again, at most {rows - 1}; resume"
    ):
        journaled(CARTPOLE, 3, 25).restore(good)
    journaled(CARTPOLE, 3, 25).restart(good)


# new episodes, and turns


@pytest.mark.parametrize("config", [CARTPOLE, PONG], ids=["gymnasium", "native"])
def test_new_episodes_instead(config):
    asked = []

    def seeds(lane, episode):
        asked.append((lane, episode))
        return seed_of(lane, episode)

    with closing(journaled(config, 2, NEVER)) as lanes, closing(journaled(config, 2, 30, seeds)) as new:
        lanes.reset()
        list(steps(lanes, random_actions(lanes, 70)))
        state = lanes.state()
        frame, first = new.restart(state)
        assert asked == [(lane, state["lanes.current"][lane] + 1) for lane in range(2)]
        with closing(
            make_lanes(config, 2, lambda lane, _: seed_of(lane, int(state["lanes.current"][lane]) + 1))
        ) as twin:
            np.testing.assert_array_equal(frame, twin.reset())
        assert first.tolist() == [True, True]
        begun = new.state()
        assert begun["lanes.actions"].shape == (0, 2)
        assert (
            begun["lanes.episode"].tolist() == begun["lanes.current"].tolist() == (state["lanes.current"] + 1).tolist()
        )
        episodes = [e for step in steps(new, random_actions(new, 90)) for e in step.episodes if e.lane == 1]
        assert [e.episode for e in episodes] == [state["lanes.current"][1] + 1 + i for i in range(len(episodes))]
        after = new.state()
    with closing(journaled(config, 2, 30)) as again:
        again.restore(after)
        assert_same_state(again.state(), after)


def test_reset_begins_from_the_start():
    lanes = journaled(GymConfig(id="FrozenLake-v1"), 2, 10)
    first = lanes.reset().copy()
    actions = random_actions(lanes, 80)
    results, end = list(steps(lanes, actions)), lanes.state()
    lanes.send(actions[0])
    np.testing.assert_array_equal(lanes.reset(), first)
    assert lanes.state()["lanes.actions"].shape == (0, 2)
    for one, two in zip(steps(lanes, actions), results, strict=True):
        assert_same(one, two)
    assert_same_state(lanes.state(), end)


def test_states_are_taken_between_steps(good):
    lanes = journaled(CARTPOLE, 3, 25)
    with pytest.raises(RuntimeError, match="not begun"):
        lanes.state()
    lanes.reset()
    state = lanes.state()
    with pytest.raises(RuntimeError, match="recv without send"):
        lanes.recv()
    with pytest.raises(ValueError, match="actions must be"):
        lanes.send(np.array([0, 1, 2]))
    assert_same_state(lanes.state(), state)  # nothing was sent
    lanes.send(np.array([0, 1, 1]))
    with pytest.raises(RuntimeError, match="taking a step"):
        lanes.state()
    kept = copy.deepcopy(state)
    lanes.recv()
    assert_same_state(state, kept)
    for call in (lanes.restore, lanes.restart):
        with pytest.raises(RuntimeError, match="not reset yet"):
            call(good)


def test_lanes_are_closed():
    closed = []
    lanes = JournaledLanes(lambda asked: GymLanes(CARTPOLE, 1, asked), seed_of, 5)
    lanes._lanes.close = lambda: closed.append(True)
    lanes.close()
    assert closed == [True]


def test_a_seed_is_dear_for_atari_on_both_engines():
    assert {reseed_every_steps(AtariConfig(engine=engine)) for engine in Engine} == {20_000}
    assert {reseed_every_steps(config) for config in (CARTPOLE, MinatarConfig())} == {50_000}
