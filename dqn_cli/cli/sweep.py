"""What a sweep leaves: a result.json per job, and results.csv with a table once no job is left to run."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dqn_cli.cli.lock import is_held
from dqn_cli.cli.paths import NOTHING, WITHOUT
from dqn_cli.cli.runs import JOBS

RESULT = "result.json"


def record(folder: Path, **result: Any) -> None:
    """Write how a job stands: status, overrides, return_mean, error, exit_code, job; whole or not at all."""
    temporary = folder / f".tmp-{RESULT}"
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(folder / RESULT)


def read(folder: Path) -> dict[str, Any] | None:
    """How a job stood when it told last; None where it never did, or what it wrote is not to be read."""
    try:
        result = json.loads((folder / RESULT).read_text())
        known = {"job": int, "status": str, "overrides": list}
        return result if all(isinstance(result[key], kind) for key, kind in known.items()) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def collect(sweep: Path) -> list[dict[str, Any]]:
    """The results below a sweep's folder in the order of its jobs, each with its folder; a job that never came to
    tell its end has the status `lost`.
    """
    results = []
    for folder in sorted(file.parent for file in sweep.rglob(RESULT)):
        if (result := read(folder)) is None:
            continue
        if result["status"] == "running" and not is_held(folder):
            result |= {"status": "lost", "error": "the process ended without a word (killed, out of memory?)"}
        results.append({**result, "folder": str(folder)})
    return sorted(results, key=lambda result: int(result["job"]))


def finish(sweep: Path) -> int:
    """Write results.csv, print the table; returns how many jobs are not done. A sweep without jobs leaves nothing."""
    (sweep / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own: it names code to run, and results.csv says more
    results = collect(sweep)
    if not results:
        (sweep / JOBS).unlink(missing_ok=True)
        with suppress(OSError):  # up to the first folder that holds other things
            os.removedirs(sweep)
        return 0
    settings = {key: None for result in results for key in _settings(result)}
    with (sweep / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ("return_mean", "status", "exit_code", "error", "folder")
        writer.writerow(["job", *settings, *columns])
        for result in results:
            row = _settings(result)
            writer.writerow([result["job"], *map(row.get, settings), *map(result.get, columns)])
    _print(results, sweep)
    return sum(result["status"] != "done" for result in results)


def _settings(result: dict[str, Any]) -> dict[str, str]:
    pairs = (override.lstrip("+").partition("=") for override in result["overrides"])
    return {key: value for key, _, value in pairs}


def _print(results: list[dict[str, Any]], sweep: Path) -> None:
    rows = [_settings(result) for result in results]
    keys = dict.fromkeys(key for row in rows for key in row)
    varied = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    if WITHOUT in varied:
        for row, label in zip(rows, labels([row.get(WITHOUT, NOTHING) for row in rows]), strict=True):
            row[WITHOUT] = label
    table = Table("job", *varied, "return_mean", "status", Column("error", overflow="fold"))
    for result, row in zip(results, rows, strict=True):
        mean = "" if result["return_mean"] is None else f"{result['return_mean']:.4g}"
        values = [row.get(key, "") for key in varied]
        table.add_row(str(result["job"]), *map(escape, values), mean, result["status"], escape(result["error"] or ""))
    Console().print(table)
    print(f"results    {sweep / 'results.csv'}")


def labels(values: Sequence[str]) -> list[str]:
    """Values of `without=`, of all jobs, in words: full, full - noisy; of an ablation that adds: base, base + noisy."""
    out = [[part for part in value.strip("[]").split(",") if part != NOTHING] for value in values]
    every = {part: None for parts in out for part in parts}
    left = [[part for part in every if part not in parts] for parts in out]
    if len(every) > 1 and [] in left and all(len(parts) < 2 for parts in left):
        return [" + ".join(["base", *parts]) for parts in left]
    return [" - ".join(["full", *parts]) for parts in out]
