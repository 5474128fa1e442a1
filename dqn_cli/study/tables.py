"""The tables of a report: as rows of numbers for CSV files, and as rows of texts for readers."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dqn_cli.envs.atari_scores import SOURCE
from dqn_cli.study.groups import Study, told
from dqn_cli.study.runs import Run
from dqn_cli.study.statistics import Estimate
from dqn_cli.study.summary import FINAL_SHARE, Row, Summary
from dqn_cli.study.texts import bounds, number
from dqn_cli.training.metrics import Metric


@dataclass(frozen=True)
class Table:
    """A table for readers: `text` names the columns that hold words, the others hold numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1


def csv_files(study: Study, summary: Summary) -> dict[str, str]:
    """Every CSV file of a report by its name."""
    return {
        "summary.csv": _csv(_SUMMARY, (_numbers(row) for rows in summary.rows.values() for row in rows)),
        "runs.csv": _csv(_RUNS, _run_rows(study, summary)),
        "curves.csv": _csv(
            ("env", "configuration", "metric", "n", "steps", "value", "low", "high"), _curve_rows(summary)
        ),
        "configurations.csv": _csv(("env", "setting", "configuration", "value"), _setting_rows(study)),
        "improvements.csv": _csv(
            ("better", "than", "envs", "n_better", "n_than", "probability", "low", "high"),
            ([each.better, each.than, each.envs, *each.runs, *_three(each.estimate)] for each in summary.improvements),
        ),
        "aggregates.csv": _csv(
            ("configuration", "n", "scale", "estimator", "value", "low", "high"),
            (
                [each.label, each.runs, summary.scale, name, *_three(found)]
                for each in summary.overall
                for name, found in each.estimates.items()
            ),
        ),
        "profiles.csv": _csv(
            ("configuration", "n", "scale", "above", "share", "low", "high"),
            (
                [each.label, each.runs, summary.scale, *point]
                for each in summary.profiles
                for point in zip(each.tau, each.share, each.low, each.high, strict=True)
            ),
        ),
    }


def results(rows: Sequence[Row], threshold: float | None) -> Table:
    """What the configurations of an environment came to."""
    human = any(row.human is not None for row in rows)
    valued = any(row.values is not None for row in rows)
    head = ["configuration", "n", "final return", "95 % interval", "mean over steps", "95 % interval"]
    head += [] if threshold is None else [f"steps to {threshold:g}"]
    head += ["% of a human"] * human
    head += ["max Q - return"] * valued + ["wall time"]
    out = []
    for row in rows:
        cells = [row.group.label + " (unfinished)" * row.group.so_far, str(row.group.n)]
        for found in (row.final_estimate, row.area_estimate):
            cells += [number(found.value), bounds(found.low, found.high) or "-"]
        if row.reached is not None:
            cells.append(_reached(row.reached))
        if human:
            cells.append(
                "-" if row.human is None else f"{number(row.human.value)} {bounds(row.human.low, row.human.high)}"
            )
        if valued:
            cells.append("-" if row.values is None else f"{row.values[0] - row.values[1]:+.3g}")
        out.append([*cells, duration(row.seconds)])
    return Table(head, out)


def sentence(rows: Sequence[Row]) -> str:
    """Which configuration ends highest, and whether others may as well."""
    best = max(rows, key=lambda row: row.final_estimate.value)
    found = best.final_estimate
    told_best = f"{best.group.label} ends highest: {number(found.value)} {bounds(found.low, found.high)}".rstrip()
    if len(rows) == 1:
        return f"{best.group.label} ends at {number(found.value)} {bounds(found.low, found.high)}".rstrip() + "."
    if math.isnan(found.low):
        return f"{told_best}, a single run, which leaves open what other seeds would do."
    near = [row.group.label for row in rows if row is not best and not row.final_estimate.high < found.low]
    if not near:
        return f"{told_best}, above the intervals of all others."
    names = ", ".join(near[:4]) + (f" and {len(near) - 4} more" if len(near) > 4 else "")
    return f"{told_best}; this interval overlaps with that of {names}."


def settings(study: Study, env: str) -> Table:
    """The settings that differ between an environment's configurations, a row for each."""
    groups = study.envs[env]
    keys = [
        key
        for key in study.differing.get(env, [])
        if any(key in run.settings for group in groups for run in group.runs)
    ]
    rows = [[key, *(_setting(group.runs, key) for group in groups)] for key in keys]
    rows = [row for row in rows if len({*row[1:]}) > 1]
    return Table(["setting", *(group.label for group in groups)], rows, text=len(groups) + 1)


def left_out(study: Study) -> Table:
    """Runs that no number counts, and why."""
    rows = [
        [run.env or "-", "-" if run.seed is None else str(run.seed), why, str(run.folder)]
        for run, why in study.left_out
    ]
    return Table(["environment", "seed", "why", "folder"], rows, text=4)


def commands(study: Study) -> Table:
    """Every run with the command that made it."""
    counted = {id(run): group.label for groups in study.envs.values() for group in groups for run in group.runs}
    rows = []
    for run in study.runs:
        label = counted.get(id(run), "(not counted)")
        seed, notes = "-" if run.seed is None else str(run.seed), "; ".join(run.notes[:3])
        rows.append([run.env or "-", label, seed, told(run), command(run), str(run.folder), notes or "-"])
    return Table(["environment", "configuration", "seed", "status", "command", "folder", "notes"], rows, text=7)


def versions(study: Study) -> Table:
    """What the runs ran with, each combination once."""
    found: dict[tuple[str, ...], int] = {}
    for run in study.runs:
        words = " ".join(f"{name} {version}" for name, version in run.versions.items())
        key = (run.runner, words or "-", run.machine or "-")
        found[key] = found.get(key, 0) + 1
    return Table(["runner", "versions", "machine", "runs"], [[*key, str(n)] for key, n in found.items()], text=3)


def command(run: Run) -> str:
    """The run's command as it can be typed."""
    return shlex.join(run.command) if run.command else "-"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours; a dash for NaN."""
    if math.isnan(seconds):
        return "-"
    return (
        f"{seconds:.0f} s"
        if seconds < 300
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _reached(reached: Any) -> str:
    """The median over runs, and how many came there."""
    middle = float(np.quantile(reached, 0.5, method="higher"))
    return f"{'never' if math.isinf(middle) else f'{middle:,.0f}'} ({np.isfinite(reached).sum()} of {len(reached)})"


def _setting(runs: Sequence[Run], key: str) -> str:
    values = list(dict.fromkeys(run.settings.get(key, "-") for run in runs))
    return ", ".join(values[:4]) + ", ..." * (len(values) > 4)


_SUMMARY = (
    "env",
    "configuration",
    "metric",
    "n",
    "finished",
    f"final_{FINAL_SHARE:.0%}".replace("%", "_percent"),
    "final_low",
    "final_high",
    "mean_over_steps",
    "mean_over_steps_low",
    "mean_over_steps_high",
    "reached_threshold",
    "median_steps_to_threshold",
    "human_percent",
    "human_percent_low",
    "human_percent_high",
    "human_source",
    "value_estimate",
    "value_return",
    "median_seconds",
)
_RUNS = (
    "env",
    "configuration",
    "seed",
    "counted",
    "status",
    "reason",
    "runner",
    "steps",
    "final",
    "mean_over_steps",
    "steps_to_threshold",
    "seconds",
    "folder",
    "command",
    "notes",
)


def _numbers(row: Row) -> list[Any]:
    group, reached = row.group, row.reached
    came = (
        [None, None]
        if reached is None
        else [int(np.isfinite(reached).sum()), float(np.quantile(reached, 0.5, method="higher"))]
    )
    human = [None] * 4 if row.human is None else [*_three(row.human), SOURCE]
    values = row.values or (None, None)
    head = [group.env, group.label, group.metric, group.n, not group.so_far]
    return [*head, *_three(row.final_estimate), *_three(row.area_estimate), *came, *human, *values, row.seconds]


def _run_rows(study: Study, summary: Summary) -> Iterable[list[Any]]:
    scores = {
        id(run): (row, i) for rows in summary.rows.values() for row in rows for i, run in enumerate(row.group.runs)
    }
    for run in study.runs:
        row, i = scores.get(id(run), (None, 0))
        told_scores: list[Any] = [None] * 3
        if row is not None:
            told_scores = [row.final[i], row.area[i], None if row.reached is None else row.reached[i]]
        clock = run.series.get(Metric.SECONDS)
        label = None if row is None else row.group.label
        yield [
            *(run.env, label, run.seed, row is not None, run.status, run.reason, run.runner, run.steps, *told_scores),
            *(None if clock is None else clock.values[-1], run.folder, command(run), "; ".join(run.notes)),
        ]


def _curve_rows(summary: Summary) -> Iterable[list[Any]]:
    for env, rows in summary.rows.items():
        for row in rows:
            for point in zip(*(row.curve or ()), strict=True):
                yield [env, row.group.label, row.group.metric, row.group.n, *point]


def _setting_rows(study: Study) -> Iterable[list[Any]]:
    for env in study.envs:
        table = settings(study, env)
        for key, *values in table.rows:
            yield from ([env, key, label, value] for label, value in zip(table.head[1:], values, strict=True))


def _three(found: Estimate) -> list[float]:
    return [found.value, found.low, found.high]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    """Exact numbers; what no number stands for is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return repr(float(value))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # a spreadsheet would take a hostile name for a formula
    return f"'{text}" if text[:1] in ("=", "+", "@") else text
