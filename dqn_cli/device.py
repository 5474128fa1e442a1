"""Where tensors live and how many threads work on them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import fields
from typing import Any

import psutil
import torch

from dqn_cli.cores import usable_cores
from dqn_cli.errors import ConfigError
from dqn_cli.types import Batch


def resolve(name: str, convolutional: bool) -> torch.device:
    """The device that `device=name` means: auto takes a GPU for convolutions, and the CPU for small MLPs.

    Raises `ConfigError` for a device that does not exist here.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":  # an MLP's kernels are so short that launching them on a GPU takes longer than computing here
        return torch.device(gpus[0] if gpus and convolutional else "cpu")
    if name == "cuda" and gpus:
        return torch.device(gpus[0])
    available = ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
    if name not in available:
        raise ConfigError(f"device={name} is not available here; write auto or one of: {', '.join(available)}")
    return torch.device(name)


def set_threads(setting: str, convolutional: bool) -> int:
    """Give torch as many CPU threads as `threads=setting` says; returns their number.

    Raises `ConfigError` unless it is auto or a number of cores that this machine has.
    """
    cores = usable_cores()
    if setting == "auto":
        # Small networks lose more time to handing work over than the other cores save. Convolutions gain, but threads
        # that wait for one that has no core lose more: one core is left to the emulator's threads.
        count = max(1, min(psutil.cpu_count(logical=False) or cores, cores) - 1) if convolutional else 1
    elif setting.isdecimal() and 1 <= int(setting) <= cores:
        count = int(setting)
    else:
        raise ConfigError(f"threads={setting} is not possible here; write auto or a number from 1 to {cores}")
    torch.set_num_threads(count)
    return count


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; itself where it is there already."""
    if batch.obs.device == device:
        return batch
    moved: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    for name, value in moved.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(device)
    return Batch(**moved)


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A stream of random numbers that is drawn on `device`."""
    return torch.Generator(device).manual_seed(seed)


def state_of(stream: torch.Generator) -> str:
    """The stream's position as plain text (base64)."""
    return b64encode(stream.get_state().numpy().tobytes()).decode("ascii")


def move_to(stream: torch.Generator, state: Any) -> None:
    """Put the stream where `state_of` found one. Raises `ValueError` where that is not a position of such a stream."""
    try:
        stream.set_state(torch.frombuffer(bytearray(b64decode(state, validate=True)), dtype=torch.uint8))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError("not the position of a stream of random numbers") from error
