"""`dqn-train resume=<run folder>`: a run goes on where it stopped, configured as it was. No Hydra application.

Of the folder only data is read: neither its configuration nor its environment's name makes this command import a
module, unless the user writes that module too.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from dqn_cli.cli.arguments import CHOSEN, MULTIRUN, check, clean, keys, parse
from dqn_cli.cli.paths import OWN_WORDS
from dqn_cli.config import Config
from dqn_cli.errors import ConfigError
from dqn_cli.settle import settle
from dqn_cli.validate import SETTINGS, plain, typed

if TYPE_CHECKING:
    from dqn_cli.cli.way import Way

KEY, ENV, OVERRIDE = "resume", "resume_env", "resume_override"
AUTO = "auto"
VALUES = {ENV: ("exact", "restart"), OVERRIDE: ("true", "false")}


@dataclass(frozen=True)
class Asked:
    """What was asked for: the folder, or `auto`; how the environments come back; whether other settings are meant."""

    folder: str
    env: str = "exact"
    override: bool = False


def take(argv: Sequence[str]) -> tuple[list[str], Asked | None]:
    """`argv` without its `resume=` and what belongs to it, which no settings are, and what they ask for.

    Raises `ConfigError` where that is not understood.
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    for word in argv:
        key, _, value = word.lstrip("+").partition("=")
        if key not in (KEY, ENV, OVERRIDE):
            _refuse_misspelt(key)
            rest.append(word)
            continue
        if key in found:
            raise ConfigError(f"{key} is given twice, by {key}={found[key]} and {word}; write one of them")
        if not value:
            raise ConfigError(f"{key} has no value; write {key}={'|'.join(VALUES.get(key, ('<run folder>', AUTO)))}")
        if value not in VALUES.get(key, (value,)):
            raise ConfigError(f"{word} is not one of {', '.join(VALUES[key])}; write {key}={VALUES[key][0]}")
        found[key] = value
    if KEY in found:
        return rest, Asked(found[KEY], found.get(ENV, VALUES[ENV][0]), found.get(OVERRIDE) == "true")
    for key, value in found.items():
        raise ConfigError(f"{key}={value} does nothing without {KEY}=...; remove it, or write {KEY}=<run folder>")
    return rest, None


def _refuse_misspelt(key: str) -> None:
    if key in SETTINGS or key in CHOSEN or key in OWN_WORDS or key.startswith("-"):
        return
    if near := get_close_matches(key, (KEY, ENV, OVERRIDE, "rerun"), n=1, cutoff=0.8):
        raise ConfigError(f"unknown setting {key}; did you mean {near[0]}?")


def run(asked: Asked, words: Sequence[str]) -> int:
    """Go on with the run in the folder that is asked for, with these settings changed: 0. Raises user errors."""
    # here, since every command line goes through `take`, and --cfg or a completion should not wait for environments
    from dqn_cli.cli.job import carry_out
    from dqn_cli.cli.runs import locate
    from dqn_cli.cli.way import finished_at, go_on

    overrides = _overrides(asked, words)
    typed_keys = {key for override in overrides for key in keys(override)}
    folder, stands = locate(asked.folder)
    if stands.finished and stands.step is not None and not overrides:
        print(finished_at(stands.step))
        return 0
    values = {override.key_or_group: override.value() for override in overrides}
    module = str(values["env.module"]) if values.get("env.module") is not None else None

    def wanted(stored: Config) -> Config:
        config = changed(stored, overrides)
        settle(deepcopy(config), typed_keys)  # nothing is clipped that is in use
        return config

    def choose() -> Way:
        return go_on(folder, asked, module, wanted)

    how = [f"{ENV}={asked.env}"] if asked.env != VALUES[ENV][0] else []
    carry_out(choose, [*words], folder, ["dqn-train", f"{KEY}={asked.folder}", *how, *words])
    return 0


def _overrides(asked: Asked, words: Sequence[str]) -> list[Override]:
    """The settings among the words; `ConfigError` for whatever a run that goes on cannot take."""
    resumed = f"{KEY}={asked.folder}"
    if MULTIRUN & {*words}:
        raise ConfigError(f"{resumed} continues one run; remove -m (a sweep goes on with its own command again)")
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        if word.startswith("-"):
            raise ConfigError(f"{word} cannot be used with {resumed}; remove one of them")
        if key.startswith("hydra"):
            raise ConfigError(f"{key} does nothing with {resumed}, which stays in its folder; remove it")
        if key == "init_from":
            raise ConfigError(
                f"{word} and {resumed} cannot both be had: a run goes on with its own weights; remove one"
            )
        if key in CHOSEN or key == "ablate":
            raise ConfigError(f"{resumed} takes its settings from the run; remove {word}")
    return settings(words, f"{resumed} continues one run")


def settings(words: Sequence[str], why: str) -> list[Override]:
    """The words as settings of one run, checked one by one; `why` is what several values are told."""
    cleaned = clean(words)
    overrides = parse(cleaned)
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line} lists several values, {why}; write one value")
    check(cleaned)
    return overrides


def changed(stored: Config, overrides: Sequence[Override]) -> Config:
    """The stored configuration with what was typed in its place. Raises `ConfigError`."""
    data = plain(stored)
    for override in overrides:
        place: dict[str, Any] = data
        *sections, name = override.key_or_group.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = override.value()
    return typed(data)
