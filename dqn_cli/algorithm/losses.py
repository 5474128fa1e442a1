"""Errors per transition, never reduced over the batch: prediction [B] or [B, N], target likewise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Error(NamedTuple):
    """How wrong predictions were. Only `loss` carries gradients."""

    loss: Tensor  # [B]
    priority: Tensor  # [B], 0 or more: how much there is to learn, for prioritized replay
    q: Tensor  # [B], the predicted mean return of the actions taken


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, [B]; its gradient is prediction - target: the TD error."""
    return 0.5 * F.mse_loss(prediction, target, reduction="none")


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber's loss with delta 1, [B]: its gradient is the TD error clipped to [-1, 1] (Mnih et al. 2015, Methods)."""
    return F.huber_loss(prediction, target, reduction="none", delta=1.0)


LOSSES: dict[str, LossFunction] = {"mse": mse, "huber": huber}


def cross_entropy(log_p: Tensor, target: Tensor) -> Tensor:
    """-sum_i target_i log p_i of log-probabilities and probabilities [B, N] -> [B] (Bellemare et al. 2017, alg. 1)."""
    return -(target * log_p).sum(dim=1)


def kl_divergence(log_p: Tensor, target: Tensor) -> Tensor:
    """KL(target || p) >= 0 of probabilities [B, N] -> [B]: cross-entropy less the target's own entropy.

    The priority of a distribution, as it can reach 0 (Hessel et al. 2018, "Prioritized replay" of Rainbow).
    """
    entropy: Tensor = torch.special.entr(target).sum(dim=1)
    return (cross_entropy(log_p, target) - entropy).clamp(min=0)


def pairwise_errors(z: Tensor, target: Tensor) -> Tensor:
    """u_ij = target_j - z_i for z [B, N] and target [B, M] -> [B, N, M]: the TD errors of quantiles."""
    return target.unsqueeze(1) - z.unsqueeze(2)


def quantile_huber(u: Tensor, tau: Tensor, kappa: float) -> Tensor:
    """Quantile Huber loss of TD errors u [B, N, M], predictions at fractions tau [N] or [B, N], -> [B, M].

    sum_i |tau_i - 1{u_ij < 0}| H_kappa(u_ij) / kappa, H_kappa being Huber's loss: its slope is that of quantile
    regression where |u| > kappa, and falls to 0 within. The sum over predictions, and a mean over targets, is that of
    QR-DQN's algorithm 1 (Dabney et al. 2018a, eq. 10, https://arxiv.org/abs/1710.10044) and of IQN, where the division
    by kappa comes from (Dabney et al. 2018b, https://arxiv.org/abs/1806.06923); Dopamine and dqn_zoo do the same.
    """
    h = F.huber_loss(u, u.new_zeros(()).expand_as(u), reduction="none", delta=kappa)
    weight = (tau.unsqueeze(-1) - (u < 0).to(u.dtype)).abs()
    return (weight * h).sum(dim=1) / kappa
