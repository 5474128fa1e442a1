from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqn_cli.training.evaluator import Returns
from dqn_cli.training.pictures import (
    BACKGROUND,
    BEST,
    CURVE,
    bgr,
    heights_of,
    mixed,
    png_of,
    returns_picture,
    ticks_of,
    value_range,
)


def atoms(mass: list[list[float]], low: float = -1.0, high: float = 1.0) -> Returns:
    value = np.linspace(low, high, len(mass[0]))
    return Returns(np.array(mass) @ value, np.tile(value, (len(mass), 1)), mass=np.array(mass))


def quantiles(*rows: list[float]) -> Returns:
    value, count = np.array(rows, float), len(rows[0])
    return Returns(value.mean(1), value, fraction=np.tile((np.arange(count) + 0.5) / count, (len(rows), 1)))


def share(picture: np.ndarray, color: str) -> float:
    return float((picture == bgr(color)).all(axis=2).mean())


def test_atoms_are_bars_of_their_mass() -> None:
    returns = atoms([[0.2, 0.5, 0.3]])
    assert value_range(returns) == (-1.5, 1.5)
    np.testing.assert_array_equal(heights_of(returns, 0, np.linspace(-1.5, 1.5, 7)), [0.2, 0.2, 0.5, 0.5, 0.3, 0.3])


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=40))
def test_below_the_density_of_quantiles_lies_all_mass_and_half_of_it_left_of_the_median(values: list[float]) -> None:
    returns, edges = quantiles(values), np.linspace(-60, 60, 1201)
    heights = heights_of(returns, 0, edges)
    assert heights.min() >= 0
    total = heights.sum()
    rank, middle = np.sort(values), (edges[1:] + edges[:-1]) / 2
    half = len(values) // 2
    reach = 3.0  # of the smoothing, in units of return
    assert heights[middle < rank[half - 1] - reach].sum() <= total / 2 + 1e-6
    assert heights[middle > rank[-half] + reach].sum() <= total / 2 + 1e-6
    inside = (middle > rank[0] - reach) & (middle < rank[-1] + reach)
    assert heights[inside].sum() == pytest.approx(total)


def test_evenly_spread_quantiles_are_a_flat_density_in_whatever_order_they_come() -> None:
    values, edges = np.linspace(0, 10, 11), np.linspace(0, 10, 1001)
    heights = heights_of(quantiles(values.tolist()), 0, edges)
    assert heights[100:-100].max() == pytest.approx(heights[100:-100].min())
    mixed_up = np.random.default_rng(0).permutation(values).tolist()
    np.testing.assert_array_equal(heights_of(quantiles(mixed_up), 0, edges), heights)


def test_quantiles_at_odd_fractions_are_where_the_distribution_says() -> None:
    """Half of the mass between 0 and 1, half between 1 and 3: twice as dense on the left."""
    fraction = np.array([[0.0, 0.125, 0.5, 0.75, 1.0]])
    value = np.interp(fraction, [0, 0.5, 1], [0, 1, 3])
    heights = heights_of(Returns(value.mean(1), value, fraction=fraction), 0, np.linspace(0, 3, 301))
    assert heights[50] == pytest.approx(2 * heights[200])


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (-10, 10, [-10, -5, 0, 5, 10]),
        (0.02, 0.11, [0.02, 0.04, 0.06, 0.08, 0.1]),
        (3, 3000, [500, 1000, 1500, 2000, 2500, 3000]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks_of(low, high) == pytest.approx(wanted)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_there_are_some_ticks_and_not_too_many(low: float, span: float) -> None:
    ticks = ticks_of(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_the_best_action_stands_out() -> None:
    picture = returns_picture(atoms([[1, 0, 0, 0], [0, 0, 0.5, 0.5], [0.25] * 4]))
    assert picture.shape == (480, 760, 3)
    assert share(picture, BACKGROUND) > 0.5
    best, other = mixed(BEST, BACKGROUND, 0.4), mixed(CURVE, BACKGROUND, 0.4)
    green, grey = ((picture == bgr(color)).all(axis=2) for color in (best, other))
    rows = np.flatnonzero(green.any(axis=1))
    assert 186 < rows.min() < rows.max() <= 306  # the middle of three rows between 66 and 426
    assert not green[:, : 84 + 290].any()  # and the right half of the axis
    assert green.sum() == pytest.approx(290 * 96, rel=0.05)
    assert grey.sum() == pytest.approx((145 + 580) * 96, rel=0.05)


@pytest.mark.parametrize(
    "returns",
    [
        quantiles([0.0] * 5, [0.0] * 5),
        quantiles([1e-9, 1e-9], [3e5, 3e5]),
        quantiles([7.0]),
        atoms([[0.5, 0.5]] * 30),
        Returns(np.array([9.0]), np.array([[1.0, 2.0]]), fraction=np.array([[0.3, 0.1]])),
    ],
    ids=["equal", "far apart", "single", "many actions", "a mean outside"],
)
def test_odd_returns_have_a_picture_too(returns: Returns) -> None:
    decoded = cv2.imdecode(np.frombuffer(png_of(returns_picture(returns)), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (480, 760, 3)
    assert share(decoded, BACKGROUND) < 0.99
