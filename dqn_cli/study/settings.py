"""The settings of `dqn-report` and `dqn-compare`, with their ranges and meanings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dqn_cli.config import knob


class Score(StrEnum):
    """The column of metrics.csv that stands for a policy's quality."""

    auto = "auto"
    eval_return_mean = "eval_return_mean"
    return_mean = "return_mean"


class Aggregate(StrEnum):
    """How the runs of a configuration become one number."""

    mean = "mean"
    iqm = "iqm"


@dataclass
class ReportConfig:
    """Tables, curves and a page from run folders (`dqn-report`)."""

    out: str = knob("report", "folder for index.html, figures/ and tables/; its files are replaced")
    metric: Score = knob(Score.auto, "eval_return_mean or return_mean; auto: evaluations, if each run has three")
    aggregate: Aggregate = knob(Aggregate.mean, "mean or iqm (interquartile mean) of the runs, in curves and tables")
    by: str | None = knob(None, "settings that make a configuration, a,b,c; null: all that differ")
    threshold: str | None = knob(
        None, "for sample efficiency: a return, or ENV:return,ENV:return; null: the known ones"
    )
    unfinished: bool = knob(False, "count runs that have not finished too")
    env: str | None = knob(None, "environment of TensorBoard runs that do not tell theirs")
    reps: int = knob(2_000, "resamples of the bootstrap behind every interval", ge=100, le=100_000)
    video_mb: int = knob(8, "videos up to this size, all together, go into the page; others are linked", ge=0, le=500)


@dataclass
class CompareConfig:
    """Two runs, or two folders of runs, against each other (`dqn-compare`)."""

    metric: Score = knob(Score.auto, "eval_return_mean or return_mean; auto: evaluations, if each run has three")
    aggregate: Aggregate = knob(Aggregate.mean, "mean or iqm, of the runs in the picture")
    unfinished: bool = knob(False, "count runs that have not finished too")
    env: str | None = knob(None, "environment of TensorBoard runs that do not tell theirs")
    reps: int = knob(10_000, "resamples of the bootstrap behind every interval", ge=100, le=100_000)
    a: str | None = knob(None, "where A holds several configurations: which, as dqn-report names it")
    b: str | None = knob(None, "the same of B; a single folder can be both sides")
    plot: str | None = knob(None, "FILE.png or .svg: draw both curves; replaces the file")
