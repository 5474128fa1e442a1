"""What is made of the runs: refusals, figures, ratios and the table. Pure, so that tests can show each of them fail."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

OURS = "dqn-cli"
WORK = {
    "steps": "agent steps",
    "updates": "updates",
    "effective_copies": "effective target syncs",
    "rows": "sampled rows",
}
BUSY = 0.3  # cores that others may use


class Refused(Exception):
    """No figures are shown; why, in one line."""


@dataclass(frozen=True)
class Run:
    """A process that has run: its driver's line (see `marks.py`), and what the system knows of it."""

    report: Mapping[str, Any]
    began: float  # of the clock of the report's moments
    wall: float  # seconds, of which `report["apart"]` are to be taken away
    cpu: float  # seconds
    rss: int  # bytes, at its largest
    others: float = 0.0  # cores that other programs used meanwhile


@dataclass(frozen=True)
class Figure:
    """A number of a run; `rate`: more of it is better."""

    name: str
    unit: str
    rate: bool = False
    digits: int = 1


FIGURES = {
    "start_up": Figure("start-up, to the first step", "s", digits=2),
    "before": Figure("before learning", "steps/s", True, 0),
    "steady": Figure("learning, steady", "steps/s", True, 0),
    "updates": Figure("learning, steady", "updates/s", True, 0),
    "memory": Figure("peak memory", "MB", digits=0),
    "cpu": Figure("processor time", "s"),
    "wall": Figure("whole run", "s"),
}


def figures(run: Run) -> dict[str, float]:
    """The numbers of `FIGURES`. Raises `Refused` where the line lacks a mark."""
    report = run.report
    for mark in ("first_step_at", "first_update", "settled", "ended_at"):
        if report.get(mark) is None:
            raise Refused(f"{report['system']} has no {mark}: the run is too short, or its driver does not see it")
    first, (learns, learns_step), (settled, settled_step, settled_updates), end = (
        report[mark] for mark in ("first_step_at", "first_update", "settled", "ended_at")
    )
    steady = end - settled - between(report["apart"], settled, end)
    return {
        "start_up": first - run.began,
        "before": learns_step / (learns - first - between(report["apart"], first, learns)),
        "steady": (report["steps"] - settled_step) / steady,
        "updates": (report["updates"] - settled_updates) / steady,
        "memory": run.rss / 1e6,
        "cpu": run.cpu - sum(cpu for _, _, cpu in report["apart"]),
        "wall": run.wall - between(report["apart"], -math.inf, math.inf),
    }


def between(apart: Sequence[Sequence[float]], begin: float, end: float) -> float:
    """Seconds of the intervals `apart` that lie between two moments."""
    return sum(max(0.0, min(end, till) - max(begin, since)) for since, till, _ in apart)


def require_same_work(runs: Sequence[Run]) -> None:
    """Raise `Refused` unless all have done the same, and with the same versions."""
    for one, other in pairwise(run.report for run in runs):
        for key, what in WORK.items():
            if one[key] != other[key]:
                raise Refused(
                    f"the work differs: {what} {one[key]:,} by {one['system']}, {other[key]:,} by {other['system']}"
                )
        for package in one["versions"].keys() & other["versions"].keys():
            if one["versions"][package] != other["versions"][package]:
                raise Refused(
                    f"{package} differs: {one['versions'][package]} of {one['system']}, "
                    f"{other['versions'][package]} of {other['system']}"
                )


def require_quiet(load: float, own: float, what: str, busy_ok: bool) -> str | None:
    """What to say of a machine where `load` cores are busy, `own` of them with us; None where that is nothing.

    Raises `Refused` where it is something and `busy_ok` is not said.
    """
    if load <= own + BUSY:
        return None
    note = f"the machine is busy: {what} {load:.2f}, of which {own:.2f} are this benchmark's"
    if not busy_ok:
        raise Refused(f"{note}; wait until it is quiet, or add --busy-ok")
    return note


def better(name: str, ours: float, theirs: float) -> float:
    """How many times better ours is: above 1 it is faster, or takes less."""
    return ours / theirs if FIGURES[name].rate else theirs / ours


@dataclass(frozen=True)
class Spread:
    """A median, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of so many values."""
        return cls(statistics.median(values), min(values), max(values))


def compare(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, tuple[float, float, Spread]]:
    """For each figure our median, theirs, and the spread of the ratios within the pairs."""
    mine, their = [[figures(run) for run in runs] for runs in (ours, theirs)]
    return {
        name: (
            statistics.median(row[name] for row in mine),
            statistics.median(row[name] for row in their),
            Spread.of([better(name, a[name], b[name]) for a, b in zip(mine, their, strict=True)]),
        )
        for name in FIGURES
    }


def table(title: str, rows: Mapping[str, tuple[float, float, Spread]], system: str) -> list[str]:
    """Lines of at most 80 characters."""
    lines = [f"{title:<33}{'ours':>10}{system[:10]:>12}   ratio (least - most)"]
    for name, (mine, their, ratio) in rows.items():
        figure = FIGURES[name]
        what = f"{figure.name}, {figure.unit}"
        lines.append(f"{what:<33}{mine:>10,.{figure.digits}f}{their:>12,.{figure.digits}f}   {spread_text(ratio)}")
    return lines


def spread_text(ratio: Spread) -> str:
    """Such as "8.10x (7.9 - 8.4)"."""
    return f"{ratio.median:.2f}x ({ratio.least:.2f} - {ratio.most:.2f})"


def work_text(report: Mapping[str, Any]) -> str:
    """What each system has done."""
    did = ", ".join(f"{report[key]:,} {what}" for key, what in WORK.items())
    return f"each: {did}"
