"""`dqn-train -m` in this process, without training."""

import csv
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import CONFIG, leave

from dqn_cli.cli import frozen, sweep
from dqn_cli.cli.job import Escaped
from dqn_cli.cli.lock import claimed
from dqn_cli.cli.main import train
from dqn_cli.errors import CheckpointError, ConfigError, Interrupted, NumericalError
from dqn_cli.validate import plain

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
    assert {file.name for file in files} == {
        "run.lock",
        "result.json",
        "results.csv",
        "jobs.json",
        "manifest.json",
        "config.json",
    }
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


@pytest.mark.parametrize(
    ("stop", "code", "told"),
    [
        (Interrupted("stopped by SIGTERM at step 7; saved, continue with ...", 75), 75, "stopped by SIGTERM at step 7"),
        (Interrupted("stopped by Ctrl-C at step 7; saved"), 130, "stopped by Ctrl-C at step 7"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_a_signal_stops_the_sweep_with_the_table_so_far(stop, code, told, trainer, capfd):
    def act(config, run_dir):
        if config.seed == 1:
            raise stop
        return 5.0

    trainer.act = act
    assert train(["-m", *SHORT, "seed=0,1,2", "hydra.sweep.dir=sw"]) == code
    assert [(row["status"], row["exit_code"]) for row in results()] == [("done", "0"), ("interrupted", str(code))]
    out, err = capfd.readouterr()
    assert "interrupted" in out
    assert err == f"dqn-train: {told}; go on with the same command\n"


def test_a_sweep_in_a_folder_with_a_time_in_its_name_says_which(trainer, capfd):
    def act(config, run_dir):
        raise Interrupted("stopped by SIGTERM; saved", 75)

    trainer.act = act
    assert train(["-m", *SHORT, "seed=0,1"]) == 75
    (folder,) = Path("runs/sweeps").iterdir()
    told = f"dqn-train: stopped by SIGTERM; go on with the same command and hydra.sweep.dir={folder}\n"
    assert capfd.readouterr().err == told
    trainer.act = lambda config, run_dir: 5.0
    assert train(["-m", *SHORT, "seed=0,1", f"hydra.sweep.dir={folder}"]) == 0


def test_a_sweeper_that_wants_to_know_of_failures_is_told(trainer, monkeypatch, capfd):
    def act(config, run_dir):
        raise NumericalError("reward is nan")

    trainer.act = act
    monkeypatch.setattr("dqn_cli.cli.composition.BASIC_SWEEPER", "another")
    assert train(["-m", *SHORT, "seed=0,1", "hydra.sweep.dir=sw"]) == 1
    assert {row["status"] for row in results()} == {"failed"}
    assert "dqn-train: error" not in capfd.readouterr().err  # the table has said it


def test_another_sweeper_may_try_the_same_settings_twice(trainer, monkeypatch):
    monkeypatch.setattr("dqn_cli.cli.composition.BASIC_SWEEPER", "another")
    assert train(["-m", *SHORT, "seed=0,0", "hydra.sweep.dir=sw"]) == 0
    first, second = (row["folder"] for row in results())
    assert second == f"{first}-1"
    assert train(["-m", *SHORT, "seed=0,0", "hydra.sweep.dir=sw"]) == 2  # what it will try is not known before


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


# the same command again


def again(trainer, *words, code=0):
    """What the same command trains when it is repeated: seeds and the steps at which they go on."""
    trainer.runs.clear()
    assert train(["-m", *SHORT, "hydra.sweep.dir=sw", *words]) == code
    return [(config.seed, rest["resume"] and rest["resume"].found.step) for config, _, rest in trainer.runs]


def test_a_sweep_that_was_stopped_goes_on_with_what_is_missing(trainer, capfd):
    def act(config, run_dir):
        if config.seed == 1:
            leave(run_dir, config, 500)
            raise Interrupted("stopped by SIGTERM at step 500; saved", 75)
        if config.seed == 0:
            raise NumericalError("loss is nan")
        return 5.0

    trainer.act = act
    assert again(trainer, "seed=3,0,1,2", code=75) == [(3, None), (0, None), (1, None)]
    assert [row["status"] for row in results()] == ["done", "failed", "interrupted"]
    trainer.act = lambda config, run_dir: 7.0
    capfd.readouterr()
    assert again(trainer, "seed=3,0,1,2") == [(0, None), (1, 500), (2, None)]
    assert [(row["seed"], row["return_mean"], row["status"], row["error"]) for row in results()] == [
        ("3", "5.0", "done", ""),
        ("0", "7.0", "done", ""),
        ("1", "7.0", "done", ""),
        ("2", "7.0", "done", ""),
    ]
    out, err = capfd.readouterr()
    assert err == ""
    assert "job 0: run.total_steps=2000 env=Taxi variant=tdqn seed=3 is done, skipped -> " in out
    assert "resumed    at step 500 of 2,000" in out
    files = {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()}
    assert again(trainer, "seed=3,0,1,2") == []
    assert {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()} == files


def test_a_sweep_may_grow(trainer):
    assert again(trainer, "seed=1") == [(1, None)]
    assert again(trainer, "seed=0,1,2") == [(0, None), (2, None)]
    assert [(row["job"], row["seed"]) for row in results()] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert len(json.loads(Path("sw/jobs.json").read_text())["jobs"]) == 3
    assert again(trainer, "seed=1") == []


def test_a_job_that_was_through_before_it_could_tell(trainer):
    def act(config, run_dir):
        leave(run_dir, config, 2000, finished=True)
        raise KeyboardInterrupt

    trainer.act = act
    assert again(trainer, "seed=1", code=130) == [(1, None)]
    trainer.act = lambda config, run_dir: 5.0
    assert again(trainer, "seed=1") == [(1, 2000)]
    assert results()[0]["status"] == "done"


def test_a_result_that_was_cut_off_is_none(trainer):
    assert again(trainer, "seed=1") == [(1, None)]
    (file,) = Path("sw").rglob("result.json")
    for text in ("", "{", "[]", '{"status": "done"}', '{"status": "done", "job": 0, "overrides": 3}'):
        file.write_text(text)
        assert sweep.read(file.parent) is None
    assert again(trainer, "seed=1") == [(1, 2000)]


def test_configurations_are_frozen_when_a_sweep_starts(trainer, tmp_path):
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndiscount: 0.9\n")
    line = ["--config-dir", "own", "experiment=mine", "seed=0,1"]
    seen = []

    def act(config, run_dir):
        own.write_text("# @package _global_\ndiscount: 0.8\n")
        seen.append(config.discount)
        if config.seed == 1:
            raise Interrupted("stopped by SIGTERM", 75)
        return 5.0

    trainer.act = act
    assert again(trainer, *line, code=75) == [(0, None), (1, None)]
    assert seen == [0.9, 0.9]
    jobs = json.loads(Path("sw/jobs.json").read_text())["jobs"]
    assert [job["overrides"][-1] for job in jobs] == ["seed=0", "seed=1"]
    assert [(job["config"]["discount"], job["config"]["seed"]) for job in jobs] == [(0.9, 0), (0.9, 1)]


def test_another_configuration_is_refused_before_anything_runs(trainer, tmp_path, capfd):
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndiscount: 0.9\n")
    assert again(trainer, "--config-dir", "own", "experiment=mine", "seed=0") == [(0, None)]
    own.write_text("# @package _global_\ndiscount: 0.8\n")
    files = {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()}
    capfd.readouterr()
    assert again(trainer, "--config-dir", "own", "experiment=mine", "seed=1,0", code=2) == []
    assert capfd.readouterr() == (
        "",
        "dqn-train: error: hydra.sweep.dir=sw holds the job run.total_steps=2000 env=Taxi variant=tdqn "
        "experiment=mine seed=0 configured otherwise: discount 0.9 -> 0.8; write another folder\n",
    )
    assert {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()} == files


def test_jobs_that_would_share_a_folder_are_refused(trainer, capfd):
    assert again(trainer, "seed=0,0", code=2) == []
    assert (
        "the job run.total_steps=2000 env=Taxi variant=tdqn seed=0 stands in this sweep twice" in capfd.readouterr().err
    )
    assert again(trainer, "seed=0,1", "hydra.sweep.subdir=one", code=2) == []
    assert "sw/one is the folder of the job " in capfd.readouterr().err
    assert not Path("sw").exists()
    numbered = "hydra.sweep.subdir=${hydra.job.num}"
    assert again(trainer, "seed=1,2", numbered) == [(1, None), (2, None)]
    assert again(trainer, "seed=0,1", numbered, code=2) == []
    assert "sw/0 is the folder of the job " in capfd.readouterr().err
    assert again(trainer, "seed=1,2,3", numbered) == [(3, None)]


JOB = ("env=Taxi", "seed=0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"jobs": 3}',
        '{"jobs": [3]}',
        '{"jobs": [{"overrides": [[]], "config": {}}]}',
        '{"jobs": [{"overrides": []}]}',
        '{"jobs": NaN}',
    ],
)
def test_jobs_that_are_none(text, tmp_path):
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"jobs\.json"):
        frozen.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"seed": "x"}, {"device": "${oc.env:HOME}"}, {"_target_": "os.system"}, {"run": 3}, None, 3]
)
def test_a_strangers_jobs_are_not_believed(change, tmp_path):
    data = plain(CONFIG) | change if isinstance(change, dict) else change
    frozen.keep(tmp_path, {JOB: data})
    if data is None:
        assert frozen.find(tmp_path, JOB) is None
        return
    for read in (lambda: frozen.find(tmp_path, JOB), lambda: frozen.compare(tmp_path, {JOB: CONFIG})):
        with pytest.raises(CheckpointError, match=r"jobs\.json: not a run's configuration"):
            read()


def test_jobs_are_kept_with_those_of_before(tmp_path):
    seeds = {(f"seed={seed}",): replace(CONFIG, seed=seed) for seed in (0, 1, 2)}
    for chosen in (seeds.keys() - {("seed=2",)}, seeds.keys() - {("seed=1",)}):
        frozen.keep(tmp_path, frozen.compare(tmp_path, {job: seeds[job] for job in chosen}))
    assert {job: frozen.find(tmp_path, job) for job in seeds} == seeds
    assert frozen.find(tmp_path, ("seed=3",)) is None
    with pytest.raises(ConfigError, match="holds the job seed=1 configured otherwise: seed 1 -> 2; write another"):
        frozen.compare(tmp_path, {("seed=1",): seeds["seed=2",]})
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.json"]


def test_a_folder_of_runs_without_its_jobs_is_not_gone_on_with(trainer, capfd):
    assert again(trainer, "seed=0") == [(0, None)]
    Path("sw/jobs.json").unlink()
    capfd.readouterr()
    assert again(trainer, "seed=0", code=2) == []
    told = "hydra.sweep.dir=sw already holds runs, and no jobs.json to go on with; write another folder"
    assert capfd.readouterr() == ("", f"dqn-train: error: {told}\n")


def test_a_job_that_another_process_trains_is_left_to_it(trainer, capfd):
    def act(config, run_dir):
        raise NumericalError("loss is nan")

    trainer.act = act
    assert again(trainer, "seed=0", code=1) == [(0, None)]
    folder = next(Path("sw").rglob("result.json")).parent
    sweep.record(folder, **sweep.read(folder) | {"status": "running"})
    capfd.readouterr()
    with claimed(folder):
        assert again(trainer, "seed=0", code=1) == []
        assert "job 0 left out: " in capfd.readouterr().out
        assert results()[0]["status"] == "running"
    assert sweep.collect(Path("sw"))[0]["status"] == "lost"


def test_a_child_of_a_launcher_takes_its_configuration_from_the_file(trainer, tmp_path):
    """As joblib's and submitit's children do: nothing of the parent's memory is there, and conf/ may have changed."""

    def act(config, run_dir):
        raise KeyboardInterrupt

    trainer.act = act
    assert again(trainer, "seed=0", code=130) == [(0, None)]
    file = Path("sw/jobs.json")
    file.write_text(file.read_text().replace('"discount": 0.99', '"discount": 0.91'))
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict
from dqn_cli.cli.composition import compose_job
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.job import task
from dqn_cli.cli.paths import conf_dir

def train_run(config, run_dir, **rest):
    print("discount", config.discount)
    return SimpleNamespace(lines=lambda: [], metric=3.0)

sys.modules["dqn_cli.build"] = ModuleType("dqn_cli.build")
sys.modules["dqn_cli.build"].train_run = train_run
register()
with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
    words = sys.argv[1:]
    master = compose("config", ["hydra.mode=MULTIRUN", *words], return_hydra_config=True)
    job = compose_job(master, [word for word in words if not word.startswith("hydra.")])
    with open_dict(job):
        job.hydra.job.num = 0
        job.hydra.runtime.cwd = str(Path().absolute())
        job.hydra.runtime.output_dir = str(Path("sw", job.hydra.sweep.subdir).absolute())
    HydraConfig.instance().set_config(job)
    assert task(job) == 3.0
"""
    words = [*SHORT, "seed=0", "hydra.sweep.dir=sw"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "discount 0.91\n" in done.stdout
    assert results_of("sw") == ["done"]


def results_of(folder):
    return [result["status"] for result in sweep.collect(Path(folder))]


def test_an_error_that_escapes_travels_between_processes():
    copied = pickle.loads(pickle.dumps(Escaped(Interrupted("stopped by SIGTERM", 75))))
    assert (str(copied.error), copied.error.exit_code) == ("stopped by SIGTERM", 75)
