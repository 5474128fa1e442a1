"""Errors per transition, never reduced: prediction [B], target [B] -> [B]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

LossFunction = Callable[[Tensor, Tensor], Tensor]


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, [B]; its gradient is prediction - target: the TD error."""
    return 0.5 * F.mse_loss(prediction, target, reduction="none")


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber's loss with delta 1, [B]: its gradient is the TD error clipped to [-1, 1] (Mnih et al. 2015, Methods)."""
    return F.huber_loss(prediction, target, reduction="none", delta=1.0)


LOSSES: dict[str, LossFunction] = {"mse": mse, "huber": huber}
