"""`dqn-eval`: play episodes with a checkpoint's policy.

Help and usage errors do not wait for torch. Of the checkpoint only data is read: neither its configuration nor its
environment's name makes this command import a module, unless the user writes that module too.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import dqn_cli
from dqn_cli import plugins
from dqn_cli.cli import protocols
from dqn_cli.cli.protocols import PROTOCOLS
from dqn_cli.config import (
    DEVICE_FORM,
    THREADS_FORM,
    AtariConfig,
    Config,
    EnvConfig,
    EvalConfig,
    GymConfig,
    check_ranges,
)
from dqn_cli.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from dqn_cli.training.checkpoint import Checkpoint

SCREENS = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}  # variables, one of which a window needs on Linux

# values that are refused before anything is loaded, and what to write instead
FORMS = {
    "select": (r"best|last|final|[0-9]{1,18}", "best, last, final or a step"),
    "protocol": ("|".join(PROTOCOLS), f"one of {', '.join(PROTOCOLS)}"),
    "render": ("human", "human"),
    "video": (r"(?is)(.*/)?[^/]+\.(mp4|webm|gif)", "a file's name that ends in .mp4, .webm or .gif"),
    "device": (DEVICE_FORM, "auto, cpu, or the name of a device"),
    "threads": (THREADS_FORM, "auto or a number"),
}


def main(argv: list[str]) -> int:
    """Run `dqn-eval` with the words after its name; returns the exit code 0, raises `UserError` for the others."""
    if {"--help", "-h"} & set(argv):
        print(usage())
    elif "--version" in argv:
        print(f"dqn-eval {dqn_cli.__version__}")
    else:
        _evaluate(*parse(argv))
    return 0


def usage() -> str:
    """One screen of help."""
    settings = []
    for f in fields(EvalConfig):
        settings.append(f"  {f'{f.name}={_default(f)}':<18}{f.metadata['text']}")
        if f.name == "protocol":
            settings += [f"{'':<20}{name:<10}{protocol.text}" for name, protocol in PROTOCOLS.items()]
    lines = [
        "usage: dqn-eval [checkpoint=]FOLDER [key=value ...] | --help | --version",
        "Play episodes with the policy of a checkpoint, or of a run folder's best one, and write eval.json.",
        "",
        *settings,
        "  dqn-eval runs/my_run select=final episodes=20 protocol=nature video=game.mp4",
    ]
    return "\n".join(lines)


def parse(argv: list[str]) -> tuple[EvalConfig, set[str]]:
    """The settings that `key=value` words stand for, and which of them were typed. Raises `ConfigError`.

    A value is taken as it is, so that paths may hold spaces, `=` and `${}`. The first word may be just the folder.
    """
    hints = get_type_hints(EvalConfig)
    given: dict[str, Any] = {}
    for position, word in enumerate(argv):
        key, equals, text = word.partition("=")
        if position == 0 and key not in hints and (Path(word).exists() or not (equals or word.startswith("-"))):
            key, text = "checkpoint", word
        elif word.startswith("-"):
            raise ConfigError(f"unknown option {word}; settings are written key=value, see dqn-eval --help")
        elif not equals:
            raise ConfigError(f"{word!r} is not understood; write key=value, and the folder as checkpoint={word}")
        elif key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"unknown key {key!r}; {remedy}")
        if key in given:
            raise ConfigError(f"{key} is given twice, {given[key]} and {text}; write one of them")
        given[key] = _value(key, text, hints[key])
    if "checkpoint" not in given:
        raise ConfigError("checkpoint= is missing; write checkpoint=<run folder or checkpoint folder>")
    settings = EvalConfig(**given)
    check_ranges(settings)
    _refuse_contradictions(settings, given.keys())
    if "episodes" not in given:
        settings.episodes = PROTOCOLS[settings.protocol].episodes if settings.video is None else 1
    if settings.render or settings.video:
        settings.num_envs = 1
    return settings, set(given)


def _refuse_contradictions(settings: EvalConfig, given: Collection[str]) -> None:
    """Raise `ConfigError` for settings that do not go together."""
    if settings.epsilon is not None and settings.protocol != "run":
        raise ConfigError(
            f"epsilon={settings.epsilon:g} contradicts protocol={settings.protocol}, which has its own; "
            "remove one of them"
        )
    if settings.render and settings.video:
        raise ConfigError(f"render=human and video={settings.video} cannot both be had; remove one of them")
    shows_one = "render=human" if settings.render else "a video" if settings.video else None
    if shows_one and settings.num_envs != 1 and "num_envs" in given:
        raise ConfigError(f"num_envs={settings.num_envs} would do nothing: {shows_one} shows one; remove it")
    if settings.render and sys.platform == "linux" and not SCREENS & {*os.environ}:
        raise ConfigError("render=human needs a screen, and DISPLAY is not set; write video=out.mp4")


def _value(key: str, text: str, hint: Any) -> Any:
    """Text as what the setting takes; null where that is possible."""
    if text == "null" and hint in (str | None, float | None):
        return None
    if not text:
        raise ConfigError(f"{key}= has no value; write one, or leave it out")
    if hint in (int, float | None):
        try:
            return int(text) if hint is int else float(text)
        except ValueError:
            if hint is int and re.fullmatch(r"[0-9]+([.][0-9]+)?[eE]\+?[0-9]{1,2}", text) and float(text).is_integer():
                return int(float(text))
            kind = "an integer" if hint is int else "a number"
            raise ConfigError(f"{key}={text} is not {kind}") from None
    if key in FORMS and not re.fullmatch(FORMS[key][0], text):
        raise ConfigError(f"{key}={text} is not possible; write {FORMS[key][1]}")
    return text


def _default(f: Field[Any]) -> str:
    if f.name == "checkpoint":
        return "FOLDER"
    return "null" if f.default is None else f"{f.default:g}" if isinstance(f.default, float) else str(f.default)


def trusted(data: Mapping[str, Any], source: Path) -> Config:
    """A run's configuration from data that nobody vouches for: valid, and with no module in its environment's id.

    Raises `ConfigError` where a plugin has to be written; else `CheckpointError`, with `source` for where it is from.
    """
    from dqn_cli.settle import settle
    from dqn_cli.validate import typed

    plugins.require(data)
    try:
        config = typed(data)
        settle(deepcopy(config), ())  # it may clip, and what was trained with counts
    except Exception as error:  # data that nobody vouches for may break a parser in any way
        raise CheckpointError(f"{source}: not a run's configuration: {error}") from error
    if ":" in config.env.id:
        raise CheckpointError(f"{source}: env.id={config.env.id} would import a module; it is not loaded")
    return config


def trusted_config(checkpoint: Checkpoint, folder: Path, module: str | None) -> Config:
    """The run's configuration, valid, and with no module in it but the one that the user wrote.

    Raises `CheckpointError` where it is not valid, `ConfigError` where a module has to be written.
    """
    config = trusted(checkpoint.config, folder / "config.json")
    if isinstance(config.env, GymConfig):
        if config.env.module is not None and module is None:
            raise ConfigError(
                f"the environment comes from the module {config.env.module!r}; "
                f"if you trust it, write module={config.env.module}"
            )
        config.env.module = module
    return config


def _played(settings: EvalConfig, env: EnvConfig) -> EnvConfig:
    """The environment that is played: under the protocol's rules, and on an engine that can show it if it is shown."""
    from dqn_cli.envs.lanes import showable

    env = protocols.under(settings.protocol, env)
    return showable(env) if isinstance(env, AtariConfig) and (settings.render or settings.video) else env


@contextmanager
def _counted(episodes: int) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many episodes are through, by what is called with their number."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as view:
        task = view.add_task("", total=episodes)
        yield lambda done: view.update(task, completed=done)


def _evaluate(settings: EvalConfig, given: set[str]) -> None:
    """Find, read, play, print, write."""
    plugins.forget()
    plugins.load(settings.plugin)
    from dqn_cli.build import evaluate_checkpoint
    from dqn_cli.cli.eval_report import facts, result_folder, table, write_files
    from dqn_cli.envs.lanes import whole_games
    from dqn_cli.training import checkpoint as checkpoints

    path = Path(settings.checkpoint)
    folder = checkpoints.find(path, settings.select)
    if folder == path and "select" in given:
        raise ConfigError(f"select={settings.select} would do nothing, {path} is a checkpoint already; remove it")
    checkpoint = checkpoints.read(folder, optimizer=False)
    if settings.plugin is not None and checkpoint.config.get(plugins.KEY) is None:
        raise ConfigError(f"{plugins.KEY}={settings.plugin} would do nothing, the run has none; remove it")
    config = trusted_config(checkpoint, folder, settings.module)
    config.env = whole_games(_played(settings, config.env))
    if settings.epsilon is None:
        settings.epsilon = protocols.epsilon(settings.protocol, config)
    had = settings.out is not None and Path(settings.out).exists()
    out = result_folder(folder, settings)
    try:
        with _counted(settings.episodes) as watch:
            result = evaluate_checkpoint(checkpoint, config, settings, watch)
    except BaseException:
        with suppress(OSError):  # nothing was played: what was made for it and is empty goes
            if not had:
                out.rmdir()
            if settings.out is None:
                out.parent.rmdir()
        raise
    content = facts(folder, checkpoint.step, config, settings, result)
    write_files(out, content, result)
    no_best = folder != path and settings.select == "best" and not folder.name.startswith("best-")
    written = {"written": f"{out}/eval.json", "video": settings.video or ""}
    print(table(content, result, folder, " (the run has no best one)" if no_best else "", written))
