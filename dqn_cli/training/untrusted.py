"""Reading files that anybody may have written: bounded, regular files only, nothing that executes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from dqn_cli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_DEPTH = 32
MAX_DIMS = 16
DTYPES = {"F32", "F16", "BF16", "I64", "U8"}  # of networks and optimizers
ARRAY_DTYPES = {"BOOL", "U8", "I32", "I64", "F32", "F64"}
T = TypeVar("T")


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
    import safetensors.torch  # with torch, which those who read JSON can do without

    judge(path, data, DTYPES)
    return _loaded(path, data, safetensors.torch.load)


def arrays(path: Path, data: bytes) -> dict[str, NDArray[Any]]:
    """Dense arrays by name, judged likewise. Whether numbers are finite or in range is for their owners to say."""
    judge(path, data, ARRAY_DTYPES)
    found = _loaded(path, data, safetensors.numpy.load)
    for name, array in found.items():
        if array.dtype == np.bool_ and bool((array.view(np.uint8) > 1).any()):
            raise CheckpointError(f"{path}: {name[:60]!r} holds bytes that are neither true nor false")
    return found


def judge(path: Path, data: bytes, dtypes: set[str]) -> None:
    """Raise `CheckpointError` where a file of tensors has a header that is too large, or other dtypes than these."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _no_tensors(path, f"a header of {size:,} bytes in a file of {len(data):,}")
    header = strict_json(path, data[8 : 8 + size])
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise _no_tensors(path, f"{len(entries):,} tensors, at most {MAX_TENSORS:,}")
    for name, entry in entries.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if not isinstance(dtype, str) or dtype not in dtypes:
            known = ", ".join(sorted(dtypes))
            raise _no_tensors(path, f"{name[:60]!r} has dtype {dtype!r:.40}, expected one of {known}")
        if not isinstance(shape := entry.get("shape"), list) or len(shape) > MAX_DIMS:
            raise _no_tensors(path, f"{name[:60]!r} has shape {shape!r:.40}, at most {MAX_DIMS} dimensions")


def _loaded(path: Path, data: bytes, load: Callable[[bytes], dict[str, T]]) -> dict[str, T]:
    try:
        return dict(sorted(load(data).items()))  # they come in another order each time
    # for an empty tensor of enormous shape each library has another of these
    except (ValueError, TypeError, OverflowError, RuntimeError, SafetensorError) as error:
        raise _no_tensors(path, str(error)) from error


def _no_tensors(path: Path, reason: str) -> CheckpointError:
    told = "".join(letter for letter in " ".join(reason.split()) if letter.isprintable())  # it may quote the file
    return CheckpointError(f"{path}: not a file of tensors: {told:.160}")


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
