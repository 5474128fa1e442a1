"""n-step returns, finished before they are stored (Sutton & Barto 2018, section 7.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqn_cli.replay.frames import Ids
from dqn_cli.replay.size import window_dtype


class Rows(NamedTuple):
    """R finished transitions."""

    obs: Ids  # [R, stack]
    action: NDArray[np.integer[Any]]  # [R]
    reward: NDArray[np.float64]  # [R], the sum of gamma^i r_i over the m steps of the window
    discount: NDArray[np.float64]  # [R], gamma^m (1 - terminated)
    next_obs: Ids  # [R, stack]


class NStepAccumulator:
    """Turns steps of E environments into n-step transitions; the sole owner of gamma.

    A window opens at every step and closes after `n_step` steps, or earlier where the episode ends: then every open
    window of that environment closes, and bootstraps from the true last frame unless the end is a termination.
    Closed windows come in the order of environments, the oldest of each first: 0 to `n_step` per environment.
    """

    def __init__(self, n_step: int, discount: float, num_envs: int) -> None:
        self.n_step, self.num_envs = n_step, num_envs
        self._gammas = np.power(float(discount), np.arange(n_step + 1))  # gamma^0 ... gamma^n
        self._lanes = np.arange(num_envs)
        self.allocate(stack=1)

    def allocate(self, stack: int) -> None:
        """Make room for stacks of `stack` ids and forget every open window; the memory does this once.

        All environments step together, so a window that opened at step t lies in line t modulo n, for all of them.
        One step windows close at once and need no room.
        """
        envs = self.num_envs if self.n_step > 1 else 0
        self._windows = np.zeros((self.n_step, envs), window_dtype(stack))
        self._oldest = np.zeros(envs, np.int64)  # the step at which each environment's oldest open window began
        self._step = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the open windows."""
        return self._windows.nbytes + self._oldest.nbytes

    def push(
        self,
        obs: Ids,
        action: NDArray[np.integer[Any]],
        reward: NDArray[np.float64],
        next_obs: Ids,
        terminated: NDArray[np.bool_],
        ended: NDArray[np.bool_],
    ) -> Rows:
        """One step: ids `[E, stack]` before and after it, and `[E]` of the rest; the windows that it closed.

        `ended` is true wherever windows must not go on: `terminated`, and every other end of an episode.
        """
        if self.n_step == 1:
            return Rows(obs, action, reward, self._gammas[1] * ~terminated, next_obs)
        self._extend(obs, action, reward)
        return self._close(next_obs, terminated, ended)

    def _extend(self, obs: Ids, action: NDArray[np.integer[Any]], reward: NDArray[np.float64]) -> None:
        """Open a window in each environment, and add the reward to it and to those that are open."""
        line = self._step % self.n_step
        self._windows["obs"][line] = obs
        self._windows["action"][line] = action
        self._windows["reward"][line] = 0.0
        age = (self._step - np.arange(self.n_step)) % self.n_step
        # lines of closed windows gather rubbish until they are opened again
        self._windows["reward"] += self._gammas[age, None] * reward

    def _close(self, next_obs: Ids, terminated: NDArray[np.bool_], ended: NDArray[np.bool_]) -> Rows:
        """Take out every window of environments that ended, and of the others the one that has its n steps."""
        self._step += 1
        length = self._step - self._oldest
        closed = np.where(ended, length, length == self.n_step)
        lane = self._lanes.repeat(closed)
        nth = np.arange(len(lane)) - (closed.cumsum() - closed)[lane]  # of this lane's windows
        began = self._oldest[lane] + nth
        self._oldest += closed
        taken = self._windows[began % self.n_step, lane]
        discount = self._gammas[self._step - began] * ~terminated[lane]
        return Rows(taken["obs"], taken["action"], taken["reward"], discount, next_obs[lane])

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next steps depend on, as plain arrays (views, not copies)."""
        fields = {f"window.{name}": self._windows[name] for name in ("obs", "action", "reward")}
        return {**fields, "window.oldest": self._oldest, "window.step": np.array(self._step)}
