import csv
import errno
import io
import os
import random
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as OpenTensorBoard
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from dqn_cli.config import Logger
from dqn_cli.errors import CheckpointError, StorageError
from dqn_cli.training import metrics
from dqn_cli.training.evaluator import Returns
from dqn_cli.training.event_file import EventFile, crc32c, framed
from dqn_cli.training.metrics import DETERMINISTIC, TIMING, X_AXIS, Metric, MetricsLog, glossary
from dqn_cli.types import EpisodeStats

CONFIG = {"env": {"id": "CartPole-v1", "kwargs": {}}, "network": {"hidden": [64, 64]}, "discount": 0.99, "seed": 3}


def play(folder: Path, logger: Logger = Logger.csv) -> Path:
    """A run's worth of calls; wall times differ between calls."""
    folder.mkdir()
    log = MetricsLog(folder, logger)
    log.config_card(CONFIG)
    log.row(500, {"episodes": 0, "updates": 0, "epsilon": 0.1 + 0.2})
    log.timing(500, 1.5 + folder.stat().st_mtime, 1e3 / 3, 0.0)
    log.episode(612, EpisodeStats(lane=1, episode=0, score=-13.5, length=112))
    log.episode(640, EpisodeStats(lane=0, episode=0, score=np.float64(200), length=140))
    log.row(1000, {Metric.EPISODES: np.int64(2), Metric.LOSS: np.float32(0.1), Metric.EVAL_RETURN_MEAN: 9.25})
    log.hparams(CONFIG, {"eval_return_mean": 9.25})
    log.close()
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_are_fixed_and_empty_where_absent(tmp_path):
    first, second = rows(play(tmp_path / "run") / "metrics.csv")
    assert list(first) == ["steps", "frames", *DETERMINISTIC]
    assert {key: value for key, value in first.items() if value} == {
        "steps": "500",
        "episodes": "0",
        "updates": "0",
        "epsilon": "0.30000000000000004",
    }
    assert {key: value for key, value in second.items() if value} == {
        "steps": "1000",
        "episodes": "2",
        "loss": repr(float(np.float32(0.1))),
        "eval_return_mean": "9.25",
    }


def test_episodes(tmp_path):
    assert rows(play(tmp_path / "run") / "episodes.csv") == [
        {"steps": "612", "frames": "", "lane": "1", "episode": "0", "score": "-13.5", "length": "112"},
        {"steps": "640", "frames": "", "lane": "0", "episode": "0", "score": "200.0", "length": "140"},
    ]


def test_timing(tmp_path):
    (row,) = rows(play(tmp_path / "run") / "timing.csv")
    assert list(row) == ["steps", "frames", "seconds", "steps_per_second", "updates_per_second"]
    assert row["steps_per_second"] == repr(1e3 / 3)


def test_frames_stand_beside_the_steps_of_an_emulator(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard, frame_skip=4)
    log.episode(612, EpisodeStats(lane=0, episode=0, score=1.0, length=612))
    log.row(1000, {"loss": 1.0})
    log.timing(1000, 1.0, 1.0, 1.0)
    log.close()
    assert [row["frames"] for row in rows(tmp_path / "episodes.csv")] == ["2448"]
    assert [row["frames"] for row in rows(tmp_path / "metrics.csv")] == ["4000"]
    assert [row["frames"] for row in rows(tmp_path / "timing.csv")] == ["4000"]
    assert {(event.step, event.value) for event in events(tmp_path).Scalars("train/frames")} == {(1000, 4000.0)}
    assert "train/frames" not in events(play(tmp_path / "run", Logger.tensorboard)).Tags()["scalars"]


def test_equal_runs_leave_equal_bytes(tmp_path):
    first, second = play(tmp_path / "a"), play(tmp_path / "b", Logger.tensorboard)
    for name in ("metrics.csv", "episodes.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_no_wall_time_among_what_is_deterministic():
    assert not {"seconds", "steps_per_second", "updates_per_second"} & {metric.value for metric in DETERMINISTIC}


def test_episodes_reach_the_disk_with_the_next_row_and_at_the_end(tmp_path):
    log = MetricsLog(tmp_path, Logger.csv)
    path = tmp_path / "episodes.csv"
    assert path.read_text() == "steps,frames,lane,episode,score,length\n"
    log.episode(10, EpisodeStats(0, 0, 1.0, 10))
    assert len(path.read_text().splitlines()) == 1
    log.row(20, {})
    assert len(path.read_text().splitlines()) == 2
    log.episode(30, EpisodeStats(0, 1, 1.0, 20))
    log.close()
    assert path.read_text().splitlines()[2] == "30,,0,1,1.0,20"


def test_unknown_and_misplaced_metrics_are_our_bug(tmp_path):
    log = MetricsLog(tmp_path, Logger.csv)
    for name in ("losss", "seconds"):
        with pytest.raises(KeyError, match=name):
            log.row(1, {name: 1.0})
    log.close()


class FullDisk:
    """A file that takes so many bytes more, then none, as a full disk does."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_full_disk_leaves_whole_lines(tmp_path):
    log = MetricsLog(tmp_path, Logger.csv)
    log.row(1, {"loss": 1.0})
    before = (tmp_path / "metrics.csv").read_bytes()
    log._metrics._file = FullDisk(log._metrics._file, 5)
    with pytest.raises(StorageError, match=r"metrics\.csv.*No space left"):
        log.row(2, {"loss": 2.0})
    assert (tmp_path / "metrics.csv").read_bytes() == before
    log.close()


def test_short_writes_are_completed(tmp_path):
    class Slow(FullDisk):
        def write(self, data: bytes) -> int:
            return self.file.write(data[:3])

    log = MetricsLog(tmp_path, Logger.csv)
    log._metrics._file = Slow(log._metrics._file, 0)
    log.row(123456, {"loss": 1.0})
    log.close()
    assert rows(tmp_path / "metrics.csv")[0]["steps"] == "123456"


def test_lines_that_a_full_disk_refused_are_written_when_there_is_room_again(tmp_path):
    log = MetricsLog(tmp_path, Logger.csv)
    log.episode(10, EpisodeStats(0, 0, 1.0, 10))
    file = log._episodes._file
    log._episodes._file = FullDisk(file, 5)
    with pytest.raises(StorageError, match=r"episodes\.csv.*No space left"):
        log.positions()
    log._episodes._file = file
    log.episode(20, EpisodeStats(0, 1, 1.0, 10))
    log.close()
    assert (tmp_path / "episodes.csv").read_text().splitlines()[1:] == ["10,,0,0,1.0,10", "20,,0,1,1.0,10"]


def test_all_files_are_closed_on_a_full_disk(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard)
    log.episode(10, EpisodeStats(0, 0, 1.0, 10))
    log._episodes._file = FullDisk(log._episodes._file, 5)
    with pytest.raises(StorageError):
        log.close()
    assert log._metrics._file.closed
    assert log._episodes._file.file.closed
    assert log._events._file.closed


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="gone: No such file"):
        MetricsLog(tmp_path / "gone", Logger.tensorboard)
    with pytest.raises(StorageError, match="gone/events: No such file"):
        EventFile(tmp_path / "gone" / "events", 0)


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_has_the_scalars_in_the_run_folder_itself(tmp_path):
    folder = play(tmp_path / "run", Logger.tensorboard)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    found = events(folder)
    assert set(found.Tags()["scalars"]) == {
        "train/episodes",
        "train/updates",
        "train/epsilon",
        "train/loss",
        "eval/return_mean",
        "final/eval_return_mean",
        "speed/seconds",
        "speed/steps_per_second",
        "speed/updates_per_second",
    }
    assert [(event.step, event.value) for event in found.Scalars("train/episodes")] == [(500, 0.0), (1000, 2.0)]
    assert [(event.step, event.value) for event in found.Scalars("final/eval_return_mean")] == [(1000, 9.25)]


def test_tensorboard_has_the_configuration_as_text(tmp_path):
    found = events(play(tmp_path / "run", Logger.tensorboard))
    (event,) = found.Tensors("config")
    (text,) = event.tensor_proto.string_val
    assert "id: CartPole-v1" in text.decode()
    assert found.summary_metadata["config"].plugin_data.plugin_name == "text"


def test_tensorboard_has_pictures(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard)
    log.returns(250, Returns(np.zeros(2), np.tile(np.arange(3.0), (2, 1)), mass=np.full((2, 3), 1 / 3)))
    log.close()
    (event,) = events(tmp_path).Images("eval/returns")
    assert (event.step, event.height, event.width) == (250, 480, 760)
    decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (480, 760, 3)


def test_no_picture_is_drawn_for_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("dqn_cli.training.pictures.returns_picture", None)
    log = MetricsLog(tmp_path, Logger.csv)
    log.returns(250, Returns(np.zeros(2), np.zeros((2, 3)), mass=np.full((2, 3), 1 / 3)))
    log.close()


def test_the_readme_counts_the_columns():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    count = {"twenty-seven": 27}[re.search(r"`metrics.csv` holds the first (\S+), `timing", readme)[1]]
    assert count == len(X_AXIS) + len(DETERMINISTIC)
    assert len(TIMING) == 3
    assert "`timing.csv` the last three;" in readme


def test_tensorboard_has_hparams(tmp_path):
    found = events(play(tmp_path / "run", Logger.tensorboard))
    content = found.summary_metadata[SESSION_START_INFO_TAG].plugin_data.content
    values = parse_session_start_info_plugin_data(content).hparams
    assert values["env.id"].string_value == "CartPole-v1"
    assert values["network.hidden"].string_value == "[64, 64]"
    assert values["discount"].number_value == 0.99
    assert values["seed"].number_value == 3


def test_hparams_are_those_of_tensorboards_own_writer(tmp_path):
    values = {"on": True, "off": False, "steps": 3, "lr": 0.5, "env.id": "x", "none": "null"}
    file = EventFile(tmp_path / "events", 0)
    file.hparams(values)
    file.close()
    *_, event = LegacyEventFileLoader(str(tmp_path / "events")).Load()
    (ours,), (own,) = event.summary.value, hparams_pb(values).value
    start, other = (HParamsPluginData.FromString(value.metadata.plugin_data.content) for value in (ours, own))
    assert abs(start.session_start_info.start_time_secs - other.session_start_info.start_time_secs) < 60
    start.session_start_info.start_time_secs = other.session_start_info.start_time_secs
    assert start == other
    ours.metadata.plugin_data.content = own.metadata.plugin_data.content
    assert ours == own


def test_records_are_those_of_tensorboards_own_writer():
    assert crc32c(b"123456789") == 0xE3069283  # the check value that every table of checksums gives
    data = Event(step=7, file_version="é" * 300).SerializeToString()
    for piece in (b"", b"\0", bytes(32), data):
        file = io.BytesIO()
        RecordWriter(file).write(piece)
        assert framed(piece) == file.getvalue()


def test_csv_alone_writes_no_events(tmp_path):
    assert not list(play(tmp_path / "run").glob("events*"))


def test_events_are_on_disk_after_every_row(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard)
    log.row(7, {"loss": 1.0})
    assert [event.step for event in events(tmp_path).Scalars("train/loss")] == [7]
    log.close()


def test_names_tags_and_glossary():
    assert len({metric.tag for metric in Metric}) == len(Metric)
    assert [name for name, _ in glossary()] == ["steps", "frames", *(metric.value for metric in Metric)]
    assert all(text and text == text.strip() and "|" not in text for _, text in glossary())
    assert Metric.EVAL_RETURN_MEAN.tag == "eval/return_mean"
    assert Metric.LOSS == "loss"


CSV = ("metrics.csv", "episodes.csv", "timing.csv")


def advance(log: MetricsLog, begin: int, end: int) -> None:
    """Log the steps after `begin` up to `end` as a run does: an episode every 3, a row every 5."""
    for step in range(begin + 1, end + 1):
        if step % 3 == 0:
            log.episode(step, EpisodeStats(lane=0, episode=step // 3, score=step / 7, length=3))
        if step % 5 == 0:
            log.row(step, {"loss": 1 / step, "updates": step})
            log.timing(step, float(step), 1.0, 1.0)


def undisturbed(folder: Path, end: int, logger: Logger = Logger.csv) -> Path:
    folder.mkdir()
    log = MetricsLog(folder, logger, frame_skip=4)
    advance(log, 0, end)
    log.close()
    return folder


def raw_events(folder: Path) -> list:
    """Every event of every file, one file after the other, as a reader that knows nothing of restarts has them."""
    paths = sorted(folder.glob("events.out.tfevents.*"))
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


def raw_scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [
        (event.step, value.simple_value)
        for event in raw_events(folder)
        for value in event.summary.value
        if value.tag == tag
    ]


def seen(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def seen_open(found: OpenTensorBoard, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.tensor_proto.float_val[0]) for event in found.Tensors(tag)]


def open_tensorboard(folder: Path) -> OpenTensorBoard:
    found = OpenTensorBoard(str(folder), {"tensors": 0})
    found.Reload()
    return found


def killed(log: MetricsLog) -> None:
    """End as SIGKILL does it: what is in memory only is gone."""
    for table in (log._metrics, log._episodes, log._timing):
        table.close()
    if log._events:
        log._events._file.close()


def resumed(folder: Path, positions: object, logger: Logger = Logger.tensorboard) -> MetricsLog:
    return MetricsLog(folder, logger, frame_skip=4, positions=positions)


def positions_of(folder: Path, steps: int = 20) -> dict[str, int]:
    """As if the run had made a checkpoint at its end."""
    return {"steps": steps, **{path.name: path.stat().st_size for path in folder.iterdir()}}


def test_positions_are_the_lengths_on_disk_of_all_that_was_logged(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard)
    log.episode(10, EpisodeStats(0, 0, 1.0, 10))  # no row yet
    log.timing(10, 1.0, 1.0, 1.0)
    positions = log.positions()
    assert positions == positions_of(tmp_path, steps=10)
    assert positions["episodes.csv"] == len("steps,frames,lane,episode,score,length\n10,,0,0,1.0,10\n")
    assert len(positions) == 5
    killed(log)


def test_positions_hold_after_a_power_cut(tmp_path, monkeypatch):
    """A checkpoint must not be more durable than the logs that it counts on."""
    log, synced, fsync = MetricsLog(tmp_path, Logger.tensorboard), [], os.fsync

    def noting(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    log.episode(10, EpisodeStats(0, 0, 1.0, 10))
    positions = log.positions()
    *files, (folder, _) = synced
    assert folder == tmp_path.name  # after the files: their names too
    assert positions == {"steps": 0, **dict(files)}
    killed(log)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("nth", range(5))
def test_a_disk_that_does_not_sync(tmp_path, monkeypatch, nth, error):
    log, calls = MetricsLog(tmp_path, Logger.tensorboard), []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == nth + 1:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match=rf"cannot write .*errno {error}"):
        log.positions()
    log.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_and_resumed_at_random_has_the_logs_of_one_that_was_not(tmp_path, seed):
    draw = random.Random(seed)
    twin = undisturbed(tmp_path / "twin", 100, Logger.tensorboard)
    folder = tmp_path / "run"
    folder.mkdir()
    log, now = MetricsLog(folder, Logger.tensorboard, frame_skip=4), 0
    saved = [(0, log.positions())]
    open_one = open_tensorboard(folder)
    while now < 100:
        end = min(100, now + draw.randint(5, 40))
        advance(log, now, end)
        now = end
        match draw.choice(["save", "kill", "kill", "look"]):
            case "save":
                saved.append((now, log.positions()))
            case "look":
                open_one.Reload()
            case "kill" if now < 100:
                killed(log)
                saved = saved[: draw.randint(max(1, len(saved) - 2), len(saved))]  # the newest may be damaged
                now, positions = saved[-1]
                log = resumed(folder, positions)
    log.close()
    for name in CSV:
        assert (folder / name).read_bytes() == (twin / name).read_bytes()
    expected = seen(events(twin), "train/loss")
    assert [step for step, _ in expected] == [*range(5, 101, 5)]
    for tag in ("train/loss", "speed/seconds", "train/frames"):
        assert raw_scalars(folder, tag) == raw_scalars(twin, tag)
        assert seen(events(folder), tag) == seen(events(twin), tag)
    open_one.Reload()
    assert seen_open(open_one, "train/loss") == expected


def test_an_open_tensorboard_forgets_what_was_undone(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard)
    log.config_card(CONFIG)
    log.row(5, {"loss": 0.5})
    positions = log.positions()
    log.row(6, {"loss": 0.25, "lr": 0.125})
    open_one = open_tensorboard(tmp_path)
    assert seen_open(open_one, "train/loss") == [(5, 0.5), (6, 0.25)]
    killed(log)
    log = MetricsLog(tmp_path, Logger.tensorboard, positions=positions)
    open_one.Reload()
    assert seen_open(open_one, "train/loss") == [(5, 0.5)]
    log.row(7, {"loss": 2.0})
    open_one.Reload()
    assert seen_open(open_one, "train/loss") == [(5, 0.5), (7, 2.0)]
    assert seen_open(open_one, "train/lr") == []
    assert len(open_one.Tensors("config")) == 1
    log.close()


def test_a_resumed_event_file_begins_with_the_restart(tmp_path):
    log = MetricsLog(tmp_path, Logger.tensorboard)
    log.row(41, {})
    positions = log.positions()
    killed(log)
    MetricsLog(tmp_path, Logger.tensorboard, positions=positions).close()
    first, second = sorted(tmp_path.glob("events.out.tfevents.*"))
    for path, begin in ((first, 0), (second, 42)):
        version, start, *_ = LegacyEventFileLoader(str(path)).Load()
        assert version.file_version == "brain.Event:2"
        assert (start.session_log.status, start.step) == (start.session_log.START, begin)


@pytest.mark.parametrize("clock", [0, 1_000_000_000, 2_000_000_000])
def test_the_names_of_event_files_sort_by_age_whatever_the_clock_says(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(os, "getpid", lambda: 1000)  # sorts before 999
    (tmp_path / "events.out.tfevents.1500000000.999").touch()
    monkeypatch.setattr(metrics.time, "time", lambda: clock)
    positions = {"steps": 0, "events.out.tfevents.1500000000.999": 0}
    positions |= {name: len(metrics._header(name)) for name in CSV}
    for name in CSV:
        (tmp_path / name).write_text(metrics._header(name))
    names = ["events.out.tfevents.1500000000.999"]
    for _ in range(3):
        killed(resumed(tmp_path, positions))
        (new,) = {path.name for path in tmp_path.glob("events*")} - set(names)
        names.append(new)
        assert names == sorted(names)
        sizes = [(tmp_path / name).stat().st_size for name in names]
        assert sizes == [0] * (len(names) - 1) + [sizes[-1]]  # all but the newest are of a time that is gone
        assert sizes[-1] > 0
    assert names[1] == f"events.out.tfevents.{max(clock, 1_500_000_001)}.1000"


def test_the_logger_may_change_and_back(tmp_path):
    twin = undisturbed(tmp_path / "twin", 40)
    folder = tmp_path / "run"
    folder.mkdir()
    log = MetricsLog(folder, Logger.csv, frame_skip=4)
    for end, logger in ((20, Logger.tensorboard), (30, Logger.csv), (40, Logger.tensorboard)):
        advance(log, end - 10 if end > 20 else 0, end)
        positions = log.positions()
        advance(log, end, end + 7)
        killed(log)
        log = resumed(folder, positions, logger)
    log.close()
    for name in CSV:
        assert (folder / name).read_bytes() == (twin / name).read_bytes()
    assert [step for step, _ in raw_scalars(folder, "train/loss")] == [25, 30]
    assert [path.stat().st_size > 0 for path in sorted(folder.glob("events*"))] == [True, True]


def test_hparams_know_the_step_of_a_run_that_was_resumed_at_its_end(tmp_path):
    folder = undisturbed(tmp_path / "run", 40, Logger.tensorboard)
    positions = positions_of(folder, steps=40)
    for _ in range(2):
        log = resumed(folder, positions)
        log.hparams(CONFIG, {"eval_return_mean": 9.25})
        log.close()
    assert raw_scalars(folder, "final/eval_return_mean") == [(40, 9.25)]
    tags = [value.tag for event in raw_events(folder) for value in event.summary.value]
    assert tags.count(SESSION_START_INFO_TAG) == 1


def test_a_run_that_begins_anew_leaves_nothing_of_the_one_before(tmp_path):
    folder = undisturbed(tmp_path / "run", 20, Logger.tensorboard)
    (folder / "events.out.tfevents.1500000000.host.7.0").touch()  # another writer's
    open_one = open_tensorboard(folder)
    MetricsLog(folder, Logger.tensorboard).close()
    assert [path.stat().st_size > 0 for path in sorted(folder.glob("events*"))] == [False, False, True]
    assert [(folder / name).read_text() for name in CSV] == [metrics._header(name) for name in CSV]
    assert raw_scalars(folder, "train/loss") == []
    open_one.Reload()
    assert {tag for tag in open_one.Tags()["tensors"] if open_one.Tensors(tag)} == set()


@pytest.mark.parametrize("name", CSV)
@pytest.mark.parametrize("anew", [False, True])
def test_nothing_is_written_through_a_link(tmp_path, name, anew):
    folder, victim = undisturbed(tmp_path / "run", 20), tmp_path / "victim"
    positions = {"steps": 20, **{name: len(metrics._header(name)) for name in CSV}}
    (folder / name).rename(victim)
    before = victim.read_bytes()
    for link in (os.symlink, os.link):
        link(victim, folder / name)
        if anew:
            MetricsLog(folder, Logger.csv).close()
        else:
            with pytest.raises(CheckpointError, match=rf"{name} is not a regular file"):
                resumed(folder, positions)
        assert victim.read_bytes() == before
        (folder / name).unlink()


def test_an_event_file_that_is_a_link_is_not_cut_but_may_be_replaced(tmp_path):
    folder, victim = undisturbed(tmp_path / "run", 20), tmp_path / "victim"
    positions = positions_of(folder)
    victim.write_bytes(b"precious")
    link = folder / "events.out.tfevents.1500000000.1"
    link.symlink_to(victim)
    with pytest.raises(CheckpointError, match="not a regular file"):
        resumed(folder, {**positions, link.name: 2})
    resumed(folder, positions, Logger.csv).close()
    assert not link.is_symlink()
    assert victim.read_bytes() == b"precious"


def test_pipes_and_folders_are_no_logs(tmp_path):
    folder = undisturbed(tmp_path / "run", 20)
    positions = positions_of(folder)
    for make in (os.mkfifo, os.mkdir):
        shutil.move(folder / "timing.csv", tmp_path / "timing.csv")
        make(folder / "timing.csv")
        with pytest.raises(CheckpointError, match=r"timing\.csv is not a regular file"):
            resumed(folder, positions)
        (folder / "timing.csv").unlink() if make is os.mkfifo else (folder / "timing.csv").rmdir()
        shutil.move(tmp_path / "timing.csv", folder / "timing.csv")


EVENTS = "events.out.tfevents.1500000000.7"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metrics.csv": -1}, "metrics.csv: the checkpoint has -1 as its length"),
        ({"metrics.csv": True}, "has True as its length"),
        ({"metrics.csv": 3.0}, "has 3.0 as its length"),
        ({"metrics.csv": "7"}, "has '7' as its length"),
        ({"metrics.csv": None}, "has None as its length"),
        ({"metrics.csv": [1] * 99}, r"has \[1, 1.{,40} as its length"),
        ({"steps": None}, "has None as the steps"),
        ({"steps": -1}, "has -1 as the steps"),
        ({"steps": 1 << 62}, "has 46116.* as the steps"),
        ({"metrics.csv": 1 << 61}, f"{1 << 61:,} when the checkpoint was written"),
        ({"metrics.csv": 10**4000}, "has 10{39} as its length"),
        ({"metrics.csv": 0}, "no line that ends at byte 0"),
        ({"metrics.csv": 1}, "no line that ends at byte 1"),
        ({"metrics.csv": 5}, "no line that ends at byte 5"),
        ({"episodes.csv": 45}, "episodes.csv has no line that ends at byte 45"),
        ({EVENTS: 9}, rf"{EVENTS} has 8 bytes, 9 when"),
        ({EVENTS: -1}, "has -1 as its length"),
        ({"../victim": 1}, "'../victim', which is no log"),
        ({"/etc/passwd": 1}, "'/etc/passwd', which is no log"),
        ({"x/metrics.csv": 1}, "which is no log"),
        ({"events.out.tfevents.1/../../victim": 1}, "which is no log"),
        ({EVENTS + "\n": 1}, "which is no log"),
        ({"config.yaml": 1}, "which is no log"),
        ({"": 1}, "which is no log"),
        ({"x" * 10_000: 1}, "'x{59}, which is no log"),
    ],
)
def test_positions_that_are_none(tmp_path, changed, message):
    folder = undisturbed(tmp_path / "run", 20)
    (folder / EVENTS).write_bytes(b"12345678")
    (tmp_path / "victim").write_text("precious")
    positions = positions_of(folder)
    positions["timing.csv"] = len(metrics._header("timing.csv"))  # would be cut
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=message) as caught:
        resumed(folder, positions | changed)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("positions", [[], "metrics.csv", 3, ["metrics.csv", "episodes.csv", "timing.csv"]])
def test_positions_of_another_type(tmp_path, positions):
    with pytest.raises(CheckpointError, match="as the lengths of the run's logs"):
        resumed(undisturbed(tmp_path / "run", 20), positions)


@pytest.mark.parametrize("name", CSV)
def test_files_that_somebody_else_changed(tmp_path, name):
    folder = undisturbed(tmp_path / "run", 20)
    positions = positions_of(folder)
    path, content = folder / name, (folder / name).read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=f"{name} {message}"):
            resumed(folder, positions)

    with pytest.raises(CheckpointError, match=f"has no length of {name}"):
        resumed(folder, {other: length for other, length in positions.items() if other != name})
    path.write_bytes(content[:-1])
    refused(r"has [\d,]+ bytes, [\d,]+ when")
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    refused("has other columns")
    path.write_bytes(content.replace(b"frames", b"images", 1) + b"1\n")
    refused("has other columns")
    path.write_bytes(content[:-2] + b"\n1\n")
    refused("has no line that ends at byte")
    path.unlink()
    refused("is missing")
    path.write_bytes(content + b"torn of")
    resumed(folder, positions, Logger.csv).close()
    assert path.read_bytes() == content


def test_event_files_that_the_user_deleted_are_not_missed(tmp_path):
    folder = undisturbed(tmp_path / "run", 20, Logger.tensorboard)
    positions = positions_of(folder)
    (gone,) = folder.glob("events*")
    gone.unlink()
    log = resumed(folder, positions, Logger.csv)
    assert log.positions() == {name: length for name, length in positions.items() if name != gone.name}
    log.close()
