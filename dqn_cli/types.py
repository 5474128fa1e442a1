"""The words that the rooms share: names, shapes and dtypes, no logic.

E is the number of parallel environments, B the batch size, A the number of actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the checks before a run read these types too, and must not wait for torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ObsSpec:
    """What an agent observes: `stack` consecutive frames. Every array is allocated from it.

    CartPole `((4,), "float32", 1)`, Pong `((84, 84), "uint8", 4)`, FrozenLake one-hot `((16,), "float32", 1)`.
    """

    frame_shape: tuple[int, ...]
    dtype: str
    stack: int = 1

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """`frame_shape` without stacking, else `(stack, *frame_shape)`, oldest frame first."""
        return self.frame_shape if self.stack == 1 else (self.stack, *self.frame_shape)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return prod(self.frame_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class EpisodeStats:
    """A finished episode: raw (unclipped, undiscounted) return, length in agent steps."""

    lane: int
    episode: int  # counted per lane, from 0
    score: float
    length: int


@dataclass(slots=True)
class StepResult:
    """One step of E environments. The arrays may be reused by the step after the next `recv`: copy to keep.

    `next_frame` is the true successor, also where an episode was truncated; `frame` is the one to act on next, so it
    differs from `next_frame` only where `first` says that it begins a new episode. A terminal life loss is
    `terminated` without `first`: the end of an episode for learning, while the game goes on.
    """

    frame: NDArray[np.generic]  # [E, *frame_shape]
    next_frame: NDArray[np.generic]  # [E, *frame_shape]
    reward: NDArray[np.float64]  # [E], raw
    terminated: NDArray[np.bool_]  # [E]
    truncated: NDArray[np.bool_]  # [E]
    first: NDArray[np.bool_]  # [E]
    episodes: list[EpisodeStats] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions to learn from. `discount` is gamma^m (1 - terminated) after m steps: 0 means do not bootstrap.

    `weight` is None where all transitions count the same, `row` where the batch did not come from a memory.
    """

    obs: Tensor  # [B, *obs_shape], dtype of the spec
    action: Tensor  # [B] int64
    reward: Tensor  # [B] float32, the n-step sum
    discount: Tensor  # [B] float32
    next_obs: Tensor  # [B, *obs_shape]
    weight: Tensor | None = None  # [B] float32, importance weights, the largest is 1
    row: NDArray[np.int64] | None = None  # [B], of which rows of the memory these are copies


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What one gradient update tells, as tensors that nobody synchronises until somebody needs their numbers."""

    loss: Tensor
    mean_q: Tensor  # mean over the batch of Q(s, a) for the actions taken
    grad_norm: Tensor | None  # before clipping; None where gradients are not clipped
    priority: Tensor  # [B] float32, how wrong each prediction was: 0 or more
