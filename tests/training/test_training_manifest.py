import errno
import json
import shutil
import socket
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import dqn_cli
from dqn_cli.errors import StorageError
from dqn_cli.training import manifest
from dqn_cli.training.manifest import (
    add_to_manifest,
    read_manifest,
    source,
    versions,
    write_config,
    write_manifest,
)

git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def write(folder: Path, **more) -> dict:
    write_manifest(folder, ["dqn-train", "seed=3"], ["seed=3"], config={"seed": 3}, **more)
    return json.loads((folder / "manifest.json").read_text())


def test_manifest_says_what_a_run_was_made_of(tmp_path):
    found = write(tmp_path, device="cpu", threads=1)
    assert found["command"] == ["dqn-train", "seed=3"]
    assert (found["seed"], found["threads"], found["hardware"]["device"]) == (3, 1, "cpu")
    assert found["versions"]["dqn-cli"] == dqn_cli.__version__
    assert all(found["versions"][name] for name in ("python", "torch", "numpy", "gymnasium", "ale-py", "hydra-core"))
    assert found["hardware"]["memory_bytes"] > 1 << 20
    assert found["hardware"]["logical_cores"] >= 1
    assert datetime.fromisoformat(found["started"]).utcoffset().total_seconds() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_manifest_does_not_name_the_host(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    monkeypatch.setattr(manifest.platform, "node", lambda: "secret-host")
    write(tmp_path)
    assert "secret-host" not in (tmp_path / "manifest.json").read_text()


def test_a_missing_package_is_null(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("no-such-package-anywhere",))
    assert versions()["no-such-package-anywhere"] is None


def checkout(folder: Path) -> Path:
    package = folder / "dqn_cli"
    package.mkdir(parents=True)
    (folder / "conf").mkdir()
    for path in (package / "__init__.py", folder / "conf" / "train.yaml", folder / "notes"):
        path.write_text("")
    run_git(folder, "init", "-q")
    run_git(folder, "add", "dqn_cli", "conf")
    run_git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return package


def run_git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout


@git
@pytest.mark.parametrize(
    ("changed", "dirty"), [("notes", False), ("dqn_cli/new.py", True), ("dqn_cli/__init__.py", True), ("conf/a", True)]
)
def test_commit_of_the_checkout(tmp_path, monkeypatch, changed, dirty):
    package = checkout(tmp_path)
    monkeypatch.setattr(dqn_cli, "__file__", str(package / "__init__.py"))
    commit = run_git(tmp_path, "rev-parse", "HEAD").strip()
    assert source() == {"commit": commit, "dirty": False}
    (tmp_path / changed).write_text("x")
    assert source() == {"commit": commit, "dirty": dirty}


@git
def test_an_installed_copy_below_another_repository_has_no_commit(tmp_path, monkeypatch):
    checkout(tmp_path)
    installed = tmp_path / ".venv" / "dqn_cli"
    shutil.copytree(tmp_path / "dqn_cli", installed)
    monkeypatch.setattr(dqn_cli, "__file__", str(installed / "__init__.py"))
    assert source() is None


def test_no_git_is_no_reason_to_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert write(tmp_path)["source"] is None


def test_config_is_plain_yaml_with_strings_as_they_are(tmp_path):
    config = {"env": {"id": "CartPole-v1"}, "network": {"hidden": [64, 64]}, "init_from": None, "note": "1e3"}
    write_config(tmp_path, config)
    text = (tmp_path / "config.yaml").read_text()
    assert OmegaConf.to_container(OmegaConf.create(text)) == config
    assert text.startswith("env:\n  id: CartPole-v1\n")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, name):
    def full(self, *arguments, **options):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=rf"{name}.*No space left"):
        write_config(tmp_path, {}) if name == "config.yaml" else write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_adds_to_the_manifest(tmp_path):
    before = write(tmp_path)
    for step in (100, 200):
        facts = {"config": {"seed": 3, "at": step}, "device": "cpu", "threads": 2}
        add_to_manifest(tmp_path, ["dqn-train", "resume=x"], step=step, **facts)
    found = read_manifest(tmp_path)
    assert {name: found[name] for name in before} == before | {"config": {"seed": 3, "at": 200}}
    assert [entry["step"] for entry in found["resumed"]] == [100, 200]
    assert found["resumed"][0]["hardware"]["device"] == "cpu"


@pytest.mark.parametrize("text", ["{", "[]", '{"resumed": 3}'])
def test_a_manifest_that_cannot_be_read_begins_anew(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    add_to_manifest(tmp_path, ["dqn-train"], step=1, config={"seed": 3}, device="cpu", threads=1)
    assert [entry["step"] for entry in read_manifest(tmp_path)["resumed"]] == [1]
