"""Acting: epsilon-greedy in E environments at once. Knows no learning."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dqn_cli.algorithm.targets import greedy_action


class FrameStack(Protocol):
    """What turns frames into observations."""

    def push(self, frame: NDArray[Any], first: NDArray[np.bool_], /) -> NDArray[Any]:
        """frame [E, *frame_shape], first [E] -> obs [E, *obs_shape], valid until the next push."""


class Actor:
    """Chooses the actions of E environments, and owns the frames that they were last seen in."""

    def __init__(
        self, network: nn.Module, num_actions: int, stack: FrameStack, rng: np.random.Generator, device: torch.device
    ) -> None:
        self._network = network
        self._num_actions = num_actions
        self._stack = stack
        self._rng = rng
        self._device = device

    def act(self, frame: NDArray[Any], first: NDArray[np.bool_], epsilon: float) -> NDArray[np.int64]:
        """Actions [E]: random with probability epsilon, else greedy; each environment has a coin of its own.

        `first` [E] marks those of frame [E, *frame_shape] that begin an episode. Draws 2 E numbers whatever happens, so
        that the number of calls alone decides where the stream stands.
        """
        obs = self._obs = self._stack.push(frame, first)
        coin, choice = self._rng.random((2, len(obs)))
        explore = coin < epsilon
        action = (choice * self._num_actions).astype(np.int64)
        return action if explore.all() else np.where(explore, action, self._greedy(obs))

    def values(self) -> NDArray[np.float32]:
        """Q-values [E, A] of the observations that `act` was last asked about, which it must have been."""
        with torch.inference_mode():
            q: NDArray[np.float32] = self._q(self._obs).cpu().numpy()
        return q

    def _greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        with torch.inference_mode():
            action: NDArray[np.int64] = greedy_action(self._q(obs)).cpu().numpy()
        return action

    def _q(self, obs: NDArray[Any]) -> Tensor:
        q: Tensor = self._network(torch.from_numpy(obs).to(self._device))
        return q
