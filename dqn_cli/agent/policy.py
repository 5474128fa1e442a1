"""Q-values of observations: a network, what its outputs mean, and the randomness that it may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dqn_cli.agent.in_numpy import numpy_pass
from dqn_cli.algorithm.values import Look, Value
from dqn_cli.networks.q_network import ValueNetwork


class Policy:
    """The network that acts. `rng`, on its device, draws quantiles and noise; `noisy=False` (evaluation) has no noise.

    Noise is drawn anew for every step (Fortunato et al. 2018, algorithm 1), of the network that acts: with
    `act_with=target` that is the target network, whose means and sigmas are the frozen ones, and whose noise is not.
    With `fast` the Q-values of a plain MLP are computed in NumPy.
    """

    def __init__(
        self, network: ValueNetwork, value: Value, rng: torch.Generator, noisy: bool, fast: bool = True
    ) -> None:
        self._network = network
        self.value = value  # what the network's outputs mean
        self._rng = rng
        self._noisy = noisy
        self._fast_q = numpy_pass(network, value) if fast else None

    def look(self, obs: NDArray[Any]) -> Look:
        """What the network says about obs [E, *obs_shape]; computed as it is asked for, without gradients if so."""
        if self._noisy:
            self._network.draw_noise(self._rng)
        else:
            self._network.silence()
        return self.value.look(self._network, torch.from_numpy(obs).to(self._rng.device), self._rng)

    def q(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Q-values [E, A] of obs [E, *obs_shape]."""
        if self._fast_q is not None:
            return self._fast_q(obs)
        with torch.inference_mode():
            q: NDArray[np.float32] = self.look(obs).q.cpu().numpy()
        return q

    def aside(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """The same for somebody who only looks on: the randomness of later actions is not touched."""
        state = self._rng.get_state()
        try:
            return self.q(obs)
        finally:
            self._rng.set_state(state)
