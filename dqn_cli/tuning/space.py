"""Search spaces: settings, and what each of them may be. Read from YAML and held against the settings' own ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from dqn_cli.config import CHOICES
from dqn_cli.errors import ConfigError
from dqn_cli.validate import SETTINGS, check_key, suggestion

GROUPS = tuple(group for group in CHOICES if group != "env")  # whose choice can be searched too
# what trials are measured by, what they have in common, and what changes nothing in them
FIXED = (
    *("seed", "device", "threads", "logger", "init_from", "precision", "compile", "fast_paths"),
    *("run.total_steps", "run.eval_every_steps", "run.eval_episodes", "run.eval_epsilon", "run.stop_at_return"),
    *("run.log_every_steps", "run.checkpoint_every_steps", "run.keep_checkpoints", "run.checkpoint_replay"),
    "run.stall_s",
)
DIGITS = 4  # of a number that is tried: more would say nothing
FORM = "write {low: 1e-4, high: 1e-2, log: true} or a list of choices"


@dataclass(frozen=True)
class Numbers:
    """From `low` to `high`, both included; `log`: by their logarithms; `whole`: whole numbers only."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def ends(self) -> list[str]:
        """The words that bound it."""
        return [word(self.low), word(self.high)]

    def holds(self, value: Any) -> bool:
        """Whether `value` could be tried."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def tried(self, value: float) -> int | float:
        """What is tried where the sampler says `value`: no more digits than mean something."""
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Choices:
    """One of these words."""

    words: tuple[str, ...]

    def ends(self) -> list[str]:
        """All of them."""
        return [*self.words]

    def holds(self, value: Any) -> bool:
        """Whether `value` could be tried."""
        return word(value) in self.words


Space = Mapping[str, Numbers | Choices]  # by dotted key, or the name of a group


def load(path: Path) -> dict[str, Numbers | Choices]:
    """The space in a YAML file. Raises `ConfigError` for whatever is not one, or lies outside a setting's range."""
    try:
        data = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"search={path} cannot be read: {' '.join(str(error).split()):.200}") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"search={path} holds no settings; write lines such as optimizer.lr: {FORM.split(' ', 1)[1]}")
    try:
        space = {str(key): _one(str(key), value) for key, value in data.items()}
        _check_groups(space)
    except ConfigError as error:
        raise ConfigError(f"search={path}: {error}") from None
    return space


def _one(key: str, value: Any) -> Numbers | Choices:
    if key in FIXED or key.partition(".")[0] == "env":
        raise ConfigError(f"{key} is the same in all trials; write it on the command line")
    if key in GROUPS:
        return _choices(key, value, [*CHOICES[key]])
    check_key(key, {})
    return _choices(key, value) if isinstance(value, list) else _numbers(key, value)


def _choices(key: str, value: Any, known: list[str] | None = None) -> Choices:
    if not isinstance(value, list) or len(value) < 2:
        raise ConfigError(f"{key}: {value} is not a list of two choices or more; write {key}: [a, b]")
    words = tuple(map(word, value))
    for one in words:
        if words.count(one) > 1:
            raise ConfigError(f"{key}: {one} stands there twice; write it once")
        if known is not None and one not in known:
            raise ConfigError(f"{key}: {one} is not a choice{suggestion(one, known)}")
    if known is None:
        for item in value:
            if isinstance(item, int | float) and not isinstance(item, bool):
                _check_range(key, "", item)
    return Choices(words)


def _numbers(key: str, value: Any) -> Numbers:
    kinds = {str(f.type).partition(" ")[0] for f in SETTINGS[key].values()}
    if not isinstance(value, dict) or not kinds <= {"int", "float"}:
        raise ConfigError(f"{key}: {value} is not a range or a list; {FORM}")
    if odd := [name for name in value if name not in ("low", "high", "log")]:
        raise ConfigError(f"{key}: {odd[0]} is not understood; {FORM}")
    low: Any = value.get("low")
    high: Any = value.get("high")
    log, whole = value.get("log", False), kinds == {"int"}
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, int | float) or (whole and end != int(end)):
            raise ConfigError(f"{key}: {name}={end} is not a {'whole ' * whole}number; {FORM}")
        _check_range(key, f"{name}=", end)
    if not isinstance(log, bool):
        raise ConfigError(f"{key}: log={log} is not true or false")
    if not low < high:
        raise ConfigError(f"{key}: low={low} is not below high={high}; exchange them")
    if log and low <= 0:
        raise ConfigError(f"{key}: low={low} has no logarithm; write a number above 0, or leave out log")
    return Numbers(int(low), int(high), log, True) if whole else Numbers(float(low), float(high), log)


def _check_range(key: str, name: str, number: float) -> None:
    for f in SETTINGS[key].values():
        if number not in (allowed := f.metadata["range"]):
            raise ConfigError(f"{key}: {name}{number} is not in {allowed}")


def _check_groups(space: Space) -> None:
    """A setting that not all choices of its group have would do nothing in some trials."""
    for key in space:
        group = key.partition(".")[0]
        searched = space.get(group)
        if group != key and isinstance(searched, Choices):
            for choice in searched.words:
                check_key(key, {group: choice})


def word(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(word, value))}]"
    return str(value)


def plain(space: Space) -> dict[str, Any]:
    """JSON-able data that says the same."""
    return {
        key: [*one.words] if isinstance(one, Choices) else {"low": one.low, "high": one.high, "log": one.log}
        for key, one in space.items()
    }
