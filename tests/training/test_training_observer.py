from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dqn_cli.algorithm.losses import mse
from dqn_cli.algorithm.values import Value, make_value
from dqn_cli.config import CategoricalConfig, FqfConfig, ImplicitConfig, QuantileConfig, ScalarConfig
from dqn_cli.training.evaluator import play
from dqn_cli.training.observer import Observer, returns_of
from dqn_cli.types import EpisodeStats, StepResult

CPU = torch.device("cpu")


class Actor:
    """max_a Q(s, a) is the observation itself, a number; the second action is worse by 1."""

    def __init__(self, value: Value) -> None:
        def look(obs: np.ndarray) -> SimpleNamespace:
            return SimpleNamespace(z=torch.tensor(obs), q=torch.tensor(obs))

        self.policy = SimpleNamespace(value=value, look=look)

    def act(self, frame: np.ndarray, first: np.ndarray, epsilon: float) -> np.ndarray:
        self.obs = frame
        return np.zeros(len(frame), np.int64)

    def values(self) -> np.ndarray:
        return np.concatenate([self.obs - 1, self.obs], axis=1).astype(np.float32)


class Script:
    """Lanes that go through episodes of (observation, reward) and how they end, each lane's own ones in a circle."""

    def __init__(self, *lanes: list[tuple[list[tuple[float, float]], str]]) -> None:
        self.num_envs = len(lanes)
        self._lanes = lanes

    def reset(self) -> np.ndarray:
        self._at = [(0, 0)] * self.num_envs
        return self._frame()

    def _frame(self) -> np.ndarray:
        episodes = [lane[episode % len(lane)][0] for lane, (episode, _) in zip(self._lanes, self._at, strict=True)]
        return np.array([[steps[t][0]] for steps, (_, t) in zip(episodes, self._at, strict=True)], np.float32)

    def send(self, actions: np.ndarray) -> None:
        pass

    def recv(self) -> StepResult:
        ends = np.full(self.num_envs, "", object)
        reward, stats = np.zeros(self.num_envs), []
        for i, lane in enumerate(self._lanes):
            episode, t = self._at[i]
            steps, end = lane[episode % len(lane)]
            reward[i], t = steps[t][1], t + 1
            if t == len(steps):
                ends[i] = end
                stats.append(EpisodeStats(i, episode, sum(r for _, r in steps), t))
                episode, t = episode + 1, 0
            self._at[i] = episode, t
        frame = self._frame()
        return StepResult(frame, frame, reward, ends == "terminated", ends == "truncated", ends != "", stats)


def watched(script: Script, episodes: int, discount: float, clip: float | None = None) -> tuple[Any, Any]:
    observer = Observer(actor := Actor(make_value(ScalarConfig(), mse, CPU)), discount, clip)
    seen = play(actor, script, episodes, 0.0, lambda done: None, observer).seen
    return (seen.value_estimate, seen.value_return) if seen is not None else (None, None)


def test_an_episode_by_hand() -> None:
    script = Script([([(10, 1), (20, 2), (30, 3)], "terminated")])
    assert watched(script, 1, 0.5) == (20.0, pytest.approx((2.75 + 3.5 + 3) / 3))


def test_after_a_truncation_the_last_estimate_stands_for_the_rest() -> None:
    script = Script([([(10, 1), (20, 2), (30, 3)], "truncated")])
    assert watched(script, 1, 0.5) == (15.0, pytest.approx((1 + 0.5 * (2 + 0.5 * 30) + (2 + 0.5 * 30)) / 2))


def test_a_truncation_after_one_step_tells_nothing() -> None:
    assert watched(Script([([(10, 1)], "truncated")]), 2, 0.5) == (None, None)


def test_rewards_are_clipped_as_for_learning() -> None:
    script = Script([([(0, 7), (0, -7), (0, 0.5)], "terminated")])
    assert watched(script, 1, 1.0, clip=2.0) == (0.0, pytest.approx((0.5 - 1.5 + 0.5) / 3))
    assert watched(script, 1, 1.0) == (0.0, pytest.approx((0.5 - 6.5 + 0.5) / 3))


def test_the_end_of_an_episode_for_learning_is_one_here_too() -> None:
    observer = Observer(actor := Actor(make_value(ScalarConfig(), mse, CPU)), 1.0, None)
    no, yes = np.zeros(1, np.bool_), np.ones(1, np.bool_)
    for reward, lost in ((1.0, yes), (2.0, no), (4.0, yes)):
        frame = np.zeros((1, 1), np.float32)
        actor.act(frame, no, 0.0)
        observer.add(StepResult(frame, frame, np.array([reward]), lost, no, no), yes)
    assert observer.seen().value_return == pytest.approx((1 + 6 + 4) / 3)


def test_lanes_do_not_mix_and_only_episodes_of_the_result_count() -> None:
    short, long = [(1.0, 1.0)], [(5.0, 0.0), (6.0, 8.0)]
    script = Script([(short, "terminated")], [(long, "terminated"), (short, "terminated")])
    # episodes 0 and 2 are lane 0's, episode 1 is lane 1's; what lane 0 plays on until lane 1 is through does not count
    assert watched(script, 3, 0.5) == ((1 + 1 + 5 + 6) / 4, (1 + 1 + 4 + 8) / 4)
    assert watched(script, 2, 0.5) == ((1 + 5 + 6) / 3, (1 + 4 + 8) / 3)


def test_it_is_unbiased_about_a_known_value() -> None:
    """Where the estimates are the true values, both means agree, however the lanes are cut off."""
    rng = np.random.default_rng(0)
    lanes = []
    for _ in range(3):
        episodes = []
        for end in rng.choice(["terminated", "truncated"], 6):
            rewards = rng.normal(size=rng.integers(1, 9))
            values = [0.0 if end == "terminated" else rng.normal()]
            for r in rewards[::-1] if end == "terminated" else rewards[-2::-1]:
                values.insert(0, r + 0.9 * values[0])
            episodes.append((list(zip(values, rewards, strict=False)), str(end)))
        lanes.append(episodes)
    estimate, found = watched(Script(*lanes), 16, 0.9)
    assert found == pytest.approx(estimate, abs=1e-5)


class Canned(nn.Module):
    """A network whose answers are given; quantiles at tau are offset + tau."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, obs: Tensor) -> Tensor:
        return self._outputs

    def features(self, obs: Tensor) -> Tensor:
        return torch.zeros(len(obs), 1)

    def at(self, features: Tensor, tau: Tensor) -> Tensor:
        return self._outputs[None, :, None] + tau[:, None, :]

    def proposal(self, features: Tensor) -> Tensor:
        return torch.tensor([[0.25, 0.75]]).log()


def look_at(config: Any, outputs: Tensor) -> Any:
    value = make_value(config, mse, CPU)
    return returns_of(value, value.look(Canned(outputs), torch.zeros(1, 1), torch.Generator().manual_seed(0)))


def test_the_returns_of_atoms() -> None:
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]])
    returns = look_at(CategoricalConfig(atoms=3, v_min=-1, v_max=1), p.clamp(1e-30).log())
    np.testing.assert_allclose(returns.mass, p[0], atol=1e-6)
    np.testing.assert_allclose(returns.value, [[-1, 0, 1]] * 2)
    np.testing.assert_allclose(returns.q, [-0.25, 1.0], atol=1e-6)
    assert returns.fraction is None


def test_the_returns_of_quantiles() -> None:
    returns = look_at(QuantileConfig(quantiles=2), torch.tensor([[[1.0, 5.0], [4.0, 3.0]]]))
    np.testing.assert_allclose(returns.value, [[1, 5], [4, 3]])
    np.testing.assert_allclose(returns.fraction, [[0.25, 0.75]] * 2)
    np.testing.assert_allclose(returns.q, [3.0, 3.5])
    assert returns.mass is None


def test_the_returns_of_quantiles_at_fractions_that_are_drawn_or_learnt() -> None:
    offset = torch.tensor([3.0, 7.0])
    drawn = look_at(ImplicitConfig(quantiles=5), offset)
    assert drawn.value.shape == (2, 5)
    np.testing.assert_allclose(drawn.value - drawn.fraction, [[3.0] * 5, [7.0] * 5], atol=1e-6)
    learnt = look_at(FqfConfig(quantiles=2), offset)
    np.testing.assert_allclose(learnt.fraction, [[0.125, 0.625]] * 2, atol=1e-6)
    np.testing.assert_allclose(learnt.value - learnt.fraction, [[3.0] * 2, [7.0] * 2], atol=1e-6)
    np.testing.assert_allclose(learnt.q, [3.5, 7.5], atol=1e-6)


def test_no_returns_of_a_mean_or_of_what_is_no_number() -> None:
    assert look_at(ScalarConfig(), torch.zeros(1, 2)) is None
    assert look_at(QuantileConfig(quantiles=2), torch.full((1, 2, 2), torch.nan)) is None


def test_the_first_state_is_the_first_episodes_even_where_the_environment_reuses_its_frames() -> None:
    observer = Observer(actor := Actor(make_value(QuantileConfig(quantiles=1), mse, CPU)), 1.0, None)
    frame, no, yes = np.zeros((2, 1), np.float32), np.zeros(2, np.bool_), np.ones(2, np.bool_)
    looked: list[np.ndarray] = []
    actor.policy.look = lambda obs: looked.append(obs) or SimpleNamespace(z=torch.zeros(1, 1, 1), q=torch.zeros(1, 1))
    for number in (5.0, 6.0):
        frame[:] = number
        actor.act(frame, no, 0.0)
        observer.add(StepResult(frame, frame, np.zeros(2), no, no, no), yes)
    assert observer.seen().returns is not None
    assert [obs.tolist() for obs in looked] == [[[5.0]]]
