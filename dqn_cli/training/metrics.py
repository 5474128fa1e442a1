"""The names of all metrics, what they mean, and the files that they go to.

One x axis: steps, agent decisions summed over all environments; frames stand beside them. `metrics.csv` and
`episodes.csv` hold what depends on the run alone, so equal runs leave equal bytes; wall times go to `timing.csv`. A
file only ever holds whole lines.

A checkpoint keeps the lengths of the files, and a run that is resumed cuts them there: no line is missing, none is
there twice.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from enum import StrEnum
from io import FileIO
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dqn_cli.config import Logger
from dqn_cli.errors import CheckpointError, writing
from dqn_cli.files import sync_folder
from dqn_cli.types import EpisodeStats

if TYPE_CHECKING:
    from dqn_cli.training.evaluator import Returns
    from dqn_cli.training.event_file import EventFile


class Metric(StrEnum):
    """A metric's name (its column in the CSV files), its group in TensorBoard, and what it means."""

    group: str
    text: str

    def __new__(cls, name: str, group: str, text: str) -> Metric:
        """Attach group and meaning to the name."""
        member = str.__new__(cls, name)
        member._value_, member.group, member.text = name, group, text
        return member

    EPISODES = "episodes", "train", "training episodes finished since the start"
    UPDATES = "updates", "train", "gradient updates since the start"
    TARGET_SYNCS = "target_syncs", "train", "times the target network was moved to the online network"
    EPSILON = "epsilon", "train", "probability of a random action, on average over the environments"
    TEMPERATURE = "temperature", "train", "temperature of exploration=boltzmann, in units of discounted reward"
    BETA = "beta", "train", "share of prioritized sampling's bias that is corrected"
    LR = "lr", "train", "learning rate"
    LOSS = (
        "loss",
        "train",
        "mean loss over the batch of the newest update, weighted where replay is prioritized; in squared (mse) or "
        "absolute (huber, quantiles) reward, or nats (categorical)",
    )
    Q_MEAN = "q_mean", "train", "mean Q(s, a) over the batch of the newest update, in units of discounted reward"
    GRAD_NORM = (
        "grad_norm",
        "train",
        "L2 norm of the newest gradient before clipping; empty unless gradients are clipped",
    )
    Q_MAX = "q_max", "diagnostics", "mean of max_a Q(s, a), without noise, over 256 transitions drawn as for an update"
    TD_ERROR_P10 = (
        "td_error_p10",
        "diagnostics",
        "10 % quantile of how wrong their values are, as prioritized replay sees it",
    )
    TD_ERROR_P50 = "td_error_p50", "diagnostics", "median of the same"
    TD_ERROR_P90 = "td_error_p90", "diagnostics", "90 % quantile of the same"
    TARGET_DISTANCE = (
        "target_distance",
        "diagnostics",
        "L2 norm of the difference between both networks' weights, relative to that of the online network's; a step "
        "earlier, as the target network is often moved at the row's own",
    )
    DORMANT = (
        "dormant",
        "diagnostics",
        "share of hidden units (of a convolution: channels) that are on average at most .025 times as active as their "
        "layer (Sokar et al. 2023)",
    )
    SAMPLE_AGE = "sample_age", "diagnostics", "mean age of these transitions, in steps since they were stored"
    PRIORITY_ESS = (
        "priority_ess",
        "diagnostics",
        "effective sample size (sum p)^2 / sum p^2 of the priorities p, as a share of the memory's rows",
    )
    RETURN_MEAN = "return_mean", "train", "mean return (raw, undiscounted) of the last 100 training episodes"
    LENGTH_MEAN = "length_mean", "train", "mean length of the last 100 training episodes, in steps"
    EVAL_RETURN_MEAN = "eval_return_mean", "eval", "mean return of the evaluation episodes"
    EVAL_RETURN_SD = "eval_return_sd", "eval", "standard deviation of the return between evaluation episodes"
    EVAL_LENGTH_MEAN = "eval_length_mean", "eval", "mean length of the evaluation episodes, in steps"
    VALUE_ESTIMATE = (
        "value_estimate",
        "eval",
        "mean of max_a Q(s, a) over the states of the evaluation episodes (van Hasselt et al. 2016, figure 3)",
    )
    VALUE_RETURN = (
        "value_return",
        "eval",
        "mean over the same states of the discounted return that followed, of rewards as learnt from; Q overestimates "
        "by as much as it lies below value_estimate; without Munchausen's bonus, which Q counts",
    )
    SECONDS = "seconds", "speed", "wall time since the start, in seconds"
    STEPS_PER_SECOND = "steps_per_second", "speed", "steps per second since the last row, evaluations not counted"
    UPDATES_PER_SECOND = "updates_per_second", "speed", "updates per second since the last row, evaluations not counted"

    @property
    def tag(self) -> str:
        """The name in TensorBoard."""
        return f"{self.group}/{self.removeprefix('eval_')}"


TIMING = tuple(metric for metric in Metric if metric.group == "speed")
DETERMINISTIC = tuple(metric for metric in Metric if metric.group != "speed")
X_AXIS = {
    "steps": "agent decisions since the start, summed over all environments",
    "frames": "emulator frames since the start, env.frame_skip times the steps; empty where there is no emulator",
}


def glossary() -> list[tuple[str, str]]:
    """Name and meaning of everything in `metrics.csv` and `timing.csv`, in the order of the columns."""
    return [*X_AXIS.items(), *((metric.value, metric.text) for metric in Metric)]


_COLUMNS = {
    "metrics.csv": (*X_AXIS, *DETERMINISTIC),
    "episodes.csv": (*X_AXIS, "lane", "episode", "score", "length"),
    "timing.csv": (*X_AXIS, *TIMING),
}
_EVENTS = re.compile(r"events\.out\.tfevents\.[0-9]{10}\.[0-9]{1,10}")  # ours: other writers' have a host's name


class MetricsLog:
    """A run's CSV files, and TensorBoard's event file beside them unless `logger=csv`.

    `frame_skip` is the number of emulator frames in a step. A run that is resumed gives the `positions` that its
    checkpoint has, which nobody vouches for; without them the files begin anew. Raises `CheckpointError`, with nothing
    changed, where the files are not those that the positions are of. Every method raises `StorageError` where the disk
    refuses.
    """

    def __init__(self, run_dir: Path, logger: Logger, frame_skip: int | None = None, positions: object = None):
        event_file = _next_event_file(run_dir)
        anew = positions is None
        self._run_dir = run_dir
        self._steps, lengths = (0, {}) if positions is None else _checked(run_dir, positions)
        self._older_events = _cut(run_dir, lengths)
        self._metrics = _Table(run_dir / "metrics.csv", anew)
        self._episodes = _Table(run_dir / "episodes.csv", anew)
        self._timing = _Table(run_dir / "timing.csv", anew)
        self._frame_skip = frame_skip
        self._events: EventFile | None = None
        if logger is Logger.tensorboard:
            from dqn_cli.training.event_file import EventFile

            self._events = EventFile(event_file, 0 if anew else self._steps + 1)

    def positions(self) -> dict[str, int]:
        """For a checkpoint to keep: the `steps` of the newest row, and how many bytes of each file are on the disk."""
        files: list[_Table | EventFile] = [self._metrics, self._episodes, self._timing]
        if self._events:
            files.append(self._events)
        lengths = self._older_events | {file.path.name: file.sync() for file in files}
        with writing(self._run_dir):
            sync_folder(self._run_dir)
        return {"steps": self._steps, **lengths}

    def episode(self, steps: int, stats: EpisodeStats) -> None:
        """A training episode that finished by `steps`; on disk with the next row."""
        self._episodes.add([*self._x(steps), stats.lane, stats.episode, stats.score, stats.length])

    def row(self, steps: int, values: Mapping[str, float]) -> None:
        """A row of `metrics.csv`, empty where `values` has nothing. `KeyError` for a name that is no metric of it."""
        self._log(self._metrics, DETERMINISTIC, steps, values)
        self._episodes.flush()

    def timing(self, steps: int, seconds: float, steps_per_second: float, updates_per_second: float) -> None:
        """A row of `timing.csv`."""
        values: dict[str, float] = {
            Metric.SECONDS: seconds,
            Metric.STEPS_PER_SECOND: steps_per_second,
            Metric.UPDATES_PER_SECOND: updates_per_second,
        }
        self._log(self._timing, TIMING, steps, values)

    def returns(self, steps: int, returns: Returns) -> None:
        """The distribution of the return at one state, as a picture in TensorBoard."""
        if self._events:
            from dqn_cli.training.pictures import png_of, returns_picture

            picture = returns_picture(returns)
            self._events.image("eval/returns", steps, png_of(picture), picture.shape[:2])

    def config_card(self, config: Mapping[str, Any]) -> None:
        """The configuration as text in TensorBoard."""
        if self._events:
            self._events.text("config", f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(dict(config)))}```")

    def hparams(self, config: Mapping[str, Any], final: Mapping[str, float]) -> None:
        """A row of TensorBoard's HPARAMS table: the configuration, and the metrics that the run ended with."""
        if self._events:
            self._events.scalars(self._steps, {f"final/{name}": value for name, value in final.items()})
            self._events.hparams(dict(_leaves(config)))

    def close(self) -> None:
        """Write what is buffered and close the files."""
        try:
            self._episodes.flush()
        finally:
            for table in (self._metrics, self._episodes, self._timing):
                table.close()
            if self._events:
                self._events.close()

    def _log(self, table: _Table, columns: tuple[Metric, ...], steps: int, values: Mapping[str, float]) -> None:
        if unknown := values.keys() - set(columns):
            raise KeyError(f"no metric called {', '.join(sorted(unknown))}")
        table.add([*self._x(steps), *(values.get(metric) for metric in columns)])
        table.flush()
        self._steps = steps
        if self._events:
            scalars = {metric.tag: values[metric] for metric in columns if metric in values}
            if self._frame_skip is not None:
                scalars["train/frames"] = steps * self._frame_skip
            self._events.scalars(steps, scalars)

    def _x(self, steps: int) -> list[int | None]:
        return [steps, None if self._frame_skip is None else steps * self._frame_skip]


class _Table:
    """A CSV file of numbers. Lines are kept back until `flush` writes them, all of them or none."""

    def __init__(self, path: Path, anew: bool):
        self.path = path
        self._lines = [_header(path.name)] if anew else []
        with writing(path):
            if anew:  # never written through: it may be a link to anywhere
                path.unlink(missing_ok=True)
            self._file = path.open("xb" if anew else "ab", buffering=0)
        self.flush()

    def add(self, values: Iterable[float | None]) -> None:
        """One more line."""
        self._lines.append(",".join(map(_exact, values)) + "\n")

    def flush(self) -> None:
        """Write the lines; where the disk refuses, keep them."""
        write_whole(self._file, self.path, "".join(self._lines).encode("ascii"))
        self._lines.clear()

    def sync(self) -> int:
        """Let all lines reach the disk; the file's length in bytes."""
        self.flush()
        with writing(self.path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_whole(file: FileIO, path: Path, data: bytes) -> None:
    """Append `data`; where the disk is full halfway, take back the part that was written. Raises `StorageError`."""
    with writing(path):
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(end)
            file.seek(end)
            raise


def _header(name: str) -> str:
    return ",".join(_COLUMNS[name]) + "\n"


def _event_files(run_dir: Path) -> list[Path]:
    with writing(run_dir):
        return [path for path in run_dir.iterdir() if _EVENTS.fullmatch(path.name)]


def _next_event_file(run_dir: Path) -> Path:
    """A name that sorts after all others: TensorBoard reads them in this order, whatever the clock says."""
    stamp = int(time.time())
    for path in _event_files(run_dir):
        stamp = max(stamp, int(path.name.split(".")[3]) + 1)
    return run_dir / f"events.out.tfevents.{stamp:010d}.{os.getpid()}"


def _checked(run_dir: Path, positions: object) -> tuple[int, dict[str, int]]:
    """Steps, and lengths that the files can be cut to; an event file that somebody has deleted is nobody's loss."""
    if not isinstance(positions, dict):
        raise CheckpointError(f"the checkpoint has {positions!r:.40} as the lengths of the run's logs; use another one")
    positions = dict(positions)
    if not _counts(steps := positions.pop("steps", None)):
        raise CheckpointError(f"the checkpoint has {steps!r:.40} as the steps of the run's logs; use another one")
    if unknown := [name for name in positions if name not in _COLUMNS and not _EVENTS.fullmatch(name)]:
        raise CheckpointError(f"the checkpoint has a length of {unknown[0]!r:.60}, which is no log of a run")
    if missing := [name for name in _COLUMNS if name not in positions]:
        raise CheckpointError(f"the checkpoint has no length of {missing[0]}; use another one")
    there = {name: length for name, length in positions.items() if name in _COLUMNS or os.path.lexists(run_dir / name)}
    for name, length in there.items():
        _check(run_dir / name, length)
    return steps, there


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62  # as TensorBoard counts too


def _check(path: Path, length: Any) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing, the run cannot go on with its log; put it back") from None
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise CheckpointError(f"{path} is not a regular file of its own name; put a copy in its place")
    if not _counts(length):
        raise CheckpointError(f"{path}: the checkpoint has {length!r:.40} as its length in bytes; use another one")
    if status.st_size < length:
        raise CheckpointError(
            f"{path} has {status.st_size:,} bytes, {length:,} when the checkpoint was written; put them back"
        )
    if path.name in _COLUMNS:
        _check_lines(path, length)


def _check_lines(path: Path, length: int) -> None:
    header = _header(path.name).encode("ascii")
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise CheckpointError(f"{path} has other columns than this version's; go on with the version that began it")
        file.seek(max(length - 1, 0))
        if file.read(1) != b"\n":
            raise CheckpointError(f"{path} has no line that ends at byte {length:,}, something changed it; put it back")


def _cut(run_dir: Path, lengths: Mapping[str, int]) -> dict[str, int]:
    """Cut the files, and empty the event files without a length: their time is gone. The lengths of the other ones.

    Not deleted: a TensorBoard that is open reads on from the file it is at, and waits for ever where that is missing.
    """
    for name, length in lengths.items():
        with writing(run_dir / name):
            os.truncate(run_dir / name, length)
    for path in _event_files(run_dir):
        if path.name not in lengths:
            with writing(path):
                path.unlink()  # not cut: it may be a link to anywhere
                path.touch()
    return {name: length for name, length in lengths.items() if name not in _COLUMNS}


def _exact(value: float | None) -> str:
    """The shortest text that reads back as the same number; NumPy's numbers too."""
    if value is None:
        return ""
    return repr(int(value)) if isinstance(value, Integral) else repr(float(value))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, bool | float | str]]:
    """Leaves of nested mappings by dotted name; whatever HPARAMS has no type for becomes text."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
