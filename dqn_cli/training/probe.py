"""How fast a run would be on this machine: some seconds of its loop, timed in blocks. Imports no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import fmean, median

from dqn_cli.config import Config, EpsilonConfig, EpsilonSchedule, UniformConfig
from dqn_cli.training.plan import Counters, make_exploration
from dqn_cli.types import StepResult, UpdateResult

SECONDS = {False: 1.0, True: 3.0}  # without and with learning
BLOCK_SECONDS = 0.1
MIN_BLOCKS = 4  # the first one warms up and does not count
CAPACITY = 10_000
LONGEST_ROUND = 256  # steps between rounds of updates, and updates in a round
FOREVER = 10**15


@dataclass(frozen=True)
class Block:
    """A part of the loop."""

    seconds: float
    steps: int
    updates: int


@dataclass(frozen=True)
class Speed:
    """Seconds of a step without learning, and what an update adds: 0 where every step learns and none is without."""

    device: str
    threads: int
    step_seconds: float
    update_seconds: float
    way: str = "by autograd"  # how updates are computed
    compile_seconds: float = 0.0  # before the first of them

    def seconds(self, steps: int, updates: int) -> float:
        """How long so many of them take."""
        return self.compile_seconds + steps * self.step_seconds + updates * self.update_seconds


class Stopwatch:
    """In a watcher's place: times the loop and ends it when it has seen enough.

    With `learning` a block ends where a round of updates has, so that blocks are whole rounds.
    """

    def __init__(self, learning: bool) -> None:
        self.blocks: list[Block] = []
        self._learning = learning
        self._begin = self._block_begin = time.perf_counter()
        self._counted = Counters()

    def after_step(self, before: Counters, now: Counters, step: StepResult, result: UpdateResult | None) -> bool:
        """Count; True ends the loop."""
        at, seen = time.perf_counter(), self._counted
        if self._learning and now.updates == before.updates:
            return False
        if at - self._block_begin >= BLOCK_SECONDS:
            self.blocks.append(Block(at - self._block_begin, now.steps - seen.steps, now.updates - seen.updates))
            self._block_begin, self._counted = at, replace(now)
        return at - self._begin >= SECONDS[self._learning] and len(self.blocks) >= MIN_BLOCKS


def shortened(config: Config, learning: bool) -> Config:
    """`config` as it is probed: learning at once or never, a small memory, and epsilon as it is on average.

    A random action costs no forward pass, so that the run's first steps would say little about the others.
    """
    run, replay, exploration = config.run, config.replay, config.exploration
    if isinstance(exploration, EpsilonConfig):
        epsilon = make_exploration(exploration)
        mean = fmean(epsilon(run.total_steps * i // 1000) for i in range(1000))
        exploration = EpsilonConfig(schedule=EpsilonSchedule.constant, end=mean)
    if isinstance(replay, UniformConfig):
        replay = replace(replay, capacity=min(replay.capacity, CAPACITY))
    return replace(
        config,
        replay=replay,
        exploration=exploration,
        run=replace(
            run,
            total_steps=FOREVER,
            learning_starts_steps=0 if learning else FOREVER,
            update_every_steps=min(run.update_every_steps, LONGEST_ROUND),
            updates_per_round=min(run.updates_per_round, LONGEST_ROUND),
        ),
    )


def seconds_per_step(blocks: list[Block]) -> float:
    """Median over the blocks but the first."""
    return median(block.seconds / block.steps for block in blocks[1:])


def seconds_per_update(blocks: list[Block], step_seconds: float) -> float:
    """What an update adds to the steps: the median over the blocks but the first, each of which has updates."""
    return max(0.0, median((block.seconds - block.steps * step_seconds) / block.updates for block in blocks[1:]))
