"""An environment whose name has a folder: env=minatar/..."""

import csv
from importlib.util import find_spec

import pytest

from dqn_cli.cli.main import train

pytestmark = pytest.mark.skipif(find_spec("minatar") is None, reason="needs the extra minatar")


def test_the_folder_of_a_run(trainer, tmp_path):
    assert train(["env=minatar/Breakout", "seed=7"]) == 0
    ((config, folder, _),) = trainer.runs
    assert (config.env.name, config.env.id) == ("minatar", "MinAtar/Breakout")
    assert folder.resolve().parent == tmp_path / "runs" / "minatar-Breakout" / "ddqn"
    assert folder.name.startswith("s7_")


def test_a_sweep_over_games(trainer, tmp_path):
    assert train(["-m", "env=minatar/Breakout,minatar/Asterix,Breakout"]) == 0
    ids = [config.env.id for config, _, _ in trainer.runs]
    assert ids == ["MinAtar/Breakout", "MinAtar/Asterix", "ALE/Breakout-v5"]
    assert [folder.name for _, folder, _ in trainer.runs] == [
        "env-minatar-Breakout",
        "env-minatar-Asterix",
        "env-Breakout",
    ]
    (table,) = tmp_path.rglob("results.csv")
    with table.open() as file:
        assert [row["env"] for row in csv.DictReader(file)] == ["minatar/Breakout", "minatar/Asterix", "Breakout"]
