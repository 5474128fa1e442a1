"""`dqn-train` in this process, from the words on its command line to the call that trains."""

import os
import re
import sys
from pathlib import Path

import hydra._internal.hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from dqn_cli.cli import hydra_app, job
from dqn_cli.cli.main import train
from dqn_cli.errors import (
    CheckpointError,
    EnvironmentFault,
    Interrupted,
    NumericalError,
    StorageError,
    UserError,
)


def refused(argv, capfd):
    """Exit code and the one line of a refusal, which leaves nothing behind."""
    code = train(argv)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []
    return code, err.removeprefix("dqn-train: error: ").strip()


def test_a_run_has_a_folder_of_its_own_and_returns_nothing_but_its_lines(trainer, tmp_path, capfd):
    assert train(["env=Taxi", "variant=qlearning", "seed=7", "run.total_steps=1e3", "run.log_every_steps=100"]) == 0
    ((config, folder, rest),) = trainer.runs
    assert (config.env.id, config.seed, config.run.total_steps) == ("Taxi-v4", 7, 1000)
    assert re.fullmatch(r"runs/Taxi/qlearning/s7_\d{8}-\d{6}-\d{6}", str(folder.relative_to(tmp_path)))
    assert {file.name for file in folder.iterdir()} == {
        "run.lock",
        "manifest.json",
        "checkpoints",
    }  # nothing of Hydra's
    assert rest["overrides"][:2] == ["env=Taxi", "variant=qlearning"]
    assert rest["command"] == ["dqn-train", *rest["overrides"]]
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "note: exploration.over_steps=1000 instead of 100000: the run has only 1000 steps",
        "final 17.0",
    ]
    assert err == ""


def test_runs_never_share_a_folder(trainer, capfd):
    for _ in range(2):
        assert train(["env=FrozenLake"]) == 0
    assert len({folder for _, folder, _ in trainer.runs}) == 2
    assert train(["hydra.run.dir=here"]) == 0
    assert train(["hydra.run.dir=here"]) == 2
    told = "hydra.run.dir=here already holds a run, finished at step 60,000; write another folder"
    assert told in capfd.readouterr().err
    assert len(trainer.runs) == 3


def test_another_environment_by_its_id_with_arguments(trainer):
    assert train(["env=gym", "env.id=FrozenLake-v1", "env.kwargs.is_slippery=false", "env.kwargs.map_name=8x8"]) == 0
    ((config, folder, _),) = trainer.runs
    assert config.env.kwargs == {"is_slippery": False, "map_name": "8x8"}
    assert folder.parts[-3:-1] == ("FrozenLake-v1", "ddqn")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("env=CartPol", "unknown env CartPol; did you mean CartPole?"),
        ("variant=x", "unknown variant x; write one of ddqn, qlearning, tdqn, vdqn"),
        ("experiment=zoo", "unknown experiment zoo; write one of beyond_the_rainbow, c51, cleanrl_atari, "),
        ("optimizer.lr=abc", "optimizer.lr=abc is not a number; see dqn-train --help optimizer.lr"),
        ("-m seed=1,a", "seed=a is not a whole number; see dqn-train --help seed"),
        ("seed=null", "seed=null is not possible; write a value or leave it out"),
        ("loss=hubr", "loss=hubr is not one of mse, huber; did you mean huber?"),
        ("network.hidden=64", "network.hidden=64 has the wrong form; write network.hidden=[64,64]"),
        ("env.kwargs=[1]", "env.kwargs=[1] has the wrong form; write env.kwargs.x=1"),
        ("env.kwargs=3", "env.kwargs=3 has the wrong form; write env.kwargs.x=1"),
        ("env.kwargs={foo:1}", "env.kwargs.foo=1: CartPole-v1 has no such argument"),
        ("network.hidden=[[64]]", "network.hidden=[[64]] has the wrong form; write network.hidden=[64,64]"),
        ("network.hidden=[64,null]", "network.hidden=[64,null] has the wrong form; write network.hidden=[64,64]"),
        ("network.hidden=[65536,65536]", "network.hidden=[65536, 65536] makes 4,295,491,586 weights, 34.4 GB"),
        ("run.total_steps=1e13", "run.total_steps=10000000000000 is not in [1, 1000000000000]"),
        ("++x=1", "unknown setting x; see dqn-train --list settings"),
        (
            "variant=vdqn variant.target_every=10",
            "variant.target_every does nothing with variant=vdqn: it belongs to tdqn, ddqn; "
            "remove it or use one of those",
        ),
        ("env=gym", "env.id has no value; write env.id=..., such as CartPole-v1"),
        ("env=gym env.id=Taxi-v3", "env.id=Taxi-v3 is not registered; write env.id=Taxi-v4"),
        ("env=gym env.id=Pendulum-v1", "env.id=Pendulum-v1 has continuous actions"),
        ("optimizer.lr=${nope}", "optimizer.lr is wrong (Interpolation key 'nope' not found)"),
        ("variant=qlearning", "variant=qlearning needs one discrete observation, CartPole-v1 gives float32"),
        ("env=Taxi variant=qlearning run.updates_per_round=2", "run.updates_per_round does nothing with replay=online"),
        ("replay.capacity=1e12 run.total_steps=1e12", "replay.capacity=1000000000000 needs"),
        ("hydra/launcher=joblibb", "unknown hydra/launcher joblibb; did you mean joblib?"),
        ("hydra/launcher=submitit_slurm", "hydra/launcher=submitit_slurm is not installed; write pip install hydra-su"),
        ("hydra.run=3", "hydra.run=3 is wrong (Invalid type assigned: int is not a subclass of RunDir. value: 3); see"),
        ("--config-name x", "--config-name x is not in the search path"),
        ("hydra.foo=1", "unknown setting hydra.foo; see dqn-train --cfg hydra"),
    ],
)
def test_what_is_wrong_costs_one_line_and_leaves_nothing(line, message, trainer, capfd):
    code, told = refused(line.split(), capfd)
    assert told.startswith(message)
    assert code == 2
    assert trainer.runs == []


def test_exit_codes_before_a_run(trainer, capfd):
    assert refused(["init_from=nowhere"], capfd)[0] == CheckpointError.exit_code
    code, told = refused(["hydra.run.dir=/dev/null/x"], capfd)
    assert code == StorageError.exit_code
    assert told == "/dev/null/x: Not a directory; write another folder (hydra.run.dir, hydra.sweep.dir)"
    assert refused(["-m", "hydra.sweep.dir=/dev/null/x"], capfd)[0] == StorageError.exit_code


@pytest.mark.parametrize("kind", [CheckpointError, EnvironmentFault, NumericalError, StorageError])
def test_an_error_of_a_run_is_one_line_with_its_code(kind, trainer, capfd):
    def act(config, run_dir):
        raise kind("the reason")

    trainer.act = act
    assert train([]) == kind.exit_code
    assert capfd.readouterr().err == "dqn-train: error: the reason\n"


@pytest.mark.parametrize("kind", [CheckpointError, KeyboardInterrupt])
def test_a_run_that_never_began_leaves_no_folder(kind, trainer, tmp_path, monkeypatch):
    def act(config, run_dir):
        raise kind("device=cuda is not available here")

    trainer.act = act
    (tmp_path / "mine" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "here")
    for argv in ([], ["hydra.run.dir=a/b"], [f"hydra.run.dir={tmp_path}/other"]):
        assert train(argv) == (130 if kind is KeyboardInterrupt else 3)
    assert list(Path().iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_that_began_keeps_its_folder(trainer):
    def act(config, run_dir):
        (run_dir / "config.yaml").touch()
        raise NumericalError("the reason")

    trainer.act = act
    assert train(["hydra.run.dir=here"]) == 5
    assert sorted(path.name for path in Path("here").iterdir()) == ["config.yaml", "run.lock"]


def test_a_full_disk_is_no_bug(trainer, capfd):
    def act(config, run_dir):
        raise OSError(28, "No space left on device", "x.csv")

    trainer.act = act
    assert train([]) == StorageError.exit_code
    told = "dqn-train: error: cannot write x.csv: No space left on device; make room or choose another folder\n"
    assert capfd.readouterr().err == told


def test_a_signal_in_a_run_tells_where_it_was_saved(trainer, capfd):
    def act(config, run_dir):
        raise Interrupted("stopped at step 7, saved in x", code)

    trainer.act = act
    for code in (130, 75):
        assert train([]) == code
        assert capfd.readouterr().err == "dqn-train: stopped at step 7, saved in x\n"


def test_ctrl_c_before_a_run_can_save(trainer, capfd):
    def act(config, run_dir):
        raise KeyboardInterrupt

    trainer.act = act
    assert train([]) == 130
    assert capfd.readouterr().err == "dqn-train: stopped by Ctrl-C\n"


def test_a_bug_is_named_and_its_traceback_kept(trainer, capfd, monkeypatch):
    def act(config, run_dir):
        raise KeyError("x\ny")

    trainer.act = act
    assert train(["hydra.run.dir=here"]) == 1
    where = Path("here/traceback.txt").absolute()
    told = f"dqn-train: error: KeyError: 'x\\ny', which is a bug of dqn-cli; see {where}\n"
    assert capfd.readouterr().err == told
    assert "in act" in Path("here/traceback.txt").read_text()
    assert train(["hydra.run.dir=there"]) == 1
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert train(["hydra.run.dir=over"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_bug_before_a_run(trainer, capfd, monkeypatch):
    def broken(*_):
        raise RuntimeError("oh")

    monkeypatch.setattr(job, "load", broken)
    code, told = refused([], capfd)
    assert (code, told) == (
        1,
        "RuntimeError: oh, which is a bug of dqn-cli; set HYDRA_FULL_ERROR=1 to see its traceback",
    )


def test_nothing_of_the_process_is_changed(trainer):
    argv, environment = list(sys.argv), dict(os.environ)
    assert train(["seed=abc"]) == 2
    assert train([]) == 0
    assert (sys.argv, dict(os.environ)) == (argv, environment)


def test_the_composition_can_be_shown_without_running(trainer, capfd):
    assert train(["env=Taxi", "--cfg", "job", "seed=3"]) == 0
    out = capfd.readouterr().out
    assert "id: Taxi-v4" in out
    assert "seed: 3" in out
    assert train(["--info", "defaults"]) == 0
    assert "values/cartpole" in capfd.readouterr().out
    assert trainer.runs == []
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("line", "completion"),
    [
        ("env=Cart", "env=CartPole"),
        ("env=Po", "env=Pong env=Pooyan"),
        ("variant=q", "variant=qlearning"),
        ("optimizer.lr_s", "optimizer.lr_schedule="),
    ],
)
def test_shell_completion(line, completion, trainer, capfd, monkeypatch):
    monkeypatch.setenv("COMP_LINE", f"dqn-train {line}")
    monkeypatch.setenv("COMP_POINT", str(len(line) + 10))
    assert train(["-sc", "query=bash"]) == 0
    assert capfd.readouterr().out.split() == completion.split()


def test_a_users_own_configuration_folder(trainer, tmp_path):
    own = tmp_path / "own" / "env"
    own.mkdir(parents=True)
    (own / "Lake.yaml").write_text("# @package _global_\nenv: {id: FrozenLake-v1, kwargs: {is_slippery: false}}\n")
    assert train(["--config-dir", "own", "env=Lake"]) == 0
    ((config, folder, _),) = trainer.runs
    assert config.env.kwargs == {"is_slippery": False}
    assert folder.parts[-3] == "Lake"


def test_a_users_own_file_with_a_typo(trainer, tmp_path, capfd):
    own = tmp_path / "own" / "env"
    own.mkdir(parents=True)
    (own / "Lake.yaml").write_text("# @package _global_\nenv: {idd: FrozenLake-v1}\n")
    assert train(["--config-dir", "own", "env=Lake"]) == 2
    assert capfd.readouterr().err == "dqn-train: error: env/Lake: unknown setting env.idd; did you mean env.id?\n"


def test_every_user_error_has_a_code_of_its_own_meaning():
    codes = {cls.__name__: cls.exit_code for cls in UserError.__subclasses__()}
    assert codes["ConfigError"] == 2
    assert codes["Bug"] == 1


@pytest.fixture
def composed(monkeypatch, caplog):
    """How often Hydra has merged a configuration; with hydra.verbose it does so again, to show what it did."""
    caplog.set_level("WARNING", "hydra")
    caplog.set_level("WARNING")
    merged = []
    merge = ConfigLoaderImpl._compose_config_from_defaults_list

    def counting(self, **defaults):
        merged.append(defaults)
        return merge(self, **defaults)

    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", counting)
    return merged


def test_a_run_is_composed_once(trainer, composed):
    assert train(["env=Taxi", "variant=qlearning", "seed=7"]) == 0
    assert len(composed) == 1
    ((config, _, _),) = trainer.runs
    assert (config.env.id, config.seed) == ("Taxi-v4", 7)
    assert Hydra is hydra._internal.hydra.Hydra


def test_what_is_composed_once_is_what_hydra_composes(trainer, monkeypatch):
    seen = []

    def task(composed, asked=None):
        seen.append((OmegaConf.to_yaml(composed), OmegaConf.to_yaml(HydraConfig.get())))

    monkeypatch.setattr(job, "task", task)
    line = ["env=FrozenLake", "hydra.run.dir=here", "optimizer.lr=1e-3"]
    assert train(line) == 0
    monkeypatch.setattr(hydra_app, "ComposingOnce", Hydra)
    assert train(line) == 0
    once, twice = seen
    assert once == twice


def test_a_file_may_make_a_sweep_of_it(trainer, tmp_path):
    """As https://hydra.cc/docs/tutorials/basic/running_your_app/multi-run has it."""
    file = tmp_path / "more" / "experiment" / "seeds.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper: {params: {seed: '1,2'}}\n")
    assert train(["--config-dir", str(tmp_path / "more"), "experiment=seeds", "hydra.sweep.dir=sw"]) == 0
    assert [config.seed for config, _, _ in trainer.runs] == [1, 2]
