import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dqn_cli import build
from dqn_cli.cli.evaluate import parse, usage
from dqn_cli.cli.main import evaluate
from dqn_cli.config import (
    Config,
    DdqnConfig,
    EpsilonConfig,
    EvalConfig,
    GymConfig,
    MlpConfig,
    ScalarConfig,
    SgdConfig,
    UniformConfig,
)
from dqn_cli.envs.vector import GymLanes
from dqn_cli.errors import ConfigError
from dqn_cli.training.checkpoint import CheckpointStore
from dqn_cli.training.evaluator import EvalResult
from dqn_cli.validate import plain

CONFIG = Config(
    env=GymConfig(id="CartPole-v1"),
    network=MlpConfig(hidden=[8]),
    variant=DdqnConfig(),
    value=ScalarConfig(),
    replay=UniformConfig(),
    exploration=EpsilonConfig(),
    optimizer=SgdConfig(),
)


def save(run: Path, kind: str = "best", step: int = 30, **env: object) -> Path:
    """A checkpoint of an untrained agent; `env` changes what its configuration says of the environment."""
    envs = GymLanes(CONFIG.env, 1, lambda lane, episode: 0)
    learner = build.make_learner(CONFIG, envs.spec, envs.num_actions, torch.Generator())
    envs.close()
    config = plain(CONFIG)
    config["env"] |= env
    contents = {"config": config, "model": learner.model_state(), "state": {}}
    store = CheckpointStore(run, keep=5)
    if kind == "best":
        return store.save_best(step, **contents)
    save_it = store.save_final if kind == "final" else store.save_step
    return save_it(step, **contents, optimizer=learner.optimizer_state())


@pytest.fixture
def run(tmp_path):
    save(tmp_path / "my run=1 ${x}")
    return tmp_path / "my run=1 ${x}"


def error(capsys: pytest.CaptureFixture[str], *argv: object, code: int) -> str:
    assert evaluate([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    assert err.startswith("dqn-eval: error: ")
    assert err.count("\n") == 1
    assert out == ""
    return err


def test_result_on_the_terminal_and_on_disk(run, capsys):
    assert evaluate([f"checkpoint={run}", "episodes=5", "epsilon=0.25", "seed=7", "num_envs=2"]) == 0
    out = capsys.readouterr().out
    folder = run / "eval" / "best-000000030_seed-7_epsilon-0.25_episodes-5_envs-2"
    result = json.loads((folder / "eval.json").read_text())
    with (folder / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["score"]) for row in rows]
    assert [row["episode"] for row in rows] == list("01234")
    assert [float(row["length"]) for row in rows] == scores  # CartPole's reward is 1 per step
    assert result["return_mean"] == pytest.approx(sum(scores) / 5)
    assert result["return_median"] == sorted(scores)[2]
    assert result["return_interval"][0] <= result["return_mean"] <= result["return_interval"][1]
    assert (result["episodes"], result["seed"], result["epsilon"], result["num_envs"]) == (5, 7, 0.25, 2)
    assert (result["checkpoint"], result["step"], result["env"]) == ("best-000000030", 30, "CartPole-v1")
    assert result["versions"]["torch"]
    shown = dict(line.split(maxsplit=1) for line in out.replace("95% ", "95%_").replace("min, ", "min,").splitlines())
    assert shown["mean"] == f"{result['return_mean']:,.2f}"
    assert shown["sd"] == f"{result['return_sd']:,.2f}"
    assert shown["min,max"] == f"{min(scores):.2f}, {max(scores):.2f}"
    assert shown["step"] == "30"
    assert str(folder) in out


def test_the_same_again_gives_the_same_bytes(run, tmp_path):
    for name in "ab":
        assert evaluate([str(run), "episodes=4", f"out={tmp_path / name}"]) == 0
    for name in ("eval.json", "episodes.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_selection(run, capsys):
    save(run, "step", 40)
    save(run, "final", 50)
    for words, chosen in [
        (["select=final"], "final-000000050"),
        (["select=40"], "step-000000040"),
        ([], "best-000000030"),
    ]:
        assert evaluate([str(run), "episodes=1", *words]) == 0
        assert chosen in capsys.readouterr().out
        assert (run / "eval" / f"{chosen}_seed-0_epsilon-0_episodes-1" / "eval.json").exists()
    assert "select=60" in error(capsys, run, "select=60", code=3)


def test_a_checkpoint_folder_stands_for_itself(run, capsys):
    folder = run / "checkpoints" / "best-000000030"
    assert evaluate([f"checkpoint={folder}", "episodes=1"]) == 0
    assert (run / "eval" / "best-000000030_seed-0_epsilon-0_episodes-1").is_dir()
    capsys.readouterr()
    assert "select=final would do nothing" in error(capsys, folder, "select=final", code=2)


def test_a_run_without_a_best_one_says_so(tmp_path, capsys):
    save(tmp_path, "final", 50)
    assert evaluate([str(tmp_path), "episodes=1"]) == 0
    assert "final-000000050 (the run has no best one)" in capsys.readouterr().out


def test_values_are_taken_as_they_are():
    settings, given = parse(
        ["checkpoint=a b=c/${oc.env:HOME}", "out=x=y", "episodes=1_000", "epsilon=1e-2", "module=null"]
    )
    assert settings == EvalConfig(
        checkpoint="a b=c/${oc.env:HOME}", out="x=y", episodes=1000, epsilon=0.01, module=None
    )
    assert given == {"checkpoint", "out", "episodes", "epsilon", "module"}


def test_whole_numbers_may_be_written_as_powers_of_ten():
    assert parse(["checkpoint=x", "episodes=1e3"])[0].episodes == 1000
    assert parse(["checkpoint=x", "episodes=2.5E+2"])[0].episodes == 250


def test_the_first_word_may_be_a_folder_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    Path("seed=0").mkdir()
    assert parse(["lr=0.1"])[0].checkpoint == "lr=0.1"
    assert parse(["seed=0", "checkpoint=x"])[0] == EvalConfig(checkpoint="x", seed=0)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "checkpoint= is missing"),
        (["--watch"], "unknown option --watch"),
        (["checkpoint=x", "extra"], "'extra' is not understood"),
        (["checkpoint=x", "episode=5"], "did you mean episodes?"),
        (["checkpoint=x", "qqq=5"], "known: checkpoint, select"),
        (["checkpoint="], "checkpoint= has no value"),
        (["checkpoint=x", "episodes=ten"], "episodes=ten is not an integer"),
        (["checkpoint=x", "episodes=1.5"], "episodes=1.5 is not an integer"),
        (["checkpoint=x", "episodes=1.2.3e5"], "episodes=1.2.3e5 is not an integer"),
        (["checkpoint=x", "episodes=1e-2"], "episodes=1e-2 is not an integer"),
        (["checkpoint=x", "episodes=1.5e0"], "episodes=1.5e0 is not an integer"),
        (["checkpoint=x", "episodes=null"], "episodes=null is not an integer"),
        (["checkpoint=x", "epsilon=low"], "epsilon=low is not a number"),
        (["checkpoint=x", "epsilon=nan"], "epsilon=nan is not in [0, 1]"),
        (["checkpoint=x", "epsilon=1.1"], "epsilon=1.1 is not in [0, 1]"),
        (["checkpoint=x", "episodes=0"], "episodes=0 is not in [1, inf)"),
        (["checkpoint=x", "seed=-1"], "seed=-1 is not in [0, 9223372036854775807]"),
        (["checkpoint=x", "seed=1", "seed=2"], "seed is given twice, 1 and 2"),
        (["checkpoint=x", "select=newest"], "write best, last, final or a step"),
        (["checkpoint=x", "render=rgb"], "render=rgb is not possible; write human"),
        (["checkpoint=x", "render=human", "num_envs=2"], "num_envs=2 would do nothing"),
        (["checkpoint=x", "device=gpu"], "device=gpu is not possible"),
        (["checkpoint=x", "threads=0"], "threads=0 is not possible"),
    ],
)
def test_usage_errors(capsys, words, part):
    assert part in error(capsys, *words, code=2)


def test_help_fits_a_screen_and_shows_every_setting(capsys):
    assert evaluate(["--help"]) == 0
    out = capsys.readouterr().out
    assert out == usage() + "\n"
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 110
    for name in EvalConfig.__dataclass_fields__:
        assert f"\n  {name}=" in out


def test_help_version_and_usage_errors_do_not_wait_for_torch():
    program = (
        "import sys; from dqn_cli.cli.main import evaluate;"
        "codes = [evaluate(words) for words in (['--help'], ['--version'], ['checkpoint=x', 'seed=a'], [])];"
        "assert codes == [0, 0, 2, 2], codes;"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_does_not_import_a_module_by_itself(tmp_path, monkeypatch, capsys):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    save(tmp_path / "run", module="evil")
    assert "if you trust it, write module=evil" in error(capsys, tmp_path / "run", code=2)
    assert not (tmp_path / "ran").exists()
    assert evaluate([str(tmp_path / "run"), "episodes=1", "module=evil"]) == 0
    assert (tmp_path / "ran").exists()


def test_an_id_that_would_import_a_module_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "evil2.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    save(tmp_path / "run", id="evil2:CartPole-v1")
    assert "env.id=evil2:CartPole-v1" in error(capsys, tmp_path / "run", "module=evil2", code=3)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": ["mlp"]}},
        {"network": {"name": "mlp", "hidden": [10**9]}},
        {"network": {"_target_": "os.system", "name": "mlp"}},
        {"discount": 2},
        {"env": {"id": "${oc.env:HOME}"}},
        {"env": 5},
        {"seed": "x"},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_a_configuration_that_is_none(tmp_path, capsys, change):
    best = save(tmp_path)
    config = json.loads((best / "config.json").read_text())
    store = CheckpointStore(tmp_path, keep=1)
    store.save_best(31, config=config | change, model={}, state={})
    assert "config.json" in error(capsys, tmp_path, code=3)


def test_weights_that_do_not_fit(tmp_path, capsys):
    config = plain(CONFIG) | {"network": {"name": "mlp", "hidden": [9], "activation": "relu"}}
    best = save(tmp_path)
    from dqn_cli.training.checkpoint import read

    CheckpointStore(tmp_path, keep=1).save_best(31, config=config, model=read(best).model, state={})
    assert "model.safetensors" in error(capsys, tmp_path, code=3)


def test_damage_and_other_folders(run, tmp_path, capsys):
    path = run / "checkpoints" / "best-000000030" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert "damaged" in error(capsys, run, code=3)
    assert not (run / "eval").exists()
    (tmp_path / "old.zip").write_bytes(b"PK")
    assert "never loaded" in error(capsys, tmp_path / "old.zip", code=3)
    for folder in (f"checkpoint={tmp_path / 'gone'}", tmp_path / "gone"):
        assert "does not exist" in error(capsys, folder, code=3)


def test_a_folder_that_cannot_be_written_is_told_before_time_is_spent(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "evaluate_checkpoint", lambda *arguments: pytest.fail("it was evaluated"))
    (tmp_path / "file").touch()
    assert "cannot write" in error(capsys, run, f"out={tmp_path / 'file' / 'x'}", code=6)


def test_an_evaluation_that_never_began_leaves_no_folder(run, tmp_path, capsys):
    assert "device=cuda:99 is not" in error(capsys, run, f"out={tmp_path / 'out'}", "device=cuda:99", code=2)
    assert not (tmp_path / "out").exists()
    assert "device=cuda:99 is not" in error(capsys, run, "device=cuda:99", code=2)
    assert not (run / "eval").exists()


def test_success_rates_are_shown_with_three_digits(run, capsys, monkeypatch):
    result = EvalResult([0.0, 1.0, 1.0], [3, 3, 3])
    monkeypatch.setattr(build, "evaluate_checkpoint", lambda *arguments: result)
    assert evaluate([str(run)]) == 0
    assert "\nmean         0.667\n" in capsys.readouterr().out


def test_parse_raises_for_callers():
    with pytest.raises(ConfigError):
        parse(["checkpoint=x", "checkpoint=y"])
