"""Errors per transition and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqn_cli.algorithm.losses import LOSSES, cross_entropy, kl_divergence, pairwise_errors, quantile_huber
from dqn_cli.config import Loss

TD_ERROR = [-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 40.0]


def test_every_choice_has_a_function() -> None:
    assert set(LOSSES) == {choice.value for choice in Loss}


@pytest.mark.parametrize(
    ("name", "loss", "slope"),
    [
        ("mse", lambda e: e * e / 2, lambda e: e),
        ("huber", lambda e: e * e / 2 if abs(e) <= 1 else abs(e) - 0.5, lambda e: max(-1.0, min(1.0, e))),
    ],
)
def test_value_and_gradient_by_hand(name, loss, slope) -> None:
    target = torch.arange(float(len(TD_ERROR)))
    prediction = (target + torch.tensor(TD_ERROR)).requires_grad_()
    per_sample = LOSSES[name](prediction, target)
    assert per_sample.tolist() == [loss(e) for e in TD_ERROR]
    (gradient,) = torch.autograd.grad(per_sample.sum(), prediction)
    assert gradient.tolist() == [slope(e) for e in TD_ERROR]


def test_cross_entropy_and_divergence_by_hand() -> None:
    log_p = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    target = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    torch.testing.assert_close(cross_entropy(log_p, target), torch.tensor([math.log(2), entropy]))
    torch.testing.assert_close(kl_divergence(log_p, target), torch.tensor([math.log(2), 0.0]))


def test_the_gradient_of_the_cross_entropy_is_the_difference_of_probabilities() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    target = torch.rand(4, 5).softmax(1)
    cross_entropy(logits.log_softmax(1), target).sum().backward()
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - target).detach())


@given(seed=st.integers(0, 2**32))
def test_a_divergence_is_never_negative(seed) -> None:
    p = torch.randn(8, 51, generator=torch.Generator().manual_seed(seed)).softmax(1)
    assert (kl_divergence(p.log(), p) >= 0).all()
    assert (kl_divergence(p.log(), p.roll(1, 0)) > 0).all()


TAU = torch.tensor([0.25, 0.75])


@pytest.mark.parametrize(
    ("kappa", "loss", "gradient"),
    [
        # u = [[1, -3], [-1, -5]], weights [[1/4, 3/4], [1/4, 1/4]]
        (1.0, [0.25, 3.0], [0.25, 0.25]),  # H = [[0.5, 2.5], [0.5, 4.5]]
        (2.0, [0.125, 2.5], [0.3125, 0.1875]),  # H = [[0.5, 4], [0.5, 8]], slopes [[1, -2], [-1, -2]], both halved
    ],
)
def test_quantile_huber_by_hand(kappa, loss, gradient) -> None:
    z = torch.tensor([[0.0, 2.0]], requires_grad=True)
    value = quantile_huber(pairwise_errors(z, torch.tensor([[1.0, -3.0]])), TAU, kappa)
    torch.testing.assert_close(value, torch.tensor([loss]))
    value.mean().backward()
    torch.testing.assert_close(z.grad, torch.tensor([gradient]))


def test_an_underestimate_weighs_tau_and_an_overestimate_the_rest() -> None:
    tau = torch.tensor([[0.1, 0.5, 0.9]])
    for target, weights in ((7.0, [-0.1, -0.5, -0.9]), (-7.0, [0.9, 0.5, 0.1])):
        z = torch.zeros(1, 3, requires_grad=True)
        quantile_huber(pairwise_errors(z, torch.tensor([[target]])), tau, 1.0).sum().backward()
        torch.testing.assert_close(z.grad, torch.tensor([weights]))


@given(seed=st.integers(0, 2**32), kappa=st.floats(0.01, 10))
def test_quantile_huber_is_that_of_a_loop(seed, kappa) -> None:
    rng = torch.Generator().manual_seed(seed)
    z, target = 3 * torch.randn(2, 3, generator=rng), 3 * torch.randn(2, 4, generator=rng)
    tau = torch.rand(2, 3, generator=rng)
    expected = []
    for b in range(2):
        totals = [0.0] * 4
        for z_i, tau_i in zip(z[b].tolist(), tau[b].tolist(), strict=True):
            for j, y in enumerate(target[b].tolist()):
                u = y - z_i
                h = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
                totals[j] += abs(tau_i - (u < 0)) * h / kappa
        expected.append(totals)
    torch.testing.assert_close(quantile_huber(pairwise_errors(z, target), tau, kappa), torch.tensor(expected))


def test_with_a_small_kappa_the_minimum_is_the_quantile() -> None:
    samples = torch.linspace(0, 1, 1001).unsqueeze(0)
    candidates = torch.linspace(0, 1, 101)
    for tau in (0.1, 0.5, 0.83):
        u = pairwise_errors(candidates.unsqueeze(1), samples.expand(101, -1))
        losses = quantile_huber(u, torch.tensor([tau]), 1e-3).mean(dim=1)
        assert candidates[losses.argmin()].item() == pytest.approx(tau, abs=0.011)
