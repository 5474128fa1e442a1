"""Products with the large matrices that follow convolutions, by oneDNN: MKL takes twice as long on an AMD CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 1 << 19  # weights from which on what is saved is more than what the way to it costs
_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # no part of torch's documented interface


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of x [..., p], weight [q, p] and bias [q], but for rounding."""
    if weight.numel() < LARGE or not _ONEDNN or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return F.linear(x, weight, bias)
    y: Tensor = _Wide.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


class WideLinear(nn.Linear):
    """A fully connected layer [..., p] -> [..., q] for any p and q."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., q]."""
        return linear(x, self.weight, self.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Wide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        by_x = _product(g, weight.T) if ctx.needs_input_grad[0] else None
        return by_x, _product(g.T, x.T), g.sum(dim=0)
