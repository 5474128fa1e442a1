"""Everything that can be known to fail before a run begins, without torch."""

from __future__ import annotations

from pathlib import Path

import psutil

from dqn_cli.config import Config, MlpConfig, QlearningConfig, TableConfig, UniformConfig
from dqn_cli.envs.lanes import describe
from dqn_cli.envs.make import EnvFacts
from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.settle import Typed, settle
from dqn_cli.training.forecast import memory_bytes, model_bytes, parameters

MAX_MODEL_BYTES = 1 << 31  # training.checkpoint.LIMITS, which needs torch


def preflight(config: Config, typed_keys: Typed) -> tuple[EnvFacts, list[str]]:
    """Settle `config` in place and compare it with the environment, the memory and the disk; facts and notices.

    Raises `ConfigError` and the other user errors, each of them one line.
    """
    notices = settle(config, typed_keys)
    if config.init_from is not None and not Path(config.init_from).exists():
        raise CheckpointError(f"init_from={config.init_from} does not exist; write a run folder or a checkpoint folder")
    facts = fitting(config)
    return facts, notices + facts.notices


def fitting(config: Config) -> EnvFacts:
    """Compare a settled configuration with the environment and the memory of this machine. Raises user errors."""
    facts = describe(config.env)
    _check_table(config, facts)
    _check_network(config, facts)
    _check_memory(config, facts)
    return facts


def _check_table(config: Config, facts: EnvFacts) -> None:
    if not isinstance(config.network, TableConfig) or (facts.discrete and facts.spec.stack == 1):
        return
    tabular = isinstance(config.variant, QlearningConfig)
    needs, remedy = ("variant=qlearning", "variant=ddqn") if tabular else ("network=table", "network=mlp")
    given = f"{config.env.id} gives {facts.spec.dtype} of shape {list(facts.spec.obs_shape)}"
    raise ConfigError(f"{needs} needs one discrete observation, {given}; write {remedy}")


def _check_network(config: Config, facts: EnvFacts) -> None:
    """Weights that no checkpoint could hold are refused before they are made."""
    network = config.network
    if (needed := model_bytes(config, facts)) > MAX_MODEL_BYTES:
        if isinstance(network, MlpConfig):
            cause, remedy = f"network.hidden={network.hidden}", "fewer units"
        else:
            cause, remedy = f"network={network.name} on {list(facts.spec.obs_shape)}", "smaller observations"
        raise ConfigError(
            f"{cause} makes {parameters(config, facts):,} weights, {needed / 1e9:.1f} GB in a checkpoint; "
            f"at most {MAX_MODEL_BYTES / 1e9:.1f} GB are possible, write {remedy}"
        )


def _check_memory(config: Config, facts: EnvFacts) -> None:
    replay = config.replay
    if not isinstance(replay, UniformConfig):
        return
    needed, free = memory_bytes(config, facts), free_memory()
    if needed > free:
        raise ConfigError(
            f"replay.capacity={replay.capacity} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB of memory are free; "
            "write a smaller capacity"
        )


def free_memory() -> int:
    """Bytes that this process can still get: of the machine, and of every control group (version 2) around it."""
    free = int(psutil.virtual_memory().available)
    group = own_cgroup()
    for folder in (group, *group.parents):
        try:
            limit, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text()
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:  # the root, or no version 2
            continue
        if limit != "max":
            free = min(free, int(limit) - int(used) + int(stat.get("inactive_file", 0)))
    return max(free, 0)


def own_cgroup() -> Path:
    """The folder of the control group that this process is in; one that does not exist where there are none."""
    try:
        groups = Path("/proc/self/cgroup").read_text()
    except OSError:  # not Linux
        groups = ""
    return Path("/sys/fs/cgroup", groups.rpartition("0::")[2].strip().lstrip("/"))
