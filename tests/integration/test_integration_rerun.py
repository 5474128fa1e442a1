"""A run that is made once more leaves the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import DETERMINED

from dqn_cli.cli.main import train

SETTINGS = [
    "env=CartPole",
    "experiment=rainbow",
    "run.total_steps=300",
    "run.learning_starts_steps=50",
    "run.eval_every_steps=100",
    "run.eval_episodes=2",
    "run.log_every_steps=60",
    "run.checkpoint_every_steps=120",
    "network.hidden=[16]",
    "seed=3",
]


def left(folder: Path) -> dict[str, bytes]:
    """Every file that a run determines."""
    tables = ("config.yaml", "metrics.csv", "episodes.csv")
    found = {name: (folder / name).read_bytes() for name in tables}
    found |= {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "replay").rglob("*.*")}
    for path in (folder / "checkpoints").rglob("*"):
        if path.name in DETERMINED:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert train([*SETTINGS, "hydra.run.dir=a"]) == 0
    assert train(["rerun=a", "hydra.run.dir=b"]) == 0
    assert train(["rerun=b", "hydra.run.dir=c", "seed=4"]) == 0
    once, again, other = (left(Path(name)) for name in "abc")
    assert {Path(name).name for name in once} >= {"metrics.csv", "model.safetensors", "optimizer.safetensors"}
    assert sum(name.startswith("replay") for name in once) > 0
    assert again == once
    assert other["metrics.csv"] != once["metrics.csv"]
    assert "rerun      of b with seed=4\n" in capsys.readouterr().out
