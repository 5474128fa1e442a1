"""The sum tree against a plain list, where it is deep and where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn_cli.replay import sum_tree
from dqn_cli.replay.sum_tree import SumTree, level_sizes, tree_bytes


def walk(leaves, mass):
    """The naive twin of `find`."""
    upto = 0.0
    for slot, p in enumerate(leaves):
        upto += p
        if mass < upto:
            return slot
    raise AssertionError("the mass is beyond the sum")


def tree_of(leaves):
    tree = SumTree(len(leaves))
    tree.set(np.arange(len(leaves)), np.array(leaves, float))
    return tree


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.data(), st.integers(2, 5), st.integers(1, 40))
def test_equals_a_list_under_random_changes(data, fan_out, size):
    """Whole numbers: every sum is exact, so every border is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sum_tree, "FAN_OUT", fan_out)
        tree, twin = SumTree(size), [0.0] * size
        slot, priority = st.integers(0, size - 1), st.sampled_from([0, 0, 1, 2, 3, 1000])
        for changes in data.draw(st.lists(st.lists(st.tuples(slot, priority), min_size=1), max_size=6)):
            tree.set(np.array([s for s, _ in changes]), np.array([p for _, p in changes], float))
            for s, p in changes:  # the last of a slot counts
                twin[s] = float(p)
            begin, end = sorted((data.draw(slot), data.draw(slot)))
            tree.set(slice(begin, end + 1), 5.0)
            twin[begin : end + 1] = [5.0] * (end + 1 - begin)
            tree.check_valid()
            assert tree.leaves.tolist() == twin
            assert tree.total == sum(twin)
            borders = np.cumsum(twin)
            masses = np.concatenate(
                ([0.0], borders[:-1], np.nextafter(borders, 0), np.linspace(0, tree.total, 30)[:-1])
            )
            masses = masses[masses < tree.total]
            assert tree.find(masses).tolist() == [walk(twin, mass) for mass in masses]


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 4095, 4096, 4097, 300_000])
def test_every_size_finds_its_first_and_its_last_leaf(size):
    tree = SumTree(size)
    tree.set(slice(0, size), 2.0)
    tree.check_valid()
    assert tree.total == 2.0 * size
    masses = np.array([0.0, 1.99, 2.0 * size - 2, 2.0 * size - 0.01])
    assert tree.find(masses).tolist() == [0, 0, size - 1, size - 1]
    assert tree.nbytes == tree_bytes(size) <= 8.2 * size + 2000


def test_the_levels_of_a_million():
    assert level_sizes(1_000_000) == [1_000_000, 15_680, 256, 64, 1]
    assert level_sizes(64) == [64, 1]
    assert level_sizes(1) == [64, 1]


@pytest.mark.parametrize("seed", range(20))
def test_never_a_leaf_of_priority_0_however_the_sums_are_rounded(seed):
    rng = np.random.default_rng(seed)
    leaves = 10.0 ** rng.uniform(-30, 12, 20_000) * (rng.random(20_000) < 0.3)
    tree = tree_of(leaves)
    upto = leaves.cumsum()
    beyond = [tree.total, np.nextafter(tree.total, np.inf), tree.total * 1.001]
    masses = np.concatenate((rng.random(2000) * tree.total, rng.choice(upto, 2000), beyond))
    found = tree.find(masses)
    assert (leaves[found] > 0).all()
    slack = 1e-12 * tree.total
    assert (upto[found[:-3]] >= masses[:-3] - slack).all()
    assert (upto[found[:-3]] - leaves[found[:-3]] <= masses[:-3] + slack).all()


def test_a_single_leaf_above_0_is_always_found():
    for slot in (0, 63, 64, 4999):
        for p in (5e-324, 1e-200, 0.1, 1e100):
            tree = SumTree(5000)
            tree.set(np.array([slot]), p)
            assert tree.find(np.array([0.0, 0.5, 0.999, 1.0]) * p).tolist() == [slot] * 4


def test_a_tree_is_a_function_of_its_leaves():
    """A hundred thousand changes leave no trace: the same bits as a tree built at once."""
    rng = np.random.default_rng(0)
    tree = SumTree(10_000)
    for _ in range(2000):
        tree.set(rng.integers(0, 10_000, 50), 10.0 ** rng.uniform(-9, 9, 50))
    begin = 9_000
    tree.set(slice(begin, begin + 300), 1e-7)
    tree.check_valid()
    assert tree.total == tree_of(tree.leaves).total


@pytest.mark.parametrize("spoil", ["negative", "nan", "sum", "beyond"])
def test_check_valid_notices(spoil):
    tree = tree_of([1.0] * 70)
    tree.check_valid()
    if spoil == "sum":
        tree._levels[1][0] += 1e-9
    elif spoil == "beyond":
        tree._levels[0][70] = 1.0
    else:
        tree.leaves[3] = -1.0 if spoil == "negative" else np.nan
    with pytest.raises(AssertionError):
        tree.check_valid()
