"""What Hydra composed: of a run, and of each job of a sweep."""

from __future__ import annotations

from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dqn_cli import plugins
from dqn_cli.config import Config
from dqn_cli.errors import ConfigError
from dqn_cli.validate import typed, wrong_value

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def overrides_of(hydra: Any) -> list[str]:
    """What was typed for this job, as it was typed: a `${...}` in it is not ours to resolve."""
    return cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))


def has_basic_sweeper(hydra: Any) -> bool:
    """Whether it is Hydra's own sweeper, which knows all of its jobs before it begins."""
    return bool(hydra.sweeper._target_ == BASIC_SWEEPER)


def words_of_jobs(master: DictConfig) -> list[list[str]]:
    """The overrides of a sweep's jobs, in the order of Hydra's own sweeper; `ConfigError` where it is another one."""
    if not has_basic_sweeper(master.hydra):
        raise ConfigError(
            "this sweeper chooses its jobs as it goes, they cannot be told before; leave out hydra/sweeper"
        )
    loader = cast(Any, GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
    words = [*params, *overrides_of(master.hydra)]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def compose_job(master: DictConfig, words: list[str]) -> DictConfig:
    """The composition of a sweep's job. Raises Hydra's errors."""
    loader = cast(Any, GlobalHydra.instance().config_loader())
    return cast(DictConfig, loader.load_sweep_config(master, words))


def load_plugin(composed: DictConfig) -> None:
    """Import what the user named, in a launcher's other processes too."""
    module = composed.get(plugins.KEY)
    plugins.load(None if module is None else str(module))


def read(composed: DictConfig) -> Config:
    """The configuration that Hydra composed, as it was written: typed, but held against no rule. Raises user errors."""
    load_plugin(composed)
    try:
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        data = OmegaConf.to_container(ours, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise wrong_value(error, error.full_key or "configuration") from None
    return typed(cast(dict[str, Any], data))


def subfolder(job: DictConfig, number: int) -> str:
    """The name of a composed job's folder below that of its sweep."""
    before = HydraConfig.instance().cfg
    with open_dict(job):
        job.hydra.job.id, job.hydra.job.num = str(number), number
    try:
        HydraConfig.instance().set_config(job)  # the name may ask for it
        return str(job.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = before
