"""A small checkpoint with everything in it, and what an attacker could make of it."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqn_cli.training.checkpoint import Checkpoint, read

CONFIG = {"env": {"id": "CartPole-v1", "kwargs": {}}, "discount": 0.99}
STATE = {"stream": 2**127 + 1, "best": None, "returns": [1.0, 2.5]}
FINGERPRINT = {"device": "cpu", "threads": 1, "torch": "2.13.0", "note": "\u00fc \U0001f600"}
FILES = [
    "MANIFEST.json",
    "config.json",
    "loop.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
]


def model(value: float = 1.5) -> dict[str, torch.Tensor]:
    return {"online.w": torch.full((2, 3), value), "online.n": torch.tensor(7), "online.empty": torch.zeros(0, 4)}


def arrays(value: float = 1.5) -> dict[str, np.ndarray]:
    return {
        "lanes.first": np.array([True, False]),
        "lanes.actions": np.arange(6, dtype=np.uint8).reshape(3, 2),
        "memory.rows": np.array([-3], np.int32),
        "memory.next": np.array(2**40),
        "actor.stack": np.full((2, 2), value, np.float32),
        "memory.priorities": np.array([value, np.inf, np.nan]),
    }


def segment(ring: str = "rows", begin: int = 0, end: int = 16_384, text: str = "") -> dict[str, Any]:
    digest = sha256(f"{ring}{begin}{end}{text}".encode()).hexdigest()
    return {"ring": ring, "begin": begin, "end": end, "bytes": 1234, "sha256": digest}


def file_of(entry: dict[str, Any]) -> str:
    return f"{entry['ring']}-{entry['begin']:012d}-{entry['end']:012d}-{entry['sha256'][:16]}.z"


def weights(value: float = 1.5) -> dict[str, Any]:
    return {"config": CONFIG, "model": model(value), "state": STATE, "fingerprint": FINGERPRINT}


def contents(value: float = 1.5, segments: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    optimizer = {"0.exp_avg": torch.full((2, 3), value)}
    named = [segment(), segment("frames")] if segments is None else segments
    return {**weights(value), "optimizer": optimizer, "arrays": arrays(value), "segments": named}


def sealed(manifest: dict[str, Any]) -> bytes:
    """A manifest with the checksum that it should have."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, indent=1, sort_keys=True)
    return json.dumps({**rest, "sha256": sha256(text.encode()).hexdigest()}).encode()


def reseal(folder: Path, **changes: bytes) -> None:
    """Put other files in, with a manifest that vouches for them: what an attacker can do, an accident cannot."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for key, data in changes.items():
        name = next(name for name in FILES if name.partition(".")[0] == key)
        (folder / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (folder / "MANIFEST.json").write_bytes(sealed(manifest))


def everything(folder: Path) -> dict[str, Any]:
    """All that `read` finds, in a form that `==` compares byte for byte."""
    return plain(read(folder, loop=True))


def plain(found: Checkpoint) -> dict[str, Any]:
    named: dict[str, Any] = {**found.model, **(found.optimizer or {}), **(found.arrays or {})}
    tensors = {name: np.asarray(tensor) for name, tensor in named.items()}
    return {
        "data": (found.step, found.config, found.state, found.segments, found.fingerprint),
        "parts": (found.optimizer is None, found.arrays is None, [*found.model]),
        "arrays": {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in tensors.items()},
    }
