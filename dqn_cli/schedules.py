"""Quantities that change over a run, as pure functions of a counter, and the one rule for periodic events."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda t: value


def linear(begin: float, end: float, over: int) -> Schedule:
    """From `begin` at 0 to `end` at `over` along a line, then `end`."""

    def at(t: int) -> float:
        return end if t >= over else begin + (end - begin) * (t / over)

    return at


def exponential(begin: float, end: float, over: int) -> Schedule:
    """From `begin` at 0 to `end` at `over` with a constant ratio between steps, then `end`; both above 0."""

    def at(t: int) -> float:
        return end if t >= over else begin * (end / begin) ** (t / over)

    return at


def delayed(schedule: Schedule, delay: int) -> Schedule:
    """`schedule`, beginning `delay` steps later; its value at 0 before."""
    return lambda t: schedule(max(t - delay, 0))


def crossings(before: int, after: int, period: int) -> int:
    """How many multiples of `period` lie in (before, after]. Correct for any stride, e.g. several environments."""
    return after // period - before // period
