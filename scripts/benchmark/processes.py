"""Processes that are measured: pinned to cores, alone on the machine if possible, waited for with what they used."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from benchmark.marks import PACKAGES
from benchmark.verdict import Refused, Run

HERE = Path(__file__).parent
PEER = "stable-baselines3"
ALL_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # each system decides for itself


@dataclass(frozen=True)
class Done:
    """What a process left."""

    output: str
    began: float  # of CLOCK_MONOTONIC
    wall: float
    cpu: float
    rss: int
    others: float  # cores that others used meanwhile


def run(command: Sequence[str], cores: int) -> Done:
    """Run it on the last `cores` cores. Raises `Refused` with its last words where it fails."""
    env = {key: value for key, value in os.environ.items() if key not in THREADS}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, pinned(cores):
        busy, began = busy_seconds(), time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        wall, busy = time.monotonic() - began, busy_seconds() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        output, words = out.read(), err.read()
    if process.returncode:
        last = (words.strip() or output.strip() or "without a word").splitlines()[-1]
        raise Refused(f"{Path(command[0]).name} {' '.join(command[1:3])} ended with {process.returncode}: {last}")
    cpu = usage.ru_utime + usage.ru_stime
    kilo = 1 if sys.platform == "darwin" else 1024  # in which Linux counts
    return Done(output, began, wall, cpu, usage.ru_maxrss * kilo, max(0.0, busy - cpu) / wall)


def measured(command: Sequence[str], cores: int) -> Run:
    """Run a driver. Raises `Refused` where its last line is not what `marks.py` says."""
    done = run(command, cores)
    try:
        report = json.loads(done.output.splitlines()[-1])
        report["system"], report["updates"]
    except (IndexError, TypeError, KeyError, ValueError):
        raise Refused(f"{Path(command[-2]).name} printed no line of JSON at its end (see benchmark/marks.py)") from None
    return Run(report, done.began, done.wall, done.cpu, done.rss, done.others)


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """What is started meanwhile runs on the last so many of our cores: the first ones get most interrupts."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    os.sched_setaffinity(0, ALL_CORES[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL_CORES)


def busy_seconds() -> float:
    """Seconds that all cores together have been busy since the machine began."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(ALL_CORES),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def pins(versions: Mapping[str, str]) -> list[str]:
    """What pip is told for the peer's environment: the packages of ours, to the last digit.

    A build with a local version, such as 2.13.0+cpu, is PyTorch's own index's.
    """
    wanted = [f"{name}=={number}" for name, number in versions.items()]
    local = versions["torch"].partition("+")[2]
    index = ["--extra-index-url", f"https://download.pytorch.org/whl/{local}"] if local else []
    return [PEER, "opencv-python-headless", *wanted, *index]


def default_venv() -> Path:
    """Below the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dqn-cli" / PEER


def peer_python(folder: Path) -> str:
    """The interpreter of an environment with the peer; it is made where there is none. Raises `Refused`."""
    python = folder / "bin" / "python"
    ours = {name: version(name) for name in PACKAGES}
    if not python.exists():
        print(f"making {folder} with {PEER} from PyPI", file=sys.stderr, flush=True)
        _carry_out([sys.executable, "-m", "venv", str(folder)])
        _carry_out([str(python), "-m", "pip", "install", "--quiet", *pins(ours)])
    names = (PEER, *PACKAGES)
    code = f"import importlib.metadata as m; print(*map(m.version, {names!r}))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if found.returncode:
        raise Refused(f"{folder} has no {PEER}; remove it, or name another folder with --peer-venv")
    for name, number in zip(names, found.stdout.split(), strict=True):
        if name in ours and ours[name] != number:
            raise Refused(f"{folder} has {name} {number}, here it is {ours[name]}; remove it, then it is made anew")
    return str(python)


def _carry_out(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Refused(f"{' '.join(command[1:4])} failed: {' '.join(last)}")
