"""Everything beside the learning: what a run logs, evaluates and saves, and how it reacts to signals."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from dqn_cli.errors import FolderGone, Interrupted, NumericalError, StorageError
from dqn_cli.schedules import Schedule, crossings
from dqn_cli.training.evaluator import EvalResult, Evaluator
from dqn_cli.training.plan import Counters, Periods
from dqn_cli.training.progress import DRAW_EVERY_S, LABELS, Progress
from dqn_cli.training.signals import StopSignals
from dqn_cli.types import EpisodeStats, StepResult, UpdateResult

if TYPE_CHECKING:
    from dqn_cli.training.diagnostics import Diagnostics
    from dqn_cli.training.metrics import MetricsLog

RECENT_EPISODES = 100


@dataclass(frozen=True)
class Evaluation:
    """An evaluation and the step it was made at."""

    step: int
    result: EvalResult


Save = Callable[[int, dict[str, Any], UpdateResult | None], object]
Told = Callable[[int, float], None]  # steps, mean return


def nobody(steps: int, mean: float) -> None:
    """Who is told of evaluations where nobody asked."""


@dataclass(frozen=True)
class Saving:
    """How to save a run: periodically, as a new best, and at the end.

    Each takes the step, the watcher's state and the newest update.
    """

    periodic: Save
    best: Save
    final: Save


@dataclass(frozen=True)
class Sinks:
    """Where numbers go, and those that nobody counts: schedules by the names of `Metric`, and diagnostics."""

    metrics: MetricsLog
    progress: Progress
    schedules: Mapping[str, Schedule]
    diagnostics: Diagnostics


@dataclass
class Clock:
    """Wall time, with the time spent on evaluations and checkpoints kept apart."""

    begin: float = field(default_factory=time.perf_counter)
    paused: float = 0.0
    lap_seconds: float = 0.0
    lap: Counters = field(default_factory=Counters)
    next_draw: float = 0.0

    def wall_seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.begin

    def working_seconds(self) -> float:
        """Seconds in the loop since the start."""
        return self.wall_seconds() - self.paused

    def state(self) -> dict[str, float]:
        """How long the run has taken, as plain data."""
        return {"wall_seconds": self.wall_seconds(), "paused_seconds": self.paused}

    def go_on_from(self, state: Mapping[str, float], lap: Counters) -> None:
        """A run that was resumed has taken so long already, and begins a new lap."""
        self.begin = time.perf_counter() - float(state["wall_seconds"])
        self.paused = float(state["paused_seconds"])
        self.lap_seconds, self.lap = self.working_seconds(), replace(lap)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not the loop's."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.paused += time.perf_counter() - begin


class Watcher:
    """Called after every step of the loop; `finish` ends a run.

    While `stop` is entered, a signal ends the run at the next step; `beat` is called at each, also of an evaluation.
    `evaluated` is told the steps and the mean return of each evaluation; what it raises ends the run there.
    """

    def __init__(
        self,
        periods: Periods,
        evaluator: Evaluator,
        saving: Saving,
        sinks: Sinks,
        beat: Callable[[], None] = lambda: None,
        evaluated: Told = nobody,
    ):
        self.best: Evaluation | None = None
        self.last: Evaluation | None = None
        self.reached_goal = False
        self._periods = periods
        self._evaluator = evaluator
        self._saving = saving
        self.sinks = sinks
        self._scores: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._lengths: deque[int] = deque(maxlen=RECENT_EPISODES)
        self.stop = StopSignals()
        self._beat = beat
        self._evaluated = evaluated
        self._now = Counters()
        self._seen = 0  # the step up to which everything that was due is done
        self._next_due = 0  # nothing but to look for signals before this step; 0: not known yet
        self.saved: int | None = None  # the step of the newest checkpoint
        self.clock = Clock()

    def after_step(self, before: Counters, now: Counters, step: StepResult, result: UpdateResult | None) -> bool:
        """Log, evaluate and save what is due between the two states; True when the run has reached its goal."""
        self._now, self._seen = now, before.steps
        self._beat()
        for stats in step.episodes:
            self._count(now.steps, stats)
        if time.perf_counter() >= self.clock.next_draw:
            self._draw(result)
        if 2 * now.steps - before.steps < self._next_due:  # neither now nor at the next step: nearly always
            self._seen = now.steps
            self._check_stop()
            return self.reached_goal
        return self.catch_up(result)

    def catch_up(self, result: UpdateResult | None) -> bool:
        """Do what is due since the step before; called again where a run was stopped in the midst of that."""
        before, now = self._seen, self._now.steps
        if now > before:
            evaluation = self._evaluate(result) if self._evaluation_due(before, now) else None
            if self._row_due(before, now):
                self._log(result, evaluation)
            if evaluation is not None:
                self._evaluated(now, evaluation.mean)
            self._seen = now
            if self._row_due(now, 2 * now - before):
                self.sinks.diagnostics.measure_distance()
            if self._periods.checkpoint is not None and crossings(before, now, self._periods.checkpoint):
                self._save_periodic(result)
            self._next_due = self._due_after(now)
        if not self.reached_goal and now < self._periods.total:  # a run that is through ends as it would anyway
            self._check_stop()
        return self.reached_goal

    def finish(self, result: UpdateResult | None) -> None:
        """Save the policy that the run ended with; its evaluation was due at the last step."""
        self._draw(result)
        self._save(self._saving.final, result)

    def save_interrupted(self, result: UpdateResult | None) -> None:
        """Save where the run was stopped."""
        if self.saved != self._now.steps or self._seen < self._now.steps:
            self._save(self._saving.periodic, result)

    def _save_periodic(self, result: UpdateResult | None) -> None:
        """Save; where the disk refuses, say so and go on: the checkpoint before is whole, the next may succeed."""
        try:
            self._save(self._saving.periodic, result)
        except FolderGone:
            raise
        except StorageError as error:
            self.sinks.progress.note(f"warning: no checkpoint of step {self._now.steps:,}: {error}")

    def _save(self, save: Save, result: UpdateResult | None) -> None:
        self._require_finite(result)
        with self.clock.pause():
            save(self._now.steps, self.state(), result)
        self.saved = self._now.steps

    def _due_after(self, steps: int) -> int:
        """The first step after `steps` that is the end or a multiple of a period."""
        periods = (self._periods.log, self._periods.evaluate, self._periods.checkpoint)
        return min([self._periods.total, *((steps // period + 1) * period for period in periods if period is not None)])

    def _evaluation_due(self, before: int, after: int) -> bool:
        """Every so many steps, and at the end of the run."""
        period = self._periods.evaluate
        return after >= self._periods.total or (period is not None and crossings(before, after, period) > 0)

    def _row_due(self, before: int, after: int) -> bool:
        return crossings(before, after, self._periods.log) > 0 or self._evaluation_due(before, after)

    def state(self) -> dict[str, Any]:
        """Where the run is, as plain data: all that `go_on_from` needs."""
        distance = self.sinks.diagnostics.distance
        return {
            "counters": asdict(self._now),
            "seen": self._seen,
            "best": _plain(self.best),
            "last": _plain(self.last),
            "recent": {"scores": [*self._scores], "lengths": [*self._lengths]},
            "target_distance": distance if distance is not None and math.isfinite(distance) else None,
        }

    def go_on_from(self, state: Mapping[str, Any]) -> Counters:
        """Be where a run was that left this `state`; its counters. Raises as `past_of`."""
        past = past_of(state)
        self._now, self._seen, self.saved = past.counters, past.seen, past.counters.steps
        self.best, self.last = past.best, past.last
        self._scores.extend(past.scores)
        self._lengths.extend(past.lengths)
        self.sinks.diagnostics.distance = past.target_distance
        self.sinks.progress.go_on_from(self._now.steps)
        return self._now

    def _count(self, steps: int, stats: EpisodeStats) -> None:
        self._scores.append(stats.score)
        self._lengths.append(stats.length)
        self.sinks.metrics.episode(steps, stats)

    def _check_stop(self) -> None:
        if self.stop.received:
            raise Interrupted(f"stopped by {self.stop.name} at step {self._now.steps:,}", self.stop.exit_code)

    def _while_evaluating(self, episodes: int) -> None:
        self._check_stop()
        self._beat()
        self.sinks.progress.tick(episodes)

    def _require_finite(self, result: UpdateResult | None) -> None:
        """NaN in the weights never leaves them, so that looking at the newest loss now and then is enough."""
        if result is not None and not math.isfinite(loss := float(result.loss)):
            raise NumericalError(
                f"diverged: loss is {loss} by update {self._now.updates:,} (step {self._now.steps:,}); "
                "try a smaller optimizer.lr, or optimizer.max_grad_norm=10"
            )

    def _returns(self) -> dict[str, float]:
        if not self._scores:
            return {}
        return {
            "return_mean": sum(self._scores) / len(self._scores),
            "length_mean": sum(self._lengths) / len(self._lengths),
        }

    def _log(self, result: UpdateResult | None, evaluation: EvalResult | None) -> None:
        self._require_finite(result)
        now, sinks = self._now, self.sinks
        row = {**asdict(now), **self._scheduled(), **self._returns()}
        del row["steps"]
        if result is not None:
            row |= {"loss": float(result.loss), "q_mean": float(result.mean_q)}
            if result.grad_norm is not None:
                row["grad_norm"] = float(result.grad_norm)
            row |= sinks.diagnostics.row(now.steps)
        if evaluation is not None:
            row |= evaluated(evaluation)
            if evaluation.seen is not None and evaluation.seen.returns is not None:
                sinks.metrics.returns(now.steps, evaluation.seen.returns)
        sinks.metrics.row(now.steps, row)
        self._time()

    def _scheduled(self) -> dict[str, float]:
        return {name: at(self._now.steps) for name, at in self.sinks.schedules.items()}

    def _time(self) -> None:
        clock, now = self.clock, self._now
        seconds = clock.working_seconds()
        lap = max(seconds - clock.lap_seconds, 1e-9)
        steps, updates = now.steps - clock.lap.steps, now.updates - clock.lap.updates
        if steps:
            self.sinks.metrics.timing(now.steps, clock.wall_seconds(), steps / lap, updates / lap)
            clock.lap_seconds, clock.lap = seconds, replace(now)

    def _draw(self, result: UpdateResult | None) -> None:
        self.clock.next_draw = time.perf_counter() + DRAW_EVERY_S
        now, view = self._now, {name: value for name, value in self._scheduled().items() if name in LABELS}
        if self._scores:
            view["return_mean"] = self._returns()["return_mean"]
        if self.last is not None:
            view["eval_return_mean"] = self.last.result.mean
        if result is not None:
            view["loss"] = float(result.loss)
        self.sinks.progress.update(now.steps, **view)

    def _evaluate(self, result: UpdateResult | None) -> EvalResult:
        """Evaluate; a policy that looks as good as the best, or as the goal, is played again on fresh seeds.

        Only what the second look confirms counts: the best of many noisy evaluations is too good on average.
        """
        self._require_finite(result)
        with self.clock.pause(), self.sinks.progress.evaluating():
            found = self._evaluator.run(self._while_evaluating)
            self.last = Evaluation(self._now.steps, found)
            if self._best_so_far(found) or self._good_enough(found):
                confirmed = self._evaluator.confirm(self._now.steps, self._while_evaluating)
                if self._best_so_far(confirmed):
                    self._save_best(Evaluation(self._now.steps, confirmed), result)
                if self._good_enough(found) and self._good_enough(confirmed):
                    self.reached_goal, self.last = True, Evaluation(self._now.steps, confirmed)
        return found

    def _save_best(self, best: Evaluation, result: UpdateResult | None) -> None:
        """Keep these weights; where the disk refuses, the best ones before are still the best that there are."""
        before, self.best = self.best, best
        try:
            self._saving.best(best.step, self.state(), result)
        except StorageError as error:
            self.best = before
            self.sinks.progress.note(f"warning: a new best policy is not saved: {error}")

    def _best_so_far(self, result: EvalResult) -> bool:
        return self.best is None or result.mean >= self.best.result.mean

    def _good_enough(self, result: EvalResult) -> bool:
        goal = self._periods.stop_at_return
        return goal is not None and result.mean >= goal


@dataclass(frozen=True)
class Past:
    """What a `Watcher.state` says."""

    counters: Counters
    seen: int
    best: Evaluation | None
    last: Evaluation | None
    scores: list[float]
    lengths: list[int]
    target_distance: float | None


def past_of(state: Mapping[str, Any]) -> Past:
    """The state of a run from plain data that nobody vouches for. Raises `KeyError`, `TypeError` or `ValueError`."""
    counters = Counters(**{f.name: _whole(state["counters"][f.name]) for f in fields(Counters)})
    seen, distance = _whole(state["seen"]), state["target_distance"]
    if seen > counters.steps:
        raise ValueError(f"seen {seen} is beyond step {counters.steps}")
    if not isinstance(distance, float | None):
        raise TypeError(f"target_distance {distance!r:.40}")
    best, last = _evaluation(state["best"]), _evaluation(state["last"])
    return Past(counters, seen, best, last, *_episodes(state["recent"]), distance)


def _plain(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return {"step": evaluation.step, "scores": evaluation.result.scores, "lengths": evaluation.result.lengths}


def _evaluation(plain: Mapping[str, Any] | None) -> Evaluation | None:
    if plain is None:
        return None
    scores, lengths = _episodes(plain)
    if not scores:
        raise ValueError("an evaluation without episodes")
    return Evaluation(_whole(plain["step"]), EvalResult(scores, lengths))


def _episodes(plain: Mapping[str, Any]) -> tuple[list[float], list[int]]:
    """Scores and lengths that nobody vouches for. Raises `ValueError`, and what breaks on the way."""
    scores, lengths = [float(score) for score in plain["scores"]], [_whole(length) for length in plain["lengths"]]
    if len(scores) != len(lengths):
        raise ValueError(f"{len(scores)} scores of {len(lengths)} episodes")
    return scores, lengths


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError(f"{number!r:.40} is not a number of steps, updates or episodes")
    return number


def evaluated(result: EvalResult) -> dict[str, float]:
    """What an evaluation adds to a row of `metrics.csv`."""
    row = {
        "eval_return_mean": result.mean,
        "eval_return_sd": result.sd,
        "eval_length_mean": result.mean_length,
    }
    if result.seen is not None and result.seen.value_estimate is not None and result.seen.value_return is not None:
        row |= {"value_estimate": result.seen.value_estimate, "value_return": result.seen.value_return}
    return row
