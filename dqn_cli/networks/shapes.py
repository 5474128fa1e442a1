"""What shapes a network passes through and is made of, known without torch (but for a user's own)."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import NamedTuple

from dqn_cli.config import (
    CategoricalConfig,
    CnnConfig,
    FqfConfig,
    Head,
    ImageConfig,
    ImpalaConfig,
    ImplicitConfig,
    LayeredConfig,
    MlpConfig,
    NetworkConfig,
    Padding,
    QuantileConfig,
    TableConfig,
    TorsoConfig,
    ValueConfig,
)
from dqn_cli.errors import ConfigError
from dqn_cli.types import ObsSpec

Shape = tuple[int, ...]


def outputs_of(value: ValueConfig) -> Shape:
    """What a network says of each action: () for one number, or a quantile that is asked for, (N,) for N numbers."""
    match value:
        case CategoricalConfig():
            return (value.atoms,)
        case QuantileConfig():
            return (value.quantiles,)
        case _:
            return ()


def cnn_shapes(spec: ObsSpec, config: CnnConfig) -> list[tuple[int, int, int]]:
    """(channels, height, width) before the first convolution, and after each. Raises `ConfigError` where one is empty.

    Images are [H, W] or [H, W, C]; the channels of all images of a stack lie side by side.
    """
    shapes = [_image_shape(spec, config)]
    _, height, width = shapes[0]
    for channels, kernel, stride in config.convolutions:
        rows, columns = (sum(zeros(side, kernel, stride, config.padding)) for side in (height, width))
        height, width = (height + rows - kernel) // stride + 1, (width + columns - kernel) // stride + 1
        if min(height, width) < 1:
            raise ConfigError(
                f"network={config.name} does not fit images of {_size(spec)}, they are too small for its convolutions; "
                "write network=minatar_cnn or network=mlp"
            )
        shapes.append((channels, height, width))
    return shapes


def zeros(side: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after a side; where they are an odd number, the last one comes after."""
    total = max(0, (-(-side // stride) - 1) * stride + kernel - side) if padding is Padding.same else 0
    return total // 2, total - total // 2


def impala_shapes(spec: ObsSpec, config: ImpalaConfig) -> list[tuple[int, int, int]]:
    """(channels, height, width) before the first sequence, after each, and after the adaptive pooling if there is one.

    Each sequence halves the sides, rounding up. Raises `ConfigError` where there is no image, or less of it than the
    pooling is to leave.
    """
    shapes = [_image_shape(spec, config)]
    _, height, width = shapes[0]
    for channels in config.channels:
        height, width = -(-height // 2), -(-width // 2)
        shapes.append((channels * config.width, height, width))
    if config.pool is not None:
        if config.pool > min(height, width):
            raise ConfigError(
                f"network.pool={config.pool} is more than the {height}x{width} that network={config.name} leaves of "
                f"images of {_size(spec)}; write {min(height, width)} or less, or null"
            )
        shapes.append((shapes[-1][0], config.pool, config.pool))
    return shapes


def _image_shape(spec: ObsSpec, config: ImageConfig) -> tuple[int, int, int]:
    if len(spec.frame_shape) not in (2, 3):
        seen = f"the environment gives {spec.dtype} of shape {list(spec.frame_shape)}"
        raise ConfigError(f"network={config.name} needs images, {seen}; write network=mlp")
    height, width, *colors = spec.frame_shape
    return spec.stack * (colors[0] if colors else 1), height, width


def _size(spec: ObsSpec) -> str:
    return "x".join(map(str, spec.frame_shape[:2]))


def parameter_shapes(config: NetworkConfig, value: ValueConfig, spec: ObsSpec, num_actions: int) -> list[Shape]:
    """Shapes of all that a network learns, in the order of its parameters.

    Raises `ConfigError` where network and observation do not fit.
    """
    outputs = outputs_of(value)
    if isinstance(config, TableConfig):
        return [(num_actions, *outputs, *spec.obs_shape)]
    if not isinstance(config, LayeredConfig):
        raise TypeError(f"no shapes for {type(config).__name__}")
    torso, features, units = _torso(config, spec)
    head: list[Shape] = []
    for actions in [1, num_actions] if config.head is Head.dueling else [num_actions]:
        if units is not None:
            head += _hidden(config, features, units)
        head += _linear(config, features if units is None else units, actions * prod(outputs))
    return torso + head + _quantile_layers(value, features)


def buffer_shapes(config: NetworkConfig, spec: ObsSpec) -> list[Shape]:
    """Shapes of what a checkpoint keeps of a network beside its parameters: the vectors of its spectral norms.

    Raises `ConfigError` where network and observation do not fit.
    """
    if not isinstance(config, ImageConfig) or not config.spectral_norm:
        return []
    kept = [weight for stage in _stages(config, spec) for weight in stage.normed]
    return [shape for channels, *window in kept for shape in ((channels,), (prod(window),))]


class _Stage(NamedTuple):
    """Weights of convolutions that a layer norm may follow, those of them that have spectral norms, and the outputs."""

    weights: list[Shape]
    normed: list[Shape]
    outputs: Shape


def _stages(config: ImageConfig, spec: ObsSpec) -> list[_Stage]:
    stages = []
    match config:
        case CnnConfig():
            shapes = cnn_shapes(spec, config)
            for i, (channels, kernel, _) in enumerate(config.convolutions):
                weight: Shape = (channels, shapes[i][0], kernel, kernel)
                stages.append(_Stage([weight], [weight] if i > 0 else [], shapes[i + 1]))
        case ImpalaConfig():
            shapes = impala_shapes(spec, config)
            for before, after in pairwise(shapes[: len(config.channels) + 1]):
                residual: list[Shape] = [(after[0], after[0], 3, 3)] * 4
                stages.append(_Stage([(after[0], before[0], 3, 3), *residual], residual, after))
        case _:
            raise TypeError(f"no shapes for {type(config).__name__}")
    return stages


def _torso(config: LayeredConfig, spec: ObsSpec) -> tuple[list[Shape], int, int | None]:
    """Parameters before the last hidden layer, how many features they make, and that layer's units if there is one."""
    shapes: list[Shape] = []
    if isinstance(config, MlpConfig):
        widths = [prod(spec.obs_shape), *config.hidden[:-1]]
        for inputs, outputs in pairwise(widths):
            shapes += _hidden(config, inputs, outputs)
        return shapes, widths[-1], config.hidden[-1] if config.hidden else None
    if isinstance(config, TorsoConfig):
        from dqn_cli.networks.registered import measured  # torch, which the user's own code needs

        return (*measured(config, spec), config.units)
    if not isinstance(config, (CnnConfig, ImpalaConfig)):
        raise TypeError(f"no shapes for {type(config).__name__}")
    for stage in _stages(config, spec):
        for weight in stage.weights:
            shapes += [weight, weight[:1]]
        shapes += _norm(config, stage.outputs)
    last = impala_shapes(spec, config)[-1] if isinstance(config, ImpalaConfig) else stage.outputs
    return shapes, prod(last), config.units


def _linear(config: LayeredConfig, inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)] * (2 if config.noisy else 1)


def _hidden(config: LayeredConfig, inputs: int, outputs: int) -> list[Shape]:
    return _linear(config, inputs, outputs) + _norm(config, (outputs,))


def _norm(config: LayeredConfig, shape: Shape) -> list[Shape]:
    return [shape] * 2 if config.layer_norm else []


def _quantile_layers(value: ValueConfig, features: int) -> list[Shape]:
    """The embedding of an implicit network, and what proposes fractions to it."""
    if not isinstance(value, (ImplicitConfig, FqfConfig)):
        return []
    embedding: list[Shape] = [(features, value.embedding), (features,)]
    return embedding + ([(value.quantiles, features), (value.quantiles,)] if isinstance(value, FqfConfig) else [])
