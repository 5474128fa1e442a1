"""Acting in E environments at once. Knows no learning."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dqn_cli.agent.exploration import Explorer
from dqn_cli.agent.policy import Policy


class FrameStack(Protocol):
    """What turns frames into observations."""

    def push(self, frame: NDArray[Any], first: NDArray[np.bool_], /) -> NDArray[Any]:
        """frame [E, *frame_shape], first [E] -> obs [E, *obs_shape], valid until the next push."""


class Actor:
    """Chooses the actions of E environments, and owns the frames that they were last seen in."""

    def __init__(self, policy: Policy, explorer: Explorer, stack: FrameStack, rng: np.random.Generator) -> None:
        self.policy = policy
        self._explorer = explorer
        self._stack = stack
        self._rng = rng
        self._q: NDArray[np.float32] | None = None

    def act(self, frame: NDArray[Any], first: NDArray[np.bool_], level: float) -> NDArray[np.int64]:
        """Actions [E], explored as much as `level` says: epsilon, or what the explorer takes in its place.

        `first` [E] marks those of frame [E, *frame_shape] that begin an episode. Draws 2 E numbers whatever happens, so
        that the number of calls alone decides where the stream stands.
        """
        self.obs = self._stack.push(frame, first)
        self._q = None
        coin, choice = self._rng.random((2, len(self.obs))).tolist()  # for a few of them, lists are faster than arrays
        return self._explorer.choose(level, coin, choice, self._values)

    def values(self) -> NDArray[np.float32]:
        """Q-values [E, A] of the observations that `act` was last asked about. Asking changes no later action."""
        if self._q is None:
            self._q = self.policy.aside(self.obs)
        return self._q

    def _values(self) -> NDArray[np.float32]:
        self._q = self.policy.q(self.obs)
        return self._q
