"""Runs `dqn-train` as it is, in this process, and counts what it does: our_driver.py SETTLE_UPDATES FOLDER KEY=VALUE...

Nothing is imported earlier than `dqn-train` itself would: the counters are put in place when it has imported its parts.
A wrapper is called for every update (a fifth of a microsecond), none for every step.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from marks import Marks


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call `then` with the module `name` as soon as somebody has imported it."""

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            spec = find_spec(name)
            assert spec is not None
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                then(module)

            loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())


def count(build: Any, marks: Marks) -> None:
    """Let what `build` puts together count itself."""
    _first_step(build.JournaledLanes, marks)
    _updates(build.Learner, marks)
    _apart(build.Clock, marks)
    run = build.Trainer.run

    @wraps(run)
    def ending(trainer: Any) -> None:
        run(trainer)
        marks.end()

    build.Trainer.run = ending


def _first_step(lanes: Any, marks: Marks) -> None:
    recv = lanes.recv

    @wraps(recv)
    def first(self: Any) -> Any:
        step = recv(self)
        marks.first_step()
        lanes.recv = recv
        return step

    lanes.recv = first


def _updates(learner: Any, marks: Marks) -> None:
    update, sync = learner.update, learner.sync_target

    @wraps(update)
    def updating(self: Any, batch: Any, step: int) -> Any:
        marks.update(step, len(batch.reward))
        return update(self, batch, step)

    @wraps(sync)
    def syncing(self: Any) -> None:
        marks.copy()
        sync(self)

    learner.update, learner.sync_target = updating, syncing


def _apart(clock: Any, marks: Marks) -> None:
    pause = clock.pause

    @contextmanager
    def pausing(self: Any) -> Iterator[None]:
        with marks.apart(), pause(self):
            yield

    clock.pause = pausing


def steps_of(folder: Path, marks: Marks) -> int:
    """The steps that the run says it has made, in its last row. Raises where it counts other updates than `marks`."""
    with (folder / "metrics.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    if (int(last["updates"]), int(last["target_syncs"])) != (marks.updates, marks.copies):
        raise RuntimeError(
            f"metrics.csv has {last['updates']} updates and {last['target_syncs']} target syncs, "
            f"counted were {marks.updates} and {marks.copies}"
        )
    return int(last["steps"])


def main() -> int:
    """Train, then print the line."""
    settle_updates, folder, *overrides = sys.argv[1:]
    marks = Marks(int(settle_updates))
    when_imported("dqn_cli.build", lambda build: count(build, marks))
    from dqn_cli.cli.main import train

    if code := train([*overrides, f"hydra.run.dir={folder}"]):
        return code
    import torch

    print(marks.report("dqn-cli", steps_of(Path(folder), marks), torch.get_num_threads()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
