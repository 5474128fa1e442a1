"""What a driver of one system counts and when: the line of JSON that `scripts/bench versus` compares.

A system of somebody else's (`--third 'CMD'`) is run as `CMD TASK.json`, the task being `Task.numbers()`, and has to
print such a line as the last one of its output, with the keys of `Marks.report`. Moments are seconds of CLOCK_MONOTONIC
(Python: `time.monotonic()`), steps are those of all environments together:

  system, versions, threads
  steps, updates, rows   agent steps, gradient updates, transitions sampled for them
  copies                 times that the target network was moved
  effective_copies       those of them before which the online network had changed since the one before
  first_step_at          the first step of the environments is through
  first_update           [moment, steps] when the first update begins
  settled                [moment, steps, updates] when the first round begins that has `settle_updates` behind it
  ended_at               the loop is through
  apart                  [moment, moment, CPU seconds] of each evaluation and checkpoint: they are not counted

Imports the standard library only, because it is measured what a system imports.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

PACKAGES = ("torch", "numpy", "gymnasium", "ale-py")


class Marks:
    """Counts updates and copies, and looks at the clock a few times in a run."""

    def __init__(self, settle_updates: int) -> None:
        self.updates, self.rows, self.copies, self.effective_copies = 0, 0, 0, 0
        self._settle_updates = settle_updates
        self._updates_at_copy = 0
        self._last_step: int | None = None
        self._first_step_at: float | None = None
        self._first_update: list[float] | None = None
        self._settled: list[float] | None = None
        self._ended_at: float | None = None
        self._apart: list[list[float]] = []
        self._nested = 0

    def first_step(self) -> None:
        """The environments have made their first step."""
        self._first_step_at = time.monotonic()

    def update(self, step: int, rows: int) -> None:
        """An update of so many rows begins, `step` steps into the run."""
        if self._settled is None:
            if self._first_update is None:
                self._first_update = [time.monotonic(), step]
            if self.updates >= self._settle_updates and step != self._last_step:
                self._settled = [time.monotonic(), step, self.updates]
            self._last_step = step
        self.updates += 1
        self.rows += rows

    def copy(self) -> None:
        """The target network is moved to the online network."""
        self.copies += 1
        if self.updates > self._updates_at_copy:
            self.effective_copies += 1
            self._updates_at_copy = self.updates

    def end(self) -> None:
        """The loop is through."""
        self._ended_at = time.monotonic()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Work that the other system does not do; within other such work it is counted once."""
        begin, cpu = time.monotonic(), time.process_time()
        self._nested += 1
        try:
            yield
        finally:
            self._nested -= 1
            if not self._nested:
                self._apart.append([begin, time.monotonic(), time.process_time() - cpu])

    def report(self, system: str, steps: int, threads: int) -> str:
        """The line."""
        report: dict[str, Any] = {
            "system": system,
            "versions": {name: version(name) for name in (system, *PACKAGES)},
            "threads": threads,
            "steps": steps,
            "updates": self.updates,
            "rows": self.rows,
            "copies": self.copies,
            "effective_copies": self.effective_copies,
            "first_step_at": self._first_step_at,
            "first_update": self._first_update,
            "settled": self._settled,
            "ended_at": self._ended_at,
            "apart": self._apart,
        }
        return json.dumps(report)
