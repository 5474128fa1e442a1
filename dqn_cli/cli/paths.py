"""Where configuration files are found, and how the folders of runs are named."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

from dqn_cli.config import CHOICES
from dqn_cli.errors import ConfigError

WITHOUT, NOTHING = "without", "nothing"  # the group of parts that are left out; its file that leaves out none

CONFIG_DIR, CONFIG_PATH = "--config-dir", "DQN_CONFIG_PATH"
ASKING, LINE = frozenset({"-sc", "--shell-completion"}), "COMP_LINE"  # how a shell asks for completions, and of what
_own: list[Path] = []  # of this command

# words of dqn-train that no setting is, and what they mean
OWN_WORDS = {
    "ablate": "each|add: with -m, take a preset apart",
    "rerun": "a run's folder: the same run again, in a new folder, with the settings that are written changed",
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


def config_folders() -> list[Path]:
    """The folders of the user's own configuration files, as `take_folders` found them: added to ours, after them."""
    return [*_own]


def take_folders(argv: Sequence[str]) -> list[str]:
    """`argv` without its `--config-dir FOLDER`, one or several: those, and DQN_CONFIG_PATH's, are `config_folders` now.

    While a shell completes they stand in the line that it asks about. Raises `ConfigError` for a folder that is none,
    one without anything that is looked for, and a file with the name of another one, which would never be read.
    """
    rest, typed = _split(argv)
    asking = bool(ASKING & {*argv}) and LINE in os.environ
    if asking:
        line = os.environ[LINE]
        words, typed = _split([*line.split(), "."])  # in the place of a folder that is still to be written
        os.environ[LINE] = " ".join([word for word in words if word != "."]) + line[len(line.rstrip()) :]
    named = {f"{CONFIG_DIR} {text}": text for text in typed}
    named |= {f"{CONFIG_PATH}={text}": text for text in os.environ.get(CONFIG_PATH, "").split(os.pathsep) if text}
    found = {name: Path(text).expanduser().absolute() for name, text in named.items()}
    _own.clear()
    if not asking:
        _check_folders(found)
    _own.extend(folder for folder in dict.fromkeys(found.values()) if folder.is_dir())
    return rest


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other words, and the folders after the flag."""
    rest, folders, words = list[str](), list[str](), iter(argv)
    for word in words:
        flag, eq, value = word.partition("=")
        if flag not in (CONFIG_DIR, "-cd"):
            rest.append(word)
        elif folder := value if eq else next(words, ""):
            folders.append(folder)
        else:
            raise ConfigError(f"{word} has no value; write {CONFIG_DIR} <folder>")
    return rest, folders


def _check_folders(found: dict[str, Path]) -> None:
    ours = conf_dir()
    groups = [*(entry.name for entry in ours.iterdir() if entry.is_dir()), "hydra"]
    owners = dict.fromkeys(_files(ours, groups), "dqn-cli") if found else {}
    for name, folder in found.items():
        if not folder.is_dir():
            raise ConfigError(f"{name} is not a folder; write one with files such as env/MyEnv.yaml")
        files = [*_files(folder, groups)]
        if not files:
            raise ConfigError(f"{name} has no file that is looked for, such as env/MyEnv.yaml or experiment/mine.yaml")
        for path in files:
            if owners.setdefault(path, str(folder)) != str(folder):
                raise ConfigError(f"{name}: {path} is never read, {owners[path]} has one too; give it another name")


def _files(folder: Path, groups: Collection[str]) -> Iterator[str]:
    """Configuration files, by their names below `folder`; of other folders in it nothing is looked at."""
    yield from (file.name for file in folder.glob("*.yaml"))
    for group in groups:
        yield from (file.relative_to(folder).as_posix() for file in (folder / group).rglob("*.yaml"))


def file_of(group: str, name: str) -> Path:
    """The file of a choice: ours, or the user's."""
    return next(file for place in _places() if (file := place / group / f"{name}.yaml").is_file())


def _places() -> list[Path]:
    return [conf_dir(), *_own]


def choices(group: str) -> list[str]:
    """The names that can stand after `group=`, the user's own among them, in the order of the alphabet.

    Of `env` folders are part of the name, `minatar/Breakout`, and gym, MinAtar's games and Atari's come last.
    """
    folders = [place / group for place in _places()]
    names = {
        file.relative_to(folder).with_suffix("").as_posix() for folder in folders for file in folder.rglob("*.yaml")
    }
    names |= {*CHOICES.get(group, {})} if group != "env" else set()  # those of a plugin have no file
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
