"""How actions deviate from the greedy one: from Q-values and two uniform numbers per environment to actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Uniform = Sequence[float]  # E of them, in [0, 1)
Actions = NDArray[np.int64]  # [E]
Values = Callable[[], NDArray[np.float32]]  # gives Q-values [E, A]


class Explorer(Protocol):
    """Chooses the actions of E environments. `q` gives their Q-values [E, A], at the price of a forward pass."""

    def choose(self, level: float, coin: Uniform, choice: Uniform, q: Values) -> Actions:
        """Actions [E]; `level` says how much to explore, in units of the explorer's own."""


class EpsilonGreedy:
    """With probability epsilon (the level) an action at random, else the greedy one (Sutton & Barto 2018, section 2.2).

    With `powers` [E] environment i explores with epsilon^powers[i] (Horgan et al. 2018, section 4.1). No forward pass
    where every environment explores.
    """

    def __init__(self, num_actions: int, powers: Sequence[float] | None = None) -> None:
        self._num_actions = num_actions
        self._powers = None if powers is None else np.array(powers)

    def choose(self, level: float, coin: Uniform, choice: Uniform, q: Values) -> Actions:
        """Actions [E]; `level` is epsilon."""
        epsilon = [level] * len(coin) if self._powers is None else (level**self._powers).tolist()
        explore = [c < e for c, e in zip(coin, epsilon, strict=True)]
        action = [int(c * self._num_actions) for c in choice]
        if not all(explore):
            # of equal values the first one, as `greedy_action` has it
            greedy = q().argmax(axis=1).tolist()
            action = [a if e else g for e, a, g in zip(explore, action, greedy, strict=True)]
        return np.array(action, np.int64)


class Boltzmann:
    """Action a with probability proportional to exp(Q(s, a) / temperature) (the level); one forward pass a step."""

    def choose(self, level: float, coin: Uniform, choice: Uniform, q: Values) -> Actions:
        """Actions [E]; `level` is the temperature."""
        values = q().astype(np.float64)
        mass = np.exp((values - values.max(axis=1, keepdims=True)) / level).cumsum(axis=1)
        # the last sum is the total, so that a choice just below 1 cannot fall behind it
        action: Actions = (mass <= np.array(choice)[:, None] * mass[:, -1:]).sum(axis=1)
        return action
