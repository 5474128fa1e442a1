"""The equation itself, for numbers and distributions, and the one rule for ties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqn_cli.algorithm.rules import RULES, Network
from dqn_cli.algorithm.targets import bellman_target, categorical_target, chosen, greedy_action

ATOMS = torch.tensor([-1.0, 0.0, 1.0])
P = torch.tensor([0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    ("variant", "select", "evaluate", "needs_target"),
    [
        ("vdqn", Network.ONLINE, Network.ONLINE, False),
        ("tdqn", Network.TARGET, Network.TARGET, True),
        ("ddqn", Network.ONLINE, Network.TARGET, True),
        ("qlearning", Network.ONLINE, Network.ONLINE, False),
    ],
)
def test_the_variants_are_the_rows_of_one_table(variant, select, evaluate, needs_target) -> None:
    rule = RULES[variant]
    assert (rule.select, rule.evaluate, rule.needs_target) == (select, evaluate, needs_target)
    assert len(RULES) == 4


def test_bellman_target_by_hand() -> None:
    z_t = chosen(torch.tensor([[1.0, 5.0], [2.0, -4.0], [7.0, 3.0]]), torch.tensor([0, 1, 1]))
    y = bellman_target(torch.tensor([1.0, -2.0, 10.0]), torch.tensor([0.5, 0.9, 0.0]), z_t)
    torch.testing.assert_close(y, torch.tensor([1.5, -5.6, 10.0]))


def test_bellman_target_moves_every_quantile() -> None:
    y = bellman_target(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([[2.0, 4.0], [6.0, 8.0]]))
    assert y.tolist() == [[2.0, 3.0], [2.0, 2.0]]


def test_the_arguments_are_left_as_they_are() -> None:
    arguments = (torch.ones(2), torch.full((2,), 0.5), torch.stack([P, P]), ATOMS)
    before = [x.clone() for x in arguments]
    categorical_target(*arguments)
    bellman_target(*arguments[:3])
    assert all(torch.equal(x, y) for x, y in zip(before, arguments, strict=True))


def test_the_part_of_the_actions_taken() -> None:
    assert chosen(torch.arange(6.0).reshape(2, 3), torch.tensor([2, 0])).tolist() == [2.0, 3.0]
    assert chosen(torch.arange(8.0).reshape(2, 2, 2), torch.tensor([1, 0])).tolist() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize("width", [2, 3, 18, 257])
def test_the_first_of_equal_values_wins(width) -> None:
    q = torch.zeros(5, width)
    assert greedy_action(q).tolist() == [0] * 5
    q[:, 1:] = 1.0
    assert greedy_action(q).tolist() == [1] * 5


@pytest.mark.parametrize(
    ("r_t", "discount_t", "expected"),
    [
        (0.5, 1.0, [0.1, 0.25, 0.65]),  # -0.5, 0.5 and 1.5, which is cut to 1
        (0.0, 0.5, [0.1, 0.65, 0.25]),  # -0.5, 0 and 0.5
        (0.0, 1.0, [0.2, 0.3, 0.5]),  # nothing moves
        (1.0, 1.0, [0.0, 0.2, 0.8]),  # from atom to atom
        (-1.0, 1.0, [0.5, 0.5, 0.0]),
        (0.25, 0.0, [0.0, 0.75, 0.25]),  # terminal: the reward alone
        (1.0, 0.0, [0.0, 0.0, 1.0]),
        (-5.0, 1.0, [1.0, 0.0, 0.0]),  # all below the smallest atom
        (5.0, 0.9, [0.0, 0.0, 1.0]),
    ],
)
def test_projection_by_hand(r_t, discount_t, expected) -> None:
    p = categorical_target(torch.tensor([r_t]), torch.tensor([discount_t]), P.unsqueeze(0), ATOMS)
    torch.testing.assert_close(p, torch.tensor([expected]))


def algorithm_1(r_t: float, discount_t: float, p_t: list[float], v_min: float, v_max: float) -> list[float]:
    """The loop of Bellemare et al. 2017, with the case that their l = u = b loses."""
    last = len(p_t) - 1
    step = (v_max - v_min) / last
    m = [0.0] * len(p_t)
    for j, p in enumerate(p_t):
        b = (min(v_max, max(v_min, r_t + discount_t * (v_min + j * step))) - v_min) / step
        low = min(math.floor(b), last - 1)
        m[low] += p * (low + 1 - b)
        m[low + 1] += p * (b - low)
    return m


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=60),
    r_t=st.floats(-30, 30),
    discount_t=st.floats(0, 1),
    v_min=st.floats(-20, 0),
    width=st.floats(0.5, 40),
)
def test_projection_is_that_of_a_loop(weights, r_t, discount_t, v_min, width) -> None:
    total = sum(weights)
    p_t = [w / total for w in weights]
    atoms = torch.linspace(v_min, v_min + width, len(p_t), dtype=torch.float64)
    arguments = (torch.tensor([x], dtype=torch.float64) for x in (r_t, discount_t, p_t))
    m = categorical_target(*arguments, atoms)
    expected = torch.tensor([algorithm_1(r_t, discount_t, p_t, v_min, v_min + width)], dtype=torch.float64)
    torch.testing.assert_close(m, expected, atol=1e-9, rtol=0)
    assert m.min() >= 0
    assert m.sum().item() == pytest.approx(1)


@given(p_seed=st.integers(0, 2**32), discount_t=st.floats(0, 1), place=st.floats(0, 1))
def test_where_nothing_is_cut_the_mean_is_kept(p_seed, discount_t, place) -> None:
    p_t = torch.rand(1, 51, generator=torch.Generator().manual_seed(p_seed)).softmax(1)
    atoms = torch.linspace(-10, 10, 51)
    r_t = torch.tensor([(2 * place - 1) * 10 * (1 - discount_t)])  # |r| + d 10 <= 10
    d = torch.tensor([discount_t])
    m = categorical_target(r_t, d, p_t, atoms)
    torch.testing.assert_close(m @ atoms, r_t + d * (p_t @ atoms), atol=1e-4, rtol=0)


def test_each_row_is_projected_on_its_own() -> None:
    r_t, discount_t = torch.tensor([0.5, -0.3, 0.1]), torch.tensor([1.0, 0.0, 0.7])
    p_t = torch.stack([P, P.flip(0), P.roll(1)])
    together = categorical_target(r_t, discount_t, p_t, ATOMS)
    alone = [categorical_target(r_t[i : i + 1], discount_t[i : i + 1], p_t[i : i + 1], ATOMS) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
