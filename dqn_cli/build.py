"""The composition root: configuration in, objects out. The only file that knows every room."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.random import Generator
from torch import nn

from dqn_cli import schedules, seeding
from dqn_cli.agent.actor import Actor
from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import make_optimizer
from dqn_cli.algorithm.losses import LOSSES
from dqn_cli.algorithm.rules import RULES
from dqn_cli.config import (
    Config,
    EpsilonConfig,
    EpsilonSchedule,
    EvalConfig,
    ExplorationConfig,
    LrSchedule,
    MlpConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    TableConfig,
    TdqnConfig,
    UniformConfig,
)
from dqn_cli.device import resolve, set_threads
from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.envs.vector import GymLanes, SeedOf
from dqn_cli.errors import CheckpointError, ConfigError, Interrupted
from dqn_cli.networks.q_network import QNetwork, Table
from dqn_cli.networks.torsos import Mlp
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.replay.size import replay_capacity
from dqn_cli.schedules import Schedule
from dqn_cli.seeding import Purpose
from dqn_cli.training import checkpoint as checkpoints
from dqn_cli.training.checkpoint import Checkpoint, CheckpointStore
from dqn_cli.training.evaluator import EvalResult, Evaluator, play
from dqn_cli.training.manifest import write_config, write_manifest
from dqn_cli.training.metrics import MetricsLog
from dqn_cli.training.plan import Periods, Plan, Sync, Updates
from dqn_cli.training.progress import Progress
from dqn_cli.training.trainer import Trainer
from dqn_cli.training.watcher import Evaluation, Saving, Sinks, Watcher
from dqn_cli.types import ObsSpec
from dqn_cli.validate import plain, typed


@dataclass(frozen=True)
class RunSummary:
    """What a finished run has to say."""

    run_dir: Path
    final: Evaluation
    best: Evaluation
    seconds: float
    reached_goal: bool

    @property
    def metric(self) -> float:
        """What a sweeper optimises: the final policy's mean return."""
        return self.final.result.mean

    def lines(self) -> list[str]:
        """For the terminal: the result and the next useful commands."""
        goal = ", run.stop_at_return reached" if self.reached_goal else ""
        folder = _shown(self.run_dir)
        episodes = len(self.final.result.scores)
        return [
            f"finished   {self.final.step:,} steps in {self.seconds:.0f} s{goal}",
            f"final      return {_score(self.final.result)} over {episodes} greedy episodes",
            f"best       return {_score(self.best.result)} on fresh seeds, from step {self.best.step:,}",
            f"evaluate   dqn-eval checkpoint={folder}",
            f"curves     tensorboard --logdir {folder}",
        ]


def _score(result: EvalResult) -> str:
    digits = 3 if max(map(abs, result.scores)) < 10 else 1  # success rates need more than scores of hundreds
    return f"{result.mean:.{digits}f} +- {result.sd:.{digits}f}"


def _shown(folder: Path) -> str:
    """A folder as it is shortest to type from here, quoted where a shell needs it."""
    return shlex.quote(str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder))


def make_network(config: NetworkConfig, spec: ObsSpec, num_actions: int) -> nn.Module:
    """From `[B, *obs_shape]` to `[B, A]`."""
    match config:
        case MlpConfig():
            return QNetwork(Mlp(spec, config.hidden, config.activation), num_actions)
        case TableConfig():
            return Table(spec, num_actions, config.initial_q)
    raise AssertionError(config)


def make_epsilon(config: ExplorationConfig) -> Schedule:
    """Epsilon as a function of steps."""
    assert isinstance(config, EpsilonConfig)
    match config.schedule:
        case EpsilonSchedule.constant:
            return schedules.constant(config.end)
        case EpsilonSchedule.linear:
            return schedules.linear(config.begin, config.end, config.over_steps)
        case EpsilonSchedule.exponential:
            return schedules.exponential(config.begin, config.end, config.over_steps)


def make_lr(config: OptimizerConfig, total_steps: int) -> Schedule:
    """Learning rate as a function of steps."""
    match config.lr_schedule:
        case LrSchedule.constant:
            return schedules.constant(config.lr)
        case LrSchedule.linear:
            return schedules.linear(config.lr, config.lr_end, total_steps)


def make_learner(config: Config, spec: ObsSpec, num_actions: int, device: torch.device) -> Learner:
    """Networks, optimiser and the rule that tells the variants apart."""
    torch.manual_seed(seeding.integer(config.seed, Purpose.NETWORK))
    online = make_network(config.network, spec, num_actions).to(device)
    return Learner(
        online,
        RULES[config.variant.name],
        LOSSES[config.loss],
        make_optimizer(config.optimizer, online.parameters()),
        make_lr(config.optimizer, config.run.total_steps),
        config.optimizer.max_grad_norm,
        config.variant.tau if isinstance(config.variant, TdqnConfig) else 1.0,
    )


def acting_network(config: Config) -> str:
    """Which network acts, in training and evaluation: online or target."""
    return config.variant.act_with.value if isinstance(config.variant, TdqnConfig) else "online"


def make_memory(config: Config, spec: ObsSpec, stream: Generator) -> ReplayMemory:
    """Storage for transitions, frames stored once."""
    return ReplayMemory(
        replay_capacity(config.replay, config.num_envs),
        spec,
        NStepAccumulator(config.replay.n_step, config.discount, config.num_envs),
        stream,
        config.reward_clip,
    )


def make_plan(config: Config) -> Plan:
    """When things happen."""
    run, replay, variant = config.run, config.replay, config.variant
    updates = None
    if isinstance(replay, UniformConfig):
        updates = Updates(
            every_steps=run.update_every_steps,
            per_round=run.updates_per_round,
            starts_steps=run.learning_starts_steps,
            first_row_steps=(replay.n_step + 1) * config.num_envs,
        )
    return Plan(
        total_steps=run.total_steps,
        epsilon=make_epsilon(config.exploration),
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


def make_saving(config: Config, run_dir: Path, learner: Learner, streams: Mapping[str, Generator]) -> Saving:
    """What goes into the checkpoints of a run."""
    store = CheckpointStore(run_dir, config.run.keep_checkpoints)
    config_plain = plain(config)

    def contents(state: dict[str, Any]) -> dict[str, Any]:
        positions = {name: seeding.state_of(stream) for name, stream in streams.items()}
        return {"config": config_plain, "model": learner.model_state(), "state": {**state, "streams": positions}}

    return Saving(
        periodic=lambda step, state: store.save_step(step, **contents(state), optimizer=learner.optimizer_state()),
        best=lambda step, state: store.save_best(step, **contents(state)),
        final=lambda step, state: store.save_final(step, **contents(state), optimizer=learner.optimizer_state()),
    )


def load_initial(path: str, learner: Learner) -> None:
    """Begin with the weights that acted in another run; a target network begins as their copy."""
    source = checkpoints.read(checkpoints.find(Path(path), "best"), optimizer=False)
    try:
        acting = acting_network(typed(source.config)) + "."
        learner.load_online({k.removeprefix(acting): w for k, w in source.model.items() if k.startswith(acting)})
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"init_from={path} is not of the network configured: {error}") from error


@dataclass(frozen=True)
class Run:
    """The parts of a training run, wired."""

    device: torch.device
    threads: int
    trainer: Trainer
    watcher: Watcher
    learner: Learner
    memory: ReplayMemory
    streams: Mapping[str, Generator]  # all that is random once the run goes


def assemble(config: Config, run_dir: Path, stack: ExitStack) -> Run:
    """Build every part of a run; what needs closing is left to `stack`."""
    threads, device = set_threads(config.threads), resolve(config.device, convolutional=False)
    envs = stack.enter_context(closing(GymLanes(config.env, config.num_envs, training_seeds(config.seed))))
    spec, num_actions = envs.spec, envs.num_actions
    learner = make_learner(config, spec, num_actions, device)
    if config.init_from is not None:
        load_initial(config.init_from, learner)
    acting = learner.network(acting_network(config))

    def make_actor(lanes: int, stream: Generator) -> Actor:
        return Actor(acting, num_actions, FrameStack(spec, lanes), stream, device)

    streams = {
        "exploration": seeding.generator(config.seed, Purpose.EXPLORATION),
        "replay": seeding.generator(config.seed, Purpose.REPLAY),
    }
    evaluator = Evaluator(
        lambda lanes, seed_of: stack.enter_context(closing(GymLanes(config.env, lanes, seed_of))),
        lambda lanes: make_actor(lanes, seeding.generator(config.seed, Purpose.EVAL_POLICY)),
        config.seed,
        config.run.eval_episodes,
    )
    sinks = Sinks(
        stack.enter_context(closing(MetricsLog(run_dir, config.logger))),
        stack.enter_context(closing(Progress(config.run.total_steps))),
        make_epsilon(config.exploration),
        make_lr(config.optimizer, config.run.total_steps),
    )
    watcher = Watcher(make_periods(config.run), evaluator, make_saving(config, run_dir, learner, streams), sinks)
    memory = make_memory(config, spec, streams["replay"])
    actor = make_actor(config.num_envs, streams["exploration"])
    trainer = Trainer(make_plan(config), envs, actor, memory, learner, watcher)
    return Run(device, threads, trainer, watcher, learner, memory, streams)


def train_run(config: Config, run_dir: Path, overrides: list[str], command: list[str]) -> RunSummary:
    """Train as configured and leave everything in `run_dir`.

    Raises `Interrupted` after Ctrl-C, once a checkpoint is saved, and the other user errors as they occur.
    """
    begin = time.perf_counter()
    with ExitStack() as stack:
        run = assemble(config, run_dir, stack)
        write_config(run_dir, plain(config))
        write_manifest(
            run_dir,
            command=command,
            overrides=overrides,
            seed=config.seed,
            device=str(run.device),
            threads=run.threads,
        )
        watcher, metrics = run.watcher, run.watcher.sinks.metrics
        metrics.config_card(plain(config))
        with watcher.catching_ctrl_c():
            try:
                run.trainer.run()
                watcher.finish(run.trainer.result)
            except Interrupted as stop:
                watcher.save_interrupted()
                next_command = f"dqn-eval checkpoint={_shown(run_dir)} select=last"
                raise Interrupted(f"{stop}; saved, evaluate it with {next_command}") from None
        assert watcher.last is not None
        assert watcher.best is not None
        metrics.hparams(plain(config), {"eval_return_mean": watcher.last.result.mean})
    seconds = time.perf_counter() - begin
    return RunSummary(run_dir, watcher.last, watcher.best, seconds, watcher.reached_goal)


def training_seeds(seed: int) -> SeedOf:
    """A seed for each lane's first episode; the later ones go on from the lane's own generator."""
    return lambda lane, episode: seeding.integer(seed, Purpose.TRAIN_ENV, lane) if episode == 0 else None


def evaluate_checkpoint(checkpoint: Checkpoint, config: Config, options: EvalConfig) -> EvalResult:
    """Play `options.episodes` episodes with a checkpoint's policy, in the environment that it was trained in."""
    set_threads(options.threads)
    device = resolve(options.device, convolutional=False)
    lanes = 1 if options.render else min(options.num_envs, options.episodes)
    stream = seeding.generator(options.seed, Purpose.EVAL_POLICY)

    def seed_of(lane: int, episode: int) -> int:
        return seeding.integer(options.seed, Purpose.EVAL_ENV, lane + episode * lanes)

    with closing(GymLanes(config.env, lanes, seed_of, options.render)) as envs:
        network = load_policy(checkpoint, config, envs.spec, envs.num_actions).to(device)
        actor = Actor(network, envs.num_actions, FrameStack(envs.spec, lanes), stream, device)
        return play(actor, envs, options.episodes, options.epsilon, check=lambda: None)


def load_policy(checkpoint: Checkpoint, config: Config, spec: ObsSpec, num_actions: int) -> nn.Module:
    """The network of a checkpoint that acts. Raises `CheckpointError` where weights and configuration differ."""
    with torch.device("meta"):  # shapes only: no size that the configuration claims is allocated
        network = make_network(config.network, spec, num_actions)
    acting = acting_network(config) + "."
    weights = {k.removeprefix(acting): w.float() for k, w in checkpoint.model.items() if k.startswith(acting)}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"model.safetensors is not of the network in config.json: {text}") from error
    return network
