"""Exact answers for small worlds whose transition table is known: Q*, and what a policy is worth without sampling.

Gymnasium's toy-text environments carry such a table:

    world = env.unwrapped
    model = Model.of(world.P, world.initial_state_distrib)
    q = optimal_q(model, discount=0.99)
    success = expected_return(model, greedy(q), time_limit_steps=100)

On FrozenLake the expected return is the probability of success. S is the number of states, A of actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# table[state][action] lists (probability, next state, reward, terminated)
Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Model:
    """A Markov decision process: `reward [S, A]` expected, `onward [S, A, S]` the probability of each next state
    *and* that the episode goes on, `start [S]` the distribution of first states.
    """

    reward: Floats
    onward: Floats
    start: Floats

    @classmethod
    def of(
        cls,
        table: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]],
        start: ArrayLike,
    ) -> Model:
        """The model of a transition table as Gymnasium writes it (`env.unwrapped.P`)."""
        states, actions = len(table), len(table[0])
        reward, onward = np.zeros((states, actions)), np.zeros((states, actions, states))
        for s, row in table.items():
            for a, outcomes in row.items():
                for probability, to, pay, terminated in outcomes:
                    reward[s, a] += probability * pay
                    onward[s, a, to] += 0.0 if terminated else probability
        return cls(reward, onward, np.asarray(start, np.float64))


def optimal_q(model: Model, discount: float, tolerance: float = 1e-12) -> Floats:
    """Q* `[S, A]` without a time limit, by value iteration: Q(s, a) <- r + gamma sum_s' p(s') max_a' Q(s', a').

    Raises `ValueError` where it does not converge (possible for discount 1 only).
    """
    q: Floats = np.zeros_like(model.reward)
    for _ in range(100_000):
        better = model.reward + discount * model.onward @ q.max(axis=1)
        change, q = np.abs(better - q).max(), better
        if change <= tolerance:
            return q
    raise ValueError(f"value iteration with discount={discount} did not converge; take one below 1")


def greedy(q: ArrayLike) -> Floats:
    """The policy `[S, A]` that takes the best action of `q [S, A]`, the first one among equals."""
    values = np.asarray(q, np.float64)
    policy = np.zeros_like(values)
    policy[np.arange(len(values)), values.argmax(axis=1)] = 1
    return policy


def epsilon_greedy(q: ArrayLike, epsilon: float) -> Floats:
    """The policy `[S, A]` that is greedy for `q`, but uniformly random with probability `epsilon`."""
    best = greedy(q)
    policy: Floats = (1 - epsilon) * best + epsilon / best.shape[1]
    return policy


def expected_return(model: Model, policy: Floats, time_limit_steps: int) -> float:
    """Undiscounted return of `policy [S, A]` in an episode of at most `time_limit_steps`, exactly."""
    reward = (policy * model.reward).sum(axis=1)
    onward = np.einsum("sa,sat->st", policy, model.onward)
    value = np.zeros_like(reward)
    for _ in range(time_limit_steps):
        value = reward + onward @ value
    return float(model.start @ value)


def best_return(model: Model, time_limit_steps: int) -> float:
    """The best undiscounted return of any policy, also of one that looks at the clock: nothing can score higher."""
    value = np.zeros(len(model.start))
    for _ in range(time_limit_steps):
        value = (model.reward + model.onward @ value).max(axis=1)
    return float(model.start @ value)
