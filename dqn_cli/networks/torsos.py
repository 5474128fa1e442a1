"""From an observation to features: the part of a network below its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
