"""What `dqn-plan` says against what runs do: counters, schedules, bytes and parameters, exactly."""

from __future__ import annotations

import csv
import dataclasses
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from dqn_cli import build
from dqn_cli import config as configs
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.paths import conf_dir
from dqn_cli.cli.plan import settled
from dqn_cli.cli.plan_report import key_steps
from dqn_cli.config import (
    AdamConfig,
    CnnConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    MlpConfig,
    NatureCnnConfig,
    NipsCnnConfig,
    OnlineConfig,
    OptimizerConfig,
    QlearningConfig,
    RmspropConfig,
    RmspropNatureConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
    TargetUnit,
    TdqnConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.envs.lanes import describe
from dqn_cli.errors import ConfigError
from dqn_cli.networks.make import make_network
from dqn_cli.networks.shapes import parameter_shapes
from dqn_cli.settle import settle
from dqn_cli.training import probe
from dqn_cli.training.forecast import Forecast, forecast
from dqn_cli.training.plan import Counters, make_exploration, make_lr
from dqn_cli.training.probe import Block, Stopwatch, seconds_per_step, seconds_per_update, shortened
from dqn_cli.types import ObsSpec, StepResult


def draw(rng: random.Random) -> Config:
    """Some configuration of a short run that nothing refuses."""
    while True:
        config = anything(rng)
        try:
            settle(config, ())
        except ConfigError:
            continue
        return config


def anything(rng: random.Random) -> Config:
    pick = rng.choice
    tabular = rng.random() < 0.3
    n_step = pick([1, 1, 2, 5])
    target = {"target_every": pick([1, 3, 7, 20]), "target_unit": pick([*TargetUnit])}
    variants = [VdqnConfig(), TdqnConfig(**target), DdqnConfig(**target, tau=0.5)]
    run = RunConfig(
        total_steps=rng.randint(60, 240),
        learning_starts_steps=pick([0, 1, 10, 33]),
        update_every_steps=pick([1, 2, 3, 7, 16]),
        updates_per_round=pick([1, 2, 5]),
        eval_every_steps=pick([None, 5, 40, 61]),
        eval_episodes=1,
        log_every_steps=1,
        checkpoint_every_steps=pick([None, 5, 50, 77]),
        keep_checkpoints=1000,
    )
    return Config(
        env=GymConfig(id="FrozenLake-v1", time_limit_steps=20),
        network=TableConfig() if tabular else MlpConfig(hidden=[3]),
        variant=QlearningConfig() if tabular and rng.random() < 0.7 else pick(variants),
        value=ScalarConfig(),
        replay=OnlineConfig(n_step=n_step)
        if tabular
        else UniformConfig(capacity=rng.randint(8, 300), batch_size=4, n_step=n_step),
        exploration=EpsilonConfig(
            schedule=pick([*configs.EpsilonSchedule]),
            over_steps=rng.randint(1, 300),
            delay_steps=pick([0, 0, 20]),
        ),
        optimizer=SgdConfig(lr=0.1, lr_schedule=pick([*configs.LrSchedule]), lr_end=0.01),
        run=run,
        logger=configs.Logger.csv,
        num_envs=pick([1, 1, 2, 3, 8]),
        seed=rng.randrange(10**6),
    )


def ran(config: Config, folder: Path) -> build.Run:
    folder.mkdir()
    with ExitStack() as stack:
        run = build.assemble(config, folder, stack)
        run.trainer.run()
        run.watcher.finish(run.trainer.result)
    return run


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def check_counters(config: Config, totals: Forecast, run: build.Run, folder: Path) -> None:
    """What was forecast is what the run, which logged every step, has counted."""
    counted, rows = run.trainer.counters, rows_of(folder)
    assert counted.steps == totals.steps
    assert totals.updates <= counted.updates <= totals.most_updates
    assert (counted.updates == totals.updates) or not totals.exact
    if totals.target_syncs is not None:
        assert counted.target_syncs == totals.target_syncs
    first = next(int(row["steps"]) for row in rows if int(row["updates"]) > 0)
    assert first == totals.first_update_steps if totals.exact else first <= totals.first_update_steps
    assert sum(row["eval_return_mean"] != "" for row in rows) == totals.evaluations
    assert len([*folder.glob("checkpoints/step-*")]) == totals.checkpoints
    assert run.memory.nbytes == totals.replay_bytes
    epsilon, lr = make_exploration(config.exploration), make_lr(config.optimizer, config.run.total_steps)
    logged = {int(row["steps"]): (float(row["epsilon"]), float(row["lr"])) for row in rows}
    assert logged == {step: (epsilon(step), lr(step)) for step in logged}
    assert len(logged) == totals.steps // config.num_envs
    assert {step for step in key_steps(config, totals.steps) if step % config.num_envs == 0} <= {0, *logged}


@pytest.mark.parametrize("seed", range(40))
def test_a_forecast_is_what_a_run_counts(seed: int, tmp_path: Path) -> None:
    config = draw(random.Random(seed))
    totals = forecast(config, describe(config.env))
    run = ran(config, tmp_path / "run")
    check_counters(config, totals, run, tmp_path / "run")


def test_the_random_configurations_are_of_every_kind() -> None:
    drawn = [draw(random.Random(seed)) for seed in range(40)]
    totals = [forecast(config, describe(config.env)) for config in drawn]
    assert {config.variant.name for config in drawn} == {"vdqn", "tdqn", "ddqn", "qlearning"}
    assert {getattr(config.variant, "target_unit", None) for config in drawn} == {None, *TargetUnit}
    assert {config.num_envs for config in drawn} == {1, 2, 3, 8}
    assert {total.exact for total in totals} == {True, False}
    assert sum((total.target_syncs or 0) > 0 for total in totals) > 10


PRESETS = {
    "nature": [
        "run.total_steps=600",
        "run.learning_starts_steps=100",
        "replay.capacity=600",
        "variant.target_every=100",
    ],
    "dopamine": ["run.total_steps=300"],
    "double_dqn": ["run.total_steps=300", "num_envs=3", "variant.target_unit=updates", "variant.target_every=7"],
}


@pytest.mark.parametrize(("name", "short"), PRESETS.items(), ids=PRESETS)
def test_a_preset_s_plan_is_what_a_shortened_run_of_it_counts(name: str, short: list[str], tmp_path: Path) -> None:
    register()
    overrides = [f"experiment={name}", "run.log_every_steps=1", "env.max_frames=80", *short]
    overrides += ["run.eval_episodes=1", "run.eval_every_steps=250", "run.checkpoint_every_steps=200", "threads=1"]
    overrides += ["run.keep_checkpoints=9", "logger=csv", "device=cpu"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plan = settled(compose("config", overrides, return_hydra_config=True))
    run = ran(plan.config, tmp_path / "run")
    check_counters(plan.config, plan.forecast, run, tmp_path / "run")
    if name == "nature":
        # multiples of 4 in (100, 600], of 100 in (0, 600], of 250 and the end, of 200
        totals = plan.forecast
        assert (totals.updates, totals.target_syncs, totals.evaluations, totals.checkpoints) == (125, 6, 3, 3)
    frames = {row["frames"] for row in rows_of(tmp_path / "run")}
    assert str(plan.forecast.steps * 4) in frames
    check_bytes(run, plan.forecast)


def check_bytes(run: build.Run, totals: Forecast) -> None:
    """The tensors of a checkpoint, and the weights of a network, are as many as was said."""
    model, optimizer = run.learner.model_state(), run.learner.optimizer_state()
    assert sum(w.nbytes for w in model.values()) == totals.model_bytes
    assert sum(w.nbytes for w in optimizer.values()) == totals.optimizer_bytes
    assert sum(w.numel() for w in run.learner.online.parameters()) == totals.parameters


OPTIMIZERS: list[OptimizerConfig] = [
    AdamConfig(),
    RmspropConfig(),
    RmspropConfig(centered=True),
    RmspropNatureConfig(),
    SgdConfig(),
    SgdConfig(momentum=0.9),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("variant", [VdqnConfig(), DdqnConfig(target_every=20)], ids=lambda variant: variant.name)
def test_the_bytes_of_checkpoints(optimizer: OptimizerConfig, variant: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    config = dataclasses.replace(
        anything(rng),
        network=MlpConfig(hidden=[5, 6]),
        variant=variant,
        value=ScalarConfig(),
        replay=UniformConfig(capacity=100, batch_size=4),
        optimizer=optimizer,
        run=RunConfig(total_steps=60, learning_starts_steps=5, eval_every_steps=None, eval_episodes=1),
    )
    settle(config, ())
    check_bytes(ran(config, tmp_path / "run"), forecast(config, describe(config.env)))


SPECS = [ObsSpec((84, 84), "uint8", 4), ObsSpec((84, 84), "uint8", 1), ObsSpec((96, 72, 3), "uint8", 2)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("network", [NatureCnnConfig(), NipsCnnConfig()], ids=lambda network: network.name)
def test_shapes_of_parameters_of_convolutions(network: CnnConfig, spec: ObsSpec) -> None:
    real = [tuple(w.shape) for w in make_network(network, ScalarConfig(), spec, 6).parameters()]
    assert parameter_shapes(network, ScalarConfig(), spec, 6) == real


@pytest.mark.parametrize("spec", [ObsSpec((7,), "float32", 1), ObsSpec((7,), "float32", 3), SPECS[0]], ids=str)
@pytest.mark.parametrize("hidden", [[], [5], [5, 3]], ids=str)
def test_shapes_of_parameters_of_an_mlp(hidden: list[int], spec: ObsSpec) -> None:
    network = MlpConfig(hidden=hidden)
    assert parameter_shapes(network, ScalarConfig(), spec, 4) == [
        tuple(w.shape) for w in make_network(network, ScalarConfig(), spec, 4).parameters()
    ]


def test_shapes_of_parameters_of_a_table() -> None:
    spec = ObsSpec((7,), "float32", 1)
    assert parameter_shapes(TableConfig(), ScalarConfig(), spec, 4) == [(4, 7)]
    assert [tuple(w.shape) for w in make_network(TableConfig(), ScalarConfig(), spec, 4).parameters()] == [(4, 7)]


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    return clock


def watched(stopwatch: Stopwatch, clock: Clock, step_seconds: float, update_seconds: float, every: int) -> int:
    """Steps of two environments, with an update every so many turns (0: never), until the stopwatch has enough."""
    now, turn, over, step = Counters(), 0, False, StepResult(*[np.zeros(2)] * 6)
    while not over:
        turn += 1
        before = dataclasses.replace(now)
        learns = bool(every) and turn % every == 0
        now.steps, now.updates = now.steps + 2, now.updates + learns
        clock.now += 2 * step_seconds + learns * update_seconds
        over = stopwatch.after_step(before, now, step, None)
    return turn


def test_a_stopwatch_finds_what_a_step_takes(clock: Clock) -> None:
    stopwatch = Stopwatch(learning=False)
    turns = watched(stopwatch, clock, 2**-8, 0.0, 0)
    assert turns == 128  # a second
    assert seconds_per_step(stopwatch.blocks) == 2**-8
    assert all(block.updates == 0 for block in stopwatch.blocks)


@pytest.mark.parametrize("every", [1, 3, 50])
def test_a_stopwatch_finds_what_an_update_takes(every: int, clock: Clock) -> None:
    stopwatch = Stopwatch(learning=True)
    watched(stopwatch, clock, 0.001, 0.03, every)
    assert all(block.steps == 2 * every * block.updates for block in stopwatch.blocks)  # whole rounds
    assert seconds_per_update(stopwatch.blocks, 0.001) == pytest.approx(0.03)
    assert sum(block.seconds for block in stopwatch.blocks) >= 2.9


def test_what_takes_long_is_seen_often_enough(clock: Clock) -> None:
    stopwatch = Stopwatch(learning=True)
    assert watched(stopwatch, clock, 0.001, 7.0, 1) == probe.MIN_BLOCKS


def test_the_first_block_and_outliers_do_not_count() -> None:
    blocks = [Block(9.0, 10, 1), Block(1.0, 10, 1), Block(1.2, 10, 1), Block(50.0, 10, 1)]
    assert seconds_per_step(blocks) == pytest.approx(0.12)
    assert seconds_per_update(blocks, 0.02) == pytest.approx(1.0)
    assert seconds_per_update(blocks, 0.5) == 0.0


def test_what_is_probed_is_the_run_in_little() -> None:
    config = dataclasses.replace(
        anything(random.Random(1)),
        value=ScalarConfig(),
        replay=UniformConfig(capacity=10**6, batch_size=32),
        exploration=EpsilonConfig(begin=1.0, end=0.0, over_steps=1000),
        run=RunConfig(total_steps=2000, update_every_steps=10_000, updates_per_round=4),
    )
    short = shortened(config, learning=True)
    assert short.replay == UniformConfig(capacity=10_000, batch_size=32)
    assert (short.run.learning_starts_steps, short.run.update_every_steps, short.run.updates_per_round) == (0, 256, 4)
    assert make_exploration(short.exploration)(0) == pytest.approx(0.25, abs=1e-3)  # a half over half of the run
    never = shortened(config, learning=False).run
    assert never.learning_starts_steps >= never.total_steps
    assert config.run.update_every_steps == 10_000  # the run itself is left as it was


def test_a_probe_times_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "SECONDS", {False: 0.05, True: 0.1})
    monkeypatch.setattr(probe, "BLOCK_SECONDS", 0.02)
    config = dataclasses.replace(
        anything(random.Random(1)),
        network=MlpConfig(hidden=[64]),
        variant=DdqnConfig(),
        value=ScalarConfig(),
        replay=UniformConfig(capacity=1000),
        run=RunConfig(total_steps=10**6),
    )
    speed = build.probe(config)
    assert speed.device == "cpu"
    assert speed.threads == 1
    assert 0 < speed.step_seconds < 1
    assert speed.seconds(1000, 10) == pytest.approx(1000 * speed.step_seconds + 10 * speed.update_seconds)
    online = dataclasses.replace(
        config, network=TableConfig(), variant=QlearningConfig(), replay=OnlineConfig(n_step=3), num_envs=2
    )
    assert build.probe(online).update_seconds == 0
    assert list(tmp_path.iterdir()) == []


def test_a_probe_refuses_what_only_torch_knows() -> None:
    config = dataclasses.replace(anything(random.Random(1)), threads="4096")
    with pytest.raises(ConfigError, match=r"threads=4096 is not possible here"):
        build.probe(config)
