"""The commands as they are installed, in processes of their own."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))
ROOT = Path(__file__).parents[2]


def run(command, *args, cwd):
    return subprocess.run([SCRIPTS / command, *args], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_a_refusal_of_the_installed_command(tmp_path):
    done = run("dqn-train", "env=CartPol", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dqn-train: error: unknown env CartPol; did you mean CartPole?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    done = subprocess.run(
        f"{SCRIPTS / 'dqn-train'} --list settings | true", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "--cfg job", "hydra.run.dir=a", "-m seed=1 hydra.sweep.dir=b"])
def test_an_output_that_cannot_be_written_is_told(command, unbuffered, tmp_path):
    short = [] if command.startswith("--") else ["run.total_steps=300", "run.eval_episodes=1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [SCRIPTS / "dqn-train", *command.split(), *short],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 6
    told = "dqn-train: error: cannot write the output: No space left on device; make room or choose another folder\n"
    assert done.stderr == told


def test_names_that_the_terminal_cannot_show(tmp_path):
    line = ["-m", "seed=1", "env=FrozenLake", "variant=qlearning", "network=mlp", "hydra.sweep.dir='\u00e9'"]
    done = subprocess.run(
        [SCRIPTS / "dqn-train", *line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("results    \\xe9/results.csv\n")


def test_no_check_and_no_refusal_imports_torch(tmp_path):
    code = """
import os, sys
os.environ |= {"COMP_LINE": "dqn-train env=", "COMP_POINT": "14"}
from dqn_cli.cli.main import train
for line, code in [
    ("env=CartPol", 2), ("seed=abc", 2), ("variant=qlearning", 2), ("env=gym env.id=Taxi-v3", 2), ("--cfg job", 0),
    ("-sc query=bash", 0), ("init_from=nowhere", 3), ("replay.capacity=1e12 run.total_steps=1e12", 2),
    ("-m env=Taxi variant=qlearning network=mlp hydra.sweep.dir=sw", 1),
]:
    assert train(line.split()) == code, line
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


def test_what_runs_nothing_does_not_wait_for_environments(tmp_path):
    code = """
import os, sys
os.environ |= {"COMP_LINE": "dqn-train env=", "COMP_POINT": "14"}
from dqn_cli.cli.main import train
for line in ("--cfg job env=Pong", "--info searchpath", "-sc query=bash"):
    assert train(line.split()) == 0, line
assert not {"numpy", "gymnasium", "rich", "psutil"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


def test_the_wheel_ships_the_configuration_inside_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"conf": "dqn_cli/conf"}
    assert project["project"]["scripts"]["dqn-train"] == "dqn_cli.cli.main:train"
    assert project["project"]["scripts"]["dqn-eval"] == "dqn_cli.cli.main:evaluate"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A real sweep with one job that fails."""
    folder = tmp_path_factory.mktemp("sweep")
    settings = ["env=FrozenLake", "run.total_steps=300", "run.log_every_steps=100", "run.eval_episodes=2"]
    done = run("dqn-train", "-m", *settings, "variant=qlearning,tdqn", "network.hidden=[8],[4]", cwd=folder)
    assert done.returncode == 2  # a table has no hidden layers
    done = run(
        "dqn-train", "-m", *settings, "variant=vdqn", "network.hidden=[8],[8,4]", "device=cpu,cuda:99", cwd=folder
    )
    assert done.returncode == 1
    (sweep,) = (folder / "runs" / "sweeps").iterdir()
    return folder, sweep, done


def test_a_real_sweep_trains_and_names_the_job_that_failed(swept):
    _, sweep, done = swept
    results = [json.loads(file.read_text()) for file in sweep.rglob("result.json")]
    assert sorted(result["status"] for result in results) == ["done", "done", "failed", "failed"]
    assert all(isinstance(result["return_mean"], float) for result in results if result["status"] == "done")
    assert "device=cuda:99 is not available here" in done.stdout
    assert done.stderr == ""


def test_the_folder_of_a_job_can_be_typed_back(swept):
    folder, sweep, _ = swept
    (run_dir,) = [file.parent for file in sweep.rglob("result.json") if "8-4" in str(file) and "cpu" in str(file)]
    typed = run_dir.relative_to(folder)
    done = run("dqn-eval", f"checkpoint={typed}", "episodes=2", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_that_a_run_writes_names_code(swept):
    _, sweep, _ = swept
    texts = [file for file in sweep.rglob("*") if file.suffix in {".json", ".yaml", ".csv"}]
    assert len(texts) > 10
    assert not any("_target_" in file.read_text() for file in texts)
