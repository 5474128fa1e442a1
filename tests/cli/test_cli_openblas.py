"""NumPy's own threads: none unless the user wants them, and said before NumPy is there to hear it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dqn_cli.cli import main


@pytest.mark.parametrize("given", [None, "3"])
@pytest.mark.parametrize("command", [main.train, main.evaluate, main.plan])
def test_one_thread_unless_the_user_says_otherwise(given, command, monkeypatch, capsys) -> None:
    environment = {name: word for name, word in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    monkeypatch.setattr(os, "environ", environment | ({} if given is None else {"OPENBLAS_NUM_THREADS": given}))
    command(["--version"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == (given or "1")


def test_the_entry_points_come_without_numpy() -> None:
    asked = "import sys, dqn_cli.cli.main; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
