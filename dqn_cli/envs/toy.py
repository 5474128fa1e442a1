"""Tiny worlds whose Q* is known, as Gymnasium environments: importing this module registers them.

dqn-train env=gym env.id=DqnChain-v0 env.module=dqn_cli.envs.toy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from dqn_cli.envs.tabular import Table

Step = tuple[int, float, bool, bool, dict[str, Any]]


class Chain(gymnasium.Env[Any, Any]):
    """States 0 ... n-1 in a row, action 0 goes left and 1 right; the last state ends the episode with reward 1."""

    def __init__(self, states: int = 6) -> None:
        if states < 2:
            raise ValueError(f"states={states} is not at least 2")
        self.observation_space = Discrete(states)
        self.action_space = Discrete(2)
        self.states, self._state = states, 0
        last = states - 1
        moves = [(max(s - 1, 0), min(s + 1, last)) for s in range(last)]
        self.P: Table = {
            s: {a: [(1.0, to, float(to == last), to == last)] for a, to in enumerate(pair)}
            for s, pair in enumerate(moves)
        }
        self.P[last] = {a: [(1.0, last, 0.0, True)] for a in range(2)}
        self.initial_state_distrib = np.eye(states)[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Go to state 0."""
        super().reset(seed=seed)
        self._state = 0
        return self._state, {}

    def step(self, action: int) -> Step:
        """Go left or right."""
        ((_, self._state, reward, terminated),) = self.P[self._state][action]
        return self._state, reward, terminated, False, {}

    def q_star(self, discount: float) -> NDArray[np.float64]:
        """Q* `[states, 2]`: gamma^(steps still to go - 1), going left one or two steps farther than going right."""
        last = self.states - 1
        to_go = last - np.arange(last)  # steps to the end, going right
        after_left = np.minimum(to_go + 1, last)
        q = np.zeros((self.states, 2))
        q[:last, 0] = discount**after_left
        q[:last, 1] = discount ** (to_go - 1)
        return q


class Bandit(gymnasium.Env[Any, Any]):
    """One state, one step: arm a pays means[a] plus Gaussian noise. Q* is `means`; the max over noisy estimates is not.

    The world of van Hasselt et al. 2016, section "Overoptimism due to estimation errors", at its smallest.
    """

    def __init__(self, means: Sequence[float] = (0.0,) * 10, noise: float = 1.0) -> None:
        self.observation_space = Discrete(1)
        self.action_space = Discrete(len(means))
        self.means, self.noise = tuple(means), noise

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Go to the only state."""
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> Step:
        """Pull an arm; the episode ends."""
        return 0, float(self.means[action] + self.noise * self.np_random.standard_normal()), True, False, {}

    def q_star(self) -> NDArray[np.float64]:
        """Q* `[1, arms]`, for every discount."""
        return np.array([self.means])


gymnasium.register("DqnChain-v0", entry_point="dqn_cli.envs.toy:Chain", max_episode_steps=100)
gymnasium.register("DqnBandit-v0", entry_point="dqn_cli.envs.toy:Bandit", max_episode_steps=10)
