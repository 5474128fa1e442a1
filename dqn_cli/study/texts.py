"""Texts of files that anybody may have written, made fit to be shown; numbers for readers."""

from __future__ import annotations

import math

LIMIT = 300  # letters


def clean(text: str, limit: int = LIMIT) -> str:
    """One line of printable letters: nothing that a terminal, a picture or a page would obey."""
    text = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text[: 2 * limit].split())
    )
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def number(value: float) -> str:
    """Three significant digits and more for large numbers; a dash for NaN."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never" if value > 0 else "-inf"
    size = abs(value)
    if size >= 1e15:
        return f"{value:.3g}"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:,.{digits}f}"


def bounds(low: float, high: float) -> str:
    """An interval; empty where there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def plural(count: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {word}{'s' * (count != 1)}"
