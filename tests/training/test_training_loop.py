"""The order of events in the loop, the exact replay ratio, and the periods, against fakes that write a tape."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqn_cli.config import Config, EpsilonConfig, UniformConfig, VdqnConfig
from dqn_cli.schedules import constant, crossings, delayed, exponential, linear
from dqn_cli.training.plan import Counters, Plan, Sync, Updates, make_plan
from dqn_cli.training.trainer import Trainer
from dqn_cli.types import Batch, EpisodeStats, StepResult, UpdateResult


class Tape:
    """Every part of a run, faked; each call leaves a word on the tape."""

    def __init__(self, num_envs: int, episode_length: int) -> None:
        self.words: list[str] = []
        self.num_envs = num_envs
        self.length = episode_length
        self.time = 0
        self.frame = np.zeros((num_envs, 1), np.float32)

    def reset(self) -> np.ndarray:
        self.words.append("reset")
        return self.frame

    def start(self, frame: np.ndarray) -> None:
        self.words.append("start")

    def act(self, frame: np.ndarray, first: np.ndarray, level: float) -> np.ndarray:
        self.words.append(f"act {level:g}{' first' if first.all() else ''}")
        return np.zeros(self.num_envs, np.int64)

    def send(self, actions: np.ndarray) -> None:
        self.words.append("send")

    def recv(self) -> StepResult:
        self.words.append("recv")
        self.time += 1
        over = np.full(self.num_envs, self.time % self.length == 0)
        episodes = [EpisodeStats(lane, 0, 1.0, self.length) for lane in np.flatnonzero(over)]
        return StepResult(self.frame, self.frame, np.zeros(self.num_envs), over, ~over & False, over, episodes)

    def append(self, action: np.ndarray, step: StepResult) -> int:
        self.words.append("append")
        return self.num_envs

    def sample(self, batch_size: int, steps: int) -> Batch:
        self.words.append(f"sample {batch_size}")
        return rows(batch_size)

    def update_priorities(self, row: np.ndarray, priority: np.ndarray) -> None:
        self.words.append(f"priorities {row.tolist()} {priority.tolist()}")

    def newest(self, count: int) -> Batch:
        self.words.append(f"newest {count}")
        return rows(count)

    def update(self, batch: Batch, step: int) -> UpdateResult:
        self.words.append(f"update {len(batch.action)} at {step}")
        return UpdateResult(torch.zeros(()), torch.zeros(()), None, torch.full((len(batch.action),), 0.5))

    def sync_target(self) -> None:
        self.words.append("sync")

    def after_step(self, before: Counters, now: Counters, step: StepResult, result: UpdateResult | None) -> bool:
        self.words.append(f"log {now.steps}")
        return False


def rows(count: int) -> Batch:
    zeros = torch.zeros(count)
    return Batch(zeros, zeros.long(), zeros, zeros, zeros)


def plan(total: int, updates: Updates | None, sync: Sync | None) -> Plan:
    return Plan(total_steps=total, exploration=linear(1, 0, 4), batch_size=32, updates=updates, sync=sync)


def run(tape: Tape, plan: Plan) -> Trainer:
    trainer = Trainer(plan, tape, tape, tape, tape, tape)
    trainer.run()
    return trainer


def test_the_tape_of_a_small_run() -> None:
    tape = Tape(num_envs=1, episode_length=3)
    updates = Updates(every_steps=2, per_round=2, starts_steps=1, first_row_steps=2)
    trainer = run(tape, plan(4, updates, Sync(3, "steps")))
    assert tape.words == [
        "reset", "start",
        "act 1 first", "send", "recv", "append", "log 1",
        "act 0.75", "send", "sample 32", "update 32 at 1", "sample 32", "update 32 at 1", "recv", "append", "log 2",
        "act 0.5", "send", "recv", "append", "sync", "log 3",
        "act 0.25 first", "send", "sample 32", "update 32 at 3", "sample 32", "update 32 at 3", "recv", "append",
        "log 4",
    ]  # fmt: skip
    assert trainer.counters == Counters(steps=4, updates=4, episodes=1, target_syncs=1)


def test_the_tape_with_three_environments_and_odd_periods() -> None:
    tape = Tape(num_envs=3, episode_length=2)
    updates = Updates(every_steps=5, per_round=1, starts_steps=0, first_row_steps=6)
    trainer = run(tape, plan(12, updates, Sync(2, "updates")))
    assert tape.words == [
        "reset", "start",
        "act 1 first", "send", "recv", "append", "log 3",
        "act 0.25", "send", "recv", "append", "log 6",
        "act 0 first", "send", "recv", "append", "log 9",
        "act 0", "send", "sample 32", "update 32 at 9", "recv", "append", "log 12",
    ]  # fmt: skip
    assert trainer.counters == Counters(steps=12, updates=1, episodes=6, target_syncs=0)


def test_the_actor_sees_the_frames_to_act_on_and_not_those_that_episodes_ended_with() -> None:
    class Numbered(Tape):
        seen: ClassVar[list[tuple[float, bool]]] = []

        def act(self, frame: np.ndarray, first: np.ndarray, level: float) -> np.ndarray:
            self.seen.append((frame.item(), first.item()))
            return super().act(frame, first, level)

        def recv(self) -> StepResult:
            step = super().recv()
            return replace(step, frame=np.full_like(step.frame, self.time), next_frame=-step.frame - 1)

    run(Numbered(num_envs=1, episode_length=2), plan(5, None, None))
    assert Numbered.seen == [(0, True), (1, False), (2, True), (3, False), (4, True)]


def test_the_watcher_ends_a_run() -> None:
    class Enough(Tape):
        def after_step(self, before: Counters, now: Counters, step: StepResult, result: UpdateResult | None) -> bool:
            return now.steps == 6

    assert run(Enough(num_envs=2, episode_length=9), plan(99, None, None)).counters.steps == 6


def test_a_sync_counted_in_updates_follows_its_update_at_once() -> None:
    tape = Tape(num_envs=1, episode_length=9)
    updates = Updates(every_steps=3, per_round=3, starts_steps=2, first_row_steps=2)
    run(tape, plan(3, updates, Sync(2, "updates")))
    body = [word for word in tape.words if word.startswith(("update", "sync", "sample"))]
    assert body == ["sample 32", "update 32 at 2"] * 2 + ["sync", "sample 32", "update 32 at 2"]


def test_errors_go_back_to_the_rows_that_they_are_of_before_the_memory_is_used_again() -> None:
    class Weighted(Tape):
        def sample(self, batch_size: int, steps: int) -> Batch:
            batch = super().sample(batch_size, steps)
            return replace(batch, weight=torch.ones(batch_size), row=np.arange(batch_size) + 10 * steps)

    tape = Weighted(num_envs=1, episode_length=9)
    updates = Updates(every_steps=1, per_round=2, starts_steps=1, first_row_steps=2)
    run(tape, replace(plan(2, updates, Sync(2, "updates")), batch_size=2))
    once = ["sample 2", "update 2 at 1"], ["priorities [10, 11] [0.5, 0.5]"]
    assert tape.words[7:-1] == [
        "act 0.75", "send", *once[0], *once[1], *once[0], "sync", "recv", *once[1], "append",
    ]  # fmt: skip


def test_a_sync_counted_in_episodes_follows_the_episode() -> None:
    tape = Tape(num_envs=2, episode_length=2)
    trainer = run(tape, plan(12, None, Sync(3, "episodes")))
    assert trainer.counters.episodes == 6
    synced_before = [tape.words[i + 1] for i, word in enumerate(tape.words) if word == "sync"]
    assert synced_before == ["log 8", "log 12"]  # the 3rd episode ends among the 4 at step 8, the 6th at step 12


def test_online_learning_takes_each_new_row_alone_right_after_it_is_stored() -> None:
    tape = Tape(num_envs=2, episode_length=9)
    run(tape, plan(2, None, None))
    assert tape.words == [
        "reset", "start",
        "act 1 first", "send", "recv", "append", "newest 2", "update 1 at 2", "update 1 at 2", "log 2",
    ]  # fmt: skip


@given(
    every=st.integers(1, 7),
    per_round=st.integers(1, 3),
    starts=st.integers(0, 30),
    envs=st.integers(1, 5),
    n_step=st.integers(1, 3),
    vector_steps=st.integers(1, 30),
)
def test_the_replay_ratio_is_exact(
    every: int, per_round: int, starts: int, envs: int, n_step: int, vector_steps: int
) -> None:
    first_row = (n_step + 1) * envs
    updates = Updates(every_steps=every, per_round=per_round, starts_steps=starts, first_row_steps=first_row)
    due = sum(updates.due(t * envs, (t + 1) * envs) for t in range(vector_steps))
    multiples = [d for d in range(1, vector_steps * envs + 1) if d % every == 0 and d > starts and d >= first_row]
    assert due == per_round * len(multiples)


@given(st.integers(0, 50), st.integers(0, 20), st.integers(1, 9))
def test_crossings_count_the_multiples(before: int, stride: int, period: int) -> None:
    after = before + stride
    assert crossings(before, after, period) == sum(1 for t in range(before + 1, after + 1) if t % period == 0)


def test_schedules_at_their_corners() -> None:
    line, curve = linear(1.0, 0.1, 10), exponential(1.0, 0.01, 10)
    assert [line(0), line(5), line(10), line(99)] == [1.0, 0.55, 0.1, 0.1]
    assert [curve(0), curve(10), curve(99)] == [1.0, 0.01, 0.01]
    assert curve(5) == pytest.approx(0.1)
    assert constant(0.0)(7) == 0.0


def test_a_delayed_schedule_waits_and_then_goes_the_same_way():
    line = delayed(linear(1.0, 0.1, 10), 5)
    assert [line(t) for t in (0, 4, 5)] == [1.0, 1.0, 1.0]
    assert [line(t + 5) for t in range(20)] == [linear(1.0, 0.1, 10)(t) for t in range(20)]


def test_syncs_are_counted_by_their_own_unit() -> None:
    before, after = Counters(steps=4, updates=10, episodes=1), Counters(steps=8, updates=13, episodes=1)
    assert [Sync(4, unit).due(before, after) for unit in ("steps", "updates", "episodes")] == [1, 1, 0]
    assert Sync(1, "updates").due(before, after) == 3
    assert Sync(1, "steps").due(before, replace(before)) == 0


def test_the_loop_goes_on_where_it_was() -> None:
    tape = Tape(num_envs=1, episode_length=3)
    plan = Plan(total_steps=6, exploration=constant(0.5), batch_size=2, updates=None, sync=None)
    trainer = Trainer(plan, tape, tape, tape, tape, tape)
    counters = Counters(4, 2, 1)
    trainer.go_on_from(counters, None, tape.frame, np.ones(1, np.bool_))
    trainer.run()
    assert "reset" not in tape.words
    assert "start" not in tape.words
    assert [word for word in tape.words if word.startswith("act")] == ["act 0.5 first", "act 0.5"]
    assert counters.steps == 6


def test_a_memory_that_began_anew_is_filled_before_learning_goes_on() -> None:
    config = Config(replay=UniformConfig(n_step=2), exploration=EpsilonConfig(), variant=VdqnConfig(), num_envs=3)
    config.run.learning_starts_steps, config.run.update_every_steps = 30, 6
    fresh, again = make_plan(config).updates, make_plan(config, 600).updates
    assert fresh is not None
    assert again is not None
    assert [fresh.due(step, step + 3) for step in range(0, 60, 3)] == [
        again.due(step, step + 3) for step in range(600, 660, 3)
    ]
    assert again.due(0, 630) == 0
    assert again.due(630, 636) == 1
