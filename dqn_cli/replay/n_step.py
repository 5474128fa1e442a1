"""n-step returns, finished before they are stored (Sutton & Barto 2018, section 7.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_cli.replay.frames import Stack, lost
from dqn_cli.replay.size import window_dtype

Row = tuple[Stack, Stack, int, float, float]
"""A finished transition: the stacks of obs and next_obs, the action, the sum of gamma^i r_i over the m steps of the
window, and gamma^m (1 - terminated)."""


class NStepAccumulator:
    """Turns steps of E environments into n-step transitions; the sole owner of gamma.

    A window opens at every step and closes after `n_step` steps, or earlier where the episode ends: then every open
    window of that environment closes, and bootstraps from the true last frame unless the end is a termination.
    An episode that was cut on resume ends like one that was truncated.
    Closed windows come in the order of environments, the oldest of each first: 0 to `n_step` per environment.
    """

    def __init__(self, n_step: int, discount: float, num_envs: int) -> None:
        self.n_step, self.num_envs = n_step, num_envs
        gammas = np.power(float(discount), np.arange(n_step + 1))  # gamma^0 ... gamma^n
        self._gammas: list[float] = gammas.tolist()
        self.allocate(stack=1)

    def allocate(self, stack: int) -> None:
        """Forget every open window, and expect stacks of `stack` ids; the memory does this once.

        All environments step together, so a window that opened at step t lies in line t modulo n, for all of them.
        One step windows close at once and need no room.
        """
        self._stack = stack
        envs = self.num_envs if self.n_step > 1 else 0
        # Plain numbers, not arrays: there are few environments, and NumPy takes as long for one number as for hundreds.
        self._obs: list[list[Stack]] = [[(0,) * stack] * envs for _ in range(self.n_step)]  # [n][E]
        self._action = [[0] * envs for _ in range(self.n_step)]
        self._reward = [[0.0] * envs for _ in range(self.n_step)]
        self._oldest = [0] * envs  # the step at which each environment's oldest open window began
        self._step = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the open windows, as arrays."""
        return self.n_step * len(self._oldest) * window_dtype(self._stack).itemsize + len(self._oldest) * 8

    def push(
        self,
        obs: Sequence[Stack],
        action: Sequence[int],
        reward: Sequence[float],
        next_obs: Sequence[Stack],
        terminated: Sequence[bool],
        ended: Sequence[bool],
    ) -> list[Row]:
        """One step of E environments: what was before it and after it; the windows that it closed.

        `ended` is true wherever windows must not go on: `terminated`, and every other end of an episode.
        """
        if self.n_step == 1:
            gamma = self._gammas[1]
            discount = [0.0 if end else gamma for end in terminated] if True in terminated else [gamma] * len(obs)
            return list(zip(obs, next_obs, action, reward, discount, strict=True))
        self._extend(obs, action, reward)
        return self._close(next_obs, terminated, ended)

    def cut(self, obs: Sequence[Stack]) -> list[Row]:
        """Every episode ends here without another step: the open windows close, and bootstrap from `obs` [E]."""
        if self.n_step == 1:
            return []
        return self._close(obs, [False] * self.num_envs, [True] * self.num_envs)

    def _extend(self, obs: Sequence[Stack], action: Sequence[int], reward: Sequence[float]) -> None:
        """Open a window in each environment, and add the reward to it and to those that are open."""
        newest = self._step % self.n_step
        self._obs[newest], self._action[newest] = list(obs), list(action)
        self._reward[newest] = [0.0] * len(reward)
        for line, sums in enumerate(self._reward):
            gamma = self._gammas[(newest - line) % self.n_step]
            # lines of closed windows gather rubbish until they are opened again
            self._reward[line] = [total + gamma * gained for total, gained in zip(sums, reward, strict=True)]
        self._step += 1

    def _close(self, next_obs: Sequence[Stack], terminated: Sequence[bool], ended: Sequence[bool]) -> list[Row]:
        """Take out every window of environments that ended, and of the others the one that has its n steps."""
        n_step, now, rows = self.n_step, self._step, []
        for lane, (began, end) in enumerate(zip(self._oldest, ended, strict=True)):
            upto = now if end else now - n_step + 1
            for step in range(began, upto):
                line = step % n_step
                discount = 0.0 if terminated[lane] else self._gammas[now - step]
                reward = self._reward[line][lane]
                rows.append((self._obs[line][lane], next_obs[lane], self._action[line][lane], reward, discount))
            self._oldest[lane] = max(began, upto)
        return rows

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next steps depend on, as plain arrays: `[n, E, ...]`, and of each environment `[E]`."""
        envs = len(self._oldest)
        windows = np.zeros((self.n_step, envs), window_dtype(self._stack))
        if envs:
            windows["obs"], windows["action"], windows["reward"] = self._obs, self._action, self._reward
        fields = {f"window.{name}": windows[name] for name in ("obs", "action", "reward")}
        return {**fields, "window.oldest": np.array(self._oldest, np.int64), "window.step": np.array(self._step)}

    def load(self, state: Mapping[str, NDArray[Any]], begin: int, end: int, num_actions: int) -> None:
        """Take over a `state_dict` of arrays as large as these, whose open windows point to frames in [begin, end).

        Raises `ValueError` where it is not one.
        """
        step, oldest = int(state["window.step"]), state["window.oldest"]
        length = step - oldest
        if not (0 <= step <= end and ((length >= 0) & (length < self.n_step) & (oldest >= 0)).all()):
            raise ValueError("a lane has more open windows than there can be")
        began = (step - 1 - np.arange(self.n_step))[:, None]
        is_open = np.zeros(state["window.action"].shape, bool)
        is_open[began[:, 0] % self.n_step] = began >= oldest
        if lost(state["window.obs"][is_open], begin, end):
            raise ValueError("an open window points to a lost frame")
        action = state["window.action"][is_open]
        if not ((action >= 0) & (action < num_actions)).all():
            raise ValueError("an open window has an action that there is not")
        if not np.isfinite(state["window.reward"]).all():
            raise ValueError("the reward of an open window is not finite")
        self._step, self._oldest = step, oldest.tolist()
        self._obs = [[tuple(stack) for stack in line] for line in state["window.obs"].tolist()]
        self._action, self._reward = state["window.action"].tolist(), state["window.reward"].tolist()
