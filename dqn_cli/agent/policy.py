"""Q-values of observations: a network, what its outputs mean, and the randomness that it may have."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_cli.algorithm.values import Look, Value
from dqn_cli.networks.q_network import ValueNetwork


class Policy:
    """The network that acts. `rng`, on its device, draws quantiles and noise; `noisy=False` (evaluation) has no noise.

    Noise is drawn anew for every step (Fortunato et al. 2018, algorithm 1), of the network that acts: with
    `act_with=target` that is the target network, whose means and sigmas are the frozen ones, and whose noise is not.
    """

    def __init__(self, network: ValueNetwork, value: Value, rng: torch.Generator, noisy: bool) -> None:
        self._network = network
        self.value = value  # what the network's outputs mean
        self._rng = rng
        self._noisy = noisy

    def look(self, obs: NDArray[Any]) -> Look:
        """What the network says about obs [E, *obs_shape]; computed as it is asked for, without gradients if so."""
        if self._noisy:
            self._network.draw_noise(self._rng)
        else:
            self._network.silence()
        return self.value.look(self._network, torch.from_numpy(obs).to(self._rng.device), self._rng)

    def q(self, obs: NDArray[Any]) -> Tensor:
        """Q-values [E, A] of obs [E, *obs_shape]."""
        with torch.inference_mode():
            return self.look(obs).q

    def aside(self, obs: NDArray[Any]) -> Tensor:
        """The same for somebody who only looks on: the randomness of later actions is not touched."""
        state = self._rng.get_state()
        try:
            return self.q(obs)
        finally:
            self._rng.set_state(state)
