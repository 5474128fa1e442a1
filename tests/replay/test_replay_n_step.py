"""n-step returns at every corner: where the episode ends, how, and how many steps a window has."""

from __future__ import annotations

import numpy as np
import pytest

from dqn_cli.replay.n_step import NStepAccumulator

GAMMA = 0.5
REWARDS = [1.0, 20.0, 300.0, 4000.0, 50000.0, 600000.0]


def push(accumulator, obs, reward, terminated, ended):
    def ids(values):
        return np.array(values)[:, None]

    action = np.array(obs) + 7
    return accumulator.push(
        ids(obs), action, np.array(reward), ids([o + 1 for o in obs]), np.array(terminated), np.array(ended)
    )


def as_tuples(rows):
    columns = rows.obs[:, 0], rows.action, rows.reward, rows.discount, rows.next_obs[:, 0]
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("n_step", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("terminated", [True, False])
def test_every_position_of_the_end(n_step, length, terminated):
    accumulator = NStepAccumulator(n_step, GAMMA, 1)
    for base in (0, 100):  # the second episode knows nothing of the first
        rows = []
        for t in range(length):
            last = t == length - 1
            closed = as_tuples(push(accumulator, [base + t], [REWARDS[t]], [last and terminated], [last]))
            assert len(closed) == (min(n_step, length) if last else int(t >= n_step - 1))
            rows += closed
        for start, row in enumerate(rows):
            m = min(n_step, length - start)
            reward = sum(GAMMA**i * REWARDS[start + i] for i in range(m))
            discount = 0.0 if terminated and start + m == length else GAMMA**m
            assert row == (base + start, base + start + 7, reward, discount, base + start + m)
        assert len(rows) == length


def test_rows_come_in_the_order_of_lanes_oldest_first():
    accumulator = NStepAccumulator(3, GAMMA, 3)
    no = [False] * 3
    push(accumulator, [0, 100, 200], [1.0, 2.0, 3.0], no, no)
    push(accumulator, [1, 101, 201], [1.0, 2.0, 3.0], [False, True, False], [False, True, False])
    rows = as_tuples(push(accumulator, [2, 150, 202], [1.0, 2.0, 3.0], [False, False, True], [False, False, True]))
    assert rows == [
        (0, 7, 1.75, 0.125, 3),
        (200, 207, 5.25, 0.0, 203),
        (201, 208, 4.5, 0.0, 203),
        (202, 209, 3.0, 0.0, 203),
    ]
    # lane 1 opened one window before and opens another now; lane 2 begins anew
    ended = [False, True, False]
    rows = as_tuples(push(accumulator, [3, 151, 300], [1.0, 2.0, 3.0], no, ended))
    assert rows == [(1, 8, 1.75, 0.125, 4), (150, 157, 3.0, 0.25, 152), (151, 158, 2.0, 0.5, 152)]


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_extreme_discounts(discount):
    accumulator = NStepAccumulator(2, discount, 1)
    push(accumulator, [0], [1.0], [False], [False])
    (row,) = as_tuples(push(accumulator, [1], [2.0], [False], [False]))
    assert row == (0, 7, 1.0 + 2.0 * discount, discount**2, 2)


def test_a_bad_reward_stays_in_its_own_windows():
    accumulator = NStepAccumulator(2, GAMMA, 1)
    push(accumulator, [0], [np.inf], [False], [False])
    push(accumulator, [1], [1.0], [False], [False])
    (row,) = as_tuples(push(accumulator, [2], [1.0], [False], [False]))
    assert row == (1, 8, 1.5, 0.25, 3)
