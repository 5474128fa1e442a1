"""Reading files that anybody may have written: bounded, regular files only, nothing that executes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dqn_cli.errors import CheckpointError

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_DEPTH = 32
DTYPES = {"F32", "F16", "BF16", "I64", "U8"}


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; no links, and no waiting for a pipe's other end."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))

    try:
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: not a regular file")
            if status.st_size > limit:
                raise CheckpointError(f"{path}: {status.st_size:,} bytes, expected at most {limit:,}")
            return file.read(limit)
    except OSError as error:
        reason = "is a link, not a regular file" if path.is_symlink() else (error.strerror or str(error)).lower()
        raise CheckpointError(f"{path}: {reason}") from error


def strict_json(path: Path, data: bytes) -> dict[str, Any]:
    """An object of JSON as its standard has it: no NaN or infinity, no key twice, no more than `MAX_DEPTH` levels."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_refuse, parse_float=_finite
        )
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}, not an object")
        if _depth(value) > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{path}: not strict JSON: {reason:.120}") from error
    return value


def tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """Dense tensors by name. The header's size, count and dtypes are judged before anything is allocated."""
    try:
        header = strict_json(path, _header(data))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if len(entries) > MAX_TENSORS:
            raise ValueError(f"{len(entries):,} tensors, at most {MAX_TENSORS:,}")
        for name, entry in entries.items():
            dtype = entry.get("dtype") if isinstance(entry, dict) else None
            if not isinstance(dtype, str) or dtype not in DTYPES:
                raise ValueError(f"{name[:60]!r} has dtype {dtype!r:.40}, expected one of {', '.join(sorted(DTYPES))}")
        return safetensors.torch.load(data)
    except (ValueError, OverflowError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a file of tensors: {reason:.160}") from error


def _header(data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"a header of {size:,} bytes in a file of {len(data):,}")
    return data[8 : 8 + size]


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if abs(value) != float("inf") else _refuse(digits)


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)
