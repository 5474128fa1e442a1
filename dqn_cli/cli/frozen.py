"""`jobs.json`: the configurations of a sweep's jobs as they were when it began, whatever becomes of conf/ meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dqn_cli.cli.compare import differences
from dqn_cli.cli.compare import told as in_words
from dqn_cli.cli.composition import compose_job, overrides_of, read, subfolder, words_of_jobs
from dqn_cli.cli.lock import CLAIM
from dqn_cli.cli.runs import JOBS
from dqn_cli.cli.sweep import read as read_result
from dqn_cli.config import Config
from dqn_cli.errors import CheckpointError, ConfigError, writing
from dqn_cli.files import read_bytes
from dqn_cli.validate import plain, typed

MAX_BYTES = 1 << 28
Jobs = Mapping[tuple[str, ...], Config]  # by their overrides


def jobs_of(master: DictConfig, sweep: Path) -> dict[tuple[str, ...], Config]:
    """The jobs of a sweep into the folder `sweep`, those left out whose configuration none is: they will say so.

    Raises `ConfigError` where jobs, or one of them and an earlier one, would share a folder, and Hydra's errors.
    """
    jobs: dict[tuple[str, ...], Config] = {}
    taken: dict[str, list[str]] = {}
    for number, words in enumerate(words_of_jobs(master)):
        composed = compose_job(master, words)
        folder, overrides = subfolder(composed, number), overrides_of(composed.hydra)
        if taken.get(folder) == overrides:
            raise ConfigError(f"the job {_name(overrides)} stands in this sweep twice; write each value once")
        before = read_result(sweep / folder)
        had = taken.get(folder) or (overrides if before is None else before["overrides"])
        if had != overrides:
            raise ConfigError(
                f"{sweep / folder} is the folder of the job {_name(had)} and cannot be that of {_name(overrides)} too; "
                "write another hydra.sweep.subdir or hydra.sweep.dir"
            )
        taken[folder] = overrides
        with suppress(ConfigError):
            jobs[tuple(overrides)] = read(composed)
    return jobs


def load(sweep: Path) -> dict[tuple[str, ...], Any]:
    """The configurations in a sweep's folder, plain data that nobody vouches for, by overrides. `CheckpointError`."""
    file = sweep / JOBS
    if not file.exists():
        return {}
    from dqn_cli.training.untrusted import strict_json

    try:
        return {
            tuple(job["overrides"]): job["config"] for job in strict_json(file, read_bytes(file, MAX_BYTES))["jobs"]
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not a list of a sweep's jobs; write another hydra.sweep.dir") from error


def find(sweep: Path, overrides: Sequence[str]) -> Config | None:
    """The configuration of one job; None where it could not be composed. Raises `CheckpointError`."""
    data = load(sweep).get(tuple(overrides))
    return None if data is None else _typed(data, sweep / JOBS)


def compare(sweep: Path, jobs: Jobs) -> dict[tuple[str, ...], Any]:
    """What has to stand in a sweep's folder for `jobs` too. `ConfigError` where one of them was another one before."""
    stored = load(sweep)
    if not stored and any(sweep.rglob(CLAIM)):
        raise ConfigError(
            f"hydra.sweep.dir={sweep} already holds runs, and no {JOBS} to go on with; write another folder"
        )
    for overrides, config in jobs.items():
        if (data := stored.get(overrides)) is None:
            stored[overrides] = plain(config)
        elif changed := differences(_typed(data, sweep / JOBS), config):
            raise ConfigError(
                f"hydra.sweep.dir={sweep} holds the job {_name(overrides)} configured otherwise: {in_words(changed)}; "
                "write another folder"
            )
    return stored


def keep(sweep: Path, stored: Mapping[tuple[str, ...], Any]) -> None:
    """Write them, whole or not at all. Raises `StorageError`."""
    file, jobs = sweep / JOBS, [{"overrides": overrides, "config": config} for overrides, config in stored.items()]
    sweep.mkdir(parents=True, exist_ok=True)
    with writing(file):
        temporary = file.with_name(f".tmp-{JOBS}")
        temporary.write_text(json.dumps({"jobs": jobs}, allow_nan=False) + "\n")
        temporary.replace(file)


def _name(overrides: Sequence[str]) -> str:
    return " ".join(overrides) or "without settings"


def _typed(data: Any, file: Path) -> Config:
    try:
        return typed(data)
    except Exception as error:  # data that nobody vouches for may break a parser in any way
        raise CheckpointError(f"{file}: not a run's configuration: {error}") from error
