"""Runs of stable-baselines3 and CleanRL, read from their TensorBoard event files.

A file is a sequence of records, length (8 bytes), its checksum (4), a serialized `Event`, its checksum (4), as
TensorFlow writes them (tensorflow/core/lib/io/record_writer.h). What follows a damaged record is not read, and a note
says so.
"""

# protobuf's generated modules carry no types
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dqn_cli.errors import CheckpointError
from dqn_cli.files import reading
from dqn_cli.study.series import LARGEST, Floats, Series, thinned
from dqn_cli.study.texts import clean
from dqn_cli.training.metrics import Metric

if TYPE_CHECKING:
    from dqn_cli.study.runs import Run

PREFIX = "events.out.tfevents."
MAX_BYTES, MAX_RECORD_BYTES = 1 << 27, 1 << 20
WINDOW = 100  # episodes that a training return is the mean of, as in `return_mean`
# tags -> our metric; of single episodes, their running mean
TAGS = {
    "rollout/ep_rew_mean": Metric.RETURN_MEAN,
    "eval/mean_reward": Metric.EVAL_RETURN_MEAN,
}
EPISODES = ("charts/episodic_return", "charts/episode_reward")
HYPERPARAMETERS = "hyperparameters/text_summary"
_CLEANRL = re.compile(r"(?P<env>.+?)__(?P<name>.+)__(?P<seed>\d{1,18})__\d+")
_ZOO = re.compile(r"(?P<env>.+-v\d+)(?:_(?P<seed>\d{1,9}))?")
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<seed>\d{1,9})")

Point = tuple[int, float, float]  # step, value, wall time


def read(folder: Path, make: type[Run], env: str | None) -> Run:
    """The run whose event files lie in `folder`; `env` where neither they nor the folders' names tell."""
    run = make(folder, runner="TensorBoard")
    points: dict[str, list[Point]] = {}
    texts: dict[str, str] = {}
    newest = 0
    for path in sorted(path for path in folder.iterdir() if path.name.startswith(PREFIX)):
        try:
            for event in _events(path, run.notes):
                newest = max(newest, event.step)
                _collect(event, points, texts)
        except CheckpointError as error:
            run.notes.append(clean(str(error).replace(f"{folder}{os.sep}", "")))
    run.steps = newest
    _name(run, points, texts, env)
    found = {metric: _series(points[tag]) for tag, metric in TAGS.items() if tag in points}
    for tag in EPISODES:
        if tag in points:
            found.setdefault(Metric.RETURN_MEAN, _series(points[tag], WINDOW))
    if times := max(points.values(), key=len, default=[]):
        found[Metric.SECONDS] = _series([(step, wall - times[0][2], wall) for step, _, wall in times])
    run.series = {str(metric): series for metric, series in found.items() if series.steps.size}
    run.status, run.reason = _standing(run)
    return run


def _events(path: Path, notes: list[str]) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with reading(path, MAX_BYTES) as file:
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", header)
            whole = struct.pack("<I", masked_crc32c(header[:8])) == header[8:]
            whole = whole and length < MAX_BYTES  # no file that is read is as long
            if whole and length > MAX_RECORD_BYTES:  # a picture, or a film
                file.seek(length + 4, os.SEEK_CUR)
                continue
            data = file.read(length + 4) if whole else b""
            if whole and len(data) < length + 4:
                return  # somebody is writing it
            if not whole or struct.pack("<I", masked_crc32c(data[:-4])) != data[-4:]:
                notes.append(f"{clean(path.name, 80)} is damaged from byte {file.tell():,} on, the rest is not read")
                return
            event = Event()
            try:
                event.ParseFromString(data[:-4])
            except Exception:  # protobuf's own, which differ between its versions
                notes.append(f"{clean(path.name, 80)} holds something else than events, the rest is not read")
                return
            yield event


def _collect(event: Any, points: dict[str, list[Point]], texts: dict[str, str]) -> None:
    for value in event.summary.value:
        if value.tag in TAGS or value.tag in EPISODES:
            if value.HasField("simple_value"):
                points.setdefault(value.tag, []).append((event.step, value.simple_value, event.wall_time))
            elif value.HasField("tensor") and len(value.tensor.float_val) == 1:
                points.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0], event.wall_time))
        elif value.tag == HYPERPARAMETERS and value.tensor.string_val:
            texts[value.tag] = value.tensor.string_val[0].decode("utf-8", "replace")


def _series(points: list[Point], window: int = 1) -> Series:
    """By step; of several values at a step the newest, each the mean of the last `window` values."""
    ordered = sorted(points, key=lambda point: point[0])
    steps, values = np.array([point[0] for point in ordered], np.float64), np.array([point[1] for point in ordered])
    finite = np.isfinite(values) & (np.abs(values) < LARGEST) & (steps >= 0)
    steps, values = steps[finite], _running_mean(values[finite], window)
    last = np.append(steps[1:] != steps[:-1], True) if steps.size else np.empty(0, bool)
    return thinned(steps[last], values[last])


def _running_mean(values: Floats, window: int) -> Floats:
    if window == 1 or not values.size:
        return values
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))


def _name(run: Run, points: dict[str, list[Point]], texts: dict[str, str], env: str | None) -> None:
    """Who wrote it, of what environment, with which seed and settings."""
    settings = _table(texts.get(HYPERPARAMETERS, ""))
    name, parent = clean(run.folder.name), clean(run.folder.parent.name)
    method = name
    if any(tag in points for tag in EPISODES) or settings:
        run.runner = "CleanRL"
        if match := _CLEANRL.fullmatch(name):
            run.env, method = match["env"], match["name"]
            run.seed = int(match["seed"])
        run.env, method = settings.pop("env_id", run.env), settings.pop("exp_name", method)
        seed = settings.pop("seed", "")
        run.seed = int(seed) if re.fullmatch(r"\d{1,18}", seed) else run.seed
        total = settings.get("total_timesteps", "")
        run.total_steps = int(total) if re.fullmatch(r"\d{1,15}", total) else None
    elif points:
        run.runner = "stable-baselines3"
        zoo = _ZOO.fullmatch(name) or _ZOO.fullmatch(parent)
        run.env = zoo["env"] if zoo else ""
        if zoo and zoo.string == name:
            method, run.seed = parent, int(zoo["seed"]) if zoo["seed"] else None
        elif match := _NUMBERED.fullmatch(name):
            method, run.seed = match["name"], int(match["seed"])
    run.env = run.env or env or ""
    run.settings = settings
    run.words = {"": f"{run.runner} {method}"}


def _table(markdown: str) -> dict[str, str]:
    """CleanRL's hyperparameters, a line `|key|value|` for each."""
    rows = (line.strip().strip("|").split("|") for line in markdown.splitlines()[:500])
    pairs = {clean(row[0], 100): clean(row[1]) for row in rows if len(row) == 2}
    return {key: value for key, value in pairs.items() if key not in ("param", "-", "")}


def _standing(run: Run) -> tuple[str, str]:
    if not run.series:
        return "unfinished", f"none of the tags {', '.join([*TAGS, *EPISODES])}"
    if (
        run.total_steps is not None and run.steps < 0.95 * run.total_steps
    ):  # the end of the last episode is the last sign
        return "unfinished", f"at {run.steps:,} of {run.total_steps:,} steps"
    return "finished", ""
