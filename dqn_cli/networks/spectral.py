"""Convolutions divided by their largest singular value."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dqn_cli.networks.layers import Convolution


class SpectralConv2d(Convolution):
    """A convolution whose weight, as a matrix W [C', C k k], is divided by sigma = u^T W v (Miyato et al. 2018, eq. 8).

    `u` and `v` follow the singular vectors of the largest singular value, by the power iterations that are asked for
    (algorithm 1): passes change nothing. Both are kept in checkpoints, and count as constants for the gradient.
    """

    u: Tensor
    v: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        # any start will do that the weights, which are random, know nothing of: this one draws no numbers
        for name, size in (("u", outputs), ("v", inputs * kernel**2)):
            self.register_buffer(name, torch.full((size,), size**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, C, H, W]; bias, stride and padding as configured."""
        sigma = self.u @ (self.weight.flatten(1) @ self.v)
        return self.convolved(x, self.weight / sigma)

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration, in place."""
        if self.weight.is_meta:  # a network of shapes alone, for which torch would take seconds to do nothing
            return
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))
