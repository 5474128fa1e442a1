"""From an observation to features: all that lies before the last hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqn_cli.config import CnnConfig, ImpalaConfig
from dqn_cli.networks.layers import Layers, PixelConv2d, normalized
from dqn_cli.networks.q_network import Torso
from dqn_cli.networks.shapes import cnn_shapes, impala_shapes, zeros
from dqn_cli.networks.spectral import SpectralConv2d
from dqn_cli.types import ObsSpec


class Mlp(Torso):
    """Fully connected layers over the flattened observation: obs [B, *obs_shape] -> [B, features].

    Bytes are scaled to [0, 1], other numbers are taken as they are. With no layer they are the features themselves.
    """

    def __init__(self, spec: ObsSpec, hidden: Sequence[int], layers: Layers) -> None:
        super().__init__()
        widths = [prod(spec.obs_shape), *hidden]
        self.features = widths[-1]
        self._scale = 1 / 255 if spec.dtype == "uint8" else 1.0
        self._activation = layers.activation
        self.layers = nn.ModuleList(layers.hidden(inputs, outputs) for inputs, outputs in pairwise(widths))

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        x = obs.flatten(1).to(torch.float32)
        if self._scale != 1:
            x = x * self._scale
        for layer in self.layers:
            x = self._activation(layer(x))
        return x


class Cnn(Torso):
    """Convolutions over a stack of images: obs [B, *obs_shape] -> [B, features].

    Images are [H, W] or [H, W, C]; the channels of all images of a stack lie side by side. Pixels go into the first
    convolution as they are: bytes are scaled to [0, 1] by its weights. Layer norms are over [C', H', W']. Raises
    `ConfigError` where the observation is not an image, or too small.
    """

    def __init__(self, spec: ObsSpec, config: CnnConfig) -> None:
        super().__init__()
        shapes = cnn_shapes(spec, config)
        self.features = prod(shapes[-1])
        self._colored = len(spec.frame_shape) == 3
        self._zeros = [
            # as F.pad takes them: the last dimension first
            (*zeros(width, kernel, stride, config.padding), *zeros(height, kernel, stride, config.padding))
            for (_, height, width), (_, kernel, stride) in zip(shapes, config.convolutions, strict=False)
        ]
        later = SpectralConv2d if config.spectral_norm else nn.Conv2d
        self.convolutions = nn.ModuleList(
            normalized(
                (later if i > 0 else _first(spec))(shapes[i][0], channels, kernel, stride),
                shapes[i + 1],
                config.layer_norm,
            )
            for i, (channels, kernel, stride) in enumerate(config.convolutions)
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        x = _pictures(obs, self._colored)
        for convolution, around in zip(self.convolutions, self._zeros, strict=True):
            x = F.relu(convolution(F.pad(x, around) if any(around) else x))
        return x.flatten(1)


class Residual(nn.Module):
    """x + two 3x3 convolutions of it, each after a ReLU: [B, C, H, W] -> the same."""

    def __init__(self, channels: int, convolution: type[nn.Conv2d]) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 3, padding=1)
        self.second = convolution(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        inner: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + inner


class Impala(Torso):
    """Sequences of convolution, max-pool and two residual blocks (Espeholt et al. 2018, figure 3, the larger network).

    obs [B, *obs_shape] -> [B, features], images as `Cnn` takes them, of any size. Adaptive max-pooling, where it is
    wanted, follows the last ReLU (Clark et al. 2025). Layer norms are over [C, H, W] at the end of each sequence;
    spectral norms are of the residual blocks' convolutions. Raises `ConfigError` where the observation is not an image.
    """

    def __init__(self, spec: ObsSpec, config: ImpalaConfig) -> None:
        super().__init__()
        shapes = impala_shapes(spec, config)
        self.features = prod(shapes[-1])
        self._colored = len(spec.frame_shape) == 3
        self._pool = config.pool
        inner = SpectralConv2d if config.spectral_norm else nn.Conv2d
        sequences = []
        for i, (before, after) in enumerate(pairwise(shapes[: len(config.channels) + 1])):
            channels = after[0]
            sequence = nn.Sequential(
                (nn.Conv2d if i > 0 else _first(spec))(before[0], channels, 3, padding=1),
                nn.MaxPool2d(3, 2, padding=1),
                Residual(channels, inner),
                Residual(channels, inner),
            )
            sequences.append(normalized(sequence, after, config.layer_norm))
        self.sequences = nn.Sequential(*sequences)

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        x = F.relu(self.sequences(_pictures(obs, self._colored)))
        return (x if self._pool is None else F.adaptive_max_pool2d(x, self._pool)).flatten(1)


def _first(spec: ObsSpec) -> type[nn.Conv2d]:
    """The convolution that pixels go into."""
    return PixelConv2d if spec.dtype == "uint8" else nn.Conv2d


def _pictures(obs: Tensor, colored: bool) -> Tensor:
    """obs [B, (stack,) H, W(, C)] as float32 [B, (stack) (C), H, W]."""
    if colored:
        obs = obs.movedim(-1, -3)  # [B, (stack,) C, H, W]
    return obs.reshape(len(obs), -1, *obs.shape[-2:]).to(torch.float32, memory_format=torch.channels_last)
