"""Two folders of runs against each other: what differs in their settings, and whether their scores differ by more than
noise.

How it is judged depends on the numbers of runs alone, never on the scores: by the signs of the differences where the
same at least six seeds were run on both sides, else by dividing all scores anew (Fisher's permutation test), which
needs four runs on each side to come below .05. With fewer nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dqn_cli.errors import ConfigError
from dqn_cli.study import groups, statistics
from dqn_cli.study.groups import Group, differences
from dqn_cli.study.runs import Run
from dqn_cli.study.series import Floats
from dqn_cli.study.settings import Aggregate, Score
from dqn_cli.study.statistics import Estimate, estimate, mean, probability_of_improvement
from dqn_cli.study.summary import Row, row_of
from dqn_cli.study.texts import bounds, clean, number

ALPHA = 0.05
SIDES = ("A", "B")


@dataclass(frozen=True, eq=False)
class Verdict:
    """Scores of B against those of A: `difference` is of their means, `p` None where there are too few runs for it."""

    difference: Estimate
    improvement: Estimate
    p: float | None
    test: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both sides in one environment; `seeds` were run on both, once each, and `wins` counts those that B ended above.

    `paired`: the differences are taken seed by seed.
    """

    env: str
    metric: str
    rows: tuple[Row, Row]
    settings: dict[str, tuple[str, str]]
    seeds: list[int]
    wins: int
    paired: bool
    final: Verdict
    area: Verdict


def compare(
    first: Sequence[Run],
    second: Sequence[Run],
    metric: Score,
    chosen: tuple[str | None, str | None],
    aggregate: Aggregate,
    unfinished: bool,
    reps: int,
) -> list[Comparison]:
    """B against A in every environment that both were run in; `chosen` names a configuration where a side has several.

    Raises `ConfigError` where there is none such, or more than one.
    """
    sides = [
        _side(runs, metric, name, unfinished, side)
        for runs, name, side in zip((first, second), chosen, SIDES, strict=True)
    ]
    both = [env for env in sides[0] if env in sides[1]]
    if not both:
        names = [", ".join(side) or "nothing that can be scored" for side in sides]
        raise ConfigError(f"A is {names[0]} and B is {names[1]}: nothing to compare")
    found = []
    for env in both:
        pair = [side[env] for side in sides]
        column = groups.column_of([run for group in pair for run in group.runs], metric)
        for group in pair:
            group.metric, group.runs = column, [run for run in group.runs if column in run.series]
            if not group.runs:
                raise ConfigError(f"{env}: one side has no {column}; write metric=return_mean, or the other one")
        pair[0].label, pair[1].label = (f"{side}: {group.label}" for side, group in zip(SIDES, pair, strict=True))
        found.append(_compared(env, pair[0], pair[1], aggregate, reps))
    return found


def _side(runs: Sequence[Run], metric: Score, chosen: str | None, unfinished: bool, side: str) -> dict[str, Group]:
    """The one configuration of each environment."""
    study = groups.study(runs, metric, unfinished=unfinished)
    if chosen is not None and chosen not in study.labels:
        raise ConfigError(
            f"{side.lower()}={clean(chosen)} is no configuration of {side}; known: {', '.join(study.labels)}"
        )
    found = {}
    for env, configurations in study.envs.items():
        fitting = [group for group in configurations if chosen in (None, group.label)]
        if len(fitting) > 1:
            names = ", ".join(group.label for group in fitting[:6])
            raise ConfigError(
                f"{side} holds {len(fitting)} configurations of {env}: {names}; choose with {side.lower()}=..."
            )
        if fitting:
            found[env] = fitting[0]
    return found


def _compared(env: str, a: Group, b: Group, aggregate: Aggregate, reps: int) -> Comparison:
    rows = tuple(row_of(group, aggregate, None, reps) for group in (a, b))
    once = [{seed for seed, times in Counter(run.seed for run in group.runs).items() if times == 1} for group in (a, b)]
    seeds = sorted(seed for seed in once[0] & once[1] if seed is not None)
    paired = len(seeds) >= 2 and len(seeds) == a.n == b.n
    at = [[next(i for i, run in enumerate(group.runs) if run.seed == seed) for seed in seeds] for group in (a, b)]
    pairs = (rows[0].final[at[0]], rows[1].final[at[1]])
    return Comparison(
        env,
        a.metric,
        (rows[0], rows[1]),
        differences(_common(a), _common(b)),
        seeds,
        int((pairs[1] > pairs[0]).sum()),
        paired,
        _judged(rows[0].final, rows[1].final, at if paired else None, reps),
        _judged(rows[0].area, rows[1].area, at if paired else None, reps),
    )


def _common(group: Group) -> dict[str, str]:
    """The settings that all runs of a side have alike."""
    first, *others = (run.settings for run in group.runs)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _judged(a: Floats, b: Floats, pairs: Sequence[Sequence[int]] | None, reps: int) -> Verdict:
    if pairs is None:
        difference = estimate(lambda x, y: mean(y) - mean(x), [a], [b], reps=reps)
    else:
        a, b = a[list(pairs[0])], b[list(pairs[1])]
        difference = estimate(mean, [b - a], reps=reps)
    improvement = estimate(probability_of_improvement, [b], [a], reps=reps)
    n, m = len(a), len(b)
    if pairs is not None and statistics.smallest_p(n) < ALPHA:
        p, test = statistics.sign_flip_p(b - a), f"random signs of {n} paired differences"
    elif n > 1 < m and statistics.smallest_p(n, m) < ALPHA:
        p, test = statistics.permutation_p(a, b), f"permutations of {n} and {m} scores"
    else:
        return Verdict(difference, improvement, None, "", _too_few(n, m, difference))
    return Verdict(difference, improvement, p, test, _sentence(difference, p, test))


def _too_few(n: int, m: int, difference: Estimate) -> str:
    seen = f"B - A is {number(difference.value)} {bounds(difference.low, difference.high)}".rstrip()
    if min(n, m) == 1:
        return f"{seen}, but a single run is too few to tell it from noise. Run at least 4 seeds of each."
    least = statistics.smallest_p(n, m)
    return (
        f"{seen}, but n = {n} and {m} runs are too few to tell it from noise: even the clearest outcome has "
        f"p = {least:.2g}. Run at least 4 seeds of each."
    )


def _sentence(difference: Estimate, p: float, test: str) -> str:
    side = "above" if difference.value > 0 else "below"
    size, interval = number(abs(difference.value)), bounds(difference.low, difference.high)
    if p < ALPHA:
        return f"B is {side} A by {size}, more than noise: p = {p:.2g} ({test}); B - A lies in {interval} (95 %)."
    unlike = difference.low > 0 or difference.high < 0
    caution = ", without 0 but too narrow for so few runs: run more seeds" if unlike else ""
    return f"Not told from noise: p = {p:.2g} ({test}); the 95 % bootstrap interval of B - A is {interval}{caution}."
