"""Everything beside the learning: what a run logs, evaluates and saves, and how it reacts to Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dqn_cli.errors import Interrupted, NumericalError
from dqn_cli.schedules import Schedule, crossings
from dqn_cli.training.evaluator import EvalResult, Evaluator
from dqn_cli.training.plan import Counters, Periods
from dqn_cli.training.progress import DRAW_EVERY_S, LABELS, Progress
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


@dataclass(frozen=True)
class Saving:
    """How to save a run: periodically, as a new best, and at the end. Each takes the step and the run's state."""

    periodic: Callable[[int, dict[str, Any]], object]
    best: Callable[[int, dict[str, Any]], object]
    final: Callable[[int, dict[str, Any]], object]


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

    def working_seconds(self) -> float:
        """Seconds in the loop since the start."""
        return time.perf_counter() - self.begin - self.paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not the loop's."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.paused += time.perf_counter() - begin


class Watcher:
    """Called after every step of the loop; `finish` ends a run."""

    def __init__(self, periods: Periods, evaluator: Evaluator, saving: Saving, sinks: Sinks):
        self.best: Evaluation | None = None
        self.last: Evaluation | None = None
        self.reached_goal = False
        self._periods = periods
        self._evaluator = evaluator
        self._saving = saving
        self.sinks = sinks
        self._scores: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._lengths: deque[int] = deque(maxlen=RECENT_EPISODES)
        self._interrupted = threading.Event()
        self._now = Counters()
        self.clock = Clock()

    @contextmanager
    def catching_ctrl_c(self) -> Iterator[None]:
        """Let the first Ctrl-C ask for an orderly end between two steps; the second one ends at once."""
        if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
            yield
            return

        def on_signal(number: int, frame: object) -> None:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            self._interrupted.set()

        previous = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def after_step(self, before: Counters, now: Counters, step: StepResult, result: UpdateResult | None) -> bool:
        """Log, evaluate and save what is due between the two states; True when the run has reached its goal."""
        self._now = now
        for stats in step.episodes:
            self._count(now.steps, stats)
        self._check_interrupt()
        if time.perf_counter() >= self.clock.next_draw:
            self._draw(result)
        evaluation = self._evaluate(result) if self._evaluation_due(before.steps, now.steps) else None
        if self._row_due(before.steps, now.steps):
            self._log(result, evaluation)
        if self._row_due(now.steps, 2 * now.steps - before.steps):
            self.sinks.diagnostics.measure_distance()
        if self._periods.checkpoint is not None and crossings(before.steps, now.steps, self._periods.checkpoint):
            self._save(self._saving.periodic, result)
        return self.reached_goal

    def finish(self, result: UpdateResult | None) -> None:
        """Save the policy that the run ended with; its evaluation was due at the last step."""
        self._draw(result)
        self._save(self._saving.final, result)

    def save_interrupted(self) -> None:
        """Save where the run was stopped."""
        self._saving.periodic(self._now.steps, self._state())

    def _save(self, save: Callable[[int, dict[str, Any]], object], result: UpdateResult | None) -> None:
        self._require_finite(result)
        with self.clock.pause():
            save(self._now.steps, self._state())

    def _evaluation_due(self, before: int, after: int) -> bool:
        """Every so many steps, and at the end of the run."""
        period = self._periods.evaluate
        return after >= self._periods.total or (period is not None and crossings(before, after, period) > 0)

    def _row_due(self, before: int, after: int) -> bool:
        return crossings(before, after, self._periods.log) > 0 or self._evaluation_due(before, after)

    def _state(self) -> dict[str, Any]:
        best = None if self.best is None else {"step": self.best.step, "return_mean": self.best.result.mean}
        return {"counters": asdict(self._now), "best": best}

    def _count(self, steps: int, stats: EpisodeStats) -> None:
        self._scores.append(stats.score)
        self._lengths.append(stats.length)
        self.sinks.metrics.episode(steps, stats)

    def _check_interrupt(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted(f"stopped by Ctrl-C at step {self._now.steps:,}")

    def _while_evaluating(self, episodes: int) -> None:
        self._check_interrupt()
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
            wall = time.perf_counter() - clock.begin
            self.sinks.metrics.timing(now.steps, wall, steps / lap, updates / lap)
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
                    self.best = Evaluation(self._now.steps, confirmed)
                    self._saving.best(self._now.steps, self._state())
                if self._good_enough(found) and self._good_enough(confirmed):
                    self.reached_goal, self.last = True, Evaluation(self._now.steps, confirmed)
        return found

    def _best_so_far(self, result: EvalResult) -> bool:
        return self.best is None or result.mean >= self.best.result.mean

    def _good_enough(self, result: EvalResult) -> bool:
        goal = self._periods.stop_at_return
        return goal is not None and result.mean >= goal


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
