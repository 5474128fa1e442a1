"""Consecutive frames made into one observation, for acting. The replay memory builds the same stacks by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_cli.types import ObsSpec


class FrameStack:
    """The last `spec.stack` frames of each of E environments, oldest first (Mnih et al. 2015, Methods)."""

    def __init__(self, spec: ObsSpec, num_envs: int) -> None:
        self._single = spec.stack == 1
        shape = (0,) if self._single else (num_envs, *spec.obs_shape)
        self._old, self._new = np.zeros(shape, spec.dtype), np.zeros(shape, spec.dtype)

    def push(self, frame: NDArray[Any], first: NDArray[np.bool_]) -> NDArray[Any]:
        """Add the frames `[E, *frame_shape]`; the observations `[E, *obs_shape]`, valid until the next push but one.

        Where `first [E]` says that an episode begins, its first frame is repeated. Without stacking the observation
        is `frame` itself.
        """
        if self._single:
            return frame
        self._old, self._new = self._new, self._old
        self._new[:, :-1] = self._old[:, 1:]
        self._new[:, -1] = frame
        if first.any():
            self._new[first] = frame[first, None]
        return self._new

    @property
    def frames(self) -> NDArray[Any]:
        """What the next push goes on from, `[E, *obs_shape]`, and may be written to; empty without stacking."""
        return self._new
