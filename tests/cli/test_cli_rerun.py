"""`rerun=`: which runs are made once more, configured how, and what is said about their likeness."""

import json
import re
from pathlib import Path

import pytest
from fake_runs import CONFIG, leave

from dqn_cli.cli import main
from dqn_cli.cli.main import train
from dqn_cli.training import manifest
from dqn_cli.training.manifest import add_to_manifest, write_manifest
from dqn_cli.validate import plain, typed

CLEAN = {"commit": "c0ffee", "dirty": False}


@pytest.fixture(autouse=True)
def _source(monkeypatch):
    monkeypatch.setattr(manifest, "source", lambda: CLEAN)


def write(folder, config=CONFIG, overrides=("env=CartPole", "seed=0"), **facts):
    """A run folder, of which only the manifest is looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"device": "cpu", "threads": 1} | facts
    write_manifest(folder, ["dqn-train", *overrides], [*overrides], config=plain(config), **facts)


def edit(folder, **changes):
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(data | changes))


@pytest.fixture
def run(trainer, tmp_path):
    write(tmp_path / "runs" / "x")
    return tmp_path / "runs" / "x"


def refused(words, capfd, code=2):
    """The one line of a refusal that makes nothing and trains nothing."""
    before = {*Path().rglob("*")}
    assert train(words) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert {*Path().rglob("*")} == before
    return err.removeprefix("dqn-train: error: ").strip()


def test_the_same_run_into_a_new_folder(run, trainer, capfd, tmp_path):
    assert train(["rerun=runs/x"]) == 0
    ((config, folder, rest),) = trainer.runs
    assert config == CONFIG
    assert re.fullmatch(r"runs/CartPole/ddqn/s0_\d{8}-\d{6}-\d{6}", str(folder.relative_to(tmp_path)))
    command = ["dqn-train", "rerun=runs/x"]
    assert rest == {"overrides": ["env=CartPole", "seed=0"], "command": command, "resume": None}
    out, err = capfd.readouterr()
    assert out.splitlines() == ["rerun      of runs/x, bit for bit", "final 10.0"]
    assert err == ""


def test_todays_defaults_do_not_count(trainer, tmp_path):
    other = typed(plain(CONFIG) | {"discount": 0.5, "network": {"name": "mlp", "hidden": [3]}})
    write(tmp_path / "x", other)
    assert train(["rerun=x", "hydra.run.dir=y"]) == 0
    assert trainer.runs[0][:2] == (other, tmp_path / "y")


def test_what_is_typed_is_changed_and_named(run, trainer, capfd, tmp_path):
    assert train(["seed=1", "rerun=runs/x", "network.hidden=[8]", "discount=0.99"]) == 0
    ((config, folder, rest),) = trainer.runs
    assert (config.seed, config.network.hidden) == (1, [8])
    assert config == typed(plain(CONFIG) | {"seed": 1, "network": plain(CONFIG)["network"] | {"hidden": [8]}})
    assert folder.name.startswith("s1_")
    assert rest["overrides"] == ["env=CartPole", "seed=1", "network.hidden=[8]", "discount=0.99"]
    assert rest["command"] == ["dqn-train", "rerun=runs/x", "seed=1", "network.hidden=[8]", "discount=0.99"]
    assert "rerun      of runs/x with network.hidden=[8] seed=1\n" in capfd.readouterr().out


def test_a_shorter_run_is_clipped_as_any_other(run, trainer, capfd):
    assert train(["rerun=runs/x", "run.total_steps=6000"]) == 0
    assert trainer.runs[0][0].exploration.over_steps == 6_000
    assert "note: exploration.over_steps=6000 instead of 10000" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "env", "folder"),
    [
        ([], "CartPole-v1", "CartPole/ddqn"),
        (["env=gym", "env.id=CartPole-v1"], "CartPole-v1", "CartPole-v1/ddqn"),
        (["env=FrozenLake8x8"], "FrozenLake-v1", "FrozenLake8x8/ddqn"),
        (["experiment=rainbow", "env=../../x"], "Acrobot-v1", "Acrobot/rainbow"),
        (["experiment=../x", 3], "CartPole-v0", "CartPole-v0/ddqn"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_the_new_folder_is_named_as_ever(overrides, env, folder, trainer, tmp_path):
    write(tmp_path / "x", typed(plain(CONFIG) | {"env": plain(CONFIG)["env"] | {"id": env}}))
    edit(tmp_path / "x", overrides=overrides)
    assert train(["rerun=x"]) == 0
    assert str(trainer.runs[0][1].parent.relative_to(tmp_path)) == f"runs/{folder}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rerun", "rerun has no value; write rerun=<run folder>"),
        ("rerun=", "rerun has no value; write rerun=<run folder>"),
        ("rerun=a rerun=b", "rerun is given twice, by rerun=a and rerun=b; write one of them"),
        ("rerum=x", "unknown setting rerum; did you mean rerun?"),
        (
            "rerun=runs/x resume=y",
            "resume=y and rerun=runs/x cannot both be had: a run goes on, or is made once more; ",
        ),
        ("-m rerun=runs/x seed=1", "rerun=runs/x makes one run; remove -m, or write the command of the run with it"),
        ("rerun=runs/x --cfg job", "--cfg cannot be used with rerun=runs/x; remove one of them"),
        ("rerun=runs/x env=Taxi", "rerun=runs/x makes the choices of its run again; remove env=Taxi"),
        ("rerun=runs/x ablate=each", "rerun=runs/x makes the choices of its run again; remove ablate=each"),
        ("rerun=runs/x hydra.sweep.dir=y", "hydra.sweep.dir=y does nothing with rerun=runs/x, or stands there twice; "),
        ("rerun=runs/x hydra.run.dir=a hydra.run.dir=b", "hydra.run.dir=b does nothing with rerun=runs/x, or stands"),
        ("rerun=runs/x hydra.run.dir=a,b", "hydra.run.dir=a,b is not the name of a folder; write it out"),
        ("rerun=runs/x hydra.run.dir=${oc.env:HOME}", "hydra.run.dir=${oc.env:HOME} is not the name of a folder; "),
        ("rerun=runs/x hydra.run.dir=runs/x", "hydra.run.dir=runs/x already holds a run, stopped before its first"),
        ("rerun=runs/x seed=1,2", "seed=1,2 lists several values, rerun=runs/x makes one run; write one value"),
        ("rerun=runs/x sed=1", "unknown setting sed; did you mean seed?"),
        ("rerun=runs/x seed=x", "seed=x is not a whole number; see dqn-train --help seed"),
        ("rerun=runs/x run.update_every_steps=1e6", "run.total_steps=50000 ends before the first update"),
        ("rerun=runs/x replay.alpha=0.5", "replay.alpha does nothing with replay=uniform: it belongs to prioritized; "),
    ],
)
def test_what_a_run_that_is_made_again_does_not_take(line, message, run, trainer, capfd):
    assert refused(line.split(), capfd).startswith(message)
    assert trainer.runs == []


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "rerun=nowhere does not exist; write a run folder of dqn-train"),
        ("empty", "rerun=empty holds no run; write a run folder of dqn-train"),
        (
            "sw",
            "rerun=sw is a sweep; write its own command again with another hydra.sweep.dir, "
            "or the folder of one of its jobs",
        ),
        ("y/checkpoints/step-000010000", "rerun=y/checkpoints/step-000010000 is a checkpoint; write its run: rerun=y"),
    ],
)
def test_folders_that_hold_no_run(folder, message, trainer, tmp_path, capfd):
    leave(tmp_path / "y", CONFIG, 10_000)
    for path in ("empty", "sw"):
        Path(path).mkdir()
    Path("sw/jobs.json").touch()
    assert refused([f"rerun={folder}"], capfd, 3) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "does not say how its run was configured; write the settings themselves"),
        ([], "does not say how its run was configured; write the settings themselves"),
        ({"env": {"name": "gym"}}, "not a run's configuration: network=None is not a choice"),
        (plain(CONFIG) | {"device": "${oc.env:HOME}"}, "device=${oc.env:HOME} would be evaluated"),
        (plain(CONFIG) | {"env": {"name": "gym", "id": "os:X-v0"}}, "env.id=os:X-v0 would import a module"),
    ],
)
def test_manifests_that_cannot_be_used(config, message, run, trainer, capfd):
    edit(run, config=config)
    assert message in refused(["rerun=runs/x"], capfd, 3)


def test_a_module_is_imported_only_where_the_user_writes_it(trainer, tmp_path, capfd, monkeypatch):
    code = "import gymnasium as g\ng.register('Own-v0', g.spec('CartPole-v1').entry_point)\n"
    (tmp_path / "rerun_mod.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    env = plain(CONFIG)["env"] | {"id": "Own-v0", "module": "rerun_mod", "time_limit_steps": 50}
    write(tmp_path / "x", typed(plain(CONFIG) | {"env": env}))
    told = refused(["rerun=x"], capfd)
    assert (
        told == "the run's environment comes from the module 'rerun_mod'; if you trust it, write env.module=rerun_mod"
    )
    assert train(["rerun=x", "env.module=rerun_mod"]) == 0
    assert "rerun      of x, bit for bit\n" in capfd.readouterr().out


def test_dqn_plan_does_not_know_the_word(run, trainer, capfd):
    assert main.plan(["rerun=runs/x"]) == 2
    assert capfd.readouterr().err == "dqn-plan: error: rerun=runs/x: rerun is a word of dqn-train alone; remove it\n"


# what differs


def notes(capfd):
    *lines, last, _ = capfd.readouterr().out.splitlines()
    return [line.removeprefix("note: ") for line in lines], last.partition("x, ")[2]


def test_each_thing_that_differs_has_a_line(run, trainer, capfd):
    stored = json.loads((run / "manifest.json").read_text())
    hardware = stored["hardware"] | {"cpu": "A CPU\x1b[2J", "device": "cuda"}
    versions = stored["versions"] | {"torch": "1.0", "stranger": "9"}
    edit(run, versions=versions, hardware=hardware, threads=4, source={"commit": "beef" * 10, "dirty": True})
    assert train(["rerun=runs/x"]) == 0
    here = stored["versions"]["torch"], stored["hardware"]["cpu"][:80]
    assert notes(capfd) == (
        [
            f"torch was 1.0, is {here[0]}",
            f"the CPU was A CPU[2J, is {here[1]}",
            "the device was cuda, is cpu",
            "threads was 4, is 1",
            "the git commit was beefbeefbeef, is c0ffee",
            "the run's code had changes that no commit has",
        ],
        "perhaps not bit for bit",
    )


def test_changes_here_are_told_too(run, trainer, capfd, monkeypatch):
    monkeypatch.setattr(manifest, "source", lambda: CLEAN | {"dirty": True})
    assert train(["rerun=runs/x"]) == 0
    assert notes(capfd) == (["the code here has changes that no commit has"], "perhaps not bit for bit")


def test_an_installed_copy_has_no_commit(run, trainer, capfd, monkeypatch):
    monkeypatch.setattr(manifest, "source", lambda: None)
    edit(run, source=None)
    assert train(["rerun=runs/x"]) == 0
    assert notes(capfd) == ([], "bit for bit")


@pytest.mark.parametrize("facts", [{"versions": 3, "hardware": [], "threads": None, "source": "x", "resumed": 7}])
def test_a_manifest_that_tells_nothing(facts, run, trainer, capfd):
    edit(run, **facts)
    assert train(["rerun=runs/x"]) == 0
    lines, likeness = notes(capfd)
    assert lines[0].startswith("dqn-cli was None, is ")
    assert lines[-1] == "the git commit was unknown, is c0ffee"
    assert likeness == "perhaps not bit for bit"


def test_a_run_that_was_stopped_is_told_where_it_went_on_otherwise(run, trainer, capfd):
    facts = {"config": plain(CONFIG), "device": "cpu", "threads": 1}
    add_to_manifest(run, ["dqn-train", "resume=runs/x"], step=100, **facts)
    assert train(["rerun=runs/x"]) == 0
    assert notes(capfd) == ([], "bit for bit")
    add_to_manifest(run, ["dqn-train", "resume=runs/x", "run.total_steps=50000"], step=200, **facts)
    add_to_manifest(run, ["dqn-train", "env=CartPole", "seed=0"], step=300, **facts | {"threads": 2})
    assert train(["rerun=runs/x"]) == 0
    assert notes(capfd) == (
        [
            "the run was resumed at step 200 with run.total_steps=50000: its last settings hold from the start here",
            "the run was resumed at step 300 elsewhere: threads 1 -> 2",
        ],
        "perhaps not bit for bit",
    )


def test_weights_that_are_read_again(trainer, tmp_path, capfd):
    write(tmp_path / "x", typed(plain(CONFIG) | {"init_from": "weights"}))
    assert "init_from=weights does not exist" in refused(["rerun=x"], capfd, 3)
    Path("weights").mkdir()
    assert train(["rerun=x"]) == 0
    told = ["init_from=weights: its weights are read again, as they are now"]
    assert notes(capfd) == (told, "perhaps not bit for bit")
