"""What may change when a run goes on: some settings silently, some with a notice, all others not."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from dqn_cli.cli.plan_report import shown
from dqn_cli.cli.provenance import leaves
from dqn_cli.config import CHOICES, Config, LrSchedule, PrioritizedConfig
from dqn_cli.errors import ConfigError
from dqn_cli.settle import Typed, settle
from dqn_cli.validate import plain

# what a run does not depend on, up to where it acts
FREE = (
    "run.total_steps",
    "run.log_every_steps",
    "run.checkpoint_every_steps",
    "run.keep_checkpoints",
    "run.checkpoint_replay",
    "run.stall_s",
    "run.stop_at_return",
    "logger",
)
MACHINE = ("device", "threads")  # what its last bits depend on: the run tells which they are, and which they were
AT_MOST = 4  # differences in a line

Differences = Mapping[str, tuple[Any, Any]]  # dotted key -> before, now


def differences(stored: Config, wanted: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same. Of a group with another choice that choice alone, of the environment its id."""
    before, now = plain(stored), plain(wanted)
    found: dict[str, tuple[Any, Any]] = {}
    for group in CHOICES:
        if before[group]["name"] != now[group]["name"]:
            key, leaf = ("env.id", "id") if group == "env" else (group, "name")
            found[key] = before[group][leaf], now[group][leaf]
            del before[group], now[group]
    old, new = ({key: value for key, value in leaves(data) if value != {}} for data in (before, now))
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) != new.get(key):
            found[key] = old.get(key), new.get(key)
    return found


def told(changed: Differences) -> str:
    """The differences in words, not too many of them."""
    words = [f"{key} {shown(before)} -> {shown(now)}" for key, (before, now) in changed.items()]
    more = f" and {len(words) - AT_MOST} more" if len(words) > AT_MOST else ""
    return ", ".join(words[:AT_MOST]) + more


def compared(stored: Config, wanted: Config, override: bool) -> list[str]:
    """The notices of going on as `wanted`; `ConfigError` where that is another run than the `stored` one.

    `override` insists on it.
    """
    changed = differences(stored, wanted)
    notices = []
    if others := {key: values for key, values in changed.items() if key not in (*FREE, *MACHINE)}:
        if not override:
            raise ConfigError(
                f"the run was configured otherwise: {told(others)}; "
                "keep its settings, or insist with resume_override=true"
            )
        notices.append(f"{told(others)}: the run goes on, but no longer bit for bit as without the stop")
    if "run.total_steps" in changed:
        notices += [
            f"{what} now ends with the run's new end: no continuation bit for bit" for what in _spanning(wanted)
        ]
    return notices


def _spanning(config: Config) -> list[str]:
    """Schedules that a run's length stretches."""
    found = []
    if config.optimizer.lr_schedule is LrSchedule.linear:
        found.append("the learning rate's decay (optimizer.lr_schedule=linear)")
    if isinstance(config.replay, PrioritizedConfig) and config.replay.beta_over_steps is None:
        found.append("beta's rise (replay.beta_over_steps=null)")
    return found


def at_length_of(stored: Config, written: Config, typed_keys: Typed) -> Config:
    """`written`, clipped as it was for the length of the `stored` run, so that another length changes nothing else."""
    config = deepcopy(written)
    config.run.total_steps = stored.run.total_steps
    try:
        settle(config, [key for key in typed_keys if key not in FREE])
    except ConfigError:  # it could not be as long as that: then more differs than the length
        config = deepcopy(written)
        settle(config, typed_keys)
    for key in FREE:
        section, _, name = key.rpartition(".")
        place, source = (getattr(config, section), getattr(written, section)) if section else (config, written)
        setattr(place, name, getattr(source, name))
    return config
