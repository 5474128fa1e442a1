"""The switches compose: every pair of them occurs in a run that learns, saves, loads and plays, or says why not."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqn_cli import build
from dqn_cli.config import (
    ActWith,
    AdamConfig,
    BoltzmannConfig,
    CategoricalConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    EvalConfig,
    FqfConfig,
    GymConfig,
    Head,
    ImpalaConfig,
    ImplicitConfig,
    MinatarCnnConfig,
    MinatarConfig,
    MlpConfig,
    MunchausenConfig,
    NoisyExplorationConfig,
    OnlineConfig,
    PerEnvConfig,
    PrioritizedConfig,
    QuantileConfig,
    RunConfig,
    ScalarConfig,
    TableConfig,
    TdqnConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.errors import ConfigError
from dqn_cli.settle import settle
from dqn_cli.training import checkpoint as checkpoints
from dqn_cli.validate import plain, typed

FEW = {"quantiles": 6, "embedding": 8}
MINATAR = MinatarConfig(id="MinAtar/Breakout", frame_stack=2, time_limit_steps=40)
LAYERED = ("mlp", "minatar", "impala")

# switch -> its levels, by name; what a level means is read by `made`
SWITCHES: dict[str, dict[str, Any]] = {
    "network": {
        "mlp": (GymConfig(id="CartPole-v1"), MlpConfig(hidden=[16, 8])),
        "table": (GymConfig(id="FrozenLake-v1", time_limit_steps=20), TableConfig()),
        "minatar": (MINATAR, MinatarCnnConfig()),
        "impala": (MINATAR, ImpalaConfig(units=16, pool=1, spectral_norm=True)),
    },
    "variant": {
        "vdqn": VdqnConfig(),
        "tdqn": TdqnConfig(target_every=20),
        "tdqn, target acts": TdqnConfig(target_every=20, act_with=ActWith.target),
        "ddqn": DdqnConfig(target_every=20, tau=0.5),
    },
    "value": {
        "scalar": ScalarConfig(),
        "categorical": CategoricalConfig(atoms=7, v_min=0, v_max=20),
        "quantile": QuantileConfig(quantiles=5),
        "implicit": ImplicitConfig(target_quantiles=4, acting_quantiles=3, **FEW),
        "fqf": FqfConfig(**FEW),
    },
    "head": {"plain": Head.plain, "dueling": Head.dueling},
    "noisy": {"silent": False, "noisy": True},
    "layer_norm": {"bare": False, "normed": True},
    "replay": {
        "uniform": UniformConfig(capacity=100, batch_size=4),
        "prioritized": PrioritizedConfig(capacity=100, batch_size=4),
        "online": OnlineConfig(),
    },
    "n_step": {"1 step": 1, "3 steps": 3},
    "munchausen": {"plain reward": MunchausenConfig(), "munchausen": MunchausenConfig(enabled=True)},
    "exploration": {
        "epsilon": EpsilonConfig(over_steps=50),
        "by noise": NoisyExplorationConfig(),
        "boltzmann": BoltzmannConfig(),
        "per_env": PerEnvConfig(),
    },
    "num_envs": {"1 env": 1, "3 envs": 3},
}
Levels = dict[str, str]
Pair = frozenset[tuple[str, str]]


def made(levels: Levels) -> Config:
    """The configuration of a run of a second, with one level of every switch."""
    chosen = deepcopy({switch: SWITCHES[switch][level] for switch, level in levels.items()})
    env, network = chosen["network"]
    if not isinstance(network, TableConfig):
        network.head, network.noisy, network.layer_norm = (chosen[key] for key in ("head", "noisy", "layer_norm"))
    replay = chosen["replay"]
    replay.n_step = chosen["n_step"]
    return Config(
        env=env,
        network=network,
        variant=chosen["variant"],
        value=chosen["value"],
        replay=replay,
        exploration=chosen["exploration"],
        optimizer=AdamConfig(lr=1e-3),
        munchausen=chosen["munchausen"],
        num_envs=chosen["num_envs"],
        run=RunConfig(
            total_steps=96,
            learning_starts_steps=20,
            update_every_steps=6,
            eval_every_steps=48,
            eval_episodes=2,
            log_every_steps=24,
            checkpoint_every_steps=48,
        ),
    )


def refusal(levels: Levels) -> str | None:
    """Why this run is refused, if it is; a table has no layers whose switches could mean anything."""
    for switch, level in (("head", "dueling"), ("noisy", "noisy"), ("layer_norm", "normed")):
        if levels["network"] == "table" and levels[switch] == level:
            return f"network.{switch} does nothing with network=table; write ..."  # an unknown key of its class
    try:
        settle(made(levels), ())
    except ConfigError as error:
        return str(error)
    return None


def pairs(levels: Levels) -> set[Pair]:
    return {frozenset(pair) for pair in combinations(levels.items(), 2)}


ALL_PAIRS = {
    frozenset({(one, level), (other, another)})
    for one, other in combinations(SWITCHES, 2)
    for level in SWITCHES[one]
    for another in SWITCHES[other]
}
NO_SENSE = {
    frozenset({("value", "categorical"), ("munchausen", "munchausen")}),
    frozenset({("value", "fqf"), ("munchausen", "munchausen")}),
    frozenset({("value", "implicit"), ("network", "table")}),
    frozenset({("value", "fqf"), ("network", "table")}),
    frozenset({("noisy", "silent"), ("exploration", "by noise")}),
    frozenset({("network", "table"), ("exploration", "by noise")}),
    frozenset({("network", "table"), ("head", "dueling")}),
    frozenset({("network", "table"), ("noisy", "noisy")}),
    frozenset({("network", "table"), ("layer_norm", "normed")}),
    frozenset({("num_envs", "1 env"), ("exploration", "per_env")}),
}


def completed(pair: Pair, open_pairs: set[Pair], rng: random.Random) -> Levels | None:
    """An allowed run with `pair` in it, and, level by level, as many other open pairs as are found greedily."""
    for _ in range(200):
        levels = dict(sorted(pair))
        for switch in rng.sample(list(SWITCHES), len(SWITCHES)):
            options = [levels[switch]] if switch in levels else list(SWITCHES[switch])
            rng.shuffle(options)
            allowed = [o for o in options if not pairs({**levels, switch: o}) & NO_SENSE]
            if not allowed:
                break
            levels[switch] = max(allowed, key=lambda o: len(pairs({**levels, switch: o}) & open_pairs))
        if len(levels) == len(SWITCHES) and refusal(levels) is None:
            return levels
    return None


def covering_array() -> Iterator[Levels]:
    rng, open_pairs = random.Random(0), ALL_PAIRS - NO_SENSE
    while open_pairs:
        pair = min(open_pairs, key=sorted)
        levels = completed(pair, open_pairs, rng)
        assert levels is not None, f"{sorted(pair)} can be part of no run"
        open_pairs -= pairs(levels)
        yield levels


ARRAY = list(covering_array())


def test_the_array_has_every_pair_that_makes_sense() -> None:
    assert set().union(*map(pairs, ARRAY)) == ALL_PAIRS - NO_SENSE
    assert len(ARRAY) < 50


@pytest.mark.parametrize("pair", sorted(NO_SENSE, key=sorted), ids=lambda pair: str(sorted(pair)))
def test_every_other_pair_says_why(pair: Pair) -> None:
    sensible = {
        "network": "mlp", "variant": "ddqn", "value": "scalar", "head": "plain", "noisy": "noisy", "layer_norm": "bare",
        "replay": "uniform", "n_step": "1 step", "munchausen": "plain reward", "exploration": "epsilon",
        "num_envs": "3 envs",
    }  # fmt: skip
    levels = {**sensible, **dict(pair)}
    if levels["network"] == "table" and ("noisy", "noisy") not in pair:
        levels["noisy"] = "silent"
    told = refusal(levels)
    assert told is not None
    assert "write" in told


@pytest.mark.parametrize("levels", ARRAY, ids=lambda levels: ", ".join(levels.values()))
def test_a_run_learns_saves_loads_and_plays(levels: Levels, tmp_path: Path) -> None:
    config = made(levels)
    settle(config, ())
    assert typed(plain(config)) == config
    summary = build.train_run(config, tmp_path, [], ["dqn-train"])
    loaded = checkpoints.read(checkpoints.find(tmp_path, "final"))
    assert all(np.isfinite(weight.numpy()).all() for weight in loaded.model.values())
    again = [
        build.evaluate_checkpoint(loaded, typed(loaded.config), EvalConfig(checkpoint="", episodes=2, num_envs=2))
        for _ in range(2)
    ]
    assert again[0] == again[1]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["updates"]) > 0
    assert float(rows[-1]["loss"]) >= 0
    assert summary.final.step == 96
