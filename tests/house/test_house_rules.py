"""Lint, types and the direction of imports are tests like all others."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "dqn_cli").rglob("*.py"))


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy"],
        ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    ],
    ids=["ruff", "format", "mypy", "imports"],
)
def test_the_tree_is_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


FORBIDDEN_CALLS = {"eval", "exec", "instantiate"}
FORBIDDEN_NAMES = {("torch", "load"), ("torch", "save"), ("yaml", "load"), ("numpy", "load"), ("np", "load")}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_nothing_that_is_read_back_can_execute_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] not in {"pickle", "marshal", "shelve"} for alias in node.names)
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                assert function.id not in FORBIDDEN_CALLS
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                assert (function.value.id, function.attr) not in FORBIDDEN_NAMES


def test_cuda_is_spelt_in_one_file() -> None:
    spelling = [path.name for path in PACKAGE if "cuda" in path.read_text()]
    assert sorted(spelling) == ["config.py", "device.py"]  # config: the help text of the setting


def test_the_changelog_names_the_current_version() -> None:
    from dqn_cli import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_readme_explains_every_metric() -> None:
    from dqn_cli.training.metrics import glossary

    readme = (ROOT / "README.md").read_text()
    for name, text in glossary():
        assert f"| `{name}` | {text} |" in readme


def test_the_readme_names_every_choice_and_every_preset() -> None:
    readme = (ROOT / "README.md").read_text()
    for group in ("env", "variant", "experiment"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            if "/schema/env@env: atari" in path.read_text():
                continue  # 104 games, which `dqn-train --list envs` names
            assert f"`{path.stem}" in readme, f"{group}={path.stem}"


def test_everything_that_the_readme_links_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert "docs/video.png" in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
