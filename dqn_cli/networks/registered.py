"""Torsos that a module of the user's own registered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dqn_cli import plugins
from dqn_cli.config import TorsoConfig
from dqn_cli.errors import ConfigError
from dqn_cli.networks.q_network import Torso
from dqn_cli.types import ObsSpec


class Registered(Torso):
    """A user's own module: obs [B, *obs_shape] -> [B, features].

    It sees float32, bytes scaled to [0, 1]. How many features it makes is tried once. Raises `ConfigError` where it
    cannot be made, or makes something else.
    """

    def __init__(self, config: TorsoConfig, spec: ObsSpec) -> None:
        super().__init__()
        self._scale = 1 / 255 if spec.dtype == "uint8" else 1.0
        seen = f"network={config.name} on observations {list(spec.obs_shape)}"
        try:
            self.module = plugins.make("network", config, spec.obs_shape)
            with torch.no_grad():
                features = self.module(torch.zeros(2, *spec.obs_shape))
        except Exception as error:
            reason = plugins.one_line(error)
            raise ConfigError(f"{seen} cannot be made ({reason}); mend it, or write other settings") from error
        shape = list(getattr(features, "shape", []))
        if not isinstance(self.module, nn.Module) or len(shape) != 2 or shape[0] != 2:
            what = f"{type(self.module).__name__} makes {shape or type(features).__name__} of a batch of 2"
            raise ConfigError(f"{seen}: {what}; return a torch.nn.Module that makes [2, features]")
        if buffers := [name for name, _ in self.module.named_buffers()]:
            raise ConfigError(f"{seen} has the buffer {buffers[0]}, which no checkpoint keeps; make it a parameter")
        self.features = int(shape[1])

    def forward(self, obs: Tensor) -> Tensor:
        """Features of a batch of observations."""
        x = obs.to(torch.float32)
        features: Tensor = self.module(x if self._scale == 1 else x * self._scale)
        return features


def measured(config: TorsoConfig, spec: ObsSpec) -> tuple[list[tuple[int, ...]], int]:
    """Shapes of what the torso learns, and how many features it makes; nothing of that size is allocated."""
    with torch.device("meta"):
        torso = Registered(config, spec)
    return [tuple(weight.shape) for weight in torso.parameters()], torso.features
