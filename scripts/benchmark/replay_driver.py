"""A replay memory alone, full of stacks of four 84x84 pictures: replay_driver.py ours|peer|peer-halved ROWS

Prints a line of JSON: bytes per transition (by how much the process grew), microseconds to append one transition and to
sample 32. `peer-halved` is stable-baselines3's `optimize_memory_usage`, which gives up the handling of time limits.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE, STACK, BATCH = 84, 4, 32
Step = Callable[[int], object]


def ours(rows: int) -> tuple[Step, Callable[[], object]]:
    """How to append the step of a number, and how to sample."""
    from dqn_cli.replay.memory import ReplayMemory
    from dqn_cli.replay.n_step import NStepAccumulator
    from dqn_cli.replay.samplers import Uniform
    from dqn_cli.types import ObsSpec, StepResult

    spec = ObsSpec((SIDE, SIDE), "uint8", STACK)
    memory = ReplayMemory(rows, spec, NStepAccumulator(1, 0.99, 1), np.random.default_rng(0), None, Uniform())
    frames, no, action = pictures(1), np.zeros(1, np.bool_), np.zeros(1, np.int64)
    memory.start(frames[0])

    def append(number: int) -> object:
        frame = frames[number % len(frames)]
        return memory.append(action, StepResult(frame, frame, np.ones(1), no, no, no))

    return append, lambda: memory.sample(BATCH, 0)


def peer(rows: int, halved: bool) -> tuple[Step, Callable[[], object]]:
    """The same of stable-baselines3."""
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.buffers import ReplayBuffer

    more: dict[str, Any] = {"optimize_memory_usage": True, "handle_timeout_termination": False} if halved else {}
    space = Box(0, 255, (STACK, SIDE, SIDE), np.uint8)
    memory = ReplayBuffer(rows, space, Discrete(6), device="cpu", n_envs=1, **more)
    stacks, action = pictures(STACK), np.zeros(1, np.int64)
    infos: list[dict[str, Any]] = [{}]

    def append(number: int) -> object:
        obs, after = stacks[number % len(stacks)], stacks[(number + 1) % len(stacks)]
        return memory.add(obs, after, action, np.ones(1), np.zeros(1), infos)

    return append, lambda: memory.sample(BATCH)


def pictures(channels: int) -> list[Any]:
    """Different observations of one environment."""
    rng = np.random.default_rng(0)
    shape = (1, SIDE, SIDE) if channels == 1 else (1, channels, SIDE, SIDE)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(64)]


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def us(work: Callable[[], object], times: int) -> float:
    """The median in microseconds, of this process's own time."""
    taken = []
    for _ in range(times):
        begin = time.process_time_ns()
        work()
        taken.append((time.process_time_ns() - begin) / 1e3)
    return statistics.median(taken)


def main() -> None:
    """Fill, then time."""
    import torch  # before it is looked how large the process is

    torch.set_num_threads(1)
    which, rows = sys.argv[1], int(sys.argv[2])
    # the modules and their first use are no part of the memory either
    warm_append, warm_sample = ours(100) if which == "ours" else peer(100, which == "peer-halved")
    for i in range(200):
        warm_append(i)
    warm_sample()
    before = resident()
    append, sample = ours(rows) if which == "ours" else peer(rows, which == "peer-halved")
    for i in range(rows + 100):
        append(i)
    grown = resident() - before
    numbers = iter(range(10**9))
    taken = {"append_us": us(lambda: append(next(numbers)), 3_000), "sample_us": us(sample, 1_000)}
    print(json.dumps({"system": which, "updates": 0, "bytes": grown / rows, **taken}))


if __name__ == "__main__":
    main()
