"""The numbers of a study: for each configuration, between configurations, and over all environments together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import numpy as np

from dqn_cli.envs import atari_scores
from dqn_cli.envs.atari_scores import Reference
from dqn_cli.errors import ConfigError
from dqn_cli.study import statistics
from dqn_cli.study.groups import Group, Study
from dqn_cli.study.series import Floats, Series, common_points
from dqn_cli.study.settings import Aggregate
from dqn_cli.study.statistics import Estimate, Tasks, estimate
from dqn_cli.study.texts import clean
from dqn_cli.training.metrics import Metric

FINAL_SHARE = 0.1  # of a run's steps, that its final score is the mean over
MAX_PAIRS = 28
MAX_NOTES = 5  # of damaged files
Band = tuple[Floats, Floats, Floats, Floats]  # x, value, low, high
PROFILE_POINTS = 101
CURVE_REPS = 2_000  # of bands, for which more cannot be seen
_GAME = re.compile(r"(?:ALE/)?(?P<game>[A-Za-z]+?)(?:NoFrameskip|Deterministic)?-v[0-9]+")


@dataclass(frozen=True, eq=False)
class Row:
    """What a configuration came to in an environment.

    `final [n]` and `area [n]` are its runs' scores; `reached [n]` the steps at which they came to the threshold,
    infinity for never; `human` is the final score as a percentage of a human's, None where nobody measured one;
    `values` the last value estimate and the return that followed, mean over runs.
    """

    group: Group
    final: Floats
    area: Floats
    final_estimate: Estimate
    area_estimate: Estimate
    human: Estimate | None = None
    reached: Floats | None = None
    seconds: float = np.nan
    curve: Band | None = None
    values: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Improvement:
    """How probable it is that a run of `better` beats one of `than`, over `envs` environments."""

    better: str
    than: str
    envs: int
    runs: tuple[int, int]
    estimate: Estimate


@dataclass(frozen=True, eq=False)
class Profile:
    """Share of runs with a score above `tau [T]`, of `runs` in `envs` environments."""

    label: str
    envs: int
    runs: int
    tau: Floats
    share: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Overall:
    """Aggregates of a configuration's normalized scores over all environments."""

    label: str
    runs: int
    estimates: dict[str, Estimate]


@dataclass
class Summary:
    """All numbers of a report; `scale` says what the normalized scores of `profiles` and `overall` are."""

    rows: dict[str, list[Row]]
    thresholds: dict[str, float]
    improvements: list[Improvement] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    overall: list[Overall] = field(default_factory=list)
    scale: str = ""
    notes: list[str] = field(default_factory=list)


def summarize(study: Study, aggregate: Aggregate, threshold: str | None, reps: int) -> Summary:
    """Every number of the report. Raises `ConfigError` for a threshold that is none."""
    thresholds = _thresholds(threshold, list(study.envs))
    rows = {
        env: [row_of(group, aggregate, thresholds.get(env), reps) for group in groups]
        for env, groups in study.envs.items()
    }
    summary = Summary(rows, thresholds)
    _compare_all(summary, study.labels, reps)
    _over_all(summary, study.labels, reps)
    damaged = [f"{clean(str(run.folder), 4_096)}: {run.notes[0]}" for run in study.runs if run.notes]
    summary.notes += damaged[:MAX_NOTES]
    if len(damaged) > MAX_NOTES:
        summary.notes.append(f"damaged files in {len(damaged) - MAX_NOTES} more runs, see the page's table of runs")
    summary.notes += [note for groups in study.envs.values() for group in groups for note in _twice(group)]
    for env, groups in study.envs.items():
        ends = sorted({int(run.series[group.metric].steps[-1]) for group in groups for run in group.runs})
        if ends and ends[-1] > 1.1 * ends[0]:
            summary.notes.append(
                f"{env}: runs end between step {ends[0]:,} and {ends[-1]:,}; scores of unequal lengths are compared"
            )
    return summary


def _twice(group: Group) -> list[str]:
    """A note where a seed was run more than once: such runs may be the same one, and count as two."""
    times = Counter(run.seed for run in group.runs if run.seed is not None)
    again = sorted(seed for seed, count in times.items() if count > 1)
    if not again:
        return []
    seeds = ", ".join(map(str, again[:5])) + ", ..." * (len(again) > 5)
    return [f"{group.env}, {group.label}: more than one run of seed {seeds}"]


def reference(env: str) -> Reference | None:
    """What random play and a human score in an Atari game, by any of its ids; None for other environments."""
    match = _GAME.fullmatch(env)
    return atari_scores.REFERENCES.get(f"ALE/{match['game']}-v5") if match else None


def statistic(aggregate: Aggregate) -> statistics.Statistic:
    """The estimator that the setting `aggregate` names."""
    return statistics.iqm if aggregate is Aggregate.iqm else statistics.mean


def row_of(group: Group, aggregate: Aggregate, threshold: float | None, reps: int) -> Row:
    """What a configuration came to."""
    curves = [run.series[group.metric] for run in group.runs]
    final = np.array([curve.final(FINAL_SHARE) for curve in curves])
    area = np.array([curve.area() for curve in curves])
    how = statistic(aggregate)
    known = reference(group.env)
    seconds = [run.series[Metric.SECONDS].values[-1] for run in group.runs if Metric.SECONDS in run.series]
    return Row(
        group,
        final,
        area,
        estimate(how, [final], reps=reps),
        estimate(how, [area], reps=reps),
        None if known is None else estimate(how, [np.array([known.normalized(score) for score in final])], reps=reps),
        None if threshold is None else np.array([curve.reached(threshold) for curve in curves]),
        float(np.median(seconds)) if seconds else np.nan,
        band(curves, aggregate),
        _values(group),
    )


def band(curves: Sequence[Series], aggregate: Aggregate) -> Band | None:
    """What curves come to at their common points, with pointwise intervals; None where they have none."""
    x = common_points(curves)
    if not x.size:
        return None
    values = np.stack([curve.at(x) for curve in curves])
    return x, *statistics.curve(values, CURVE_REPS, robust=aggregate is Aggregate.iqm)


def middle(curves: Sequence[Series], aggregate: Aggregate) -> tuple[Floats, Floats] | None:
    """The same without intervals: x, value."""
    x = common_points(curves)
    if not x.size:
        return None
    values = np.stack([curve.at(x) for curve in curves], axis=-1)
    return x, statistics.trimmed(values) if aggregate is Aggregate.iqm else values.mean(-1)


def _values(group: Group) -> tuple[float, float] | None:
    both = (Metric.VALUE_ESTIMATE, Metric.VALUE_RETURN)
    last = [[run.series[m].values[-1] for m in both] for run in group.runs if {*both} <= run.series.keys()]
    if not last:
        return None
    estimated, seen = np.mean(last, axis=0)
    return float(estimated), float(seen)


def _thresholds(text: str | None, envs: Sequence[str]) -> dict[str, float]:
    """The return that counts as reached, by environment."""
    if text is None:
        return {env: value for env in envs if (value := _registered(env)) is not None}
    found: dict[str, float] = {}
    for part in text.split(","):
        env, colon, digits = part.strip().rpartition(":")
        try:
            value = float(digits)
        except ValueError:
            raise ConfigError(f"threshold={clean(part)} is not a number; write 475, or CartPole-v1:475") from None
        if not np.isfinite(value):
            raise ConfigError(f"threshold={clean(part)} cannot be reached; write a finite number")
        if colon and env not in envs:
            raise ConfigError(f"threshold={clean(part)} names no environment here; known: {', '.join(envs)}")
        found |= {env: value} if colon else dict.fromkeys(envs, value)
    return found


def _registered(env: str) -> float | None:
    """The return from which on Gymnasium's registry calls an environment solved."""
    from gymnasium.envs.registration import registry

    spec = registry.get(env)
    return None if spec is None else spec.reward_threshold


def _compare_all(summary: Summary, labels: Sequence[str], reps: int) -> None:
    """Fill in the improvements: of all pairs, or with many configurations of the best one over each other."""
    scores = {label: _final_scores(summary, label) for label in labels}
    pairs = list(combinations(labels, 2))
    if len(pairs) > MAX_PAIRS:
        best = max(labels, key=lambda label: _mean_rank(summary, label))
        pairs = [(best, label) for label in labels if label != best]
        summary.notes.append(f"{len(labels)} configurations: improvements are those of {best} over each other")
    for first, second in pairs:
        both = [env for env in scores[first] if env in scores[second]]
        if not both:
            continue
        x, y = ([scores[label][env] for env in both] for label in (first, second))
        better, than = (first, second), (x, y)
        if float(statistics.probability_of_improvement(x, y)) < 0.5:  # told from the side of the better one
            better, than = (second, first), (y, x)
        runs = (sum(map(len, than[0])), sum(map(len, than[1])))
        found = estimate(statistics.probability_of_improvement, *than, reps=reps)
        summary.improvements.append(Improvement(*better, len(both), runs, found))


def _final_scores(summary: Summary, label: str) -> dict[str, Floats]:
    return {env: row.final for env, rows in summary.rows.items() for row in rows if row.group.label == label}


def _mean_rank(summary: Summary, label: str) -> float:
    """Mean share of an environment's configurations that this one is not worse than."""
    shares = []
    for rows in summary.rows.values():
        own = [row.final_estimate.value for row in rows if row.group.label == label]
        shares += [np.mean([own[0] >= row.final_estimate.value for row in rows])] if own else []
    return float(np.mean(shares))


def _over_all(summary: Summary, labels: Sequence[str], reps: int) -> None:
    """Fill in profiles and, of several environments, aggregates of normalized scores."""
    several = len(summary.rows) > 1
    scale, scores = _normalized(summary) if several else ("final return", _raw(summary))
    whole = [label for label in labels if all(label in found for found in scores.values())]
    if not summary.rows:
        return
    if not whole:
        summary.notes.append("no configuration was run in all environments: nothing is aggregated over them")
        return
    summary.scale = scale
    tasks: dict[str, Tasks] = {label: [found[label] for found in scores.values()] for label in whole}
    lowest = min(float(one.min()) for each in tasks.values() for one in each)
    highest = max(float(one.max()) for each in tasks.values() for one in each)
    margin = 0.02 * (highest - lowest) or 1.0
    tau = np.linspace(lowest - margin, highest + margin, PROFILE_POINTS)
    for label in whole:
        share, low, high = statistics.interval(
            partial(statistics.profile, tau=tau), tasks[label], reps=min(reps, 2_000)
        )
        summary.profiles.append(Profile(label, len(scores), sum(map(len, tasks[label])), tau, share, low, high))
    if several:
        estimators = {
            "IQM": statistics.iqm,
            "mean": statistics.mean,
            "median": statistics.median,
            "optimality gap": statistics.optimality_gap,
        }
        for label in whole:
            found = {name: estimate(how, tasks[label], reps=reps) for name, how in estimators.items()}
            summary.overall.append(Overall(label, sum(map(len, tasks[label])), found))
        if len(whole) < len(labels):
            left = ", ".join(label for label in labels if label not in whole)
            summary.notes.append(f"not in every environment, so not aggregated over them: {clean(left)}")


def _raw(summary: Summary) -> dict[str, dict[str, Floats]]:
    return {env: {row.group.label: row.final for row in rows} for env, rows in summary.rows.items()}


def _normalized(summary: Summary) -> tuple[str, dict[str, dict[str, Floats]]]:
    """What the scale is, and final scores on it: a human's where all are Atari games, else from worst to best run."""
    raw = _raw(summary)
    known = {env: reference(env) for env in raw}
    scaled: dict[str, dict[str, Floats]] = {}
    for env, found in raw.items():
        if all(known.values()) and (human := known[env]) is not None:
            low, high = human.random, human.human
        else:
            low, high = (float(f(np.concatenate(list(found.values())))) for f in (np.min, np.max))
        scaled[env] = {label: (scores - low) / ((high - low) or 1.0) for label, scores in found.items()}
    if all(known.values()):
        return f"human-normalized final score (0 random, 1 human; {atari_scores.SOURCE})", scaled
    return "normalized final score (0 the worst, 1 the best run of an environment here)", scaled
