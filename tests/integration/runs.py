"""Small runs of every kind, and all the bytes that such a run determines."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dqn_cli import build
from dqn_cli import config as configs
from dqn_cli.config import (
    AdamConfig,
    AtariConfig,
    BoltzmannConfig,
    CategoricalConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    FqfConfig,
    GymConfig,
    ImpalaConfig,
    ImplicitConfig,
    LifeLoss,
    MinatarConfig,
    MlpConfig,
    MunchausenConfig,
    NipsCnnConfig,
    NoisyExplorationConfig,
    OnlineConfig,
    PrioritizedConfig,
    QlearningConfig,
    RmspropConfig,
    RmspropNatureConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
    TdqnConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.training.snapshot import position


def small(**changes: Any) -> Config:
    """A CartPole run of a few seconds that does everything at least twice."""
    run = RunConfig(
        total_steps=400,
        learning_starts_steps=50,
        update_every_steps=3,
        updates_per_round=2,
        eval_every_steps=150,
        eval_episodes=3,
        log_every_steps=70,
        checkpoint_every_steps=120,
    )
    parts: dict[str, Any] = {
        "env": GymConfig(id="CartPole-v1"),
        "network": MlpConfig(hidden=[16]),
        "variant": DdqnConfig(target_every=20),
        "value": ScalarConfig(),
        "replay": UniformConfig(capacity=300, batch_size=8),
        "exploration": EpsilonConfig(over_steps=200),
        "optimizer": AdamConfig(),
        "run": run,
    }
    return Config(**{**parts, **changes})


def frozen_lake(**changes: Any) -> Config:
    parts: dict[str, Any] = {
        "env": GymConfig(id="FrozenLake-v1"),
        "network": TableConfig(),
        "variant": QlearningConfig(),
        "value": ScalarConfig(),
        "replay": OnlineConfig(),
        "optimizer": SgdConfig(lr=0.1),
        "loss": configs.Loss.mse,
        "exploration": EpsilonConfig(over_steps=500, end=0.3),
        "run": RunConfig(total_steps=3_000, eval_every_steps=None, checkpoint_every_steps=None),
    }
    return Config(**{**parts, **changes})


DETERMINED = ("model.safetensors", "optimizer.safetensors", "loop.safetensors", "state.json", "config.json")


def fingerprint(config: Config, folder: Path) -> dict[str, bytes]:
    """Every byte that a run determines: networks, optimiser, replay, streams and the deterministic tables."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        run = build.assemble(config, folder, stack)
        run.trainer.run()
        run.watcher.finish(run.trainer.result)
        found = {f"model.{name}": tensor.numpy().tobytes() for name, tensor in run.learner.model_state().items()}
        found |= {f"optimizer.{name}": t.numpy().tobytes() for name, t in run.learner.optimizer_state().items()}
        found |= {f"replay.{name}": array.tobytes() for name, array in run.memory.state_dict().items()}
        found |= {f"stream.{name}": repr(position(s)).encode() for name, s in run.streams.items()}
    found |= {path.name: path.read_bytes() for path in (folder / "metrics.csv", folder / "episodes.csv")}
    for path in sorted((folder / "checkpoints").rglob("*")):
        if path.name in DETERMINED:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def brief(**changes: Any) -> Config:
    """A shorter run, of what takes longer."""
    run = RunConfig(
        total_steps=120,
        learning_starts_steps=20,
        update_every_steps=4,
        eval_every_steps=50,
        eval_episodes=2,
        log_every_steps=30,
        checkpoint_every_steps=50,
    )
    return small(**{"run": run, **changes})


# every part of Rainbow (Hessel et al. 2018), and M-IQN (Vieillard et al. 2020), in little
RAINBOW = brief(
    network=MlpConfig(hidden=[16, 8], head=configs.Head.dueling, noisy=True),
    value=CategoricalConfig(atoms=11, v_min=0, v_max=50),
    replay=PrioritizedConfig(capacity=300, batch_size=8, n_step=3, beta_over_steps=90),
    exploration=NoisyExplorationConfig(),
    optimizer=AdamConfig(max_grad_norm=10.0),
    num_envs=2,
)
M_IQN = brief(
    variant=TdqnConfig(target_every=20),
    value=ImplicitConfig(quantiles=6, target_quantiles=5, acting_quantiles=4, embedding=8),
    munchausen=MunchausenConfig(enabled=True),
)
CELLS = MinatarConfig(id="MinAtar/Breakout", time_limit_steps=60)


VARIETY = {
    "ddqn": small(),
    "rainbow": RAINBOW,
    "m-iqn": M_IQN,
    "fqf, impala with spectral and layer norms, boltzmann": brief(
        env=CELLS,
        network=ImpalaConfig(units=8, pool=2, spectral_norm=True, layer_norm=True),
        value=FqfConfig(quantiles=4, embedding=8, fraction_lr=1e-4),
        exploration=BoltzmannConfig(temperature=0.1),
        optimizer=RmspropConfig(momentum=0.9),
        threads="1",
    ),
    "vdqn": small(variant=VdqnConfig(), loss=configs.Loss.mse, optimizer=RmspropNatureConfig(lr=1e-3)),
    "three lanes, three steps": small(num_envs=3, replay=UniformConfig(capacity=300, batch_size=8, n_step=3)),
    "polyak, episodes, acting target": small(
        variant=TdqnConfig(
            target_every=1, target_unit=configs.TargetUnit.episodes, tau=0.1, act_with=configs.ActWith.target
        )
    ),
    "stacked": small(env=GymConfig(id="CartPole-v1", frame_stack=3)),
    "q-learning": frozen_lake(),
    "atari": small(
        env=AtariConfig(id="ALE/Pong-v5", resize=[42, 42], noop_max=5, life_loss=LifeLoss.terminal, max_frames=300),
        network=NipsCnnConfig(),
        num_envs=2,
        threads="1",
    ),
}
