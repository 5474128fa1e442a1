"""Curves over steps: of one run, and what they come to at common points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LARGEST = 1e60  # of a score: sums and areas of what is beyond might overflow
MAX_POINTS = 4_000  # of a run's curve; more cannot be seen
GRID_POINTS = 120  # of a picture, which is some 400 pixels wide; curves with fewer points keep their own


@dataclass(frozen=True, eq=False)
class Series:
    """Values `[n]` over steps `[n]`, which increase."""

    steps: Floats
    values: Floats

    def at(self, steps: Floats) -> Floats:
        """Values at other steps, on the straight lines between the points; NaN outside of them."""
        return np.interp(steps, self.steps, self.values, left=np.nan, right=np.nan)

    def final(self, share: float) -> float:
        """Mean over the last `share` of its steps, all points of it counting alike; at least its last point."""
        return float(self.values[self.steps >= self.steps[-1] * (1 - share)].mean())

    def area(self) -> float:
        """Area under the curve divided by its length: the mean over steps; of a single point its value."""
        length = self.steps[-1] - self.steps[0]
        if not length:
            return float(self.values[0])
        return float(((self.values[1:] + self.values[:-1]) / 2 * np.diff(self.steps)).sum() / length)

    def reached(self, threshold: float) -> float:
        """The first step at which the curve is at `threshold` or above; infinity where it never is."""
        above = np.flatnonzero(self.values >= threshold)
        return float(self.steps[above[0]]) if above.size else np.inf


def thinned(steps: Floats, values: Floats) -> Series:
    """At most `MAX_POINTS` of the points, evenly chosen, first and last among them."""
    if len(steps) > MAX_POINTS:
        chosen = np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(np.int64)
        steps, values = steps[chosen], values[chosen]
    return Series(np.array(steps), np.array(values))


def common_points(curves: Sequence[Series]) -> Floats:
    """Steps at which all curves can be compared: their own where they share them, else evenly spaced ones; may be
    empty.
    """
    first = curves[0].steps
    if len(first) <= GRID_POINTS and all(np.array_equal(first, curve.steps) for curve in curves):
        return first
    begin, end = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if begin > end:
        return np.empty(0)
    return np.linspace(begin, end, GRID_POINTS) if begin < end else np.array([begin])
