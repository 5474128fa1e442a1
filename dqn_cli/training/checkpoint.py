"""Checkpoints: folders of safetensors and strict JSON, published whole or not at all, read without trust.

A checkpoint holds `model.safetensors`, `state.json`, `config.json`; one that a run can go on from also
`optimizer.safetensors` and `loop.safetensors`, the arrays of everything else. `MANIFEST.json` has the step, size and
SHA-256 of each of them, the segments of the replay memory that belong to it, and a checksum of its own. Nothing in it
can execute code. It is written beside its final name, synced and renamed, and only then are older ones deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_cli.errors import CheckpointError, NumericalError, writing
from dqn_cli.files import read_bytes, sync_folder
from dqn_cli.replay import segments as replay_segments
from dqn_cli.training.untrusted import ARRAY_DTYPES, DTYPES, arrays, judge, strict_json, tensors

FORMAT = 2
MANIFEST, MODEL, OPTIMIZER, LOOP, STATE, CONFIG = (
    "MANIFEST.json",
    "model.safetensors",
    "optimizer.safetensors",
    "loop.safetensors",
    "state.json",
    "config.json",
)
# what `read` accepts, decided before anything is allocated
LIMITS = {MODEL: 1 << 31, OPTIMIZER: 1 << 32, LOOP: 1 << 32, STATE: 1 << 20, CONFIG: 1 << 16, MANIFEST: 1 << 20}
# the manifest's keys by format; 1 could not be resumed
_KEYS = {1: {"format", "step", "files"}, FORMAT: {"format", "step", "files", "segments", "fingerprint", "sha256"}}
_NAME = re.compile(r"(?:\.old-)?((step|best|final)-(\d{9,18}))")
_LEFTOVER = re.compile(r"\.(tmp|old)-((?:step|best|final)-\d{9,18})")
_OTHER_FORMATS = {".pt", ".pth", ".ckpt", ".pkl", ".zip", ".bin", ".h5", ".onnx", ".safetensors"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds: plain data, tensors and arrays, still to be validated by their owners.

    `segments` are the entries of the replay memory's segments, `fingerprint` what the run's bits depend on beside its
    configuration. `optimizer` and `arrays` are None where they are not there or were not asked for.
    """

    step: int
    config: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    state: dict[str, Any]
    arrays: dict[str, NDArray[Any]] | None
    segments: list[Any]
    fingerprint: dict[str, Any]


class Weights(TypedDict):
    """What a checkpoint is made of: plain data and tensors by name."""

    config: Mapping[str, Any]
    model: Mapping[str, Tensor]
    state: Mapping[str, Any]
    fingerprint: NotRequired[Mapping[str, Any] | None]


class Contents(Weights):
    """The same with what a run needs to go on; None or nothing in a weights-only checkpoint."""

    optimizer: Mapping[str, Tensor] | None
    arrays: NotRequired[Mapping[str, NDArray[Any]] | None]
    segments: NotRequired[Sequence[Mapping[str, Any]] | None]


def write(folder: Path, *, step: int, **contents: Unpack[Contents]) -> None:
    """Publish a checkpoint as `folder`, in the place of one that has this name.

    Raises `NumericalError` where a weight is not finite, `CheckpointError` where something could not be read back,
    `StorageError` where the disk refuses. Always whatever was there before is still there, and nothing half-written is.
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
    if (loop := contents.get("arrays")) is not None:
        files[LOOP] = _array_bytes(loop)
    files[MANIFEST] = _manifest_bytes(step, files, contents.get("segments"), contents.get("fingerprint"))
    for name, data in files.items():
        _require_readable(name, data)
    with writing(folder):
        _publish(folder, files)


def read(folder: Path, *, optimizer: bool = True, loop: bool = False) -> Checkpoint:
    """Read and verify a checkpoint; the optimizer's tensors and the loop's arrays are looked at only where asked for.

    Raises `CheckpointError`, one line that names the file, for anything that is not as `write` leaves it: sizes and
    checksums, links or devices in place of files, JSON that is not strict, tensors that are not dense, weights that
    are not finite.
    """
    manifest = _manifest(folder)
    files = manifest["files"]

    def load(name: str) -> bytes:
        data = read_bytes(folder / name, min(LIMITS[name], files[name]["bytes"]))
        if files[name] != _entry(data):
            raise CheckpointError(
                f"{folder / name}: damaged, its checksum is not the manifest's; use another checkpoint"
            )
        return data

    model = tensors(folder / MODEL, load(MODEL))
    if bad := _not_finite(model):
        raise CheckpointError(f"{folder / MODEL}: {bad[:80]!r} has NaN or infinite weights")
    found = tensors(folder / OPTIMIZER, load(OPTIMIZER)) if optimizer and OPTIMIZER in files else None
    if bad := _not_finite(found or {}):
        raise CheckpointError(f"{folder / OPTIMIZER}: {bad[:80]!r} has NaN or infinite numbers")
    return Checkpoint(
        step=manifest["step"],
        config=strict_json(folder / CONFIG, load(CONFIG)),
        model=model,
        optimizer=found,
        state=strict_json(folder / STATE, load(STATE)),
        arrays=arrays(folder / LOOP, load(LOOP)) if loop and LOOP in files else None,
        segments=manifest.get("segments", []),
        fingerprint=manifest.get("fingerprint", {}),
    )


def newest(run: Path, check: Callable[[Checkpoint], object]) -> tuple[Checkpoint, list[str]] | None:
    """The newest checkpoint that the run in this folder can go on from, and a line for each that was passed over.

    `check` verifies what lies outside of a checkpoint, and raises `CheckpointError`. None where the run has none at
    all; raises `CheckpointError` where none is whole.
    """
    try:
        candidates = _resumable(_own_folder(run))
    except OSError as error:
        raise CheckpointError(f"{run}/checkpoints cannot be read: {error.strerror}") from error
    damage: list[tuple[str, str]] = []
    for folder in candidates:
        try:
            checkpoint = _whole(folder)
            check(checkpoint)
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{folder}{os.sep}").removesuffix("; use another checkpoint")
            damage.append((f"checkpoints/{folder.name}", reason))
        else:
            on = f"going on from {folder.name}"
            return checkpoint, [f"{name} is damaged ({reason}), {on}" for name, reason in damage]
    if damage:
        (name, reason), *others = damage
        more = f", and so are {', '.join(name for name, _ in others)}" if others else ""
        raise CheckpointError(f"{run} cannot be resumed: {name} is damaged ({reason}){more}")
    return None


class CheckpointStore:
    """The checkpoints of a run: the last `keep` periodic ones, the best (weights only) and the final one.

    `prune` is told the names of the segment files that these still need, whenever a checkpoint was saved.
    """

    def __init__(self, run_dir: Path, keep: int, prune: Callable[[set[str]], object] = lambda names: None):
        self.run_dir = run_dir
        self._folder = _own_folder(run_dir)
        self._keep = keep
        self._prune = prune
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_folder(run_dir)
            _repair(self._folder)

    def save_step(self, step: int, **contents: Unpack[Contents]) -> Path:
        """Save a periodic checkpoint, then delete the oldest beyond `keep`."""
        return self._save("step", step, self._keep, contents)

    def save_best(self, step: int, **weights: Unpack[Weights]) -> Path:
        """Save the weights as the new best, then delete the older best: there is never a moment without one."""
        contents: Contents = {**weights, "optimizer": None, "arrays": None, "segments": None}
        return self._save("best", step, 1, contents)

    def save_final(self, step: int, **contents: Unpack[Contents]) -> Path:
        """Save what the run ended with."""
        return self._save("final", step, 1, contents)

    def _save(self, kind: str, step: int, keep: int, contents: Contents) -> Path:
        folder = self._folder / f"{kind}-{step:09d}"
        write(folder, step=step, **contents)
        with writing(self._folder):
            for path in _outdated(self._folder, kind, step, keep):
                _discard(path)
            if kind != "best":  # whose weights are no run
                _sweep(self._folder)
            sync_folder(self._folder)  # a deleted one must not come back: its segments may be gone then
            self.prune()
        return folder

    def prune(self) -> None:
        """Let the segments go that no checkpoint names: those of older ones, and of one that could not be written."""
        if (names := _named_segments(self._folder)) is not None:
            self._prune(names)


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
        saved = _saved(_own_folder(path))
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
    def latest(*kinds: str) -> tuple[str, int] | None:
        """The latest step; of two kinds at that step the one named first."""
        found = (key for key in saved if key[0] in kinds)
        return max(found, key=lambda key: (key[1], -kinds.index(key[0])), default=None)

    match select:
        case "best":
            return latest("best") or latest("final", "step")
        case "last":
            return latest("final", "step")
        case "final":
            return latest("final")
    step = int(select) if re.fullmatch("[0-9]{1,18}", select) else -1
    return next((key for kind in ("final", "step", "best") if (key := (kind, step)) in saved), None)


def _own_folder(run: Path) -> Path:
    """Where the checkpoints of a run are: never elsewhere, since things are deleted there."""
    folder = run / "checkpoints"
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link; the checkpoints of a run must lie in its own folder")
    return folder


def _paths(folder: Path) -> Iterator[tuple[tuple[str, int], Path]]:
    """Every folder in `checkpoints` that has the name of a checkpoint, those set aside last."""
    for path in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        if (match := _NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            yield (match[2], int(match[3])), path


def _saved(folder: Path) -> dict[tuple[str, int], Path]:
    """All published checkpoints. One that was set aside counts as long as its successor is not in its place."""
    found: dict[tuple[str, int], Path] = {}
    for key, path in _paths(folder):
        found.setdefault(key, path)
    return found


def _resumable(folder: Path) -> list[Path]:
    """All that hold a whole run, newest first; one that was set aside comes after its successor."""
    found = [((step, kind == "final"), path) for (kind, step), path in _paths(folder) if kind != "best"]
    return [path for _, path in sorted(found, key=lambda item: item[0], reverse=True)]


def _whole(folder: Path) -> Checkpoint:
    """A checkpoint with all that a run needs to go on, under the name it was published with."""
    checkpoint = read(folder, loop=True)
    if int(folder.name.rpartition("-")[2]) != checkpoint.step:
        raise CheckpointError(f"{folder / MANIFEST}: is of step {checkpoint.step:,}, not of this folder's")
    if checkpoint.optimizer is None or checkpoint.arrays is None:
        raise CheckpointError(f"{folder / MANIFEST}: holds no whole run; dqn-eval can play its policy")
    return checkpoint


def _outdated(folder: Path, kind: str, step: int, keep: int) -> list[Path]:
    """What a new checkpoint replaces: those of its kind beyond `keep`, and those of later steps.

    A run that went back to an earlier step has a new future; what is there of the old one would be taken for it.
    """
    saved = _saved(folder)
    earlier = sorted(at for other, at in saved if other == kind and at <= step)[:-keep]
    later = [key for key in saved if key[1] > step and (key[0] == "best") == (kind == "best")]
    return [saved[key] for key in [*((kind, at) for at in earlier), *later]]


def _named_segments(folder: Path) -> set[str] | None:
    """The segment files that the checkpoints name; None where one of them cannot be asked."""
    try:
        entries = [_manifest(path).get("segments", []) for path in _resumable(folder)]
        return {segment.file for entry in entries for segment in replay_segments.parse(entry)}
    except (CheckpointError, ValueError):
        return None


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
    if type(version) is not int or version not in _KEYS:
        raise CheckpointError(f"{path}: format {version!r:.40} unknown; this version reads formats 1 to {FORMAT}")
    if set(manifest) != _KEYS[version]:
        raise CheckpointError(f"{path}: has the keys {sorted(manifest)!r:.200}; expected {sorted(_KEYS[version])}")
    if version > 1 and manifest.pop("sha256") != _checksum(manifest):
        raise CheckpointError(f"{path}: damaged, its checksum is not its own; use another checkpoint")
    if type(step) is not int or not 0 <= step < 2**63:
        raise CheckpointError(f"{path}: step {step!r:.40} is not a step number")
    needed, known = {MODEL, STATE, CONFIG}, {MODEL, STATE, CONFIG, OPTIMIZER, LOOP}
    if not isinstance(files, dict) or not needed <= set(files) <= known:
        raise CheckpointError(f"{path}: lists files {files!r:.60}; expected {', '.join(sorted(needed))}")
    for name, entry in files.items():
        if not isinstance(entry, dict) or type(size := entry.get("bytes")) is not int or size < 0:
            raise CheckpointError(f"{path}: {name} has no size")
    if not isinstance(manifest.get("segments", []), list) or not isinstance(manifest.get("fingerprint", {}), dict):
        raise CheckpointError(f"{path}: segments is not a list, or fingerprint not an object")
    return manifest


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


def _checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without one, its keys in the order that does not depend on who wrote it."""
    return sha256(_json_bytes(MANIFEST, manifest, sort_keys=True)).hexdigest()


def _manifest_bytes(
    step: int,
    files: Mapping[str, bytes],
    segments: Sequence[Mapping[str, Any]] | None,
    fingerprint: Mapping[str, Any] | None,
) -> bytes:
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": {name: _entry(data) for name, data in files.items()},
        "segments": list(segments or []),
        "fingerprint": fingerprint or {},
    }
    as_read = strict_json(Path(MANIFEST), _json_bytes(MANIFEST, manifest))
    return _json_bytes(MANIFEST, {**manifest, "sha256": _checksum(as_read)})


def _require_readable(name: str, data: bytes) -> None:
    """Refuse to write what `read` would refuse."""
    if len(data) > LIMITS[name]:
        raise CheckpointError(f"{name} would have {len(data):,} bytes; at most {LIMITS[name]:,} can be read back")
    if name.endswith(".json"):
        strict_json(Path(name), data)
    else:
        judge(Path(name), data, ARRAY_DTYPES if name == LOOP else DTYPES)


def _not_finite(named: Mapping[str, Tensor]) -> str | None:
    """The first tensor with NaN or infinity."""
    floats = ((name, tensor) for name, tensor in named.items() if tensor.is_floating_point())
    return next((name for name, tensor in floats if not bool(torch.isfinite(tensor).all())), None)


def _json_bytes(name: str, data: Mapping[str, Any], sort_keys: bool = False) -> bytes:
    try:
        text = json.dumps(data, allow_nan=False, indent=1, sort_keys=sort_keys)
    except ValueError as error:
        raise CheckpointError(f"{name} cannot be written as strict JSON: {error}") from error
    return text.encode("ascii")


def _tensor_bytes(named: Mapping[str, Tensor]) -> bytes:
    # copies, since safetensors refuses tensors that share memory
    return safetensors.torch.save(
        {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
    )


def _array_bytes(named: Mapping[str, NDArray[Any]]) -> bytes:
    # safetensors reads memory as it lies there, whatever the strides say
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in named.items()})


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write, sync, rename, sync. A folder cannot be renamed onto another one, so that one is set aside meanwhile."""
    temporary, aside = folder.with_name(f".tmp-{folder.name}"), folder.with_name(f".old-{folder.name}")
    folder.parent.mkdir(exist_ok=True)  # but not the run's: somebody who deleted that does not want it back
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write(temporary / name, data)
        sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists() and not folder.exists():
            aside.rename(folder)
    if aside.exists():
        _discard(aside)


def _write(path: Path, data: bytes) -> None:
    """Write and sync a file; the system may take a part at a time."""
    with path.open("xb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _repair(folder: Path) -> None:
    """Undo what a run that was killed while it saved has left, but delete only what was never published."""
    for aside, published in _leftovers(folder, "old"):
        if not published.exists():
            aside.rename(published)
    for temporary, _ in _leftovers(folder, "tmp"):
        shutil.rmtree(temporary)


def _sweep(folder: Path) -> None:
    """Delete all leftovers: after a whole run was saved none is needed any more."""
    _repair(folder)
    for aside, _ in _leftovers(folder, "old"):
        _discard(aside)


def _leftovers(folder: Path, kind: str) -> list[tuple[Path, Path]]:
    """Those called `.tmp-*` or `.old-*`, each with the name that it had or was to have."""
    found = ((path, _LEFTOVER.fullmatch(path.name)) for path in folder.iterdir())
    return [(path, folder / match[2]) for path, match in found if match and match[1] == kind]


def _discard(folder: Path) -> None:
    """Delete a checkpoint; renamed first, so that a half-deleted one is not taken for one."""
    condemned = folder.with_name(f".tmp-{folder.name.removeprefix('.old-')}")
    folder.rename(condemned)
    shutil.rmtree(condemned)
