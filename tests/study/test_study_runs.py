import json
import os

import numpy as np
import pytest
from study_runs import leave, write_csv

from dqn_cli.errors import CheckpointError
from dqn_cli.study import runs
from dqn_cli.study.runs import leaves, load, read_columns
from dqn_cli.study.series import GRID_POINTS, MAX_POINTS, Series, common_points, thinned
from dqn_cli.study.texts import clean, number


def test_what_a_run_left_is_read(tmp_path):
    leave(tmp_path / "sweep" / "a", seed=3, words=["variant=ddqn"], variant__name="ddqn", variant__tau=1.0)
    (run,) = load([tmp_path])
    assert (run.env, run.seed, run.status, run.reason) == ("CartPole-v1", 3, "finished", "")
    assert run.settings["variant.name"] == "ddqn"
    assert run.settings["variant.tau"] == "1.0"
    assert "seed" not in run.settings
    assert run.words["variant"] == "ddqn"
    assert run.command == ["dqn-train", "env=CartPole-v1", "seed=3", "variant=ddqn"]
    assert run.versions["torch"] == "2.13.0"
    assert run.machine == "a processor, 2 cores"
    assert run.steps == run.total_steps == 300
    assert run.series["eval_return_mean"].steps.tolist() == [100, 200, 300]
    assert run.series["eval_return_mean"].values.tolist() == [1, 2, 3]
    assert run.series["seconds"].values.tolist() == [2.5, 5, 7.5]
    assert run.notes == []


def test_each_run_is_found_once_and_nothing_below_it(tmp_path):
    leave(tmp_path / "a")
    leave(tmp_path / "a" / "eval" / "b")
    leave(tmp_path / ".hidden" / "c")
    leave(tmp_path / "z" / "d")
    (tmp_path / "link").symlink_to(tmp_path / "z")
    assert [run.folder.name for run in load([tmp_path, tmp_path / "a"])] == ["a", "d"]


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no run in or below"):
        load([tmp_path])


def test_a_configuration_may_be_in_its_own_file(tmp_path):
    folder = leave(tmp_path / "a")
    (folder / "manifest.json").unlink()
    (folder / "config.yaml").write_text("env:\n  id: Taxi-v3\nseed: 2\noptimizer:\n  lr: 1.0e-05\n")
    (run,) = load([folder])
    assert (run.env, run.seed, run.settings["optimizer.lr"]) == ("Taxi-v3", 2, "1e-05")


def test_a_run_from_before_a_setting_came_has_its_default(tmp_path):
    folder = leave(tmp_path / "a")
    (folder / "manifest.json").unlink()
    (folder / "config.yaml").write_text("env:\n  id: Taxi-v3\nprecision: bf16\n")
    (run,) = load([folder])
    assert (run.settings["fast_paths"], run.settings["precision"]) == ("true", "bf16")


def status(tmp_path, held=None):
    (run,) = load([tmp_path], held=held)
    return run.status, run.reason


def test_how_a_run_ended(tmp_path):
    folder = leave(tmp_path / "a", finished=False)
    assert status(tmp_path) == ("unfinished", "at 300 of 300 steps")
    assert status(tmp_path, held=lambda _: True) == ("running", "at 300 of 300 steps")
    (folder / "traceback.txt").write_text("Traceback\n  x\nValueError: no\n\n")
    assert status(tmp_path) == ("failed", "ValueError: no, at 300 of 300 steps")
    result = {"job": 0, "status": "failed", "error": "env.id=X\nis missing", "overrides": []}
    (folder / "result.json").write_text(json.dumps(result))
    assert status(tmp_path) == ("failed", "env.id=X is missing, at 300 of 300 steps")
    (folder / "result.json").write_text(json.dumps(result | {"status": "running"}))
    assert status(tmp_path)[0] == "lost"
    (folder / "result.json").write_text(json.dumps(result | {"status": "done"}))
    assert status(tmp_path) == ("finished", "")


def test_a_job_that_failed_at_once_has_its_words(tmp_path):
    (tmp_path / "a").mkdir()
    result = {"status": "failed", "error": "no such game", "overrides": ["env=Pong", "seed=4"]}
    (tmp_path / "a" / "result.json").write_text(json.dumps(result))
    (run,) = load([tmp_path])
    assert (run.env, run.seed, run.command) == ("Pong", 4, ["dqn-train", "env=Pong", "seed=4"])


def columns(path, text):
    path.write_bytes(text)
    found, damaged = read_columns(path, ("a", "b"))
    return {name: (series.steps.tolist(), series.values.tolist()) for name, series in found.items()}, damaged


@pytest.mark.parametrize(
    ("text", "expected", "damaged"),
    [
        (b"", {}, 0),
        (b"steps,a", {}, 0),
        (b"steps,a,b\n1,2,\n2,,5\n", {"a": ([1], [2]), "b": ([2], [5])}, 0),
        (b"steps,a,b\r\n1,2,3\r\n", {"a": ([1], [2]), "b": ([1], [3])}, 0),
        (b"steps,a,b\n1,2,3\n2,4,5", {"a": ([1], [2]), "b": ([1], [3])}, 0),  # somebody is writing the last line
        (b"a,x,steps\n7,,1\n", {"a": ([1], [7])}, 0),
        (b"steps,a\n1,2\n1,3\n0,4\n2,5\n", {"a": ([1, 2], [2, 5])}, 2),  # steps that do not increase
        (b"steps,a\n1,nan\n2,inf\n3,x\n4,1e999\n5,6\n", {"a": ([5], [6])}, 4),
        (b"steps,a\n1,2\n1e16,3\n2,4\nx,5\n", {"a": ([1, 2], [2, 4])}, 2),
        (b"steps,a\n1,2\n2\n3,4,5\n\x00\xff\n4,8\n", {"a": ([1, 4], [2, 8])}, 3),
    ],
)
def test_columns(tmp_path, text, expected, damaged):
    assert columns(tmp_path / "m.csv", text) == (expected, damaged)


def test_blocks_of_lines_make_no_difference(tmp_path, monkeypatch):
    text = b"steps,a\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(50)) + b"3,4\n51,x\n52,1"
    whole = columns(tmp_path / "m.csv", text)
    monkeypatch.setattr(runs, "BLOCK", 7)
    assert columns(tmp_path / "m.csv", text) == whole
    assert whole[1] == 2


def test_a_line_without_end_is_no_memory_hog(tmp_path):
    found, damaged = columns(tmp_path / "m.csv", b"steps,a\n1,2\n" + b"9" * 100_000 + b"\n3,4\n")
    assert found == {"a": ([1, 3], [2, 4])}
    assert damaged >= 1


def test_files_that_are_not_logs_are_named(tmp_path, monkeypatch):
    folder = leave(tmp_path / "a")
    (folder / "metrics.csv").write_text("x,y\n1,2\n")
    (folder / "manifest.json").write_text("{")
    (run,) = load([folder])
    assert run.series == {}
    assert [note.partition(":")[0] for note in run.notes] == ["manifest.json", "metrics.csv"]
    write_csv(folder, {"return_mean": [1.0] * 50})
    monkeypatch.setattr(runs, "MAX_CSV_BYTES", 100)
    (run,) = load([folder])
    assert "expected at most 100" in run.notes[-1]


def test_links_and_pipes_are_not_read(tmp_path):
    folder = leave(tmp_path / "a")
    (folder / "metrics.csv").rename(tmp_path / "elsewhere.csv")
    (folder / "metrics.csv").symlink_to(tmp_path / "elsewhere.csv")
    (folder / "timing.csv").unlink()
    os.mkfifo(folder / "timing.csv")
    (run,) = load([folder])
    assert run.series == {}
    assert "link" in run.notes[0]


def test_a_configuration_that_is_none(tmp_path):
    deep = {"x": 1}
    for _ in range(20):
        deep = {"x": deep}
    assert list(leaves(deep)) == []
    assert list(leaves({str(i): i for i in range(5_000)})) == []
    assert dict(leaves({"a": {"b": None, "c": True}, "d": {}, "e": [1, 2]})) == {
        "a.b": "null", "a.c": "true", "d": "{}", "e": "[1, 2]"
    }  # fmt: skip
    folder = leave(tmp_path / "a")
    (folder / "manifest.json").unlink()
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    (folder / "config.yaml").write_text(bomb + "env: {id: X}\nself: &s [*s]\n")
    (run,) = load([folder])
    assert run.env == "X"
    assert all(len(value) <= 300 for value in run.settings.values())


@pytest.mark.parametrize(
    "config", [[], 3, {"env": 3}, {"env": {"id": ["x"]}}, {"seed": "x"}, {"run": {"total_steps": -1}}]
)
def test_any_json_is_survived(tmp_path, config):
    folder = leave(tmp_path / "a", finished=False)
    hostile = {"config": config, "overrides": [1], "versions": [], "hardware": {"cpu": {}, "cores": "x"}, "source": 3}
    (folder / "manifest.json").write_text(json.dumps(hostile | {"command": {"a": 1}}))
    (folder / "result.json").write_text('{"status": [], "error": 3, "overrides": "x"}')
    (run,) = load([folder])
    assert run.command == []
    assert "eval_return_mean" in run.series


def test_texts_are_fit_to_be_shown():
    assert clean("a\n\x1b[31mb\ud800") == "a \\x1b[31mb\\ud800"
    assert len(clean("x" * 10_000)) == 300
    numbers = (1234.6, 123.46, 12.346, 1.2346, -0.001, np.nan, np.inf, 1e20)
    shown = ["1,235", "123.5", "12.35", "1.235", "-0.001", "-", "never", "1e+20"]
    assert [number(value) for value in numbers] == shown


def test_series_by_hand():
    series = Series(np.array([100.0, 200.0, 400.0]), np.array([0.0, 10.0, 20.0]))
    assert series.at(np.array([50.0, 150.0, 400.0])).tolist()[1:] == [5.0, 20.0]
    assert np.isnan(series.at(np.array([50.0, 500.0]))).all()
    assert series.area() == ((0 + 10) / 2 * 100 + (10 + 20) / 2 * 200) / 300
    assert (series.final(0.1), series.final(0.5)) == (20.0, 15.0)
    assert (series.reached(10), series.reached(10.1), series.reached(21)) == (200, 400, np.inf)


def test_common_points():
    a, b = (Series(np.array(steps, float), np.zeros(len(steps))) for steps in ([1, 2, 5], [2, 3, 9]))
    assert common_points([a, a]).tolist() == [1, 2, 5]
    points = common_points([a, b])
    assert (points[0], points[-1], len(points)) == (2, 5, GRID_POINTS)
    assert common_points([a, Series(np.array([7.0]), np.zeros(1))]).size == 0


def test_thinning_keeps_the_ends():
    series = thinned(np.arange(100_000.0), np.arange(100_000.0))
    assert (len(series.steps), series.steps[0], series.steps[-1]) == (MAX_POINTS, 0, 99_999)
