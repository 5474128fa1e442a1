"""Epsilon-greedy action in several environments."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from dqn_cli.agent.actor import Actor
from dqn_cli.agent.exploration import Boltzmann, EpsilonGreedy
from dqn_cli.agent.policy import Policy
from dqn_cli.algorithm.losses import mse
from dqn_cli.algorithm.values import Scalar, make_value
from dqn_cli.config import ImplicitConfig, MlpConfig
from dqn_cli.networks.make import make_network
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.types import ObsSpec


class Recorder:
    """A stack of one frame that remembers what it was given."""

    def __init__(self) -> None:
        self.pushed = []

    def push(self, frame, first):
        self.pushed.append((frame, first))
        return frame


class Identity(ValueNetwork):
    """Q is what is seen; counts its passes."""

    passes = 0

    def forward(self, obs):
        self.passes += 1
        return obs


class Refuses(ValueNetwork):
    """A network that must not be asked."""

    def forward(self, obs):
        raise AssertionError("a forward pass for nothing")


def make(network=None, num_actions=3, seed=0, stack=None, explorer=None) -> Actor:
    return Actor(
        policy(network), explorer or EpsilonGreedy(num_actions), stack or Recorder(), np.random.default_rng(seed)
    )


def policy(network=None) -> Policy:
    return Policy(network or Identity(), Scalar(mse), torch.Generator(), noisy=False)


def test_epsilon_0_is_greedy() -> None:
    frame = np.array([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 3.0, 3.0]], np.float32)
    actor = make()
    for _ in range(20):
        action = actor.act(frame, np.zeros(4, bool), 0.0)
        assert action.dtype == np.int64
        assert action.tolist() == [1, 0, 0, 1]


def test_epsilon_1_is_uniform_and_asks_no_network() -> None:
    actor, frame, first = make(Refuses(), num_actions=6), np.zeros((10, 1), np.float32), np.zeros(10, bool)
    counts = np.bincount(np.concatenate([actor.act(frame, first, 1.0) for _ in range(3000)]), minlength=6)
    assert len(counts) == 6
    np.testing.assert_allclose(counts / 30_000, 1 / 6, atol=0.01)


def test_a_random_action_with_probability_epsilon_may_be_the_greedy_one() -> None:
    actor, frame = make(num_actions=2), np.tile(np.float32([1.0, 0.0]), (10, 1))
    acts = np.stack([actor.act(frame, np.zeros(10, bool), 0.3) for _ in range(2000)])
    assert (acts == 1).mean() == pytest.approx(0.15, abs=0.01)


def test_each_environment_has_its_own_coin() -> None:
    num_actions, num_envs = 1000, 6
    frame = np.zeros((num_envs, num_actions), np.float32)  # greedy is 0, chosen at random once in a thousand
    actor, first = make(num_actions=num_actions), np.zeros(num_envs, bool)
    explored = np.stack([actor.act(frame, first, 0.5) != 0 for _ in range(4000)])
    np.testing.assert_allclose(explored.mean(0), 0.5, atol=0.04)
    correlation = np.corrcoef(explored.T)
    assert all(abs(correlation[i, j]) < 0.08 for i, j in combinations(range(num_envs), 2))


@pytest.mark.parametrize("explorer", [EpsilonGreedy(3), EpsilonGreedy(3, [1.0, 2.0, 4.0, 8.0]), Boltzmann()])
@pytest.mark.parametrize("epsilon", [1e-3, 0.4, 1.0])
def test_the_stream_moves_by_the_same_amount_whatever_happens(explorer, epsilon) -> None:
    rng, twin = np.random.default_rng(7), np.random.default_rng(7)
    actor = Actor(policy(), explorer, Recorder(), rng)
    for _ in range(5):
        actor.act(np.zeros((4, 3), np.float32), np.zeros(4, bool), epsilon)
        twin.random(8)
    assert rng.bit_generator.state == twin.bit_generator.state


def test_epsilon_greedy_by_hand() -> None:
    """Coins below epsilon explore, choice * A, rounded down, is the action; the first of equal values is taken."""
    q = np.float32([[0, 1, 2, 3], [1, 1, 0, 0], [3, 2, 1, 0], [0, 0, 7, 7]])
    coin, choice = [0.24, 0.25, 0.0, 0.99], [0.74, 0.6, 0.999, 0.0]
    assert EpsilonGreedy(4).choose(0.25, coin, choice, lambda: q).tolist() == [2, 0, 3, 2]
    coin = [0.49, 0.25, 0.124, 0.07]  # the epsilons are 1/2, 1/4, 1/8, 1/16
    assert EpsilonGreedy(4, [1, 2, 3, 4]).choose(0.5, coin, choice, lambda: q).tolist() == [2, 0, 3, 2]


@pytest.mark.parametrize("num_envs", [1, 2, 9])
@pytest.mark.parametrize("powered", [False, True])
def test_epsilon_greedy_is_its_naive_twin(num_envs, powered) -> None:
    rng, powers = np.random.default_rng(5), np.linspace(1.0, 8.0, num_envs) if powered else None
    explorer = EpsilonGreedy(3, powers)
    for level in (0.0, 0.1, 0.6, 1.0) * 50:
        q, (coin, choice) = rng.normal(size=(num_envs, 3)).astype(np.float32), rng.random((2, num_envs))
        epsilon = level if powers is None else level**powers
        expected = np.where(coin < epsilon, (choice * 3).astype(np.int64), q.argmax(1))
        action = explorer.choose(level, coin.tolist(), choice.tolist(), lambda q=q: q)
        assert action.dtype == np.int64
        assert action.tolist() == expected.tolist()


def test_coins_are_drawn_before_choices() -> None:
    """Of all environments: what is drawn first decides who explores."""
    actor, twin = make(Refuses(), num_actions=7, seed=3), np.random.default_rng(3)
    for _ in range(20):
        action = actor.act(np.zeros((4, 3), np.float32), np.zeros(4, bool), 1.0)
        _, choice = twin.random((2, 4))
        assert action.tolist() == (choice * 7).astype(int).tolist()


def test_frames_go_through_the_stack_even_when_every_action_is_random() -> None:
    stack = Recorder()
    actor = make(Refuses(), stack=stack)
    frame, first = np.ones((2, 3), np.float32), np.array([True, False])
    actor.act(frame, first, 1.0)
    assert stack.pushed == [(frame, first)]


def test_the_network_sees_the_stacked_observation() -> None:
    class Two:
        def push(self, frame, first):
            return np.stack([frame, frame + 10], axis=1)

    class Sees(ValueNetwork):
        def forward(self, obs):
            assert obs.shape == (2, 2, 3)
            assert not torch.is_grad_enabled()
            return obs[:, 1] * torch.tensor([0.0, 1.0, 0.0])

    assert make(Sees(), stack=Two()).act(np.zeros((2, 3), np.float32), np.zeros(2, bool), 0.0).tolist() == [1, 1]


def test_per_environment_epsilons_are_powers_of_the_level() -> None:
    powers = [1.0, 2.0, 3.0, 8.0]
    frame = np.zeros((4, 1000), np.float32)  # greedy is 0, chosen at random once in a thousand
    actor, first = make(explorer=EpsilonGreedy(1000, powers)), np.zeros(4, bool)
    explored = np.stack([actor.act(frame, first, 0.7) != 0 for _ in range(8000)])
    np.testing.assert_allclose(explored.mean(0), [0.7**power for power in powers], atol=0.02)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_boltzmann_chooses_in_proportion_to_the_exponential_of_q(temperature) -> None:
    q = np.float32([0.3, -1.0, 1.0])
    actor = make(explorer=Boltzmann())
    frame, first = np.tile(q, (50, 1)), np.zeros(50, bool)
    chosen = np.concatenate([actor.act(frame, first, temperature) for _ in range(2000)])
    expected = np.exp(q / temperature) / np.exp(q / temperature).sum()
    np.testing.assert_allclose(np.bincount(chosen, minlength=3) / len(chosen), expected, atol=0.005)


def test_boltzmann_survives_values_of_any_size_and_numbers_next_to_0_and_1() -> None:
    q = np.float32([[1e30, 0.0, -1e30], [0.0, 0.0, 5e4], [-1e4, -1e4, -1e4]])
    ends = Boltzmann().choose(1e-2, [0.0] * 3, [float(np.nextafter(1.0, 0.0))] * 3, lambda: q)
    starts = Boltzmann().choose(1e-2, [0.0] * 3, [0.0] * 3, lambda: q)
    assert ends.tolist() == [0, 2, 2]
    assert starts.tolist() == [0, 2, 0]


def test_values_are_those_of_the_observations_acted_on_and_computed_once() -> None:
    network = Identity()
    actor, first = make(network), np.zeros(2, bool)
    actor.act(np.float32([[1, 2, 3], [3, 2, 1]]), first, 0.0)
    assert actor.values().tolist() == [[1, 2, 3], [3, 2, 1]]
    assert network.passes == 1
    actor.act(np.float32([[4, 5, 6], [6, 5, 4]]), first, 1.0)
    assert network.passes == 1
    assert actor.values().tolist() == [[4, 5, 6], [6, 5, 4]]
    assert network.passes == 2


def test_looking_on_changes_no_later_action() -> None:
    """With random quantiles, too: a filmed episode is the one that is played without a camera."""
    config = ImplicitConfig(quantiles=2, target_quantiles=2, acting_quantiles=1, embedding=4)

    def played(watched: bool) -> list[list[int]]:
        torch.manual_seed(0)
        network = make_network(MlpConfig(hidden=[8]), config, ObsSpec((3,), "float32"), 4)
        rng = torch.Generator().manual_seed(1)
        policy = Policy(network, make_value(config, mse, torch.device("cpu")), rng, noisy=False)
        actor = Actor(policy, EpsilonGreedy(4), Recorder(), np.random.default_rng(2))
        actions, obs = [], np.random.default_rng(3).random((200, 1, 3), np.float32)
        for frame in obs:
            actions.append(actor.act(frame, np.zeros(1, bool), 0.3).tolist())
            if watched:
                actor.values()
        return actions

    assert played(watched=True) == played(watched=False)
