"""Frames on the device that learns as well: a batch is put together there, and only numbers of frames go over."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dqn_cli.device import sent
from dqn_cli.replay.frames import FrameRing, Ids, ring_slots
from dqn_cli.types import ObsSpec


class MirroredRing(FrameRing):
    """A `FrameRing` whose frames lie on `device` too: each goes over once, when it comes; batches are gathered there.

    The host's own are what checkpoints are written from. Raises `RuntimeError` where the device has no room.
    """

    def __init__(self, frames: int, spec: ObsSpec, device: torch.device) -> None:
        super().__init__(frames, spec)
        self._mirror = torch.zeros(self.storage.shape, dtype=torch.from_numpy(self.storage[:0]).dtype, device=device)

    def append(self, frames: NDArray[Any]) -> range:
        """As `FrameRing.append`."""
        begin = self.next_id
        ids = super().append(frames)
        slots = ring_slots(begin, len(frames), len(self.storage))
        where: Any = slots if isinstance(slots, slice) else sent(slots, self._mirror.device)
        self._mirror[where] = sent(np.ascontiguousarray(frames), self._mirror.device)
        return ids

    def gather(self, ids: Ids) -> torch.Tensor:  # type: ignore[override]
        """As `FrameRing.gather`, but a tensor on the device."""
        return self._mirror[sent(ids % len(self.storage), self._mirror.device)]

    def filled(self) -> None:
        """Take over what was written into `storage` from elsewhere."""
        self._mirror.copy_(torch.from_numpy(self.storage))
