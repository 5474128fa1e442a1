"""From an observation to features: all that lies before the last hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqn_cli.config import CnnConfig, ImpalaConfig
from dqn_cli.networks.layers import Convolution, Layers, PixelConv2d, normalized
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
    convolution as they are: bytes are scaled to [0, 1] by its weights. Layer norms are over [C', H', W']. Convolutions
    compute in `dtype`, features are float32. Raises `ConfigError` where the observation is not an image, or too small.
    """

    def __init__(self, spec: ObsSpec, config: CnnConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        shapes = cnn_shapes(spec, config)
        self.features = prod(shapes[-1])
        self._colored = len(spec.frame_shape) == 3
        self._zeros = [
            # as F.pad takes them: the last dimension first
            (*zeros(width, kernel, stride, config.padding), *zeros(height, kernel, stride, config.padding))
            for (_, height, width), (_, kernel, stride) in zip(shapes, config.convolutions, strict=False)
        ]
        later = SpectralConv2d if config.spectral_norm else Convolution
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
        x = _pictures(obs, self._colored, self._dtype)
        last = len(self._zeros) - 1
        for i, (convolution, around) in enumerate(zip(self.convolutions, self._zeros, strict=True)):
            x = convolution(F.pad(x, around) if any(around) else x)
            if i == last and not _watched():
                # before the ReLU, whose backward pass is slow where the layouts of its arguments differ
                x = x.flatten(1).to(torch.float32)
            x = F.relu(x, inplace=True)  # what a convolution or a norm makes, its backward pass does not need
        return x.flatten(1).to(torch.float32)


def _watched() -> bool:
    """Whether somebody looks at what activation functions return, and wants to see channels."""
    return torch._C._len_torch_function_stack() > 0


class Residual(nn.Module):
    """x + two 3x3 convolutions of it, each after a ReLU: [B, C, H, W] -> the same."""

    def __init__(self, channels: int, convolution: type[Convolution]) -> None:
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
    spectral norms are of the residual blocks' convolutions; `dtype` as of `Cnn`. Raises `ConfigError` where the
    observation is not an image.
    """

    def __init__(self, spec: ObsSpec, config: ImpalaConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        shapes = impala_shapes(spec, config)
        self.features = prod(shapes[-1])
        self._colored = len(spec.frame_shape) == 3
        self._pool = config.pool
        inner = SpectralConv2d if config.spectral_norm else Convolution
        sequences = []
        for i, (before, after) in enumerate(pairwise(shapes[: len(config.channels) + 1])):
            channels = after[0]
            sequence = nn.Sequential(
                (Convolution if i > 0 else _first(spec))(before[0], channels, 3, padding=1),
                nn.MaxPool2d(3, 2, padding=1),
                Residual(channels, inner),
                Residual(channels, inner),
            )
            sequences.append(normalized(sequence, after, config.layer_norm))
        self.sequences = nn.Sequential(*sequences)

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        x = F.relu(self.sequences(_pictures(obs, self._colored, self._dtype)))
        return (x if self._pool is None else F.adaptive_max_pool2d(x, self._pool)).flatten(1).to(torch.float32)


def _first(spec: ObsSpec) -> type[Convolution]:
    """The convolution that pixels go into."""
    return PixelConv2d if spec.dtype == "uint8" else Convolution


def _pictures(obs: Tensor, colored: bool, dtype: torch.dtype) -> Tensor:
    """obs [B, (stack,) H, W(, C)] as [B, (stack) (C), H, W] of `dtype`."""
    if colored:
        obs = obs.movedim(-1, -3)  # [B, (stack,) C, H, W]
    pictures = obs.reshape(obs.shape[0], -1, *obs.shape[-2:])  # of len() an export would make a constant
    if colored or pictures.device.type != "cpu" or torch.compiler.is_exporting():
        return pictures.contiguous(memory_format=torch.channels_last).to(dtype)
    # of a stack of planes: one after the other in its place, for half the time of moving all at once
    ordered = torch.empty(pictures.shape, memory_format=torch.channels_last, device=pictures.device)
    for channel in range(pictures.shape[1]):
        ordered[:, channel].copy_(pictures[:, channel])
    return ordered.to(dtype)
