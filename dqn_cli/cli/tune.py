"""`dqn-tune`: search for settings. Everything that can be refused is, before a study's folder is made."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import dqn_cli
from dqn_cli.cli.arguments import CHOSEN, check, clean, typed_keys
from dqn_cli.cli.paths import (
    OWN_WORDS,
    choices,
    config_folders,
    env_folder,
    file_of,
    job_folder,
    method_folder,
    take_folders,
)
from dqn_cli.cli.preflight import preflight
from dqn_cli.cli.tune_trials import Plan, composed, composing, config_of
from dqn_cli.config import Config, check_ranges
from dqn_cli.cores import usable_cores
from dqn_cli.errors import ConfigError, UserError
from dqn_cli.tuning.settings import Pruner, TuneConfig
from dqn_cli.tuning.space import GROUPS, Choices, Space, load
from dqn_cli.validate import suggestion, wrong_value

SEARCH, PREFIX, COLUMNS = "search", "tune.", 80


def main(argv: Sequence[str]) -> int:
    """Run `dqn-tune` with the words after its name; the exit code. Raises user errors."""
    if {"--help", "-h"} & {*argv}:
        print(usage())
        return 0
    if "--version" in argv:
        print(f"dqn-tune {dqn_cli.__version__}")
        return 0
    from dqn_cli.cli.tune_jobs import tune

    return tune(make_plan(argv))


def usage() -> str:
    """One screen of help."""
    lines = []
    for f in fields(TuneConfig):
        default = "null" if f.default is None else f.default
        head = f"  {f'{PREFIX}{f.name}={default}':<22}"
        lines.append(textwrap.fill(f.metadata["text"], COLUMNS, initial_indent=head, subsequent_indent=" " * 24))
    return "\n".join(
        [
            "usage: dqn-tune search=NAME [KEY=VALUE ...] [tune.KEY=VALUE ...]",
            "  dqn-tune env=CartPole search=cartpole run.total_steps=20_000 tune.jobs=2",
            "",
            "Tries the settings of a search space, each trial an ordinary run of dqn-train",
            "with the same words, and writes the best ones as a preset. The same command",
            "again goes on where it stopped, and shares the trials where it runs several",
            "times at once, also on several machines with a common disk that has file locks.",
            "",
            textwrap.fill(
                f"{', '.join(choices(SEARCH))}, or FILE.yaml",
                COLUMNS,
                initial_indent=f"  {'search=':<22}",
                subsequent_indent=" " * 24,
            ),
            *lines,
            "",
            "All other settings are those of dqn-train, see dqn-train --help; without",
            "threads=... a process has one thread.",
        ]
    )


def make_plan(argv: Sequence[str]) -> Plan:
    """What the words ask for, checked at the ends of everything that is searched. Raises user errors."""
    words, search, settings, given = take(take_folders(argv))
    file = search_file(search)
    space = load(file)
    if both := typed_keys(words) & {*space}:
        raise ConfigError(f"{min(both)} is searched by search={search}; leave out {min(both)}=...")
    if not typed_keys(words) & {"threads"}:
        words = [*words, "threads=1"]
    with composing():
        job, config = composed(*words), checked(words, {})
        seed, words = config.seed, [word for word in words if not word.startswith("seed=")]
        _check_cores(settings, config)
        _check_pruner(settings, config, given)
        check_ends(words, space, search)
        chosen = job.hydra.runtime.choices
        name = "_".join(
            [
                env_folder(str(chosen["env"]), config.env.id),
                method_folder(chosen["experiment"], str(chosen["variant"])),
                job_folder(Path(search).stem),
            ]
        )
    folder = Path("runs", "tune", name) if settings.dir is None else Path(settings.dir).expanduser()
    own = [*map(str, config_folders())]
    return Plan(words, config, seed, search, space, settings, folder, ["dqn-tune", *argv], own)


def take(argv: Sequence[str]) -> tuple[list[str], str, TuneConfig, set[str]]:
    """The words of dqn-train, the search space, the settings of the search, and which of them were typed.

    Raises `ConfigError`.
    """
    words: list[str] = []
    own: dict[str, str] = {}
    known = [SEARCH, *(f"{PREFIX}{f.name}" for f in fields(TuneConfig))]
    for word in argv:
        key, equals, value = word.lstrip("+").partition("=")
        if key in known:
            if key in own:
                raise ConfigError(f"{key} is given twice, by {key}={own[key]} and {word}; write one of them")
            if not value:
                raise ConfigError(f"{key} has no value; write {key}=<value>, without spaces")
            own[key] = value
        elif key.startswith(PREFIX) or key == PREFIX[:-1]:
            raise ConfigError(f"unknown setting {key}{suggestion(key, known)}; see dqn-tune --help")
        elif word.startswith("-"):
            raise ConfigError(f"{word} is not a flag of dqn-tune; see dqn-tune --help")
        elif key.startswith("hydra"):
            raise ConfigError(f"{key} does nothing here: a study has a folder of its own; write tune.dir=<folder>")
        elif key in OWN_WORDS:
            raise ConfigError(f"{word}: {key} is a word of dqn-train alone; remove it")
        elif equals and key not in CHOSEN and difflib.get_close_matches(key, [SEARCH], cutoff=0.8):
            raise ConfigError(f"unknown setting {key}; did you mean {SEARCH}?")
        else:
            words.append(word)
    if SEARCH not in own:
        raise ConfigError(f"{SEARCH}= is missing; write {SEARCH}=<one of {', '.join(choices(SEARCH))}, or FILE.yaml>")
    check(clean(words))
    search = own.pop(SEARCH)
    return words, search, _settings({key.removeprefix(PREFIX): value for key, value in own.items()}), {*own}


def _settings(own: Mapping[str, str]) -> TuneConfig:
    settings = TuneConfig()
    for key, value in own.items():
        if key == "dir":  # as it is: a path may hold any letter
            settings.dir = None if value == "null" else value
            continue
        text = clean([f"{key}={value}"])[0].partition("=")[2]  # 1e3 is a whole number too
        try:
            settings = _merged(settings, key, text)
        except OmegaConfBaseException as error:
            text, _, _ = str(wrong_value(error, f"{PREFIX}{key}={value}")).partition("; see dqn-train")
            raise ConfigError(f"{text}; see dqn-tune --help") from None
    check_ranges(settings, PREFIX)
    return settings


def _merged(settings: TuneConfig, key: str, text: str) -> TuneConfig:
    merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(settings), {key: text}))
    assert isinstance(merged, TuneConfig)
    return merged


def search_file(search: str) -> Path:
    """The YAML file of a search space: by name, or as it is. Raises `ConfigError`."""
    if search in choices(SEARCH):
        return file_of(SEARCH, search)
    path = Path(search).expanduser()
    if search.endswith((".yaml", ".yml")):
        if path.is_file():
            return path
        raise ConfigError(f"search={search} does not exist; write a YAML file, or one of {', '.join(choices(SEARCH))}")
    meant = suggestion(search, choices(SEARCH)) or f"; write one of {', '.join(choices(SEARCH))}, or FILE.yaml"
    raise ConfigError(f"unknown search {search}{meant}")


def checked(words: Sequence[str], values: Mapping[str, str]) -> Config:
    """The run of these words and values, through every check of dqn-train. Raises user errors."""
    config = config_of(words, values)
    preflight(config, typed_keys(clean(words)) | {*values})
    return config


def check_ends(words: Sequence[str], space: Space, search: str) -> None:
    """Hold every end of the search space, one at a time, against all rules. Raises `ConfigError`."""
    # a choice of a group may be what the other keys need, so that those are tried with its first one
    first = {key: one.words[0] for key, one in space.items() if isinstance(one, Choices) and key in GROUPS}
    for key, one in space.items():
        for end in one.ends():
            try:
                checked(words, {**first, key: end})
            except UserError as error:
                raise ConfigError(f"search={search} tries {key}={end}: {error}") from error


def _check_cores(settings: TuneConfig, config: Config) -> None:
    if settings.jobs == 1:
        return
    if not config.threads.isdecimal():
        raise ConfigError(f"threads={config.threads} is not for tune.jobs={settings.jobs}; write threads=1")
    cores, wanted = usable_cores(), settings.jobs * int(config.threads)
    if wanted > cores:
        raise ConfigError(
            f"tune.jobs={settings.jobs} with threads={config.threads} needs {wanted} cores, {cores} are ours; "
            f"write tune.jobs={max(cores // int(config.threads), 1)}"
        )


def _check_pruner(settings: TuneConfig, config: Config, given: set[str]) -> None:
    """Trials are pruned by what their evaluations say: where there is only the last one, none is."""
    period = config.run.eval_every_steps
    if settings.pruner is Pruner.none or (period is not None and period < config.run.total_steps):
        return
    if f"{PREFIX}pruner" in given:
        seen = f"run.eval_every_steps={'null' if period is None else period}"
        raise ConfigError(
            f"tune.pruner={settings.pruner} does nothing with {seen}, one evaluation at the end; "
            "write fewer steps between evaluations, or tune.pruner=none"
        )
    settings.pruner = Pruner.none
