"""n-step returns at every corner: where the episode ends, how, and how many steps a window has."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from dqn_cli.replay.n_step import NStepAccumulator

GAMMA = 0.5
REWARDS = [1.0, 20.0, 300.0, 4000.0, 50000.0, 600000.0]


def push(accumulator, obs, reward, terminated, ended):
    return accumulator.push(
        [(o,) for o in obs], [o + 7 for o in obs], reward, [(o + 1,) for o in obs], terminated, ended
    )


def as_tuples(rows):
    return [(obs, action, reward, discount, after) for (obs,), (after,), action, reward, discount in rows]


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
    push(accumulator, [0], [math.inf], [False], [False])
    push(accumulator, [1], [1.0], [False], [False])
    (row,) = as_tuples(push(accumulator, [2], [1.0], [False], [False]))
    assert row == (1, 8, 1.5, 0.25, 3)


@pytest.mark.parametrize("n_step", [2, 3, 5])
def test_sums_have_the_bits_of_additions_in_the_order_of_time(n_step):
    rng, rewards = random.Random(0), []
    accumulator = NStepAccumulator(n_step, 0.99, 1)
    gammas = np.power(0.99, np.arange(n_step)).tolist()
    for t in range(200):
        rewards.append(rng.uniform(-1, 1) * 10 ** rng.uniform(-9, 9))
        for start, _, total, _, _ in as_tuples(push(accumulator, [t], rewards[-1:], [False], [False])):
            wanted = 0.0
            for gamma, reward in zip(gammas, rewards[start:], strict=True):
                wanted += gamma * reward
            assert total == wanted


def test_what_a_checkpoint_holds_of_open_windows():
    """Line t modulo n of each lane, and rubbish in the lines of closed ones: bytes that must not change."""
    accumulator = NStepAccumulator(2, GAMMA, 2)
    accumulator.allocate(stack=2)

    def step(t, ended):
        obs, after = ([(frame - 1, frame), (frame, frame)] for frame in (t, t + 1))
        accumulator.push(obs, [t, t + 10], [2.0 + t, 16.0], after, [False, False], [False, ended])

    step(5, ended=False)
    step(6, ended=True)
    state = accumulator.state_dict()
    assert state["window.obs"].tolist() == [[[4, 5], [5, 5]], [[5, 6], [6, 6]]]
    assert state["window.action"].tolist() == [[5, 15], [6, 16]]
    assert state["window.reward"].tolist() == [[7.0 + 0.5 * 8.0, 24.0], [8.0, 16.0]]
    assert state["window.oldest"].tolist() == [1, 2]
    assert state["window.step"].tolist() == 2
    assert [array.dtype.name for array in state.values()] == ["int64", "int32", "float64", "int64", "int64"]
    other = NStepAccumulator(2, GAMMA, 2)
    other.allocate(stack=2)
    other.load({name: array.copy() for name, array in state.items()}, 0, 100, 20)
    for name, array in other.state_dict().items():
        assert array.tobytes() == state[name].tobytes()
    assert NStepAccumulator(1, GAMMA, 2).state_dict()["window.obs"].shape == (1, 0, 1)
