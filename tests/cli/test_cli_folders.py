"""`--config-dir` and DQN_CONFIG_PATH: a user's own configuration files beside ours."""

import os

import pytest

from dqn_cli.cli import main, paths
from dqn_cli.cli.main import train

LAKE = """\
# @package _global_
# A lake that does not slip.
defaults:
  - override /family: frozenlake
  - _self_
env: {id: FrozenLake-v1, kwargs: {is_slippery: false}}
"""
SMALL = "defaults:\n  - /schema/network@_here_: mlp\nhidden: [7]\n"
PRESET = "# @package _global_\n# All my own.\ndefaults:\n  - override /env: Lake\n  - _self_\nseed: 9\n"


def lay(folder, **files):
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.delenv("DQN_CONFIG_PATH", raising=False)
    yield
    paths._own.clear()


@pytest.fixture
def own(trainer, tmp_path):
    lay(tmp_path / "own", env__Lake=LAKE, network__small=SMALL)
    lay(tmp_path / "more", experiment__mine=PRESET)
    return tmp_path


FLAGS = (["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"])


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("first", [True, False])
def test_a_folder_is_named_on_the_command_line(flags, first, own, trainer):
    words = ["env=Lake", "network=small"]
    assert train([*flags, *words] if first else [*words, *flags]) == 0
    ((config, folder, _),) = trainer.runs
    assert config.env.kwargs == {"is_slippery": False}
    assert config.network.hidden == [7]
    assert folder.parts[-3] == "Lake"
    assert config.run.total_steps == 100_000  # of frozenlake's values: ours are still there


@pytest.mark.parametrize("how", ["flags", "variable", "both", "empty parts"])
def test_several_folders(how, own, trainer, monkeypatch):
    flags = [] if how in ("variable", "empty parts") else ["--config-dir", "own"]
    if how == "flags":
        flags += ["--config-dir", "more"]
    else:
        texts = {
            "variable": ["own", str(own / "more")],
            "both": ["more", "own"],
            "empty parts": ["", "own", "", "more"],
        }
        monkeypatch.setenv("DQN_CONFIG_PATH", os.pathsep.join(texts[how]))
    assert train([*flags, "experiment=mine", "network=small"]) == 0
    ((config, folder, _),) = trainer.runs
    assert (config.env.kwargs, config.seed, config.network.hidden) == ({"is_slippery": False}, 9, [7])
    assert folder.parts[-3:-1] == ("Lake", "mine")


def test_a_command_forgets_the_folders_of_the_one_before(own, trainer, capfd):
    assert train(["--config-dir", "own", "env=Lake"]) == 0
    assert train(["env=Lake"]) == 2
    assert "unknown env Lake" in capfd.readouterr().err


def test_a_sweep(own, trainer):
    assert train(["--config-dir", "own", "-m", "env=Lake,CartPole", "network=small", "hydra.sweep.dir=sw"]) == 0
    assert [config.env.id for config, _, _ in trainer.runs] == ["FrozenLake-v1", "CartPole-v1"]


def test_lists_help_and_suggestions(own, trainer, capfd, monkeypatch):
    monkeypatch.setenv("DQN_CONFIG_PATH", os.pathsep.join(["own", "more"]))

    def said(*words, code=0):
        assert train([*words]) == code
        out, err = capfd.readouterr()
        return out + err

    lines = [line.split(maxsplit=1) for line in said("--list", "envs").splitlines()]
    assert ["Lake", "A lake that does not slip."] in lines
    assert any(line.split() == ["small"] for line in said("--list", "networks").splitlines())
    assert any(line.split() == ["mine", "All", "my", "own."] for line in said("--list", "experiments").splitlines())
    assert "Lake" in said("--help").split()
    assert " small" in said("--help", "network")
    assert said("env=Lak", code=2).endswith("unknown env Lak; did you mean Lake?\n")
    assert said("network=smal", code=2).endswith("did you mean small?\n")
    assert said("mine", code=2).endswith("mine is not a setting; write experiment=mine\n")
    assert trainer.runs == []


def test_dqn_plan(own, trainer, capfd):
    assert main.plan(["--config-dir", "own", "--no-probe", "env=Lake", "network=small"]) == 0
    out = capfd.readouterr().out
    assert "network.hidden=[7]" in out
    assert "network/small" in out  # where it comes from
    assert main.plan(["--config-dir", "own", "--list", "envs"]) == 0
    assert "Lake " in capfd.readouterr().out


@pytest.mark.parametrize("how", ["flag", "variable"])
@pytest.mark.parametrize(("word", "completion"), [("env=La", "env=Lake"), ("network=s", "network=small")])
def test_completion(how, word, completion, own, trainer, capfd, monkeypatch):
    line = f"dqn-train --config-dir own {word}" if how == "flag" else f"dqn-train {word}"
    if how == "variable":
        monkeypatch.setenv("DQN_CONFIG_PATH", "own")
    monkeypatch.setenv("COMP_LINE", line)
    assert train(["-sc", "query=bash"]) == 0
    found = capfd.readouterr().out.split()
    assert completion in found
    assert all(name.startswith(word) for name in found)


@pytest.mark.parametrize("line", ["dqn-train --config-dir", "dqn-train --config-dir ow", "dqn-train --config-dir ow "])
def test_completion_of_what_is_not_there_yet_is_silent(line, own, trainer, capfd, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    train(["-sc", "query=bash"])
    assert "not a folder" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("words", "variable", "message"),
    [
        (["--config-dir"], "", "--config-dir has no value; write --config-dir <folder>"),
        (["--config-dir="], "", "--config-dir= has no value; write --config-dir <folder>"),
        (["--config-dir", "nowhere"], "", "--config-dir nowhere is not a folder; write one with files such as"),
        ([], "nowhere", "DQN_CONFIG_PATH=nowhere is not a folder; write one with files such as env/MyEnv.yaml"),
        (["--config-dir", "."], "", "--config-dir . has no file that is looked for, such as env/MyEnv.yaml or"),
        (["--config-dir", "same"], "", "--config-dir same: env/CartPole.yaml is never read, dqn-cli has one too; give"),
        (["--config-dir", "own"], "twin", "DQN_CONFIG_PATH=twin: env/Lake.yaml is never read, "),
    ],
)
def test_folders_that_would_do_nothing(words, variable, message, own, trainer, capfd, monkeypatch):
    lay(own / "same", env__CartPole=LAKE)
    lay(own / "twin", env__Lake=LAKE)
    monkeypatch.setenv("DQN_CONFIG_PATH", variable)
    assert train(["env=Taxi", *words]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"dqn-train: error: {message}")
    assert err.count("\n") == 1
    assert trainer.runs == []
