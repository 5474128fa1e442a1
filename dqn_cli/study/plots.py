"""The pictures of a report, each with its axes, units, numbers of runs and intervals on it, so that it stands alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from dqn_cli.study.canvas import (
    BOTTOM,
    COLORS,
    LEGEND_ROW,
    MUTED,
    WIDTH,
    Pen,
    Picture,
    bar,
    canvas,
    draw,
    finish,
    legend,
    legend_height,
    panels,
    picture,
)
from dqn_cli.study.groups import Group, Study
from dqn_cli.study.series import Series
from dqn_cli.study.settings import Aggregate
from dqn_cli.study.summary import CURVE_REPS, FINAL_SHARE, Row, Summary, middle
from dqn_cli.study.texts import plural
from dqn_cli.training.metrics import Metric

SHOWN = 12  # configurations in a picture
THIN_LINES = 30  # single runs in a picture
MAX_BARS = 28  # pairs of configurations in a picture
SCORES: dict[str, str] = {
    Metric.EVAL_RETURN_MEAN: "mean return of evaluation episodes",
    Metric.RETURN_MEAN: "return of the last 100 training episodes",
}


def pictures(study: Study, summary: Summary, aggregate: Aggregate) -> Iterator[Picture]:
    """Every picture of a report, one after the other."""
    pen = Pen(study.labels, aggregate)
    if summary.overall:
        yield _overall(summary, pen)
    for i, (env, rows) in enumerate(summary.rows.items()):
        name = f"{i + 1:02d}_{_file(env)}"
        shown = _best(rows)
        left = "" if len(shown) == len(rows) else f" The {len(shown)} best of {len(rows)} configurations are drawn."
        groups = [row.group for row in shown]
        yield _learning(f"curve_{name}", shown, pen, left)
        if any(row.reached is not None and np.isfinite(row.reached).any() for row in shown):
            yield _sample_efficiency(f"threshold_{name}", shown, summary.thresholds[env], pen, left)
        if _any_has(groups, Metric.SECONDS):
            yield _wall_clock(f"wall_clock_{name}", groups, pen, left)
        if _any_has(groups, Metric.VALUE_ESTIMATE, 2):
            yield _overestimation(f"values_{name}", groups, pen, left)
    if summary.profiles:
        yield _profiles(summary, pen)
    if summary.improvements:
        yield _improvements(summary)


def two(rows: Sequence[Row], aggregate: Aggregate) -> Picture:
    """The curves of two folders of runs against each other."""
    return _learning("curve", rows, Pen([row.group.label for row in rows], aggregate), "")


def _file(env: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in env)[:60]


def _best(rows: Sequence[Row]) -> list[Row]:
    """As many as a picture can show, in their order."""
    best = {id(row) for row in sorted(rows, key=lambda row: -row.area_estimate.value)[:SHOWN]}
    return [row for row in rows if id(row) in best]


def _any_has(groups: Sequence[Group], metric: Metric, points: int = 1) -> bool:
    return any(
        metric in run.series and len(run.series[metric].steps) >= points for group in groups for run in group.runs
    )


def _legend(group: Group, n: int) -> str:
    return f"{group.label} (n = {n}{', unfinished' if group.so_far else ''})"


def _learning(name: str, rows: Sequence[Row], pen: Pen, more: str) -> Picture:
    groups = [row.group for row in rows]
    title, score = f"{groups[0].env}: learning curve", SCORES[groups[0].metric]
    thin = sum(group.n for group in groups) <= THIN_LINES
    with canvas(title, [_legend(group, group.n) for group in groups]) as (figure, axes):
        for row in rows:
            group, look = row.group, pen.look(row.group.label)
            for run in group.runs if thin and group.n > 1 else []:
                curve = run.series[group.metric]
                axes.plot(curve.steps, curve.values, linewidth=0.6, alpha=0.35, color=look["color"])
            draw(axes, row.curve, look, _legend(group, group.n))
        note = f"thick: {pen.center} of n runs; bands: 95 % bootstrap intervals{'; thin: single runs' if thin else ''}"
        finish(figure, axes, _steps(groups), score, note)
        caption = (
            f"{_sentence(score)}. Thick lines are the {pen.center} of n runs, as far as all of them have come"
            f"{', thin ones the runs' if thin else ''}; bands are pointwise 95 % stratified bootstrap intervals "
            f"({CURVE_REPS:,} resamples of whole runs).{more}{_few(groups)}"
        )
        return picture(figure, name, title, caption, groups[0].env)


def _wall_clock(name: str, groups: Sequence[Group], pen: Pen, more: str) -> Picture:
    title = f"{groups[0].env}: wall-clock time"
    timed = {
        group.label: [curve for run in group.runs if (curve := _over_time(run.series, group.metric)) is not None]
        for group in groups
    }
    longest = max((curve.steps[-1] for curves in timed.values() for curve in curves), default=0.0)
    unit, size = ("hours", 3600.0) if longest > 7200 else ("minutes", 60.0) if longest > 300 else ("seconds", 1.0)
    with canvas(title, [_legend(group, group.n) for group in groups]) as (figure, axes):
        for group in groups:
            if curves := [Series(curve.steps / size, curve.values) for curve in timed[group.label]]:
                draw(axes, pen.band(curves), pen.look(group.label), _legend(group, len(curves)))
        note = f"lines: {pen.center} of n runs; bands: 95 % bootstrap intervals"
        finish(figure, axes, f"wall time in {unit}, evaluations included", SCORES[groups[0].metric], note)
        caption = (
            "The same over wall time by each run's own clock: the machine and what else it did are part of it. "
            "Lines are "
            f"the {pen.center} of n runs and end where the first of them did; bands are 95 % bootstrap intervals."
            f"{more}{_few(groups)}"
        )
        return picture(figure, name, title, caption, groups[0].env)


def _over_time(series: Mapping[str, Series], metric: str) -> Series | None:
    """A run's scores over seconds."""
    if Metric.SECONDS not in series:
        return None
    clock, scores = series[Metric.SECONDS], series[metric]
    known = np.maximum.accumulate(np.append(0.0, clock.values))
    seconds = np.interp(scores.steps, np.append(0.0, clock.steps), known)
    later = np.append(True, np.diff(seconds) > 0)
    return Series(seconds[later], scores.values[later])


def _sample_efficiency(name: str, rows: Sequence[Row], threshold: float, pen: Pen, more: str) -> Picture:
    group = rows[0].group
    title = f"{group.env}: steps to a return of {threshold:g}"
    with canvas(title, [_legend(row.group, row.group.n) for row in rows]) as (figure, axes):
        for row in rows:
            assert row.reached is not None
            end = max(run.series[row.group.metric].steps[-1] for run in row.group.runs)
            came = np.sort(row.reached[np.isfinite(row.reached)])
            x = np.concatenate([[0.0], came, [end]])
            y = np.concatenate([[0.0], np.arange(1, len(came) + 1), [len(came)]]) / row.group.n
            label = f"{row.group.label} ({len(came)} of {row.group.n})"
            axes.step(x, y, where="post", label=label, **pen.look(row.group.label))
        axes.set_ylim(-0.03, 1.05)
        note = f"a run counts from the first point of its curve on that is {threshold:g} or more"
        finish(figure, axes, _steps([row.group for row in rows]), "share of the n runs that came there", note)
        caption = (
            f"After how many steps a run's curve ({SCORES[group.metric]}) is first at {threshold:g} or "
            "above. Where "
            f"a line stays below 1, the other runs never came there. Every run is counted: there is no interval.{more}"
        )
        return picture(figure, name, title, caption, group.env)


def _overestimation(name: str, groups: Sequence[Group], pen: Pen, more: str) -> Picture:
    title = f"{groups[0].env}: value estimates and returns"
    with canvas(title, [_legend(group, group.n) for group in groups]) as (figure, axes):
        for group in groups:
            look = {**pen.look(group.label), "linestyle": "-"}
            having = [run for run in group.runs if {Metric.VALUE_ESTIMATE, Metric.VALUE_RETURN} <= run.series.keys()]
            if not having:
                continue
            estimates = pen.band([run.series[Metric.VALUE_ESTIMATE] for run in having])
            draw(axes, estimates, look, _legend(group, len(having)))
            if (true := middle([run.series[Metric.VALUE_RETURN] for run in having], pen.aggregate)) is not None:
                dots = "o" if len(true[0]) == 1 else ""
                axes.plot(
                    true[0], true[1], color=look["color"], linestyle=(0, (4, 2)), linewidth=1.2, marker=dots, mfc="none"
                )
        note = "solid: max Q, with 95 % bootstrap bands; dashed (hollow): the return that followed"
        finish(figure, axes, _steps(groups), "discounted return from a state on", note)
        caption = (
            "Solid lines are max Q(s, a), dashed ones the discounted return that followed; both are means over "
            "the states of "
            f"the evaluation episodes and then the {pen.center} of n runs (van Hasselt et al. 2016, figure 3). "
            "A solid line "
            f"above its dashed one overestimates. Bands are 95 % bootstrap intervals.{more}{_few(groups)}"
        )
        return picture(figure, name, title, caption, groups[0].env)


def _overall(summary: Summary, pen: Pen) -> Picture:
    title = "All environments together"
    names, shown = list(summary.overall[0].estimates), summary.overall[:SHOWN][::-1]
    below = legend_height([f"{each.label} (n = {each.runs})" for each in shown]) + LEGEND_ROW
    size = (WIDTH, 1.6 + 0.36 * len(shown) + BOTTOM + below)
    with panels(title, size, (2, 2), left=0.2, bottom=BOTTOM + below - 0.1) as (figure, all_axes):
        for axes, name in zip(all_axes, names, strict=True):
            for y, overall in enumerate(shown):
                label = f"{overall.label} (n = {overall.runs})"
                bar(axes, y, overall.estimates[name], pen.look(overall.label)["color"], label)
            axes.set_title(name, fontsize=9.5)
            axes.set_ylim(-0.6, len(shown) - 0.4)
            axes.use_sticky_edges = False
            axes.margins(x=0.08)
            axes.grid(axis="y", visible=False)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_yticks([])
        note = f"{summary.scale};\nbars: 95 % stratified bootstrap intervals, from top to bottom:"
        legend(figure, all_axes[0], note, backwards=True)
        few = "" if len(shown) == len(summary.overall) else f" The first {SHOWN} of {len(summary.overall)} are drawn."
        caption = (
            f"The {summary.scale} over all {len(summary.rows)} environments. IQM is the mean of the middle half of all "
            "runs; the optimality gap says by how much runs stay below 1 on average: less is better. n counts the runs "
            f"of all environments. Bars are 95 % stratified bootstrap intervals.{few}"
        )
        return picture(figure, "all_aggregates", title, caption)


def _profiles(summary: Summary, pen: Pen) -> Picture:
    title = "Performance profile"
    shown = summary.profiles[:SHOWN]
    with canvas(title, [f"{profile.label} (n = {profile.runs})" for profile in shown]) as (figure, axes):
        for profile in shown:
            band = (profile.tau, profile.share, profile.low, profile.high)
            draw(axes, band, pen.look(profile.label), f"{profile.label} (n = {profile.runs})")
        axes.set_ylim(-0.03, 1.05)
        finish(figure, axes, summary.scale, "share of runs above", "bands: 95 % stratified bootstrap intervals")
        axes.xaxis.label.set_fontsize(8.5 if len(summary.scale) < 60 else 7.5)
        few = "" if len(shown) == len(summary.profiles) else f" The first {SHOWN} of {len(summary.profiles)} are drawn."
        caption = (
            f"Share of runs whose {summary.scale} is above a value, over {plural(shown[0].envs, 'environment')} "
            "of equal "
            f"weight: higher is better. A final score is the mean over the last {FINAL_SHARE:.0%} of a run's "
            "steps. Bands "
            f"are 95 % stratified bootstrap intervals.{few}"
        )
        return picture(figure, "all_profile", title, caption)


def _improvements(summary: Summary) -> Picture:
    title = "Probability of improvement"
    found = summary.improvements[:MAX_BARS][::-1]
    with panels(title, (WIDTH, 1.0 + 0.46 * len(found)), left=0.2) as (figure, (axes,)):
        for y, each in enumerate(found):
            bar(axes, y - 0.12, each.estimate, COLORS[0])
            axes.vlines(0.5, y - 0.42, y + 0.18, color=MUTED, linewidth=1)
            text = f"{each.better}  over  {each.than}  (n = {each.runs[0]}, {each.runs[1]})"
            axes.text(0.0, y + 0.2, text, fontsize=8 if len(text) < 75 else 6.5, va="bottom")
        axes.set_yticks([])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(found) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("probability that a run is above; bars: 95 % bootstrap intervals", fontsize=8.5)
        caption = (
            "How probable it is that a run of the first configuration ends above one of the second, on average over "
            "the environments that both were run in; a tie counts half. Bars are 95 % stratified bootstrap intervals: "
            "one that holds 0.5 leaves open which is better."
        )
        return picture(figure, "all_improvement", title, caption)


def _few(groups: Sequence[Group]) -> str:
    if min((group.n for group in groups), default=0) >= 5:
        return ""
    return " With fewer than five runs these intervals are too narrow; a single run has none."


def _steps(groups: Sequence[Group]) -> str:
    """The name of the axis, with the emulator's frames where a step has the same number of them everywhere."""
    skips = {run.frame_skip for group in groups for run in group.runs}
    frames = f" of {skips.pop()} frames" if len(skips) == 1 and None not in skips else ""
    return f"steps (agent decisions{frames})"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
