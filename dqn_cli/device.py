"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import os
from dataclasses import fields

import torch

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


def set_threads(setting: str) -> int:
    """Give torch as many CPU threads as `threads=setting` says; returns their number.

    Raises `ConfigError` unless it is auto or a number of cores that this machine has.
    """
    cores = os.cpu_count() or 1
    if setting == "auto":
        count = 1  # small networks lose more time to handing work over than the other cores save
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
    return Batch(*(getattr(batch, f.name).to(device) for f in fields(batch)))
