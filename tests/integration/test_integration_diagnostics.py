"""Looking at a run changes nothing in it, and shows the same however often somebody looks."""

from __future__ import annotations

import csv
import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dqn_cli import build, seeding
from dqn_cli.config import (
    AdamConfig,
    CategoricalConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    FqfConfig,
    GymConfig,
    Head,
    ImplicitConfig,
    MlpConfig,
    MunchausenConfig,
    NoisyExplorationConfig,
    PrioritizedConfig,
    QuantileConfig,
    RunConfig,
    ScalarConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.training.snapshot import position


def small(**changes: Any) -> Config:
    run = RunConfig(
        total_steps=200,
        learning_starts_steps=40,
        update_every_steps=3,
        eval_every_steps=100,
        eval_episodes=2,
        log_every_steps=50,
        checkpoint_every_steps=None,
    )
    parts: dict[str, Any] = {
        "env": GymConfig(id="CartPole-v1"),
        "network": MlpConfig(hidden=[16]),
        "variant": DdqnConfig(target_every=25),
        "value": ScalarConfig(),
        "replay": UniformConfig(capacity=150, batch_size=8),
        "exploration": EpsilonConfig(over_steps=200),
        "optimizer": AdamConfig(),
        "run": run,
    }
    return Config(**{**parts, **changes})


def logged_every(config: Config, steps: int) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, log_every_steps=steps))


def left_by(config: Config, folder: Path) -> dict[str, Any]:
    """All that the learning of a run leaves behind, as bytes, and the positions of its streams."""
    folder.mkdir()
    with ExitStack() as stack:
        run = build.assemble(config, folder, stack)
        run.trainer.run()
        run.watcher.finish(run.trainer.result)
    arrays: dict[str, Any] = {**run.learner.model_state(), **run.learner.optimizer_state(), **run.memory.state_dict()}
    left = {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}
    return {
        **left,
        "streams": str({name: position(stream) for name, stream in run.streams.items()}),
        "episodes": (folder / "episodes.csv").read_bytes(),
        "final": run.watcher.last,
    }


def rows(folder: Path) -> dict[int, dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["steps"]): row for row in csv.DictReader(file)}


RAINBOW = small(
    network=MlpConfig(hidden=[16], head=Head.dueling, noisy=True),
    value=CategoricalConfig(atoms=11, v_min=0, v_max=50),
    replay=PrioritizedConfig(capacity=150, batch_size=8, n_step=3),
    exploration=NoisyExplorationConfig(),
)
MUNCHAUSEN_IQN = small(
    value=ImplicitConfig(quantiles=4, target_quantiles=4, acting_quantiles=4, embedding=8),
    munchausen=MunchausenConfig(enabled=True),
    replay=PrioritizedConfig(capacity=150, batch_size=8),
    num_envs=2,
)


@pytest.mark.parametrize("config", [small(), RAINBOW, MUNCHAUSEN_IQN], ids=["ddqn", "rainbow", "m_iqn"])
def test_a_run_learns_the_same_bytes_however_often_somebody_looks(config: Config, tmp_path: Path) -> None:
    often, seldom = left_by(logged_every(config, 10), tmp_path / "often"), left_by(config, tmp_path / "seldom")
    assert often.keys() == seldom.keys()
    assert [name for name in often if often[name] != seldom[name]] == []
    often_rows, seldom_rows = rows(tmp_path / "often"), rows(tmp_path / "seldom")
    assert len(often_rows) > 2 * len(seldom_rows)
    assert all(row == often_rows[steps] for steps, row in seldom_rows.items())


def number(row: dict[str, str], name: str) -> float:
    return float(row[name])


def test_the_columns_of_a_prioritized_distributional_run(tmp_path: Path) -> None:
    left_by(RAINBOW, tmp_path / "run")
    found = rows(tmp_path / "run")
    for row in found.values():
        assert 0 <= number(row, "td_error_p10") <= number(row, "td_error_p50") <= number(row, "td_error_p90")
        assert 0 <= number(row, "dormant") <= 1
        assert 0 < number(row, "priority_ess") <= 1
        assert 0 <= number(row, "sample_age") < 150
        assert 0 <= number(row, "q_max") <= 50
        assert 0 < number(row, "target_distance") < 1  # though it is moved at the very step of each row
        assert row["temperature"] == ""
    assert 0.4 < number(found[50], "beta") < number(found[200], "beta") == 1.0
    assert [steps for steps, row in found.items() if row["value_estimate"]] == [100, 200]
    assert all(0 < number(found[steps], "value_return") <= 100 for steps in (100, 200))
    events = EventAccumulator(str(tmp_path / "run"), {"images": 0, "scalars": 0})
    events.Reload()
    assert [event.step for event in events.Images("eval/returns")] == [100, 200]
    assert {"diagnostics/q_max", "diagnostics/dormant", "eval/value_return"} <= set(events.Tags()["scalars"])


def test_a_plain_run_leaves_empty_what_it_has_not(tmp_path: Path) -> None:
    left_by(small(variant=VdqnConfig()), tmp_path / "run")
    for row in rows(tmp_path / "run").values():
        assert row["q_max"]
        assert row["dormant"]
        assert not row["target_distance"] + row["priority_ess"] + row["beta"] + row["temperature"]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Tags()["images"] == []


@pytest.mark.parametrize("value", [QuantileConfig(quantiles=5), FqfConfig(quantiles=4, embedding=8)], ids=["qr", "fqf"])
def test_pictures_of_quantiles(value: Any, tmp_path: Path) -> None:
    left_by(small(value=value), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("eval/returns")] == [100, 200]


def test_q_max_and_the_error_of_a_run_by_a_second_calculation(tmp_path: Path) -> None:
    """Against the equations written out, on the transitions that the row was made of."""
    config, steps = small(), 200
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        run.trainer.run()
        row = run.watcher.sinks.diagnostics.row(steps)
    batch = run.memory.peek(256, seeding.generator(config.seed, seeding.Purpose.DIAGNOSTICS, steps), steps)
    with torch.no_grad():
        assert run.learner.target is not None
        q, q_t = run.learner.online(batch.obs), run.learner.target(batch.next_obs)
        best = run.learner.online(batch.next_obs).argmax(1, keepdim=True)
        error = batch.reward + batch.discount * q_t.gather(1, best)[:, 0] - q.gather(1, batch.action[:, None])[:, 0]
    assert row["q_max"] == pytest.approx(float(q.max(1).values.mean()), rel=1e-5)
    np.testing.assert_allclose(
        [row["td_error_p10"], row["td_error_p50"], row["td_error_p90"]],
        np.quantile(error.abs().numpy(), [0.1, 0.5, 0.9]),
        rtol=1e-4,
    )
