import csv
import errno
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

from dqn_cli.config import Logger
from dqn_cli.errors import StorageError
from dqn_cli.training import metrics
from dqn_cli.training.evaluator import Returns
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


@pytest.mark.parametrize("name", ["metrics.csv", "events"])
def test_a_folder_that_is_not_there(tmp_path, name, monkeypatch):
    if name == "events":
        monkeypatch.setattr(metrics, "_Table", lambda *arguments: None)
    with pytest.raises(StorageError, match=name):
        MetricsLog(tmp_path / "gone", Logger.tensorboard)


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
