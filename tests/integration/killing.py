"""Runs that are killed again and again, by a process that imports everything once and forks a child for each attempt.

    python tests/integration/killing.py FOLDER KILLS SEED CONFIG

trains CONFIG (a name in `CONFIGS`) once undisturbed and once killed KILLS times, with SIGKILL at random moments, the
writing of checkpoints included; prints how often it was killed, and what differs at the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from runs import brief, frozen_lake

from dqn_cli.config import (
    AtariConfig,
    Config,
    GymConfig,
    MlpConfig,
    NipsCnnConfig,
    NoisyExplorationConfig,
    PrioritizedConfig,
    QuantileConfig,
    RunConfig,
    UniformConfig,
)

OFTEN = {"learning_starts_steps": 40, "eval_episodes": 2, "log_every_steps": 30}

CONFIGS: dict[str, Config] = {
    "cartpole": brief(
        env=GymConfig(id="CartPole-v1"),
        network=MlpConfig(hidden=[16, 8], noisy=True),
        value=QuantileConfig(quantiles=5),
        replay=PrioritizedConfig(capacity=300, batch_size=8, n_step=3, beta_over_steps=400),
        exploration=NoisyExplorationConfig(),
        num_envs=4,
        run=RunConfig(
            **OFTEN, total_steps=2_000, update_every_steps=4, eval_every_steps=300, checkpoint_every_steps=40
        ),
    ),
    "frozenlake": frozen_lake(
        run=RunConfig(total_steps=8_000, eval_every_steps=2_000, log_every_steps=500, checkpoint_every_steps=400)
    ),
    "pong": brief(
        env=AtariConfig(id="ALE/Pong-v5", resize=[42, 42], sticky=0.25, max_frames=240),
        network=NipsCnnConfig(),
        replay=UniformConfig(capacity=400, batch_size=4),
        num_envs=2,
        threads="1",
        run=RunConfig(**OFTEN, total_steps=600, update_every_steps=8, eval_every_steps=200, checkpoint_every_steps=24),
    ),
}


def attempt(config: Config, folder: Path, seconds: float | None) -> bool:
    """Train or go on in a child, killed after so many seconds; whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
            os.dup2(1, 2)
            from test_integration_resume import resume

            resume(config, folder)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise RuntimeError(f"a child ended with {status}; see {folder}.log")
    return True


def kill(name: str, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """How often a run was killed before it came to its end, and what is different from one that was not."""
    from test_integration_resume import differences

    config, rng = CONFIGS[name], random.Random(seed)
    begin = time.perf_counter()
    attempt(config, folder / "whole", None)
    whole, times = time.perf_counter() - begin, 0
    while times < kills:
        if attempt(config, folder / f"killed-{seed}", rng.uniform(0, 2.5 * whole / kills + 0.3)):
            break
        times += 1
    else:
        attempt(config, folder / f"killed-{seed}", None)
    return {"kills": times, "differs": differences(config, folder / "whole", folder / f"killed-{seed}")}


if __name__ == "__main__":
    import torch

    import dqn_cli.build  # noqa: F401  # once, for all children

    torch.set_num_threads(1)
    where, kills, seed, name = sys.argv[1:]
    print(json.dumps(kill(name, Path(where), int(kills), int(seed))))
