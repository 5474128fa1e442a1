"""Epsilon-greedy action in several environments."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from dqn_cli.agent.actor import Actor

CPU = torch.device("cpu")


class Recorder:
    """A stack of one frame that remembers what it was given."""

    def __init__(self) -> None:
        self.pushed = []

    def push(self, frame, first):
        self.pushed.append((frame, first))
        return frame


class Refuses(nn.Module):
    """A network that must not be asked."""

    def forward(self, obs):
        raise AssertionError("a forward pass for nothing")


def make(network=None, num_actions=3, seed=0, stack=None) -> Actor:
    return Actor(network or nn.Identity(), num_actions, stack or Recorder(), np.random.default_rng(seed), CPU)


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


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_the_stream_moves_by_the_same_amount_whatever_happens(epsilon) -> None:
    rng, twin = np.random.default_rng(7), np.random.default_rng(7)
    actor = Actor(nn.Identity(), 3, Recorder(), rng, CPU)
    for _ in range(5):
        actor.act(np.zeros((4, 3), np.float32), np.zeros(4, bool), epsilon)
        twin.random(8)
    assert rng.bit_generator.state == twin.bit_generator.state


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

    class Sees(nn.Module):
        def forward(self, obs):
            assert obs.shape == (2, 2, 3)
            assert not torch.is_grad_enabled()
            return obs[:, 1] * torch.tensor([0.0, 1.0, 0.0])

    assert make(Sees(), stack=Two()).act(np.zeros((2, 3), np.float32), np.zeros(2, bool), 0.0).tolist() == [1, 1]
