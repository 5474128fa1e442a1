"""What `dqn-plan` shows: everything about a run that is known before it begins, as lines of text."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dqn_cli.cli.arguments import GROUPS
from dqn_cli.cli.preflight import free_memory
from dqn_cli.cli.provenance import leaves
from dqn_cli.config import (
    AtariConfig,
    Config,
    EnvConfig,
    EpsilonConfig,
    EpsilonSchedule,
    OnlineConfig,
    PrioritizedConfig,
    TargetUnit,
    TdqnConfig,
    UniformConfig,
)
from dqn_cli.envs.make import EnvFacts
from dqn_cli.errors import UserError
from dqn_cli.training.evaluator import EVAL_LANES
from dqn_cli.training.forecast import Forecast
from dqn_cli.training.plan import make_schedules
from dqn_cli.training.probe import Speed
from dqn_cli.validate import PLAIN_SECTIONS, plain

COLUMNS = 80
SOURCES_AT = 37  # the longest name of a file of values still fits
TEXTS_AT = 17


@dataclass(frozen=True)
class Settled:
    """A run that nothing refuses: its configuration before and after the rules, and what follows from it."""

    written: Config
    config: Config
    facts: EnvFacts
    notices: list[str]
    forecast: Forecast


def configuration(run: Settled, choices: Mapping[str, str | None], sources: Mapping[str, str]) -> Iterator[str]:
    """Every setting, group by group, and what gave it its value."""
    written, settled = (dict(leaves(plain(config))) for config in (run.written, run.config))
    groups = [*GROUPS, *PLAIN_SECTIONS, ""]
    for group in groups:
        if choices.get(group) is not None:
            yield _sourced(f"{group}={choices[group]}", sources[group])
        for key, value in settled.items():
            if key.rpartition(".")[0].partition(".")[0] != group or (group in GROUPS and key == f"{group}.name"):
                continue
            source = sources[key]
            if value != written[key]:
                source = f"clipped from {shown(written[key])} ({source})"
            yield _sourced(f"{key}={shown(value)}", source)


def shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def environment(config: Config, facts: EnvFacts) -> Iterator[str]:
    """What is played, and how it is shown."""
    spec, skip = facts.spec, facts.frame_skip
    yield _row("id", config.env.id)
    one = f"one of {spec.frame_shape[0]} states" if facts.discrete else f"{spec.dtype} of shape {[*spec.frame_shape]}"
    yield _row("observation", one if spec.stack == 1 else f"the last {spec.stack} frames, each {one}")
    yield _row("actions", f"{facts.num_actions}")
    frames = f" ({facts.time_limit_steps * skip:,} frames)" if skip is not None else ""
    yield _row("time limit", f"{facts.time_limit_steps:,} steps{frames}")
    if isinstance(config.env, AtariConfig):
        common, own = {f.name for f in fields(EnvConfig)}, plain(config)["env"]
        options = [f"{name}={shown(value)}" for name, value in own.items() if name not in common]
        yield _row("rules", " ".join(options))


def schedule(config: Config, facts: EnvFacts, totals: Forecast) -> Iterator[str]:
    """The counters at the run's end, and when things happen."""
    frames = f" ({totals.steps * facts.frame_skip:,} frames)" if facts.frame_skip is not None else ""
    yield _row("steps", f"{totals.steps:,}{frames}")
    yield _row("updates", _updates(config, totals))
    yield _row("first update", f"{'at' if totals.exact else 'by'} step {totals.first_update_steps:,}")
    if isinstance(config.variant, TdqnConfig):
        yield _row("target syncs", _target_syncs(config.variant, totals))
    looks = f"{totals.evaluations:,} of {config.run.eval_episodes:,} episodes, and one more at each new best"
    yield _row("evaluations", looks)
    if (goal := config.run.stop_at_return) is not None:
        yield _row("goal", f"the run ends before, where an evaluation reaches a mean return of {goal:g}")
    yield ""
    columns = {name.replace("lr", "learning rate"): at for name, at in make_schedules(config).items()}
    yield f"{'step':>17}  {' '.join(f'{name:<13}' for name in columns)}".rstrip()
    for step, what in sorted(key_steps(config, totals.steps).items()):
        yield f"{step:>17,}  {' '.join(f'{at(step):<13.4g}' for at in columns.values())} {what}"


def _updates(config: Config, totals: Forecast) -> str:
    run, replay = config.run, config.replay
    if isinstance(replay, UniformConfig):
        ratio = run.updates_per_round * replay.batch_size / run.update_every_steps
        how = f"{run.updates_per_round} per {run.update_every_steps} steps, of {replay.batch_size} transitions each"
        return f"{totals.updates:,}: {how}, so that a transition is sampled {ratio:g} times"
    if totals.exact:
        return f"{totals.updates:,}: every transition is learnt once"
    return f"{totals.updates:,} to {totals.most_updates:,}: every n-step return is learnt once, when it is finished"


def _target_syncs(variant: TdqnConfig, totals: Forecast) -> str:
    what = "" if variant.tau == 1 else f", by tau={variant.tau:g}"
    if variant.target_unit is TargetUnit.episodes:
        return f"once per {variant.target_every:,} episodes{what}"
    every = f"one per {variant.target_every:,} {variant.target_unit}{what}"
    return every if totals.target_syncs is None else f"{totals.target_syncs:,}: {every}"


def key_steps(config: Config, steps: int) -> dict[int, str]:
    """Steps at which schedules are worth looking at, and why."""
    named = [(0, "begin")]
    if not isinstance(config.replay, OnlineConfig):
        named.append((config.run.learning_starts_steps, "learning starts"))
    exploration = config.exploration
    if isinstance(exploration, EpsilonConfig) and exploration.schedule is not EpsilonSchedule.constant:
        if exploration.delay_steps:
            named.append((exploration.delay_steps, "decay begins"))
        named.append((exploration.delay_steps + exploration.over_steps, "decay ends"))
    if isinstance(config.replay, PrioritizedConfig) and config.replay.beta_over_steps is not None:
        named.append((config.replay.beta_over_steps, "beta ends"))
    named += [(steps * percent // 100, f"{percent} %") for percent in (25, 50, 75)]
    named.append((steps, "end"))
    found: dict[int, list[str]] = {}
    for step, what in named:
        if step <= steps:
            found.setdefault(step, []).append(what)
    return {step: ", ".join(whats) for step, whats in found.items()}


def resources(config: Config, totals: Forecast, folder: Path) -> Iterator[str]:
    """Memory and disk."""
    memory = f"{size(free_memory())} free"
    if isinstance(config.replay, UniformConfig):
        yield _row("replay", f"{size(totals.replay_bytes)} for {config.replay.capacity:,} transitions, of {memory}")
    else:
        yield _row("replay", f"{size(totals.replay_bytes)}, of {memory}")
    twice = ", and as many in the target network" if isinstance(config.variant, TdqnConfig) else ""
    yield _row("parameters", f"{totals.parameters:,}{twice}")
    kept = min(totals.checkpoints, config.run.keep_checkpoints)
    periodic = f"{totals.checkpoints:,} periodic, of which the last {kept} stay; " if kept else ""
    whole = totals.model_bytes + totals.optimizer_bytes
    each = f"{size(whole)} each (weights {size(totals.model_bytes)}, optimizer {size(totals.optimizer_bytes)})"
    yield _row("checkpoints", f"{periodic}best and final; {each}")
    if totals.replay_disk_bytes:
        yield _row("replay on disk", f"at most {size(totals.replay_disk_bytes)}, before compression")
    needed = size((kept + 1) * whole + totals.model_bytes + totals.replay_disk_bytes)
    free = size(shutil.disk_usage(folder).free)
    yield _row("disk", f"at most {needed} of checkpoints stay, of {free} free; and the logs")


def expected_time(config: Config, facts: EnvFacts, totals: Forecast, speed: Speed) -> Iterator[str]:
    """What the probe says."""
    update = f" and {1e3 * speed.update_seconds:.3g} ms an update" if speed.update_seconds else ", learning included"
    where = f"on {speed.device} with {speed.threads} thread{'s' * (speed.threads > 1)}, as busy as this machine is now"
    yield _row("probe", f"{1e3 * speed.step_seconds:.3g} ms a step{update}, {where}")
    once = f", after {duration(speed.compile_seconds)} of compiling" if speed.compile_seconds else ""
    yield _row("update", f"{speed.way}{once}")
    yield _row("expected", f"{duration(speed.seconds(totals.steps, totals.updates))}, evaluations not counted")
    rounds = -(-config.run.eval_episodes // EVAL_LANES)
    lanes = min(config.run.eval_episodes, EVAL_LANES)  # all of them go on until the last one is through
    longest = 2 * totals.evaluations * rounds * lanes * facts.time_limit_steps * speed.step_seconds
    yield _row(
        "evaluations",
        f"at most about {duration(longest)}: if every episode lasted to its time limit and every evaluation were a new "
        "best",
    )


def sweep(overrides: Sequence[Sequence[str]], outcomes: Sequence[Forecast | UserError]) -> Iterator[str]:
    """A line per job, with those of its overrides that not all jobs have, what is refused, and the total."""
    totals = [outcome for outcome in outcomes if isinstance(outcome, Forecast)]
    steps, updates = (sum(getattr(total, name) for total in totals) for name in ("steps", "updates"))
    most = max((total.replay_bytes for total in totals), default=0)
    cells = [
        ("job", "steps", "updates", "memory"),
        *((str(job), *_numbers(outcome)) for job, outcome in enumerate(outcomes)),
        ("total", f"{steps:,}", f"{updates:,}", size(most)),
    ]
    shared = set.intersection(*map(set, overrides))
    own = [" ".join(word for word in words if word not in shared) for words in overrides]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, text in zip(cells, ["overrides", *own, "at a time"], strict=True):
        line = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield _beside(line, text, len(line) + 2).rstrip()
    for job, outcome in enumerate(outcomes):
        if isinstance(outcome, UserError):
            yield f"job {job} would be refused: {outcome}"


def _numbers(outcome: Forecast | UserError) -> tuple[str, str, str]:
    if isinstance(outcome, UserError):
        return "-", "-", "-"
    return f"{outcome.steps:,}", f"{outcome.updates:,}", size(outcome.replay_bytes)


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Two units at most."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{days:.1f} days"


def _row(label: str, text: str) -> str:
    return _beside(f"  {label}", text, TEXTS_AT)


def _sourced(setting: str, source: str) -> str:
    if SOURCES_AT + len(source) > COLUMNS and source.startswith("values/experiment/"):
        source = f".../{source.rpartition('/')[2]}"
    return _beside(f"  {setting}", source, SOURCES_AT)


def _beside(title: str, text: str, column: int) -> str:
    """`text` wrapped from `column` on, below the title where that reaches farther."""
    lines = textwrap.wrap(text, COLUMNS - column, break_long_words=False, break_on_hyphens=False)
    first = title.ljust(column) + lines.pop(0) if lines and len(title) < column else title
    return "\n".join([first, *(" " * column + line for line in lines)])
