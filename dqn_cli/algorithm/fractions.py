"""Fractions of the return's distribution that are learnt (FQF; Yang et al. 2019, https://arxiv.org/abs/1911.02140)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Fractions(NamedTuple):
    """A division of [0, 1] into N parts, for each of B states."""

    tau: Tensor  # [B, N + 1], from 0 to 1
    midpoints: Tensor  # [B, N], (tau_i + tau_{i+1}) / 2: where quantiles are asked for
    widths: Tensor  # [B, N], tau_{i+1} - tau_i
    entropy: Tensor  # [B], of the widths: log N where they are even


def propose(logits: Tensor) -> Fractions:
    """The fractions that logits [B, N] stand for: their softmax gives the widths."""
    log_widths = logits.log_softmax(dim=1)
    widths = log_widths.exp()
    tau = F.pad(widths.cumsum(dim=1), (1, 0))
    return Fractions(tau, (tau[:, 1:] + tau[:, :-1]) / 2, widths, -(widths * log_widths).sum(dim=1))


def w1_gradient(at_midpoints: Tensor, between: Tensor) -> Tensor:
    """d W1 / d tau_i [B, N - 1], of quantiles F^-1 at the midpoints [B, N] and at tau_1 ... tau_{N-1} [B, N - 1].

    W1 is the 1-Wasserstein distance from the return to its N quantiles, each with its part's width. The difference
    of |F^-1(tau_i) - F^-1(midpoint)| on both sides of tau_i: where quantiles ascend that is proposition 1,
    2 F^-1(tau_i) - F^-1(midpoint_i) - F^-1(midpoint_{i-1}), and a distance too where they still cross.
    """
    return (between - at_midpoints[:, :-1]).abs() - (between - at_midpoints[:, 1:]).abs()


def fraction_loss(fractions: Fractions, at_midpoints: Tensor, between: Tensor, entropy: float) -> Tensor:
    """[B], only of use for its gradient: that of W1 with respect to the proposals, less `entropy` times theirs.

    `at_midpoints` [B, N] and `between` [B, N - 1] as in `w1_gradient`. The entropy keeps fractions from collapsing; it
    is no part of the paper's equations, but of published implementations.
    """
    with torch.no_grad():
        gradient = w1_gradient(at_midpoints, between)
    return (gradient * fractions.tau[:, 1:-1]).sum(dim=1) - entropy * fractions.entropy
