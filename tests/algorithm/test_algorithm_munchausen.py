"""The soft policy, its bonus and its value."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqn_cli.algorithm.munchausen import Munchausen, log_policy

PUBLISHED = Munchausen(alpha=0.9, tau=0.03, clip=-1.0)
Q = torch.tensor([[1.0, 0.0], [2.0, 2.0]])


def test_log_policy_by_hand() -> None:
    first = [-math.log(1 + math.exp(-2)), -2 - math.log(1 + math.exp(-2))]
    torch.testing.assert_close(log_policy(Q, tau=0.5), torch.tensor([first, [-math.log(2)] * 2]))


def test_large_values_lose_no_digits() -> None:
    near = torch.tensor([[0.03125, 0.0]])
    assert torch.equal(log_policy(near + 4096, 0.03), log_policy(near, 0.03))
    assert log_policy(torch.tensor([[1e8, -1e8]]), 0.03).isfinite().all()


def test_bonus_by_hand() -> None:
    soft = Munchausen(alpha=0.5, tau=1.0, clip=-1.0)
    likely, unlikely = -math.log(1 + math.exp(-1)), -1 - math.log(1 + math.exp(-1))
    assert unlikely < -1  # clipped
    torch.testing.assert_close(soft.bonus(Q, torch.tensor([0, 0])), torch.tensor([likely / 2, -math.log(2) / 2]))
    torch.testing.assert_close(soft.bonus(Q, torch.tensor([1, 1])), torch.tensor([-0.5, -math.log(2) / 2]))


@given(seed=st.integers(0, 2**32), tau=st.floats(1e-3, 10), clip=st.floats(-5, 0), alpha=st.floats(0, 1))
def test_the_bonus_lies_between_clip_and_0(seed, tau, clip, alpha) -> None:
    q = 10 * torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    bonus = Munchausen(alpha, tau, clip).bonus(q, torch.arange(16) % 4)
    assert (bonus <= 0).all()
    assert (bonus >= alpha * clip - 1e-6).all()


def test_soft_value_by_hand() -> None:
    soft = Munchausen(alpha=0.9, tau=0.5, clip=-1.0)
    p = 1 / (1 + math.exp(-2))
    z = torch.tensor([[10.0, 20.0], [3.0, 5.0]])  # of another network than the policy's
    first = p * (10 - 0.5 * math.log(p)) + (1 - p) * (20 - 0.5 * math.log(1 - p))
    torch.testing.assert_close(soft.bootstrap(z, Q), torch.tensor([first, 4 + 0.5 * math.log(2)]))


@given(seed=st.integers(0, 2**32), tau=st.floats(1e-2, 10))
def test_of_its_own_network_it_is_the_soft_maximum(seed, tau) -> None:
    q = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(Munchausen(0.9, tau, -1.0).bootstrap(q, q), tau * torch.logsumexp(q / tau, 1))


def test_quantiles_are_mixed_each_on_its_own() -> None:
    rng = torch.Generator().manual_seed(0)
    z, q = torch.randn(6, 3, 7, generator=rng), torch.randn(6, 3, generator=rng)
    soft = Munchausen(alpha=0.9, tau=0.7, clip=-1.0)
    columns = [soft.bootstrap(z[:, :, i], q) for i in range(7)]
    torch.testing.assert_close(soft.bootstrap(z, q), torch.stack(columns, dim=1))


@pytest.mark.parametrize("tau", [1e-4, 1e-30])
def test_without_temperature_it_is_the_greedy_value(tau) -> None:
    q = torch.tensor([[1.0, 5.0, 2.0], [-3.0, -4.0, -1.0]])
    z = torch.tensor([[7.0, 8.0, 9.0], [1.0, 2.0, 3.0]])
    cold = Munchausen(alpha=0.0, tau=tau, clip=-1.0)
    torch.testing.assert_close(cold.bootstrap(z, q), torch.tensor([8.0, 3.0]))
    assert cold.bonus(q, torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_at_the_published_values() -> None:
    """tau log pi(a) is about -0.1 for an action that is 0.1 worse than the best: q reaches down to clip."""
    q = torch.tensor([[1.0, 0.9, -1.0]])
    bonus = [PUBLISHED.bonus(q, torch.tensor([a])).item() for a in range(3)]
    rest = 0.03 * math.log(1 + math.exp(-0.1 / 0.03))
    assert bonus == pytest.approx([-0.9 * rest, -0.9 * (0.1 + rest), -0.9], abs=1e-6)
