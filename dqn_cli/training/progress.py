"""The live view of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

DRAW_EVERY_S = 0.2
LINE_EVERY_S = 30.0
SPEED_OVER_S = 10.0
MIN_BAR, MAX_BAR = 8, 40
# what is shown, by metric; where the terminal is narrow, the last ones are left out
LABELS = {
    "return_mean": ("return", "{:,.1f}"),
    "eval_return_mean": ("eval", "{:,.1f}"),
    "epsilon": ("epsilon", "{:.3g}"),
    "loss": ("loss", "{:.3g}"),
}


class _Console(Console):
    """A console whose reader may go away, as `tee` does at Ctrl-C: the view ends then, and not the run."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Where a run is: steps (and `frame_skip` times as many frames), speed, time left, and the newest numbers."""

    def __init__(
        self,
        total_steps: int,
        frame_skip: int | None = None,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total_steps
        self._frame_skip = frame_skip
        self._console = console or _Console()
        self._clock = clock
        self._steps = 0
        self._view: dict[str, float] = {}
        self._samples = deque([(clock(), 0)])  # (time, steps) of the last seconds
        self._drawn_at, self._drawn_steps = clock(), 0
        self._evaluating_since: float | None = None
        self._evaluated = 0
        self._live: Live | None = None
        if self._console.is_interactive:
            self._live = Live(self, console=self._console, auto_refresh=False)
            self._live.start(refresh=True)

    def update(self, steps: int, **view: float) -> None:
        """Take the newest numbers, by their names in `LABELS`; those not given stay as they were. Draws when due."""
        if unknown := view.keys() - LABELS.keys():
            raise KeyError(f"no label for {', '.join(sorted(unknown))}")
        self._steps = steps
        self._view |= view
        now = self._clock()
        if self._live is not None:
            due = now - self._drawn_at >= DRAW_EVERY_S
        else:
            tenth = steps * 10 // self._total > self._drawn_steps * 10 // self._total
            due = tenth or now - self._drawn_at >= LINE_EVERY_S
        if due:
            self._draw(now)

    def go_on_from(self, steps: int) -> None:
        """A run that was resumed has come so far already; that is no part of the speed."""
        self._steps = self._drawn_steps = steps
        self._samples = deque([(self._clock(), steps)])

    def note(self, text: str) -> None:
        """Something that a person should read, above the view."""
        self._print(text)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """While an evaluation runs: the view says so at every `tick`, and the time does not count for the speed."""
        self._evaluating_since = begin = self._clock()
        self._drawn_at = begin
        try:
            yield
        finally:
            self._evaluating_since = None
            took = self._clock() - begin
            self._samples = deque((at + took, steps) for at, steps in self._samples)

    def tick(self, episodes: int) -> None:
        """So many episodes of the evaluation are through; draws when due."""
        self._evaluated = episodes
        now = self._clock()
        if now - self._drawn_at >= (LINE_EVERY_S if self._live is None else DRAW_EVERY_S):
            self._draw(now)

    def close(self) -> None:
        """Show the last state and leave the terminal as it was."""
        if self._live is None:
            if self._steps > self._drawn_steps:
                self._draw(self._clock())
        elif self._live.is_started:
            self._draw(self._clock())
            self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line that fits: the bar takes what the fields leave, and the last fields go first."""
        percent, *fields = [*self._fields(), *([self._frames] if self._frames else [])]
        room = options.max_width - MIN_BAR - 1 - len(percent)
        shown = percent
        for field in fields:
            room -= len(" | " + field)
            if room < 0:
                break
            shown += " | " + field
        bar = min(MAX_BAR, max(1, options.max_width - 1 - len(shown)))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(width=bar)
        line.add_column(no_wrap=True, overflow="crop")
        line.add_row(ProgressBar(self._total, min(self._steps, self._total), width=bar), Text(shown))
        yield line

    def _draw(self, now: float) -> None:
        self._drawn_at, self._drawn_steps = now, self._steps
        if self._evaluating_since is None:
            self._samples.append((now, self._steps))
        while len(self._samples) > 2 and self._samples[1][0] <= now - SPEED_OVER_S:
            self._samples.popleft()
        if self._live is not None:
            self._live.refresh()
        else:
            percent, speed, eta, *view = self._fields()
            frames = f" ({self._frames})" if self._frames else ""
            where = f"step {self._steps:,}/{self._total:,}{frames} {percent.strip()}"
            self._print(" | ".join([where, speed, *view, eta]))

    @property
    def _frames(self) -> str:
        return "" if self._frame_skip is None else f"{self._steps * self._frame_skip:,} frames"

    def _fields(self) -> list[str]:
        """Percentage, speed, time left, and the view in the order of `LABELS`."""
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        speed = (last - first) / (end - begin) if end > begin else 0.0
        left = max(self._total - self._steps, 0)
        eta = f"eta {timedelta(seconds=round(left / speed))}" if speed > 0 else "eta -:--:--"
        if self._evaluating_since is not None:
            seconds = self._clock() - self._evaluating_since
            eta = f"evaluating for {seconds:.0f} s, {self._evaluated} episodes"
        view = [
            f"{label} {form.format(self._view[name])}" for name, (label, form) in LABELS.items() if name in self._view
        ]
        percent = min(self._steps * 100 // self._total, 100)
        return [f"{percent:3d}%", f"{speed:,.0f} steps/s", eta, *view]

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
