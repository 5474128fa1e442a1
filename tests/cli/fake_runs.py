"""Run folders as far as the commands look at them, without torch."""

import json
from dataclasses import dataclass

from dqn_cli.config import (
    AdamConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    MlpConfig,
    RunConfig,
    ScalarConfig,
    UniformConfig,
)
from dqn_cli.validate import plain

CONFIG = Config(
    env=GymConfig(id="CartPole-v1"),
    network=MlpConfig(),
    variant=DdqnConfig(),
    value=ScalarConfig(),
    replay=UniformConfig(capacity=5_000),
    exploration=EpsilonConfig(),
    optimizer=AdamConfig(),
    run=RunConfig(total_steps=50_000),
)


def leave(run_dir, config, step=None, finished=False):
    """What a run leaves that has come so far, as far as the commands look at it; no step: no checkpoint."""
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run_dir / "manifest.json").write_text(json.dumps({"config": plain(config)}))
    if step is not None:
        folder = run_dir / "checkpoints" / f"{'final' if finished else 'step'}-{step:09d}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(plain(config)))


@dataclass(frozen=True)
class Found:
    """As of dqn_cli.training.resuming, which needs torch."""

    step: int
    config: dict
    finished: bool
    notices: list


def find(run_dir):
    """As of dqn_cli.training.resuming."""
    saved = [path for path in (run_dir / "checkpoints").iterdir() if not path.name.startswith("best")]
    if not saved:
        return None
    newest = max(saved, key=lambda path: path.name.partition("-")[2])
    kind, _, step = newest.name.partition("-")
    config = json.loads((newest / "config.json").read_text())
    return Found(int(step), config, kind == "final", ["found by a fake"])
