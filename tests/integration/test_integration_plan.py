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
    BoltzmannConfig,
    CategoricalConfig,
    CnnConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    ExplorationConfig,
    FqfConfig,
    GymConfig,
    ImpalaConfig,
    ImplicitConfig,
    MinatarCnnConfig,
    MinatarConfig,
    MlpConfig,
    MunchausenConfig,
    NatureCnnConfig,
    NetworkConfig,
    NipsCnnConfig,
    NoisyExplorationConfig,
    OnlineConfig,
    OptimizerConfig,
    PerEnvConfig,
    PrioritizedConfig,
    QlearningConfig,
    QuantileConfig,
    ReplayConfig,
    RmspropConfig,
    RmspropNatureConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
    TargetUnit,
    TdqnConfig,
    UniformConfig,
    ValueConfig,
    VariantConfig,
    VdqnConfig,
)
from dqn_cli.envs.lanes import describe
from dqn_cli.errors import ConfigError
from dqn_cli.networks.make import make_network
from dqn_cli.networks.shapes import parameter_shapes
from dqn_cli.settle import settle
from dqn_cli.training import diagnostics, probe
from dqn_cli.training.forecast import Forecast, forecast
from dqn_cli.training.plan import Counters, make_exploration, make_schedules
from dqn_cli.training.probe import Block, Stopwatch, seconds_per_step, seconds_per_update, shortened
from dqn_cli.types import ObsSpec, StepResult

FROZEN_LAKE = GymConfig(id="FrozenLake-v1", time_limit_steps=20)


def base(**parts: Any) -> Config:
    """A run on a small lake."""
    defaults: dict[str, Any] = {
        "env": FROZEN_LAKE,
        "network": MlpConfig(hidden=[3]),
        "variant": DdqnConfig(target_every=20),
        "value": ScalarConfig(),
        "replay": UniformConfig(capacity=100, batch_size=4),
        "exploration": EpsilonConfig(over_steps=50),
        "optimizer": SgdConfig(lr=0.1),
        "run": RunConfig(total_steps=60, learning_starts_steps=5, eval_every_steps=None, eval_episodes=1),
        "logger": configs.Logger.csv,
    }
    return Config(**{**defaults, **parts})


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
    kind = rng.choices(["table", "mlp", "pictures"], [3, 5, 2])[0]
    run = RunConfig(
        total_steps=rng.randint(60, 180) if kind != "pictures" else rng.randint(40, 80),
        learning_starts_steps=pick([0, 1, 10, 33]),
        update_every_steps=pick([1, 2, 3, 7, 16]) if kind != "pictures" else pick([4, 7, 16]),
        updates_per_round=pick([1, 2, 5]),
        eval_every_steps=pick([None, 5, 40, 61]),
        eval_episodes=1,
        log_every_steps=1,
        checkpoint_every_steps=pick([None, 5, 50, 77]),
        keep_checkpoints=1000,
    )
    config = base(
        env=FROZEN_LAKE if kind != "pictures" else any_minatar(rng),
        network=any_network(rng, kind),
        variant=any_variant(rng, kind),
        value=pick(VALUES),
        replay=any_replay(rng, kind),
        exploration=any_exploration(rng),
        optimizer=any_optimizer(rng),
        munchausen=MunchausenConfig(enabled=rng.random() < 0.3),
        run=run,
        num_envs=pick([1, 1, 2, 3, 8]),
        seed=rng.randrange(10**6),
    )
    if isinstance(config.variant, QlearningConfig):
        config.value = ScalarConfig()
    return config


VALUES: list[ValueConfig] = [
    ScalarConfig(),
    CategoricalConfig(atoms=5, v_min=0, v_max=1),
    QuantileConfig(quantiles=3),
    ImplicitConfig(quantiles=4, target_quantiles=3, acting_quantiles=2, embedding=5),
    FqfConfig(quantiles=3, embedding=5),
]


def any_minatar(rng: random.Random) -> MinatarConfig:
    game = rng.choice(["MinAtar/Breakout", "MinAtar/Freeway", "MinAtar/Asterix"])
    full, stack = rng.random() < 0.5, rng.choice([1, 1, 2])
    return MinatarConfig(id=game, time_limit_steps=15, full_actions=full, frame_stack=stack)


def any_network(rng: random.Random, kind: str) -> NetworkConfig:
    if kind == "table":
        return TableConfig()
    switches: dict[str, Any] = {
        "head": rng.choice([*configs.Head]),
        "noisy": rng.random() < 0.4,
        "layer_norm": rng.random() < 0.3,
    }
    if kind == "mlp":
        return MlpConfig(hidden=rng.choice([[], [3], [4, 3]]), **switches)
    if rng.random() < 0.5:
        return MinatarCnnConfig(**switches, padding=rng.choice([*configs.Padding]))
    pool, spectral = rng.choice([None, 1, 2]), rng.random() < 0.7
    return ImpalaConfig(**switches, units=rng.choice([4, 9]), pool=pool, spectral_norm=spectral)


def any_variant(rng: random.Random, kind: str) -> VariantConfig:
    if kind == "table" and rng.random() < 0.5:
        return QlearningConfig()
    target = {"target_every": rng.choice([1, 3, 7, 20]), "target_unit": rng.choice([*TargetUnit])}
    variants = [VdqnConfig(), TdqnConfig(**target, act_with=rng.choice([*configs.ActWith]))]
    return rng.choice([*variants, DdqnConfig(**target, tau=0.5)])


def any_replay(rng: random.Random, kind: str) -> ReplayConfig:
    n_step = rng.choice([1, 1, 2, 5])
    if rng.random() < {"table": 0.8, "mlp": 0.15, "pictures": 0}[kind]:
        return OnlineConfig(n_step=n_step)
    sizes: dict[str, Any] = {"capacity": rng.randint(8, 300), "batch_size": 4, "n_step": n_step}
    if rng.random() < 0.5:
        return UniformConfig(**sizes)
    return PrioritizedConfig(**sizes, alpha=rng.choice([0, 0.5]), beta_over_steps=rng.choice([None, 1, 50, 9999]))


def any_exploration(rng: random.Random) -> ExplorationConfig:
    schedule, over, delay = rng.choice([*configs.EpsilonSchedule]), rng.randint(1, 300), rng.choice([0, 0, 20])
    by_epsilon = EpsilonConfig(schedule=schedule, over_steps=over, delay_steps=delay)
    others = [NoisyExplorationConfig(), BoltzmannConfig(temperature=0.3), PerEnvConfig(epsilon=0.5, alpha=3)]
    return rng.choice([by_epsilon, by_epsilon, *others])


def any_optimizer(rng: random.Random) -> OptimizerConfig:
    lr = {"lr": 1e-3, "lr_schedule": rng.choice([*configs.LrSchedule]), "lr_end": 1e-4}
    momentum = rng.choice([0.0, 0.9])
    return rng.choice(
        [
            AdamConfig(**lr),
            RmspropConfig(**lr, momentum=momentum, centered=rng.random() < 0.5),
            RmspropNatureConfig(**lr),
            SgdConfig(**lr, momentum=momentum),
        ]
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


SCHEDULED = ["epsilon", "temperature", "lr", "beta"]


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
    scheduled = make_schedules(config)
    logged = {int(row["steps"]): {name: row[name] for name in SCHEDULED if row[name] != ""} for row in rows}
    assert logged == {step: {name: str(at(step)) for name, at in scheduled.items()} for step in logged}
    assert len(logged) == totals.steps // config.num_envs
    assert {step for step in key_steps(config, totals.steps) if step % config.num_envs == 0} <= {0, *logged}


@pytest.fixture
def _few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row at every step is a look at every step, which may be a short one."""
    monkeypatch.setattr(diagnostics, "TRANSITIONS", 3)


RANDOM = range(40)


@pytest.mark.usefixtures("_few_looks")
@pytest.mark.parametrize("seed", RANDOM)
def test_a_forecast_is_what_a_run_counts(seed: int, tmp_path: Path) -> None:
    config = draw(random.Random(seed))
    totals = forecast(config, describe(config.env))
    run = ran(config, tmp_path / "run")
    check_counters(config, totals, run, tmp_path / "run")
    check_bytes(run, totals)


def test_the_random_configurations_are_of_every_kind() -> None:
    drawn = [draw(random.Random(seed)) for seed in RANDOM]
    totals = [forecast(config, describe(config.env)) for config in drawn]
    for group in ("variant", "value", "replay", "exploration", "optimizer"):
        assert {getattr(config, group).name for config in drawn} == configs.CHOICES[group].keys()
    assert {config.network.name for config in drawn} == {"table", "mlp", "minatar_cnn", "impala"}
    for name in ("head", "noisy", "layer_norm", "spectral_norm"):
        assert len({getattr(config.network, name) for config in drawn if hasattr(config.network, name)}) == 2, name
    assert {config.munchausen.enabled for config in drawn} == {True, False}
    assert {getattr(config.optimizer, "momentum", 0) > 0 for config in drawn} == {True, False}
    assert {getattr(config.variant, "target_unit", None) for config in drawn} == {None, *TargetUnit}
    assert {config.num_envs for config in drawn} == {1, 2, 3, 8}
    assert {total.exact for total in totals} == {True, False}
    assert sum((total.target_syncs or 0) > 0 for total in totals) > 10


def test_schedules_by_hand() -> None:
    """What the plan shows and the run logs comes from one place; here it is worked out."""
    run = RunConfig(total_steps=200)
    ramp = {"beta_begin": 0.4, "beta_end": 0.8}
    for over, half in ((None, 100), (40, 20)):
        config = base(run=run, replay=PrioritizedConfig(**ramp, beta_over_steps=over))
        beta = make_schedules(config)["beta"]
        assert [beta(step) for step in (0, half, 2 * half, 10**6)] == pytest.approx([0.4, 0.6, 0.8, 0.8])
    assert "beta" not in make_schedules(base())
    warm = make_schedules(base(exploration=BoltzmannConfig(temperature=0.3)))
    assert "epsilon" not in warm
    assert warm["temperature"](7) == 0.3
    assert make_schedules(base(exploration=NoisyExplorationConfig()))["epsilon"](7) == 0
    # of three environments, with alpha 2: powers 1, 2 and 3 of a half, on average 7/8 / 3
    ladder = make_schedules(base(exploration=PerEnvConfig(epsilon=0.5, alpha=2), num_envs=3))
    assert ladder["epsilon"](7) == pytest.approx(7 / 24)


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
    RmspropConfig(centered=True, momentum=0.9),
    RmspropNatureConfig(),
    SgdConfig(),
    SgdConfig(momentum=0.9),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("variant", [VdqnConfig(), DdqnConfig(target_every=20)], ids=lambda variant: variant.name)
def test_the_bytes_of_checkpoints(optimizer: OptimizerConfig, variant: Any, tmp_path: Path) -> None:
    config = base(network=MlpConfig(hidden=[5, 6]), variant=variant, optimizer=optimizer)
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
    config = base(
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
    config = base(
        network=MlpConfig(hidden=[64]),
        variant=DdqnConfig(),
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
    config = base(threads="4096")
    with pytest.raises(ConfigError, match=r"threads=4096 is not possible here"):
        build.probe(config)
