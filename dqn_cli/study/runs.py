"""Run folders read back: what was configured, how far it came, and its curves. Nothing that is read is trusted.

A run that is still going leaves files that end in the middle of a line, a killed one may leave none: what can be read
is, and what could not be is told in the run's `notes`. Only data is read, of regular files of bounded size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from dqn_cli.config import Config
from dqn_cli.errors import CheckpointError
from dqn_cli.files import read_bytes, reading
from dqn_cli.study import events
from dqn_cli.study.series import LARGEST, Floats, Series, thinned
from dqn_cli.study.texts import clean
from dqn_cli.training.manifest import MANIFEST, read_manifest
from dqn_cli.training.metrics import Metric
from dqn_cli.training.untrusted import strict_json

MAX_RUNS, MAX_FOLDERS, MAX_DEPTH = 10_000, 1_000_000, 30
MAX_CSV_BYTES, MAX_LINE_BYTES, MAX_TEXT_BYTES = 1 << 28, 1 << 14, 1 << 20
MAX_SETTINGS = 2_000
BLOCK = 10_000  # lines that are held as text at a time
MAX_STEPS = 1e15
OURS = ("metrics.csv", MANIFEST, "config.yaml", "result.json")
VIDEOS = (".mp4", ".webm", ".gif")
COLUMNS = (Metric.EVAL_RETURN_MEAN, Metric.RETURN_MEAN, Metric.VALUE_ESTIMATE, Metric.VALUE_RETURN)
_FINAL = re.compile(r"final-\d{9,18}")
_ENDS = {"done": "finished", "failed": "failed", "interrupted": "interrupted"}  # in result.json -> in ours
# of settings that belong to no group
DEFAULTS = {f.name: f.default for f in fields(Config) if isinstance(f.default, str | int | float)}


@dataclass(eq=False)
class Run:
    """What is known of a run.

    `settings` are dotted keys with values as text, without `seed` and `env.id`; `words` what was typed to make it.
    `series` are curves by metric; "seconds" is wall time by steps. `status` is finished, failed, interrupted, lost (its
    process ended without a word), running, or unfinished, and `reason` says more about it in a line.
    """

    folder: Path
    runner: str = "dqn-cli"
    env: str = ""
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    status: str = "unfinished"
    reason: str = ""
    total_steps: int | None = None
    steps: int = 0
    frame_skip: int | None = None
    series: dict[str, Series] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    videos: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.status == "finished"


def load(folders: Sequence[Path], env: str | None = None, held: Callable[[Path], bool] | None = None) -> list[Run]:
    """Every run in or below `folders`, in the order of their names. Raises `CheckpointError` where there is none.

    `env` names the environment of TensorBoard runs that do not tell theirs; `held` says whether a process writes to a
    folder.
    """
    found = [_read(folder, held) if ours else events.read(folder, Run, env) for folder, ours in _find(folders)]
    if not found:
        names = ", ".join(map(str, folders))
        raise CheckpointError(f"{names}: no run in or below; write run folders or sweeps of dqn-train")
    return found


def _find(folders: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Run folders, each once, and whether they are of this package."""
    seen: set[Path] = set()
    visited = 0
    for start in folders:
        for name, below, files in os.walk(start, onerror=_refuse_start(start)):
            visited += 1
            folder = Path(name)
            ours = any(file in files for file in OURS)
            if not ours and not any(file.startswith(events.PREFIX) for file in files):
                below.sort()
                deep = len(folder.parts) - len(start.parts) >= MAX_DEPTH
                below[:] = [] if deep else [each for each in below if not each.startswith(".")]
            else:
                below.clear()  # what is below a run belongs to it
                if (real := folder.resolve()) not in seen:
                    seen.add(real)
                    yield folder, ours
            if len(seen) > MAX_RUNS or visited > MAX_FOLDERS:
                raise CheckpointError(f"{start} holds more than {MAX_RUNS:,} runs; write a part of it")


def _refuse_start(start: Path) -> Callable[[OSError], None]:
    def refuse(error: OSError) -> None:
        if error.filename == str(start):
            raise CheckpointError(f"{start} cannot be read: {error.strerror}") from error

    return refuse  # a folder below that is closed to us holds nothing for us


def _read(folder: Path, held: Callable[[Path], bool] | None) -> Run:
    run = Run(folder)
    manifest = _told(run, lambda: read_manifest(folder)) if os.path.lexists(folder / MANIFEST) else {}
    result = _told(run, lambda: _json(folder / "result.json")) if os.path.lexists(folder / "result.json") else {}
    config = manifest.get("config")
    if not isinstance(config, dict):
        config = _told(run, lambda: _yaml(folder / "config.yaml")) if os.path.lexists(folder / "config.yaml") else {}
    _configure(run, config, manifest, result)
    if os.path.lexists(folder / "metrics.csv"):
        _read_curves(run)
    run.status, run.reason = _standing(run, result, held)
    run.videos = _videos(folder)
    return run


def _told(run: Run, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except CheckpointError as error:
        run.notes.append(clean(str(error).replace(f"{run.folder}{os.sep}", "")))
        return {}


def _json(path: Path) -> dict[str, Any]:
    return strict_json(path, read_bytes(path, MAX_TEXT_BYTES))


def _yaml(path: Path) -> dict[str, Any]:
    """Plain data only: the loader makes no objects."""
    data = read_bytes(path, MAX_TEXT_BYTES)
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(data)
        content = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not YAML: {' '.join(str(error).split()):.120}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not settings")
    return content


def _configure(run: Run, config: dict[str, Any], manifest: dict[str, Any], result: dict[str, Any]) -> None:
    settings = dict(leaves(config))
    if "env.id" in settings:  # a run of ours, from before there were all of today's settings
        settings = {**dict(leaves(DEFAULTS)), **settings}
    if not settings and config:
        run.notes.append("the configuration is too large to be one")
    run.env = settings.pop("env.id", "")
    seed = settings.pop("seed", None)
    run.settings = settings
    typed = manifest.get("overrides") or result.get("overrides")
    run.words = _words(typed)
    seed = run.words.pop("seed", None) if seed is None else seed
    run.seed = int(seed) if seed is not None and re.fullmatch(r"-?\d{1,19}", seed) else None
    if not run.env:  # a job that failed before it had a configuration
        run.env = run.words.get("env.id") or run.words.get("env", "")
    run.total_steps, run.frame_skip = (_count(settings.get(key)) for key in ("run.total_steps", "env.frame_skip"))
    run.command = _command(manifest.get("command")) or (["dqn-train", *_command(typed)] if _command(typed) else [])
    run.versions = _flat_texts(manifest.get("versions"))
    source, hardware = manifest.get("source"), manifest.get("hardware")
    if isinstance(source, dict) and isinstance(source.get("commit"), str):
        run.versions["commit"] = clean(source["commit"])[:12] + " and changes" * bool(source.get("dirty"))
    if isinstance(hardware, dict):
        cores = f"{hardware['cores']} cores" if isinstance(hardware.get("cores"), int) else ""
        device = hardware.get("device") if hardware.get("device") != "cpu" else None
        run.machine = ", ".join(clean(str(part), 60) for part in (hardware.get("cpu"), cores, device) if part)


def leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted keys and values as text; nothing of a tree that is deeper or larger than a configuration can be."""
    found: list[tuple[str, str]] = []
    todo: list[tuple[str, Any, int]] = [("", tree, 0)]
    while todo:
        key, value, depth = todo.pop()
        if isinstance(value, Mapping) and value:
            if depth > 8 or len(found) + len(todo) + len(value) > MAX_SETTINGS:
                return
            below = [(f"{key}.{clean(str(name), 100)}".lstrip("."), item, depth + 1) for name, item in value.items()]
            todo += reversed(below)
        else:
            found.append((key, _text(value)))
    yield from found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list) and len(value) > 100:
        return f"a list of {len(value)}"
    try:
        return clean(json.dumps(value, default=str).replace('"', ""))
    except (ValueError, RecursionError):  # a list that holds itself
        return "a list in a list"


def _words(typed: object) -> dict[str, str]:
    """What was typed, by its key."""
    pairs = (word.lstrip("+").partition("=") for word in _command(typed) if "=" in word)
    return {clean(key, 100): clean(value) for key, _, value in pairs}


def _command(words: object) -> list[str]:
    if not isinstance(words, list) or len(words) > MAX_SETTINGS or not all(isinstance(word, str) for word in words):
        return []
    return [clean(word, 1_000) for word in words]


def _flat_texts(data: object) -> dict[str, str]:
    pairs = list(data.items())[:50] if isinstance(data, dict) else []
    return {clean(str(key), 40): clean(str(value), 60) for key, value in pairs if value is not None}


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,15}", text) else None


def _read_curves(run: Run) -> None:
    try:
        run.series, lost = read_columns(run.folder / "metrics.csv", COLUMNS)
        if os.path.lexists(run.folder / "timing.csv"):
            timing, missing = read_columns(run.folder / "timing.csv", (Metric.SECONDS,))
            run.series |= timing
            lost += missing
    except CheckpointError as error:
        run.notes.append(clean(str(error).replace(f"{run.folder}{os.sep}", "")))
        return
    if lost:
        run.notes.append(f"{lost:,} damaged values or lines of its CSV files left out")
    run.steps = max((int(series.steps[-1]) for series in run.series.values()), default=0)


def read_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, Series], int]:
    """Columns of a CSV file over its `steps`, those that hold anything, and how much of it was damaged.

    The last line counts once it has an end: until then somebody is writing it. Raises `CheckpointError`.
    """
    with reading(path, MAX_CSV_BYTES) as file:
        header = file.readline(MAX_LINE_BYTES).decode("ascii", "replace").rstrip("\r\n").split(",")
        if not header[0]:  # the run has only just begun
            return {}, 0
        if "steps" not in header:
            raise CheckpointError(f"{path}: has no column steps, so that it is no log of a run")
        chosen = [name for name in names if name in header]
        cells_of = itemgetter(header.index("steps"), *map(header.index, chosen))
        parts, damaged = [np.empty((0, 1 + len(chosen)))], 0
        while lines := list(islice(iter(partial(file.readline, MAX_LINE_BYTES), b""), BLOCK)):
            if not lines[-1].endswith(b"\n"):
                damaged += len(lines[-1]) == MAX_LINE_BYTES
                lines.pop()
            rows = [cells for line in lines if len(cells := line.rstrip(b"\r\n").split(b",")) == len(header)]
            parts.append(_numbers([cells_of(cells) for cells in rows], 1 + len(chosen)))
            damaged += len(lines) - len(rows)
    numbers = np.concatenate(parts)
    steps = np.where(np.abs(numbers[:, 0]) < MAX_STEPS, numbers[:, 0], -1.0)
    later = steps > np.maximum.accumulate(np.append(-1.0, steps))[:-1]
    numbers = numbers[later]
    damaged += int((~later).sum() + np.isinf(numbers[:, 1:]).sum())
    found = {}
    for i, name in enumerate(chosen, 1):
        there = np.isfinite(numbers[:, i])
        if there.any():
            found[str(name)] = thinned(numbers[there, 0], numbers[there, i])
    return found, damaged


def _numbers(rows: Sequence[Sequence[bytes]], width: int) -> Floats:
    """Cells as numbers `[rows, width]`: NaN where they are empty, infinity where they are damaged."""
    texts = [cell for row in rows for cell in row]
    try:
        values = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        values = np.array([_number(text) for text in texts])
    values[~(np.abs(values) < LARGEST)] = np.inf
    values[[not text for text in texts]] = np.nan
    return values.reshape(-1, width)


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return np.inf


def _standing(run: Run, result: dict[str, Any], held: Callable[[Path], bool] | None) -> tuple[str, str]:
    """Status and reason."""
    so_far = f"at {run.steps:,} steps" if run.total_steps is None else f"at {run.steps:,} of {run.total_steps:,} steps"
    told = str(result.get("status"))
    if _has_final(run.folder) or told == "done":
        return "finished", ""
    if held is not None and held(run.folder):
        return "running", so_far
    error = result.get("error")
    if told in _ENDS:
        return _ENDS[told], f"{clean(error)}, {so_far}" if isinstance(error, str) else so_far
    if told == "running":
        return "lost", f"the process ended without a word (killed, out of memory?), {so_far}"
    for name, meaning in (("traceback.txt", "failed"), ("stacks.txt", "did not answer, see stacks.txt")):
        if os.path.lexists(run.folder / name):
            return "failed", f"{_last_line(run.folder / name) if meaning == 'failed' else meaning}, {so_far}"
    return "unfinished", so_far


def _has_final(folder: Path) -> bool:
    with suppress(OSError):
        return any(_FINAL.fullmatch(name) for name in os.listdir(folder / "checkpoints"))
    return False


def _last_line(path: Path) -> str:
    with suppress(CheckpointError):
        lines = read_bytes(path, MAX_TEXT_BYTES).decode("utf-8", "replace").split("\n")
        return clean(next((line for line in reversed(lines) if line.strip()), ""))
    return "see traceback.txt"


def _videos(folder: Path) -> list[Path]:
    """Films in the run's folder or one or two below it, no links."""
    found: list[Path] = []
    for name, below, files in os.walk(folder):
        depth = len(Path(name).relative_to(folder).parts)
        below[:] = [] if depth > 1 else sorted(each for each in below if each not in ("checkpoints", "replay"))
        found += [Path(name, file) for file in sorted(files) if file.lower().endswith(VIDEOS)][:20]
    return [path for path in found[:20] if not path.is_symlink()]
