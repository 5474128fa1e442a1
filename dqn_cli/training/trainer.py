"""The loop of DQN: act, learn while the environments step, store (Mnih et al. 2015, algorithm 1).

Learning happens between `send` and `recv`, always. The policy is never stale; the only difference from the textbook's
order is that a batch cannot hold the newest transition of each environment yet. So it makes no difference to a
single bit whether the environments step meanwhile, in threads of their own, or only when `recv` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dqn_cli.training.plan import Counters, Plan
from dqn_cli.types import Batch, StepResult, UpdateResult

if TYPE_CHECKING:  # plans are made without torch
    from torch import Tensor


class Envs(Protocol):
    """E environments that step at once."""

    num_envs: int

    def reset(self) -> NDArray[np.generic]:
        """First frames of all environments, `[E, *frame_shape]`."""

    def send(self, actions: NDArray[np.int64]) -> None:
        """Let the environments start to step."""

    def recv(self) -> StepResult:
        """Wait for them."""


class Acts(Protocol):
    """Chooses actions."""

    def act(self, frame: NDArray[np.generic], first: NDArray[np.bool_], level: float) -> NDArray[np.int64]:
        """Actions `[E]` for frames `[E, *frame_shape]`, of which some begin an episode; `level` of exploration."""


class Memory(Protocol):
    """Stores and returns transitions."""

    def start(self, frame: NDArray[np.generic]) -> None:
        """Take the first frames."""

    def append(self, action: NDArray[np.int64], step: StepResult) -> int:
        """Store a step of all environments; returns how many transitions it finished."""

    def sample(self, batch_size: int, steps: int) -> Batch:
        """Transitions drawn at random, `steps` steps into the run."""

    def update_priorities(self, row: NDArray[np.int64], priority: NDArray[np.float32]) -> None:
        """Take note of how wrong the predictions for these rows `[B]` were."""

    def newest(self, count: int) -> Batch:
        """The transitions stored last, in their order."""


class Learns(Protocol):
    """Changes the networks."""

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One gradient update."""

    def sync_target(self) -> None:
        """Move the target network to the online network."""


class Watches(Protocol):
    """Everything beside the learning: logs, evaluations, checkpoints, Ctrl-C."""

    def after_step(self, before: Counters, now: Counters, step: StepResult, result: UpdateResult | None) -> bool:
        """Do what is due; True ends the run."""


class Trainer:
    """One run of the loop."""

    def __init__(self, plan: Plan, envs: Envs, actor: Acts, memory: Memory, learner: Learns, watcher: Watches):
        self.counters = Counters()
        self._plan = plan
        self._envs = envs
        self._actor = actor
        self._memory = memory
        self._learner = learner
        self._watcher = watcher
        self.result: UpdateResult | None = None
        self._begin: tuple[NDArray[np.generic], NDArray[np.bool_]] | None = None
        self._untold: tuple[NDArray[np.int64], Tensor] | None = None

    def go_on_from(
        self,
        counters: Counters,
        result: UpdateResult | None,
        frame: NDArray[np.generic],
        first: NDArray[np.bool_],
    ) -> None:
        """Let `run` go on where a run was: all other parts are there already. `frame` and `first` are to act on."""
        self.counters, self.result, self._begin = counters, result, (frame, first)

    def run(self) -> None:
        """Train until `total_steps`, or until the watcher says that it is enough."""
        plan, envs, now = self._plan, self._envs, self.counters
        if self._begin is None:
            frame, first = envs.reset(), np.ones(envs.num_envs, dtype=np.bool_)
            self._memory.start(frame)
        else:
            frame, first = self._begin
        while now.steps < plan.total_steps:
            before = now.copy()
            in_flight = now.steps + envs.num_envs
            action = self._actor.act(frame, first, plan.exploration(now.steps))
            envs.send(action)
            if plan.updates is not None:
                for _ in range(plan.updates.due(now.steps, in_flight)):
                    self._learn_sampled()
            step = envs.recv()
            self._tell_priorities()
            rows = self._memory.append(action, step)
            now.steps, now.episodes = in_flight, now.episodes + len(step.episodes)
            if plan.updates is None:
                self._learn_newest(rows)
            if plan.sync is not None and plan.sync.unit != "updates":
                self._sync(before)
            if self._watcher.after_step(before, now, step, self.result):
                break
            frame, first = step.frame, step.first

    def _learn_sampled(self) -> None:
        """Sample and update."""
        self._tell_priorities()
        batch = self._memory.sample(self._plan.batch_size, self.counters.steps)
        result = self._learn(batch)
        if batch.weight is not None and batch.row is not None:
            self._untold = batch.row, result.priority

    def _tell_priorities(self) -> None:
        """Give back how wrong the newest predictions were: before the memory is used again, and no sooner.

        A GPU that is still at work is waited for, which costs nothing once the environments have stepped meanwhile.
        """
        if self._untold is not None:
            (row, priority), self._untold = self._untold, None
            self._memory.update_priorities(row, priority.cpu().numpy())

    def _learn(self, batch: Batch) -> UpdateResult:
        before = self.counters.copy()
        self.result = result = self._learner.update(batch, self.counters.steps)
        self.counters.updates += 1
        if self._plan.sync is not None and self._plan.sync.unit == "updates":
            self._sync(before)
        return result

    def _learn_newest(self, rows: int) -> None:
        """Learn each of the newest rows once, one after the other: a table's entry moves by alpha times its error."""
        if rows:
            batch = self._memory.newest(rows)
            for row in range(rows):
                one = slice(row, row + 1)
                self._learn(
                    Batch(
                        obs=batch.obs[one],
                        action=batch.action[one],
                        reward=batch.reward[one],
                        discount=batch.discount[one],
                        next_obs=batch.next_obs[one],
                    )
                )

    def _sync(self, before: Counters) -> None:
        assert self._plan.sync is not None
        for _ in range(self._plan.sync.due(before, self.counters)):
            self._learner.sync_target()
            self.counters.target_syncs += 1
