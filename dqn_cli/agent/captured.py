"""An update as one CUDA graph: a hundred kernels that are launched by a single call.

A captured update reads its batch from the same memory each time and leaves its results in the same memory; nothing in
it waits for the GPU, or decides anything by a number that only the GPU knows. What the CPU decides, such as the
learning rate, must therefore lie in a tensor, or never change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from dqn_cli.device import Fence, staging
from dqn_cli.types import Batch, UpdateResult

WARM_UP = 3  # updates that are made one kernel after the other, as a capture must find everything allocated

Update = Callable[[Batch], UpdateResult]


class Recorder(Protocol):
    """Does the same work again and again, on the same memory."""

    def warm_up(self, work: Callable[[], UpdateResult]) -> UpdateResult:
        """Do the work as it is."""

    def record(self, work: Callable[[], UpdateResult]) -> None:
        """Note what the work is, without doing it. Raises `RuntimeError` where it cannot be recorded."""

    def replay(self) -> UpdateResult:
        """Do it; the results lie where they always do."""


class Captured:
    """`update` by way of a recorder: the first calls as it is, then as it was recorded. Batches are all of one shape.

    What a call returns is overwritten by the next one. Where the update cannot be recorded, `say` is told so in a line,
    and updates are made as they are.
    """

    def __init__(self, update: Update, recorder: Recorder, device: torch.device, say: Callable[[str], None]) -> None:
        self._update = update
        self._recorder: Recorder | None = recorder
        self._device = device
        self._say = say
        self._calls = 0
        self._input: _Input | None = None

    @property
    def way(self) -> str:
        """How updates are computed, in words."""
        return "by autograd" if self._recorder is None else "as a CUDA graph"

    def __call__(self, batch: Batch) -> UpdateResult:
        """One update."""
        if self._recorder is None:
            return self._update(batch)
        if self._input is None:
            self._input = _Input(batch, self._device)
        static = self._input
        static.fill(batch)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._recorder.warm_up(lambda: self._update(static.batch()))
        if self._calls == WARM_UP + 1:
            try:
                self._recorder.record(lambda: self._update(static.batch()))
            except RuntimeError as error:
                self._recorder = None
                self._say(f"note: updates are not captured as a CUDA graph: {' '.join(str(error).split())[:160]}")
                return self._update(batch)
        return self._recorder.replay()


class _Input:
    """The memory that a captured update reads its batch from.

    Numbers go over in one copy, actions among them: float32 holds integers up to 2^24. What comes from the host goes by
    way of memory that the GPU fetches it from while the host goes on.
    """

    def __init__(self, like: Batch, device: torch.device) -> None:
        size = len(like.action)
        self._weighted = like.weight is not None
        self._obs = torch.empty((size, 2, *like.obs.shape[1:]), dtype=like.obs.dtype, device=device)
        self._numbers = torch.empty(4, size, device=device)
        self._fetched = Fence(device)
        self._staged = staging(self._numbers)
        # a memory on the GPU gives batches that are there already
        self._staged_obs = None if like.obs.device == device else staging(self._obs)

    def fill(self, batch: Batch) -> None:
        """Copy a batch in, behind the work that still reads the one before."""
        self._fetched.wait()  # for the last batch, before it is overwritten
        obs = self._obs if self._staged_obs is None else self._staged_obs
        obs[:, 0].copy_(batch.obs)
        obs[:, 1].copy_(batch.next_obs)
        if self._staged_obs is not None:
            self._obs.copy_(self._staged_obs, non_blocking=True)
        columns = (batch.action, batch.reward, batch.discount, batch.weight if self._weighted else None)
        for row, column in zip(self._staged, columns, strict=True):
            if column is not None:
                row.copy_(column)
        self._numbers.copy_(self._staged, non_blocking=True)
        self._fetched.mark()

    def batch(self) -> Batch:
        """What was filled in last; to be asked for within the work, so that the actions become integers again there."""
        action, reward, discount, weight = self._numbers
        obs = self._obs
        return Batch(
            obs=obs[:, 0],
            action=action.to(torch.int64),
            reward=reward,
            discount=discount,
            next_obs=obs[:, 1],
            weight=weight if self._weighted else None,
        )
