"""n-step returns, finished before they are stored (Sutton & Barto 2018, section 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqn_cli.replay.frames import Ids, lost
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
    An episode that was cut on resume ends like one that was truncated.
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

    def cut(self, obs: Ids) -> Rows:
        """Every episode ends here without another step: the open windows close, and bootstrap from `obs [E, stack]`."""
        if self.n_step == 1:
            return Rows(obs[:0], np.zeros(0, np.int32), np.zeros(0), np.zeros(0), obs[:0])
        return self._close(obs, np.zeros(self.num_envs, bool), np.ones(self.num_envs, bool))

    def _extend(self, obs: Ids, action: NDArray[np.integer[Any]], reward: NDArray[np.float64]) -> None:
        """Open a window in each environment, and add the reward to it and to those that are open."""
        line = self._step % self.n_step
        self._windows["obs"][line] = obs
        self._windows["action"][line] = action
        self._windows["reward"][line] = 0.0
        age = (self._step - np.arange(self.n_step)) % self.n_step
        # lines of closed windows gather rubbish until they are opened again
        self._windows["reward"] += self._gammas[age, None] * reward
        self._step += 1

    def _close(self, next_obs: Ids, terminated: NDArray[np.bool_], ended: NDArray[np.bool_]) -> Rows:
        """Take out every window of environments that ended, and of the others the one that has its n steps."""
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

    def load(self, state: Mapping[str, NDArray[Any]], begin: int, end: int, num_actions: int) -> None:
        """Take over a `state_dict` of arrays as large as these, whose open windows point to frames in [begin, end).

        Raises `ValueError` where it is not one.
        """
        self._step, self._oldest = int(state["window.step"]), state["window.oldest"].copy()
        for name in ("obs", "action", "reward"):
            self._windows[name] = state[f"window.{name}"]
        length = self._step - self._oldest
        if not (0 <= self._step <= end and ((length >= 0) & (length < self.n_step) & (self._oldest >= 0)).all()):
            raise ValueError("a lane has more open windows than there can be")
        began = self._step - 1 - np.arange(self.n_step)
        windows = self._windows[began % self.n_step][began[:, None] >= self._oldest]
        if lost(windows["obs"], begin, end):
            raise ValueError("an open window points to a lost frame")
        if not ((windows["action"] >= 0) & (windows["action"] < num_actions)).all():
            raise ValueError("an open window has an action that there is not")
        if not np.isfinite(self._windows["reward"]).all():
            raise ValueError("the reward of an open window is not finite")
