"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import platform
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import psutil
import torch
from numpy.typing import NDArray

from dqn_cli.cores import usable_cores
from dqn_cli.errors import ConfigError
from dqn_cli.types import Batch

T = TypeVar("T")


def resolve(name: str, convolutional: bool) -> torch.device:
    """The device that `device=name` means: auto takes a GPU for convolutions, and the CPU for small MLPs.

    A GPU becomes the current one, whose streams and events are meant where none is named. Raises `ConfigError` for a
    device that does not exist here.
    """
    device = _resolved(name, convolutional)
    if on_gpu(device):
        torch.cuda.set_device(device)
    return device


def _resolved(name: str, convolutional: bool) -> torch.device:
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
        # Small networks lose more time to handing work over than other cores save. Convolutions gain by all of them,
        # though emulators want one at times: on two cores Pong is 1.4 (one game) to 2 times (eight) as fast.
        count = max(1, min(psutil.cpu_count(logical=False) or cores, cores)) if convolutional else 1
    elif setting.isdecimal() and 1 <= int(setting) <= cores:
        count = int(setting)
    else:
        raise ConfigError(f"threads={setting} is not possible here; write auto or a number from 1 to {cores}")
    torch.set_num_threads(count)
    return count


def slow_bfloat16(device: torch.device) -> str | None:
    """A line about convolutions in bfloat16 on a device that has to take a detour for them, else None."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return None
    return "precision=bf16 will be slower than fp32: this CPU has no instructions for it (avx512_bf16 or amx)"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; itself where it is there already. Observations may have been put together there."""
    if batch.obs.device == batch.action.device == device:
        return batch
    moved: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    for name, value in moved.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(device)
    return Batch(**moved)


def on_gpu(device: torch.device) -> bool:
    """Whether it is one whose work can be captured as a graph."""
    return device.type == "cuda"


def has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes fit on a GPU with half as much again to spare, which networks and their passes may want."""
    return torch.cuda.mem_get_info(device)[0] > 1.5 * size


class GraphRecorder:
    """Does the same work on a GPU again and again, launched as one graph (`torch.cuda.CUDAGraph`).

    `rng`, on its device, is what the work draws from: the graph moves it on at each replay.
    """

    def __init__(self, rng: torch.Generator) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(rng)
        self._stream = torch.cuda.Stream(rng.device)  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do the work as it is; on another stream, so that what autograd keeps per stream is there for the record."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Any]) -> None:
        """Note what the work is, without doing it. Raises `RuntimeError` where it cannot be recorded."""
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._result = work()

    def replay(self) -> Any:
        """Do it; the results lie where they always do."""
        self._graph.replay()
        return self._result


class Fence:
    """A point in a device's work: `wait` until it is past the last `mark`. Where host and device are one, it is."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = torch.cuda.Event() if on_gpu(device) else None  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        """Here."""
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Until the device is past it; at once before the first mark."""
        if self._event is not None:
            self._event.synchronize()


def sent(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy on `device` of an array, as it is now; nobody waits for what a GPU is still doing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu(device) else tensor.clone()


def staging(like: torch.Tensor) -> torch.Tensor:
    """Memory of the host from which a GPU fetches what goes into `like`, while the host goes on."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=on_gpu(like.device))


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
