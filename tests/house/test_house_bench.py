"""The benchmark's own logic, on runs that are made up: what it refuses, what it counts, what its numbers mean."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmark import breakdown, floor, tasks, verdict, versus  # noqa: E402
from benchmark.marks import Marks  # noqa: E402
from benchmark.processes import pins  # noqa: E402
from benchmark.sections import composed  # noqa: E402
from benchmark.verdict import Refused, Run, Spread  # noqa: E402


def driver() -> Any:
    """our_driver.py, which is a program: it finds `marks` beside itself."""
    sys.path.insert(0, str(SCRIPTS / "benchmark"))
    try:
        spec = importlib.util.spec_from_file_location("our_driver", SCRIPTS / "benchmark" / "our_driver.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS / "benchmark"))


def made_up(system: str = "dqn-cli", **changes: Any) -> Run:
    """1,000 steps: the first at second 3, learning from second 5 and step 200 on, steady from second 6 and step 300."""
    report: dict[str, Any] = {
        "system": system,
        "versions": {system: "1", "torch": "2.13.0", "numpy": "2.4"},
        "threads": 1,
        "steps": 1_000,
        "updates": 80,
        "rows": 2_560,
        "copies": 10,
        "effective_copies": 8,
        "first_step_at": 103.0,
        "first_update": [105.0, 200],
        "settled": [106.0, 300, 10],
        "ended_at": 116.0,
        "apart": [],
    }
    return Run(report | changes, began=100.0, wall=18.0, cpu=15.0, rss=250_000_000)


def test_figures_by_hand() -> None:
    found = verdict.figures(made_up())
    assert found["start_up"] == 3.0
    assert found["before"] == 200 / 2
    assert found["steady"] == 700 / 10
    assert found["updates"] == 70 / 10
    assert found["memory"] == 250.0
    assert (found["cpu"], found["wall"]) == (15.0, 18.0)
    assert found.keys() == verdict.FIGURES.keys()


def test_what_the_other_does_not_do_is_taken_away_where_it_lies() -> None:
    before, inside, after = [104.0, 105.0, 0.5], [114.0, 116.0, 1.5], [116.5, 117.0, 0.25]
    found = verdict.figures(made_up(apart=[before, inside, after]))
    assert found["before"] == 200 / (2 - 1)
    assert found["steady"] == 700 / (10 - 2)
    assert found["updates"] == 70 / (10 - 2)
    assert found["wall"] == 18.0 - 3.5
    assert found["cpu"] == 15.0 - 2.25
    assert found["start_up"] == 3.0


def test_only_what_lies_between_two_moments_counts() -> None:
    apart = [(0.0, 4.0, 9.0), (5.0, 7.0, 9.0)]
    assert verdict.between(apart, 3.0, 6.0) == 1.0 + 1.0
    assert verdict.between(apart, 4.0, 5.0) == 0.0
    assert verdict.between(apart, -math.inf, math.inf) == 6.0


@pytest.mark.parametrize("mark", ["first_step_at", "first_update", "settled", "ended_at"])
def test_a_run_without_a_mark_has_no_figures(mark: str) -> None:
    with pytest.raises(Refused, match=f"dqn-cli has no {mark}"):
        verdict.figures(made_up(**{mark: None}))


@pytest.mark.parametrize("key", ["steps", "updates", "effective_copies", "rows"])
def test_different_work_is_refused(key: str) -> None:
    ours, theirs = made_up(), made_up("sb3")
    verdict.require_same_work([ours, theirs])
    more = made_up("sb3", **{key: theirs.report[key] + 1})
    with pytest.raises(Refused, match=rf"{verdict.WORK[key]} [\d,]+ by dqn-cli, [\d,]+ by sb3") as refused:
        verdict.require_same_work([ours, more])
    assert "\n" not in str(refused.value)
    with pytest.raises(Refused, match="the work differs"):
        verdict.require_same_work([ours, theirs, replace(more, report=more.report | {"system": "third"})])


def test_copies_that_change_nothing_may_differ_and_versions_may_not() -> None:
    verdict.require_same_work([made_up(), made_up("sb3", copies=11)])
    with pytest.raises(Refused, match=r"torch differs: 2\.13\.0 of dqn-cli, 2\.12\.0 of sb3"):
        verdict.require_same_work([made_up(), made_up("sb3", versions={"torch": "2.12.0"})])


def test_a_busy_machine_is_refused_or_noted() -> None:
    assert verdict.require_quiet(1.3, 1.0, "a load of", False) is None
    with pytest.raises(Refused, match=r"busy: a load of 1\.31, of which 1\.00 .*--busy-ok"):
        verdict.require_quiet(1.31, 1.0, "a load of", False)
    note = verdict.require_quiet(1.31, 1.0, "a load of", True)
    assert note is not None
    assert "1.31" in note


def test_above_one_is_better_for_rates_and_for_costs() -> None:
    assert verdict.better("steady", 800.0, 100.0) == 8.0
    assert verdict.better("wall", 10.0, 50.0) == 5.0
    assert verdict.better("memory", 400.0, 200.0) == 0.5


def test_ratios_are_taken_within_pairs() -> None:
    def ending(system: str, seconds: float) -> Run:
        return made_up(system, ended_at=106.0 + seconds)

    # a slow machine in the second pair: the ratios are 2, 2 and 4; that of the medians would be 2.4
    ours = [ending("dqn-cli", s) for s in (10.0, 50.0, 6.0)]
    theirs = [ending("sb3", s) for s in (20.0, 100.0, 24.0)]
    mine, their, ratio = verdict.compare(ours, theirs)["steady"]
    assert (mine, their) == (70.0, 700 / 24)
    assert (ratio.median, ratio.least, ratio.most) == pytest.approx((2.0, 2.0, 4.0))


def test_the_table_fits_a_terminal() -> None:
    rows = {name: (123_456.7, 12_345.6, Spread(12.34, 11.11, 13.99)) for name in verdict.FIGURES}
    lines = verdict.table("medians of 5 pairs", rows, "stable-baselines3")
    assert len(lines) == 1 + len(rows)
    assert max(map(len, lines)) <= 80
    assert "12.34x (11.11 - 13.99)" in lines[1]
    assert max(len(f"{task.name} {task.text}") for task in tasks.TASKS.values()) <= 80


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=lambda task: task.name)
def test_the_peer_makes_exactly_the_updates_of_a_task(task: tasks.Task) -> None:
    for way in [*tasks.ways(task, None, 2), *tasks.peer_ways(task, None, 2)]:
        for one in (way, tasks.scouting(way)) if task.kind == "atari" else (way,):
            steps, updates, train_freq, gradient_steps = 0, 0, *one.rounds()
            while steps < one.total_steps:  # as its `learn` does
                steps += train_freq * one.num_envs
                updates += gradient_steps if steps > one.starts else 0
            assert (steps, updates) == (one.total_steps, one.updates)
            assert updates > one.settle_updates + one.per_round


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=lambda task: task.name)
def test_ours_is_told_the_same_numbers(task: tasks.Task) -> None:
    words = dict(word.split("=", 1) for word in task.overrides())
    told = ["run.total_steps", "run.learning_starts_steps", "run.update_every_steps", "run.updates_per_round"]
    assert [int(words[key]) for key in told] == [task.total_steps, task.starts, task.every, task.per_round]
    assert int(words["replay.batch_size"]) == task.numbers()["batch"]
    assert int(words["variant.target_every"]) == task.numbers()["target_every"]
    assert int(words["num_envs"]) == task.numbers()["num_envs"]
    assert float(words["optimizer.max_grad_norm"]) == task.numbers()["max_grad_norm"]
    assert json.loads(json.dumps(task.numbers()))["name"] == task.name


@pytest.mark.parametrize("changes", [{"total_steps": 50_000}, {"num_envs": 7}, {"starts": 1_001, "num_envs": 2}])
def test_a_total_that_the_peer_would_overrun_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"T1b: "):
        replace(tasks.T1B, **changes).rounds()


def test_eight_environments_keep_the_replay_ratio() -> None:
    assert replace(tasks.T3, num_envs=8).rounds() == (1, 2)
    assert tasks.T3.rounds() == (4, 1)
    assert {(way.num_envs, way.threads, way.vec) for way in tasks.peer_ways(tasks.T3, 8, 2)} == {
        (8, 1, "dummy"),
        (8, 2, "dummy"),
        (8, 1, "subproc"),
        (8, 2, "subproc"),
    }
    assert [way.threads for way in tasks.ways(tasks.T3, 1, 1)] == [1]
    assert tasks.ways(tasks.T1, None, 2) == [tasks.T1]


def test_the_best_way_of_each_is_taken() -> None:
    ways, tried = tasks.ways(tasks.T3, None, 2), []

    def run(way: tasks.Task) -> Run:
        tried.append((way.num_envs, way.threads, way.total_steps))
        return made_up(ended_at=110.0 if (way.num_envs, way.threads) == (8, 1) else 116.0)

    way, _ = versus.best(ways, run)
    assert (way.num_envs, way.threads, way.total_steps) == (8, 1, tasks.T3.total_steps)
    assert tried == [(n, t, 2_600) for n in (1, 8) for t in (1, 2)]


def test_marks_count_what_changes_the_target_and_begin_at_a_round() -> None:
    marks = Marks(settle_updates=3)
    marks.copy()  # nothing has been learnt yet
    marks.first_step()
    for step in (10, 20, 30):
        for _ in range(2):
            marks.update(step, 32)
        marks.copy()
        marks.copy()  # nothing has been learnt since
    marks.end()
    report = json.loads(marks.report("dqn-cli", 40, 1))
    assert (report["updates"], report["rows"], report["copies"], report["effective_copies"]) == (6, 192, 7, 3)
    assert report["first_update"][1] == 10
    assert report["settled"][1:] == [30, 4]  # update 4 is in the midst of a round
    assert report["first_step_at"] <= report["first_update"][0] <= report["settled"][0] <= report["ended_at"]
    assert {"torch", "numpy", "gymnasium", "ale-py", "dqn-cli"} == report["versions"].keys()


def test_marks_count_nested_work_once() -> None:
    marks = Marks(0)
    with marks.apart(), marks.apart():
        pass
    (begin, end, _), *more = json.loads(marks.report("dqn-cli", 0, 1))["apart"]
    assert begin <= end
    assert more == []


class Lanes:
    def recv(self) -> str:
        return "step"


class Learner:
    def update(self, batch: Any, step: int) -> str:
        return "result"

    def sync_target(self) -> None:
        pass


class Clock:
    @contextmanager
    def pause(self) -> Iterator[None]:
        yield


class Trainer:
    def __init__(self, lanes: Lanes, learner: Learner, clock: Clock) -> None:
        self.lanes, self.learner, self.clock = lanes, learner, clock

    def run(self) -> None:
        for step in range(4):
            assert self.lanes.recv() == "step"
            assert self.learner.update(SimpleNamespace(reward=[0.0] * 5), step) == "result"
        self.learner.sync_target()
        with self.clock.pause():
            pass


def test_our_driver_counts_and_leaves_the_steps_alone() -> None:
    recv, marks = Lanes.recv, Marks(2)
    build = SimpleNamespace(JournaledLanes=Lanes, Learner=Learner, Clock=Clock, Trainer=Trainer)
    driver().count(build, marks)
    assert Lanes.recv is not recv
    Trainer(Lanes(), Learner(), Clock()).run()
    assert Lanes.recv is recv  # after the first step
    report = json.loads(marks.report("dqn-cli", 4, 1))
    assert (report["updates"], report["rows"], report["copies"]) == (4, 20, 1)
    assert len(report["apart"]) == 1
    assert None not in (report["first_step_at"], report["settled"], report["ended_at"])


def test_what_our_driver_counts_is_there() -> None:
    from dqn_cli import build

    for thing, name in [("JournaledLanes", "recv"), ("Learner", "update"), ("Learner", "sync_target")]:
        assert callable(getattr(getattr(build, thing), name))
    assert callable(build.Clock.pause)
    assert callable(build.Trainer.run)


def test_our_driver_does_not_believe_itself_alone(tmp_path: Path) -> None:
    marks = Marks(0)
    marks.update(1, 8)
    file = tmp_path / "metrics.csv"
    file.write_text("steps,updates,target_syncs\n5,0,0\n10,1,0\n")
    assert driver().steps_of(tmp_path, marks) == 10
    marks.copy()
    with pytest.raises(RuntimeError, match="1 updates and 0 target syncs, counted were 1 and 1"):
        driver().steps_of(tmp_path, marks)


def test_a_module_is_changed_when_somebody_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "to_be_counted.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def then(module: Any) -> None:
        module.value += 1

    finders = [*sys.meta_path]
    driver().when_imported("to_be_counted", then)
    assert "to_be_counted" not in sys.modules
    import to_be_counted

    assert to_be_counted.value == 2
    assert sys.meta_path == finders


def test_timers_take_themselves_away() -> None:
    timers = {"act": breakdown.Timer(2.0, 1_000), "sample": breakdown.Timer(1.0, 100), "priorities": breakdown.Timer()}
    act, sample, loop = breakdown.rows(timers, 4.0, breakdown.Cost(inside=1e-4, outside=2e-4))
    assert (act.name, act.seconds, act.calls) == ("act", pytest.approx(1.9), 1_000)
    assert (sample.name, sample.seconds) == ("sample", pytest.approx(0.99))
    assert loop.seconds == pytest.approx(4.0 - 3.0 - 0.22)
    text = breakdown.lines([act, sample, loop], 1_000, 3.6)
    assert max(map(len, text)) <= 80
    assert re.search(r"act +1,900\.0 +1,900\.0 +1,000 +51\.8%", text[1])  # of the 3.67 s that all rows come to
    assert re.search(r"parts together +2,890\.0 +78\.7%", text[4])
    assert re.search(r"the sum +3,670\.0 +100\.0%", text[5])
    assert re.search(r"without timers +3,600\.0 +98\.1%", text[6])


@pytest.mark.parametrize(
    ("task", "forward", "first"),
    [
        (tasks.T1, 4 * 120 + 120 * 84 + 84 * 2, 4 * 120),
        (tasks.T2, 54 * 16 * 64 + 1_024 * 128 + 128 * 4, 54 * 16 * 64),
        (
            tasks.T3,
            3_276_800 + 2_654_208 + 1_806_336 + 1_605_632 + 512 * 6,
            3_276_800,
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_arithmetic_of_an_update_by_hand(task: tasks.Task, forward: int, first: int) -> None:
    config = composed(replace(task, capacity=500).overrides())
    assert floor.update_flops(config) == 2 * task.batch * (2 * forward + 2 * forward - first)


def test_a_timer_passes_everything_through() -> None:
    timer = breakdown.Timer()
    work: Callable[..., Any] = timer.around(lambda a, *, b: (a, b))
    assert work(1, b=2) == (1, 2)
    assert timer.calls == 1
    assert timer.seconds > 0


def test_a_short_run_is_a_long_one_on_average() -> None:
    short = breakdown.shortened(tasks.T1, 20_000)
    assert short.epsilon_over / short.total_steps == tasks.T1.epsilon_over / tasks.T1.total_steps
    assert tasks.T1.batch <= short.starts < short.total_steps / 10


def test_the_peer_gets_the_versions_of_here() -> None:
    wanted = pins({"torch": "2.13.0+cpu", "numpy": "2.4.6"})
    assert {"torch==2.13.0+cpu", "numpy==2.4.6", "stable-baselines3"} <= {*wanted}
    assert wanted[-1].endswith("/whl/cpu")
    assert not any("://" in word for word in pins({"torch": "2.13.0"}))


@pytest.mark.parametrize(("words", "says"), [(["T9"], "no task T9"), (["--pairs", "0"], "--pairs=0")])
def test_nonsense_is_refused_before_anything_runs(words: list[str], says: str) -> None:
    command = [sys.executable, str(SCRIPTS / "bench"), "versus", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
