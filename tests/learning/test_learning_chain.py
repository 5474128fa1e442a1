"""Every variant finds the known Q* of a small chain, in seconds."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from dqn_cli import build
from dqn_cli.config import (
    AdamConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    Loss,
    LrSchedule,
    MlpConfig,
    NetworkConfig,
    OnlineConfig,
    OptimizerConfig,
    QlearningConfig,
    ReplayConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
    TdqnConfig,
    UniformConfig,
    VariantConfig,
    VdqnConfig,
)
from dqn_cli.envs.toy import Chain

STATES, DISCOUNT = 5, 0.9
REPLAY = UniformConfig(capacity=3_000, batch_size=32)
ADAM = AdamConfig(lr=3e-3, lr_schedule=LrSchedule.linear)

CASES: dict[str, tuple[VariantConfig, NetworkConfig, ReplayConfig, OptimizerConfig]] = {
    "qlearning": (QlearningConfig(), TableConfig(), OnlineConfig(), SgdConfig(lr=0.5)),
    "vdqn": (VdqnConfig(), MlpConfig(hidden=[32]), REPLAY, ADAM),
    "tdqn": (TdqnConfig(target_every=40), MlpConfig(hidden=[32]), REPLAY, ADAM),
    "ddqn": (DdqnConfig(target_every=40), MlpConfig(hidden=[32]), REPLAY, ADAM),
    "ddqn, polyak": (DdqnConfig(target_every=1, tau=0.05), MlpConfig(hidden=[32]), REPLAY, ADAM),
    "ddqn, table": (DdqnConfig(target_every=40), TableConfig(), REPLAY, AdamConfig(lr=3e-2)),
    "vdqn, no replay": (VdqnConfig(), TableConfig(), OnlineConfig(), SgdConfig(lr=0.5)),
}


@pytest.mark.parametrize("case", CASES.keys())
def test_q_star_is_found(case: str, tmp_path: Path) -> None:
    variant, network, replay, optimizer = CASES[case]
    config = Config(
        env=GymConfig(id="DqnChain-v0", module="dqn_cli.envs.toy", kwargs={"states": STATES}),
        variant=variant,
        network=network,
        value=ScalarConfig(),
        replay=replay,
        optimizer=optimizer,
        exploration=EpsilonConfig(begin=1.0, end=0.8, over_steps=3_000),
        loss=Loss.mse,
        discount=DISCOUNT,
        num_envs=2 if case == "ddqn" else 1,
        run=RunConfig(
            total_steps=3_000,
            learning_starts_steps=100,
            update_every_steps=2,
            eval_every_steps=None,
            eval_episodes=1,
            checkpoint_every_steps=None,
        ),
    )
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        run.trainer.run()
        with torch.no_grad():
            q = run.learner.online(torch.eye(STATES)).numpy()
    wanted = Chain(states=STATES).q_star(DISCOUNT)
    np.testing.assert_allclose(q[:-1], wanted[:-1], atol=0.03)  # no episode goes on from the last state
