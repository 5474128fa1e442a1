"""When things happen in a run: pure arithmetic on its counters. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dqn_cli import schedules
from dqn_cli.config import (
    BoltzmannConfig,
    Config,
    EpsilonConfig,
    EpsilonSchedule,
    ExplorationConfig,
    LrSchedule,
    NoisyExplorationConfig,
    OptimizerConfig,
    OwnExplorationConfig,
    PerEnvConfig,
    PrioritizedConfig,
    RunConfig,
    TdqnConfig,
    UniformConfig,
)
from dqn_cli.schedules import Schedule, crossings


@dataclass(slots=True)
class Counters:
    """How far a run is. Steps are agent decisions, summed over all environments."""

    steps: int = 0
    updates: int = 0
    episodes: int = 0
    target_syncs: int = 0

    def copy(self) -> Counters:
        """As they are now; a fifth of the time of `dataclasses.replace`, which every step would feel."""
        return Counters(self.steps, self.updates, self.episodes, self.target_syncs)


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The replay ratio: `per_round` updates at every multiple of `every_steps`, beyond `starts_steps`.

    `first_row_steps` is when the memory holds its first row for certain, the action in flight included; no update can
    be due before, so a start of 0 means as soon as there is something to learn from.
    """

    every_steps: int
    per_round: int
    starts_steps: int
    first_row_steps: int

    def due(self, before: int, after: int) -> int:
        """Updates for the decisions in (before, after]: exact for any stride and any odd period."""
        start = max(before, self.starts_steps, self.first_row_steps - 1)
        return self.per_round * crossings(start, after, self.every_steps) if after > start else 0


@dataclass(frozen=True)
class Sync:
    """The target network is updated at every multiple of `every`, counted in steps, updates or episodes."""

    every: int
    unit: str

    def due(self, before: Counters, after: Counters) -> int:
        """Syncs between two states of the counters."""
        return crossings(getattr(before, self.unit), getattr(after, self.unit), self.every)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The schedule of a run. `updates` is None where each transition is learnt once, right after it is stored."""

    total_steps: int
    exploration: Schedule  # what the explorer takes as its level: epsilon, or the temperature
    batch_size: int
    updates: Updates | None
    sync: Sync | None


@dataclass(frozen=True, kw_only=True)
class Periods:
    """Steps between the events beside the learning, in a run of `total` steps; None for never before the end."""

    total: int
    log: int
    evaluate: int | None
    checkpoint: int | None
    stop_at_return: float | None


def make_exploration(config: ExplorationConfig) -> Schedule:
    """What the explorer takes as its level, as a function of steps: epsilon, or Boltzmann's temperature."""
    match config:
        case BoltzmannConfig():
            return schedules.constant(config.temperature)
        case OwnExplorationConfig():
            return float  # the steps themselves: it has schedules of its own
        case PerEnvConfig():
            return schedules.constant(config.epsilon)
        case NoisyExplorationConfig():
            return schedules.constant(0.0)
        case EpsilonConfig(schedule=EpsilonSchedule.constant):
            return schedules.constant(config.end)
        case EpsilonConfig():
            decay = schedules.linear if config.schedule is EpsilonSchedule.linear else schedules.exponential
            return schedules.delayed(decay(config.begin, config.end, config.over_steps), config.delay_steps)
    raise TypeError(f"no schedule for {type(config).__name__}")


def make_epsilon(config: ExplorationConfig, num_envs: int) -> Schedule | None:
    """Probability of a random action, on average over the environments; None where it is not known."""
    if isinstance(config, (BoltzmannConfig, OwnExplorationConfig)):
        return None
    if isinstance(config, PerEnvConfig):
        powers = ladder(num_envs, config.alpha)
        return schedules.constant(sum(config.epsilon**power for power in powers) / num_envs)
    return make_exploration(config)


def ladder(num_envs: int, alpha: float) -> list[float]:
    """Ape-X's powers of epsilon: 1 + alpha i / (E - 1) for environment i of E > 1 (Horgan et al. 2018, section 4.1)."""
    return [1 + alpha * i / (num_envs - 1) for i in range(num_envs)]


def make_beta(config: PrioritizedConfig, total_steps: int) -> Schedule:
    """How much of the bias of prioritized sampling is corrected, as a function of steps."""
    over = total_steps if config.beta_over_steps is None else config.beta_over_steps
    return schedules.linear(config.beta_begin, config.beta_end, over)


def make_schedules(config: Config) -> dict[str, Schedule]:
    """What changes over a run, by the names of its columns in `metrics.csv`."""
    total, epsilon = config.run.total_steps, make_epsilon(config.exploration, config.num_envs)
    schedules = {} if epsilon is None else {"epsilon": epsilon}
    if isinstance(config.exploration, BoltzmannConfig):
        schedules["temperature"] = make_exploration(config.exploration)
    schedules["lr"] = make_lr(config.optimizer, total)
    if isinstance(config.replay, PrioritizedConfig):
        schedules["beta"] = make_beta(config.replay, total)
    return schedules


def make_lr(config: OptimizerConfig, total_steps: int) -> Schedule:
    """Learning rate as a function of steps."""
    match config.lr_schedule:
        case LrSchedule.constant:
            return schedules.constant(config.lr)
        case LrSchedule.linear:
            return schedules.linear(config.lr, config.lr_end, total_steps)


def make_plan(config: Config, refilled_at: int = 0) -> Plan:
    """When things happen; learning begins anew after the step at which the memory did."""
    run, replay, variant = config.run, config.replay, config.variant
    updates = None
    if isinstance(replay, UniformConfig):
        updates = Updates(
            every_steps=run.update_every_steps,
            per_round=run.updates_per_round,
            starts_steps=refilled_at + run.learning_starts_steps,
            first_row_steps=refilled_at + (replay.n_step + 1) * config.num_envs,
        )
    return Plan(
        total_steps=run.total_steps,
        exploration=make_exploration(config.exploration),
        batch_size=replay.batch_size if isinstance(replay, UniformConfig) else 1,
        updates=updates,
        sync=Sync(variant.target_every, variant.target_unit) if isinstance(variant, TdqnConfig) else None,
    )


def make_periods(run: RunConfig) -> Periods:
    """When to look at a run."""
    return Periods(
        total=run.total_steps,
        log=run.log_every_steps,
        evaluate=run.eval_every_steps,
        checkpoint=run.checkpoint_every_steps,
        stop_at_return=run.stop_at_return,
    )
