"""Networks with one value per action, or several: obs [B, *obs_shape] -> [B, A, *outputs]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dqn_cli.errors import ConfigError
from dqn_cli.networks.noisy import Noise, NoisyLinear
from dqn_cli.networks.spectral import SpectralConv2d
from dqn_cli.types import ObsSpec


class Torso(nn.Module):
    """From obs [B, *obs_shape] to [B, features]: all that lies before the last hidden layer."""

    features: int


class ValueNetwork(nn.Module):
    """What every network can be asked for. Noise is no state: draw or silence it before each pass."""

    def __init__(self) -> None:
        super().__init__()
        self._noise = Noise([])
        self._spectral: list[SpectralConv2d] = []

    def draw_noise(self, rng: torch.Generator) -> None:
        """Fresh noise for the passes that follow, from a generator on this network's device."""
        self._noise.draw(rng)

    def noise_vector(self, rng: torch.Generator) -> Tensor:
        """The same as one tensor, for `hold_noise` at another time; empty where there is no noise."""
        return self._noise.vector(rng)

    def hold_noise(self, vector: Tensor) -> None:
        """The noise of a `noise_vector` for the passes that follow."""
        self._noise.hold(vector)

    def silence(self) -> None:
        """Passes without noise from here on."""
        self._noise.silence()

    def iterate_norms(self) -> None:
        """Follow the weights' spectral norms by one power iteration: once per update, before its online pass."""
        for layer in self._spectral:
            layer.iterate()


class QNetwork(ValueNetwork):
    """A torso, then a head: both given, the head from features [..., F] to [..., A, *outputs]."""

    def __init__(self, torso: Torso, head: nn.Module) -> None:
        super().__init__()
        self.torso = torso
        self.head = head
        self._noise = Noise([layer for layer in self.modules() if isinstance(layer, NoisyLinear)])
        self._spectral = [layer for layer in self.modules() if isinstance(layer, SpectralConv2d)]

    def features(self, obs: Tensor) -> Tensor:
        """What the torso makes of observations: [B, F]."""
        features: Tensor = self.torso(obs)
        return features

    def forward(self, obs: Tensor) -> Tensor:
        """Values [B, A, *outputs]."""
        values: Tensor = self.head(self.torso(obs))
        return values


class Table(ValueNetwork):
    """Entries per state and action (Watkins 1989), as a linear map of one-hot states: W obs, W [A, *outputs, S].

    With SGD and the squared error, one transition moves one entry, by the learning rate times the TD error.
    Raises `ConfigError` where the observation is not a vector.
    """

    def __init__(self, spec: ObsSpec, num_actions: int, outputs: tuple[int, ...], initial_q: float) -> None:
        super().__init__()
        if len(spec.obs_shape) != 1:
            raise ConfigError(f"network=table needs one-hot states, not shape {spec.obs_shape}; write network=mlp")
        self.entries = nn.Parameter(torch.full((num_actions, *outputs, spec.obs_shape[0]), initial_q))

    def forward(self, obs: Tensor) -> Tensor:
        """Values [B, A, *outputs]."""
        states, entries = obs.to(self.entries.dtype), self.entries
        if entries.dim() == 2:
            return states @ entries.T
        return (states @ entries.flatten(0, -2).T).view(-1, *entries.shape[:-1])
