"""What a run is made of, as a checkpoint holds it, and how each part comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from dqn_cli import device, seeding
from dqn_cli.agent.learner import Learner
from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.envs.journal import JournaledLanes
from dqn_cli.errors import CheckpointError
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.segments import Segment, SegmentStore, parse
from dqn_cli.training.checkpoint import Checkpoint
from dqn_cli.types import UpdateResult

Arrays = dict[str, NDArray[Any]]
Stream = Generator | torch.Generator  # of random numbers
STACK, RESULT = "actor.stack", "learner.result"


@dataclass(frozen=True)
class Snapshot:
    """The parts of a run that hold what it has become. Without `segments` the memory is not kept on disk."""

    lanes: JournaledLanes
    stack: FrameStack
    memory: ReplayMemory
    learner: Learner
    streams: Mapping[str, Stream]
    segments: SegmentStore | None

    def weights(self) -> dict[str, Any]:
        """What a checkpoint without the rest of the run holds."""
        return {"model": self.learner.model_state()}

    def whole(self, result: UpdateResult | None) -> dict[str, Any]:
        """All that `restore` needs; the memory's frames and rows are on disk when this returns."""
        arrays = {**self.lanes.state(), STACK: self.stack.frames, **numbers_of(result)}
        segments: list[dict[str, Any]] = []
        if self.segments is not None:
            arrays |= self.memory.small_state()
            segments = [asdict(segment) for segment in self.segments.save(self.memory.rings())]
        optimizer = self.learner.optimizer_state()
        return {**self.weights(), "optimizer": optimizer, "arrays": arrays, "segments": segments}

    def positions(self) -> dict[str, Any]:
        """Where each stream of random numbers stands, as plain data."""
        return {name: position(stream) for name, stream in self.streams.items()}

    def restore(self, found: Checkpoint, exact: bool, replaying: Callable[[int], None]) -> Restored:
        """Let every part be as it was when `found` was written.

        With `exact=False` new episodes begin, and so they do where the memory has to be filled again; else `replaying`
        is told how many steps the environments will play again. Raises `CheckpointError` where a part is missing or is
        not of this run, `EnvironmentFault` where the environments do not come back.
        """
        arrays = found.arrays or {}
        with refusing("model.safetensors or optimizer.safetensors"):
            self.learner.load_model_state(found.model)
            self.learner.load_optimizer_state(found.optimizer or {})
        with refusing("the streams of state.json"):
            move_all(self.streams, found.state["streams"])
        with refusing("loop.safetensors"):
            result = result_of(arrays.get(RESULT))
            stack = fitting(arrays[STACK], self.stack.frames)
            refilled_at = found.state["refilled_at"]
            if type(refilled_at) is not int or not 0 <= refilled_at <= found.step:
                raise ValueError(f"refilled_at {refilled_at!r:.40} at step {found.step}")
            if self.lanes.replayed_steps(below("lanes.", arrays)) * self.lanes.num_envs > found.step:
                raise ValueError(f"more actions than the {found.step} steps of the run")
        refilling, journal = self.segments is None or not found.segments, below("lanes.", arrays)
        if not refilling:
            self._load_memory(below("memory.", arrays), parse(found.segments))
        if exact and not refilling:
            replaying(self.lanes.replayed_steps(journal))
            frame, first = self.lanes.restore(journal)
            np.copyto(self.stack.frames, stack)
        else:
            frame, first = self.lanes.restart(journal)
            (self.memory.start if refilling else self.memory.cut)(frame)
        return Restored(frame, first, result, refilling, found.step if refilling else refilled_at)

    def prune(self, keep: set[str]) -> None:
        """Delete the segments that no checkpoint names any more."""
        if self.segments is not None:
            self.segments.prune(keep)

    def _load_memory(self, small: Arrays, segments: list[Segment]) -> None:
        store = self.segments
        assert store is not None
        self.memory.load(small, lambda rings: store.load(segments, rings), self.lanes.num_actions)


@dataclass(frozen=True, eq=False)
class Restored:
    """Where the loop goes on: frames to act on, which of them begin an episode, and the newest update's numbers."""

    frame: NDArray[Any]  # [E, *frame_shape]
    first: NDArray[np.bool_]  # [E]
    result: UpdateResult | None
    refilling: bool  # the memory is empty
    refilled_at: int  # the step at which the memory began anew, 0 for the run's own beginning


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Those arrays whose names begin so."""
    return {name: array for name, array in arrays.items() if name.startswith(prefix)}


def numbers_of(result: UpdateResult | None) -> Arrays:
    """What the rows of `metrics.csv` need of the newest update; nothing before the first one."""
    if result is None:
        return {}
    norm = float("nan") if result.grad_norm is None else float(result.grad_norm)
    return {RESULT: np.array([float(result.loss), float(result.mean_q), norm], np.float32)}


def result_of(numbers: NDArray[Any] | None) -> UpdateResult | None:
    """The inverse of `numbers_of`. Raises `ValueError`."""
    if numbers is None:
        return None
    loss, mean_q, norm = torch.from_numpy(fitting(numbers, np.zeros(3, np.float32)))
    return UpdateResult(loss, mean_q, None if norm.isnan() else norm, torch.empty(0))


def fitting(array: NDArray[Any], own: NDArray[Any]) -> NDArray[Any]:
    """`array`, if it has the shape and the type of `own`; else raises `ValueError`."""
    if array.shape != own.shape or array.dtype != own.dtype:
        raise ValueError(f"{array.dtype} of shape {array.shape} in the place of {own.dtype} of shape {own.shape}")
    return array


def position(stream: Stream) -> Any:
    """Where a stream of random numbers stands, as plain data."""
    return device.state_of(stream) if isinstance(stream, torch.Generator) else seeding.state_of(stream)


def move_all(streams: Mapping[str, Stream], positions: Mapping[str, Any]) -> None:
    """Put each stream where it stood. Raises `ValueError`."""
    if positions.keys() != streams.keys():
        raise ValueError(f"streams {', '.join(positions)}, this run has {', '.join(streams)}")
    for name, stream in streams.items():
        if isinstance(stream, torch.Generator):
            device.move_to(stream, positions[name])
        else:
            seeding.move_to(stream, positions[name])


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Data that nobody vouches for may break its reader in many ways: all of them are one line here."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(f"{what} do not fit this run: {reason:.200}") from error
