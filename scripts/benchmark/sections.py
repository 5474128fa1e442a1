"""Times of the parts that a run spends its time in, medians, on one core."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from dqn_cli import build
from dqn_cli.cli.arguments import typed_keys
from dqn_cli.cli.composition import read
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.paths import conf_dir
from dqn_cli.config import Config, UniformConfig
from dqn_cli.device import generator
from dqn_cli.envs.lanes import describe
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.replay.samplers import Prioritized, Sampler, Uniform
from dqn_cli.schedules import linear
from dqn_cli.settle import settle
from dqn_cli.training import resuming
from dqn_cli.training.checkpoint import CheckpointStore
from dqn_cli.training.keeper import Keeper
from dqn_cli.types import Batch, ObsSpec, StepResult
from dqn_cli.validate import plain

Row = tuple[str, str]  # what was done, how long it takes
BATCH, LIVE = 32, range(7, 1_000_007)

WORKLOADS = {
    "cartpole": ["env=CartPole", "replay.batch_size=64"],
    "minatar": ["env=minatar/Breakout", "replay.batch_size=32"],
    "nature": ["env=Breakout", "replay.batch_size=32"],
}
BASE = ["variant=tdqn"]  # with what is the default: scalar values, a plain head, uniform replay, Adam
SWITCHES = {
    "base: T-DQN": BASE,
    "ddqn": ["variant=ddqn"],
    "dueling": [*BASE, "network.head=dueling"],
    "noisy": [*BASE, "network.noisy=true"],
    "layer_norm": [*BASE, "network.layer_norm=true"],
    "spectral_norm": [*BASE, "network.spectral_norm=true"],
    "categorical": [*BASE, "value=categorical"],
    "quantile": [*BASE, "value=quantile"],
    "implicit": [*BASE, "value=implicit"],
    "fqf": [*BASE, "value=fqf"],
    "munchausen": [*BASE, "munchausen.enabled=true"],
    "prioritized": [*BASE, "replay=prioritized"],
    "experiment=rainbow": ["experiment=rainbow"],
    "experiment=m_iqn": ["experiment=m_iqn"],
}
NOT_IN = {"spectral_norm": ("cartpole", "minatar")}  # which have no second convolution


def median(work: Callable[[], object], seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that `work` takes, the median of as many calls as fit, after a few that do not count."""
    times: list[float] = []
    end = clock() + 1.2 * seconds
    while len(times) < 3 or clock() < end:
        begin = clock()
        work()
        times.append(clock() - begin)
    return statistics.median(times[1 + len(times) // 6 :])


def replay() -> Iterator[Row]:
    """Sampling, priorities and appending; frames of 4 numbers, and stacks of 4 84x84 pictures from fewer rows."""
    samplers: dict[str, Callable[[], Sampler]] = {
        "uniform": Uniform,
        "prioritized": lambda: Prioritized(0.5, 1e-6, linear(0.4, 1.0, len(LIVE))),
    }
    vector, picture = ObsSpec((4,), "float32"), ObsSpec((84, 84), "uint8", 4)
    rng = np.random.default_rng(0)
    for name, make in samplers.items():
        sampler = stocked(make(), rng)
        yield f"{name}: draw and weigh {BATCH} of 1M", us(partial(sampler.draw, rng, LIVE, BATCH, 10))
        for spec, rows, what in ((vector, len(LIVE), "1M vectors"), (picture, 50_000, "50k stacks of pictures")):
            memory = filled_memory(spec, rows, make())
            yield f"{name}: sample {BATCH} of {what}", us(partial(memory.sample, BATCH, 10))
            drawn, errors = memory.sample(BATCH).row, rng.random(BATCH, np.float32)
            assert drawn is not None
            yield f"{name}: update_priorities of {BATCH}", us(partial(memory.update_priorities, drawn, errors))
            yield f"{name}: append to {what}", us(appending(memory, spec))


def us(work: Callable[[], object]) -> str:
    """How long `work` takes, in microseconds."""
    return f"{median(work) * 1e6:>10,.1f} us"


def stocked(sampler: Sampler, rng: np.random.Generator) -> Sampler:
    """A sampler that knows a million rows of different errors, and no frames."""
    sampler.allocate(len(LIVE))
    sampler.moved(range(0), LIVE)
    sampler.update(LIVE, np.arange(LIVE.start, LIVE.stop), rng.exponential(size=len(LIVE)))
    return sampler


def filled_memory(spec: ObsSpec, rows: int, sampler: Sampler) -> ReplayMemory:
    """One environment's memory, full, all its priorities different: half a minute for a million."""
    memory = ReplayMemory(rows, spec, NStepAccumulator(1, 0.99, 1), np.random.default_rng(0), None, sampler)
    memory.start(np.zeros((1, *spec.frame_shape), spec.dtype))
    append = appending(memory, spec)
    for _ in range(rows):
        append()
    memory.update_priorities(np.arange(rows), np.random.default_rng(1).exponential(size=rows))
    return memory


def appending(memory: ReplayMemory, spec: ObsSpec) -> Callable[[], object]:
    """A step of one environment that goes on."""
    frame, no, action = np.ones((1, *spec.frame_shape), spec.dtype), np.zeros(1, np.bool_), np.zeros(1, np.int64)
    step = StepResult(frame, frame, np.ones(1), no, no, no)
    return lambda: memory.append(action, step)


def update(only: str | None = None) -> Iterator[Row]:
    """An update of each workload with one switch at a time, and its ratio to the update without any."""
    for workload in WORKLOADS if only is None else [only]:
        cases = [what for what in SWITCHES if workload not in NOT_IN.get(what, ())]
        times = interleaved([learning([*WORKLOADS[workload], *SWITCHES[what]]) for what in cases])
        # ratios within a turn: another program that slows the machine down for a while slows both of them
        ratios = np.median(times / times[:, :1], axis=0)
        for what, seconds, ratio in zip(cases, np.median(times, axis=0), ratios, strict=True):
            yield f"{workload}: {what}", f"{seconds * 1e3:>10,.2f} ms  x {ratio:.2f}"


def learning(overrides: list[str]) -> Callable[[], object]:
    """What a run does for an update: draw of a million rows, learn, tell the priorities; frames are there already."""
    config = composed(overrides)
    assert isinstance(config.replay, UniformConfig)
    facts, size, rng = describe(config.env), config.replay.batch_size, np.random.default_rng(0)
    learner = build.make_learner(config, facts.spec, facts.num_actions, generator(0, torch.device("cpu")))
    sampler = stocked(build.make_sampler(config), rng)
    batch = random_batch(facts.spec, facts.num_actions, size, rng)

    def work() -> None:
        row, weight = sampler.draw(rng, LIVE, size, 0)
        result = learner.update(replace(batch, weight=None if weight is None else torch.from_numpy(weight)), 0)
        sampler.update(LIVE, row, result.priority.numpy())

    return work


def composed(overrides: list[str]) -> Config:
    """The settled configuration that `dqn-train` would have."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = read(compose("config", overrides, return_hydra_config=True))
    settle(config, typed_keys(overrides))
    return config


def random_batch(spec: ObsSpec, num_actions: int, size: int, rng: np.random.Generator) -> Batch:
    """Noise, laid out as the memory does it: obs and next_obs of a row lie side by side."""
    values = 256 if spec.dtype == "uint8" else 2
    obs = torch.from_numpy(rng.integers(0, values, (size, 2, *spec.obs_shape)).astype(spec.dtype))
    return Batch(
        obs=obs[:, 0],
        action=torch.from_numpy(rng.integers(0, num_actions, size)),
        reward=torch.from_numpy(rng.random(size, np.float32)),
        discount=torch.full((size,), 0.99),
        next_obs=obs[:, 1],
    )


def interleaved(works: Sequence[Callable[[], object]], seconds: float = 10.0) -> NDArray[np.float64]:
    """Seconds that each takes [turns, works], one after the other, again and again.

    Of this process's own time, so that what other programs take in between does not count.
    """
    turns: list[list[float]] = []
    end = time.process_time() + seconds
    while len(turns) < 6 or time.process_time() < end:
        turns.append([median(work, 0.02, time.process_time) for work in works])
    return np.array(turns[1:])


def checkpoint() -> Iterator[Row]:
    """A memory of a million, full of 50,000 steps of Pong again and again: saved, and brought back."""
    config, new = composed(["env=Pong", "replay.capacity=1_000_000", "run.total_steps=2_000_000"]), 50_000
    state: dict[str, Any] = {"counters": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ExitStack() as stack:
            parts = build.make_parts(config, stack)
            keeper = keeper_of(config, folder, parts)
            steps = played(parts, new)
            for _ in range(1_000_000 // new - 2):
                remember(parts.memory, steps)
            first = timed(partial(keeper.periodic, 1, state, None))
            remember(parts.memory, steps)
            again = timed(partial(keeper.periodic, 2, state, None))
            frames = parts.memory.rings()["frames"]
            disk = sum(file.stat().st_size for file in (folder / "replay").iterdir()) / (frames.end - frames.begin)
            del steps, parts, keeper, frames
        speed = build.probe(config)
        share = again / speed.seconds(new, new // config.run.update_every_steps)
        yield f"a checkpoint {new:,} steps after the last one", f"{again:>10,.2f} s"
        yield f"the same, of the time of {new:,} steps here, {speed.threads} thread", f"{share:>10.2%}"
        yield "the first one, of a full memory", f"{first:>10,.2f} s"
        yield "bytes on disk for a frame", f"{disk:>10,.0f}"
        found = resuming.find(folder)
        assert found is not None
        with ExitStack() as stack:
            snapshot = build.make_snapshot(config, folder, build.make_parts(config, stack))
            steps_again: list[int] = []
            back = timed(lambda: snapshot.restore(found.checkpoint, True, steps_again.append))
        yield f"to come back, playing {steps_again[0]:,} steps again", f"{back:>10,.2f} s"


def keeper_of(config: Config, folder: Path, parts: build.Parts) -> Keeper:
    """What writes the checkpoints of a run that is made of these parts."""
    snapshot = build.make_snapshot(config, folder, parts)
    return Keeper(CheckpointStore(folder, 1, snapshot.prune), snapshot, plain(config), dict, nullcontext)


def played(parts: build.Parts, steps: int) -> list[tuple[NDArray[np.int64], StepResult]]:
    """Random play in one environment, stored in the memory."""
    rng, done = np.random.default_rng(0), []
    parts.memory.start(parts.envs.reset())
    for _ in range(steps):
        action = rng.integers(0, parts.envs.num_actions, 1)
        parts.envs.send(action)
        done.append((action, parts.envs.recv()))
    remember(parts.memory, done)
    return done


def remember(memory: ReplayMemory, steps: Sequence[tuple[NDArray[np.int64], StepResult]]) -> None:
    """Store them, once more."""
    for action, step in steps:
        memory.append(action, step)


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes, once."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


SECTIONS: dict[str, Callable[..., Iterator[Row]]] = {"replay": replay, "update": update, "checkpoint": checkpoint}
