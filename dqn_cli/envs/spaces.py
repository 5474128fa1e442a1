"""From Gymnasium's spaces to numbers: observations become flat frames, as `gymnasium.spaces.flatten` orders them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dqn_cli.errors import ConfigError
from dqn_cli.types import ObsSpec

MAX_ACTIONS = 4096

Frame = NDArray[Any]
Write = Callable[[Any, Frame], None]  # checks one observation and copies it into a frame, or raises Misfit


class Misfit(ValueError):
    """An observation that its space does not allow; the text completes "observation is ..."."""


def brief(value: Any) -> str:
    """`value` as it would be typed, on one line and at most 80 characters long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def observer(env_id: str, space: Any, stack: int) -> tuple[ObsSpec, Write]:
    """The shape of a frame, and the function that fills it from an observation.

    Numbers become float32 in a row, discrete parts one-hot; bytes and bits (a Box of uint8, such as an image, or of
    bool) stay as they are. Parts of a Dict or a Tuple that are text are left out: `texts` names them.
    Raises `ConfigError` for a space without a fixed number of numbers.
    """
    try:
        # of shape () a lane's frame would be a number, which nothing can be copied into: it becomes a row of one
        if isinstance(space, spaces.Box) and space.dtype in (np.uint8, np.bool_) and space.shape:
            shape, write, dtype = space.shape, _as_is(space), str(space.dtype)
        else:
            (size, write), dtype = _writer(space), "float32"
            shape = (size,)
    except _Unsupported as part:
        raise ConfigError(
            f"env.id={env_id}: observations of {brief(part.args[0])} have no fixed size; "
            "write a wrapper that returns Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
        ) from None
    if 0 in shape:
        raise ConfigError(
            f"env.id={env_id}: an observation of {brief(space)} is empty; it must hold at least one number"
        )
    return ObsSpec(shape, dtype, stack), write


def texts(space: Any) -> list[str]:
    """The parts of a space that are text, by their names within it; what no network here can read."""
    match space:
        case spaces.Dict():
            inner: Mapping[Any, Any] = space.spaces
        case spaces.Tuple():
            inner = dict(enumerate(space.spaces))
        case _:
            return []
    return [
        name
        for key, part in inner.items()
        for name in ([str(key)] if _is_text(part) else [f"{key}.{deeper}" for deeper in texts(part)])
    ]


def action_range(env_id: str, space: Any) -> tuple[int, int]:
    """The number of actions and the first one's number. Raises `ConfigError` for actions that DQN cannot enumerate."""
    if isinstance(space, spaces.Discrete):
        if space.n > MAX_ACTIONS:
            raise ConfigError(f"env.id={env_id} has {space.n} actions; at most {MAX_ACTIONS} are supported")
        return int(space.n), int(space.start)
    if isinstance(space, spaces.Box):
        raise ConfigError(
            f"env.id={env_id} has continuous actions {brief(space)}: DQN takes the max over all actions, "
            "and a continuum has none to enumerate; choose an environment with Discrete actions"
        )
    hint = "write a wrapper that numbers the combinations as one Discrete space"
    if not isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        hint = "choose an environment with Discrete actions"
    raise ConfigError(f"env.id={env_id} has actions {brief(space)}: DQN needs one action out of a finite set; {hint}")


def checked_actions(actions: NDArray[Any], num_envs: int, num_actions: int) -> list[int]:
    """The actions `[E]` as a list. Raises `ValueError` unless each is in [0, num_actions): others are our bug."""
    if actions.shape != (num_envs,) or actions.dtype.kind not in "iu":
        raise ValueError(f"actions must be {num_envs} integers, got {actions.shape} of {actions.dtype}")
    chosen: list[int] = actions.tolist()
    for action in chosen:
        if not 0 <= action < num_actions:
            raise ValueError(f"actions must be in [0, {num_actions}), got {chosen}")
    return chosen


class _Unsupported(Exception):
    """A space that is not in the table."""


def _writer(space: Any) -> tuple[int, Write]:
    for kind, build in _WRITERS.items():
        if isinstance(space, kind):
            return build(space)
    raise _Unsupported(space)


def _seen(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    return f"{brief(value)}, a {type(value).__name__}"


def _copy(value: Any, shape: tuple[int, ...], out: Frame, casting: Any) -> None:
    if type(value) is np.ndarray and value.dtype is out.dtype and value.shape == shape == out.shape:
        out[...] = value  # what most environments return; the way below takes five times as long
        return
    if getattr(value, "shape", None) != shape:
        raise Misfit(f"{_seen(value)}, not an array of shape {shape}")
    try:
        np.copyto(out.reshape(-1), value.reshape(-1), casting=casting)
    except TypeError:
        raise Misfit(f"{_seen(value)}, which does not convert to {out.dtype}") from None


def _as_is(space: spaces.Box) -> Write:
    shape = space.shape

    def write(value: Any, out: Frame) -> None:
        _copy(value, shape, out, "safe")  # 300 must not wrap around to 44

    return write


def _numbers(space: spaces.Box | spaces.MultiBinary) -> tuple[int, Write]:
    # only shape and finiteness are checked: many environments step over their declared bounds by a rounding error
    shape = space.shape

    def write(value: Any, out: Frame) -> None:
        _copy(value, shape, out, "same_kind")
        if 0 in np.isfinite(out).tobytes():  # a third of the time that all() takes for a few numbers
            raise Misfit(f"not finite: {brief(value)}")

    return prod(shape), write


def _discrete(space: spaces.Discrete) -> tuple[int, Write]:
    size, start = int(space.n), int(space.start)

    def write(value: Any, out: Frame) -> None:
        if not isinstance(value, (int, np.integer)):
            raise Misfit(f"{_seen(value)}, not an integer")
        index = int(value) - start
        if not 0 <= index < size:
            raise Misfit(f"{value}, not in {start} ... {start + size - 1}")
        out.fill(0)
        out[index] = 1

    return size, write


def _multi_discrete(space: spaces.MultiDiscrete) -> tuple[int, Write]:
    sizes, start = space.nvec.reshape(-1), space.start.reshape(-1)
    offsets = np.cumsum(sizes) - sizes

    def write(value: Any, out: Frame) -> None:
        if not isinstance(value, np.ndarray) or value.shape != space.shape or value.dtype.kind not in "iu":
            raise Misfit(f"{_seen(value)}, not an array of integers of shape {space.shape}")
        index = value.reshape(-1) - start
        if ((index < 0) | (index >= sizes)).any():
            raise Misfit(f"{brief(value)}, not in {brief(space)}")
        out.fill(0)
        out[offsets + index] = 1

    return int(sizes.sum()), write


def _is_text(space: Any) -> bool:
    # by what it holds: spaces.Text is not the only one, MiniGrid has a class of its own
    return getattr(getattr(space, "dtype", None), "kind", "") == "U"


def _parts(inner: Mapping[Any, Any]) -> tuple[int, Write]:
    plan: dict[Any, tuple[slice, Write]] = {}
    size = 0
    for key, space in inner.items():
        if _is_text(space):
            continue
        part, write_part = _writer(space)
        plan[key] = slice(size, size + part), write_part
        size += part

    def write(value: Any, out: Frame) -> None:
        if not isinstance(value, Mapping) or value.keys() != inner.keys():
            raise Misfit(f"{_seen(value)}, not something with the parts {', '.join(map(str, inner))}")
        for key, (piece, write_part) in plan.items():
            write_part(value[key], out[piece])

    return size, write


def _tuple(space: spaces.Tuple[Any]) -> tuple[int, Write]:
    size, write_parts = _parts(dict(enumerate(space.spaces)))

    def write(value: Any, out: Frame) -> None:
        if not isinstance(value, tuple):
            raise Misfit(f"{_seen(value)}, not a tuple")
        write_parts(dict(enumerate(value)), out)

    return size, write


# a space, and what makes its size and its writer
_WRITERS: dict[type, Callable[[Any], tuple[int, Write]]] = {
    spaces.Box: _numbers,
    spaces.MultiBinary: _numbers,
    spaces.Discrete: _discrete,
    spaces.MultiDiscrete: _multi_discrete,
    spaces.Dict: lambda space: _parts(space.spaces),
    spaces.Tuple: _tuple,
}
