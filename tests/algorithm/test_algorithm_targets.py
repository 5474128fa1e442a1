"""The equation itself, and the one rule for ties."""

from __future__ import annotations

import pytest
import torch

from dqn_cli.algorithm.rules import RULES, Network
from dqn_cli.algorithm.targets import greedy_action, q_learning_target, value_of


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


def test_target_by_hand() -> None:
    q_evaluate_t = torch.tensor([[1.0, 5.0], [2.0, -4.0], [7.0, 3.0]])
    r_t = torch.tensor([1.0, -2.0, 10.0])
    discount_t = torch.tensor([0.5, 0.9, 0.0])
    y = q_learning_target(r_t, discount_t, q_evaluate_t, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(y, torch.tensor([1.5, -5.6, 10.0]))


def test_the_arguments_are_left_as_they_are() -> None:
    arguments = (torch.ones(3), torch.full((3,), 0.5), torch.randn(3, 2), torch.tensor([0, 1, 0]))
    before = [x.clone() for x in arguments]
    q_learning_target(*arguments)
    assert all(torch.equal(x, y) for x, y in zip(before, arguments, strict=True))


def test_value_of_the_actions_taken() -> None:
    q = torch.arange(6.0).reshape(2, 3)
    assert value_of(q, torch.tensor([2, 0])).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("width", [2, 3, 18, 257])
def test_the_first_of_equal_values_wins(width) -> None:
    q = torch.zeros(5, width)
    assert greedy_action(q).tolist() == [0] * 5
    q[:, 1:] = 1.0
    assert greedy_action(q).tolist() == [1] * 5
