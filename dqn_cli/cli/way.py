"""How a run begins or goes on: which configuration it has, from where, and what has to be said about that."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_cli.cli.compare import at_length_of, compared
from dqn_cli.cli.evaluate import trusted
from dqn_cli.cli.preflight import fitting, preflight
from dqn_cli.cli.resume import Asked
from dqn_cli.cli.runs import refuse_links, refuse_run, standing
from dqn_cli.config import Config, GymConfig
from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.settle import Typed
from dqn_cli.training import resuming
from dqn_cli.training.manifest import read_manifest

if TYPE_CHECKING:
    from dqn_cli.training.resuming import Found, Resume

AGAIN = "the run was stopped before its first checkpoint: it starts again"


AUTO = Asked("auto")


@dataclass(frozen=True)
class Way:
    """How a run begins, or goes on where there is `resume`; `finished` is why there is nothing left to do.

    `again` is the line about a run that this one repeats.
    """

    config: Config
    notices: list[str] = field(default_factory=list)
    resume: Resume | None = None
    finished: str | None = None
    again: str | None = None


def begin(folder: Path, written: Config, typed_keys: Typed) -> Way:
    """A new run. Raises `ConfigError` where there is one already, and what `preflight` does."""
    if (stands := standing(folder)) is not None:
        raise refuse_run(folder, stands)
    config = deepcopy(written)
    _, notices = preflight(config, typed_keys)
    return Way(config, notices)


def begin_or_go_on(folder: Path, written: Config, typed_keys: Typed, asked: Asked) -> Way:
    """A new run where there is none, else the same one, as it stands. Raises user errors."""
    stands = standing(folder)
    if stands is None:
        return begin(folder, written, typed_keys)
    refuse_links(folder)
    if stands.step is None:  # nothing of it counts
        config = deepcopy(written)
        _, notices = preflight(config, typed_keys)
        return Way(config, [*notices, AGAIN])
    module = written.env.module if isinstance(written.env, GymConfig) else None
    return go_on(folder, asked, module, lambda stored: at_length_of(stored, written, typed_keys))


def go_on(folder: Path, asked: Asked, module: str | None, want: Callable[[Config], Config]) -> Way:
    """From the newest whole checkpoint, or once more from the start; `want` makes of the stored configuration ours.

    Raises `CheckpointError` where nothing can be trusted, `ConfigError` where another run is meant.
    """
    found = resuming.find(folder)
    stored = trusted(_configuration(folder) if found is None else found.config, folder)
    require_module(stored, module)
    config = want(stored)
    notices = compared(stored, config, asked.override)
    if found is None:
        return Way(config, [*notices, *fitting(config).notices, AGAIN])
    resume = resuming.Resume(stored, asked.env, found)
    if found.finished and not _longer(stored, config, found):
        return Way(config, found.notices, resume, _finished(config, found))
    if config.run.total_steps <= found.step:
        raise ConfigError(
            f"run.total_steps={config.run.total_steps} is not beyond step {found.step} of the run; write more"
        )
    return Way(config, [*found.notices, *notices, *fitting(config).notices], resume)


def _longer(stored: Config, config: Config, found: Found) -> bool:
    before, now = stored.run, config.run
    changed = (before.total_steps, before.stop_at_return) != (now.total_steps, now.stop_at_return)
    return changed and now.total_steps > found.step


def _finished(config: Config, found: Found) -> str:
    run = config.run
    if run.total_steps > found.step:
        goal = f", run.stop_at_return={run.stop_at_return:g} reached" if run.stop_at_return is not None else ""
        return f"run is finished ({found.step:,} steps{goal}); write run.stop_at_return=... to go on"
    return finished_at(found.step)


def finished_at(step: int) -> str:
    """The line for a run that has come to its end."""
    return f"run is finished ({step:,} steps); write run.total_steps=... to go on"


def _configuration(folder: Path) -> dict[str, Any]:
    """What a run without a checkpoint was configured as."""
    config = read_manifest(folder).get("config")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder} has neither a checkpoint nor a configuration; begin a run in another folder")
    return config


def require_module(stored: Config, module: str | None) -> None:
    """Raise `ConfigError` where the environment comes from another module than the one that the user wrote."""
    own = stored.env.module if isinstance(stored.env, GymConfig) else None
    if own not in (None, module):
        raise ConfigError(
            f"the run's environment comes from the module {own!r}; if you trust it, write env.module={own}"
        )
