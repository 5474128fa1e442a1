"""The distribution of the return as a picture: a curve for each action, all over one axis."""

from __future__ import annotations

from math import ceil, floor, log10

import cv2
import numpy as np
from numpy.typing import NDArray

from dqn_cli.training.evaluator import Returns

Picture = NDArray[np.uint8]  # [height, width, 3], blue first, as OpenCV has it
Curve = NDArray[np.float64]
Point = tuple[float, float]  # to the right, down

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 84, 664, 66, 426  # of the plot
MAX_ROWS = 18  # there is no room for more actions
FINE = 3  # drawn so many times larger, then averaged, so that edges are smooth
BLUR = 3  # pixels by which a density is smoothed
BACKGROUND, LINE, TEXT, MUTED = "#14171d", "#2a303b", "#e8ebf1", "#8d96a6"
CURVE, BEST = "#7d90ae", "#3fc28a"
FILL = 0.4  # how much of a curve's color there is below it
FONT, CAPITAL = cv2.FONT_HERSHEY_SIMPLEX, 21  # how many pixels high its capitals are at scale 1


def png_of(picture: Picture) -> bytes:
    """The bytes of a PNG file."""
    _, data = cv2.imencode(".png", picture)
    return data.tobytes()


def returns_picture(returns: Returns) -> Picture:
    """[480, 760, 3]. As the mass below each curve is 1, every curve may have a scale of its own."""
    canvas, (low, high), q = Canvas(), value_range(returns), returns.q
    best, count = int(q.argmax()), returns.value.shape[1]
    shown = np.sort(np.argsort(-q, kind="stable")[:MAX_ROWS])
    canvas.text("return at the first state of the first evaluation episode", (LEFT, 25), TEXT, 10)
    what = f"density, by {count} quantiles" if returns.mass is None else f"mass at {count} atoms"
    some = f"; the best {len(shown)} of {len(q)} actions" if len(shown) < len(q) else ""
    canvas.text(what + some, (LEFT, 44), MUTED, 8.5)
    canvas.text("Q", (WIDTH - 14, 44), MUTED, 8.5, right=True)
    _draw_axis(canvas, low, high)
    room = (BOTTOM - TOP) / len(shown)
    edges = np.linspace(low, high, (RIGHT - LEFT) * FINE + 1)
    decimals = int(np.clip(4 - ceil(log10(high - low)), 0, 6))
    for row, action in enumerate(shown):
        base, color = TOP + (row + 1) * room, BEST if action == best else CURVE
        heights = heights_of(returns, action, edges)
        _draw_curve(canvas, base, heights * (0.8 * room / heights.max()), color)
        canvas.dot((LEFT + (q[action] - low) / (high - low) * (RIGHT - LEFT), base), TEXT)
        middle = base - min(0.4 * room, 14) + 4
        canvas.text(f"action {action}", (14, middle), color if action == best else TEXT, 9)
        canvas.text(f"{q[action]:,.{decimals}f}", (WIDTH - 14, middle), color, 9, right=True)
    return canvas.finished()


def value_range(returns: Returns) -> tuple[float, float]:
    """What the axis spans: all values, with room for half a bar on both sides, or a margin."""
    seen = np.concatenate([returns.value.ravel(), returns.q])
    low, high = float(seen.min()), float(seen.max())
    margin = (high - low) * (0.04 if returns.mass is None else 0.5 / (returns.value.shape[1] - 1))
    return low - (margin or 0.5), high + (margin or 0.5)


def heights_of(returns: Returns, action: int, edges: Curve) -> Curve:
    """Heights [C] over columns between `edges` [C + 1]: of atoms a bar each, of quantiles a density.

    Between neighboring quantiles the return is taken to spread evenly, so that a column holds the mass between its
    edges, and no width needs to be chosen; this is then smoothed for the eye. Quantiles that cross are sorted.
    """
    value = np.sort(np.round(returns.value[action], 9))  # numbers next to 0 have no slopes between them
    if returns.mass is not None:
        nearest = np.searchsorted((value[1:] + value[:-1]) / 2, (edges[1:] + edges[:-1]) / 2)
        heights: Curve = returns.mass[action][nearest]
        return heights
    assert returns.fraction is not None
    fraction = np.sort(returns.fraction[action])
    below = (fraction - fraction[0]) / max(fraction[-1] - fraction[0], 1e-12)
    reach = np.arange(-3 * BLUR * FINE, 3 * BLUR * FINE + 1)
    kernel = np.exp(-((reach / (BLUR * FINE)) ** 2) / 2)
    return np.convolve(np.diff(np.interp(edges, value, below, left=0, right=1)), kernel, "same")


def ticks_of(low: float, high: float) -> list[float]:
    """About six round numbers in between."""
    rough = (high - low) / 6
    power = 10.0 ** floor(log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * i for i in range(ceil(low / step), floor(high / step) + 1)]


def _draw_axis(canvas: Canvas, low: float, high: float) -> None:
    for tick in ticks_of(low, high):
        x = LEFT + (tick - low) / (high - low) * (RIGHT - LEFT)
        canvas.line([(x, TOP - 6), (x, BOTTOM + 5)], LINE)
        canvas.text(f"{tick:g}", (x, BOTTOM + 21), MUTED, 8.5, center=True)
    canvas.text("discounted return", ((LEFT + RIGHT) / 2, HEIGHT - 14), MUTED, 8.5, center=True)


def _draw_curve(canvas: Canvas, base: float, heights: Curve, color: str) -> None:
    points = [(LEFT + (column + 0.5) / FINE, base - height) for column, height in enumerate(heights)]
    canvas.fill([(LEFT, base), *points, (RIGHT, base)], mixed(color, BACKGROUND, FILL))
    canvas.line([(LEFT, base), (RIGHT, base)], LINE)
    canvas.line(points, color)


class Canvas:
    """A picture that is drawn larger than it becomes; positions are those of the finished one."""

    def __init__(self) -> None:
        self._image = np.full((HEIGHT * FINE, WIDTH * FINE, 3), bgr(BACKGROUND), np.uint8)

    def line(self, points: list[Point], color: str) -> None:
        """A line of one pixel through `points`."""
        cv2.polylines(self._image, [_fine(points)], False, bgr(color), FINE, cv2.LINE_AA)

    def fill(self, points: list[Point], color: str) -> None:
        """The polygon with the corners `points`."""
        cv2.fillPoly(self._image, [_fine(points)], bgr(color))

    def dot(self, at: Point, color: str) -> None:
        """A dot around `at`."""
        (x, y), radius = _fine([at])[0].tolist(), 2.5
        cv2.circle(self._image, (x, y), round(radius * FINE), bgr(color), cv2.FILLED, cv2.LINE_AA)

    def text(
        self, text: str, at: Point, color: str, capitals: float, *, right: bool = False, center: bool = False
    ) -> None:
        """`text` with capitals so many pixels high; its baseline begins, ends or has its middle at `at`."""
        scale = capitals * FINE / CAPITAL
        (width, _), _ = cv2.getTextSize(text, FONT, scale, FINE)
        x, y = _fine([at])[0].tolist()
        x -= width if right else width // 2 if center else 0
        cv2.putText(self._image, text, (x, y), FONT, scale, bgr(color), FINE, cv2.LINE_AA)

    def finished(self) -> Picture:
        """The picture."""
        return cv2.resize(self._image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _fine(points: list[Point]) -> NDArray[np.int32]:
    fine: NDArray[np.int32] = np.rint(np.asarray(points) * FINE).astype(np.int32)
    return fine


def bgr(color: str) -> tuple[int, int, int]:
    """#rrggbb as OpenCV has it."""
    red, green, blue = bytes.fromhex(color[1:])
    return blue, green, red


def mixed(color: str, other: str, share: float) -> str:
    """`share` of `color`, the rest of `other`."""
    pairs = zip(bytes.fromhex(color[1:]), bytes.fromhex(other[1:]), strict=True)
    return "#" + bytes(round(share * a + (1 - share) * b) for a, b in pairs).hex()
