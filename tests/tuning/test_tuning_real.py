"""A search with real, tiny trainings: evaluations are told as they come, and what was stopped goes on bit for bit."""

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from dqn_cli.cli.main import tune
from dqn_cli.training.watchdog import Watchdog

SHORT = ["run.total_steps=2_000", "run.eval_every_steps=500", "run.eval_episodes=5", "run.checkpoint_every_steps=500"]
WORDS = ["env=FrozenLake", "variant=qlearning", "search=tabular", *SHORT, "exploration.over_steps=1000", "logger=csv"]


def journal(folder):
    lines = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    return [(line["step"], line["intermediate_value"]) for line in lines if "intermediate_value" in line]


def table(folder):
    return list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))


def test_a_search_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tune([*WORDS, "tune.trials=2", "tune.dir=whole"]) == 0
    told = journal(Path("whole"))
    assert [steps for steps, _ in told] == [500, 1_000, 1_500, 2_000] * 2
    beats = [0]
    beat = Watchdog.beat

    def interrupting(self):
        beats[0] += 1
        if beats[0] == 1_200:
            raise KeyboardInterrupt
        beat(self)

    with monkeypatch.context() as patched:
        patched.setattr(Watchdog, "beat", interrupting)
        assert tune([*WORDS, "tune.trials=2", "tune.dir=cut"]) == 130
    assert tune([*WORDS, "tune.trials=2", "tune.dir=cut"]) == 0
    assert "trial 0 goes on" in capsys.readouterr().out
    assert journal(Path("cut")) == told
    whole, cut = table(Path("whole")), table(Path("cut"))
    assert [row["attempts"] for row in cut] == ["2", "1"]
    assert [row["return_mean"] for row in cut] == [row["return_mean"] for row in whole]
    for name in ("metrics.csv", "episodes.csv"):
        files = [Path(folder, "trials/0000/seed-0", name).read_bytes() for folder in ("whole", "cut")]
        assert files[0] == files[1]
    assert "resumed" not in Path("whole/trials/0000/seed-0/output.txt").read_text()
