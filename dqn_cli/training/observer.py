"""What an evaluation tells about the values beside its scores: whether they are too high, and how returns spread."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_cli.algorithm.implicit import FqfLook, ImplicitLook
from dqn_cli.algorithm.values import Categorical, Look, Quantile, Value
from dqn_cli.training.evaluator import Returns, Seen, Thinks
from dqn_cli.types import StepResult


class Observer:
    """Compares the values of the states that `actor` visits with the returns that follow (van Hasselt et al. 2016).

    Their figure 3 shows the mean of max_a Q(s, a) over all states visited, and beside it the mean of their actual
    discounted returns. `discount` and `reward_clip` are those of the training. An episode that was truncated goes on
    unseen: its last state's own estimate stands for the rest, and that state is not counted.
    """

    def __init__(self, actor: Thinks, discount: float, reward_clip: float | None) -> None:
        self._actor = actor
        self._discount = discount
        self._clip = np.inf if reward_clip is None else reward_clip
        self._open: list[list[tuple[float, float]]] = []  # per lane: estimate and reward of each step of its episode
        self._estimates = self._returns = 0.0  # sums
        self._states = 0

    def add(self, step: StepResult, counted: NDArray[np.bool_]) -> None:
        """What the actor's newest actions `[E]` led to; only the `counted` lanes matter."""
        if not self._open:
            self._first_obs = self._actor.obs[:1].copy()
            self._open = [[] for _ in counted]
        estimate, reward = self._actor.values().max(axis=1), step.reward.clip(-self._clip, self._clip)
        ended = step.terminated | step.truncated | step.first
        for lane in np.flatnonzero(counted).tolist():
            self._open[lane].append((float(estimate[lane]), float(reward[lane])))
            if ended[lane]:
                self._close(lane, bool(step.terminated[lane]))

    def _close(self, lane: int, terminated: bool) -> None:
        """Add up an episode, from its end to its beginning."""
        episode, self._open[lane] = self._open[lane], []
        ahead = 0.0 if terminated else episode.pop()[0]
        for estimate, reward in reversed(episode):
            ahead = reward + self._discount * ahead
            self._estimates += estimate
            self._returns += ahead
        self._states += len(episode)

    def seen(self) -> Seen:
        """Both means, and the distribution of the return at the first state of the first episode."""
        n = self._states
        return Seen(self._estimates / n if n else None, self._returns / n if n else None, self._first_returns())

    def _first_returns(self) -> Returns | None:
        with torch.inference_mode():
            return returns_of(self._actor.policy.value, self._actor.policy.look(self._first_obs))


def returns_of(value: Value, look: Look) -> Returns | None:
    """What is known of the returns at the first observation of `look`, which `value` made.

    None where their mean is all that is known, or where they are no numbers.
    """
    z, q = look.z[0], _plain(look.q[0])
    if not z.isfinite().all():
        return None
    match value, look:
        case Categorical(), _:
            return Returns(q, _plain(value.atoms.expand_as(z)), mass=_plain(z.softmax(dim=1)))
        case Quantile(), _:
            fraction = value.tau
        case _, ImplicitLook():
            fraction = look.tau[0]
        case _, FqfLook():
            fraction = look.fractions.midpoints[0]
        case _:
            return None
    return Returns(q, _plain(z), fraction=_plain(fraction.expand_as(z)))


def _plain(x: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = x.double().cpu().numpy()
    return numbers
