"""`dqn-train rerun=<run folder>`: the same run once more, from its manifest, into a new folder. No Hydra application.

Of the folder only data is read: neither its configuration nor its environment's name makes this command import a
module, unless the user writes that module too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from dqn_cli.cli.arguments import CHOSEN, MULTIRUN, keys, parse
from dqn_cli.cli.paths import choices, env_folder, file_of, method_folder
from dqn_cli.cli.resume import Asked, changed, settings
from dqn_cli.config import Config
from dqn_cli.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from dqn_cli.cli.way import Way

KEY, RUN_DIR = "rerun", "hydra.run.dir"


def take(argv: Sequence[str], resumed: Asked | None) -> tuple[list[str], str | None]:
    """`argv` without its `rerun=`, which no setting is, and the folder that it names. Raises `ConfigError`."""
    found = [word for word in argv if word.lstrip("+").partition("=")[0] == KEY]
    if not found:
        return [*argv], None
    if len(found) > 1:
        raise ConfigError(f"{KEY} is given twice, by {found[0]} and {found[1]}; write one of them")
    folder = found[0].partition("=")[2]
    if not folder:
        raise ConfigError(f"{KEY} has no value; write {KEY}=<run folder>")
    if resumed is not None:
        both = f"resume={resumed.folder} and {KEY}={folder}"
        raise ConfigError(f"{both} cannot both be had: a run goes on, or is made once more; remove one")
    return [word for word in argv if word not in found], folder


def run(text: str, words: Sequence[str]) -> int:
    """Make the run of the folder that is asked for once more, with these settings changed: 0. Raises user errors."""
    # here, since every command line goes through `take`, and --cfg or a completion should not wait for environments
    from dqn_cli.cli.evaluate import trusted
    from dqn_cli.cli.job import carry_out
    from dqn_cli.cli.runs import locate
    from dqn_cli.cli.way import require_module
    from dqn_cli.training.manifest import read_manifest

    overrides, into = _asked_for(text, words)
    source, _ = locate(text, KEY)
    manifest = read_manifest(source)
    if not isinstance(data := manifest.get("config"), dict):
        raise CheckpointError(f"{source} does not say how its run was configured; write the settings themselves")
    stored = trusted(data, source)
    module = next((str(o.value()) for o in overrides if o.key_or_group == "env.module"), None)
    require_module(stored, module)
    wanted = changed(stored, overrides)
    made_of = _made_of(manifest.get("overrides"), overrides)
    folder = Path.cwd() / (into or _folder(wanted, made_of))
    typed_keys = {key for override in overrides for key in keys(override)}

    def choose() -> Way:
        return _way(folder, stored, wanted, typed_keys, source, manifest)

    carry_out(choose, made_of, folder, ["dqn-train", f"{KEY}={text}", *words])
    return 0


def _asked_for(text: str, words: Sequence[str]) -> tuple[list[Override], str | None]:
    """The settings among the words, and the folder that is asked for; `ConfigError` for all that is neither."""
    rerun, into, rest = f"{KEY}={text}", None, list[str]()
    if MULTIRUN & {*words}:
        raise ConfigError(f"{rerun} makes one run; remove -m, or write the command of the run with it")
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        if key == RUN_DIR and into is None:
            into = _run_dir(word)
        elif word.startswith("-"):
            raise ConfigError(f"{word} cannot be used with {rerun}; remove one of them")
        elif key.startswith("hydra"):
            raise ConfigError(f"{word} does nothing with {rerun}, or stands there twice; remove it")
        elif key in CHOSEN or key == "ablate":
            raise ConfigError(f"{rerun} makes the choices of its run again; remove {word}")
        else:
            rest.append(word)
    return settings(rest, f"{rerun} makes one run"), into


def _run_dir(word: str) -> str:
    (override,) = parse([word])
    folder = override.value() if not override.is_sweep_override() else None
    if not isinstance(folder, str) or "${" in folder:
        raise ConfigError(f"{word} is not the name of a folder; write it out")
    return folder


def _made_of(stored: Any, overrides: Sequence[Override]) -> list[str]:
    """What was typed for the run, and for this one in its place: what the new manifest tells."""
    before = [word for word in stored if isinstance(word, str)] if isinstance(stored, list) else []
    now = [str(override.input_line) for override in overrides]
    typed = {word.lstrip("+").partition("=")[0] for word in now}
    return [*(word for word in before if word.lstrip("+").partition("=")[0] not in typed), *now]


def _folder(config: Config, overrides: Sequence[str]) -> str:
    """Where such a run would be written: as conf/config.yaml has it."""
    typed = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
    env, experiment = typed.get("env"), typed.get("experiment")
    env = env if env in choices("env") else _env_of(config.env.id)
    method = method_folder(experiment if experiment in choices("experiment") else None, config.variant.name)
    return f"runs/{env_folder(env, config.env.id)}/{method}/s{config.seed}_{datetime.now():%Y%m%d-%H%M%S-%f}"


def _env_of(env_id: str) -> str:
    """The choice of `env` that plays it."""
    line = f"  id: {env_id}\n"
    return next((name for name in choices("env") if line in file_of("env", name).read_text()), "gym")


def _way(
    folder: Path, stored: Config, wanted: Config, typed_keys: set[str], source: Path, manifest: dict[str, Any]
) -> Way:
    """A new run, and what has to be said about its likeness to the old one."""
    from dqn_cli.cli.compare import differences
    from dqn_cli.cli.plan_report import shown as value
    from dqn_cli.cli.way import begin
    from dqn_cli.training.manifest import otherwise
    from dqn_cli.training.summary import shown

    way = begin(folder, wanted, typed_keys)
    from dqn_cli.build import prepare  # torch is imported here: after every check that can do without

    threads, device = prepare(way.config.network, way.config)
    notes = otherwise(manifest, str(device), threads)
    if wanted.init_from is not None:
        notes.append(f"init_from={wanted.init_from}: its weights are read again, as they are now")
    changes = [f"{key}={value(now)}" for key, (_, now) in differences(stored, wanted).items()]
    how = f" with {' '.join(changes)}" if changes else ", bit for bit" if not notes else ", perhaps not bit for bit"
    return replace(way, notices=[*notes, *way.notices], again=f"rerun      of {shown(source)}{how}")
