"""This project and stable-baselines3 side by side, on the same work: A B A B, each a process on the same cores."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark import processes, tasks
from benchmark.processes import HERE
from benchmark.tasks import Task, label
from benchmark.verdict import Refused, Run, compare, figures, require_quiet, require_same_work, table, work_text


@dataclass
class Options:
    """What the command line says."""

    pairs: int = 5
    busy_ok: bool = False
    envs: int | None = None
    third: str | None = None
    peer: str = ""  # the peer's python
    steps: int | None = None
    notes: list[str] = field(default_factory=list)

    def check(self, load: float, own: float, what: str) -> None:
        """Note that the machine is busy, or refuse."""
        note = require_quiet(load, own, what, self.busy_ok)
        if note is not None:
            self.notes.append(note)


def quiet_before(options: Options) -> None:
    """Nothing of ours runs yet: the load of the last minute is that of others. Raises `Refused`."""
    options.check(os.getloadavg()[0], 0.0, "a load of")


def say(text: str) -> None:
    """What is under way, beside the results."""
    print(text, file=sys.stderr, flush=True)


def run_ours(task: Task, folder: Path) -> Run:
    """`dqn-train` on a task."""
    run_dir = Path(tempfile.mkdtemp(dir=folder)) / "run"
    driver = [sys.executable, str(HERE / "our_driver.py"), str(task.settle_updates), str(run_dir)]
    return processes.measured([*driver, *task.overrides()], task.cores)


def run_peer(command: Sequence[str], task: Task, folder: Path) -> Run:
    """Another system's driver on a task."""
    file = folder / f"{task.name}.json"
    file.write_text(json.dumps(task.numbers() | {"game_file": game_file(task)}))
    return processes.measured([*command, str(file)], task.cores)


def game_file(task: Task) -> str | None:
    """The file of a MinAtar game in our environment, so that the peer needs no package for it."""
    if task.kind != "minatar":
        return None
    package = find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise Refused(f"{task.name} needs MinAtar; pip install 'dqn-cli[minatar]'")
    game = "space_invaders"
    return str(Path(package.submodule_search_locations[0], "environments", f"{game}.py"))


def require_gpu() -> None:
    """Raise `Refused` where there is none."""
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", code], check=False).returncode:
        raise Refused("T4 needs a GPU, and torch sees none here")


def versus(task: Task, options: Options, folder: Path) -> dict[str, Any]:
    """All pairs of a task, printed; and as plain data. Raises `Refused`."""
    if task.device != "cpu":
        require_gpu()
    if options.steps is not None:
        task = replace(task, total_steps=options.steps)
    task.rounds()
    cores = len(processes.ALL_CORES)
    systems: list[tuple[Task, Callable[[Task], Run]]] = [
        best(tasks.ways(task, options.envs, cores), lambda way: run_ours(way, folder))
    ]
    peers = [[options.peer, str(HERE / "sb3_driver.py")], *([shlex.split(options.third)] if options.third else [])]
    for command in peers:

        def run(way: Task, command: list[str] = command) -> Run:
            return run_peer(command, way, folder)

        systems.append(best(tasks.peer_ways(task, options.envs, cores), run))
    turns: list[list[Run]] = []
    for turn in range(options.pairs):
        say(f"{task.name}: turn {turn + 1} of {options.pairs}")
        turns.append([run(way) for way, run in systems])
        require_same_work(turns[-1])
        for one in turns[-1]:
            options.check(one.cpu / one.wall + one.others, one.cpu / one.wall, "cores used")
    return report(task, [way for way, _ in systems], turns)


def best(ways: list[Task], run: Callable[[Task], Run]) -> tuple[Task, Callable[[Task], Run]]:
    """The fastest of several ways, by one short run of each; the only one is not tried."""
    if len(ways) == 1:
        return ways[0], run
    speeds: list[float] = []
    for way in ways:
        done = run(tasks.scouting(way))
        speeds.append(figures(done)["steady"])
        say(f"{way.name}: {done.report['system']}, {label(way)}: {speeds[-1]:,.1f} steps/s")
    return ways[speeds.index(max(speeds))], run


def report(task: Task, ways: list[Task], turns: list[list[Run]]) -> dict[str, Any]:
    """Print what came of it; the same as plain data."""
    columns = list(zip(*turns, strict=True))
    title = f"{task.name} {task.text}"
    print(f"\n{title}\n{work_text(columns[0][0].report)}")
    result: dict[str, Any] = {"task": task.numbers(), "pairs": len(turns), "against": {}}
    result["ways"] = [label(way) for way in ways]
    for column, way in zip(columns, ways, strict=True):
        print(f"{column[0].report['system']}: {label(way)}, {way.cores} core{'s' * (way.cores > 1)}")
    for column in columns[1:]:
        system = column[0].report["system"]
        rows = compare(columns[0], column)
        print(*table(f"medians of {len(turns)} pairs", rows, system), sep="\n", flush=True)
        result["against"][system] = {
            name: {"ours": a, "theirs": b, "ratio": [r.median, r.least, r.most]} for name, (a, b, r) in rows.items()
        }
    apart = statistics.median(sum(b - a for a, b, _ in run.report["apart"]) for run in columns[0])
    print(f"apart from that our last evaluation and checkpoint: {apart:.2f} s", flush=True)
    result["apart_seconds"] = apart
    result["runs"] = [[dict(run.report) | figures(run) | {"others": run.others} for run in turn] for turn in turns]
    return result
