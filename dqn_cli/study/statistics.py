"""Estimates from a handful of runs, and how far they can be trusted: Agarwal et al. 2021, https://arxiv.org/abs/2108.13264.

The estimators are those of rliable 1.2 (github.com/google-research/rliable), on numpy alone: rliable's bootstrap needs
arch, which does not import beside pandas 3, and draws one resample at a time, minutes for a report where this takes
seconds. Tests hold every one of them against rliable's own numbers.

The scores of a study are `Tasks`: an array of runs for each environment, `[runs]`; in the bootstrap `[reps, runs]`.
Every estimator keeps leading axes. Environments may differ in their number of runs, which rliable does not know; where
they do not, the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tasks = Sequence[Floats]
Statistic = Callable[..., Floats]

LEVEL = 95  # percent
EXACT = 50_000  # as many rearrangements are gone through one by one
DRAWN = 20_000  # of more, as many are drawn
_CHUNK = 2_000_000  # numbers that a bootstrap holds at a time


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; `low` and `high` are NaN where there is none to be had."""

    value: float
    low: float
    high: float


def mean(tasks: Tasks) -> Floats:
    """Mean over environments of the mean over runs."""
    return np.asarray(_task_means(tasks).mean(-1))


def median(tasks: Tasks) -> Floats:
    """Median over environments of the mean over runs."""
    return np.asarray(np.median(_task_means(tasks), axis=-1))


def iqm(tasks: Tasks) -> Floats:
    """Interquartile mean: the mean of what is left of all runs of all environments without a quarter at either end."""
    return trimmed(np.concatenate(tasks, axis=-1))


def optimality_gap(tasks: Tasks, gamma: float = 1.0) -> Floats:
    """By how much scores fall short of `gamma` on average; what is above counts as `gamma`."""
    return gamma - mean([np.minimum(scores, gamma) for scores in tasks])


def trimmed(scores: Floats) -> Floats:
    """Mean over the last axis without the lowest and the highest quarter (rounded down) of it."""
    cut = scores.shape[-1] // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(-1))


def probability_of_improvement(x: Tasks, y: Tasks) -> Floats:
    """How probable it is that a run of X beats one of Y, mean over environments; a tie counts half."""
    shares = []
    for ours, theirs in zip(x, y, strict=True):
        left, right = ours[..., :, None], theirs[..., None, :]
        shares.append((left > right).mean((-1, -2)) + 0.5 * (left == right).mean((-1, -2)))
    return np.asarray(np.mean(shares, axis=0))


def profile(tasks: Tasks, tau: Floats) -> Floats:
    """Share of runs whose score is above each of `tau [T]`, mean over environments: `[..., T]`."""
    return np.asarray(np.mean([(scores[..., None] > tau).mean(-2) for scores in tasks], axis=0))


def interval(statistic: Statistic, *samples: Tasks, reps: int) -> tuple[Floats, Floats, Floats]:
    """The statistic of the samples, and its percentile interval: runs are drawn anew for each environment.

    Always with the same random numbers. Where no environment has two runs the interval is NaN.
    """
    rng = np.random.default_rng(0)
    value = np.asarray(statistic(*samples), np.float64)
    if all(len(scores) < 2 for tasks in samples for scores in tasks):
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    # in parts: profiles of many runs would take gigabytes at once
    part = max(1, _CHUNK // (max(1, value.size) * sum(len(scores) for tasks in samples for scores in tasks)))
    drawn = []
    for begin in range(0, reps, part):
        size = min(part, reps - begin)
        again = ([scores[rng.integers(0, len(scores), (size, len(scores)))] for scores in tasks] for tasks in samples)
        drawn.append(statistic(*again))
    low, high = _percentiles(np.concatenate(drawn), axis=0)
    return value, low, high


def estimate(statistic: Statistic, *samples: Tasks, reps: int) -> Estimate:
    """`interval` of a statistic that is one number."""
    return Estimate(*(float(number) for number in interval(statistic, *samples, reps=reps)))


def curve(values: Floats, reps: int, robust: bool = False) -> tuple[Floats, Floats, Floats]:
    """Mean (or, `robust`, interquartile mean) of curves `[runs, points]`, and its interval at each point: `[points]`.

    Whole curves are drawn, so that neighboring points move together.
    """
    runs, points = values.shape
    value = trimmed(values.T) if robust else values.mean(0)
    if runs < 2:
        return value, np.full(points, np.nan), np.full(points, np.nan)
    indices, weights = _resamples(runs, reps)
    if not robust:  # a resample's mean is a weighted sum: one product instead of a copy per resample
        return value, *_percentiles(weights @ values, axis=0)
    part = max(1, _CHUNK // indices.size)
    bands = [
        _percentiles(trimmed(values.T[begin : begin + part][:, indices]), axis=1) for begin in range(0, points, part)
    ]
    low, high = (np.concatenate(side) for side in zip(*bands, strict=True))
    return value, low, high


def sign_flip_p(differences: Floats) -> float:
    """Two-sided p-value of paired differences `[n]`: how often random signs make as large a mean; exact to n = 15."""
    n = len(differences)
    if 2**n <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
        return _share(np.abs(signs @ differences), abs(differences.sum()))
    signs = np.random.default_rng(0).choice((1.0, -1.0), (DRAWN, n))
    return _share(np.abs(np.append(signs @ differences, differences.sum())), abs(differences.sum()))


def permutation_p(x: Floats, y: Floats) -> float:
    """Two-sided p-value of two samples: how often a random division of all scores sets the means as far apart."""
    both, n = np.concatenate([x, y]), len(x)
    mean_of_all = both.mean()

    def distance(chosen: Floats) -> Floats:
        return np.asarray(np.abs(chosen.mean(-1) - mean_of_all))

    seen = distance(x)
    if comb(len(both), n) <= EXACT:
        return _share(distance(both[np.array(list(combinations(range(len(both)), n)))]), seen)
    rng = np.random.default_rng(0)
    drawn = np.array([rng.permutation(both)[:n] for _ in range(DRAWN)])
    return _share(np.append(distance(drawn), seen), seen)


def smallest_p(n: int, m: int | None = None) -> float:
    """The smallest p-value that `n` pairs, or samples of `n` and `m`, can have at all."""
    return 2 / 2**n if m is None else (2 if n == m else 1) / comb(n + m, n)


def _share(drawn: Floats, seen: Floats | float) -> float:
    # what is equal but for rounding is as large
    return float((drawn >= np.asarray(seen) * (1 - 1e-9) - 1e-12).mean())


@lru_cache(maxsize=8)
def _resamples(runs: int, reps: int) -> tuple[NDArray[np.int64], Floats]:
    """Which runs are drawn, and the share of each: `[reps, runs]` both. A report asks for the same at every curve."""
    indices = np.random.default_rng(0).integers(0, runs, (reps, runs))
    counts = np.zeros((reps, runs))
    np.add.at(counts, (np.arange(reps)[:, None], indices), 1.0)
    return indices, counts / runs


def _task_means(tasks: Tasks) -> Floats:
    return np.stack([scores.mean(-1) for scores in tasks], axis=-1)


def _percentiles(drawn: Floats, axis: int) -> tuple[Floats, Floats]:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail), axis=axis)
    return low, high
