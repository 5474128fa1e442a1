"""What a run was made of: `config.yaml` and `manifest.json` (command, versions, commit, hardware, seed)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

import dqn_cli
from dqn_cli.errors import CheckpointError, writing
from dqn_cli.files import read_bytes
from dqn_cli.training.untrusted import strict_json

MANIFEST, MAX_BYTES = "manifest.json", 1 << 24
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "hydra-core", "omegaconf")


def write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Write `config.yaml`, the resolved configuration, from plain data. Raises `StorageError`."""
    _write(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def write_manifest(
    run_dir: Path,
    command: list[str],
    overrides: list[str],
    *,
    config: Mapping[str, Any],
    device: str | None = None,
    threads: int | None = None,
) -> None:
    """Write `manifest.json`; what cannot be found out is null. Raises `StorageError`.

    `config` is the resolved configuration, from which a run without a checkpoint starts again; `device` the name of
    the device that computes, `threads` the number of torch's threads.
    """
    manifest = {
        "command": command,
        "overrides": overrides,
        "seed": config["seed"],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": source(),
        "hardware": {**hardware(), "device": device},
        "threads": threads,
        "config": config,
    }
    _write(run_dir / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def add_to_manifest(
    run_dir: Path, command: list[str], *, step: int, config: Mapping[str, Any], device: str, threads: int
) -> None:
    """Note that the run was resumed at `step`, and with what. A manifest that cannot be read begins anew."""
    try:
        manifest = read_manifest(run_dir)
    except CheckpointError:
        manifest = {}
    earlier = manifest.get("resumed")
    resumed = {
        "step": step,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": {**hardware(), "device": device},
        "threads": threads,
    }
    manifest |= {"config": config, "resumed": [*(earlier if isinstance(earlier, list) else []), resumed]}
    _write(run_dir / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """A run's manifest, as plain data that nobody vouches for. Raises `CheckpointError`."""
    path = run_dir / MANIFEST
    return strict_json(path, read_bytes(path, MAX_BYTES))


def otherwise(manifest: Mapping[str, Any], device: str, threads: int) -> list[str]:
    """What is not here as it was for the run of this manifest, which nobody vouches for: a line each.

    Versions, processor, device, torch's threads, and the code as far as git tells. `device` and `threads` are those of
    here. Then the stops of a run that went on in another way than it began.
    """
    now = {"versions": versions(), "hardware": {**hardware(), "device": device}, "threads": threads}
    changed = [f"{name} was {before}, is {after}" for name, before, after in _changes(manifest, now)]
    return [*changed, *_code(_dict(manifest.get("source")), source() or {}), *_stops(manifest)]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    old, new = _circumstances(before), _circumstances(now)
    yield from ((name, old.get(name, "not told"), value) for name, value in new.items() if old.get(name) != value)


def _circumstances(data: Mapping[str, Any]) -> dict[str, str]:
    found, machine = _dict(data.get("versions")), _dict(data.get("hardware"))
    known = {name: found.get(name) for name in ("dqn-cli", "python", *PACKAGES)}  # others would be a stranger's
    own = {"the CPU": machine.get("cpu"), "the device": machine.get("device"), "threads": data.get("threads")}
    return {name: _printable(value) for name, value in {**known, **own}.items()}


def _code(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    commits = [_printable(source.get("commit") or "unknown", 12) for source in (before, now)]
    if commits[0] != commits[1]:
        yield f"the git commit was {commits[0]}, is {commits[1]}"
    if before.get("dirty"):
        yield "the run's code had changes that no commit has"
    if now.get("dirty"):
        yield "the code here has changes that no commit has"


def _stops(manifest: Mapping[str, Any]) -> Iterator[str]:
    stops, began = manifest.get("resumed"), _words(manifest)
    for stop in stops if isinstance(stops, list) else []:
        entry = _dict(stop)
        when = f"the run was resumed at step {_printable(entry.get('step'))}"
        if words := [word for word in _words(entry) if word not in began and not word.startswith("resume=")]:
            yield f"{when} with {_printable(' '.join(words), 200)}: its last settings hold from the start here"
        if changed := [f"{name} {old} -> {new}" for name, old, new in _changes(manifest, entry)]:
            yield f"{when} elsewhere: {', '.join(changed)}"


def _words(entry: Mapping[str, Any]) -> list[str]:
    command = entry.get("command")
    return [str(word) for word in command[1:]] if isinstance(command, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _printable(value: Any, letters: int = 80) -> str:
    """What nobody vouches for, so that the terminal does not obey it."""
    return "".join(letter for letter in str(value)[:letters] if letter.isprintable())


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python, and of the packages that a result depends on."""
    found: dict[str, str | None] = {"dqn-cli": dqn_cli.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def source() -> dict[str, Any] | None:
    """Commit of the checkout that this package runs from, and whether it was changed; None for an installed copy."""
    package = Path(dqn_cli.__file__).parent
    try:
        # an installed copy may lie below somebody else's repository, which does not track it
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(package, "status", "--porcelain", "--", ".", ":(top)conf"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Processor, physical and logical cores, bytes of memory, operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or None)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    with writing(path):
        try:
            temporary.unlink(missing_ok=True)  # never written through: it may be a link to anywhere
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
