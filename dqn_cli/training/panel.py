"""What stands beside the picture of a game in a video: every action's Q-value, and how far the episode is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dqn_cli.envs.vector import Picture

WIDTH = 344
MARGIN = 18
TOP, BOTTOM = 128, 34  # of the panel, without the rows
ROW_MIN, ROW_MAX = 14, 34
NAME_MAX = 118
BACKGROUND, LINE, TRACK = "#14171d", "#2a303b", "#1d222b"
TEXT, MUTED, BAR = "#e8ebf1", "#8d96a6", "#56657e"
GREEDY, RANDOM = "#3fc28a", "#f3a43b"  # what kind of action was chosen
COLORS = (BACKGROUND, LINE, TRACK, TEXT, MUTED, BAR, GREEDY, RANDOM)


@dataclass(frozen=True)
class Moment:
    """A decision and its circumstances; `q` [A] are the values of the observation that `action` answers.

    `step` and `score` are those before the action; where the episode is `over`, those of the whole of it.
    """

    episode: int
    step: int
    score: float
    q: NDArray[np.floating]
    action: int
    over: bool = False

    @property
    def kind(self) -> str:
        """Whether the action is the best one: another one is there by chance alone."""
        return "over" if self.over else "greedy" if self.action == int(self.q.argmax()) else "random"


class Panel:
    """Draws moments of one environment, `height` rows of pixels high.

    A bar shows by how much an action is better than the worst one, on the scale of the largest difference so far: the
    values of one state are so close together that bars from 0 would all look alike. The numbers are the Q-values.
    """

    def __init__(self, title: str, action_names: list[str], height: int) -> None:
        self._height = height
        self._names = action_names
        self._rows = min(len(action_names), max(1, (height - TOP - BOTTOM) // ROW_MIN))
        self._row_height = min(ROW_MAX, (height - TOP - BOTTOM) // self._rows)
        self._font = _font(min(15, max(11, round(self._row_height * 0.8))))
        self._small, self._large = _font(12), _font(21)
        widest = max(self._font.getlength(name) for name in action_names)
        self._bar_left = MARGIN + int(min(widest, NAME_MAX)) + 10
        self._largest_value = self._largest_spread = 0.0
        self._empty = self._draw_empty(title)

    def draw(self, moment: Moment) -> Picture:
        """The panel `[height, WIDTH, 3]`."""
        image = self._empty.copy()
        draw = ImageDraw.Draw(image)
        score = f"{moment.score:,.0f}" if float(moment.score).is_integer() else f"{moment.score:,.2f}"
        for x, value in zip(_columns(), (f"{moment.episode + 1:,}", f"{moment.step:,}", score), strict=True):
            draw.text((x, 58), value, TEXT, self._large)
        self._draw_kind(draw, moment.kind)
        self._largest_value = max(self._largest_value, float(np.abs(moment.q).max()))
        self._largest_spread = max(self._largest_spread, float(np.ptp(moment.q)))
        for row, action in enumerate(self._shown(moment)):
            self._draw_row(draw, TOP + row * self._row_height, action, moment)
        return np.asarray(image)

    def _shown(self, moment: Moment) -> list[int]:
        """The actions that there is room for: the best ones and the chosen one, in their order."""
        best = np.argsort(-moment.q, kind="stable").tolist()
        return sorted([moment.action, *(a for a in best if a != moment.action)][: self._rows])

    def _draw_empty(self, title: str) -> Image.Image:
        """All that is the same at every moment."""
        image = Image.new("RGB", (WIDTH, self._height), BACKGROUND)
        draw = ImageDraw.Draw(image)
        draw.text((MARGIN, 14), self._fit(title, self._small, WIDTH - 2 * MARGIN), MUTED, self._small)
        for x, label in zip(_columns(), ("episode", "step", "score"), strict=True):
            draw.text((x, 42), label, MUTED, self._small)
        draw.line((MARGIN, 94, WIDTH - MARGIN, 94), LINE)
        draw.text((MARGIN, 103), "Q-values", TEXT, self._small)
        hidden = len(self._names) - self._rows
        more = f"; {hidden:,} more actions" if hidden else ""
        draw.text((MARGIN, self._height - 24), f"bars: above the worst action{more}", MUTED, _font(11))
        return image

    def _draw_kind(self, draw: ImageDraw.ImageDraw, kind: str) -> None:
        """What the colors mean: a dot and a word."""
        text = {"greedy": "greedy action", "random": "random action", "over": "episode over"}[kind]
        left = WIDTH - MARGIN - self._small.getlength(text)
        draw.text((left, 103), text, _color(kind), self._small)
        draw.ellipse((left - 15, 106, left - 7, 114), _color(kind))

    def _draw_row(self, draw: ImageDraw.ImageDraw, top: int, action: int, moment: Moment) -> None:
        chosen, q = action == moment.action, float(moment.q[action])
        color = _color(moment.kind) if chosen else BAR
        middle, thick = top + self._row_height / 2, max(3, round(self._row_height * 0.3))
        name = self._fit(self._names[action], self._font, NAME_MAX)
        draw.text((MARGIN, middle), name, color if chosen else TEXT, self._font, anchor="lm")
        decimals = 3 if self._largest_value < 10 else 2 if self._largest_value < 1000 else 0
        value = f"{q:,.{decimals}f}"
        right = WIDTH - MARGIN
        draw.text((right, middle), value, color if chosen else MUTED, self._font, anchor="rm")
        right -= int(self._font.getlength(f"{-self._largest_value:,.{decimals}f}")) + 10
        draw.rectangle((self._bar_left, middle - thick, right, middle + thick - 1), TRACK)
        share = (q - float(moment.q.min())) / self._largest_spread if self._largest_spread else 0.0
        end = self._bar_left + max(2, round(share * (right - self._bar_left)))
        draw.rectangle((self._bar_left, middle - thick, end, middle + thick - 1), color)

    def _fit(self, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
        """`text`, cut where it is longer than `width` pixels."""
        if font.getlength(text) <= width:
            return text
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        return text + "..."


def _columns() -> tuple[int, int, int]:
    """Where episode, step and score begin."""
    return MARGIN, MARGIN + 82, MARGIN + 178


def _color(kind: str) -> str:
    return {"greedy": GREEDY, "random": RANDOM, "over": MUTED}[kind]


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which every machine has."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
