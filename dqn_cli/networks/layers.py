"""What all networks are made of: fully connected layers, convolutions, and how their weights begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
Linear = Callable[[int, int], nn.Module]

ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
}


@dataclass(frozen=True)
class Layers:
    """How the fully connected layers from observations to values are made, and what lies between them."""

    linear: Linear = nn.Linear  # (inputs, outputs) -> a module from [..., inputs] to [..., outputs]
    activation: Activation = F.relu
    norm: bool = False

    def hidden(self, inputs: int, outputs: int) -> nn.Module:
        """A hidden layer, still without its activation."""
        return normalized(self.linear(inputs, outputs), (outputs,), self.norm)


def normalized(layer: nn.Module, shape: Sequence[int], wanted: bool) -> nn.Module:
    """`layer`, where `wanted` with its outputs [..., *shape] normalised over `shape` (Ba et al. 2016, eq. 3 and 4)."""
    return nn.Sequential(layer, Norm(list(shape))) if wanted else layer


class Norm(nn.LayerNorm):
    """A layer norm in the precision of its weights, of numbers in any."""

    def forward(self, x: Tensor) -> Tensor:
        """Of [..., *shape]."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Convolution(nn.Conv2d):
    """A convolution in the precision of what it is given; that of its weights, and of their gradients, stays."""

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, C, H, W]; bias, stride and padding as configured."""
        return self.convolved(x, self.weight)

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same with another weight."""
        bias = self.bias
        assert bias is not None
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), self.stride, self.padding)


class PixelConv2d(Convolution):
    """A convolution of pixels 0 ... 255, scaled to [0, 1] by way of the weights: there are fewer of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, C, H, W]; bytes are exact in bfloat16 too."""
        return self.convolved(x, self.weight * (1 / 255))


def glorot(network: nn.Module) -> None:
    """Draw weights anew, uniform in +-sqrt(6 / (fan_in + fan_out)), and set biases to 0 (Glorot & Bengio 2010, eq. 16).

    Of plain layers and convolutions; noisy layers begin as their own paper has it.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
