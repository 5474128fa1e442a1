from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dqn_cli.errors import Interrupted, NumericalError, StorageError
from dqn_cli.schedules import constant
from dqn_cli.training.evaluator import EvalResult, Returns, Seen
from dqn_cli.training.plan import Counters, Periods
from dqn_cli.training.watcher import Clock, Saving, Sinks, Watcher
from dqn_cli.types import EpisodeStats, StepResult, UpdateResult


class Metrics:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.episodes: list[tuple[int, EpisodeStats]] = []
        self.speeds: list[tuple[int, float]] = []
        self.pictures: list[tuple[int, Returns]] = []

    def episode(self, steps: int, stats: EpisodeStats) -> None:
        self.episodes.append((steps, stats))

    def row(self, steps: int, values: dict[str, float]) -> None:
        self.rows.append((steps, values))

    def timing(self, steps: int, seconds: float, steps_per_second: float, updates_per_second: float) -> None:
        self.speeds.append((steps, steps_per_second))

    def returns(self, steps: int, returns: Returns) -> None:
        self.pictures.append((steps, returns))


class Diagnostics:
    """Knows one number, and the steps that it was asked at."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.measured = 0
        self.distance: float | None = None

    def measure_distance(self) -> None:
        self.measured += 1

    def row(self, steps: int) -> dict[str, float]:
        self.asked.append(steps)
        return {"dormant": 0.25}


class Progress:
    def __init__(self) -> None:
        self.ticks, self.in_evaluation = 0, False
        self.view: dict[str, float] = {}

        self.notes: list[str] = []
        self.begun_at = 0

    def update(self, steps: int, **view: float) -> None:
        self.view = view

    def go_on_from(self, steps: int) -> None:
        self.begun_at = steps

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.in_evaluation = True
        yield
        self.in_evaluation = False

    def tick(self, episodes: int) -> None:
        assert self.in_evaluation
        self.ticks += 1


class Evaluator:
    """Plays back what evaluations and confirmations score."""

    def __init__(self, looks: list[float], confirmations: list[float]) -> None:
        self.looks, self.confirmations = looks, confirmations
        self.seen: Seen | None = None
        self.confirmed_at: list[int] = []

    def run(self, check: Callable[[int], None]) -> EvalResult:
        check(0)
        return EvalResult([self.looks.pop(0)], [1], self.seen)

    def confirm(self, step: int, check: Callable[[int], None]) -> EvalResult:
        self.confirmed_at.append(step)
        check(0)
        return EvalResult([self.confirmations.pop(0)], [1])


class Bench:
    def __init__(self, looks: list[float] | None = None, confirmations: list[float] | None = None, **periods: Any):
        self.saved: list[tuple[str, int]] = []
        self.states: list[dict[str, Any]] = []
        self.metrics = Metrics()
        self.evaluator = Evaluator(looks or [0.0], confirmations or [0.0])

        self.full = False  # the disk

        def save(name: str, step: int, state: dict[str, Any], result: UpdateResult | None) -> None:
            if self.full:
                raise StorageError("cannot write x: No space left on device")
            self.saved.append((name, step))
            self.states.append(state)

        self.diagnostics = Diagnostics()
        schedules = {"epsilon": constant(0.5), "lr": constant(0.1)}
        keep = {name: partial(save, name) for name in ("periodic", "best", "final")}
        self.watcher = Watcher(
            Periods(
                **{"total": 100, "log": 10, "evaluate": None, "checkpoint": None, "stop_at_return": None, **periods}
            ),
            self.evaluator,  # type: ignore[arg-type]
            Saving(**keep),
            Sinks(self.metrics, Progress(), schedules, self.diagnostics),  # type: ignore[arg-type]
        )

    def advance(self, to: int, stride: int = 1, result: UpdateResult | None = None) -> int:
        """Steps from 0 to `to`; returns where the watcher ended the run."""
        now = Counters()
        while now.steps < to:
            before = replace(now)
            now.steps += stride
            if self.watcher.after_step(before, now, quiet(stride), result):
                break
        return now.steps


def quiet(lanes: int, episodes: list[EpisodeStats] | None = None) -> StepResult:
    frame, no = np.zeros((lanes, 1), np.float32), np.zeros(lanes, np.bool_)
    return StepResult(frame, frame, np.zeros(lanes), no, no, no, episodes or [])


def loss_of(value: float) -> UpdateResult:
    return UpdateResult(torch.tensor(value), torch.tensor(1.5), None, torch.zeros(1))


def test_what_is_due_when() -> None:
    bench = Bench([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], total=60, log=20, evaluate=25, checkpoint=30)
    bench.advance(60)
    assert [step for step, _ in bench.metrics.rows] == [20, 25, 40, 50, 60]
    assert bench.saved == [("best", 25), ("periodic", 30), ("best", 50), ("best", 60), ("periodic", 60)]
    bench.watcher.finish(None)
    assert bench.saved[-1] == ("final", 60)
    assert bench.watcher.sinks.progress.ticks == 6  # type: ignore[attr-defined]  # an evaluation and its second look
    assert all("eval_return_mean" in row for step, row in bench.metrics.rows if step in (25, 50, 60))
    assert all("eval_return_mean" not in row for step, row in bench.metrics.rows if step in (20, 40))


def test_a_row_tells_the_state_of_the_run() -> None:
    bench = Bench(log=1)
    stats = [EpisodeStats(0, 0, 7.0, 3), EpisodeStats(1, 0, 9.0, 5)]
    now = Counters(2, 1, 2, 1)
    bench.watcher.after_step(
        Counters(), now, quiet(2, stats), UpdateResult(torch.tensor(0.25), torch.tensor(1.5), None, torch.zeros(1))
    )
    assert bench.metrics.rows == [
        (2, {"updates": 1, "episodes": 2, "target_syncs": 1, "epsilon": 0.5, "lr": 0.1, "return_mean": 8.0,
             "length_mean": 4.0, "loss": 0.25, "q_mean": 1.5, "dormant": 0.25}),
    ]  # fmt: skip
    assert bench.metrics.episodes == [(2, stats[0]), (2, stats[1])]


def test_nobody_looks_inside_but_for_a_row_and_after_an_update() -> None:
    bench = Bench([1.0] * 9, [1.0] * 9, total=40, log=10, evaluate=25)
    bench.advance(20)
    assert bench.diagnostics.asked == []
    bench = Bench([1.0] * 9, [1.0] * 9, total=40, log=10, evaluate=25)
    bench.advance(40, result=loss_of(1.0))
    assert bench.diagnostics.asked == [step for step, _ in bench.metrics.rows] == [10, 20, 25, 30, 40]


@pytest.mark.parametrize("stride", [1, 3])
def test_the_distance_is_measured_a_step_before_each_row(stride: int) -> None:
    bench = Bench([1.0] * 9, [1.0] * 9, total=21, log=5, evaluate=7)
    before, measured_at = Counters(), []
    while before.steps < 21:
        now, count = Counters(before.steps + stride), bench.diagnostics.measured
        bench.watcher.after_step(before, now, quiet(stride), None)
        measured_at += [now.steps] * (bench.diagnostics.measured - count)
        before = now
    rows = [step for step, _ in bench.metrics.rows]
    assert [step + stride for step in measured_at if step < 21] == rows


def test_what_an_evaluation_saw_stands_beside_its_scores() -> None:
    bench = Bench(total=10, log=5, evaluate=10)
    bench.evaluator.seen = Seen(9.0, 7.5, Returns(np.zeros(1), np.zeros((1, 1)), np.ones((1, 1))))
    bench.advance(10)
    (_, without), (_, row) = bench.metrics.rows
    assert (row["value_estimate"], row["value_return"]) == (9.0, 7.5)
    assert not {"value_estimate", "value_return"} & without.keys()
    assert bench.metrics.pictures == [(10, bench.evaluator.seen.returns)]


def test_where_every_episode_was_cut_at_its_first_step_there_is_nothing_to_say_of_values() -> None:
    bench = Bench(total=10, evaluate=10)
    bench.evaluator.seen = Seen(None, None, None)
    bench.advance(10)
    ((_, row),) = bench.metrics.rows
    assert not {"value_estimate", "value_return"} & row.keys()
    assert bench.metrics.pictures == []


@pytest.mark.parametrize(("name", "shown"), [("epsilon", True), ("temperature", False)])
def test_schedules_are_logged_and_shown_where_there_is_a_label(name: str, shown: bool) -> None:
    bench = Bench(log=1)
    bench.watcher.sinks = replace(bench.watcher.sinks, schedules={name: lambda step: 0.5 * step})
    bench.advance(2)
    bench.watcher.finish(None)
    assert [row[name] for _, row in bench.metrics.rows] == [0.5, 1.0]
    assert bench.watcher.sinks.progress.view == ({name: 1.0} if shown else {})  # type: ignore[attr-defined]


def test_a_lucky_evaluation_does_not_make_a_best() -> None:
    bench = Bench([10.0, 99.0, 30.0], [10.0, 5.0, 20.0], total=30, evaluate=10)
    bench.advance(30)
    assert bench.saved == [("best", 10), ("best", 30)]
    assert bench.watcher.best is not None
    assert bench.watcher.best.result.mean == 20.0
    assert bench.watcher.last is not None
    assert (bench.watcher.last.step, bench.watcher.last.result.mean) == (30, 30.0)
    assert bench.evaluator.confirmed_at == [10, 20, 30]  # each on seeds of its own
    bench.watcher.finish(None)
    assert [state["best"] for state in bench.states] == [
        {"step": 10, "scores": [10.0], "lengths": [1]},
        {"step": 30, "scores": [20.0], "lengths": [1]},
        {"step": 30, "scores": [20.0], "lengths": [1]},
    ]
    assert bench.states[-1]["counters"]["steps"] == 30


def test_a_best_of_the_past_keeps_its_step() -> None:
    bench = Bench([9.0, 1.0], [9.0], total=20, evaluate=10)
    bench.advance(20)
    bench.watcher.finish(None)
    assert bench.states[-1]["best"] == {"step": 10, "scores": [9.0], "lengths": [1]}


def test_returns_are_those_of_the_last_100_episodes() -> None:
    bench = Bench(log=1)
    episodes = [EpisodeStats(0, i, float(i), i) for i in range(150)]
    bench.watcher.after_step(Counters(), Counters(1), quiet(1, episodes), None)
    ((_, row),) = bench.metrics.rows
    assert (row["return_mean"], row["length_mean"]) == (99.5, 99.5)


def test_speed_counts_the_steps_since_the_last_row_and_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dqn_cli.training.watcher.time.perf_counter", lambda: now[0])
    bench = Bench([1.0] * 9, [1.0] * 9, total=40, log=10, evaluate=20)
    bench.watcher.clock = Clock(begin=0.0)
    run, confirm, step = bench.evaluator.run, bench.evaluator.confirm, bench.watcher.after_step

    def taking(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            now[0] += seconds
            return call(*arguments)

        return slow

    bench.evaluator.run, bench.evaluator.confirm = taking(1000.0, run), taking(1000.0, confirm)  # type: ignore[method-assign]
    bench.watcher.after_step = taking(0.5, step)  # type: ignore[method-assign]
    bench.advance(40)
    assert bench.metrics.speeds == [(10, 2.0), (20, 2.0), (30, 2.0), (40, 2.0)]


def test_a_policy_that_looks_worse_gets_no_second_chance() -> None:
    bench = Bench([10.0, 3.0, 30.0], [10.0, 20.0], total=30, evaluate=10)
    bench.advance(30)
    assert bench.saved == [("best", 10), ("best", 30)]


def test_a_tie_goes_to_the_newer_policy() -> None:
    bench = Bench([500.0, 500.0], [500.0, 500.0], total=20, evaluate=10)
    bench.advance(20)
    assert bench.saved == [("best", 10), ("best", 20)]


def test_the_run_ends_at_its_goal() -> None:
    bench = Bench([3.0, 8.0, 9.0], [3.0, 8.0], total=100, evaluate=10, stop_at_return=8.0)
    assert bench.advance(100) == 20
    assert bench.watcher.reached_goal


def test_a_lucky_evaluation_does_not_end_the_run() -> None:
    bench = Bench([8.0, 8.0, 3.0], [5.0, 9.0], total=30, evaluate=10, stop_at_return=8.0)
    assert bench.advance(30) == 20
    assert bench.watcher.last is not None
    assert bench.watcher.last.result.mean == 9.0  # the confirmation, which nothing was selected by


def test_a_goal_of_zero_is_a_goal() -> None:
    bench = Bench([-1.0, 0.0], [-1.0, 0.0], total=100, evaluate=10, stop_at_return=0.0)
    assert bench.advance(100) == 20


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_anything_is_saved(loss: float) -> None:
    for due in ("log", "checkpoint", "evaluate"):
        bench = Bench(**{"log": 10, due: 5})
        with pytest.raises(NumericalError, match=r"diverged: loss is (nan|inf) by update 0 \(step 5\)"):
            bench.advance(100, result=loss_of(loss))
        assert bench.saved == []
        assert bench.metrics.rows == []
        assert bench.evaluator.looks == [0.0]  # a policy that is no policy is not played


def test_the_first_ctrl_c_waits_for_the_end_of_the_step_and_the_second_does_not() -> None:
    shells = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored, and stays so
    bench, before = Bench(), signal.getsignal(signal.SIGINT)
    with bench.watcher.stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped by Ctrl-C at step 1"):
            bench.advance(5)
        bench.watcher.save_interrupted(None)
        assert bench.saved == [("periodic", 1)]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    signal.signal(signal.SIGINT, shells)


def test_ctrl_c_stops_an_evaluation_too() -> None:
    bench = Bench(evaluate=5)
    bench.watcher.stop.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        bench.watcher._evaluate(None)
    assert bench.evaluator.looks == [0.0]
    bench.evaluator.run = lambda check: EvalResult([1.0], [1])  # type: ignore[method-assign]
    with pytest.raises(Interrupted):  # and its confirmation
        bench.watcher._evaluate(None)
    assert bench.saved == []


def test_several_environments_cross_their_periods() -> None:
    bench = Bench([1.0] * 9, [1.0] * 9, total=21, log=5, evaluate=7)
    bench.advance(21, stride=3)
    assert [step for step, _ in bench.metrics.rows] == [6, 9, 12, 15, 21]


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 75)])
def test_a_signal_ends_the_run_once_all_that_is_due_is_done(number: signal.Signals, name: str, code: int) -> None:
    bench = Bench([1.0], [1.0], log=5, evaluate=5, checkpoint=5)
    bench.watcher.stop.received = None
    bench.advance(4)
    bench.watcher.stop.received = number
    with pytest.raises(Interrupted, match=f"stopped by {name} at step 5") as stopped:
        bench.watcher.after_step(Counters(4), Counters(5), quiet(1), None)
    assert stopped.value.exit_code == code
    assert [step for step, _ in bench.metrics.rows] == []  # the evaluation was stopped, so the row has to wait for it
    bench.watcher.save_interrupted(None)
    assert bench.states[-1]["seen"] == 4
    assert bench.saved == [("periodic", 5)]


def test_what_was_due_when_a_run_was_stopped_is_done_when_it_goes_on() -> None:
    stopped = Bench([3.0], [2.0], log=5, evaluate=5, checkpoint=5)
    stopped.advance(4)
    stopped.watcher.stop.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        stopped.watcher.after_step(Counters(4), Counters(5, 1, 2), quiet(1), None)
    stopped.watcher.save_interrupted(None)

    bench = Bench([3.0], [2.0], log=5, evaluate=5, checkpoint=5)
    assert bench.watcher.go_on_from(stopped.states[-1]) == Counters(5, 1, 2)
    assert bench.watcher.sinks.progress.begun_at == 5  # type: ignore[attr-defined]
    assert not bench.watcher.catch_up(None)
    assert [step for step, _ in bench.metrics.rows] == [5]
    assert bench.saved == [("best", 5), ("periodic", 5)]
    assert not bench.watcher.catch_up(None)  # once is enough
    assert len(bench.metrics.rows) == 1


def test_a_watcher_goes_on_where_one_was() -> None:
    bench = Bench([4.0, 1.0], [3.0], log=5, evaluate=10, checkpoint=25)
    bench.diagnostics.distance = 0.25
    bench.advance(23)
    for i in range(120):
        bench.watcher.after_step(Counters(23), Counters(24), quiet(1, [EpisodeStats(0, i, float(i), i)]), None)
    bench.watcher.save_interrupted(None)
    other = Bench(log=5, evaluate=10)
    other.watcher.go_on_from(bench.states[-1])
    assert other.watcher.state() == bench.watcher.state()
    assert other.watcher.state()["recent"] == {
        "scores": [float(i) for i in range(20, 120)],
        "lengths": [*range(20, 120)],
    }
    assert other.watcher.best == bench.watcher.best
    assert other.watcher.last == bench.watcher.last
    assert other.watcher.saved == 24
    other.watcher.save_interrupted(None)
    assert other.saved == []  # it is there already


@pytest.mark.parametrize(
    "change",
    [
        {"counters": {"steps": -1, "updates": 0, "episodes": 0, "target_syncs": 0}},
        {"counters": {"steps": True, "updates": 0, "episodes": 0, "target_syncs": 0}},
        {"counters": {"steps": 24}},
        {"seen": 25},
        {"seen": "24"},
        {"best": {"step": 10, "scores": [], "lengths": []}},
        {"last": {"step": 10, "scores": [1.0], "lengths": [1, 2]}},
        {"recent": {"scores": [1.0], "lengths": []}},
        {"recent": None},
        {"target_distance": "near"},
    ],
)
def test_a_state_that_no_watcher_leaves_is_refused(change: dict[str, Any]) -> None:
    bench = Bench(log=50)
    bench.advance(24)
    state = bench.watcher.state() | change
    with pytest.raises((KeyError, TypeError, ValueError)):
        Bench().watcher.go_on_from(state)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run() -> None:
    bench = Bench([1.0, 2.0], [1.0, 2.0], total=60, evaluate=10, checkpoint=10)
    bench.full = True
    bench.advance(10)
    assert [note.split(":")[0] for note in bench.watcher.sinks.progress.notes] == [  # type: ignore[attr-defined]
        "warning",
        "warning",
    ]
    assert bench.watcher.best is None  # its weights are nowhere
    assert bench.watcher.saved is None
    with pytest.raises(StorageError):  # nobody is left to try again
        bench.watcher.finish(None)
    bench.full = False
    bench.watcher.after_step(Counters(19), Counters(20), quiet(1), None)
    assert bench.saved == [("best", 20), ("periodic", 20)]


def test_every_step_is_a_sign_of_life_those_of_evaluations_too() -> None:
    beats: list[int] = []
    bench = Bench([1.0], [1.0], evaluate=5)
    bench.watcher._beat = lambda: beats.append(1)
    bench.advance(5)
    assert len(beats) == 7
