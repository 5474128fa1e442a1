"""What shapes a network passes through, known without torch."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from dqn_cli.config import CnnConfig, MlpConfig, NetworkConfig, Padding, TableConfig
from dqn_cli.errors import ConfigError
from dqn_cli.types import ObsSpec


def cnn_shapes(spec: ObsSpec, config: CnnConfig) -> list[tuple[int, int, int]]:
    """(channels, height, width) before the first convolution, and after each. Raises `ConfigError` where one is empty.

    Images are [H, W] or [H, W, C]; the channels of all images of a stack lie side by side.
    """
    if len(spec.frame_shape) not in (2, 3):
        seen = f"the environment gives {spec.dtype} of shape {list(spec.frame_shape)}"
        raise ConfigError(f"network={config.name} needs images, {seen}; write network=mlp")
    height, width, *colors = spec.frame_shape
    shapes = [(spec.stack * (colors[0] if colors else 1), height, width)]
    for channels, kernel, stride in config.convolutions:
        rows, columns = (sum(zeros(side, kernel, stride, config.padding)) for side in (height, width))
        height, width = (height + rows - kernel) // stride + 1, (width + columns - kernel) // stride + 1
        if min(height, width) < 1:
            size = "x".join(map(str, spec.frame_shape[:2]))
            raise ConfigError(
                f"network={config.name} does not fit images of {size}, they are too small for its convolutions; "
                "write network=mlp, or larger images"
            )
        shapes.append((channels, height, width))
    return shapes


def zeros(side: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after a side; where they are an odd number, the last one comes after."""
    total = max(0, (-(-side // stride) - 1) * stride + kernel - side) if padding is Padding.same else 0
    return total // 2, total - total // 2


def parameter_shapes(config: NetworkConfig, spec: ObsSpec, num_actions: int) -> list[tuple[int, ...]]:
    """Shapes of a network's weights and biases, in their order. Raises `ConfigError` as `cnn_shapes` does."""
    shapes: list[tuple[int, ...]] = []
    match config:
        case TableConfig():
            return [(num_actions, *spec.obs_shape)]
        case MlpConfig():
            units = [prod(spec.obs_shape), *config.hidden, num_actions]
        case CnnConfig():
            *before, features = cnn_shapes(spec, config)
            for (inputs, _, _), (channels, kernel, _) in zip(before, config.convolutions, strict=True):
                shapes += [(channels, inputs, kernel, kernel), (channels,)]
            units = [prod(features), config.units, num_actions]
        case _:
            raise TypeError(f"no shapes for {type(config).__name__}")
    for inputs, outputs in pairwise(units):
        shapes += [(outputs, inputs), (outputs,)]
    return shapes
