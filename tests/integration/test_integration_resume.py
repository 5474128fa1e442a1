"""A run that was stopped and resumed leaves the bytes of one that was not."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from runs import DETERMINED, VARIETY, small

from dqn_cli import build
from dqn_cli.agent.actor import Actor
from dqn_cli.config import Config, UniformConfig
from dqn_cli.envs.lanes import describe
from dqn_cli.errors import CheckpointError, EnvironmentFault, Interrupted, StorageError
from dqn_cli.replay.segments import SegmentStore, parse
from dqn_cli.training import checkpoint as checkpoints
from dqn_cli.training import resuming
from dqn_cli.training.metrics import MetricsLog
from dqn_cli.training.resuming import REPLAY_DIR, Resume
from dqn_cli.training.snapshot import below


def train(config: Config, folder: Path, resume: Resume | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    build.train_run(config, folder, [], ["dqn-train"], resume)


def resume(config: Config, folder: Path, env: str = "exact") -> None:
    found = resuming.find(folder)
    train(config, folder, None if found is None else Resume(config, env, found))


def stopped(config: Config, folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Train, or go on, until a scheduler's signal comes after so many actions; whether the run has ended before."""
    act, calls = Actor.act, 0

    def acting(self: Actor, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Actor, "act", acting)
        try:
            resume(config, folder)
        except Interrupted:
            return False
    return True


def left(config: Config, folder: Path) -> dict[str, bytes]:
    """Every byte on disk that a run determines: the tables, the final and the best checkpoint, the memory."""
    found = {name: (folder / name).read_bytes() for name in ("metrics.csv", "episodes.csv")}
    for path in sorted((folder / "checkpoints").rglob("*")):
        if path.name in DETERMINED and not path.parent.name.startswith("step-"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    final = checkpoints.read(checkpoints.find(folder, "final"), loop=True)
    facts = describe(config.env)
    memory = build.make_memory(config, facts.spec, np.random.default_rng(), torch.device("cpu"))
    store, segments = SegmentStore(folder / REPLAY_DIR), parse(final.segments)
    assert final.arrays is not None
    memory.load(below("memory.", final.arrays), lambda rings: store.load(segments, rings), facts.num_actions)
    return found | {f"memory.{name}": array.tobytes() for name, array in memory.state_dict().items()}


def differences(config: Config, one: Path, other: Path) -> list[str]:
    here, there = left(config, one), left(config, other)
    assert here.keys() == there.keys()
    return [name for name in here if here[name] != there[name]]


@pytest.mark.parametrize("config", VARIETY.values(), ids=VARIETY.keys())
def test_a_run_that_was_stopped_again_and_again_leaves_the_same_bytes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, tmp_path / "whole")
    for after in (35, 60, 7, 160, 45, 90, 250):  # actions, those of evaluations too
        if stopped(config, tmp_path / "stopped", after, monkeypatch):
            break
    else:
        resume(config, tmp_path / "stopped")
    assert after > 7
    assert differences(config, tmp_path / "whole", tmp_path / "stopped") == []


@pytest.mark.parametrize(("name", "kills"), [("cartpole", 4), ("frozenlake", 3), ("pong", 3)])
def test_a_run_that_was_killed_leaves_the_same_bytes(name: str, kills: int, tmp_path: Path) -> None:
    assert killed(name, kills, tmp_path)["differs"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("cartpole", 50), ("frozenlake", 20), ("pong", 30)])
def test_a_run_that_was_killed_often_leaves_the_same_bytes(name: str, kills: int, tmp_path: Path) -> None:
    found = killed(name, kills, tmp_path)
    assert found["differs"] == []
    assert found["kills"] >= kills // 2


def killed(name: str, kills: int, folder: Path) -> dict[str, Any]:
    """In a process of its own, since it forks: see killing.py."""
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), str(folder), str(kills), "0", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def halted(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int = 100) -> int:
    """A run that was stopped; the step where it stands."""
    assert not stopped(config, folder, after, monkeypatch)
    found = resuming.find(folder)
    assert found is not None
    assert not found.finished
    return found.step


def rows(folder: Path, name: str = "metrics.csv") -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def with_run(config: Config, **changes: Any) -> Config:
    return replace(config, run=replace(config.run, **changes))


def test_a_longer_run_is_the_same_up_to_its_old_end(tmp_path: Path) -> None:
    longer = with_run(small(), total_steps=600)
    train(longer, tmp_path / "at once")
    train(small(), tmp_path / "in two")
    found = resuming.find(tmp_path / "in two")
    assert found is not None
    assert found.finished
    train(longer, tmp_path / "in two", Resume(small(), "exact", found))
    ours, theirs = rows(tmp_path / "at once"), rows(tmp_path / "in two")
    assert [row for row in theirs if row["steps"] != "400"] == [row for row in ours if row["steps"] != "400"]
    one, other = (left(longer, tmp_path / name) for name in ("at once", "in two"))
    assert [name for name in one if name.startswith(("memory", "checkpoints/final")) and one[name] != other[name]] == []
    assert not (tmp_path / "in two" / "checkpoints" / "final-000000400").exists()


def test_the_periods_of_logs_and_checkpoints_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(small(), tmp_path / "whole")
    step = halted(small(), tmp_path / "stopped", monkeypatch)
    resume(with_run(small(), log_every_steps=10, checkpoint_every_steps=33, keep_checkpoints=5), tmp_path / "stopped")
    one, other = (left(small(), tmp_path / name) for name in ("whole", "stopped"))
    different = [name for name in one if one[name] != other[name]]
    assert set(different) <= {"metrics.csv", *(name for name in one if name.endswith(("config.json", "state.json")))}
    assert [row["steps"] for row in rows(tmp_path / "stopped") if int(row["steps"]) > step][:2] == [
        str(next(s for s in range(step + 1, 999) if s % 10 == 0)),
        str(next(s for s in range(step + 1, 999) if s % 10 == 0) + 10),
    ]


def test_new_episodes_begin_where_somebody_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(num_envs=2, replay=UniformConfig(capacity=300, batch_size=8, n_step=3))
    step = halted(config, tmp_path, monkeypatch)
    before = {(row["lane"], row["episode"]) for row in rows(tmp_path, "episodes.csv") if int(row["steps"]) <= step}
    resume(config, tmp_path, env="restart")
    after = [row for row in rows(tmp_path, "episodes.csv") if int(row["steps"]) > step]
    for lane in ("0", "1"):
        cut = max([int(episode) for which, episode in before if which == lane], default=-1) + 1
        assert next(row["episode"] for row in after if row["lane"] == lane) == str(cut + 1)


def test_without_the_memory_on_disk_a_new_one_is_filled_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_run(small(), checkpoint_replay=False, log_every_steps=1)
    step = halted(config, tmp_path, monkeypatch, after=90)
    assert not (tmp_path / "replay").exists()
    assert not stopped(config, tmp_path, 20, monkeypatch)  # once more, while the memory is still being filled
    resume(config, tmp_path)
    updates = {int(row["steps"]): int(row["updates"]) for row in rows(tmp_path)}
    again = 1 + max(s for s in updates if updates[s] == updates[step])
    assert step + 20 + config.run.learning_starts_steps <= again <= step + 23 + config.run.learning_starts_steps
    assert sorted(updates) == [*range(1, 401)]


def test_an_environment_that_does_not_come_back_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted(small(), tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    reset = CartPoleEnv.reset

    def other_each_time(self: CartPoleEnv, *, seed: int | None = None, options: Any = None) -> Any:
        return reset(self, seed=None, options=options)

    monkeypatch.setattr(CartPoleEnv, "reset", other_each_time)
    with pytest.raises(EnvironmentFault, match=r"env CartPole-v1 does not come back .*resume_env=restart"):
        resume(small(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    resume(small(), tmp_path, env="restart")


def test_other_circumstances_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    halted(small(), tmp_path, monkeypatch)
    monkeypatch.setattr(build, "versions", lambda: {"torch": "9.9"})
    resume(small(), tmp_path)
    assert "note: other circumstances than before, not bit for bit: " in capsys.readouterr().out


def test_a_finished_run_that_is_resumed_has_nothing_left_to_do(tmp_path: Path) -> None:
    train(small(), tmp_path)
    before = left(small(), tmp_path)
    resume(small(), tmp_path)
    assert left(small(), tmp_path) == before


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(small(), tmp_path / "whole")
    halted(small(), tmp_path / "stopped", monkeypatch, after=350)
    newest = max((tmp_path / "stopped" / "checkpoints").glob("step-*"))
    file = newest / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = resuming.find(tmp_path / "stopped")
    assert found is not None
    (notice,) = found.notices
    assert notice.startswith(f"checkpoints/{newest.name} is damaged (model.safetensors: ")
    resume(small(), tmp_path / "stopped")
    assert differences(small(), tmp_path / "whole", tmp_path / "stopped") == []


def test_segments_that_are_gone_spoil_all_checkpoints_that_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted(small(), tmp_path, monkeypatch)
    for file in (tmp_path / "replay").iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be resumed: .* is damaged"):
        resuming.find(tmp_path)


def test_what_a_full_disk_refused_leaves_nothing_behind_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small(), tmp_path / "whole")
    write, tried = checkpoints.write, 0

    def full_at_first(folder: Path, **contents: Any) -> None:
        nonlocal tried
        tried += folder.name.startswith("step")
        if tried == 2 and folder.name.startswith("step"):
            raise StorageError(f"cannot write {folder}: No space left on device")
        write(folder, **contents)

    seen: dict[int, set[str]] = {}

    def listing(self: MetricsLog, steps: int, *arguments: Any) -> None:
        seen[steps] = {path.name for path in (tmp_path / "full" / "replay").glob("*.z")}

    monkeypatch.setattr(checkpoints, "write", full_at_first)
    monkeypatch.setattr(MetricsLog, "timing", listing)
    train(small(), tmp_path / "full")
    assert "warning: no checkpoint of step 240: cannot write " in capsys.readouterr().out
    assert tried == 3
    assert len(seen[210]) == 2  # those of step 120, of frames and of rows
    assert seen[280] == seen[210]
    assert differences(small(), tmp_path / "whole", tmp_path / "full") == []


def test_a_run_whose_folder_was_deleted_ends_and_does_not_make_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, calls = Actor.act, 0

    def deleting(self: Actor, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 50:
            shutil.rmtree(tmp_path / "run")
        return act(self, *arguments)

    monkeypatch.setattr(Actor, "act", deleting)
    with pytest.raises(StorageError, match="run is gone: it was deleted or moved"):
        train(small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
