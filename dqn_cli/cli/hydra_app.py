"""dqn-train as a Hydra application, with one line instead of its tracebacks.

What only a run or a sweep needs is imported where that begins: `--cfg`, `--info` and completions do not wait for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import hydra
import hydra._internal.hydra
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.cli import ablate
from dqn_cli.cli.arguments import MULTIRUN, check, clean
from dqn_cli.cli.composition import has_basic_sweeper, overrides_of
from dqn_cli.cli.explain import Escaped, explain
from dqn_cli.cli.paths import conf_dir, config_folders, env_folder, job_folder, method_folder
from dqn_cli.config import CHOICES, Config, OwnExplorationConfig, TorsoConfig
from dqn_cli.errors import ConfigError, Interrupted, StorageError

if TYPE_CHECKING:
    from dqn_cli.cli.resume import Asked


def register() -> None:
    """Tell Hydra the dataclasses, as `schema/...`, and how folders are named."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, choices in CHOICES.items():
        for name, cls in choices.items():
            store.store(group=f"schema/{group}", name=name, node=cls)
            if issubclass(cls, (TorsoConfig, OwnExplorationConfig)):  # of a plugin: no file refers to the schema
                store.store(group=group, name=name, node=cls)
    OmegaConf.register_new_resolver("env_folder", env_folder, replace=True)
    OmegaConf.register_new_resolver("method_folder", method_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


class ComposingOnce(Hydra):
    """Hydra composes a run twice, the first time only to see that it is no sweep: here it runs what it has seen.

    That spares a third of the time that such a command takes before torch is imported.
    """

    _seen: DictConfig | None = None

    @classmethod
    def create_main_hydra2(cls, task_name: str, config_search_path: ConfigSearchPath) -> Hydra:
        """One that looks into the user's own folders too, after ours."""
        for folder in config_folders():
            config_search_path.prepend("dqn-cli", f"file://{folder}", anchor="schema")
        return super().create_main_hydra2(task_name, config_search_path)

    def get_mode(self, config_name: str | None, overrides: list[str]) -> Any:
        """Whether the configuration says that it is a sweep; None where it says nothing, or cannot be composed so."""
        try:
            self._seen = super().compose_config(config_name, overrides, RunMode.RUN, with_log_configuration=True)
        except Exception:  # what is wrong is told by what comes next, unless it is a sweep's list of values
            return super().get_mode(config_name, overrides)
        return self._seen.hydra.mode

    def compose_config(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *rest: Any, **more: Any
    ) -> DictConfig:
        """What `get_mode` has composed, if it is a run's; else a composition."""
        seen, self._seen = self._seen, None
        if seen is None or run_mode is not RunMode.RUN:
            return super().compose_config(config_name, overrides, run_mode, *rest, **more)
        if seen.hydra.mode is None:  # Hydra adds that to the overrides in between
            seen.hydra.overrides.hydra.append(f"hydra.mode={run_mode.name}")
        return seen


class Checks(Callback):
    """Refuses what cannot run before Hydra makes a folder for it."""

    sweep_dir: ClassVar[Path | None] = None
    ablation: ClassVar[str | None] = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """A single run: every check."""
        from dqn_cli.cli.job import load

        try:
            load(config, overrides_of(config.hydra))
        except Exception as error:
            raise Escaped(error) from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep: its configurations are frozen, and its folder is remembered for the table at its end."""
        from dqn_cli.cli import frozen
        from dqn_cli.cli.lock import CLAIM

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
        from dqn_cli.cli import frozen

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
        return _task(composed, asked)

    app = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(
        _task if asked is None else single
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


def _task(composed: DictConfig, asked: Asked | None = None) -> float | None:
    from dqn_cli.cli.job import task

    return task(composed, asked)


def _check_auto(words: Sequence[str]) -> None:
    if MULTIRUN & {*words}:
        raise ConfigError("resume=auto does nothing with -m: a sweep goes on with the same command again; remove it")
    if not any(word.startswith("hydra.run.dir=") for word in words):
        raise ConfigError("resume=auto needs a folder that stays the same; write hydra.run.dir=...")


def _stopped(error: Exception, words: Sequence[str]) -> Exception:
    """The error, with how to go on where it stopped a sweep."""
    if Checks.sweep_dir is None or not isinstance(error, Interrupted):
        return error
    from dqn_cli.training.summary import shown

    typed = any(word.startswith("hydra.sweep.dir=") for word in words)
    folder = "" if typed else f" and hydra.sweep.dir={shown(Checks.sweep_dir)}"
    return Interrupted(f"{error}; go on with the same command{folder}", error.exit_code)


def _end_of_sweep() -> int:
    """The table of what has run; how many jobs are not done."""
    folder = Checks.sweep_dir
    if folder is None or not folder.is_dir():
        return 0
    from dqn_cli.cli import sweep

    return sweep.finish(folder)


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
    hydra._internal.hydra.Hydra = ComposingOnce  # type: ignore[misc]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        hydra._internal.hydra.Hydra = Hydra  # type: ignore[misc]
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
