import subprocess
import sys

import pytest

from dqn_cli import __version__
from dqn_cli.cli import help as texts
from dqn_cli.cli.main import train
from dqn_cli.cli.paths import choices
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
        assert set(choices(group)) <= set(words)
    assert set(texts.LISTS) <= set(words)


def test_every_setting_is_listed_with_its_default_and_range(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(["--list", "settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for key, owners in SETTINGS.items():
        for f in owners.values():
            assert any(line.startswith(f"{key} ") and f.metadata["text"] in line for line in lines)
    assert "optimizer.lr                  0.001 in (0, 10]  learning rate" in lines
    assert "loss                          huber of mse|huber  error per transition" in lines
    assert "optimizer.centered            false  subtract the squared average gradient (rmsprop)" in lines
    assert any(line.endswith("(tdqn, ddqn)") for line in lines)


@pytest.mark.parametrize("group", texts.GROUPS)
def test_every_choice_is_listed_with_what_it_is(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert train([f"--list={group}s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == choices(group)
    for name, line in zip(choices(group), lines, strict=True):
        if group in CHOICES:
            assert line.endswith(CHOICES[group][name].__doc__.splitlines()[0])
        assert len(line.split()) > 2


def test_help_for_a_setting_and_for_a_group(capsys):
    assert train(["--help", "optimizer.momentum"]) == 0
    line, _, *note = capsys.readouterr().out.splitlines()
    assert line == "optimizer.momentum            0.0 in [0, 1)  of the update (sgd)"
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
