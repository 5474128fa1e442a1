"""Files from strangers: refused in a line, with nothing run, imported or written, by every command that reads files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from corpus import DIVERGED, DONE, GOOD, OTHER, REFUSED, Answer, Case, cases
from stranger import CANARY_MODULE, CHECKPOINT, STEP, Stranger, tree

from dqn_cli import build
from dqn_cli.config import (
    AdamConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    MlpConfig,
    PrioritizedConfig,
    RunConfig,
    ScalarConfig,
)

SECRET = "the-word-that-nobody-may-read"
SECONDS = 5.0  # of computing, since others compute too
LINE = 4_000  # letters

CONFIG = Config(
    env=GymConfig(id="CartPole-v1", time_limit_steps=20),
    network=MlpConfig(hidden=[4]),
    variant=DdqnConfig(target_every=20),
    value=ScalarConfig(),
    replay=PrioritizedConfig(capacity=100, batch_size=4, n_step=2, beta_over_steps=60),
    exploration=EpsilonConfig(over_steps=200),
    optimizer=AdamConfig(),
    run=RunConfig(
        total_steps=60,
        learning_starts_steps=10,
        update_every_steps=4,
        eval_every_steps=None,
        eval_episodes=1,
        log_every_steps=10,
        checkpoint_every_steps=STEP,
    ),
    device="cpu",
    threads="1",
    num_envs=2,
)


class Bench:
    """The good run, a server, and a place for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.canary = folder, folder / "canary"
        self.good = folder / "good"
        make_good(self.good)
        modules = folder / "modules"
        (modules / CANARY_MODULE).mkdir(parents=True)
        (modules / CANARY_MODULE / "__init__.py").write_text(f"open({str(self.canary)!r}, 'w').close()\n")
        path = os.pathsep.join([str(modules), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        environment |= {"HOSTILE_SECRET": SECRET, "HOSTILE_CANARY": str(self.canary)}
        environment.pop("HYDRA_FULL_ERROR", None)
        script = str(Path(__file__).with_name("server.py"))
        command = [sys.executable, script, *(json.dumps(usual) for usual in self._usual())]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=folder)
        assert self._answer() == {}

    def _usual(self) -> Iterator[tuple[int, list[str]]]:
        """Commands with their exit codes, from which the server learns what they do, and what they do at a refusal."""
        for name in ("one", "two"):
            run = str(self._learning(name).run)
            yield 0, evaluating(run)
            yield 0, resuming(run)
        stopped = self._learning("three")
        stopped.unfinished()
        yield 0, resuming(str(stopped.run))
        whole = self._learning("four")
        yield 0, beginning_with(str(whole.run), str(whole.folder / "fresh"))
        broken = self._learning("five")
        broken.put("model.safetensors", b"")
        yield REFUSED, evaluating(str(broken.run))
        yield REFUSED, resuming(str(broken.run))
        yield REFUSED, beginning_with(str(broken.run), str(broken.folder / "fresh"))

    def _learning(self, name: str) -> Stranger:
        place = self.folder / "learning" / name
        shutil.copytree(self.good, place / "run")
        return Stranger(place)

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, cwd: Path, inside: list[str], words: list[str]) -> dict[str, Any]:
        """A command in a child of the server: exit code, outputs, and what the hook has seen."""
        assert self._server.stdin is not None
        request = {"program": words[0], "words": words[1:], "cwd": str(cwd), "inside": inside}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.communicate()


def make_good(folder: Path) -> None:
    """A run of 60 steps as if it had been killed after its checkpoint of step 40."""
    folder.mkdir()
    build.train_run(CONFIG, folder, [], ["dqn-train"])
    for other in [path for path in (folder / "checkpoints").iterdir() if path.name != Path(CHECKPOINT).name]:
        shutil.rmtree(other)
    named = json.loads((folder / CHECKPOINT / "MANIFEST.json").read_text())["segments"]
    kept = {segment["sha256"][:16] for segment in named}
    for segment in (folder / "replay").iterdir():
        if segment.stem.rpartition("-")[2] not in kept:
            segment.unlink()


def evaluating(target: str) -> list[str]:
    return ["dqn-eval", f"checkpoint={target}", *(["select=last"] if "checkpoints" not in target else []), "episodes=1"]


def resuming(target: str) -> list[str]:
    return ["dqn-train", f"resume={target}"]


def beginning_with(target: str, folder: str = "fresh") -> list[str]:
    small = ["env=CartPole", "network.hidden=[4]", "run.total_steps=40", "run.eval_episodes=1"]
    return ["dqn-train", *small, f"init_from={target}", f"hydra.run.dir={folder}"]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """In memory, where there is such a folder: thousands of files are written."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        bench = Bench(Path(name).resolve())
        yield bench
        bench.close()


@pytest.fixture
def stranger(bench: Bench) -> Iterator[Stranger]:
    """A copy of the good run, beside a secret."""
    folder = bench.folder / "place"
    folder.mkdir()
    shutil.copytree(bench.good, folder / "run")
    (folder / "secret.txt").write_text(SECRET)
    yield Stranger(folder)
    shutil.rmtree(folder)


def result(run: Path) -> dict[str, bytes]:
    """What the good commands determine."""
    played, trained = [*run.glob("eval/*/episodes.csv")], sorted(run.glob("checkpoints/final-*/*.safetensors"))
    found = [*played, *trained, *([run / "metrics.csv"] if trained else [])]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


@dataclass(frozen=True)
class Good:
    """What each command leaves of the good run, and what of its checkpoint `dqn-eval` looks at."""

    results: dict[str, dict[str, bytes]]
    read: dict[str, bytes]


@pytest.fixture(scope="module")
def good(bench: Bench) -> Good:
    """What the commands make of a run that nobody has touched."""
    results = {}
    for words in (evaluating("run"), resuming("run")):
        place = bench.folder / "undisturbed"
        shutil.copytree(bench.good, place / "run")
        answer = bench.run(place, [str(place / "run")], words)
        assert (answer["code"], answer["stderr"], answer["seen"]) == (0, "", [])
        results[words[0]] = result(place / "run")
        shutil.rmtree(place)
    assert len(results["dqn-eval"]) == 1
    assert len(results["dqn-train"]) == 4
    names = ("model.safetensors", "config.json")
    return Good(results, {name: (bench.good / CHECKPOINT / name).read_bytes() for name in names})


def sample(found: Sequence[Case], every: int) -> list[Any]:
    """All of them; those between every so many are for the slow suite, since neighbors are alike."""
    slow = pytest.mark.slow
    return [pytest.param(case, id=case.name, marks=[slow] if n % every else []) for n, case in enumerate(found)]


@pytest.mark.parametrize("case", sample(cases(), every=4))
def test_a_hostile_file(case: Case, stranger: Stranger, bench: Bench, good: Good) -> None:
    case.make(stranger)
    if case.evaluate is not None and not (case.evaluate == GOOD and unread(stranger, good)):
        require_answer(case.evaluate, evaluating(case.target), case, stranger, bench, good)
    if case.resume is not None:
        require_answer(case.resume, resuming(case.target), case, stranger, bench, good)


def require_answer(wanted: Answer, words: list[str], case: Case, stranger: Stranger, bench: Bench, good: Good) -> None:
    before = tree(stranger.folder)
    beside = [str(stranger.folder / name) for name in (case.target, "fresh") if "/" not in name]
    answer = bench.run(stranger.folder, [str(stranger.run), *beside], words)
    now = tree(stranger.folder)
    require_silence(bench, answer)
    assert outside(now) == outside(before)
    if answer["code"] == 0:
        assert answer["stderr"] == ""
        outcome = OTHER
        if now == before:
            assert answer["stdout"].startswith(f"run is finished ({STEP} steps")
            outcome = DONE
        elif result(stranger.run) == good.results[words[0]]:
            outcome = GOOD
        assert outcome in answers(wanted)
    else:
        require_line(answer["stderr"], words[0])
        assert answer["code"] in answers(wanted), answer["stderr"]
        assert now == before or answer["code"] == DIVERGED
    shutil.rmtree(stranger.run / "eval", ignore_errors=True)


def answers(wanted: Answer) -> tuple[int | str, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def outside(found: dict[str, str]) -> dict[str, str]:
    return {name: what for name, what in found.items() if not name.startswith("run/")}


def require_silence(bench: Bench, answer: dict[str, Any]) -> None:
    """Nothing was run, imported or written elsewhere, nothing told, and the terminal not played with."""
    assert answer["seen"] == []
    assert not bench.canary.exists()
    assert answer["cpu_seconds"] < SECONDS
    both = answer["stdout"] + answer["stderr"]
    assert SECRET not in both
    assert all(line.isprintable() and len(line) < LINE for line in both.split("\n"))


def require_line(told: str, program: str) -> None:
    """One, and no bug of ours."""
    assert told.startswith(f"{program}: error: ")
    assert told.endswith("\n")
    assert len(told.splitlines()) == 1
    assert "bug of dqn-cli" not in told


def unread(stranger: Stranger, good: Good) -> bool:
    """Whether all that `dqn-eval` reads, or writes to, is as in the good run."""
    checkpoint = stranger.checkpoint
    if checkpoint.is_symlink() or not checkpoint.is_dir() or (stranger.run / "eval").exists():
        return False
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    return (manifest["format"], manifest["step"]) == (2, STEP) and all(
        (checkpoint / name).is_file() and (checkpoint / name).read_bytes() == data for name, data in good.read.items()
    )


# what init_from= reads is refused there too
WEIGHTS = [
    case
    for case in cases()
    if case.name.startswith(("model.safetensors", "MANIFEST.json", "manifest: ", "config.json", "the checkpoint is"))
    and case.evaluate == REFUSED
    and case.target == "run"
]


@pytest.mark.parametrize("case", sample(WEIGHTS, every=20))
def test_a_hostile_file_to_begin_with(case: Case, stranger: Stranger, bench: Bench, good: Good) -> None:
    case.make(stranger)
    require_answer(REFUSED, beginning_with("run"), case, stranger, bench, good)


def test_what_is_not_read_makes_no_difference(stranger: Stranger, bench: Bench, good: Good) -> None:
    """Why `dqn-eval` is not asked each time: of all this it opens nothing."""
    stranger.edit("state.json", dict.clear)
    stranger.manifest(lambda manifest: manifest.update(segments=[{"ring": "../../x"}], fingerprint={"logs": 1}))
    read = {stranger.checkpoint / name for name in ("MANIFEST.json", "state.json", *good.read)}
    for path in [path for path in stranger.run.rglob("*") if path.is_file() and path not in read]:
        path.unlink()
        path.mkdir()
    case = Case("", lambda s: None)
    require_answer(GOOD, evaluating("run"), case, stranger, bench, good)


# what must be seen, and what the child did
MISDEEDS = {
    "os.system": "import os; os.system('true')",
    "subprocess.Popen": "import subprocess; subprocess.run(['true'])",
    f"import ('{CANARY_MODULE}'": f"import {CANARY_MODULE}",
    "exec": "eval('1 + 41')",
    "pickle.find_class": "import pickle; pickle.loads(b'cbuiltins\\nint\\n.')",
    "socket.": "import socket; socket.socket()",
    "os.exec": "import os; os.execv('/bin/true', ['true'])",
    "os.fork": "import os; os.fork() or os._exit(0)",
    "os.posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "ctypes.dlopen": "import ctypes; ctypes.CDLL('libm.so.6')",
    "open ": "open('../place/outside', 'w')",
    "os.mkdir": "import os; os.mkdir('outside')",
    "os.remove": "import os; os.remove('run/../secret.txt')",
    "os.rename": "import os; os.rename('secret.txt', 'run/x')",
    "os.truncate": "import os; os.symlink('../secret.txt', 'run/x'); os.truncate('run/x', 0)",
    "os.symlink": "import os; os.symlink('run', 'outside')",
    "os.link": "import os; os.link('secret.txt', 'outside')",
    "os.chmod": "import os; os.chmod('secret.txt', 0)",
}


@pytest.mark.parametrize(("event", "program"), MISDEEDS.items(), ids=[*MISDEEDS])
def test_the_hook_sees(event: str, program: str, stranger: Stranger, bench: Bench) -> None:
    answer = bench.run(stranger.folder, [str(stranger.run)], ["play", program])
    bench.canary.unlink(missing_ok=True)
    assert any(line.strip("'\"").startswith(event) for line in answer["seen"][1:]), answer


def test_the_hook_lets_pass_what_is_inside(stranger: Stranger, bench: Bench) -> None:
    program = "import os; open('run/x', 'w'); os.mkdir('run/y'); os.rename('run/x', 'run/y/x'); os.remove('run/y/x')"
    answer = bench.run(stranger.folder, [str(stranger.run)], ["play", program])
    assert [line for line in answer["seen"] if not line.startswith(("'exec", '"exec'))] == []


def test_memory_is_limited(stranger: Stranger, bench: Bench) -> None:
    answer = bench.run(stranger.folder, [], ["play", "bytearray(1200 << 20)"])
    assert "MemoryError" in answer["stderr"]


def test_there_are_enough_in_every_run() -> None:
    often = [case for case in cases()[::4] if REFUSED in (case.evaluate, case.resume)]
    assert len(often) >= 90
    assert sum(case.evaluate == REFUSED for case in cases()) >= 90
