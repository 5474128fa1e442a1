"""The report as one HTML page that needs nothing else: no network, no scripts; light and dark as the reader has it."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import dqn_cli
from dqn_cli.envs.atari_scores import SOURCE
from dqn_cli.errors import CheckpointError
from dqn_cli.files import read_bytes
from dqn_cli.study import canvas, tables
from dqn_cli.study.canvas import Picture
from dqn_cli.study.groups import Study
from dqn_cli.study.runs import Run
from dqn_cli.study.settings import Aggregate
from dqn_cli.study.summary import FINAL_SHARE, Row, Summary
from dqn_cli.study.tables import Table
from dqn_cli.study.texts import number, plural
from dqn_cli.training.metrics import Metric

# of the canvas, in the order of its COLORS, for a dark page
DARK = ("#62aef5", "#ff9055", "#3ccb9b", "#f08ccb", "#b7a2ff", "#dcb843", "#55d2e8", "#b9b9c4")
MEDIA = {b"ftyp": "video/mp4", b"\x1a\x45\xdf\xa3": "video/webm", b"GIF8": "image/gif"}
_NAMED = re.compile(r'(\bid="|url\(#|href="#)')

_CSS = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f7f8fa; --ink: #1b1d21; --muted: #5c6069; --line: #dcdee3;
  --link: #0b57a0; %(light)s }
@media (prefers-color-scheme: dark) { :root { --back: #15171b; --card: #1d2026; --ink: #e8e9ec; --muted: #a3a8b3;
  --line: #363a43; --link: #8cc1ff; %(dark)s } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1280px; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1.2rem;
  overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem }
p, li { max-width: 72ch }
a { color: var(--link) }
nav a { margin-right: 1rem; white-space: nowrap }
.muted, figcaption { color: var(--muted); font-size: .85rem }
.wide { overflow-x: auto; margin: .5rem 0 1rem }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap }
th { font-weight: 600; vertical-align: bottom }
th.text, td.text { text-align: left }
td.long { white-space: normal; min-width: min(16rem, 55vw); overflow-wrap: anywhere;
  font: .78rem ui-monospace, monospace }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%%, 430px), 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px }
figure svg, figure video, figure img { display: block; width: 100%%; max-width: 600px; height: auto; margin: 0 auto }
@media (max-width: 600px) { body { padding: .5rem } figure { padding: .35rem } }
details { margin: .6rem 0 } summary { cursor: pointer }
.warn { border-left: 3px solid #cf5010; padding-left: .8rem }
"""


def page(
    study: Study,
    summary: Summary,
    pictures: Sequence[Picture],
    aggregate: Aggregate,
    reps: int,
    command: str,
    out: Path,
    video_bytes: int,
) -> str:
    """The whole page; `command` is what made it, `out` the folder that it will lie in."""
    parts = [_head(study, summary, command)]
    of_all = [picture for picture in pictures if picture.env is None]
    if of_all:
        parts.append('<h2 id="all">All configurations</h2>')
        parts.append(_figures(of_all))
    videos = _Videos(out, video_bytes)
    for i, (env, rows) in enumerate(summary.rows.items()):
        parts.append(f'<h2 id="env{i + 1}">{_text(env)}</h2>')
        parts.append(f'<p class="muted">Score: {_text(_score(study, env))}.</p>')
        parts.append(f"<p>{_text(tables.sentence(rows))}</p>")
        parts.append(_table(tables.results(rows, summary.thresholds.get(env))))
        parts.append(_figures([each for each in pictures if each.env == env], videos.of(rows)))
        differing = tables.settings(study, env)
        if differing.rows:
            count = plural(len(differing.rows), "setting")
            parts.append(f"<details><summary>{count} that differ between these configurations</summary>")
            parts.append(f"{_table(differing)}</details>")
    parts.append(_end(study, summary, aggregate, reps, command))
    return _document(parts)


def _document(parts: Iterable[str]) -> str:
    light, dark = (" ".join(f"--c{i}: {color};" for i, color in enumerate(colors)) for colors in (canvas.COLORS, DARK))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self'; media-src data: 'self'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>Report of dqn-cli</title>",
            f"<style>{_CSS % {'light': light, 'dark': dark}}</style></head><body>",
            *parts,
            "</body></html>\n",
        ]
    )


def _head(study: Study, summary: Summary, command: str) -> str:
    counted = sum(group.n for groups in study.envs.values() for group in groups)
    what = (
        f"{plural(counted, 'run')} of {plural(len(study.labels), 'configuration')} in "
        f"{plural(len(study.envs), 'environment')}"
    )
    links = ['<a href="#all">All configurations</a>'] * bool(summary.profiles or summary.improvements)
    links += [f'<a href="#env{i + 1}">{_text(env)}</a>' for i, env in enumerate(study.envs)]
    links += ['<a href="#runs">Runs and commands</a>', '<a href="#method">Method</a>']
    parts = [
        f"<h1>{what}</h1>",
        f'<p class="muted">Made by <code>{_text(command)}</code></p>',
        f"<nav>{' '.join(links)}</nav>",
    ]
    if study.left_out:
        parts.append(f'<h3>Not counted: {plural(len(study.left_out), "run")}</h3><div class="warn">')
        parts.append(f"{_table(tables.left_out(study))}</div>")
    if summary.notes:
        parts.append("<ul>" + "".join(f"<li>{_text(note)}</li>" for note in summary.notes) + "</ul>")
    return "\n".join(parts)


def _score(study: Study, env: str) -> str:
    metric = Metric(study.envs[env][0].metric)  # type: ignore[call-arg]
    return f"{metric}, the {metric.text}"


def _end(study: Study, summary: Summary, aggregate: Aggregate, reps: int, command: str) -> str:
    center = "interquartile mean" if aggregate is Aggregate.iqm else "mean"
    thresholds = ", ".join(f"{env} {value:g}" for env, value in summary.thresholds.items())
    method = [
        f"A final return is the mean over the last {FINAL_SHARE:.0%} of a run's steps, the mean over steps the area "
        f"under its curve divided by its length. Over runs both are told by their {center}.",
        f"Intervals are 95 % percentile intervals of a stratified bootstrap over runs ({reps:,} resamples; curves and "
        "profiles 2,000): runs are drawn anew within each environment. The estimators are those of Agarwal et al. 2021 "
        "(Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv 2108.13264) and agree with "
        "rliable's. They say how far other seeds may come out, not other environments or settings, and below about "
        "five runs they are too narrow.",
        "Curves are compared where all runs of a configuration have points: at their own steps where these are the "
        "same, else on straight lines between them.",
        f"Steps to a return are first crossings: {thresholds}. Where nothing was asked for, the returns are those from "
        "which on Gymnasium's registry calls an environment solved."
        if thresholds
        else "No return is known from which on these environments are solved; threshold= names one.",
        f"The {summary.scale} is what is compared over all environments." if len(summary.rows) > 1 else "",
        f"Percentages of a human are 100 (score - random) / (human - random), by {SOURCE}: games of up to half an hour "
        "after up to 30 no-ops, which the runs' own rules need not be."
        if any(row.human is not None for rows in summary.rows.values() for row in rows)
        else "",
        "Runs that failed or have not finished are not counted where others of their configuration have.",
    ]
    return "\n".join(
        [
            '<h2 id="runs">Runs and commands</h2>',
            f"<details><summary>{plural(len(study.runs), 'run')}</summary>{_table(tables.commands(study))}</details>",
            "<h3>Versions and machines</h3>",
            _table(tables.versions(study)),
            '<h2 id="method">Method</h2>',
            *(f"<p>{_text(text)}</p>" for text in method if text),
            f'<p class="muted">dqn-cli {_text(dqn_cli.__version__)}. Every number is in tables/, every picture in '
            "figures/ beside this page.</p>",
        ]
    )


def _figures(pictures: Iterable[Picture], more: Iterable[str] = ()) -> str:
    figures = [
        f'<figure role="img" aria-label="{_text(picture.title)}">{inline(picture)}'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
        for picture in pictures
    ]
    return "\n".join(['<div class="figures">', *figures, *more, "</div>"])


def inline(picture: Picture) -> str:
    """The picture's SVG as a part of a page: its colors are the page's, its names nobody else's."""
    svg = picture.svg[picture.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", picture.name)
    svg = _NAMED.sub(rf"\g<1>{prefix}-", svg)
    named = {color: f"var(--c{i})" for i, color in enumerate(canvas.COLORS)}
    named |= {canvas.INK: "var(--ink)", canvas.MUTED: "var(--muted)", canvas.GRID: "var(--line)"}
    return re.sub("|".join(named), lambda match: named[match[0]], svg)


class _Videos:
    """Films of the best runs, inside of the page as long as there is room for them."""

    def __init__(self, out: Path, room: int) -> None:
        self._out, self._room = out, room

    def of(self, rows: Sequence[Row]) -> list[str]:
        """A figure for the best run of each configuration that has a film."""
        found = []
        for row in rows:
            filmed = [(score, run) for score, run in zip(row.final, row.group.runs, strict=True) if run.videos]
            if filmed:
                score, run = max(filmed, key=lambda pair: float(pair[0]))
                found.append(self._figure(run, f"{row.group.label}: {_who(run)}, final return {number(float(score))}"))
        return [figure for figure in found if figure]

    def _figure(self, run: Run, caption: str) -> str:
        path = run.videos[0]
        try:
            if path.stat().st_size > self._room:
                link = quote(os.path.relpath(path, self._out))
                return f'<figure><figcaption>{_text(caption)}: <a href="{_text(link)}">film</a></figcaption></figure>'
            data = read_bytes(path, self._room)
        except (OSError, CheckpointError):
            return ""
        kind = next((kind for magic, kind in MEDIA.items() if magic in data[:8]), None)
        if kind is None:
            return ""
        self._room -= len(data)
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        shown = (
            f'<img src="{source}" alt="film">'
            if kind == "image/gif"
            else f'<video controls muted loop src="{source}"></video>'
        )
        return f"<figure>{shown}<figcaption>{_text(caption)}</figcaption></figure>"


def _who(run: Run) -> str:
    return run.folder.name if run.seed is None else f"seed {run.seed}"


LONG = 48  # letters, from which on a cell may break


def _table(table: Table) -> str:
    def cell(tag: str, i: int, text: str) -> str:
        kinds = ["text"] * (i < table.text) + ["long"] * (len(text) > LONG)
        attribute = f' class="{" ".join(kinds)}"' if kinds else ""
        return f"<{tag}{attribute}>{_text(text)}</{tag}>"

    head = "".join(cell("th", i, text) for i, text in enumerate(table.head))
    rows = ("".join(cell("td", i, text) for i, text in enumerate(row)) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _text(text: str) -> str:
    """Text as HTML; what is no text at all, such as half a letter of a folder's name, is shown as it is written."""
    escaped = html.escape(text.encode("utf-8", "backslashreplace").decode())
    return re.sub(r"(?<=\d) %", "&nbsp;%", escaped)
