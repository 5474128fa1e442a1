"""`dqn-compare`: whether one run, or folder of seeds, is better than another by more than noise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dqn_cli
from dqn_cli.cli.lock import is_held
from dqn_cli.cli.report import COLUMNS, busy, cut, described, parse, wrapped
from dqn_cli.errors import ConfigError, writing
from dqn_cli.study.settings import CompareConfig
from dqn_cli.study.texts import bounds, number

if TYPE_CHECKING:
    from dqn_cli.study.compare import Comparison

SHOWN = 20  # settings


def main(argv: list[str]) -> int:
    """Run `dqn-compare` with the words after its name; returns the exit code 0, raises `UserError` for the others."""
    if {"--help", "-h"} & set(argv):
        print(usage())
    elif "--version" in argv:
        print(f"dqn-compare {dqn_cli.__version__}")
    else:
        _compare(*parse(argv, CompareConfig, "dqn-compare"))
    return 0


def usage() -> str:
    """One screen of help."""
    return "\n".join(
        [
            "usage: dqn-compare A B [key=value ...] | --help | --version",
            "Two runs, or two folders of seeds: the settings that differ, final and mean",
            "scores, differences with 95 % bootstrap intervals (by seed where the seeds are",
            "the same), and whether B is above A by more than noise, if n can tell: by random",
            "signs from 6 common seeds on, by permutations from 4 runs of each on.",
            "",
            *described(CompareConfig),
            "",
            "  dqn-compare runs/CartPole/tdqn runs/CartPole/ddqn plot=curve.png",
            "  dqn-compare runs/sweeps/2026-11-22 a=variant=tdqn b=variant=ddqn",
        ]
    )


def _compare(folders: list[Path], settings: CompareConfig) -> None:
    from dqn_cli.study import runs
    from dqn_cli.study.compare import compare

    ending = None if settings.plot is None else Path(settings.plot).suffix.lower()
    if ending not in (None, ".png", ".svg"):
        raise ConfigError(f"plot={settings.plot} is not possible; write a file's name that ends in .png or .svg")
    chosen = (settings.a, settings.b)
    if len(folders) == 1 and None not in chosen:
        folders *= 2
    if len(folders) != 2:
        raise ConfigError(f"{len(folders)} folders are given; write two, or one with a=... and b=...")
    if os.path.samefile(*folders) and settings.a == settings.b:
        raise ConfigError(f"{folders[0]} is compared with itself; write another folder, or a=... and b=...")
    with busy("reading runs"):
        sides = [runs.load([folder], settings.env, is_held) for folder in folders]
        found = compare(
            *(sides[0], sides[1], settings.metric, chosen, settings.aggregate, settings.unfinished, settings.reps)
        )
    for i, comparison in enumerate(found):
        print(*([""] * (i > 0)), *_lines(comparison, folders), sep="\n")
    if settings.plot is not None:
        _plot(found, settings, Path(settings.plot))


def _lines(comparison: Comparison, folders: list[Path]) -> Iterator[str]:
    yield cut(f"{comparison.env}, {comparison.metric}", COLUMNS)
    for side, folder, row in zip("AB", folders, comparison.rows, strict=True):
        seeds = ", ".join("?" if run.seed is None else str(run.seed) for run in row.group.runs)
        yield wrapped(f"{side}  {folder}  {row.group.label[3:]}")
        yield wrapped(f"n = {row.group.n}{', unfinished' * row.group.so_far}, seeds {cut(seeds, 200)}", 5)
    yield ""
    if comparison.settings:
        yield "settings that differ, A -> B"
        pairs = list(comparison.settings.items())
        yield from (wrapped(f"{key}  {cut(a, 60)} -> {cut(b, 60)}") for key, (a, b) in pairs[:SHOWN])
        if len(pairs) > SHOWN:
            yield f"  and {len(pairs) - SHOWN} more"
    else:
        yield "no setting differs"
    yield ""
    yield f"{'':<16} {'A':>9} {'B':>9} {'B - A':>9}  {'95 % interval':<21} {'P(B > A)':>8}"
    a, b = comparison.rows
    for name, verdict, x, y in (
        ("final", comparison.final, a.final, b.final),
        ("mean over steps", comparison.area, a.area, b.area),
    ):
        difference = verdict.difference
        interval = bounds(difference.low, difference.high) or "-"
        numbers = f"{number(float(x.mean())):>9} {number(float(y.mean())):>9} {number(difference.value):>9}"
        yield f"{name:<16} {numbers}  {interval:<21} {verdict.improvement.value:>8.2f}"
    if comparison.paired:
        yield wrapped(f"by seed: B ends above A on {comparison.wins} of {len(comparison.seeds)} common seeds", 0)
    improvement = comparison.final.improvement
    if span := bounds(improvement.low, improvement.high):
        yield wrapped(f"P(B > A) at the end: {improvement.value:.2f} {span}", 0)
    yield ""
    yield wrapped(f"final: {comparison.final.sentence}", 0)
    yield wrapped(f"mean over steps: {comparison.area.sentence}", 0)


def _plot(found: list[Comparison], settings: CompareConfig, path: Path) -> None:
    try:
        from dqn_cli.study import plots
    except ModuleNotFoundError as error:
        from dqn_cli.study.report import missing

        raise missing(error) from error
    for i, comparison in enumerate(found):
        target = path if i == 0 else path.with_stem(f"{path.stem}_{i + 1}")
        picture = plots.two(comparison.rows, settings.aggregate)
        with writing(target):
            target.unlink(missing_ok=True)
            target.write_bytes(picture.png if path.suffix.lower() == ".png" else picture.svg.encode())
        print(f"written    {target}")
