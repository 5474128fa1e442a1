"""From plain data to dataclasses, or to one line that says why not: names, choices and types. Imports no torch.

Ranges are checked by `config.check_ranges`, rules between groups by `settle.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, asdict, fields
from difflib import get_close_matches
from enum import Enum
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.config import CHOICES, Config, MunchausenConfig, RunConfig
from dqn_cli.errors import ConfigError

PLAIN_SECTIONS: dict[str, type] = {"munchausen": MunchausenConfig, "run": RunConfig}  # without choices
SECTIONS = (*CHOICES, *PLAIN_SECTIONS)
_NAMES = {(group, "name") for group in CHOICES}
ENV_KINDS = {"gym": "other environments", "atari": "Atari games", "minatar": "MinAtar's games"}


def _all_settings() -> dict[str, dict[str, Field[Any]]]:
    settings: dict[str, dict[str, Field[Any]]] = {}
    plain = {section: {"": cls} for section, cls in PLAIN_SECTIONS.items()}
    sections: dict[str, dict[str, type]] = {**CHOICES, **plain, "": {"": Config}}
    for section, choices in sections.items():
        for choice, cls in choices.items():
            for f in fields(cls):
                if f.metadata:  # a knob, not a section or a choice's name
                    settings.setdefault(f"{section}.{f.name}".lstrip("."), {})[choice] = f
    return settings


# dotted key -> the choices of its group that have it ("" where the group has no choices) -> field
SETTINGS = _all_settings()


def add_choice(group: str, name: str, cls: type) -> None:
    """One more choice of a group, with its settings. Raises `ValueError` for a setting of another form elsewhere."""
    own = {f"{group}.{f.name}": f for f in fields(cls) if f.metadata}
    for key, f in own.items():
        kinds = {_form(other) for other in [*SETTINGS.get(key, {}).values(), f]}
        if len(kinds) > 1:
            raise ValueError(f"{key} is a list elsewhere and not here, or the other way round; write another name")
    CHOICES[group][name] = cls
    for key, f in own.items():
        SETTINGS.setdefault(key, {})[name] = f


def typed(data: Mapping[str, Any]) -> Config:
    """Dataclasses, each group's chosen by its `name`, from plain data: Hydra's, or a checkpoint's JSON.

    Raises `ConfigError` for unknown keys, wrong types, missing values and strings that would be evaluated.
    """
    _refuse_interpolations("", data)
    config = Config(**{group: _choice(group, data.get(group))() for group in CHOICES})
    chosen = {group: getattr(config, group).name for group in CHOICES}
    for key, value in _leaves(data):
        check_key(key, chosen)
        _check_container(key, value)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(config), dict(data))
        for key in sorted(OmegaConf.missing_keys(merged)):
            raise ConfigError(f"{key} has no value; write {key}=...{', such as CartPole-v1' * (key == 'env.id')}")
        return cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise wrong_value(error, error.full_key or "configuration") from None


def plain(config: Config) -> dict[str, Any]:
    """JSON-able data that `typed` turns into the same configuration again."""
    return cast(dict[str, Any], _plain(asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _refuse_interpolations(key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_interpolations(f"{key}.{name}".lstrip("."), item)
    elif isinstance(value, list):
        for item in value:
            _refuse_interpolations(key, item)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{key}={value} would be evaluated; write the value itself")


def _choice(group: str, section: Any) -> type:
    name = section.get("name") if isinstance(section, Mapping) else section
    if isinstance(section, Mapping) and isinstance(name, str) and name in CHOICES[group]:
        return CHOICES[group][name]
    raise ConfigError(f"{group}={name} is not a choice; write one of {', '.join(CHOICES[group])}")


def _leaves(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if name not in SECTIONS:
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{leaf}", item) for leaf, item in value.items() if (name, leaf) not in _NAMES)
        else:
            raise ConfigError(f"{name}={value} is not a group of settings; write {name}.<setting>=...")


def _check_container(key: str, value: Any) -> None:
    kind = _container(key)
    if value is None and kind == "list":  # whether null is possible is OmegaConf's to say
        return
    nested = kind == "list" and isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value)
    if nested or (kind == "list") != isinstance(value, list) or (kind == "dict") != isinstance(value, Mapping):
        raise _wrong_form(key, f"{key}={value}")


def _container(key: str) -> str:
    return _form(next(iter(SETTINGS[key].values())))


def _form(f: Field[Any]) -> str:
    """list, dict, or the name of a type that is neither."""
    form = str(f.type).partition("[")[0]
    return form if form in ("list", "dict") else ""


def _wrong_form(key: str, seen: str) -> ConfigError:
    form = {"list": f"{key}=[64,64]", "dict": f"{key}.x=1"}.get(_container(key), f"{key}=...")
    return ConfigError(f"{seen} has the wrong form; write {form}, see dqn-train --help {key}")


def check_key(key: str, chosen: Mapping[str, str]) -> None:
    """Raise `ConfigError` for a key that nothing has, or that the `chosen` choice of its group does not have."""
    group, owners = key.partition(".")[0], SETTINGS.get(key)
    if owners is None:
        where = "dqn-train --cfg hydra" if group == "hydra" else "dqn-train --list settings"
        raise ConfigError(f"unknown setting {key}{similar_settings(key) or f'; see {where}'}")
    if group in chosen and chosen[group] not in owners:
        if group == "env":
            kinds = " and ".join(ENV_KINDS[owner] for owner in owners)
            raise ConfigError(f"{key} does nothing here: it belongs to {kinds}; remove it")
        raise ConfigError(
            f"{key} does nothing with {group}={chosen[group]}: it belongs to {', '.join(owners)}; "
            "remove it or use one of those"
        )


def suggestion(word: str, words: Collection[str], cutoff: float = 0.6) -> str:
    """`; did you mean X?` with the nearest of `words`, whatever their case; empty where none is near."""
    folded = {w.casefold(): w for w in words}
    near = get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    return f"; did you mean {folded[near[0]]}?" if near else ""


def similar_settings(key: str) -> str:
    """`; did you mean X?` with the settings that `key` may stand for: by name, by meaning, by likeness; else empty."""
    words = f" {key.rpartition('.')[2].replace('_', ' ')} ".casefold()
    same = [name for name in SETTINGS if name.rpartition(".")[2].replace("_", " ") == words.strip()]
    meant = same or [name for name, owners in SETTINGS.items() for f in owners.values() if words in _text(f)]
    if 0 < len(set(meant)) <= 2:
        return f"; did you mean {' or '.join(dict.fromkeys(meant))}?"
    leaves = {name.rpartition(".")[2]: name for name in SETTINGS}
    near = get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.8)
    return (
        f"; did you mean {leaves[near[0]]}?"
        if near
        else suggestion(key, SETTINGS if "." in key else [*SETTINGS, *SECTIONS], cutoff=0.65)
    )


def _text(f: Field[Any]) -> str:
    return f" {f.metadata['text']} ".replace(",", " ").casefold()


_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def wrong_value(error: OmegaConfBaseException, seen: str) -> ConfigError:
    """The line for a value that OmegaConf refused; `seen` is the setting, `key` or `key=value`."""
    text, key = str(error).splitlines()[0], re.split(r"[=\[]", seen)[0]
    see = "dqn-train --cfg hydra" if key.startswith("hydra") else f"dqn-train --help {key}"
    if match := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        return ConfigError(f"{key}={match[1]} is not {_KINDS.get(match[2], match[2])}; see {see}")
    if match := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", text):
        return ConfigError(f"{key}={match[1]} is not one of {match[2]}{suggestion(match[1], match[2].split(', '))}")
    if "not Optional" in text or "'None'" in text:
        return ConfigError(f"{key}=null is not possible; write a value or leave it out")
    if key in SETTINGS and re.search("ListConfig|Cannot assign|Invalid type assigned", text):
        return _wrong_form(key, seen)
    return ConfigError(f"{seen} is wrong ({text}); see {see}")
