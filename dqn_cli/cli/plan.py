"""`dqn-plan`: what `dqn-train` would do with the same arguments, without doing it.

It is the same Hydra application, with another callback in the place of the one that checks a run before its folder is
made. The callback shows the plan and ends the application, so that nothing is ever written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.cli import plan_report, resume
from dqn_cli.cli.arguments import typed_keys
from dqn_cli.cli.composition import compose_job, overrides_of, read, words_of_jobs
from dqn_cli.cli.explain import Escaped, explain
from dqn_cli.cli.hydra_app import Checks, launch
from dqn_cli.cli.paths import NOTHING, WITHOUT
from dqn_cli.cli.plan_report import Settled
from dqn_cli.cli.preflight import preflight
from dqn_cli.cli.provenance import sources
from dqn_cli.cli.runs import refuse_run, standing
from dqn_cli.cli.sweep import labels
from dqn_cli.errors import ConfigError, StorageError, UserError
from dqn_cli.training.forecast import Forecast, forecast
from dqn_cli.training.probe import Speed

NO_PROBE = "--no-probe"
_CALLBACK = "++hydra.callbacks.checks._target_=dqn_cli.cli.plan.Plans"
_COMPLETION = {"-sc", "--shell-completion", "--shell_completion"}


def main(argv: Sequence[str]) -> int:
    """Run `dqn-plan` with these arguments; the exit code. Raises user errors."""
    Plans.probing = NO_PROBE not in argv
    words, asked = resume.take([word for word in argv if word != NO_PROBE])
    if asked is not None:
        raise ConfigError(f"dqn-plan shows what begins; leave out resume={asked.folder}")
    try:
        return launch(words if _COMPLETION & {*words} else [*words, _CALLBACK])
    except _Shown as shown:
        return shown.code


class _Shown(BaseException):
    """Ends Hydra's application where the plan has been shown."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class Plans(Checks):
    """Shows what would run and lets nothing run."""

    probing: ClassVar[bool] = True

    def on_run_start(self, config: DictConfig, **rest: Any) -> None:
        """A single run."""
        _end(lambda: _show(config, rest["config_name"]))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep."""
        super().on_multirun_start(config)
        Checks.sweep_dir = None  # there will be nothing in it
        _end(lambda: _show_sweep(config))

    def keep(self, folder: Path, jobs: Mapping[tuple[str, ...], Any]) -> None:
        """Write nothing."""


def _end(show: Callable[[], int]) -> None:
    """Hydra would swallow the errors of a callback."""
    try:
        code = show()
    except (HydraException, OmegaConfBaseException) as error:
        raise Escaped(explain(error)) from error
    except Exception as error:
        raise Escaped(error) from error
    raise _Shown(code)


def settled(composed: DictConfig) -> Settled:
    """The run that Hydra composed, through every check of `dqn-train`. Raises user errors."""
    written, config = read(composed), read(composed)
    facts, notices = preflight(config, typed_keys(overrides_of(composed.hydra)))
    return Settled(written, config, facts, notices, forecast(config, facts))


def _show(composed: DictConfig, config_name: str) -> int:
    run = settled(composed)
    HydraConfig.instance().set_config(composed)  # the folder's name asks for it
    folder = Path(composed.hydra.run.dir)
    above = _check_folder(folder)
    if (stands := standing(folder)) is not None:
        raise refuse_run(folder, stands)
    overrides = [*composed.hydra.overrides.hydra, *overrides_of(composed.hydra)]
    speed = _probe(run) if Plans.probing else None
    config, facts, totals = run.config, run.facts, run.forecast
    sections: dict[str, Iterator[str]] = {
        "configuration": plan_report.configuration(
            run, composed.hydra.runtime.choices, sources(config_name, overrides)
        ),
        "environment": plan_report.environment(config, facts),
        "schedule": plan_report.schedule(config, facts, totals),
        "memory and disk": plan_report.resources(config, totals, above),
    }
    if speed is not None:
        sections["time"] = plan_report.expected_time(config, facts, totals, speed)
    print("\n\n".join("\n".join([title, *lines]) for title, lines in sections.items()))
    if run.notices:
        print("", *(f"note: {notice}" for notice in run.notices), sep="\n")
    return 0


def _probe(run: Settled) -> Speed:
    from dqn_cli.build import probe  # torch is imported here: after every check that can do without

    return probe(run.config)


def _check_folder(folder: Path) -> Path:
    """The folder above that exists already; `StorageError`, as `dqn-train` has it, where `folder` cannot be made."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    reason = errno.ENOTDIR if not above.is_dir() else 0 if os.access(above, os.W_OK | os.X_OK) else errno.EACCES
    if reason:
        raise StorageError(f"{folder}: {os.strerror(reason)}; write another folder (hydra.run.dir, hydra.sweep.dir)")
    return above


def _show_sweep(master: DictConfig) -> int:
    """A line per job and the total; 1 where jobs would be refused."""
    jobs = [compose_job(master, words) for words in words_of_jobs(master)]
    _check_folder(Path(master.hydra.sweep.dir))
    outcomes = [_outcome(job) for job in jobs]
    print(*plan_report.sweep(_in_words([overrides_of(job.hydra) for job in jobs]), outcomes), sep="\n")
    return 1 if any(isinstance(outcome, UserError) for outcome in outcomes) else 0


def _in_words(overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """The jobs' overrides, with what an ablation leaves out said as in the table at the end of its sweep."""
    left_out = [next((word for word in words if word.lstrip("+").startswith(f"{WITHOUT}=")), "") for words in overrides]
    if not any(left_out):
        return [list(words) for words in overrides]
    words_for = labels([word.partition("=")[2] or NOTHING for word in left_out])
    return [
        [label, *(word for word in words if word != out)]
        for words, out, label in zip(overrides, left_out, words_for, strict=True)
    ]


def _outcome(job: DictConfig) -> Forecast | UserError:
    try:
        return settled(job).forecast
    except UserError as error:
        return error
