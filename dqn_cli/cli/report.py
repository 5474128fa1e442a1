"""`dqn-report`: from run folders to tables, curves and a page. Waits for neither torch nor Hydra."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import dqn_cli
from dqn_cli.cli.lock import is_held
from dqn_cli.config import check_ranges
from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.study.settings import CompareConfig, ReportConfig
from dqn_cli.study.texts import bounds, clean, number, plural

if TYPE_CHECKING:
    from dqn_cli.study.groups import Study
    from dqn_cli.study.summary import Row, Summary

COLUMNS = 80
LABEL = 32  # letters of a configuration's name on the terminal
LISTED = 8  # runs that are named there
S = TypeVar("S", ReportConfig, CompareConfig)


def main(argv: list[str]) -> int:
    """Run `dqn-report` with the words after its name; returns the exit code 0, raises `UserError` for the others."""
    if {"--help", "-h"} & set(argv):
        print(usage())
    elif "--version" in argv:
        print(f"dqn-report {dqn_cli.__version__}")
    else:
        _report(*parse(argv, ReportConfig, "dqn-report"), shlex.join(["dqn-report", *argv]))
    return 0


def usage() -> str:
    """One screen of help."""
    return "\n".join(
        [
            "usage: dqn-report FOLDER... [key=value ...] | --help | --version",
            "Tables, learning curves with 95 % intervals and a page of all runs in and below",
            "the folders: runs and sweeps of dqn-train, and TensorBoard files of",
            "stable-baselines3 and CleanRL. Seeds of one configuration are put together.",
            "",
            *described(ReportConfig),
            "",
            "  dqn-report runs/sweeps/2026-11-22 threshold=475 out=study",
            "  dqn-report runs/CartPole ../cleanrl/runs aggregate=iqm",
        ]
    )


def described(settings: type[S]) -> Iterator[str]:
    """The settings with their defaults and meanings, for a screen of 80 columns."""
    for f in fields(settings):
        head = f"  {f'{f.name}={_default(f)}':<22}"
        yield textwrap.fill(
            f.metadata["text"], COLUMNS, initial_indent=head, subsequent_indent=" " * 24, break_on_hyphens=False
        )


def parse(argv: Sequence[str], settings: type[S], program: str) -> tuple[list[Path], S]:
    """The folders, and the settings that `key=value` words stand for. Raises `ConfigError`, `CheckpointError`.

    A value is taken as it is, so that paths may hold spaces, `=` and `${}`.
    """
    hints = get_type_hints(settings)
    folders: list[Path] = []
    given: dict[str, Any] = {}
    for word in argv:
        key, equals, text = word.partition("=")
        if equals and key in hints:
            if key in given:
                raise ConfigError(f"{key} is given twice, {given[key]} and {text}; write one of them")
            given[key] = _value(key, text, hints[key])
        elif _exists(word):
            folders.append(_folder(word))
        elif word.startswith("-"):
            raise ConfigError(f"unknown option {word}; settings are written key=value, see {program} --help")
        elif equals:
            near = difflib.get_close_matches(key, hints, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"unknown key {key!r}; {remedy}")
        else:
            raise CheckpointError(f"{word} does not exist; write a folder of runs")
    if not folders:
        raise ConfigError(f"no folder is given; write {program} <folder of runs>")
    found = settings(**given)
    check_ranges(found)
    return folders, found


def cut(text: str, letters: int) -> str:
    """The text, no longer than that."""
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


def wrapped(text: str, indent: int = 2) -> str:
    """The text in lines of 80 columns; paths and names are not broken unless they are longer."""
    return textwrap.fill(
        text, COLUMNS, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_on_hyphens=False
    )


@contextmanager
def busy(text: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is being done."""
    if not sys.stdout.isatty():
        yield lambda doing: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console().status(text) as view:
        yield lambda doing: view.update(escape(doing))


def _report(folders: list[Path], settings: ReportConfig, command: str) -> None:
    from dqn_cli.study import report

    with busy("reading runs") as tell:
        study, summary = report.analyzed(folders, settings, is_held)
        page = report.write(study, summary, settings, command, tell)
    print(*_lines(study, summary), sep="\n")
    print(f"\nwritten    {page}", f"figures    {page.parent / report.FIGURES} (SVG, PNG)", sep="\n")
    print(f"tables     {page.parent / report.TABLES} (CSV)")


def _lines(study: Study, summary: Summary) -> Iterator[str]:
    counted = sum(group.n for configurations in study.envs.values() for group in configurations)
    yield f"{plural(len(study.runs), 'run')} found, {counted:,} counted"
    for env, rows in summary.rows.items():
        yield f"\n{cut(f'{env}, {rows[0].group.metric}', COLUMNS)}"
        yield f"  {'configuration':<{LABEL}} {'n':>3} {'final':>9}  {'95 % interval':<19} {'mean':>9}"
        yield from (_line(row) for row in rows)
    if summary.rows:
        yield "\nfinal: over the last 10 % of the steps; mean: over all of them"
    if study.left_out:
        yield f"\nnot counted: {plural(len(study.left_out), 'run')}"
        yield from (wrapped(f"{_from_here(run.folder)}: {cut(why, 300)}") for run, why in study.left_out[:LISTED])
        if len(study.left_out) > LISTED:
            yield f"  and {len(study.left_out) - LISTED:,} more, see the page"
    yield from (wrapped(f"note: {note}", 0) for note in summary.notes)


def _line(row: Row) -> str:
    found = row.final_estimate
    name = f"{row.group.label}{' (unfinished)' * row.group.so_far}"
    if len(name) > LABEL:  # what tells configurations apart stands at either end
        name = f"{name[: LABEL // 2 - 2]}...{name[1 - LABEL // 2 :]}"
    interval, over_steps = bounds(found.low, found.high) or "-", number(row.area_estimate.value)
    return f"  {name:<{LABEL}} {row.group.n:>3} {number(found.value):>9}  {interval:<19} {over_steps:>9}"


def _from_here(folder: Path) -> str:
    path = clean(str(folder), 4_096)
    return path if len(path) <= COLUMNS - 4 else f"...{path[-(COLUMNS - 7) :]}"


def _exists(word: str) -> bool:
    try:
        return os.path.lexists(word)
    except ValueError:  # a zero byte
        return False


def _folder(word: str) -> Path:
    path = Path(word)
    if not path.is_dir():
        raise CheckpointError(f"{word} is not a folder; write the folder of a run, or one above")
    return path


def _value(key: str, text: str, hint: Any) -> Any:
    """Text as what the setting takes; null where that is possible."""
    if text == "null" and hint == str | None:
        return None
    if not text:
        raise ConfigError(f"{key}= has no value; write one, or leave it out")
    if hint is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"{key}={text} is not true or false")
        return text == "true"
    if hint is int:
        if not re.fullmatch(r"[0-9]+(_[0-9]+)*", text) or len(text) > 12:
            raise ConfigError(f"{key}={text} is not a whole number")
        return int(text)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if text not in list(hint):
            raise ConfigError(f"{key}={text} is not possible; write one of {', '.join(hint)}")
        return hint(text)
    return text


def _default(f: Field[Any]) -> str:
    shown = {None: "null", True: "true", False: "false"}
    return shown[f.default] if f.default is None or isinstance(f.default, bool) else str(f.default)
