"""Pens and paper of the pictures: colors, axes, bands, legends, and what becomes of them as SVG and PNG.

Drawn without pyplot, which would look for a screen, and with fixed margins: matplotlib's own layouts draw everything
twice. The same picture gives the same bytes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dqn_cli.study.series import Series
from dqn_cli.study.settings import Aggregate
from dqn_cli.study.statistics import Estimate
from dqn_cli.study.summary import Band, band

# told apart on white and, exchanged one by one by the page, on black; red-green blindness included
COLORS = ("#0b66b8", "#cf5010", "#008a5e", "#b8438f", "#7a5cc7", "#8a6a00", "#0e839b", "#5d5d69")
INK, MUTED, GRID = "#1b1d21", "#5c6069", "#dcdee3"
STYLES = ("-", "--", ":", "-.")
WIDTH, HEIGHT, LEGEND_ROW = 5.0, 3.3, 0.19  # inches; of a pair of axes with its labels, and of a line below
LEFT, RIGHT, TOP, BOTTOM = 0.68, 0.12, 0.36, 0.52
_STYLE: Any = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "text.parse_math": False,  # a name may hold any letter
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Picture:
    """A drawn picture: file name without ending, title, a caption for the page, the files, and whose it is."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    env: str | None = None


@dataclass(frozen=True)
class Pen:
    """Draws for one report: which color and line a configuration has, everywhere the same."""

    labels: Sequence[str]
    aggregate: Aggregate

    @property
    def center(self) -> str:
        """What a thick line is."""
        return "interquartile mean" if self.aggregate is Aggregate.iqm else "mean"

    def look(self, label: str) -> dict[str, Any]:
        """Color and line of a configuration."""
        position = self.labels.index(label)
        return {"color": COLORS[position % len(COLORS)], "linestyle": STYLES[position // len(COLORS) % len(STYLES)]}

    def band(self, curves: Sequence[Series]) -> Band | None:
        """What curves come to."""
        return band(curves, self.aggregate)


@contextmanager
def canvas(title: str, labels: Sequence[str]) -> Iterator[tuple[Figure, Axes]]:
    """One pair of axes, with room below for a legend of such labels and its title."""
    below = legend_height(labels)
    with panels(title, (WIDTH, HEIGHT + below), bottom=BOTTOM + below) as (figure, (axes,)):
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(FuncFormatter(short))
        yield figure, axes


@contextmanager
def panels(
    title: str, size: tuple[float, float], grid: tuple[int, int] = (1, 1), left: float = LEFT, bottom: float = BOTTOM
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Rows and columns of axes on a paper of `size` inches, with margins in inches."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure = Figure(figsize=size)
        width, height = size
        found = figure.subplots(*grid, squeeze=False).ravel()
        top = TOP + 0.22 * (len(found) > 1)
        gap = 0.55 * grid[0] / (height - top - bottom - 0.55 * (grid[0] - 1))  # as a share of the axes' height
        figure.subplots_adjust(left / width, bottom / height, 1 - RIGHT / width, 1 - top / height, 0.14, gap)
        head = title if len(title) <= 60 else f"{title[:57]}..."
        figure.text(0.1 / width, 1 - 0.08 / height, head, va="top", fontweight="bold")
        yield figure, list(found)


def draw(axes: Axes, band: Band | None, look: Mapping[str, Any], label: str) -> None:
    """A line and its band, where there is one; a dot where the line is a point."""
    if band is None:
        return
    x, value, low, high = band
    axes.plot(x, value, label=label, marker="o" if len(x) == 1 else "", markersize=4, **look)
    if not np.isnan(low).any():
        axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)


def bar(axes: Axes, y: float, found: Estimate, color: str, label: str = "") -> None:
    """An estimate as a tick in the bar of its interval."""
    if not np.isnan(found.low):
        axes.barh(y, found.high - found.low, left=found.low, height=0.5, color=color, alpha=0.35, linewidth=0)
    axes.plot([found.value, found.value], [y - 0.25, y + 0.25], color=color, label=label)


def finish(figure: Figure, axes: Axes, x: str, y: str, note: str) -> None:
    """Names of the axes, and the legend below."""
    axes.set_xlabel(x, fontsize=9.5 if len(x) < 60 else 7.5)
    axes.set_ylabel(y, fontsize=9.5 if len(y) < 40 else 8.5)
    handles, _ = axes.get_legend_handles_labels()
    if not handles:
        axes.text(0.5, 0.5, "the runs have no steps in common", transform=axes.transAxes, ha="center", color=MUTED)
    legend(figure, axes, note)


def legend(figure: Figure, axes: Axes, note: str, backwards: bool = False) -> None:
    """What is drawn, at the lower edge, and over it what lines and bands are."""
    handles, labels = axes.get_legend_handles_labels()
    if backwards:
        handles, labels = handles[::-1], labels[::-1]
    columns = _columns(labels)
    below = figure.legend(handles, labels, loc="lower left", title=note, alignment="left", borderpad=0.2, ncols=columns)
    below.get_title().set_fontsize(8)
    below.get_title().set_color(MUTED)


def legend_height(labels: Sequence[str]) -> float:
    """Room for a legend with these labels and a line above, in inches."""
    return LEGEND_ROW * (math.ceil(len(labels) / _columns(labels)) + 1) + 0.1


def _columns(labels: Sequence[str]) -> int:
    """Two where there are many labels and they are short."""
    return 2 if len(labels) > 4 and max(map(len, labels)) <= 34 else 1


def picture(figure: Figure, name: str, title: str, caption: str, env: str | None = None) -> Picture:
    """The paper as files."""
    text, raster = BytesIO(), BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # names of parts are not the same in two pictures of a page
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    figure.savefig(raster, format="png", dpi=150, metadata={"Software": None}, facecolor="white")
    return Picture(name, title, caption, text.getvalue().decode(), raster.getvalue(), env)


def short(value: float, _: object = None) -> str:
    """1,500 as 1.5k, so that ticks do not touch."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.6g}"
