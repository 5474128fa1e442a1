"""Experience replay (Lin 1992, Mnih et al. 2013): every frame once, transitions as pointers into the frames.

Returns are finished before a row is stored, so that a batch is a pure gather: rows, then the frames they point to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from dqn_cli.errors import ConfigError
from dqn_cli.replay.frames import FrameRing, Ids, first_stack, pushed_stack, ring_slots
from dqn_cli.replay.n_step import NStepAccumulator, Rows
from dqn_cli.replay.samplers import Prioritized, Sampler, Uniform
from dqn_cli.replay.size import frames_kept, margin, replay_bytes, row_dtype
from dqn_cli.types import Batch, ObsSpec, StepResult


class ReplayMemory:
    """The newest `capacity` transitions of `accumulator.num_envs` environments, drawn by `sampler` with `rng`.

    Without a sampler all are drawn alike. Rewards are clipped to [-reward_clip, reward_clip] before they are summed.
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
    ) -> None:
        self.capacity = capacity
        self._sampler: Sampler = Uniform() if sampler is None else sampler
        self._accumulator, self._rng, self._clip = accumulator, rng, reward_clip
        n_step, num_envs = accumulator.n_step, accumulator.num_envs
        try:
            self._frames = FrameRing(frames_kept(capacity, spec, n_step, num_envs), spec)
            self._rows = np.zeros(capacity, row_dtype(spec.stack))
            self._stacks = np.zeros((num_envs, spec.stack), np.int64)  # what each environment shows now
            accumulator.allocate(spec.stack)
            self._sampler.allocate(capacity)
        except (MemoryError, ValueError) as error:  # ValueError: more than an array can ever index
            prioritized = isinstance(sampler, Prioritized)
            needed = replay_bytes(capacity, spec, n_step, num_envs, prioritized)
            free = psutil.virtual_memory().available
            raise ConfigError(
                f"replay.capacity={capacity} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
                "write a smaller capacity"
            ) from error
        self._columns = {name: self._rows[name] for name in row_dtype(spec.stack).names or ()}
        self._oldest_row = self._next_row = 0
        # Several environments' rows are not sorted by their oldest frame: the row after the oldest may point to frames
        # up to a margin older. So a row retires while its frames are still there, a margin before they are overwritten.
        self._reach = len(self._frames) - margin(spec.stack, n_step, num_envs)

    def __len__(self) -> int:
        """Live rows: those that can be sampled."""
        return self._next_row - self._oldest_row

    @property
    def nbytes(self) -> int:
        """Bytes allocated, equal to `replay_bytes`. The system hands them out only as they are written."""
        own = self._frames.storage.nbytes + self._rows.nbytes + self._stacks.nbytes
        return own + self._accumulator.nbytes + self._sampler.nbytes

    @property
    def _live(self) -> range:
        return range(self._oldest_row, self._next_row)

    def start(self, frame: NDArray[Any]) -> None:
        """The first frames `[E, *frame_shape]` of the run, before the first `append`."""
        assert self._frames.next_id == 0, "start comes once, before everything else"
        self._stacks = first_stack(self._frames.append(frame), self._stacks.shape[1])

    def append(self, action: NDArray[np.integer[Any]], step: StepResult) -> int:
        """Store what the actions `[E]` led to; the number of rows that this finished."""
        before, live = self._stacks, self._live
        after = pushed_stack(before, self._frames.append(step.next_frame))
        ended = step.terminated | step.truncated | step.first
        rows = self._accumulator.push(before, action, self._clipped(step.reward), after, step.terminated, ended)
        self._write(rows)
        if np.count_nonzero(step.first):
            after[step.first] = first_stack(self._frames.append(step.frame[step.first]), after.shape[1])
        self._stacks = after
        self._retire()
        self._sampler.moved(live, self._live)
        return len(rows.action)

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
        return self._next_row - 1 - row

    def effective_size(self) -> float:
        """How many rows, drawn uniformly, would be repeated as often as the live ones are by this sampler."""
        return self._sampler.effective_size(self._live)

    def newest(self, count: int) -> Batch:
        """The last `count` rows in the order in which they were written."""
        assert count <= len(self), f"{count} rows wanted, {len(self)} are live"
        return self._batch(np.arange(self._next_row - count, self._next_row))

    def check_valid(self) -> None:
        """Assert that every live row points to frames that are still there, in their order of time."""
        assert 0 <= len(self) <= self.capacity
        live = self._rows[np.arange(self._oldest_row, self._next_row) % self.capacity]
        obs, next_obs = live["ids"][:, 0], live["ids"][:, 1]
        assert (live["ids"] >= self._frames.next_id - len(self._frames)).all(), "a live row points to a lost frame"
        assert (live["ids"] < self._frames.next_id).all(), "a live row points to a frame that is yet to come"
        assert (np.diff(live["ids"]) >= 0).all(), "a stack is not in the order of time"
        assert (obs[:, -1] < next_obs[:, -1]).all(), "a transition does not lead forward"
        assert ((live["discount"] >= 0) & (live["discount"] <= 1)).all()
        self._sampler.check_valid(self._live)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything but `rng`, as plain arrays (views, not copies): equal bytes mean equal memories."""
        counters = np.array([self._frames.next_id, self._oldest_row, self._next_row])
        rows = {f"row.{name}": column for name, column in self._columns.items()}
        own = {"frames": self._frames.storage, "stacks": self._stacks, "counters": counters}
        return {**own, **rows, **self._accumulator.state_dict(), **self._sampler.state_dict()}

    def _clipped(self, reward: NDArray[np.float64]) -> NDArray[np.float64]:
        return reward if self._clip is None else np.minimum(np.maximum(reward, -self._clip), self._clip)

    def _write(self, rows: Rows) -> None:
        where = ring_slots(self._next_row, len(rows.action), self.capacity)
        self._columns["ids"][where, 0] = rows.obs
        self._columns["ids"][where, 1] = rows.next_obs
        self._columns["action"][where] = rows.action
        self._columns["reward"][where] = rows.reward
        self._columns["discount"][where] = rows.discount
        self._next_row += len(rows.action)

    def _retire(self) -> None:
        self._oldest_row = max(self._oldest_row, self._next_row - self.capacity)
        limit, oldest_frame = self._frames.next_id - self._reach, self._columns["ids"][:, 0, 0]
        while self._oldest_row < self._next_row and oldest_frame[self._oldest_row % self.capacity] < limit:
            self._oldest_row += 1

    def _batch(self, row: Ids, weight: torch.Tensor | None = None) -> Batch:
        rows = self._rows.take(row % self.capacity)
        # One gather for both stacks of a row: the frames that they share come out of the cache the second time.
        obs = torch.from_numpy(self._frames.gather(rows["ids"]))
        return Batch(
            obs=obs[:, 0],
            action=torch.from_numpy(rows["action"].astype(np.int64)),
            reward=torch.from_numpy(rows["reward"].copy()),
            discount=torch.from_numpy(rows["discount"].copy()),
            next_obs=obs[:, 1],
            weight=weight,
            row=row,
        )
