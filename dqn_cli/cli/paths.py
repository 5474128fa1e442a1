"""Where configuration files are found, and how the folders of runs are named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from dqn_cli.errors import ConfigError

WITHOUT, NOTHING = "without", "nothing"  # the group of parts that are left out; its file that leaves out none

# words of dqn-train that no setting is, and what they mean
OWN_WORDS = {
    "ablate": "each|add: with -m, take a preset apart",
    "resume": "a run's folder, which goes on where it stopped; auto: that of hydra.run.dir, or a new one",
    "resume_env": "exact|restart: environments come back to where they were, or begin new episodes",
    "resume_override": "true: go on with settings that make another run of it",
}


def conf_dir() -> Path:
    """The Hydra tree: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"the configuration files of dqn-cli are not in {package}; install it again")


def choices(group: str) -> list[str]:
    """The names that can stand after `group=`, in the order of the alphabet.

    Of `env` folders are part of the name, `minatar/Breakout`, and gym, MinAtar's games and Atari's come last.
    """
    folder = conf_dir() / group
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    last = {name: i for i, games in enumerate(GAMES.values()) for name in games()} if group == "env" else {}
    return sorted(names, key=lambda name: (last.get(name, -1), name == "gym", name))


@cache
def atari_games() -> frozenset[str]:
    """The choices of `env` that are Atari games, as their files say."""
    files = (conf_dir() / "env").glob("*.yaml")
    return frozenset(file.stem for file in files if "/schema/env@env: atari" in file.read_text())


@cache
def minatar_games() -> frozenset[str]:
    """The choices of `env` that are MinAtar's games."""
    return frozenset(f"minatar/{file.stem}" for file in (conf_dir() / "env" / "minatar").glob("*.yaml"))


GAMES = {"minatar/Breakout": minatar_games, "Pong": atari_games}  # too many for a line; one that stands for all


def in_short(names: Collection[str], separator: str = ", ") -> str:
    """All `names`, except that of games, too many for a line, one stands for all."""
    few = [name for name in names if not any(name in games() for games in GAMES.values())]
    many = [f"{one} ..." for one, games in GAMES.items() if not games().isdisjoint(names)]
    return ", ".join([separator.join(few), *many]) + " (--list envs)" * bool(many)


def env_folder(env: str, env_id: str) -> str:
    """The folder of an environment's runs: the name that was typed, the id where that says only `gym`."""
    return job_folder(env_id if env == "gym" else env)


def method_folder(experiment: str | None, variant: str) -> str:
    """The folder of a method's runs: the preset's name, the variant's where there is none."""
    return variant if experiment is None else job_folder(experiment)


def job_folder(name: str, limit: int = 120) -> str:
    """`name` as one folder that can be typed back in any shell; a hash keeps apart what is shortened alike."""
    bare = re.sub(r"""[][{}()'"$\\]""", "", name)
    plain = re.sub(r"[^\w.-]+", "-", bare, flags=re.ASCII).strip("-") or "base"
    if len(plain) <= limit:
        return plain
    return f"{plain[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
