"""The command line before Hydra reads it: friendlier to write, and refused in one line where it is wrong."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dqn_cli.cli.paths import OWN_WORDS, WITHOUT, choices, in_short
from dqn_cli.config import CHOICES
from dqn_cli.errors import ConfigError
from dqn_cli.validate import SECTIONS, SETTINGS, check_key, similar_settings, suggestion

GROUPS = (*CHOICES, "family", "experiment")  # those that every run has a choice of
CHOSEN = (*GROUPS, WITHOUT)  # those that take the name of a file
OWN_FLAGS = ("--list",)
MULTIRUN = frozenset({"-m", "--multirun", "hydra.mode=MULTIRUN"})  # words, one of which makes a sweep
_POWER_OF_TEN = re.compile(r"(?<![\w.])\d+(?:\.\d+)?[eE]\+?\d+(?![\w.])")


def clean(argv: Sequence[str]) -> list[str]:
    """What Hydra understands of what a user writes: `1e6` for whole numbers, `+key`, new arguments, paths with `=`."""
    return [arg if arg.startswith(("-", "~")) else _clean_override(arg) for arg in argv]


def _clean_override(arg: str) -> str:
    key, eq, value = arg.partition("=")
    if not eq or key.lstrip("+").startswith("hydra"):
        return arg
    key = key.lstrip("+")  # there is nothing to append to: every setting exists, with its default
    if key == WITHOUT:  # it is in no list of defaults: what is left out has the last word among the files
        return f"+{key}={value}"
    if key == "env.kwargs" or key.startswith("env.kwargs."):
        return f"++{key}={_whole(value)}"
    if key == "init_from" and value and (path := Path(value).expanduser()).exists():
        escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
        return f'{key}="{escaped}"'
    return f"{key}={_whole(value)}"


def _whole(value: str) -> str:
    def digits(match: re.Match[str]) -> str:
        number = float(match[0])
        return str(int(number)) if number.is_integer() else match[0]

    return _POWER_OF_TEN.sub(digits, value)


def check(argv: Sequence[str]) -> list[str]:
    """`argv` with the flags first, the only order in which Hydra takes every mixture.

    Raises `ConfigError` for whatever can be refused without composing.
    """
    parser = get_args_parser()
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see dqn-train --help")

    parser.error = refuse  # type: ignore[method-assign]
    args, unknown = parser.parse_known_intermixed_args(argv)
    for flag in unknown:
        raise _unknown_flag(flag, [name for action in parser._actions for name in action.option_strings])
    _check_flags(args)
    if not args.shell_completion:  # what is being completed is not finished
        sweeping = args.multirun or "hydra.mode=MULTIRUN" in args.overrides
        overrides = parse(args.overrides)
        for override in overrides:
            _check_override(override, sweeping)
        _check_once(overrides)
    return [*(arg for arg in argv if arg not in args.overrides), *args.overrides]


def _check_flags(args: argparse.Namespace) -> None:
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun would unpickle a file; write the settings themselves")
    modes = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    if len(together := [flag for flag, given in modes.items() if given]) > 1:
        raise ConfigError(f"{' and '.join(together)} cannot be used together; write one of them")
    if args.resolve and not args.cfg:
        raise ConfigError("--resolve does nothing without --cfg; write --cfg job --resolve")
    asked = re.fullmatch(r"((un)?install|(?P<query>query))=(bash|zsh|fish)", " ".join(args.overrides))
    if args.shell_completion and (asked is None or (asked["query"] and "COMP_LINE" not in os.environ)):
        raise ConfigError("-sc takes install= or uninstall= and a shell (query is the shell's); write -sc install=bash")


def _unknown_flag(flag: str, flags: Sequence[str]) -> ConfigError:
    key, eq, value = flag.lstrip("-").partition("=")
    if key in (*CHOSEN, *SETTINGS, *OWN_WORDS):
        return ConfigError(f"{flag} is not a flag: settings have no dashes; write {key}={value if eq else '...'}")
    key = key.replace("-", "_")
    setting = f"{near} Settings have no dashes" if (near := similar_settings(key)) else ""
    named = any(key == name.rpartition(".")[2] for name in SETTINGS)  # --lr is optimizer.lr rather than -r
    meant = setting if named else suggestion(flag.partition("=")[0], [*flags, *OWN_FLAGS]) or setting
    return ConfigError(f"unknown flag {flag}{meant or '; see dqn-train --help'}")


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of each `key=value`; `ConfigError` where there is none."""
    parser = OverridesParser.create()
    return [_parse_one(parser, text) for text in overrides]


def _parse_one(parser: OverridesParser, text: str) -> Override:
    seen = text.lstrip("+")
    key, eq, value = seen.partition("=")
    if seen.startswith("~"):
        raise ConfigError(f"{seen}: settings cannot be deleted; write {key.lstrip('~')}=... or leave it out")
    if not eq or not key:
        raise _not_a_setting(seen)
    if not value:
        raise ConfigError(f"{seen} has no value; write {key}=<value>, without spaces")
    if digits := re.search(r"\d{31,}", value):
        raise ConfigError(f"{key}={value[:12]}... has a number of {len(digits[0])} digits; write a smaller one")
    try:
        return parser.parse_overrides([text])[0]
    except HydraException:
        quoted = "'" + key + '="..."' + "'"
        raise ConfigError(f"{seen} cannot be read; put a value with special characters in quotes: {quoted}") from None


def _not_a_setting(word: str) -> ConfigError:
    """A word without `key=`: a choice by its name alone, a setting without its value, or neither."""
    for group in CHOSEN:
        for name in choices(group):
            if name.casefold() == word.casefold():
                return ConfigError(f"{word} is not a setting; write {group}={name}")
    if word in (*CHOSEN, *SETTINGS):
        return ConfigError(f"{word} has no value; write {word}=<value>, without spaces")
    return ConfigError(f"'{word}' is not understood; write settings as key=value, see dqn-train --help")


def _check_once(overrides: Sequence[Override]) -> None:
    seen: dict[str, str] = {}
    for override in overrides:
        text = str(override.input_line).lstrip("+")
        for key in keys(override):
            if key in seen:
                raise ConfigError(f"{key} is given twice, by {seen[key]} and {text}; write one of them")
            seen[key] = text


def _check_override(override: Override, sweeping: bool) -> None:
    text = str(override.input_line).lstrip("+")
    if override.is_sweep_override() and not sweeping:
        raise ConfigError(f"{text} lists several values; write -m before it to run them all")
    if (name := override.key_or_group).startswith("hydra"):
        a_choice = (name == "hydra" or "/" in name) and not override.is_sweep_override()
        if a_choice and not isinstance(override.value(), str):
            raise ConfigError(f"{text}: {name} takes one name")
        return
    for key in keys(override):
        group, _, leaf = key.partition(".")
        a_group = key in CHOSEN
        if a_group and not override.is_sweep_override() and not _names(key, override.value()):
            raise ConfigError(f"{text}: {key} takes one name; write one of {in_short(choices(key))}")
        if a_group or key.startswith("env.kwargs."):
            continue
        if leaf == "name" and group in CHOICES:
            raise ConfigError(f"{key} is not a setting; write {group}=...")
        if key in OWN_WORDS:  # which dqn-train has taken before
            raise ConfigError(f"{text}: {key} is a word of dqn-train alone; remove it")
        if key in SECTIONS:
            raise ConfigError(f"{text}: {key} is a group of settings; write {key}.<setting>=...")
        check_key(key, {})


def _names(group: str, value: Any) -> bool:
    """Whether `value` is a choice's name, or, where several can be left out, a list of them."""
    several = group == WITHOUT and isinstance(value, list)
    return all(isinstance(name, str) for name in value) if several else isinstance(value, str)


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """The dotted keys that these overrides set."""
    return {key for override in parse(overrides) for key in keys(override)}


def keys(override: Override) -> list[str]:
    """The dotted keys that an override sets: several where its value is a dictionary."""
    key = override.key_or_group
    if override.package:
        key = f"{key}@{override.package}"
    value = override.value() if not override.is_sweep_override() else None
    return list(_leaves(key, value)) if key in SECTIONS and key not in GROUPS else [key]


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key
