"""One training run as Hydra's task: from the composed configuration to the metric."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dqn_cli.cli import frozen, sweep
from dqn_cli.cli.arguments import typed_keys
from dqn_cli.cli.composition import has_basic_sweeper, load_plugin, overrides_of, read
from dqn_cli.cli.explain import Escaped
from dqn_cli.cli.lock import claimed
from dqn_cli.cli.preflight import preflight
from dqn_cli.cli.resume import Asked
from dqn_cli.cli.runs import standing
from dqn_cli.cli.way import AUTO, Way, begin, begin_or_go_on
from dqn_cli.config import Config
from dqn_cli.errors import ConfigError, Interrupted, UserError, unwritable


def load(composed: DictConfig, overrides: list[str]) -> tuple[Config, list[str]]:
    """The configuration that Hydra composed, checked to the last rule, and the notices. Raises user errors."""
    config = read(composed)
    _, notices = preflight(config, typed_keys(overrides))
    return config, notices


def train(way: Way, overrides: list[str], folder: Path, command: list[str]) -> float | None:
    """Train in `folder` by this way, print the end of it; the metric."""
    for notice in way.notices:
        print(f"note: {notice}")
    if way.again is not None:
        print(way.again)
    if way.resume is not None:
        print(f"resumed    at step {way.resume.found.step:,} of {way.config.run.total_steps:,}")
    from dqn_cli.build import train_run  # torch is imported here: after every check that can do without

    summary = train_run(way.config, run_dir=folder, overrides=overrides, command=command, resume=way.resume)
    print(*summary.lines(), sep="\n")
    return summary.metric


def carry_out(choose: Callable[[], Way], overrides: list[str], folder: Path, command: list[str]) -> float | None:
    """Hold `folder`, choose the way there and go it; the metric, None of a run that was finished.

    Raises user errors only: a bug has become one that tells where its traceback is.
    """
    stands = standing(folder)
    if stands is not None and stands.finished and (way := choose()).finished:
        print(way.finished)  # without writing anything: its folder may be an archive
        return None
    with claimed(folder):
        try:
            way = choose()
            if way.finished:
                print(way.finished)
                return None
            return train(way, overrides, folder, command)
        except Exception as error:
            raise told(error, folder) from error


def task(composed: DictConfig, asked: Asked | None = None) -> float | None:
    """What Hydra calls, once or for every job of a sweep; once it may be asked to resume."""
    hydra = HydraConfig.get()
    folder, overrides = Path(hydra.runtime.output_dir), overrides_of(hydra)
    if hydra.mode == RunMode.MULTIRUN:
        try:
            load_plugin(composed)
            return _sweep_job(composed, overrides, folder, hydra)
        except OSError as error:  # what tells of a job cannot be written, so that the next ones would be in vain
            raise Escaped(unwritable(error)) from error

    def choose() -> Way:
        written, keys = read(composed), typed_keys(overrides)
        if asked is None:
            return begin(folder, written, keys)
        return begin_or_go_on(folder, written, keys, asked)

    try:
        return carry_out(choose, overrides, folder, ["dqn-train", *overrides])
    except Exception as error:
        raise Escaped(error) from error


def _sweep_job(composed: DictConfig, overrides: list[str], folder: Path, hydra: Any) -> float | None:
    number, command = hydra.job.num, ["dqn-train", *overrides]
    with ExitStack() as held:
        try:
            folder = _hold(folder, hydra, held)
        except ConfigError as error:  # the same sweep a second time at the same time
            print(f"job {number} left out: {error}")
            return None
        done = sweep.read(folder)
        if done is not None and done["status"] == "done":
            sweep.record(folder, **done | {"job": number})
            print(f"job {number}: {' '.join(overrides)} is done, skipped -> {folder}")
            return cast("float | None", done["return_mean"])
        result = {"job": number, "overrides": overrides, "return_mean": None, "error": None, "exit_code": None}
        print(f"job {number}: {' '.join(overrides)} -> {folder}")
        sweep.record(folder, **result | {"status": "running"})
        try:
            written = frozen.find(Path(hydra.runtime.cwd, hydra.sweep.dir), overrides) or read(composed)
            way = begin_or_go_on(folder, written, typed_keys(overrides), AUTO)
            return_mean = train(way, overrides, folder, command)
        except (Interrupted, KeyboardInterrupt) as stop:
            code = stop.exit_code if isinstance(stop, Interrupted) else Interrupted.exit_code
            when = str(stop).partition(";")[0]  # how to go on is another thing for a sweep
            sweep.record(folder, **result | {"status": "interrupted", "error": when or None, "exit_code": code})
            if isinstance(stop, Interrupted):
                raise Escaped(Interrupted(when, code)) from stop
            raise
        except Exception as error:
            failure = told(error, folder)
            sweep.record(folder, **result | {"status": "failed", "error": str(failure), "exit_code": failure.exit_code})
            print(f"job {number} failed: {failure}")
            if has_basic_sweeper(hydra):  # it uses no metric, and would stop after a failure
                return None
            raise failure from error
        sweep.record(folder, **result | {"status": "done", "return_mean": return_mean, "exit_code": 0})
        return return_mean


def _hold(folder: Path, hydra: Any, held: ExitStack) -> Path:
    """The job's folder, claimed: with a number where another sweeper than Hydra's own tries the same settings again."""
    again = folder.with_name(f"{folder.name}-{hydra.job.num}")
    if not has_basic_sweeper(hydra) and sweep.read(folder) is not None:
        folder = again
    try:
        held.enter_context(claimed(folder))
    except ConfigError:
        if has_basic_sweeper(hydra) or folder == again:
            raise
        folder = again
        held.enter_context(claimed(folder))
    return folder


class Bug(UserError):
    """Something that no user can cause."""

    exit_code = 1


def told(error: Exception, folder: Path) -> UserError:
    """The error as one line; what is our bug leaves its traceback in the run's folder."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        return unwritable(error)
    file = folder / "traceback.txt"
    with suppress(OSError):
        file.write_text("".join(traceback.format_exception(error)))
    return Bug(f"{type(error).__name__}: {' '.join(str(error).split())}, which is a bug of dqn-cli; see {file}")
