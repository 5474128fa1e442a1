import subprocess
import sys

import pytest

from dqn_cli import __version__
from dqn_cli.cli import help as texts
from dqn_cli.cli.main import train
from dqn_cli.cli.paths import atari_games, choices, minatar_games
from dqn_cli.config import CHOICES
from dqn_cli.validate import SETTINGS


@pytest.mark.parametrize("columns", [1, 20, 60, 80, 200])
def test_help_fits_the_screen(columns):
    lines = texts.overview(columns).splitlines()
    assert max(map(len, lines)) <= max(columns, 60)  # the examples cannot be narrower
    assert len(lines) <= 24 or columns < 80


def test_help_names_every_choice_and_list(monkeypatch, capsys):
    assert train(["--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    for group in texts.GROUPS:
        assert f"{group}=" in words
        assert set(choices(group)) - atari_games() - minatar_games() <= set(words)
    assert set(texts.LISTS) <= set(words)


@pytest.mark.parametrize("argv", [["--help"], ["--help", "env"]])
def test_help_names_one_game_for_all(argv, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(argv) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("env= ")]
    others = "Acrobot CartPole CliffWalking FrozenLake FrozenLake8x8 LunarLander MountainCar Taxi gym"
    assert line == f"env=         {others}, minatar/Breakout ..., Pong ... (--list envs)"


def test_the_list_of_environments_ends_with_the_games(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(["--list", "envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    atari, minatar = lines[-104:], lines[-109:-104]
    assert all(" Atari 2600: " in line for line in atari)
    assert all(" MinAtar's " in line for line in minatar)
    assert [line.split()[0] for line in [*minatar, *atari]] == sorted(minatar_games()) + sorted(atari_games())


def test_a_setting_of_the_atari_games_says_so(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(["--help", "env.sticky"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("at every frame (Atari games)")


OTHERS = (
    "Acrobot, CartPole, CliffWalking, FrozenLake, FrozenLake8x8, LunarLander, MountainCar, Taxi, gym, "
    "minatar/Breakout ..., Pong ... (--list envs)"
)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("env=Brekout", "unknown env Brekout; did you mean Breakout?"),
        ("env=breakout", "unknown env breakout; did you mean Breakout?"),
        ("env=space_invaders", "unknown env space_invaders; did you mean SpaceInvaders?"),
        ("env=ALE/Breakout-v5", "unknown env ALE/Breakout-v5; did you mean Breakout?"),
        ("env=BreakoutNoFrameskip-v4", "unknown env BreakoutNoFrameskip-v4; did you mean Breakout?"),
        ("env=Qbert-ramDeterministic-v0", "unknown env Qbert-ramDeterministic-v0; did you mean Qbert?"),
        ("env=CartPole-v1", "unknown env CartPole-v1; did you mean CartPole?"),
        ("value=c51", "unknown value c51; did you mean categorical?"),
        ("value=qr-dqn", "unknown value qr-dqn; did you mean quantile?"),
        ("replay=per", "unknown replay per; did you mean prioritized?"),
        ("env=zzzz", f"unknown env zzzz; write one of {OTHERS}"),
        ("env=[a]", f"env=[a]: env takes one name; write one of {OTHERS}"),
        ("Pong", "Pong is not a setting; write env=Pong"),
        ("Breakout", "Breakout is not a setting; write env=Breakout"),
        ("minatar/freeway", "minatar/freeway is not a setting; write env=minatar/Freeway"),
        ("env=minatar/Breakot", "unknown env minatar/Breakot; did you mean minatar/Breakout?"),
        ("env=minatar/space_invaders", "unknown env minatar/space_invaders; did you mean minatar/SpaceInvaders?"),
        ("env=MinAtar/Breakout-v1", "unknown env MinAtar/Breakout-v1; did you mean minatar/Breakout?"),
        (
            "env=minatar",
            "env=minatar is not complete; write one of minatar/Asterix, minatar/Breakout, minatar/Freeway, "
            "minatar/Seaquest, minatar/SpaceInvaders",
        ),
        (
            "experiment=nature env=minatar/Breakout",
            "experiment/nature is a preset for Atari games; leave out env=... or write one of those (--list envs)",
        ),
        *(
            (
                f"experiment=minatar_dqn env={env}",
                "experiment/minatar_dqn is a preset for MinAtar's games; leave out env=... or write one of those "
                "(--list envs)",
            )
            for env in ("CartPole", "Pong")
        ),
        (
            "experiment=nature env=CartPole",
            "experiment/nature is a preset for Atari games; leave out env=... or write one of those (--list envs)",
        ),
        (
            "experiment=zoo_cartpole env=Pong",
            "experiment/zoo_cartpole is a preset for other environments; leave out env=... or write one of those "
            "(--list envs)",
        ),
    ],
)
def test_an_environment_that_cannot_be_meant_is_told_in_one_line(argv, message, capsys, trainer):
    assert train(argv.split()) == 2
    assert capsys.readouterr().err == f"dqn-train: error: {message}\n"
    assert trainer.runs == []


def test_a_preset_of_the_users_own_that_does_not_fit_is_told_in_one_line(capsys, trainer, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer:\n  momentum: 0.9\n")
    assert train(["--config-dir", str(tmp_path), "experiment=mine"]) == 2
    assert capsys.readouterr().err == (
        "dqn-train: error: experiment/mine: optimizer.momentum does nothing with optimizer=adam: it belongs to "
        "rmsprop, sgd; remove it or use one of those\n"
    )


def test_every_setting_is_listed_with_its_default_and_range(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(["--list", "settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for key, owners in SETTINGS.items():
        for f in owners.values():
            assert any(line.startswith(f"{key} ") and f.metadata["text"] in line for line in lines)
    assert "optimizer.lr                  0.001 in (0, 10]  learning rate" in lines
    assert "loss                          huber of mse|huber  error per transition, with value=scalar" in lines
    assert "optimizer.centered            false  subtract the squared average gradient (rmsprop)" in lines
    assert any(line.endswith("(tdqn, ddqn)") for line in lines)


@pytest.mark.parametrize("group", texts.GROUPS)
def test_every_choice_is_listed_with_what_it_is(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train([f"--list={group}s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == choices(group)
    for name, line in zip(choices(group), lines, strict=True):
        if group in CHOICES and group != "env":
            assert line.endswith(CHOICES[group][name].__doc__.splitlines()[0])
        assert len(line.split()) > 2


def test_help_for_a_setting_and_for_a_group(capsys):
    assert train(["--help", "optimizer.momentum"]) == 0
    line, _, *note = capsys.readouterr().out.splitlines()
    assert line == "optimizer.momentum            0.0 in [0, 1)  of the update (rmsprop, sgd)"
    assert note[0].startswith("Default, what is possible, meaning.")
    assert train(["--help", "optimizer"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("optimizer=   adam rmsprop rmsprop_nature sgd\noptimizer.lr ")
    assert "run." not in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--list"], "--list is not a list; write one of envs, variants,"),
        (["--list", "env"], "--list env is not a list; did you mean envs?"),
        (["--help", "sede"], "unknown setting sede; did you mean seed?"),
    ],
)
def test_what_is_not_there_is_told(argv, message, capsys):
    assert train(argv) == 2
    assert capsys.readouterr().err.startswith(f"dqn-train: error: {message}")


def test_version(capsys):
    assert train(["--version"]) == 0
    assert capsys.readouterr().out == f"dqn-train {__version__}\n"


def test_help_is_quick_and_imports_neither_hydra_nor_torch_nor_gymnasium():
    code = """
import sys, time
from dqn_cli.cli.main import train
for argv in (["--help"], ["--version"], ["--list", "settings"], ["--list", "envs"], ["--help", "run"]):
    assert train(argv) == 0
assert train(["--help", "sede"]) == 2
assert not {"torch", "hydra", "gymnasium"} & set(sys.modules)
assert time.process_time() < 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
