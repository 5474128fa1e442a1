"""`dqn-train -m` in this process, without training."""

import csv
import json
import re
from pathlib import Path

import pytest

from dqn_cli.cli import sweep
from dqn_cli.cli.main import train
from dqn_cli.errors import Interrupted, NumericalError

SHORT = ["run.total_steps=2000", "env=Taxi", "variant=tdqn"]


def results(folder="sw"):
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_runs_every_combination_and_ends_with_a_table(trainer, capfd):
    assert train(["-m", *SHORT, "seed=0,1", "discount=0.9,0.95", "hydra.sweep.dir=sw"]) == 0
    assert [(config.seed, config.discount) for config, *_ in trainer.runs] == [(0, 0.9), (0, 0.95), (1, 0.9), (1, 0.95)]
    rows = results()
    assert [(row["job"], row["seed"], row["discount"]) for row in rows] == [
        ("0", "0", "0.9"),
        ("1", "0", "0.95"),
        ("2", "1", "0.9"),
        ("3", "1", "0.95"),
    ]
    assert {(row["status"], row["exit_code"], row["error"]) for row in rows} == {("done", "0", "")}
    assert [row["return_mean"] for row in rows] == ["10.0", "10.0", "11.0", "11.0"]
    assert [Path(row["folder"]).absolute() for row in rows] == [folder for _, folder, _ in trainer.runs]
    assert rows[3]["folder"] == "sw/discount-0.95_env-Taxi_run.total_steps-2000_seed-1_variant-tdqn"
    out, err = capfd.readouterr()
    assert err == ""
    assert re.search(r"job\W+seed\W+discount\W+return_mean\W+status\W+error", out)  # and not what all jobs share
    assert re.search(r"3\W+1\W+0.95\W+11\W+done", out)
    assert out.endswith("results    sw/results.csv\n")


def test_a_sweep_leaves_nothing_that_names_code(trainer):
    assert train(["-m", *SHORT, "seed=0,1"]) == 0
    (folder,) = Path("runs/sweeps").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-\d{6}", folder.name)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"run.lock", "result.json", "results.csv"}
    assert all("_target_" not in file.read_text() for file in files)


def test_a_failed_job_does_not_stop_the_sweep(trainer, capfd):
    def act(config, run_dir):
        if config.seed == 1:
            raise NumericalError("reward is nan")
        if config.seed == 2:
            raise KeyError("x")
        return 5.0

    trainer.act = act
    assert train(["-m", *SHORT, "seed=0,1,2,3", "hydra.sweep.dir=sw", "hydra.sweeper.max_batch_size=2"]) == 1
    rows = results()
    assert [(row["status"], row["exit_code"], row["return_mean"]) for row in rows] == [
        ("done", "0", "5.0"),
        ("failed", "5", ""),
        ("failed", "1", ""),
        ("done", "0", "5.0"),
    ]
    assert rows[1]["error"] == "reward is nan"
    assert rows[2]["error"].startswith("KeyError: 'x', which is a bug of dqn-cli; see ")
    assert Path(rows[2]["folder"], "traceback.txt").is_file()
    out, err = capfd.readouterr()
    assert err == ""
    assert "job 1 failed: reward is nan\n" in out


def test_a_job_that_is_refused_is_a_failed_job(trainer):
    line = ["-m", "env=Taxi", "variant=qlearning,ddqn", "run.update_every_steps=2", "hydra.sweep.dir=sw"]
    assert train(line) == 1
    assert [row["status"] for row in results()] == ["failed", "done"]
    assert "does nothing with replay=online" in results()[0]["error"]


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_ctrl_c_stops_the_sweep_with_the_table_so_far(kind, trainer, capfd):
    def act(config, run_dir):
        if config.seed == 1:
            raise kind("saved")
        return 5.0

    trainer.act = act
    assert train(["-m", *SHORT, "seed=0,1,2", "hydra.sweep.dir=sw"]) == 130
    assert [(row["status"], row["exit_code"]) for row in results()] == [("done", "0"), ("interrupted", "130")]
    out, err = capfd.readouterr()
    assert "interrupted" in out
    assert err == "dqn-train: stopped by Ctrl-C\n"


def test_a_sweeper_that_wants_to_know_of_failures_is_told(trainer, monkeypatch, capfd):
    def act(config, run_dir):
        raise NumericalError("reward is nan")

    trainer.act = act
    monkeypatch.setattr("dqn_cli.cli.job.BASIC_SWEEPER", "another")
    assert train(["-m", *SHORT, "seed=0,1", "hydra.sweep.dir=sw"]) == 1
    assert {row["status"] for row in results()} == {"failed"}
    assert "dqn-train: error" not in capfd.readouterr().err  # the table has said it


def test_the_same_job_twice_has_two_folders(trainer):
    assert train(["-m", *SHORT, "seed=0,0", "hydra.sweep.dir=sw"]) == 0
    first, second = (row["folder"] for row in results())
    assert second == f"{first}-1"


def test_a_sweeps_folder_is_not_used_twice(trainer, capfd):
    line = ["-m", *SHORT, "seed=0", "hydra.sweep.dir=sw"]
    assert train(line) == 0
    before = {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()}
    assert train(line) == 2
    assert capfd.readouterr().err == "dqn-train: error: hydra.sweep.dir=sw already holds runs; write another folder\n"
    assert {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()} == before


def test_a_sweep_that_can_tell_nothing_ends(trainer, capfd, monkeypatch):
    def full(folder, **result):
        raise OSError(28, "No space left on device", str(folder / "result.json"))

    monkeypatch.setattr(sweep, "record", full)
    assert train(["-m", *SHORT, "seed=0,1", "hydra.sweep.dir=sw"]) == 6
    assert trainer.runs == []
    err = capfd.readouterr().err
    assert re.fullmatch(r"dqn-train: error: cannot write .*/result.json: No space left on device; .*\n", err)


def test_a_job_that_was_killed_is_lost(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    sweep.record(
        tmp_path / "a", job=0, status="running", overrides=["seed=0"], return_mean=None, error=None, exit_code=None
    )
    assert sweep.finish(tmp_path) == 1
    assert "lost" in capsys.readouterr().out
    assert results(tmp_path)[0]["status"] == "lost"


def test_what_a_table_shows_is_what_was_written(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    result = {"job": 0, "status": "failed", "return_mean": None, "exit_code": 2}
    sweep.record(tmp_path / "a", **result, overrides=["network.hidden=[64,64]"], error="write [64,64]")
    assert json.loads((tmp_path / "a" / "result.json").read_text())["overrides"] == ["network.hidden=[64,64]"]
    assert sweep.finish(tmp_path) == 1
    assert "write [64,64]" in capsys.readouterr().out  # brackets are no markup
