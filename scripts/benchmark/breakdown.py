"""Where our own loop spends its time, part by part, beside the time of the same loop without these timers."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmark.floor import text as floors
from benchmark.sections import composed
from benchmark.tasks import Task

from dqn_cli import build
from dqn_cli.config import Config

TURNS = 2
STEPS = {"mlp": 30_000, "minatar_cnn": 6_000, "nature_cnn": 2_500}

# row of the table -> the part of a run, and its methods; all are called from the loop and not from each other
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "act": ("actor", ("act",)),
    "env": ("envs", ("send", "recv")),
    "store": ("memory", ("append",)),
    "sample": ("memory", ("sample",)),
    "update": ("learner", ("update",)),
    "target sync": ("learner", ("sync_target",)),
    "priorities": ("memory", ("update_priorities",)),
    "log, watch": ("watcher", ("after_step",)),
}


@dataclass
class Timer:
    """Seconds and calls of one row."""

    seconds: float = 0.0
    calls: int = 0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""
        clock = time.perf_counter

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            result = work(*args, **kwargs)
            self.seconds += clock() - begin
            self.calls += 1
            return result

        return timed


@dataclass(frozen=True)
class Cost:
    """Of a timer itself, seconds per call: what it adds to its own row, and what it adds beside it."""

    inside: float
    outside: float

    @classmethod
    def measure(cls, times: int = 200_000) -> Cost:
        """On a function that does nothing; of several tries the least, because everything else only adds."""

        def nothing() -> None:
            pass

        tries = []
        for _ in range(5):
            timer = Timer()
            timed, begin = timer.around(nothing), time.perf_counter()
            for _ in range(times):
                timed()
            middle = time.perf_counter()
            for _ in range(times):
                nothing()
            added = (middle - begin) - (time.perf_counter() - middle)
            tries.append((added / times, timer.seconds / times))
        added, inside = min(tries)
        return cls(inside, max(0.0, added - inside))


@dataclass(frozen=True)
class Row:
    """A part of the loop, the timers' own time taken away."""

    name: str
    seconds: float
    calls: int


def rows(timers: dict[str, Timer], wall: float, cost: Cost) -> list[Row]:
    """The parts, and last the loop between them, of a loop that took `wall` seconds with the timers in it."""
    parts = [Row(name, t.seconds - t.calls * cost.inside, t.calls) for name, t in timers.items() if t.calls]
    calls = sum(part.calls for part in parts)
    between = wall - sum(timer.seconds for timer in timers.values()) - calls * cost.outside
    return [*parts, Row("the loop itself", between, 0)]


def lines(found: list[Row], steps: int, wall: float) -> list[str]:
    """A table of at most 80 characters: shares of the sum, and last the same loop's `wall` seconds without timers."""
    total = sum(row.seconds for row in found)

    def line(name: str, seconds: float, calls: int) -> str:
        call = f"{seconds / calls * 1e6:>14,.1f}{calls:>10,}" if calls else " " * 24
        return f"{name:<20}{seconds / steps * 1e6:>12,.1f}{call}{seconds / total:>9.1%}"

    return [
        f"{'part':<20}{'us per step':>12}{'us per call':>14}{'calls':>10}{'share':>9}",
        *(line(row.name, row.seconds, row.calls) for row in found),
        line("parts together", sum(row.seconds for row in found if row.calls), 0),
        line("the sum", total, 0),
        line("without timers", wall, 0),
    ]


@contextmanager
def timing(timers: dict[str, Timer]) -> Iterator[None]:
    """Let `build.assemble` put timed parts together: the trainer gets methods that are timed, and nothing else."""
    make_parts, trainer = build.make_parts, build.Parts.trainer

    def wrap(part: str, thing: Any) -> None:
        for name, (of, methods) in PARTS.items():
            if of == part:
                for method in methods:
                    setattr(thing, method, timers[name].around(getattr(thing, method)))

    def timed_parts(*given: Any) -> build.Parts:
        parts = make_parts(*given)
        for part in ("actor", "envs", "memory", "learner"):
            wrap(part, getattr(parts, part))
        return parts

    def timed_trainer(self: build.Parts, plan: Any, watcher: Any) -> Any:
        wrap("watcher", watcher)
        return trainer(self, plan, watcher)

    with patch.object(build, "make_parts", timed_parts), patch.object(build.Parts, "trainer", timed_trainer):
        yield


def loop_seconds(config: Config) -> tuple[float, float]:
    """Seconds of a run's loop, and those of its last evaluation, which is apart. What it draws goes nowhere."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        run = build.assemble(config, Path(folder), stack)
        gc.collect()
        begin = time.perf_counter()
        run.trainer.run()
        paused = run.watcher.clock.paused
        return time.perf_counter() - begin - paused, paused


def shortened(task: Task, steps: int) -> Task:
    """As a whole run of it is on average: epsilon falls over the same share, but learning starts almost at once."""
    starts = max(task.batch, steps // 20) // task.every * task.every
    return replace(task, total_steps=steps, starts=starts, epsilon_over=task.epsilon_over * steps // task.total_steps)


def breakdown(task: Task, steps: int | None = None) -> dict[str, Any]:
    """The table of one task, printed and as plain data: runs with and without timers, in turns."""
    steps = steps or STEPS[task.network]
    config = composed(shortened(task, steps).overrides())
    timers = {name: Timer() for name in PARTS}
    wall, timed = 0.0, 0.0
    for _ in range(TURNS):
        wall += loop_seconds(config)[0]
        with timing(timers):
            seconds, evaluation = loop_seconds(config)
        timed += seconds
        timers["log, watch"].seconds -= evaluation  # which is made in there
    found = rows(timers, timed, Cost.measure())
    below, floor = floors(config)
    print(f"\n{task.name} {task.text}")
    print(f"{TURNS} x {steps:,} steps, learning almost from the start: {TURNS * steps / wall:,.0f} steps/s")
    print(*lines(found, TURNS * steps, wall), *below, sep="\n", flush=True)
    return {"task": task.name, "steps": TURNS * steps, "wall": wall, "rows": [vars(row) for row in found], **floor}
