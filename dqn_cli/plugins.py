"""What a module of the user's own adds, where `plugin=` names it: torsos and explorations, chosen by name like ours.

Nothing is imported here but what the user writes on the command line of this very command: what a run's folder says
about a module is compared with that, and never imported.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, make_dataclass
from typing import Any, TypeVar

from dqn_cli.config import CHOICES, OwnExplorationConfig, TorsoConfig, knob
from dqn_cli.errors import ConfigError
from dqn_cli.validate import add_choice

__all__ = ["knob", "register_exploration", "register_torso"]

KEY = "plugin"
BASES: dict[str, type] = {"network": TorsoConfig, "exploration": OwnExplorationConfig}
FACTORIES: dict[tuple[str, str], Callable[..., Any]] = {}  # by group and name
_loaded: set[str] = set()  # by this command

Factory = TypeVar("Factory", bound=Callable[..., Any])


def register_torso(name: str, **settings: Any) -> Callable[[Factory], Factory]:
    """Decorator: `network=<name>` is a network whose torso the function makes, from obs [B, *obs_shape] to [B, F].

    The function is called with the shape of an observation and the settings by name, and returns a `torch.nn.Module`
    that takes float32, bytes scaled to [0, 1]; it may not have buffers. A layer of `network.units` and the head follow:
    `network.head`, `noisy` and `layer_norm` are theirs. Each of the `settings` is a default or a `knob`, with its
    meaning and bounds; its type is that of the default. The function's docstring describes the choice. Raises
    `ValueError` for a name that is taken, a setting that every such network has, and a default without a type.
    """
    return _register("network", name, settings)


def register_exploration(name: str, **settings: Any) -> Callable[[Factory], Factory]:
    """Decorator: `exploration=<name>` chooses actions by what the function returns.

    The function is called with the numbers of actions A and of environments E and the settings by name, and returns a
    function (steps, coin, choice, q) -> E actions: `steps` so far, `coin` and `choice` E uniform numbers in [0, 1)
    each, the only ones that a run repeats, and `q()` the Q-values, NumPy [E, A]. It may not remember anything: a run
    that goes on would not. The rest is as of `register_torso`.
    """
    return _register("exploration", name, settings)


def _register(group: str, name: str, settings: Mapping[str, Any]) -> Callable[[Factory], Factory]:
    base = BASES[group]
    if not re.fullmatch(r"[a-zA-Z_]\w*", name) or name in CHOICES[group]:
        raise ValueError(f"{group}={name} is taken, or no name; write another one")
    own = [(key, *_field(group, key, default)) for key, default in settings.items()]

    def register(factory: Factory) -> Factory:
        text = str(factory.__doc__ or f"Of {factory.__module__}.")
        named = ("name", str, field(default=name))
        cls = make_dataclass(f"{name}_config", [named, *own], bases=(base,), kw_only=True, namespace={"__doc__": text})
        add_choice(group, name, cls)
        FACTORIES[group, name] = factory
        return factory

    return register


def _field(group: str, key: str, default: Any) -> tuple[type, Any]:
    made = default if isinstance(default, Field) else knob(default, "")
    value = made.default_factory() if callable(made.default_factory) else made.default
    kinds = {type(item) for item in value} if isinstance(value, list) else {type(value)}
    if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
        raise ValueError(f"{group}.{key}={value!r} has no type that a setting can have; write a number, a word, a list")
    if key in BASES[group].__dataclass_fields__:  # type: ignore[attr-defined]
        raise ValueError(f"{group}.{key} is a setting of every such choice; write another name")
    (kind,) = kinds
    return (list[kind] if isinstance(value, list) else kind), made  # type: ignore[valid-type]


def make(group: str, config: Any, *facts: Any) -> Any:
    """What the function behind a choice returns for these facts and the settings that are its own."""
    common = BASES[group].__dataclass_fields__  # type: ignore[attr-defined]
    own = {key: value for key, value in vars(config).items() if key not in common}
    return FACTORIES[group, config.name](*facts, **own)


def forget() -> None:
    """No module has been named: another command begins."""
    _loaded.clear()


def begin(argv: Sequence[str]) -> None:
    """Import the module that a command line names, so that what it registers is there. Raises `ConfigError`."""
    forget()
    for word in argv:
        key, _, module = word.lstrip("+").partition("=")
        if key != KEY or module in ("", "null"):
            continue
        if "," in module:
            raise ConfigError(f"{word} names several modules; write one that imports them all")
        load(module)


def load(module: str | None) -> None:
    """Import a module that the user named; None for none. Raises `ConfigError` where that fails."""
    if module is None or module in _loaded:
        return
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"{KEY}={module} cannot be imported ({one_line(error)}); "
            "install it, or name its folder in the environment variable PYTHONPATH"
        ) from error
    _loaded.add(module)


def require(config: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a configuration that nobody vouches for needs a module that was not named."""
    module = config.get(KEY)
    if isinstance(module, str) and module not in _loaded:
        raise ConfigError(f"parts of the run come from the module {module!r}; if you trust it, write {KEY}={module}")


def one_line(error: Exception) -> str:
    """An exception's class and message, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
