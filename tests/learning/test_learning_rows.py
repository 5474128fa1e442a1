"""The shipped settings against known answers; `scripts/learning` does the same on more seeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "learning"
ROWS = [
    "cartpole-tdqn",
    "cartpole-ddqn",
    "frozenlake-qlearning",
    "frozenlake-tdqn",
    "frozenlake-ddqn",
    "deterministic-qlearning",
    "deterministic-tdqn",
    "deterministic-ddqn",
    "taxi",
    "cliffwalking",
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_learnt(row: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, row, "--seeds", "0", "--jobs", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
