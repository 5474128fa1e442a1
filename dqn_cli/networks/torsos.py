"""From an observation to features: the part of a network below its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqn_cli.config import CnnConfig
from dqn_cli.networks.shapes import cnn_shapes, zeros
from dqn_cli.types import ObsSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
}


class Mlp(nn.Module):
    """Fully connected layers over the flattened observation: obs [B, *obs_shape] -> [B, features].

    Bytes are scaled to [0, 1], other numbers are taken as they are. No hidden layer makes Q linear in the observation.
    """

    def __init__(self, spec: ObsSpec, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        widths = [prod(spec.obs_shape), *hidden]
        self.features = widths[-1]
        self._scale = 1 / 255 if spec.dtype == "uint8" else 1.0
        self._activation = ACTIVATIONS[activation]
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        x = obs.flatten(1).to(torch.float32)
        if self._scale != 1:
            x = x * self._scale
        for layer in self.layers:
            x = self._activation(layer(x))
        return x


class PixelConv2d(nn.Conv2d):
    """A convolution of pixels 0 ... 255, scaled to [0, 1] by way of the weights: there are fewer of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Of float32 [B, C, H, W]; bias and stride as configured, no padding."""
        return F.conv2d(x, self.weight * (1 / 255), self.bias, self.stride)


def glorot(network: nn.Module) -> nn.Module:
    """`network` with weights anew, uniform in +-sqrt(6 / (fan_in + fan_out)), and biases 0 (Glorot & Bengio 2010)."""
    for w in network.parameters():
        nn.init.xavier_uniform_(w) if w.dim() > 1 else nn.init.zeros_(w)
    return network


class Cnn(nn.Module):
    """Convolutions over a stack of images, then a fully connected layer: obs [B, *obs_shape] -> [B, features].

    Images are [H, W] or [H, W, C]; the channels of all images of a stack lie side by side. Pixels go into the first
    convolution as they are: bytes are scaled to [0, 1] by its weights. Raises `ConfigError` where the observation is
    not an image, or too small.
    """

    def __init__(self, spec: ObsSpec, config: CnnConfig) -> None:
        super().__init__()
        *shapes, features = cnn_shapes(spec, config)
        self.features = config.units
        self._colored = len(spec.frame_shape) == 3
        self._zeros = [
            # as F.pad takes them: the last dimension first
            (*zeros(width, kernel, stride, config.padding), *zeros(height, kernel, stride, config.padding))
            for (_, height, width), (_, kernel, stride) in zip(shapes, config.convolutions, strict=True)
        ]
        self.convolutions = nn.ModuleList(
            (PixelConv2d if i == 0 and spec.dtype == "uint8" else nn.Conv2d)(shapes[i][0], channels, kernel, stride)
            for i, (channels, kernel, stride) in enumerate(config.convolutions)
        )
        self.hidden = nn.Linear(prod(features), config.units)

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        if self._colored:
            obs = obs.movedim(-1, -3)  # [B, (stack,) C, H, W]
        x = obs.reshape(len(obs), -1, *obs.shape[-2:]).to(torch.float32, memory_format=torch.channels_last)
        for convolution, around in zip(self.convolutions, self._zeros, strict=True):
            x = F.relu(convolution(F.pad(x, around) if any(around) else x))
        return F.relu(self.hidden(x.flatten(1)))
