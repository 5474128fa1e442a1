"""Errors per transition and their gradients."""

from __future__ import annotations

import pytest
import torch

from dqn_cli.algorithm.losses import LOSSES
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
