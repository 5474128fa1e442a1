"""What is measured apart from learning: T5, the replay memory alone, and T6, from the prompt to the first step."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import processes
from benchmark.processes import HERE
from benchmark.tasks import T1
from benchmark.verdict import Spread, spread_text
from benchmark.versus import Options, say

ROWS = 20_000
FACTS = {"bytes": "bytes per transition", "append_us": "append one, us", "sample_us": "sample 32, us"}
BARE = """\
import time
import torch, gymnasium
env = gymnasium.make("CartPole-v1")
env.reset(seed=0)
env.step(0)
print('{"system": "imports", "updates": 0, "first_step_at": %r}' % time.monotonic())
"""


def replay_alone(options: Options) -> dict[str, Any]:
    """T5: bytes and microseconds, of ours and of the peer's two ways."""
    pythons = {"ours": sys.executable, "peer": options.peer, "peer-halved": options.peer}
    turns: list[dict[str, Mapping[str, Any]]] = []
    for turn in range(options.pairs):
        say(f"T5: turn {turn + 1} of {options.pairs}")
        done = {
            which: processes.measured([python, str(HERE / "replay_driver.py"), which, str(ROWS)], 1)
            for which, python in pythons.items()
        }
        for run in done.values():
            options.check(run.cpu / run.wall + run.others, run.cpu / run.wall, "cores used")
        turns.append({which: run.report for which, run in done.items()})
    print(f"\nT5 the replay memory alone: 84x84x4, full of {ROWS:,} transitions, 1 core")
    result: dict[str, Any] = {"turns": turns}
    for other, words in {"peer": "sb3", "peer-halved": "sb3, optimize_memory_usage"}.items():
        print(f"{words:<34}{'ours':>12}{'theirs':>12}   ratio (least - most)")
        for key, what in FACTS.items():
            mine, their = [[turn[which][key] for turn in turns] for which in ("ours", other)]
            ratio = Spread.of([b / a for a, b in zip(mine, their, strict=True)])
            print(
                f"  {what:<32}{statistics.median(mine):>12,.1f}{statistics.median(their):>12,.1f}"
                f"   {spread_text(ratio)}"
            )
    whole = statistics.median(turn["ours"]["bytes"] for turn in turns)
    print(f"a million of ours, at that rate: {whole / 1e3:.2f} GB", flush=True)
    return result


def start_up(options: Options) -> dict[str, Any]:
    """T6: what the answers cost that need no training, and the way to the first step beside the imports alone."""
    program = str(Path(sys.executable).with_name("dqn-train"))
    asks = {
        "--help": [program, "--help"],
        "--cfg job": [program, "env=CartPole", "--cfg", "job"],
        "completion": [program, "-sc", "install=bash"],
    }
    spent: dict[str, list[tuple[float, float]]] = {ask: [] for ask in asks}
    steps: list[tuple[float, float]] = []
    for turn in range(options.pairs):
        say(f"T6: turn {turn + 1} of {options.pairs}")
        for ask, command in asks.items():
            done = processes.run(command, 1)
            spent[ask].append((done.cpu, done.wall))
        steps.append((_first_step(_train), _first_step(_bare)))
    print("\nT6 from the prompt, 1 core; medians                     CPU s    wall s")
    for ask, pairs in spent.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"  {'dqn-train ' + ask:<50}{cpu:>9.2f}{wall:>10.2f}")
    mine, bare = (statistics.median(column) for column in zip(*steps, strict=True))
    ratio = Spread.of([a / b for a, b in steps])
    print(f"  {'dqn-train env=CartPole, to the first step':<50}{'':>9}{mine:>10.2f}")
    print(f"  {'importing torch, gymnasium, making it, a step':<50}{'':>9}{bare:>10.2f}")
    print(f"  it takes {spread_text(ratio)} as long", flush=True)
    return {"asks": spent, "first_step": steps, "ratio": [ratio.median, ratio.least, ratio.most]}


def _first_step(run: Callable[[str], Sequence[str]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = processes.measured([*run(folder)], 1)
    return float(done.report["first_step_at"]) - done.began


def _train(folder: str) -> list[str]:
    run_dir = os.path.join(folder, "run")
    short = ["env=CartPole", "run.total_steps=500", "run.eval_episodes=1", f"threads={T1.threads}"]
    return [sys.executable, str(HERE / "our_driver.py"), "0", run_dir, *short]


def _bare(folder: str) -> list[str]:
    return [sys.executable, "-c", BARE]
