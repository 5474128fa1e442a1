"""What a run will have done at its end, known before it begins. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dqn_cli.config import (
    AdamConfig,
    Config,
    FqfConfig,
    OnlineConfig,
    PrioritizedConfig,
    RmspropConfig,
    RmspropNatureConfig,
    SgdConfig,
    TargetUnit,
    TdqnConfig,
)
from dqn_cli.envs.make import EnvFacts
from dqn_cli.networks.shapes import buffer_shapes, parameter_shapes
from dqn_cli.replay.size import disk_bytes, replay_bytes, replay_capacity
from dqn_cli.schedules import crossings
from dqn_cli.settle import planned_updates
from dqn_cli.training.plan import make_plan

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The counters of a settled configuration's whole run, and the bytes that it takes.

    All are exact for a run that no goal and no Ctrl-C ends early, with one exception: without replay and with n-step
    returns an episode's end finishes returns early, so that `updates` are at least, and `most_updates` at most.
    """

    steps: int  # whole steps of all environments
    updates: int
    most_updates: int
    first_update_steps: int  # the first row of metrics.csv that could count an update is of this step
    target_syncs: int | None  # None where episodes are counted
    evaluations: int  # those of new bests on fresh seeds not counted
    checkpoints: int  # periodic ones
    replay_bytes: int
    replay_disk_bytes: int  # at most, before compression; 0 where the memory is not kept on disk
    parameters: int  # of one network
    model_bytes: int  # of the weights in a checkpoint
    optimizer_bytes: int

    @property
    def exact(self) -> bool:
        """Whether `updates` is the number of updates."""
        return self.updates == self.most_updates


def forecast(config: Config, facts: EnvFacts) -> Forecast:
    """Count without running."""
    lanes, run = config.num_envs, config.run
    steps = -(-run.total_steps // lanes) * lanes
    online = isinstance(config.replay, OnlineConfig)
    updates = planned_updates(config)
    return Forecast(
        steps=steps,
        updates=updates,
        most_updates=steps if online else updates,
        first_update_steps=first_update(config),
        target_syncs=target_syncs(config, steps, updates),
        evaluations=occasions(run.eval_every_steps, steps, lanes) + _alone(run.eval_every_steps, steps, lanes),
        checkpoints=occasions(run.checkpoint_every_steps, steps, lanes),
        replay_bytes=memory_bytes(config, facts),
        replay_disk_bytes=replay_disk_bytes(config, facts),
        parameters=parameters(config, facts),
        model_bytes=model_bytes(config, facts),
        optimizer_bytes=optimizer_bytes(config, facts),
    )


def memory_bytes(config: Config, facts: EnvFacts) -> int:
    """Of the replay memory."""
    replay, lanes = config.replay, config.num_envs
    prioritized = isinstance(replay, PrioritizedConfig)
    return replay_bytes(replay_capacity(replay, lanes), facts.spec, replay.n_step, lanes, prioritized)


def replay_disk_bytes(config: Config, facts: EnvFacts) -> int:
    """Of the replay memory in the checkpoints of a run, at most."""
    replay, lanes = config.replay, config.num_envs
    if not config.run.checkpoint_replay:
        return 0
    prioritized = isinstance(replay, PrioritizedConfig)
    return disk_bytes(replay_capacity(replay, lanes), facts.spec, replay.n_step, lanes, prioritized)


def parameters(config: Config, facts: EnvFacts) -> int:
    """Weights and biases of one network."""
    return _numbers(parameter_shapes(config.network, config.value, facts.spec, facts.num_actions))


def model_bytes(config: Config, facts: EnvFacts) -> int:
    """Of the weights in a checkpoint: of the online network, and of the target network where there is one."""
    networks = 2 if isinstance(config.variant, TdqnConfig) else 1
    return FLOAT_BYTES * networks * (parameters(config, facts) + _numbers(buffer_shapes(config.network, facts.spec)))


def _numbers(shapes: list[tuple[int, ...]]) -> int:
    return sum(map(prod, shapes))


def first_update(config: Config) -> int:
    """Steps after the loop's turn that makes the first update."""
    lanes, plan = config.num_envs, make_plan(config)
    if plan.updates is None:
        return config.replay.n_step * lanes
    start = max(plan.updates.starts_steps, plan.updates.first_row_steps - 1)
    due = (start // plan.updates.every_steps + 1) * plan.updates.every_steps
    return -(-due // lanes) * lanes


def target_syncs(config: Config, steps: int, updates: int) -> int | None:
    """Times that the target network is updated; None where that depends on the episodes."""
    variant = config.variant
    if not isinstance(variant, TdqnConfig):
        return 0
    match variant.target_unit:
        case TargetUnit.steps:
            return crossings(0, steps, variant.target_every)
        case TargetUnit.updates:
            exact = not isinstance(config.replay, OnlineConfig) or config.replay.n_step == 1
            return crossings(0, updates, variant.target_every) if exact else None
        case TargetUnit.episodes:
            return None


def occasions(every: int | None, steps: int, lanes: int) -> int:
    """Turns of the loop in which multiples of `every` are passed: several in one turn are one occasion."""
    return 0 if every is None else min(steps // every, steps // lanes)


def _alone(every: int | None, steps: int, lanes: int) -> bool:
    """Whether the end of the run is an occasion of its own."""
    return every is None or crossings(steps - lanes, steps, every) == 0


def optimizer_bytes(config: Config, facts: EnvFacts) -> int:
    """What the optimizers remember: so many numbers per weight, and of some a counter per tensor."""
    shapes = parameter_shapes(config.network, config.value, facts.spec, facts.num_actions)
    proposal = shapes[len(shapes) - 2 :] if isinstance(config.value, FqfConfig) else []  # with an RMSProp of its own
    shapes, optimizer, counters = shapes[: len(shapes) - len(proposal)], config.optimizer, 0
    match optimizer:
        case AdamConfig():
            numbers, counters = 2, 1
        case RmspropConfig():
            numbers, counters = 1 + optimizer.centered + (optimizer.momentum > 0), 1
        case RmspropNatureConfig():
            numbers = 2
        case SgdConfig():
            numbers = int(optimizer.momentum > 0)
        case _:
            raise TypeError(f"nothing known of {type(optimizer).__name__}")
    own = numbers * _numbers(shapes) + counters * len(shapes)
    return FLOAT_BYTES * (own + _numbers(proposal) + len(proposal))
