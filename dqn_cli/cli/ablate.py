"""Ablations of a preset: `ablate=each` runs it and it minus each of its parts, `ablate=add` the rest and it plus each.

A part is left out by its file in conf/without, so that an ablation is a sweep over the group `without`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.cli.arguments import MULTIRUN, typed_keys
from dqn_cli.cli.composition import compose_job, read, words_of_jobs
from dqn_cli.cli.explain import explain
from dqn_cli.cli.paths import NOTHING, WITHOUT
from dqn_cli.config import (
    Config,
    DdqnConfig,
    Head,
    ImageConfig,
    LayeredConfig,
    PrioritizedConfig,
    ScalarConfig,
)
from dqn_cli.errors import ConfigError
from dqn_cli.settle import has_normed_convolutions, settle

KEY, EACH, ADD = "ablate", "each", "add"

# name of a file of conf/without -> whether a run has what it leaves out
PARTS: dict[str, Callable[[Config], bool]] = {
    "double": lambda c: isinstance(c.variant, DdqnConfig),
    "dueling": lambda c: isinstance(c.network, LayeredConfig) and c.network.head is Head.dueling,
    "noisy": lambda c: isinstance(c.network, LayeredConfig) and c.network.noisy,
    "n_step": lambda c: c.replay.n_step > 1,
    "prioritized": lambda c: isinstance(c.replay, PrioritizedConfig),
    "distributional": lambda c: not isinstance(c.value, ScalarConfig),
    "munchausen": lambda c: c.munchausen.enabled,
    "spectral_norm": lambda c: (
        isinstance(c.network, ImageConfig) and c.network.spectral_norm and has_normed_convolutions(c.network)
    ),
    "layer_norm": lambda c: isinstance(c.network, LayeredConfig) and c.network.layer_norm,
}


def take(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """`argv` without its `ablate=`, which no setting is, and what that says. Raises `ConfigError`."""
    found = [word for word in argv if word.partition("=")[0] == KEY]
    if not found:
        return [*argv], None
    how = found[0].partition("=")[2]
    if len(found) > 1:
        raise ConfigError(f"{KEY} is given twice, by {found[0]} and {found[1]}; write one of them")
    if how not in (EACH, ADD):
        raise ConfigError(f"{found[0]} is not one of {EACH}, {ADD}; write {KEY}={EACH}")
    if not MULTIRUN & {*argv}:
        raise ConfigError(f"{found[0]} makes several runs; write -m before it")
    return [word for word in argv if word not in found], how


def extend(master: DictConfig, how: str) -> None:
    """Put the sweep over `without` that `ablate=<how>` stands for first among the overrides of a sweep's composition.

    Raises `ConfigError` where there is no preset, or none of its parts can be left out.
    """
    jobs = words_of_jobs(master)
    presets = {word.partition("=")[2]: None for words in jobs for word in words if word.startswith("experiment=")}
    if len(presets) != 1 or "null" in presets:
        seen = f"experiment={','.join(presets)} is not one" if presets else "there is none"
        raise ConfigError(f"{KEY}={how} takes one preset apart, {seen}; write experiment=rainbow or the like")
    if any(word.startswith(f"+{WITHOUT}=") for word in jobs[0]):
        raise ConfigError(f"{KEY}={how} chooses what is left out; remove {WITHOUT}=... or {KEY}={how}")
    kinds = {tuple(word for word in words if not word.startswith("seed=")) for words in jobs}
    found = {tuple(parts_of(master, list(words))) for words in kinds}
    if len(found) > 1:
        raise ConfigError(f"{KEY}={how}: the jobs of this sweep have different parts; write a sweep for each")
    parts = found.pop()
    if not parts:
        (preset,) = presets
        raise ConfigError(f"experiment={preset} has no part that {KEY}={how} could leave out; write another preset")
    sweep = f"+{WITHOUT}={','.join(map(_value, combinations(parts, how)))}"
    with read_write(master.hydra):
        master.hydra.overrides.task = [sweep, *master.hydra.overrides.task]


def parts_of(master: DictConfig, words: list[str]) -> list[str]:
    """The parts that the run of these overrides has and that can be left out: those that no override holds fast."""
    whole = _settled(master, words)
    return [part for part, has in PARTS.items() if has(whole) and _removable(part, master, words)]


def _removable(part: str, master: DictConfig, words: list[str]) -> bool:
    try:
        return not PARTS[part](_settled(master, [*words, f"+{WITHOUT}={part}"]))
    except ConfigError:  # such as for value.atoms=21, which the mean alone does not have
        return False


def _settled(master: DictConfig, words: list[str]) -> Config:
    try:
        config = read(compose_job(master, words))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    settle(config, typed_keys(words))
    return config


def combinations(parts: Sequence[str], how: str) -> list[tuple[str, ...]]:
    """What each job of an ablation leaves out: `each`: nothing, then one part; `add`: all, then all but one."""
    if how == EACH:
        return [(), *((part,) for part in parts)]
    return [tuple(parts), *(tuple(other for other in parts if other != part) for part in parts)]


def _value(left_out: tuple[str, ...]) -> str:
    return f"[{','.join(left_out)}]" if len(left_out) > 1 else "".join(left_out) or NOTHING
