"""Networks with one value per action: obs [B, *obs_shape] -> Q [B, A]."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dqn_cli.errors import ConfigError
from dqn_cli.types import ObsSpec


class Torso(Protocol):
    """A module from obs [B, *obs_shape] to [B, features]."""

    features: int

    def __call__(self, obs: Tensor, /) -> Tensor:
        """Features of a batch of observations."""


class QNetwork(nn.Module):
    """A torso, then one linear output per action, neither bounded nor normalised."""

    def __init__(self, torso: Torso, num_actions: int) -> None:
        super().__init__()
        self.torso = torso
        self.head = nn.Linear(torso.features, num_actions)

    def forward(self, obs: Tensor) -> Tensor:
        """Q [B, A]."""
        q: Tensor = self.head(self.torso(obs))
        return q


class Table(nn.Module):
    """One entry per state and action (Watkins 1989), as a linear map of one-hot states: Q = obs W^T, W [A, S].

    With SGD and the squared error, one transition moves one entry, by the learning rate times the TD error.
    Raises `ConfigError` where the observation is not a vector.
    """

    def __init__(self, spec: ObsSpec, num_actions: int, initial_q: float) -> None:
        super().__init__()
        if len(spec.obs_shape) != 1:
            raise ConfigError(f"network=table needs one-hot states, not shape {spec.obs_shape}; write network=mlp")
        self.entries = nn.Parameter(torch.full((num_actions, spec.obs_shape[0]), initial_q))

    def forward(self, obs: Tensor) -> Tensor:
        """Q [B, A]."""
        return obs.to(self.entries.dtype) @ self.entries.T
