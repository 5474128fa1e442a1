"""The composition root: configuration in, objects out. The only file that knows every room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.random import Generator

from dqn_cli import seeding
from dqn_cli.agent.actor import Actor
from dqn_cli.agent.exploration import Boltzmann, EpsilonGreedy, Explorer
from dqn_cli.agent.gradient import Method
from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import make_descent
from dqn_cli.agent.policy import Policy
from dqn_cli.agent.registered import Registered
from dqn_cli.algorithm.losses import LOSSES
from dqn_cli.algorithm.munchausen import Munchausen
from dqn_cli.algorithm.rules import RULES
from dqn_cli.algorithm.values import Value, make_value
from dqn_cli.config import (
    AdamConfig,
    BoltzmannConfig,
    CategoricalConfig,
    Config,
    EvalConfig,
    ExplorationConfig,
    ImageConfig,
    LrSchedule,
    MinatarCnnConfig,
    NetworkConfig,
    OnlineConfig,
    OwnExplorationConfig,
    PerEnvConfig,
    Precision,
    PrioritizedConfig,
    TdqnConfig,
)
from dqn_cli.device import GraphRecorder, generator, has_room, on_gpu, resolve, set_threads, slow_bfloat16
from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.envs.journal import JournaledLanes
from dqn_cli.envs.lanes import Lanes, frame_skip_of, make_lanes, reseed_every_steps, whole_games
from dqn_cli.envs.vector import GymLanes
from dqn_cli.errors import CheckpointError, ConfigError, Interrupted
from dqn_cli.networks.make import make_network
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.replay.samplers import Prioritized, Sampler, Uniform
from dqn_cli.replay.segments import SegmentStore
from dqn_cli.replay.size import replay_capacity
from dqn_cli.seeding import Purpose
from dqn_cli.training import checkpoint as checkpoints
from dqn_cli.training.checkpoint import Checkpoint, CheckpointStore
from dqn_cli.training.diagnostics import Diagnostics
from dqn_cli.training.evaluator import EvalResult, Evaluator, play
from dqn_cli.training.keeper import Keeper
from dqn_cli.training.manifest import add_to_manifest, hardware, versions, write_config, write_manifest
from dqn_cli.training.metrics import MetricsLog
from dqn_cli.training.observer import Observer
from dqn_cli.training.plan import (
    Plan,
    ladder,
    make_beta,
    make_lr,
    make_periods,
    make_plan,
    make_schedules,
)
from dqn_cli.training.probe import Block, Speed, Stopwatch, seconds_per_step, seconds_per_update, shortened
from dqn_cli.training.progress import Progress
from dqn_cli.training.resuming import REPLAY_DIR, Found, Resume
from dqn_cli.training.snapshot import Restored, Snapshot, Stream, refusing
from dqn_cli.training.summary import RunSummary, shown
from dqn_cli.training.trainer import Trainer, Watches
from dqn_cli.training.watchdog import Watchdog
from dqn_cli.training.watcher import Clock, Saving, Sinks, Told, Watcher, nobody, past_of
from dqn_cli.types import ObsSpec
from dqn_cli.validate import plain, typed


def prepare(network: NetworkConfig, wanted: Config | EvalConfig) -> tuple[int, torch.device]:
    """Give torch the threads that are wanted; their number, and the device. Raises `ConfigError` for what is not here.

    A GPU, or several cores, are worth their overhead for convolutions, but for MinAtar's small one.
    """
    convolutional = isinstance(network, ImageConfig) and not isinstance(network, MinatarCnnConfig)
    return set_threads(wanted.threads, convolutional), resolve(wanted.device, convolutional)


def to_fast_layout(network: ValueNetwork, device: torch.device) -> ValueNetwork:
    """`network` on `device`, its convolutions' weights channels-last: a fourth less time for an update on a CPU."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def make_learner(config: Config, spec: ObsSpec, num_actions: int, rng: torch.Generator) -> Learner:
    """Networks, optimizers, and the method that tells the algorithms apart, on the device of `rng`."""
    torch.manual_seed(seeding.integer(config.seed, Purpose.NETWORK))
    network = make_network(config.network, config.value, spec, num_actions, config.precision)
    online = to_fast_layout(network, rng.device)
    return Learner(
        online,
        make_method(config, rng.device),
        make_descent(config.optimizer, config.value, online, make_lr(config.optimizer, config.run.total_steps)),
        rng,
        config.variant.tau if isinstance(config.variant, TdqnConfig) else 1.0,
        config.fast_paths,
    )


def quicken(learner: Learner, config: Config, rng: torch.Generator, say: Callable[[str], None]) -> None:
    """Let updates be made as `compile` and the device have it; `say` is told where they cannot be."""
    if config.precision is Precision.bf16 and (line := slow_bfloat16(rng.device)):
        say(f"note: {line}")
    if config.compile:
        from dqn_cli.agent.compiled import Compiled  # which takes its time to import

        learner.gradient = Compiled(learner.network, learner.method, rng, say)
    elif config.fast_paths and on_gpu(rng.device):
        if config.optimizer.lr_schedule is LrSchedule.constant or isinstance(config.optimizer, AdamConfig):
            learner.capture(GraphRecorder(rng), say)
        else:
            say("note: updates are not captured as a CUDA graph: of learning rates that change only adam's can be")


def make_method(config: Config, device: torch.device) -> Method:
    """Rule, value representation and Munchausen's terms: the rows that an algorithm is made of."""
    own = config.munchausen
    munchausen = Munchausen(own.alpha, own.tau, own.clip) if own.enabled else None
    return Method(RULES[config.variant.name], value_of(config, device), munchausen)


def value_of(config: Config, device: torch.device) -> Value:
    """What the networks' outputs mean."""
    return make_value(config.value, LOSSES[config.loss], device)


def make_explorer(config: ExplorationConfig, num_actions: int, num_envs: int) -> Explorer:
    """How training's actions deviate from the greedy ones."""
    if isinstance(config, BoltzmannConfig):
        return Boltzmann()
    if isinstance(config, OwnExplorationConfig):
        return Registered(config, num_actions, num_envs)
    return EpsilonGreedy(num_actions, ladder(num_envs, config.alpha) if isinstance(config, PerEnvConfig) else None)


def acting_network(config: Config) -> str:
    """Which network acts, in training and evaluation: online or target."""
    return config.variant.act_with.value if isinstance(config.variant, TdqnConfig) else "online"


def make_memory(config: Config, spec: ObsSpec, stream: Generator, device: torch.device) -> ReplayMemory:
    """Storage for transitions, frames stored once: on a GPU that learns too, if they fit."""
    capacity = replay_capacity(config.replay, config.num_envs)
    mirrored = config.fast_paths and on_gpu(device) and has_room(device, capacity * spec.frame_bytes)

    def made(where: torch.device | None) -> ReplayMemory:
        accumulator = NStepAccumulator(config.replay.n_step, config.discount, config.num_envs)
        return ReplayMemory(capacity, spec, accumulator, stream, config.reward_clip, make_sampler(config), where)

    try:
        return made(device if mirrored else None)
    except torch.OutOfMemoryError:
        return made(None)


def make_sampler(config: Config) -> Sampler:
    """Which rows are learnt from."""
    replay = config.replay
    if isinstance(replay, PrioritizedConfig):
        return Prioritized(replay.alpha, replay.eps, make_beta(replay, config.run.total_steps))
    return Uniform()


def load_initial(path: str, config: Config, learner: Learner) -> None:
    """Begin with the weights that acted in another run; a target network begins as their copy.

    Raises `CheckpointError` where they are of another network, or mean something else, such as logits or quantiles.
    """
    source = checkpoints.read(checkpoints.find(Path(path), "best"), optimizer=False)
    try:
        had = typed(source.config)
        if type(had.value) is not type(config.value):
            raise ConfigError(f"it has value={had.value.name}, this run value={config.value.name}")
        if isinstance(config.value, CategoricalConfig) and had.value != config.value:
            raise ConfigError("its value.atoms, v_min or v_max are others")
        acting = acting_network(had) + "."
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
    streams: Mapping[str, Stream]  # all that is random once the run goes


@dataclass(frozen=True)
class Parts:
    """What acts, stores and learns: a run without what watches it."""

    device: torch.device
    threads: int
    envs: JournaledLanes
    stack: FrameStack
    actor: Actor
    memory: ReplayMemory
    learner: Learner
    streams: Mapping[str, Stream]

    def trainer(self, plan: Plan, watcher: Watches) -> Trainer:
        """The loop over these parts."""
        return Trainer(plan, self.envs, self.actor, self.memory, self.learner, watcher)


def make_parts(config: Config, stack: ExitStack, say: Callable[[str], None] = lambda line: None) -> Parts:
    """Build the parts that a run is made of; what needs closing is left to `stack`, what is worth a line to `say`."""
    threads, device = prepare(config.network, config)
    envs = stack.enter_context(closing(make_training_lanes(config)))
    spec, num_actions = envs.spec, envs.num_actions
    explores, samples = (seeding.generator(config.seed, purpose) for purpose in (Purpose.EXPLORATION, Purpose.REPLAY))
    updates, acts = (
        generator(seeding.integer(config.seed, purpose), device) for purpose in (Purpose.UPDATE, Purpose.ACTING)
    )
    learner = make_learner(config, spec, num_actions, updates)
    quicken(learner, config, updates, say)
    acting = learner.network(acting_network(config))
    frames = FrameStack(spec, config.num_envs)
    actor = Actor(
        Policy(acting, learner.method.value, acts, noisy=True, fast=config.fast_paths),
        make_explorer(config.exploration, num_actions, config.num_envs),
        frames,
        explores,
    )
    streams: dict[str, Stream] = {"exploration": explores, "replay": samples, "update": updates, "acting": acts}
    return Parts(device, threads, envs, frames, actor, make_memory(config, spec, samples, device), learner, streams)


def make_training_lanes(config: Config) -> JournaledLanes:
    """The environments that are learnt from; lane and number of an episode say what seed it has, if it gets one."""

    def seed_of(lane: int, episode: int) -> int:
        return seeding.integer(config.seed, Purpose.TRAIN_ENV, lane, *([episode] if episode else []))

    return JournaledLanes(
        lambda inner: make_lanes(config.env, config.num_envs, inner), seed_of, reseed_every_steps(config.env)
    )


def evaluating_actor(
    config: Config, network: ValueNetwork, envs: Lanes | JournaledLanes, lanes: int, seed: int
) -> Actor:
    """An actor for an evaluation in so many environments like `envs`: greedy but for its epsilon, and without noise."""
    device = next(network.parameters()).device
    draws = generator(seeding.integer(seed, Purpose.EVAL_POLICY), device)
    policy = Policy(network, value_of(config, device), draws, noisy=False, fast=config.fast_paths)
    stack, stream = FrameStack(envs.spec, lanes), seeding.generator(seed, Purpose.EVAL_POLICY)
    return Actor(policy, EpsilonGreedy(envs.num_actions), stack, stream)


def make_evaluator(config: Config, parts: Parts, stack: ExitStack) -> Evaluator:
    """What plays whole games with the network that acts; its environments are closed by `stack`."""
    acting = parts.learner.network(acting_network(config))
    return Evaluator(
        lambda lanes, seed_of: stack.enter_context(closing(make_lanes(whole_games(config.env), lanes, seed_of))),
        lambda lanes: evaluating_actor(config, acting, parts.envs, lanes, config.seed),
        config.seed,
        config.run.eval_episodes,
        config.run.eval_epsilon,
        lambda actor: Observer(actor, config.discount, config.reward_clip),
    )


def make_snapshot(config: Config, run_dir: Path, parts: Parts) -> Snapshot:
    """What the checkpoints are taken of."""
    segments = SegmentStore(run_dir / REPLAY_DIR) if config.run.checkpoint_replay else None
    return Snapshot(parts.envs, parts.stack, parts.memory, parts.learner, parts.streams, segments)


def assemble(
    config: Config, run_dir: Path, stack: ExitStack, resume: Resume | None = None, evaluated: Told = nobody
) -> Run:
    """Build every part of a run, and let each be as `resume` found it; what needs closing is left to `stack`."""
    if resume is not None:
        require_lanes(config, resume.found)
    frame_skip = frame_skip_of(config.env)
    progress = stack.enter_context(closing(Progress(config.run.total_steps, frame_skip)))
    parts = make_parts(config, stack, progress.note)
    snapshot, now = make_snapshot(config, run_dir, parts), circumstances(parts)
    restored = None if resume is None else restore(snapshot, resume, now, progress.note)
    if resume is None and config.init_from is not None:
        load_initial(config.init_from, config, parts.learner)
    positions = None if resume is None else resume.found.positions
    metrics = stack.enter_context(closing(MetricsLog(run_dir, config.logger, frame_skip, positions)))
    watchdog = stack.enter_context(Watchdog(config.run.stall_s, run_dir, lambda: how_to_go_on(run_dir, watcher.saved)))
    if config.compile:
        vars(parts.learner.gradient)["pausing"] = watchdog.pausing
    refilled_at = 0 if restored is None else restored.refilled_at
    keeper = Keeper(
        CheckpointStore(run_dir, config.run.keep_checkpoints, snapshot.prune),
        snapshot,
        plain(config),
        lambda: {**now, "logs": metrics.positions(), "clock": watcher.clock.state()},
        watchdog.pausing,
        refilled_at,
    )
    watcher = Watcher(
        make_periods(config.run),
        make_evaluator(config, parts, stack),
        Saving(keeper.periodic, keeper.best, keeper.final),
        Sinks(metrics, progress, make_schedules(config), Diagnostics(parts.learner, parts.memory, config.seed)),
        watchdog.beat,
        evaluated,
    )
    trainer = parts.trainer(make_plan(config, refilled_at), watcher)
    if resume is not None and restored is not None:
        go_on(resume, restored, trainer, watcher)
    return Run(parts.device, parts.threads, trainer, watcher, parts.learner, parts.memory, parts.streams)


def how_to_go_on(run_dir: Path, saved: int | None) -> str:
    """What somebody can do whose run has ended before its time."""
    newest = "there is no checkpoint yet" if saved is None else f"the last checkpoint is of step {saved:,}"
    return f"{newest}; continue with dqn-train resume={shown(run_dir)}"


def circumstances(parts: Parts) -> dict[str, Any]:
    """What the bits of a run may depend on beside its configuration."""
    cpu = hardware()["cpu"]
    return {"versions": versions(), "device": str(parts.device), "threads": parts.threads, "cpu": cpu}


def restore(snapshot: Snapshot, resume: Resume, now: Mapping[str, Any], say: Callable[[str], None]) -> Restored:
    """Bring the parts back, and say what that means; `now` are the `circumstances`."""
    require_sound(resume.found)
    for line in resume.found.other_circumstances(now):
        say(f"note: {line}")
    exact = resume.env == "exact"
    restored = snapshot.restore(resume.found.checkpoint, exact, lambda steps: say(f"playing {steps:,} steps again"))
    if restored.refilling:
        say("note: the replay memory was not kept, it is filled anew before learning goes on; not bit for bit")
    elif not exact:
        say("note: new episodes begin (resume_env=restart); not bit for bit")
    return restored


def require_lanes(config: Config, found: Found) -> None:
    """Raise `CheckpointError` unless so many environments were saved: before that many are made."""
    first = (found.checkpoint.arrays or {}).get("lanes.first")
    if first is None or first.shape != (config.num_envs,):
        shape = "missing" if first is None else f"of shape {first.shape}"
        raise CheckpointError(f"loop.safetensors does not fit num_envs={config.num_envs}: lanes.first is {shape}")


def require_sound(found: Found) -> None:
    """Raise `CheckpointError` where the state is none, before anything is built on it and before a log file is cut."""
    with refusing("state.json"):
        counters = past_of(found.checkpoint.state).counters
        if counters.steps != found.step:
            raise ValueError(f"step {counters.steps} in a checkpoint of step {found.step}")
        Clock().go_on_from(found.fingerprint["clock"], counters)


def go_on(resume: Resume, restored: Restored, trainer: Trainer, watcher: Watcher) -> None:
    """Let loop and watcher stand where they stood. Raises `CheckpointError`."""
    state = resume.found.checkpoint.state
    with refusing("state.json"):
        counters = watcher.go_on_from(state)
        watcher.clock.go_on_from(resume.found.fingerprint["clock"], counters)
    trainer.go_on_from(counters, restored.result, restored.frame, restored.first)


def probe(config: Config) -> Speed:
    """Run the loop for some seconds, without learning and with it, to see how fast it is here. Writes nothing."""

    def timed(learning: bool) -> tuple[Parts, list[Block]]:
        short, stopwatch = shortened(config, learning), Stopwatch(learning)
        with ExitStack() as stack:
            parts = make_parts(short, stack)
            parts.trainer(make_plan(short), stopwatch).run()
        return parts, stopwatch.blocks

    parts, blocks = timed(learning=True)
    device, gradient = str(parts.device), parts.learner.gradient
    compile_seconds = getattr(gradient, "compile_seconds", 0.0)
    if isinstance(config.replay, OnlineConfig):  # no step without learning
        return Speed(device, parts.threads, seconds_per_step(blocks), 0.0, parts.learner.way, compile_seconds)
    step_seconds = seconds_per_step(timed(learning=False)[1])
    update_seconds = seconds_per_update(blocks, step_seconds)
    return Speed(device, parts.threads, step_seconds, update_seconds, parts.learner.way, compile_seconds)


def train_run(
    config: Config,
    run_dir: Path,
    overrides: list[str],
    command: list[str],
    resume: Resume | None = None,
    evaluated: Told = nobody,
) -> RunSummary:
    """Train as configured and leave everything in `run_dir`, where `resume` says what is there already.

    `evaluated` is told the steps and the mean return of each evaluation; what it raises ends the run there.
    Raises `Interrupted` after a signal, once a checkpoint is saved, and the other user errors as they occur.
    """
    with ExitStack() as stack:
        run = assemble(config, run_dir, stack, resume, evaluated)
        watcher, metrics, device, threads = run.watcher, run.watcher.sinks.metrics, str(run.device), run.threads
        whole = plain(config)
        write_config(run_dir, whole)
        if resume is None:
            write_manifest(run_dir, command, overrides, config=whole, device=device, threads=threads)
            metrics.config_card(whole)
        else:
            step = resume.found.step
            add_to_manifest(run_dir, command, step=step, config=whole, device=device, threads=threads)
        with watcher.stop:
            try:
                if resume is None or not watcher.catch_up(run.trainer.result):
                    run.trainer.run()
                watcher.finish(run.trainer.result)
            except Interrupted as stop:
                watcher.save_interrupted(run.trainer.result)
                how = f"saved, continue with dqn-train resume={shown(run_dir)}"
                raise Interrupted(f"{stop}; {how}", stop.exit_code) from None
        assert watcher.last is not None
        assert watcher.best is not None
        metrics.hparams(whole, {"eval_return_mean": watcher.last.result.mean})
    seconds = watcher.clock.wall_seconds()
    return RunSummary(run_dir, config, watcher.last, watcher.best, seconds, watcher.reached_goal)


def evaluate_checkpoint(
    checkpoint: Checkpoint, config: Config, options: EvalConfig, watch: Callable[[int], None] = lambda done: None
) -> EvalResult:
    """Play `options.episodes` episodes of `config.env` with a checkpoint's policy; film them where that is asked.

    `watch` is told the number of episodes that are through.
    """
    _, device = prepare(config.network, options)
    lanes = min(options.num_envs, options.episodes)

    def seed_of(lane: int, episode: int) -> int:
        return seeding.integer(options.seed, Purpose.EVAL_ENV, lane + episode * lanes)

    render = "rgb_array" if options.video else options.render
    with closing(make_lanes(config.env, lanes, seed_of, render)) as envs:
        network = to_fast_layout(load_policy(checkpoint, config, envs.spec, envs.num_actions), device)
        actor = evaluating_actor(config, network, envs, lanes, options.seed)
        if options.video is None:
            return play(actor, envs, options.episodes, options.epsilon or 0.0, watch)
        assert isinstance(envs, GymLanes)
        return play_filmed(actor, envs, config.env.id, options, watch)


def play_filmed(
    actor: Actor, envs: GymLanes, title: str, options: EvalConfig, watch: Callable[[int], None]
) -> EvalResult:
    """`play` one episode after the other, into a video. Raises `ConfigError` where the extra `video` is missing."""
    video = str(options.video)
    try:
        from dqn_cli.training.video import Recorder, video_file
    except ImportError as error:
        missing = f"video={video} needs a package that is missing ({error})"
        raise ConfigError(f"{missing}; pip install 'dqn-cli[video]'") from error
    with video_file(Path(video)) as file:
        recorder = Recorder(actor, envs, file, title)
        return play(recorder, recorder, options.episodes, options.epsilon or 0.0, watch)


def load_policy(checkpoint: Checkpoint, config: Config, spec: ObsSpec, num_actions: int) -> ValueNetwork:
    """The network of a checkpoint that acts. Raises `CheckpointError` where weights and configuration differ."""
    with torch.device("meta"):  # shapes only: no size that the configuration claims is allocated
        network = make_network(config.network, config.value, spec, num_actions, config.precision)
    acting = acting_network(config) + "."
    if odd := [name for name, w in checkpoint.model.items() if not w.is_floating_point()]:
        raise CheckpointError(f"model.safetensors is not of the network in config.json: {odd[0]:.60} is not a float")
    weights = {k.removeprefix(acting): w.float() for k, w in checkpoint.model.items() if k.startswith(acting)}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"model.safetensors is not of the network in config.json: {text}") from error
    return network
