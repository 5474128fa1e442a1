"""The rules between groups: what a configuration must be before it is run. Imports no torch.

What the user typed and would do nothing, or is nonsense, is refused in one line. A value that a family or preset
brought along is left alone where it does not apply, and clipped, with a notice, where it is too large for a short run.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from dqn_cli.config import (
    DEVICE_FORM,
    THREADS_FORM,
    AtariConfig,
    CategoricalConfig,
    CnnConfig,
    Config,
    EpsilonConfig,
    EpsilonSchedule,
    FqfConfig,
    ImageConfig,
    ImplicitConfig,
    LayeredConfig,
    LrSchedule,
    MinatarConfig,
    MlpConfig,
    NoisyExplorationConfig,
    OnlineConfig,
    PerEnvConfig,
    Precision,
    PrioritizedConfig,
    QlearningConfig,
    QuantileConfig,
    ScalarConfig,
    TableConfig,
    TargetUnit,
    TdqnConfig,
    TorsoConfig,
    UniformConfig,
    check_ranges,
)
from dqn_cli.errors import ConfigError
from dqn_cli.schedules import crossings
from dqn_cli.validate import SETTINGS

Typed = Collection[str]  # the dotted keys that the user wrote

MAX_LAYERS = 100


def settle(config: Config, typed_keys: Typed) -> list[str]:
    """Check all ranges and rules, clip in place what is too large for a short run; returns the notices.

    Raises `ConfigError` at the first thing that cannot be meant.
    """
    check_ranges(config)
    _machine(config)
    if isinstance(config.env, AtariConfig):
        _atari(config.env, typed_keys)
    if isinstance(config.env, MinatarConfig) and config.env.id in ("MinAtar/Breakout", "MinAtar/Freeway"):
        _dead(["env.ramping"], typed_keys, f"env.id={config.env.id}, which never becomes harder", "write another game")
    _qlearning(config)
    _value(config, typed_keys)
    _munchausen(config, typed_keys)
    _layers(config, typed_keys)
    _paths(config)
    _exploration(config)
    if config.init_from is not None:
        _dead(["network.initial_q"], typed_keys, f"init_from={config.init_from}", "leave out init_from")
    _schedules(config, typed_keys)
    _periods(config, typed_keys)
    notices = _clip_to_run(config, typed_keys)
    _replay(config, typed_keys)
    return notices + _target(config, typed_keys)


def planned_updates(config: Config) -> int:
    """Gradient updates of the whole run, were no episode to end (an end completes n-step returns early)."""
    run, n_step, lanes = config.run, config.replay.n_step, config.num_envs
    decisions = -(-run.total_steps // lanes) * lanes
    if isinstance(config.replay, OnlineConfig):
        return max(0, decisions - (n_step - 1) * lanes)
    start = max(run.learning_starts_steps, (n_step + 1) * lanes - 1)
    return run.updates_per_round * max(0, crossings(start, decisions, run.update_every_steps))


def _dead(keys: Collection[str], typed_keys: Typed, because: str, remedy: str) -> None:
    for key in keys:
        if key in typed_keys:
            raise ConfigError(f"{key} does nothing with {because}; remove it or {remedy}")


def _machine(config: Config) -> None:
    if not re.fullmatch(DEVICE_FORM, config.device):
        known = SETTINGS["device"][""].metadata["text"]
        raise ConfigError(f"device={config.device} is not a device; write {known}")
    if not re.fullmatch(THREADS_FORM, config.threads):
        raise ConfigError(f"threads={config.threads} is not a number of threads; write auto or a number such as 2")
    if config.run.total_steps < config.num_envs:
        raise ConfigError(
            f"run.total_steps={config.run.total_steps} is less than one step of num_envs={config.num_envs}; "
            "write more steps or fewer environments"
        )


def _atari(env: AtariConfig, typed_keys: Typed) -> None:
    if env.resize is not None:
        _dead(["env.preprocess"], typed_keys, f"env.resize={env.resize}", "leave out env.resize")
    if env.frame_skip == 1 and env.max_pool:
        _dead(["env.max_pool"], typed_keys, "env.frame_skip=1", "write env.frame_skip=4")
    if env.max_frames < env.frame_skip:
        raise ConfigError(
            f"env.max_frames={env.max_frames} is less than one step of env.frame_skip={env.frame_skip}; "
            "write more frames"
        )


def _qlearning(config: Config) -> None:
    if not isinstance(config.variant, QlearningConfig):
        return
    for group, cls in {"network": TableConfig, "value": ScalarConfig, "replay": OnlineConfig}.items():
        choice, needed = getattr(config, group), cls().name
        if choice.name != needed:
            raise ConfigError(
                f"{group}={choice.name} does not fit variant=qlearning, a look-up table learnt online; "
                f"write {group}={needed}, or variant=vdqn"
            )


def _value(config: Config, typed_keys: Typed) -> None:
    value = config.value
    if not isinstance(value, ScalarConfig):
        _dead(["loss"], typed_keys, f"value={value.name}, which has a loss of its own", "write value=scalar")
    if isinstance(value, CategoricalConfig):
        if value.v_min >= value.v_max:
            raise ConfigError(f"value.v_min={value.v_min:g} is not below value.v_max={value.v_max:g}; write a range")
        _dead(
            ["network.initial_q"],
            typed_keys,
            "value=categorical, where equal entries are equal odds",
            "write value=scalar",
        )
    if isinstance(value, (ImplicitConfig, FqfConfig)) and isinstance(config.network, TableConfig):
        raise ConfigError(
            f"value={value.name} does not fit network=table: a table has no features that a quantile could be "
            "multiplied with; write value=quantile, or network=mlp"
        )


def _munchausen(config: Config, typed_keys: Typed) -> None:
    name = config.value.name
    if not config.munchausen.enabled:
        dead = ["munchausen.alpha", "munchausen.tau", "munchausen.clip"]
        _dead(dead, typed_keys, "munchausen.enabled=false", "write munchausen.enabled=true")
    elif isinstance(config.value, CategoricalConfig):
        raise ConfigError(
            f"munchausen.enabled=true does not fit value={name}: its bootstrap is a mixture over all actions, shifted "
            "for each, which fixed atoms cannot hold; write value=quantile, or munchausen.enabled=false"
        )
    elif not isinstance(config.value, (ScalarConfig, QuantileConfig, ImplicitConfig)):
        raise ConfigError(
            f"munchausen.enabled=true is not defined for value={name}; write value=implicit or munchausen.enabled=false"
        )


def _layers(config: Config, typed_keys: Typed) -> None:
    network = config.network
    if isinstance(network, LayeredConfig) and not network.noisy:
        _dead(["network.noisy_sigma"], typed_keys, "network.noisy=false", "write network.noisy=true")
    if isinstance(network, MlpConfig) and len(network.hidden) > MAX_LAYERS:
        raise ConfigError(f"network.hidden has {len(network.hidden):,} layers; at most {MAX_LAYERS} are possible")
    if isinstance(network, MlpConfig) and not network.hidden:
        dead, because = ["network.layer_norm", "network.activation"], "network.hidden=[]: there is no hidden layer"
        _dead(dead, typed_keys, because, "write network.hidden=[64]")
    if isinstance(network, TorsoConfig) and network.units is None:
        _dead(["network.layer_norm"], typed_keys, "network.units=null", "write network.units=256")
    if isinstance(network, ImageConfig) and not has_normed_convolutions(network):
        because = f"network={network.name}, which has one convolution and spares the first"
        _dead(["network.spectral_norm"], typed_keys, because, "write another network")


def _paths(config: Config) -> None:
    """How updates are computed."""
    network = config.network
    if config.precision is Precision.bf16 and not isinstance(network, ImageConfig):
        raise ConfigError(
            f"precision=bf16 is for convolutions, network={network.name} has none; remove it or write another network"
        )
    if not config.compile:
        return
    if not config.fast_paths:
        raise ConfigError("compile=true contradicts fast_paths=false: all by autograd; leave out one of them")
    if isinstance(config.value, ImplicitConfig):
        raise ConfigError(
            "compile=true does not fit value=implicit, which draws quantiles on the way; leave out compile, "
            "or write value=quantile"
        )
    if isinstance(network, ImageConfig) and network.spectral_norm and has_normed_convolutions(network):
        raise ConfigError(
            "compile=true does not fit network.spectral_norm=true, whose norms change on the way; leave out one of them"
        )


def has_normed_convolutions(network: ImageConfig) -> bool:
    """Whether `network.spectral_norm` could do anything: it spares the first convolution."""
    return not isinstance(network, CnnConfig) or len(network.convolutions) > 1


def _exploration(config: Config) -> None:
    exploration, network = config.exploration, config.network
    if isinstance(exploration, NoisyExplorationConfig) and not getattr(network, "noisy", False):
        remedy = "exploration=epsilon" + ("" if isinstance(network, TableConfig) else ", or network.noisy=true")
        raise ConfigError(f"exploration=noisy needs a noisy network, network={network.name} is none; write {remedy}")
    if isinstance(exploration, PerEnvConfig) and config.num_envs == 1:
        raise ConfigError(
            "exploration=per_env needs several environments, num_envs=1; write num_envs=8 or exploration=epsilon"
        )


def _schedules(config: Config, typed_keys: Typed) -> None:
    exploration, optimizer = config.exploration, config.optimizer
    if isinstance(exploration, EpsilonConfig):
        if exploration.schedule is EpsilonSchedule.constant:
            dead = ["exploration.begin", "exploration.over_steps", "exploration.delay_steps"]
            _dead(dead, typed_keys, "exploration.schedule=constant", "write exploration.schedule=linear")
        if exploration.schedule is EpsilonSchedule.exponential and not min(exploration.begin, exploration.end) > 0:
            raise ConfigError(
                f"exploration.begin={exploration.begin} exploration.end={exploration.end}: "
                "exploration.schedule=exponential needs both above 0; write exploration.end=0.01 or the like"
            )
    if optimizer.lr_schedule is LrSchedule.constant:
        because = "optimizer.lr_schedule=constant"
        _dead(["optimizer.lr_end"], typed_keys, because, "write optimizer.lr_schedule=linear")


def _periods(config: Config, typed_keys: Typed) -> None:
    run = config.run
    every = run.eval_every_steps
    if run.stop_at_return is not None and (every is None or every >= run.total_steps):
        raise ConfigError(
            f"run.stop_at_return={run.stop_at_return:g} does nothing with "
            f"run.eval_every_steps={'null' if every is None else every}: the run of {run.total_steps} steps is only "
            f"evaluated at its end; write run.eval_every_steps={max(run.total_steps // 10, 1)} or the like"
        )
    if run.checkpoint_every_steps is None:
        because = "run.checkpoint_every_steps=null"
        _dead(["run.keep_checkpoints"], typed_keys, because, "write run.checkpoint_every_steps=10000 or the like")
    for name in ("eval_every_steps", "checkpoint_every_steps", "log_every_steps"):
        period = getattr(run, name)
        if f"run.{name}" in typed_keys and period is not None and period > run.total_steps:
            raise ConfigError(
                f"run.{name}={period} is never reached: run.total_steps={run.total_steps}; write a smaller period"
            )


def _clip_to_run(config: Config, typed_keys: Typed) -> list[str]:
    total, replay, notices = config.run.total_steps, config.replay, list[str]()

    def clip(section: object, key: str, limit: int) -> None:
        name = key.partition(".")[2]
        value = getattr(section, name)
        if key not in typed_keys and value > limit:
            setattr(section, name, limit)
            notices.append(f"{key}={limit} instead of {value}: the run has only {total} steps")

    if isinstance(replay, UniformConfig):
        starts = config.run.learning_starts_steps
        if starts >= total and "run.learning_starts_steps" in typed_keys:
            raise ConfigError(
                f"run.learning_starts_steps={starts} leaves nothing to learn: run.total_steps={total}; write fewer"
            )
        if starts > total // 2:
            clip(config.run, "run.learning_starts_steps", total // 10)
        clip(replay, "replay.capacity", max(total, replay.batch_size))
    if isinstance(replay, PrioritizedConfig) and replay.beta_over_steps is not None:
        clip(replay, "replay.beta_over_steps", total)
    exploration = config.exploration
    if isinstance(exploration, EpsilonConfig) and exploration.schedule is not EpsilonSchedule.constant:
        if exploration.delay_steps > total // 2:
            clip(exploration, "exploration.delay_steps", total // 10)
        if exploration.delay_steps >= total:
            raise ConfigError(
                f"exploration.delay_steps={exploration.delay_steps} leaves no step for the schedule: "
                f"run.total_steps={total}; write fewer"
            )
        clip(exploration, "exploration.over_steps", total - exploration.delay_steps)
    return notices


def _replay(config: Config, typed_keys: Typed) -> None:
    run, replay = config.run, config.replay
    if isinstance(replay, OnlineConfig):
        dead = ["run.update_every_steps", "run.updates_per_round", "run.learning_starts_steps"]
        _dead(dead, typed_keys, "replay=online", "write replay=uniform")
    if isinstance(replay, UniformConfig) and replay.batch_size > replay.capacity:
        raise ConfigError(
            f"replay.batch_size={replay.batch_size} is larger than replay.capacity={replay.capacity}; "
            "write a smaller batch or a larger memory"
        )
    if planned_updates(config) == 0:
        raise ConfigError(
            f"run.total_steps={run.total_steps} ends before the first update (run.learning_starts_steps="
            f"{run.learning_starts_steps}, run.update_every_steps={run.update_every_steps}, "
            f"replay.n_step={replay.n_step}); write more steps or a smaller period"
        )


def _target(config: Config, typed_keys: Typed) -> list[str]:
    variant = config.variant
    if not isinstance(variant, TdqnConfig):
        return []
    in_steps = variant.target_unit is TargetUnit.steps
    if "variant.target_unit" in typed_keys and "variant.target_every" not in typed_keys and not in_steps:
        raise ConfigError(
            f"variant.target_unit={variant.target_unit} needs a period of its own: "
            f"variant.target_every={variant.target_every} was meant in steps; write variant.target_every=... too"
        )
    # an episode has at least one step, so that there are no more episodes than steps
    horizon = planned_updates(config) if variant.target_unit is TargetUnit.updates else config.run.total_steps
    if variant.target_every < horizon:
        return []
    seen = f"variant.target_every={variant.target_every}"
    if "variant.target_every" in typed_keys:
        raise ConfigError(
            f"{seen} is never reached: the run has at most {horizon} {variant.target_unit}; write a smaller period"
        )
    variant.target_every = max(1, horizon // 10)
    return [
        f"variant.target_every={variant.target_every} instead of {seen.partition('=')[2]}: "
        f"the run has at most {horizon} {variant.target_unit}"
    ]
