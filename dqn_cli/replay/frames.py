"""Each frame stored once, under an id that only grows; and the one rule for which frames make a stack."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqn_cli.types import ObsSpec

Ids = NDArray[np.int64]
Stack = tuple[int, ...]  # the ids of an observation's frames, oldest first


class Ring(NamedTuple):
    """What a ring holds: the record `id` of those in [begin, end) lies at `id` modulo the storage's length.

    Records that resemble each other, since they are of one environment, come `lanes` ids apart, as a rule.
    """

    storage: NDArray[Any]
    begin: int
    end: int
    lanes: int

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return self.storage[:1].nbytes


def first_stack(first: int, stack: int) -> Stack:
    """The ids at an episode's start: the first frame, repeated."""
    return (first,) * stack


def pushed_stack(stack: Stack, newest: int) -> Stack:
    """The ids one step later: the oldest frame leaves, the newest enters at the end."""
    return (*stack[1:], newest)


def ring_slots(first_id: int, count: int, size: int) -> slice | Ids:
    """Where `count` consecutive ids live in a ring of `size`: id modulo size, a slice where it does not wrap."""
    slot = first_id % size
    if slot + count <= size:
        return slice(slot, slot + count)
    return np.arange(first_id, first_id + count) % size


def lost(ids: Ids, begin: int, end: int) -> bool:
    """Whether some of the stacks `[..., stack]` have frames outside [begin, end), or not in their order of time."""
    return bool((ids < begin).any() or (ids >= end).any() or (ids[..., 1:] < ids[..., :-1]).any())


class FrameRing:
    """The newest `frames` frames of all environments, interleaved; older ones are overwritten.

    `storage [frames, *frame_shape]` holds the frame `id` at `id` modulo its length, `next_id` is the next one to come.
    """

    def __init__(self, frames: int, spec: ObsSpec) -> None:
        self.storage: NDArray[Any] = np.zeros((frames, *spec.frame_shape), spec.dtype)  # lazy: pages come with writes
        self.next_id = 0

    def __len__(self) -> int:
        """Frames that fit."""
        return len(self.storage)

    def append(self, frames: NDArray[Any]) -> range:
        """Copy `[s, *frame_shape]` into the ring and return their ids; s is at most the ring's length."""
        begin, self.next_id = self.next_id, self.next_id + len(frames)
        self.storage[ring_slots(begin, len(frames), len(self.storage))] = frames
        return range(begin, self.next_id)

    def gather(self, ids: Ids) -> NDArray[Any]:
        """Frames `[..., *frame_shape]`, a copy. The ids `[...]` must still be in the ring."""
        return self.storage.take(ids % len(self.storage), axis=0)

    def filled(self) -> None:
        """`storage` was written from elsewhere; nothing else has to know."""
