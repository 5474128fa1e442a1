"""One training run as Hydra's task: from the composed configuration to the metric."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.cli import sweep
from dqn_cli.cli.arguments import typed_keys
from dqn_cli.cli.paths import claim, release
from dqn_cli.cli.preflight import preflight
from dqn_cli.config import Config
from dqn_cli.errors import ConfigError, Interrupted, UserError, unwritable
from dqn_cli.validate import typed, wrong_value

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class Escaped(BaseException):
    """Carries an error past Hydra, which swallows those of callbacks and announces those of jobs in its own words."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def overrides_of(hydra: Any) -> list[str]:
    """What was typed for this job, as it was typed: a `${...}` in it is not ours to resolve."""
    return cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))


def words_of_jobs(master: DictConfig) -> list[list[str]]:
    """The overrides of a sweep's jobs, in the order of Hydra's own sweeper; `ConfigError` where it is another one."""
    if master.hydra.sweeper._target_ != BASIC_SWEEPER:
        raise ConfigError(
            "this sweeper chooses its jobs as it goes, they cannot be told before; leave out hydra/sweeper"
        )
    loader = cast(Any, GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
    words = [*params, *overrides_of(master.hydra)]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def compose_job(master: DictConfig, words: list[str]) -> DictConfig:
    """The composition of a sweep's job. Raises Hydra's errors."""
    loader = cast(Any, GlobalHydra.instance().config_loader())
    return cast(DictConfig, loader.load_sweep_config(master, words))


def read(composed: DictConfig) -> Config:
    """The configuration that Hydra composed, as it was written: typed, but held against no rule. Raises user errors."""
    try:
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        data = OmegaConf.to_container(ours, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise wrong_value(error, error.full_key or "configuration") from None
    return typed(cast(dict[str, Any], data))


def load(composed: DictConfig, overrides: list[str]) -> tuple[Config, list[str]]:
    """The configuration that Hydra composed, checked to the last rule, and the notices. Raises user errors."""
    config = read(composed)
    _, notices = preflight(config, typed_keys(overrides))
    return config, notices


def train(composed: DictConfig, overrides: list[str], folder: Path) -> float | None:
    """Check, train in `folder`, print the end of it; the metric."""
    config, notices = load(composed, overrides)
    for notice in notices:
        print(f"note: {notice}")
    from dqn_cli.build import train_run  # torch is imported here: after every check that can do without

    summary = train_run(config, run_dir=folder, overrides=overrides, command=["dqn-train", *overrides])
    print(*summary.lines(), sep="\n")
    return summary.metric


def task(composed: DictConfig) -> float | None:
    """What Hydra calls, once or for every job of a sweep."""
    hydra = HydraConfig.get()
    folder, overrides = Path(hydra.runtime.output_dir), overrides_of(hydra)
    if hydra.mode == RunMode.MULTIRUN:
        try:
            return _sweep_job(composed, overrides, folder, hydra)
        except OSError as error:  # what tells of a job cannot be written, so that the next ones would be in vain
            raise Escaped(unwritable(error)) from error
    try:
        claim(folder)
    except UserError as error:
        raise Escaped(error) from error
    try:
        return train(composed, overrides, folder)
    except KeyboardInterrupt:
        release(folder)
        raise
    except Exception as error:
        failure = told(error, folder)
        release(folder)
        raise Escaped(failure) from error


def _sweep_job(composed: DictConfig, overrides: list[str], folder: Path, hydra: Any) -> float | None:
    try:
        claim(folder)
    except ConfigError:  # another job of this sweep has the same settings: both may run
        folder = folder.with_name(f"{folder.name}-{hydra.job.num}")
        claim(folder)
    result = {"job": hydra.job.num, "overrides": overrides, "return_mean": None, "error": None, "exit_code": None}
    print(f"job {hydra.job.num}: {' '.join(overrides)} -> {folder}")
    sweep.record(folder, **result | {"status": "running"})
    try:
        return_mean = train(composed, overrides, folder)
    except (Interrupted, KeyboardInterrupt) as stop:
        sweep.record(folder, **result | {"status": "interrupted", "error": str(stop) or None, "exit_code": 130})
        raise KeyboardInterrupt from stop
    except Exception as error:
        failure = told(error, folder)
        sweep.record(folder, **result | {"status": "failed", "error": str(failure), "exit_code": failure.exit_code})
        print(f"job {hydra.job.num} failed: {failure}")
        if hydra.sweeper._target_ == BASIC_SWEEPER:  # it uses no metric, and would stop after a failure
            return None
        raise failure from error
    sweep.record(folder, **result | {"status": "done", "return_mean": return_mean, "exit_code": 0})
    return return_mean


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
