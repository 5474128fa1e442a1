"""GymLanes against a naive twin: one plain Gymnasium loop per lane, with the same seeds and actions."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from dqn_cli.config import GymConfig
from dqn_cli.envs.vector import TERMINAL, GymLanes
from dqn_cli.errors import ConfigError, EnvironmentFault
from dqn_cli.types import EpisodeStats

ENVS = {
    "CartPole-v1": None,
    "Acrobot-v1": 40,
    "MountainCar-v0": 30,
    "FrozenLake-v1": None,
    "CliffWalking-v1": 25,
    "Taxi-v4": 35,
    "LunarLander-v3": None,
}


def every_episode(lane, episode):
    return 1000 * lane + episode


def first_episode_only(lane, episode):
    return 7 + lane if episode == 0 else None


class Twin:
    """One lane, as simply as it can be written."""

    def __init__(self, env_id, limit, lane, seed_of):
        self.env = gymnasium.make(env_id, max_episode_steps=limit)
        self.space, self.lane, self.seed_of = self.env.observation_space, lane, seed_of
        self.episode, self.rewards = 0, []
        self.first_frame = self.flat(self.env.reset(seed=seed_of(lane, 0))[0])

    def flat(self, observation):
        return gymnasium.spaces.flatten(self.space, observation).astype(np.float32)

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.env.step(action)
        frame = successor = self.flat(observation)
        self.rewards.append(float(reward))
        stats = None
        if terminated or truncated:
            score = float(np.cumsum(self.rewards)[-1])  # in their order: sum() compensates from Python 3.12 on
            stats = EpisodeStats(self.lane, self.episode, score, len(self.rewards))
            self.episode, self.rewards = self.episode + 1, []
            frame = self.flat(self.env.reset(seed=self.seed_of(self.lane, self.episode))[0])
        return frame, successor, reward, terminated, truncated, stats


@pytest.mark.parametrize("seed_of", [every_episode, first_episode_only])
@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("num_envs", [1, 2, 3, 4])
def test_equals_the_naive_twin(env_id, num_envs, seed_of):
    if env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D", reason="needs the extra box2d")
    limit = ENVS[env_id]
    lanes = GymLanes(GymConfig(id=env_id, time_limit_steps=limit), num_envs, seed_of)
    twins = [Twin(env_id, limit, lane, seed_of) for lane in range(num_envs)]
    np.testing.assert_array_equal(lanes.reset(), [twin.first_frame for twin in twins])
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(150):
        actions = rng.integers(lanes.num_actions, size=num_envs)
        lanes.send(actions)
        step = lanes.recv()
        frames, successors, rewards, terminated, truncated, stats = zip(
            *(twin.step(action) for twin, action in zip(twins, actions, strict=True)), strict=True
        )
        np.testing.assert_array_equal(step.frame, frames)
        np.testing.assert_array_equal(step.next_frame, successors)
        assert step.reward.tolist() == list(rewards)
        assert step.terminated.tolist() == list(terminated)
        assert step.truncated.tolist() == list(truncated)
        assert step.first.tolist() == [episode is not None for episode in stats]
        assert step.episodes == [episode for episode in stats if episode]
        ended += len(step.episodes)
    assert ended >= num_envs  # else nothing was seen of what comes after an end
    lanes.close()


def test_truncation_shows_the_true_last_frame_and_then_a_new_one(registered):
    lanes = GymLanes(GymConfig(id=registered(Counter), time_limit_steps=3), 1, lambda lane, episode: 100 * episode)
    assert lanes.reset().tolist() == [[0]]
    seen = [(s.next_frame.item(), s.frame.item(), s.first.item(), s.truncated.item()) for s in steps(lanes, 4)]
    assert seen == [(1, 1, False, False), (2, 2, False, False), (3, 100, True, True), (101, 101, False, False)]


def test_lanes_end_at_different_times(registered):
    lanes = GymLanes(GymConfig(id=registered(Counter)), 2, lambda lane, episode: 40 * lane)  # lane 1 ends at 42
    lanes.reset()
    (*_, one, two) = steps(lanes, 2)
    assert (one.next_frame.tolist(), one.frame.tolist(), one.first.tolist()) == ([[1], [41]], [[1], [41]], [0, 0])
    assert (two.next_frame.tolist(), two.frame.tolist(), two.first.tolist()) == ([[2], [42]], [[2], [40]], [0, 1])
    assert two.terminated.tolist() == [False, True]
    assert two.episodes == [EpisodeStats(lane=1, episode=0, score=2.0, length=2)]


def test_a_result_stays_valid_while_the_next_one_is_made(registered):
    lanes = GymLanes(GymConfig(id=registered(Counter), time_limit_steps=2), 1, lambda lane, episode: 10 * episode)
    frames = lanes.reset()
    lanes.send(np.array([0]))
    first = lanes.recv()
    assert frames.tolist() == [[0]]
    lanes.send(np.array([0]))
    lanes.recv()
    assert (first.frame.tolist(), first.next_frame.tolist(), first.first.tolist()) == ([[1]], [[1]], [False])


def test_frame_is_next_frame_itself_where_nothing_ended(registered):
    lanes = GymLanes(GymConfig(id=registered(Counter), time_limit_steps=2), 2, lambda lane, episode: 0)
    lanes.reset()
    lanes.send(np.array([0, 0]))
    step = lanes.recv()
    assert step.frame is step.next_frame
    lanes.send(np.array([0, 0]))
    step = lanes.recv()
    assert not np.shares_memory(step.frame, step.next_frame)


def test_reset_begins_again_at_episode_0(registered):
    asked = []
    lanes = GymLanes(GymConfig(id=registered(Counter), time_limit_steps=2), 2, lambda *key: asked.append(key))
    lanes.reset()
    list(steps(lanes, 2))
    lanes.reset()
    assert asked == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0)]
    assert [episode.length for step in steps(lanes, 2) for episode in step.episodes] == [2, 2]


def test_an_episode_of_any_number_begins_in_some_lanes(registered):
    lanes = GymLanes(
        GymConfig(id=registered(Counter), time_limit_steps=3), 3, lambda lane, episode: 100 * lane + 10 * episode
    )
    lanes.reset()
    (step,) = steps(lanes, 1)
    frames = lanes.begin(np.array([False, True, False]), np.array([5, 4, 6]))
    assert frames.tolist() == [[1], [140], [201]]
    assert step.frame.tolist() == [[1], [101], [201]]  # it stays valid
    one, two, three = map(copy.deepcopy, steps(lanes, 3))
    assert one.next_frame.tolist() == [[2], [141], [202]]
    assert two.episodes == [EpisodeStats(0, 0, 3.0, 3), EpisodeStats(2, 0, 3.0, 3)]
    assert lanes.begin(np.array([True, False, False]), np.array([9, 9, 9])).tolist() == [[90], [150], [211]]
    assert three.episodes == [EpisodeStats(1, 4, 3.0, 3)]
    (step,) = steps(lanes, 1)
    assert step.next_frame.tolist() == [[91], [151], [212]]


def test_a_lane_is_at_rest_until_its_first_episode(registered):
    class Resting(Counter):
        def step(self, action):
            return (*super().step(action)[:3], self.count == 101, {})

    lanes = GymLanes(GymConfig(id=registered(Resting)), 2, lambda lane, episode: 100 * lane)
    assert lanes.begin(np.array([False, True]), np.array([3, 3])).tolist() == [[0], [100]]
    for step in steps(lanes, 2):
        assert step.next_frame.tolist() == [[0], [101]]
        assert (step.reward.tolist(), step.first.tolist()) == ([0, 1], [False, True])
        assert [episode.lane for episode in step.episodes] == [1]
    assert lanes.begin(np.array([True, False]), np.array([2, 2])).tolist() == [[0], [100]]
    assert [step.next_frame.tolist() for step in steps(lanes, 2)] == [[[1], [101]], [[2], [101]]]


def test_actions_are_counted_from_the_first_one_of_the_environment(registered):
    class Shifted(Counter):
        action_space = gymnasium.spaces.Discrete(3, start=5)

    lanes = GymLanes(GymConfig(id=registered(Shifted)), 1, lambda lane, episode: 0)
    lanes.reset()
    lanes.send(np.array([2]))
    assert lanes.recv().reward.tolist() == [8.0]  # Counter pays the action plus 1


@pytest.mark.parametrize("actions", [[0], [0, 2], [0, -1], [0.0, 1.0], [[0, 1]], [True, False]])
def test_actions_are_checked_before_an_environment_sees_them(actions, registered):
    lanes = GymLanes(GymConfig(id=registered(Counter)), 2, lambda lane, episode: 0)
    lanes.reset()
    with pytest.raises(ValueError, match="actions must be"):
        lanes.send(np.array(actions))


def test_recv_needs_a_send_of_its_own(registered):
    lanes = GymLanes(GymConfig(id=registered(Counter)), 1, lambda lane, episode: 0)
    lanes.reset()
    list(steps(lanes, 1))
    with pytest.raises(RuntimeError, match="recv without send"):
        lanes.recv()
    lanes.send(np.array([0]))
    lanes.reset()  # forgets what was sent
    with pytest.raises(RuntimeError, match="recv without send"):
        lanes.recv()


def test_only_the_first_lane_is_shown_and_all_are_closed(registered):
    modes, closed = [], []

    class Shown(Counter):
        metadata = {"render_modes": ["human"]}  # noqa: RUF012

        def __init__(self, render_mode=None):
            modes.append(render_mode)

        def close(self):
            closed.append(self)
            raise OSError("the window is gone")

    lanes = GymLanes(GymConfig(id=registered(Shown)), 3, lambda lane, episode: 0, render="human")
    lanes.close()
    assert modes == ["human", None, None]
    assert len(closed) == 3


@pytest.mark.parametrize(("said", "meant"), [(True, True), (False, False), ("yes", False), (None, False)])
def test_a_terminal_of_learning_only_ends_nothing(said, meant, registered):
    class Hurt(Counter):
        def step(self, action):
            observation, reward, *ends, _ = super().step(action)
            return observation, reward, *ends, {TERMINAL: said} if self.count == 2 else {}

    lanes = GymLanes(GymConfig(id=registered(Hurt), time_limit_steps=3), 1, lambda lane, episode: 0)
    lanes.reset()
    seen = [
        (s.frame.item(), s.terminated.item(), s.truncated.item(), s.first.item(), len(s.episodes))
        for s in steps(lanes, 3)
    ]
    assert seen == [(1, False, False, False, 0), (2, meant, False, False, 0), (0, False, True, True, 1)]


@pytest.mark.parametrize("info", [None, [], "dqn_cli/terminal"])
def test_what_else_an_environment_informs_about_is_no_matter(info, registered):
    class Odd(Counter):
        def step(self, action):
            return *super().step(action)[:4], info

    lanes = GymLanes(GymConfig(id=registered(Odd)), 1, lambda lane, episode: 0)
    lanes.reset()
    assert [step.terminated.item() for step in steps(lanes, 2)] == [False, False]


class Counter(gymnasium.Env):
    """Starts at its seed and counts up to 42; pays the action plus 1."""

    observation_space = gymnasium.spaces.Box(0, 1000, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.count = seed or 0
        return np.array([self.count], np.float32), {}

    def step(self, action):
        self.count += 1
        return np.array([self.count], np.float32), action + 1, self.count == 42, False, {}


class Drawn(Counter):
    """Draws its number into the same picture again and again."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode, self.picture = render_mode, np.zeros((5, 4, 3), np.uint8)

    def render(self):
        self.picture[:] = self.count
        return self.picture


def test_a_picture_per_step_and_start(registered):
    config = GymConfig(id=registered(Drawn), time_limit_steps=2)
    lanes = GymLanes(config, 2, lambda lane, episode: 100 * lane + 10 * episode, "rgb_array")

    def shown():
        return [picture[0, 0, 0].item() for picture in lanes.pictures()]

    lanes.reset()
    assert shown() == [0]
    assert [shown() for _ in steps(lanes, 3)] == [[1], [2], [10, 11]]  # the second start with its first step
    list(steps(lanes, 2))
    assert shown() == [12, 20, 21]
    list(steps(lanes, 1))
    lanes.begin(np.array([False, True]), np.array([7, 7]))
    assert shown() == [22]
    lanes.begin(np.array([True, False]), np.array([7, 7]))
    assert shown() == [70]
    lanes.reset()
    assert shown() == [0]
    assert shown() == []
    assert (lanes.fps, lanes.action_names) == (12, ["0", "1"])


def test_pictures_of_cartpole():
    lanes = GymLanes(GymConfig(id="CartPole-v1"), 1, lambda lane, episode: 0, "rgb_array")
    lanes.reset()
    list(steps(lanes, 5))
    pictures = lanes.pictures()
    assert len(pictures) == 6
    assert (pictures[0].shape, pictures[0].dtype) == ((400, 600, 3), np.uint8)
    assert (pictures[0] != pictures[5]).any()
    assert lanes.fps == 50
    lanes.close()


def test_no_pictures_unless_asked_for(registered):
    lanes = GymLanes(GymConfig(id=registered(Counter)), 1, lambda lane, episode: 0)
    lanes.reset()
    list(steps(lanes, 2))
    assert (lanes.pictures(), lanes.fps) == ([], 30)


@pytest.mark.parametrize("modes", [["human"], [], None])
def test_an_environment_without_pictures(modes, registered):
    kind = type("Kind", (Drawn,), {"metadata": {"render_modes": modes}})
    with pytest.raises(ConfigError, match=r"^render=rgb_array: Odd-v0 cannot be shown so, its render_modes are"):
        GymLanes(GymConfig(id=registered(kind)), 1, lambda lane, episode: 0, "rgb_array")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, "render returned None, not an array"),
        ("..F..", "render returned '..F..', not an array"),
        (np.zeros((5, 4), np.uint8), r"render returned an array of shape \(5, 4\) and type uint8, not \(height"),
        (np.zeros((5, 4, 4), np.uint8), r"render returned an array of shape \(5, 4, 4\)"),
        (np.zeros((5, 4, 3)), "render returned an array of .* type float64"),
    ],
)
def test_what_is_no_picture(picture, message, registered):
    class Wrong(Drawn):
        def render(self):
            return super().render() if self.count < 2 else picture

    lanes = GymLanes(GymConfig(id=registered(Wrong)), 1, lambda lane, episode: 0, "rgb_array")
    lanes.reset()
    with pytest.raises(EnvironmentFault, match=rf"^env Odd-v0: {message}.* \(lane 0, episode 0, step 2\)$") as caught:
        list(steps(lanes, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("no\ndisplay"), EnvironmentFault, r"^env Odd-v0: render raised OSError: no display \(lane 0"),
        (DependencyNotInstalled("pygame is not installed"), ConfigError, r"pip install 'dqn-cli\[render\]'$"),
    ],
)
def test_a_picture_that_cannot_be_drawn(error, kind, message, registered):
    class Broken(Drawn):
        def render(self):
            raise error

    lanes = GymLanes(GymConfig(id=registered(Broken)), 1, lambda lane, episode: 0, "rgb_array")
    with pytest.raises(kind, match=message):
        lanes.reset()


def steps(lanes, number):
    for _ in range(number):
        lanes.send(np.zeros(lanes.num_envs, np.int64))
        yield lanes.recv()
