"""Proposed fractions and the gradient that moves them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dqn_cli.algorithm.fractions import fraction_loss, propose, w1_gradient


def test_fractions_by_hand() -> None:
    fractions = propose(torch.tensor([[1.0, 2.0, 1.0]]).log())
    torch.testing.assert_close(fractions.tau, torch.tensor([[0.0, 0.25, 0.75, 1.0]]))
    torch.testing.assert_close(fractions.midpoints, torch.tensor([[0.125, 0.5, 0.875]]))
    torch.testing.assert_close(fractions.widths, torch.tensor([[0.25, 0.5, 0.25]]))
    torch.testing.assert_close(fractions.entropy, torch.tensor([1.5 * math.log(2)]))


@given(seed=st.integers(0, 2**32), spread=st.floats(0, 20))
def test_fractions_divide_the_unit_interval(seed, spread) -> None:
    fractions = propose(spread * torch.randn(4, 9, generator=torch.Generator().manual_seed(seed)))
    assert (fractions.tau.diff(dim=1) >= 0).all()
    assert (fractions.tau[:, 0] == 0).all()
    torch.testing.assert_close(fractions.tau[:, -1], torch.ones(4))
    assert (fractions.entropy <= math.log(9) + 1e-6).all()


def quantile(w: Tensor) -> Tensor:
    """F^-1 of the exponential distribution."""
    return -torch.log1p(-w)


def w1(tau: Tensor) -> Tensor:
    """The distance itself, by way of the integral of F^-1: w + (1 - w) log(1 - w)."""
    below = lambda w: w + torch.special.xlog1py(1 - w, -w)  # noqa: E731
    middle = (tau[:, 1:] + tau[:, :-1]) / 2
    return (below(tau[:, 1:]) - 2 * below(middle) + below(tau[:, :-1])).sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_distance(seed) -> None:
    logits = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    fractions = propose(logits)
    fraction_loss(fractions, quantile(fractions.midpoints), quantile(fractions.tau[:, 1:-1]), 0.0).sum().backward()
    differences = torch.empty(1, 6, dtype=torch.float64)
    for i in range(6):
        nudge = torch.zeros(1, 6, dtype=torch.float64)
        nudge[0, i] = 1e-5
        up, down = (w1(propose(logits.detach() + sign * nudge).tau.clamp(max=1)) for sign in (1, -1))
        differences[0, i] = (up - down) / 2e-5
    torch.testing.assert_close(logits.grad, differences, atol=1e-7, rtol=1e-5)


def test_descent_finds_the_best_two_parts_of_a_known_distribution() -> None:
    """F^-1(w) = w^2: W1 of two parts is least where 2 t^2 = (t/2)^2 + ((1 + t)/2)^2, at t = (1 + sqrt 7) / 6."""
    logits = torch.zeros(1, 2, requires_grad=True)
    for _ in range(400):
        fractions = propose(logits)
        loss = fraction_loss(fractions, fractions.midpoints**2, fractions.tau[:, 1:-1] ** 2, 0.0)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        logits = (logits - gradient).detach().requires_grad_()
    assert propose(logits).tau[0, 1].item() == pytest.approx((1 + math.sqrt(7)) / 6, abs=1e-4)


def test_where_quantiles_ascend_it_is_proposition_1() -> None:
    at_midpoints, between = torch.tensor([[0.0, 3.0, 4.0]]), torch.tensor([[2.0, 3.5]])
    assert w1_gradient(at_midpoints, between).tolist() == [[2 * 2.0 - 3 - 0, 2 * 3.5 - 4 - 3]]


def test_where_quantiles_cross_it_is_a_difference_of_distances() -> None:
    assert w1_gradient(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0]])).tolist() == [[2.0 - 1.0]]


def test_the_entropy_drives_fractions_apart() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    flat = torch.zeros(1, 3), torch.zeros(1, 2)  # no distance, so no gradient but the entropy's
    for weight, grows in ((0.5, True), (0.0, False)):
        here = logits.clone().requires_grad_()
        fraction_loss(propose(here), *flat, weight).sum().backward()
        assert here.grad is not None
        after = propose(logits - 0.1 * here.grad).entropy
        assert (after > propose(logits).entropy).item() is grows
