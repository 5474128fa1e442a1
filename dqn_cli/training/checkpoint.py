"""Checkpoints: folders of safetensors and strict JSON, published whole or not at all, read without trust.

A checkpoint holds `model.safetensors`, `optimizer.safetensors` (not in a weights-only one), `state.json`,
`config.json` and `MANIFEST.json`, which has the step and the size and SHA-256 of each of the others. Nothing in it can
execute code. It is written beside its final name, synced and renamed, and only then are older ones deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict, Unpack

import safetensors.torch
import torch
from torch import Tensor

from dqn_cli.errors import CheckpointError, NumericalError, writing
from dqn_cli.training.untrusted import read_bytes, strict_json, tensors

FORMAT = 1
MANIFEST, MODEL, OPTIMIZER, STATE, CONFIG = (
    "MANIFEST.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "config.json",
)
# what `read` accepts, decided before anything is allocated
LIMITS = {MODEL: 1 << 31, OPTIMIZER: 1 << 32, STATE: 1 << 20, CONFIG: 1 << 20, MANIFEST: 1 << 20}
_NAME = re.compile(r"(?:\.old-)?((step|best|final)-(\d{9,18}))")
_OTHER_FORMATS = {".pt", ".pth", ".ckpt", ".pkl", ".zip", ".bin", ".h5", ".onnx", ".safetensors"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds. `config` and `state` are plain data, still to be validated by their owners."""

    step: int
    config: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    state: dict[str, Any]


class Weights(TypedDict):
    """What a checkpoint is made of: plain data and tensors by name."""

    config: Mapping[str, Any]
    model: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Contents(Weights):
    """The same with the optimiser's tensors, None in a weights-only checkpoint."""

    optimizer: Mapping[str, Tensor] | None


def write(folder: Path, *, step: int, **contents: Unpack[Contents]) -> None:
    """Publish a checkpoint as `folder`, in the place of one that has this name.

    Raises `NumericalError` where a weight is not finite, `StorageError` where the disk refuses. Either way whatever was
    there before is still there, and nothing half-written is.
    """
    if bad := _not_finite(contents["model"]):
        raise NumericalError(f"checkpoint of step {step:,} refused: {bad} has NaN or infinite weights")
    files = {
        MODEL: _tensor_bytes(contents["model"]),
        STATE: _json_bytes(STATE, contents["state"]),
        CONFIG: _json_bytes(CONFIG, contents["config"]),
    }
    if contents["optimizer"] is not None:
        files[OPTIMIZER] = _tensor_bytes(contents["optimizer"])
    entries = {name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in files.items()}
    files[MANIFEST] = _json_bytes(MANIFEST, {"format": FORMAT, "step": step, "files": entries})
    for name, data in files.items():
        if len(data) > LIMITS[name]:
            raise CheckpointError(f"{name} would have {len(data):,} bytes; at most {LIMITS[name]:,} can be read back")
    with writing(folder):
        _publish(folder, files)


def read(folder: Path, *, optimizer: bool = True) -> Checkpoint:
    """Read and verify a checkpoint; `optimizer=False` does not look at the optimiser's tensors.

    Raises `CheckpointError`, one line that names the file, for anything that is not as `write` leaves it: sizes and
    checksums, links or devices in place of files, JSON that is not strict, tensors that are not dense and finite.
    """
    manifest = _manifest(folder)

    def load(name: str) -> bytes:
        entry = manifest["files"][name]
        data = read_bytes(folder / name, min(LIMITS[name], entry["bytes"]))
        if entry != {"bytes": len(data), "sha256": sha256(data).hexdigest()}:
            raise CheckpointError(
                f"{folder / name}: damaged, its checksum is not the manifest's; use another checkpoint"
            )
        return data

    model = tensors(folder / MODEL, load(MODEL))
    if bad := _not_finite(model):
        raise CheckpointError(f"{folder / MODEL}: {bad[:80]!r} has NaN or infinite weights")
    with_optimizer = optimizer and OPTIMIZER in manifest["files"]
    return Checkpoint(
        step=manifest["step"],
        config=strict_json(folder / CONFIG, load(CONFIG)),
        model=model,
        optimizer=tensors(folder / OPTIMIZER, load(OPTIMIZER)) if with_optimizer else None,
        state=strict_json(folder / STATE, load(STATE)),
    )


class CheckpointStore:
    """The checkpoints of a run: the last `keep` periodic ones, the best (weights only) and the final one."""

    def __init__(self, run_dir: Path, keep: int):
        self._folder = run_dir / "checkpoints"
        self._keep = keep
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            _tidy(self._folder)

    def save_step(self, step: int, **contents: Unpack[Contents]) -> Path:
        """Save a periodic checkpoint, then delete the oldest beyond `keep`."""
        return self._save("step", step, self._keep, contents)

    def save_best(self, step: int, **weights: Unpack[Weights]) -> Path:
        """Save the weights as the new best, then delete the older best: there is never a moment without one."""
        return self._save("best", step, 1, {**weights, "optimizer": None})

    def save_final(self, step: int, **contents: Unpack[Contents]) -> Path:
        """Save what the run ended with."""
        return self._save("final", step, 1, contents)

    def _save(self, kind: str, step: int, keep: int, contents: Contents) -> Path:
        folder = self._folder / f"{kind}-{step:09d}"
        write(folder, step=step, **contents)
        found = sorted((at, path) for (other, at), path in _saved(self._folder).items() if other == kind)
        with writing(self._folder):
            for _, path in found[:-keep]:
                _discard(path)
        return folder


def find(path: Path, select: str) -> Path:
    """The checkpoint folder that `path` is, or the one that `select` means in the run folder `path`.

    `best` | `last` (the newest periodic or final one) | `final` | a step. Without an evaluation there is no best one:
    then `best` means `last`, as the returned name tells. Raises `CheckpointError`.
    """
    try:
        if not path.is_dir():
            raise CheckpointError(_not_a_folder(path))
        names = sorted(entry.name for entry in path.iterdir())
        if MANIFEST in names:  # by its exact name: where case does not count, a run's manifest.json exists as this too
            return path
        saved = _saved(path / "checkpoints")
    except OSError as error:
        raise CheckpointError(f"{str(path)[:200]} cannot be read: {error.strerror}") from error
    if not saved:
        holds = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
        raise CheckpointError(
            f"{path} has no checkpoint, it holds {holds}; write a run folder of dqn-train, or one of its checkpoints/*"
        )
    if chosen := _choose(saved, select):
        return saved[chosen]
    held = ", ".join(sorted(folder.name for folder in saved.values()))
    raise CheckpointError(f"{path} has no checkpoint for select={select}; it has {held}")


def _choose(saved: Mapping[tuple[str, int], Path], select: str) -> tuple[str, int] | None:
    def newest(*kinds: str) -> tuple[str, int] | None:
        """The latest step; of two kinds at that step the one named first."""
        found = (key for key in saved if key[0] in kinds)
        return max(found, key=lambda key: (key[1], -kinds.index(key[0])), default=None)

    match select:
        case "best":
            return newest("best") or newest("final", "step")
        case "last":
            return newest("final", "step")
        case "final":
            return newest("final")
    step = int(select) if re.fullmatch("[0-9]{1,18}", select) else -1
    return next((key for kind in ("final", "step", "best") if (key := (kind, step)) in saved), None)


def _saved(folder: Path) -> dict[tuple[str, int], Path]:
    """All published checkpoints. One that was set aside counts as long as its successor is not in its place."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            found.setdefault((match[2], int(match[3])), path)
    return found


def _not_a_folder(path: Path) -> str:
    if path.suffix in _OTHER_FORMATS and path.exists():
        return (
            f"{path} is a {path.suffix} file; write a run folder or a checkpoint folder of dqn-train: "
            "pickled weights can run code and are never loaded"
        )
    found = "is a file" if path.exists() else "does not exist"
    return f"{path} {found}; write a run folder or a checkpoint folder of dqn-train"


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, with known files only: a name in it is never a path to follow."""
    path = folder / MANIFEST
    manifest = strict_json(path, read_bytes(path, LIMITS[MANIFEST]))
    version, step, files = (manifest.get(key) for key in ("format", "step", "files"))
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(f"{path}: format {version!r:.40} unknown; this version reads format {FORMAT}")
    if type(step) is not int or not 0 <= step < 2**63:
        raise CheckpointError(f"{path}: step {step!r:.40} is not a step number")
    needed = {MODEL, STATE, CONFIG}
    if not isinstance(files, dict) or not needed <= set(files) <= needed | {OPTIMIZER}:
        raise CheckpointError(f"{path}: lists files {files!r:.60}; expected {', '.join(sorted(needed))}")
    for name, entry in files.items():
        if not isinstance(entry, dict) or type(size := entry.get("bytes")) is not int or size < 0:
            raise CheckpointError(f"{path}: {name} has no size")
    return manifest


def _not_finite(named: Mapping[str, Tensor]) -> str | None:
    """The first tensor with NaN or infinity."""
    floats = ((name, tensor) for name, tensor in named.items() if tensor.is_floating_point())
    return next((name for name, tensor in floats if not bool(torch.isfinite(tensor).all())), None)


def _json_bytes(name: str, data: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(data, allow_nan=False, indent=1)
    except ValueError as error:
        raise CheckpointError(f"{name} cannot be written as strict JSON: {error}") from error
    return text.encode("ascii")


def _tensor_bytes(named: Mapping[str, Tensor]) -> bytes:
    # copies, since safetensors refuses tensors that share memory
    return safetensors.torch.save(
        {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
    )


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write, sync, rename, sync. A folder cannot be renamed onto another one, so that one is set aside meanwhile."""
    temporary, aside = folder.with_name(f".tmp-{folder.name}"), folder.with_name(f".old-{folder.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, data in files.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        temporary.rename(folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists() and not folder.exists():
            aside.rename(folder)
    if aside.exists():
        _discard(aside)


def _tidy(folder: Path) -> None:
    """Undo what a run that was killed while it saved has left."""
    for aside in folder.glob(".old-*"):
        if not (published := folder / aside.name.removeprefix(".old-")).exists():
            aside.rename(published)
    for pattern in (".tmp-*", ".old-*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover)


def _sync_folder(folder: Path) -> None:
    """Make names durable, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _discard(folder: Path) -> None:
    """Delete a checkpoint; renamed first, so that a half-deleted one is not taken for one."""
    condemned = folder.with_name(f".tmp-{folder.name.removeprefix('.old-')}")
    folder.rename(condemned)
    shutil.rmtree(condemned)
