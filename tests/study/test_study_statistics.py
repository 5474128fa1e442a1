"""Against rliable's own numbers (`rliable.json`, made by rliable 1.2.0 beside arch 7.2 and pandas 2), and by hand.

The scores there are those of rliable's own tests and drawn ones; each has its intervals of 10,000 to 50,000 resamples.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from dqn_cli.study import statistics
from dqn_cli.study.statistics import (
    curve,
    estimate,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    permutation_p,
    probability_of_improvement,
    profile,
    sign_flip_p,
    smallest_p,
)

RLIABLE = json.loads((Path(__file__).parent / "rliable.json").read_text())
ESTIMATORS = {"mean": mean, "median": median, "iqm": iqm, "optimality_gap": optimality_gap}
REPS = 20_000


def tasks(matrix):
    """rliable's `[runs, environments]` as ours."""
    return [np.array(column, float) for column in np.array(matrix).T]


def by_name(section):
    return pytest.mark.parametrize("case", RLIABLE[section], ids=lambda case: case["name"])


@pytest.mark.parametrize("name", ESTIMATORS)
@by_name("aggregates")
def test_aggregates_are_those_of_rliable(case, name):
    found = estimate(ESTIMATORS[name], tasks(case["scores"]), reps=REPS)
    assert found.value == pytest.approx(case["point"][name], abs=1e-9)
    spread = np.ptp(case["scores"]) or 1.0
    assert [found.low, found.high] == pytest.approx(case["interval"][name], abs=0.012 * spread)


@by_name("improvement")
def test_the_probability_of_improvement_is_that_of_rliable(case):
    found = estimate(probability_of_improvement, tasks(case["x"]), tasks(case["y"]), reps=REPS)
    assert found.value == pytest.approx(case["point"], abs=1e-9)
    assert [found.low, found.high] == pytest.approx(case["interval"], abs=0.012)


@by_name("profiles")
def test_profiles_are_those_of_rliable(case):
    tau = np.array(case["tau"])
    share, low, high = interval(lambda scores: profile(scores, tau), tasks(case["scores"]), reps=REPS)
    np.testing.assert_allclose(share, case["point"], atol=1e-9)
    step = 1 / np.size(case["scores"])  # shares are multiples of it, and so are their percentiles
    np.testing.assert_allclose([low, high], case["interval"], atol=step * 1.01)


@by_name("curves")
def test_bands_of_curves_are_those_of_rliable(case):
    value, low, high = curve(np.array(case["scores"]), REPS, robust=True)
    np.testing.assert_allclose(value, case["point"], atol=1e-9)
    np.testing.assert_allclose([low, high], case["interval"], atol=0.04)


def test_by_hand():
    pair = [np.array([1.0, 2.0, 3.0, 10.0]), np.array([0.0, 0.0])]
    assert mean(pair) == 2.0  # of 4 and 0
    assert median(pair) == 2.0
    assert iqm(pair) == pytest.approx((0 + 1 + 2 + 3) / 4)  # of 0 0 1 2 3 10, one off at either end
    assert optimality_gap(pair) == 1 - (1 + 0) / 2
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([0.0, 2.0])]) == (1 + 0 + 1 + 0.5) / 4
    np.testing.assert_allclose(profile(pair, np.array([0.0, 2.0])), [(1 + 0) / 2, (0.5 + 0) / 2])


def test_an_interval_of_two_runs_is_between_them():
    # of the four resamples one in four holds only the lower run, one in four only the upper one
    found = estimate(mean, [np.array([2.0, 6.0])], reps=1_000)
    assert (found.low, found.value, found.high) == (2.0, 4.0, 6.0)


def test_a_single_run_has_no_interval():
    found = estimate(mean, [np.array([3.0]), np.array([5.0])], reps=100)
    assert found.value == 4.0
    assert np.isnan([found.low, found.high]).all()
    value, low, high = curve(np.array([[1.0, 2.0]]), 100)
    assert value.tolist() == [1.0, 2.0]
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("robust", [False, True])
def test_a_curve_is_its_points_one_by_one(robust):
    values = np.random.default_rng(1).normal(size=(7, 5))
    found = curve(values, 4_000, robust)
    for i in range(5):
        one = estimate(iqm if robust else mean, [values[:, i]], reps=4_000)
        assert [side[i] for side in found] == pytest.approx([one.value, one.low, one.high], abs=0.06)


def test_parts_of_a_bootstrap_are_the_whole(monkeypatch):
    scores, values = [np.arange(6.0), np.arange(4.0)], np.random.default_rng(0).normal(size=(4, 9))
    whole, band = estimate(iqm, scores, reps=3_000), curve(values, 200, True)
    monkeypatch.setattr(statistics, "_CHUNK", 100)
    parts = estimate(iqm, scores, reps=3_000)  # the same draws in another order
    assert [parts.low, parts.high] == pytest.approx([whole.low, whole.high], abs=0.15)
    np.testing.assert_allclose(curve(values, 200, True), band)


def test_signs_by_hand():
    # |sum| >= 6 for +++ and --- only, of 8
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p(np.array([1.0, -2.0, 3.0])) == 6 / 8  # sums 6 4 2 0 and their negatives: |2| or more
    assert sign_flip_p(np.zeros(4)) == 1.0
    assert sign_flip_p(np.ones(10)) == smallest_p(10) == 2 / 1024


def test_permutations_by_hand():
    assert permutation_p(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == pytest.approx(2 / 6)
    assert permutation_p(np.arange(4.0), np.arange(10.0, 14.0)) == pytest.approx(smallest_p(4, 4))
    assert smallest_p(4, 4) == 2 / 70
    assert permutation_p(np.zeros(1), np.array([1.0, 2.0, 3.0])) == 2 / 4  # 0 and 3 alone are as far from 1.5
    assert permutation_p(np.ones(3), np.ones(5)) == 1.0


def test_tests_of_many_runs_draw():
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=30), rng.normal(size=30)
    assert permutation_p(same, other + 3) < 0.001
    assert permutation_p(same, other) > 0.05
    assert sign_flip_p(same + 3) < 0.001
    assert 0.05 < sign_flip_p(same) <= 1
