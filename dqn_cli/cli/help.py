"""Help that fits on a screen, and lists: computed from the dataclasses and the Hydra tree, without importing Hydra."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import MISSING, Field
from enum import Enum
from typing import Any

import omegaconf

import dqn_cli
from dqn_cli.cli.paths import OWN_WORDS, WITHOUT, choices, file_of, in_short
from dqn_cli.config import CHOICES, Range
from dqn_cli.errors import ConfigError
from dqn_cli.validate import ENV_KINDS, SETTINGS, check_key, suggestion

GROUPS = ("env", "variant", "network", "value", "replay", "exploration", "optimizer", "experiment")
MIN_COLUMNS = 40
LISTS = {f"{group}s": group for group in GROUPS} | {"settings": ""}

OVERVIEW = """\
usage: dqn-train [--version] [-m] [resume=X] [KEY=VALUE ...]
  dqn-train env=CartPole variant=ddqn
  dqn-train -m experiment=rainbow ablate=each (a sweep)

{groups}

-m, --multirun    run every combination of a,b,c
--list WHAT       {lists}
--help KEY        a setting, a group such as run, or resume
--cfg job         all settings; --info defaults: their files
{completion}"""

PLAN_OVERVIEW = """\
usage: dqn-plan [-m] [--no-probe] [KEY=VALUE ...]
  dqn-plan experiment=dopamine env=Pong
  dqn-plan --no-probe env=Taxi variant=qlearning run.total_steps=1e5
  dqn-plan -m variant=tdqn,ddqn num_envs=1,8      (a sweep)

What dqn-train would do with the same arguments, without doing it: each setting
and where its value comes from, updates, target syncs, epsilon, memory, disk,
parameters, the time that it would take, and what was clipped. What dqn-train
refuses is refused in the same words. Nothing is written.

-m, --multirun    a line for every combination of a,b,c, without their time
--no-probe        do not try for some seconds how fast it runs: an answer at
                  once, but device, threads and init_from are not tried either
--version         print the version

Settings, lists and all the rest are those of dqn-train: see dqn-train --help"""


def version(program: str) -> str:
    """Program and version."""
    return f"{program} {dqn_cli.__version__}"


def overview(columns: int | None = None) -> str:
    """The help: what can be written, on one screen."""
    columns = max(columns or shutil.get_terminal_size().columns, MIN_COLUMNS)
    groups = [_hanging(f"{group}=", in_short(choices(group), " "), columns, 13) for group in GROUPS]
    groups.append(_hanging("settings", "run.total_steps optimizer.lr discount seed ... (--list settings)", columns, 13))
    lists = textwrap.indent(textwrap.fill(", ".join(LISTS), columns - 18), " " * 18).lstrip()
    completion = _hanging("-sc install=bash", 'shell completion: eval "$(dqn-train -sc install=bash)"', columns, 18)
    return OVERVIEW.format(groups="\n".join(groups), lists=lists, completion=completion)


def listing(what: str) -> str:
    """The choices of a group, or all settings; `ConfigError` for anything else."""
    if what not in LISTS:
        meant = suggestion(what, LISTS) or f"; write one of {', '.join(LISTS)}"
        raise ConfigError(f"{f'--list {what}'.strip()} is not a list{meant}")
    if what == "settings":
        return "\n".join([*_settings(SETTINGS), "", _note()])
    group, columns = LISTS[what], shutil.get_terminal_size().columns
    width = 2 + max(map(len, choices(group)))
    return "\n".join(_hanging(name, _about(group, name), columns, width) for name in choices(group))


def setting(topic: str) -> str:
    """What a setting means, or all settings of a group; `ConfigError` where there is no such thing."""
    chosen = [key for key in SETTINGS if key == topic or key.startswith(f"{topic}.")]
    lists = [f"{topic}={name}" for name in choices(topic)] if topic in (*GROUPS, "family", WITHOUT) else []
    if not chosen and not lists and topic not in OWN_WORDS:
        check_key(topic, {})
    columns = shutil.get_terminal_size().columns
    if topic in OWN_WORDS:
        return "\n".join(_hanging(f"{key}=", text, columns, 18) for key, text in OWN_WORDS.items() if topic in key)
    head = [_hanging(f"{topic}=", in_short(choices(topic), " "), columns, 13)] if lists else []
    return "\n".join([*head, *_settings(chosen), *(["", _note()] if chosen else [])])


def _note() -> str:
    text = (
        "Default, what is possible, meaning. An environment brings its own values for many settings: "
        "dqn-train --cfg job env=... shows them."
    )
    return textwrap.fill(text, max(shutil.get_terminal_size().columns, MIN_COLUMNS))


def _settings(keys: Iterable[str]) -> Iterator[str]:
    columns = shutil.get_terminal_size().columns
    for key in keys:
        owners: dict[str, list[str]] = {}
        for choice, f in SETTINGS[key].items():
            owners.setdefault(f"{_values(f)}  {f.metadata['text']}", []).append(choice)
        for text, having in owners.items():
            everywhere = having == [""] or having == [*CHOICES[key.partition(".")[0]]]
            named = [ENV_KINDS.get(choice, choice) for choice in having]
            yield _hanging(key, text if everywhere else f"{text} ({', '.join(named)})", columns, 30)


def _values(f: Field[Any]) -> str:
    """The default and what else is possible."""
    default = f.default if f.default_factory is MISSING else f.default_factory()
    shown = {None: "null", omegaconf.MISSING: "..."}.get(default, default) if isinstance(default, Hashable) else default
    if isinstance(default, Enum):
        return f"{shown} of {'|'.join(type(default).__members__)}"
    if isinstance(default, bool):
        return str(shown).lower()
    allowed = f.metadata["range"]
    return str(shown) if allowed == Range() else f"{shown} in {allowed}"


def _about(group: str, name: str) -> str:
    """A choice in one line: its dataclass's docstring, else the comment at the head of its file."""
    if group != "env" and name in CHOICES.get(group, {}):
        return str(CHOICES[group][name].__doc__).splitlines()[0]
    head = re.search(r"^# (?!@)(.*)$", file_of(group, name).read_text(), re.MULTILINE)
    return head[1] if head else ""


def _hanging(title: str, text: str, columns: int, width: int) -> str:
    """`title` in a column of `width`, `text` wrapped beside it."""
    first = title.ljust(width - 1) + " "
    rest = " " * width
    columns = max(columns, MIN_COLUMNS)
    filled = textwrap.fill(text, columns, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return filled or title  # a user's own file may say nothing
