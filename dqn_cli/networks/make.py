"""From configuration to network."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from dqn_cli.config import (
    CnnConfig,
    FqfConfig,
    Head,
    ImageConfig,
    ImpalaConfig,
    ImplicitConfig,
    Init,
    LayeredConfig,
    MlpConfig,
    NetworkConfig,
    Precision,
    TableConfig,
    TorsoConfig,
    ValueConfig,
)
from dqn_cli.networks.heads import Dueling, Stream
from dqn_cli.networks.implicit import ImplicitQNetwork
from dqn_cli.networks.layers import ACTIVATIONS, Layers, glorot
from dqn_cli.networks.noisy import NoisyLinear
from dqn_cli.networks.q_network import QNetwork, Table, Torso, ValueNetwork
from dqn_cli.networks.registered import Registered
from dqn_cli.networks.shapes import outputs_of
from dqn_cli.networks.torsos import Cnn, Impala, Mlp
from dqn_cli.networks.wide import WideLinear
from dqn_cli.types import ObsSpec

DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16}
POWER_ITERATIONS = 15  # at the start, so that the first passes are divided by norms that are nearly right


def make_network(
    config: NetworkConfig,
    value: ValueConfig,
    spec: ObsSpec,
    num_actions: int,
    precision: Precision = Precision.fp32,
) -> ValueNetwork:
    """From `[B, *obs_shape]` to `[B, A, *outputs]`; an `ImplicitQNetwork` for IQN and FQF.

    `precision` is that of the convolutions' computations; weights are float32 in any case. Raises `ConfigError` where
    network and observation do not fit.
    """
    if isinstance(config, TableConfig):
        return Table(spec, num_actions, outputs_of(value), config.initial_q)
    if not isinstance(config, LayeredConfig):
        raise TypeError(f"no network for {type(config).__name__}")
    layers = _layers(config)
    torso, units = _torso(config, spec, layers, DTYPES[precision])
    head = _head(config.head, torso.features, units, num_actions, outputs_of(value), layers)
    if isinstance(config, ImageConfig) and config.init is Init.glorot:
        glorot(torso)
        glorot(head)
    network = _on_top(torso, head, value)
    for _ in range(POWER_ITERATIONS):
        network.iterate_norms()
    return network


def _layers(config: LayeredConfig) -> Layers:
    linear = WideLinear if isinstance(config, ImageConfig) else nn.Linear
    return Layers(
        partial(NoisyLinear, sigma=config.noisy_sigma) if config.noisy else linear,
        ACTIVATIONS[config.activation if isinstance(config, MlpConfig) else "relu"],
        config.layer_norm,
    )


def _torso(config: LayeredConfig, spec: ObsSpec, layers: Layers, dtype: torch.dtype) -> tuple[Torso, int | None]:
    """What lies before the last hidden layer, and that layer's units if there is one."""
    match config:
        case MlpConfig():
            return Mlp(spec, config.hidden[:-1], layers), config.hidden[-1] if config.hidden else None
        case CnnConfig():
            return Cnn(spec, config, dtype), config.units
        case ImpalaConfig():
            return Impala(spec, config, dtype), config.units
        case TorsoConfig():
            return Registered(config, spec), config.units
        case _:
            raise TypeError(f"no network for {type(config).__name__}")


def _head(
    head: Head, features: int, units: int | None, num_actions: int, outputs: tuple[int, ...], layers: Layers
) -> nn.Module:
    if head is Head.dueling:
        return Dueling(features, units, num_actions, outputs, layers)
    return Stream(features, units, (num_actions, *outputs), layers)


def _on_top(torso: Torso, head: nn.Module, value: ValueConfig) -> QNetwork:
    match value:
        case ImplicitConfig():
            return ImplicitQNetwork(torso, head, value.embedding, None)
        case FqfConfig():
            return ImplicitQNetwork(torso, head, value.embedding, value.quantiles)
        case _:
            return QNetwork(torso, head)
