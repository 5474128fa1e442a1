"""Experience replay (Lin 1992, Mnih et al. 2013): every frame once, transitions as pointers into the frames.

Returns are finished before a row is stored, so that a batch is a pure gather: rows, then the frames they point to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import or_
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.replay.frames import FrameRing, Ids, Ring, first_stack, lost, pushed_stack
from dqn_cli.replay.mirror import MirroredRing
from dqn_cli.replay.n_step import NStepAccumulator, Row
from dqn_cli.replay.samplers import Prioritized, Sampler, Uniform
from dqn_cli.replay.size import frames_kept, margin, replay_bytes, row_dtype, row_struct
from dqn_cli.types import Batch, ObsSpec, StepResult

SMALL = "memory."  # before the names in `small_state`
MOST = 1 << 60  # ids and counters: none of them ever comes near


class ReplayMemory:
    """The newest `capacity` transitions of `accumulator.num_envs` environments, drawn by `sampler` with `rng`.

    Without a sampler all are drawn alike. Rewards are clipped to [-reward_clip, reward_clip] before they are summed.
    With a `device` frames lie there too, and the observations of batches are put together there.
    Raises `ConfigError` where the memory cannot be allocated.
    """

    def __init__(
        self,
        capacity: int,
        spec: ObsSpec,
        accumulator: NStepAccumulator,
        rng: np.random.Generator,
        reward_clip: float | None = None,
        sampler: Sampler | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.capacity = capacity
        self._device = device
        self._spec = spec
        self._sampler: Sampler = Uniform() if sampler is None else sampler
        self._accumulator, self._rng, self._clip = accumulator, rng, reward_clip
        # Several environments' rows are not sorted by their oldest frame: the row after the oldest may point to frames
        # up to a margin older. So a row retires while its frames are still there, a margin before they are overwritten.
        self._margin = margin(spec.stack, accumulator.n_step, accumulator.num_envs)
        self._pack = row_struct(spec.stack).pack_into
        self._allocate()

    def _allocate(self) -> None:
        """Make room, and forget everything."""
        spec, n_step, num_envs = self._spec, self._accumulator.n_step, self._accumulator.num_envs
        vars(self).pop("_frames", None)  # before new ones are made: there may be no room for both
        try:
            frames = frames_kept(self.capacity, spec, n_step, num_envs)
            self._frames = FrameRing(frames, spec) if self._device is None else MirroredRing(frames, spec, self._device)
            self._rows = np.zeros(self.capacity, row_dtype(spec.stack))
            self._stacks = [(0,) * spec.stack] * num_envs  # what each environment shows now
            self._accumulator.allocate(spec.stack)
            self._sampler.allocate(self.capacity)
        except (MemoryError, ValueError) as error:  # ValueError: more than an array can ever index
            prioritized = isinstance(self._sampler, Prioritized)
            needed = replay_bytes(self.capacity, spec, n_step, num_envs, prioritized)
            free = psutil.virtual_memory().available
            raise ConfigError(
                f"replay.capacity={self.capacity} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
                "write a smaller capacity"
            ) from error
        self._row_bytes = self._rows.view(np.uint8).data
        self._oldest_frame = self._rows["ids"][:, 0, 0].data  # of each row
        self._live = range(0)  # the rows that can be sampled; a row's number grows for ever

    def __len__(self) -> int:
        """Live rows: those that can be sampled."""
        return len(self._live)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, equal to `replay_bytes`. The system hands them out only as they are written."""
        own = self._frames.storage.nbytes + self._rows.nbytes + self._stack_ids().nbytes
        return own + self._accumulator.nbytes + self._sampler.nbytes

    def start(self, frame: NDArray[Any]) -> None:
        """The first frames `[E, *frame_shape]` of the run, before the first `append`."""
        assert self._frames.next_id == 0, "start comes once, before everything else"
        self._begin_episodes(range(len(self._stacks)), frame)

    def append(self, action: NDArray[np.integer[Any]], step: StepResult) -> int:
        """Store what the actions `[E]` led to; the number of rows that this finished."""
        before = self._stacks
        after = list(map(pushed_stack, before, self._frames.append(step.next_frame)))
        # From here on by plain numbers: there are few environments, and NumPy takes as long for one as for hundreds.
        terminated, truncated, first = step.terminated.tolist(), step.truncated.tolist(), step.first.tolist()
        ended = list(map(or_, map(or_, terminated, truncated), first))
        reward = self._clipped(step.reward.tolist())
        rows = self._accumulator.push(before, action.tolist(), reward, after, terminated, ended)
        self._stacks = after
        if True in first:
            self._begin_episodes([lane for lane, begins in enumerate(first) if begins], step.frame[step.first])
        self._add(rows)
        return len(rows)

    def sample(self, batch_size: int, steps: int = 0) -> Batch:
        """Transitions drawn with replacement from the live rows. Changes nothing but `rng`.

        `steps` is where the sampler's schedule stands.
        """
        return self.peek(batch_size, self._rng, steps)

    def peek(self, batch_size: int, rng: np.random.Generator, steps: int) -> Batch:
        """Transitions drawn as those to learn from are, but with another `rng`: nothing of the memory changes."""
        assert len(self) > 0, "nothing to sample from"
        row, weight = self._sampler.draw(rng, self._live, batch_size, steps)
        return self._batch(row, None if weight is None else torch.from_numpy(weight))

    def update_priorities(self, row: Ids, priority: NDArray[np.floating[Any]]) -> None:
        """Tell the sampler how wrong the predictions for the rows `[B]` of a batch were: `UpdateResult.priority`.

        Rows that have gone since are passed over. Raises `NumericalError` for NaN or infinity where errors matter.
        """
        self._sampler.update(self._live, row, priority)

    def age(self, row: Ids) -> Ids:
        """Rows `[B]` stored since each of these: so many steps ago it came, as each step of a lane makes one row."""
        return self._live.stop - 1 - row

    def effective_size(self) -> float:
        """How many rows, drawn uniformly, would be repeated as often as the live ones are by this sampler."""
        return self._sampler.effective_size(self._live)

    def newest(self, count: int) -> Batch:
        """The last `count` rows in the order in which they were written."""
        assert count <= len(self), f"{count} rows wanted, {len(self)} are live"
        return self._batch(np.arange(self._live.stop - count, self._live.stop))

    def cut(self, frame: NDArray[Any]) -> int:
        """Every episode ends here, as if truncated, and `frame [E, *frame_shape]` begin new ones: rows that this made.

        For environments that could not come back to where they were. Nothing reaches across the cut.
        """
        rows = self._accumulator.cut(self._stacks)
        self._begin_episodes(range(len(self._stacks)), frame)
        self._add(rows)
        return len(rows)

    def check_valid(self) -> None:
        """Assert that every live row points to frames that are still there, in their order of time."""
        assert 0 <= len(self) <= self.capacity
        fault = self._row_fault()
        assert fault is None, fault
        self._sampler.check_valid(self._live)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything but `rng`, as plain arrays, the large ones views: equal bytes mean equal memories."""
        rows = {f"row.{name}": self._rows[name] for name in self._rows.dtype.names or ()}
        return {"frames": self._frames.storage, **rows, **self._small()}

    def rings(self) -> dict[str, Ring]:
        """What `state_dict` has of frames and rows: all that were not overwritten yet, also rows that retired."""
        sizes = {"frames": (self._frames.storage, self._frames.next_id), "rows": (self._rows, self._live.stop)}
        lanes = self._accumulator.num_envs
        return {name: Ring(ring, max(0, end - len(ring)), end, lanes) for name, (ring, end) in sizes.items()}

    def small_state(self) -> dict[str, NDArray[Any]]:
        """What `state_dict` has beside the rings, copied."""
        return {SMALL + name: array.copy() for name, array in self._small().items()}

    def load(
        self, small: Mapping[str, NDArray[Any]], fill: Callable[[dict[str, Ring]], None], num_actions: int
    ) -> None:
        """Become the memory whose `small_state` is `small`; `fill` writes its records into the storages of the rings.

        Nobody vouches for either: raises `CheckpointError` where they are not those of a memory as large as this one,
        of environments with `num_actions` actions. Then the memory is empty, as it is at first.
        """
        self._allocate()
        try:
            self._load_small(small, num_actions)
            fill(self.rings())
            self._frames.filled()
            if fault := self._row_fault(num_actions) or self._frame_fault():
                raise ValueError(fault)
        except (CheckpointError, ValueError) as error:
            self._allocate()
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the replay memory of the checkpoint is not one: {error}") from error

    def _small(self) -> dict[str, NDArray[Any]]:
        counters = np.array([self._frames.next_id, self._live.start, self._live.stop])
        own = {"stacks": self._stack_ids(), "counters": counters}
        return {**own, **self._accumulator.state_dict(), **self._sampler.state_dict()}

    def _load_small(self, small: Mapping[str, NDArray[Any]], num_actions: int) -> None:
        own = self._small()
        if odd := small.keys() ^ {SMALL + name for name in own}:
            raise ValueError(f"{min(odd)[:60]!r} is missing or unknown")
        state = {name: small[SMALL + name] for name in own}
        for name, array in own.items():
            found = state[name]
            if found.shape != array.shape or found.dtype != array.dtype:
                wanted = f"expected {array.dtype} of shape {array.shape}"
                raise ValueError(f"{SMALL}{name} is {found.dtype} of shape {found.shape}, {wanted}")
        next_id, oldest_row, next_row = state["counters"].tolist()
        # each row came with a frame of its own, and the first frames were there before
        if not 0 <= oldest_row <= next_row <= next_id - len(self._stacks) <= MOST:
            raise ValueError(f"{next_id} frames, rows {oldest_row} to {next_row}")
        if next_row - oldest_row > self.capacity:
            raise ValueError(f"{next_row - oldest_row} rows, its capacity is {self.capacity}")
        self._frames.next_id, self._live = next_id, range(oldest_row, next_row)
        reached = max(0, next_id - self._margin), next_id  # by what is not a row yet
        if lost(state["stacks"], *reached):
            raise ValueError("an environment shows a lost frame")
        self._stacks = [tuple(stack) for stack in state["stacks"].tolist()]
        self._accumulator.load(state, *reached, num_actions)
        self._sampler.load(state, self._live)

    def _frame_fault(self) -> str | None:
        """What is wrong with the frames; bytes cannot be."""
        frames = self._frames.storage
        return "a frame is not finite" if frames.dtype.kind == "f" and not np.isfinite(frames).all() else None

    def _row_fault(self, num_actions: int = MOST) -> str | None:
        """What is wrong with a live row."""
        live = self._rows[np.arange(self._live.start, self._live.stop) % self.capacity]
        ids, action, discount = live["ids"], live["action"], live["discount"]
        oldest_frame = max(0, self._frames.next_id - len(self._frames))
        rules = {
            "a live row points to a lost frame": (ids >= oldest_frame).all(),
            "a live row points to a frame that is yet to come": (ids < self._frames.next_id).all(),
            "a stack is not in the order of time": (ids[..., 1:] >= ids[..., :-1]).all(),
            "a transition does not lead forward": (ids[:, 0, -1] < ids[:, 1, -1]).all(),
            "an action that there is not": ((action >= 0) & (action < num_actions)).all(),
            "a reward is not finite": np.isfinite(live["reward"]).all(),
            "a discount is not within 0 and 1": ((discount >= 0) & (discount <= 1)).all(),
        }
        return next((fault for fault, kept in rules.items() if not kept), None)

    def _stack_ids(self) -> Ids:
        return np.array(self._stacks, np.int64)

    def _clipped(self, reward: list[float]) -> list[float]:
        clip = self._clip
        # NaN stays what it is: no comparison with it holds
        return reward if clip is None else [clip if r > clip else -clip if r < -clip else r for r in reward]

    def _begin_episodes(self, lanes: Sequence[int], frame: NDArray[Any]) -> None:
        """Episodes begin in `lanes`, with these frames `[len(lanes), *frame_shape]`."""
        for lane, first in zip(lanes, self._frames.append(frame), strict=True):
            self._stacks[lane] = first_stack(first, self._spec.stack)

    def _add(self, rows: Sequence[Row]) -> None:
        """Write new rows, retire others, and tell the sampler."""
        before = self._live
        buffer, size, capacity, pack = self._row_bytes, self._rows.itemsize, self.capacity, self._pack
        for row, (obs, next_obs, action, reward, discount) in enumerate(rows, before.stop):
            where = row % capacity * size
            try:
                pack(buffer, where, *obs, *next_obs, action, reward, discount)
            except OverflowError:  # NumPy makes it infinite, and warns
                pack(buffer, where, *obs, *next_obs, action, float(np.float32(reward)), discount)
        self._live = self._retired(before.start, before.stop + len(rows))
        self._sampler.moved(before, self._live)

    def _retired(self, begin: int, end: int) -> range:
        """The rows of [begin, end) that stay: as many as there is room for, and whose frames stay for a while."""
        begin = max(begin, end - self.capacity)
        limit = self._frames.next_id - len(self._frames) + self._margin
        while begin < end and self._oldest_frame[begin % self.capacity] < limit:
            begin += 1
        return range(begin, end)

    def _batch(self, row: Ids, weight: torch.Tensor | None = None) -> Batch:
        rows = self._rows.take(row % self.capacity)
        obs, next_obs = self._observations(rows["ids"])
        return Batch(
            obs=obs,
            action=torch.from_numpy(rows["action"].astype(np.int64)),
            reward=torch.from_numpy(rows["reward"].copy()),
            discount=torch.from_numpy(rows["discount"].copy()),
            next_obs=next_obs,
            weight=weight,
            row=row,
        )

    def _observations(self, ids: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """obs and next_obs of rows with ids `[B, 2, stack]`: copies, of one tensor where frames are in both."""
        stack, n_step = self._spec.stack, self._accumulator.n_step
        if n_step < stack and np.array_equal(ids[:, 0, n_step:], ids[:, 1, :-n_step]):  # no window was cut short
            frames = self._gathered(np.concatenate((ids[:, 0], ids[:, 1, -n_step:]), axis=1))
            return frames[:, :stack], frames[:, n_step:]
        frames = self._gathered(ids if stack > 1 else ids[..., 0])
        return frames[:, 0], frames[:, 1]

    def _gathered(self, ids: Ids) -> torch.Tensor:
        frames = self._frames.gather(ids)
        return torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
