"""dqn-train as a Hydra application, with one line instead of its tracebacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.cli import ablate, frozen, sweep
from dqn_cli.cli.arguments import MULTIRUN, check, clean
from dqn_cli.cli.composition import has_basic_sweeper, overrides_of
from dqn_cli.cli.explain import explain
from dqn_cli.cli.job import Escaped, load, task
from dqn_cli.cli.lock import CLAIM
from dqn_cli.cli.paths import conf_dir, env_folder, job_folder, method_folder
from dqn_cli.cli.way import Asked
from dqn_cli.config import CHOICES, Config
from dqn_cli.errors import ConfigError, Interrupted, StorageError
from dqn_cli.training.summary import shown


def register() -> None:
    """Tell Hydra the dataclasses, as `schema/...`, and how folders are named."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, choices in CHOICES.items():
        for name, cls in choices.items():
            store.store(group=f"schema/{group}", name=name, node=cls)
    OmegaConf.register_new_resolver("env_folder", env_folder, replace=True)
    OmegaConf.register_new_resolver("method_folder", method_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


class Checks(Callback):
    """Refuses what cannot run before Hydra makes a folder for it."""

    sweep_dir: ClassVar[Path | None] = None
    ablation: ClassVar[str | None] = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """A single run: every check."""
        try:
            load(config, overrides_of(config.hydra))
        except Exception as error:
            raise Escaped(error) from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep: its configurations are frozen, and its folder is remembered for the table at its end."""
        try:
            folder = Path(config.hydra.sweep.dir)
            if Checks.ablation is not None:
                ablate.extend(config, Checks.ablation)
            if has_basic_sweeper(config.hydra):
                self.keep(folder, frozen.compare(folder, frozen.jobs_of(config, folder)))
            elif any(folder.rglob(CLAIM)):
                raise ConfigError(f"hydra.sweep.dir={folder} already holds runs; write another folder")
        except Exception as error:
            raise Escaped(_told(error)) from error
        Checks.sweep_dir = folder

    def keep(self, folder: Path, jobs: Mapping[tuple[str, ...], Any]) -> None:
        """Write what the jobs take their configurations from."""
        if jobs:
            frozen.keep(folder, jobs)


def launch(argv: Sequence[str], asked: Asked | None = None) -> int:
    """Run `dqn-train` with these arguments: 0, or 1 where jobs of a sweep failed. Raises a single run's errors.

    `asked` is what `resume=auto` asks for.
    """
    words, Checks.ablation = ablate.take(argv)
    if asked is not None:
        _check_auto(words)
    arguments = check(clean(words))
    register()

    def single(composed: DictConfig) -> float | None:
        return task(composed, asked)

    app = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(
        task if asked is None else single
    )
    Checks.sweep_dir = None
    try:
        with _as_hydra_expects([sys.argv[0], *arguments]):
            app()
    except KeyboardInterrupt:
        _end_of_sweep()
        raise _stopped(Interrupted("stopped by Ctrl-C"), words) from None
    except Escaped as escaped:
        with suppress(OSError):  # it may be why there is no going on
            _end_of_sweep()
        raise _stopped(escaped.error, words) from escaped.__cause__
    except Exception as error:
        failed = _end_of_sweep()
        if failed:  # a sweeper that stops at a job's failure, which the table has told
            return 1
        raise _told(error) from error
    return 1 if _end_of_sweep() else 0


def _check_auto(words: Sequence[str]) -> None:
    if MULTIRUN & {*words}:
        raise ConfigError("resume=auto does nothing with -m: a sweep goes on with the same command again; remove it")
    if not any(word.startswith("hydra.run.dir=") for word in words):
        raise ConfigError("resume=auto needs a folder that stays the same; write hydra.run.dir=...")


def _stopped(error: Exception, words: Sequence[str]) -> Exception:
    """The error, with how to go on where it stopped a sweep."""
    if Checks.sweep_dir is None or not isinstance(error, Interrupted):
        return error
    typed = any(word.startswith("hydra.sweep.dir=") for word in words)
    folder = "" if typed else f" and hydra.sweep.dir={shown(Checks.sweep_dir)}"
    return Interrupted(f"{error}; go on with the same command{folder}", error.exit_code)


def _end_of_sweep() -> int:
    """The table of what has run; how many jobs are not done."""
    folder = Checks.sweep_dir
    return sweep.finish(folder) if folder is not None and folder.is_dir() else 0


def _told(error: Exception) -> Exception:
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return explain(error)
    if isinstance(error, OSError) and error.filename is not None:
        return StorageError(
            f"{error.filename}: {error.strerror}; write another folder (hydra.run.dir, hydra.sweep.dir)"
        )
    return error


@contextmanager
def _as_hydra_expects(argv: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and raises its errors, instead of printing them, where HYDRA_FULL_ERROR is set."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = argv
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
