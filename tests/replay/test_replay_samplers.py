"""Prioritized replay: how often each row comes, what it weighs, and which rows can come at all."""

from __future__ import annotations

import random
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
from replay_twin import Event, World, memory_of, play
from test_replay_memory import CALM, numbered

from dqn_cli.errors import NumericalError
from dqn_cli.replay.samplers import Prioritized, Uniform
from dqn_cli.schedules import constant, linear


def prioritized(alpha=1.0, eps=0.0, beta=1.0):
    return Prioritized(alpha, eps, constant(beta))


def filled(capacity, rows, sampler, errors=None, seed=0):
    """A memory of one lane, and the errors of its live rows."""
    memory = memory_of(World(1, 1, capacity, CALM), seed, sampler=sampler)
    numbered(memory, rows)
    if errors is not None:
        memory.update_priorities(np.arange(rows - len(memory), rows), np.array(errors, np.float32))
    return memory


def leaves(memory):
    return memory.state_dict()["priority.leaves"].tolist()


def snapshot(memory):
    return {name: array.tobytes() for name, array in memory.state_dict().items()}


def test_a_priority_by_hand():
    memory = filled(4, 4, prioritized(alpha=0.5, eps=1.0), [3.0, -8.0, 0.0, 0.21])
    np.testing.assert_allclose(leaves(memory), [2.0, 3.0, 1.0, 1.1], rtol=1e-7)


def test_weights_by_hand():
    """p = 1 and 4: P = .2 and .8, (2 P)^-.5 = 1.58 and .79; the larger becomes 1."""
    memory = filled(2, 2, prioritized(beta=0.5), [1.0, 4.0])
    batch = memory.sample(100)
    weights = {0: 1.0, 1: 0.5}
    assert [weights[row] for row in batch.row.tolist()] == batch.weight.tolist()
    assert Counter(batch.row.tolist()) == {0: 20, 1: 80}
    assert str(batch.weight.dtype) == "torch.float32"


def test_the_largest_weight_is_of_the_batch_not_of_the_memory():
    memory = filled(2, 2, prioritized(), [1e-9, 2.0])
    assert memory.sample(8).weight.tolist() == [1.0] * 8


def test_beta_follows_its_schedule_in_steps():
    memory = filled(2, 2, Prioritized(1.0, 0.0, linear(0.0, 1.0, 100)), [1.0, 4.0])
    for steps, smallest in ((0, 1.0), (50, 0.5), (100, 0.25), (10**9, 0.25)):
        assert memory.sample(50, steps).weight.min().item() == smallest


def skewed(count, seed=0):
    return np.random.default_rng(seed).exponential(size=count) ** 2 + 0.1


def test_a_million_draws_come_in_proportion():
    """Against exact frequencies, and against a naive twin that draws by itself.

    A row's share covers whole parts of the mass and at most two partly, so that the variance of its count is at most
    1/2 per batch: this bound is far tighter than that of independent draws.
    """
    memory, batches, size = filled(50, 137, prioritized(alpha=0.7, eps=1e-3), skewed(50)), 1000, 1000
    p = (skewed(50).astype(np.float32) + 1e-3) ** 0.7
    counts = np.zeros(50)
    for _ in range(batches):
        counts += np.bincount(memory.sample(size).row - 87, minlength=50)
    assert np.abs(counts - batches * size * p / p.sum()).max() < 5 * (batches / 2) ** 0.5
    twin = Counter(random.Random(0).choices(range(50), p.tolist(), k=batches * size))
    for row in range(50):
        assert abs(counts[row] - twin[row]) < 5 * twin[row] ** 0.5 + 5 * (batches / 2) ** 0.5


def test_each_part_of_the_mass_gives_one_row():
    memory = filled(64, 64, prioritized())
    for _ in range(20):
        assert sorted(memory.sample(64).row.tolist()) == list(range(64))
    memory = filled(4, 4, prioritized(), [1.0, 1.0, 2.0, 4.0])
    for _ in range(20):
        assert memory.sample(8).row.tolist() == [0, 1, 2, 2, 3, 3, 3, 3]


def test_weighted_means_are_those_of_uniform_sampling():
    values = np.random.default_rng(1).normal(size=200) + skewed(200)  # the rows that come most have other values
    memory = filled(200, 200, prioritized(alpha=0.6, eps=1e-6), skewed(200))
    batch = memory.sample(20_000)
    drawn, weight = values[batch.row], batch.weight.numpy().astype(float)
    assert drawn.mean() > values.mean() + 0.5
    assert (weight * drawn).sum() / weight.sum() == pytest.approx(values.mean(), abs=0.02)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_small_batches_are_unbiased_too(size):
    """E[f / (N P)] is the mean of f, whatever the size of the batch; the true weights come back from P."""
    rng = np.random.default_rng(2)
    p, values = skewed(30).astype(np.float32).astype(float), rng.normal(size=30)
    memory = filled(30, 30, prioritized(), p)
    batches = 12_000 // size
    rows = np.concatenate([memory.sample(size).row for _ in range(batches)])
    estimate = values[rows] * p.sum() / (30 * p[rows])
    assert abs(estimate.mean() - values.mean()) < 4.5 * estimate.std() / len(estimate) ** 0.5


def test_alpha_0_is_uniform():
    memory = filled(10, 10, prioritized(alpha=0.0, eps=1e-6), skewed(10))
    assert leaves(memory) == [1.0] * 10
    assert memory.sample(5).weight.tolist() == [1.0] * 5


def test_new_rows_get_the_largest_priority_so_far():
    memory = filled(5, 3, prioritized())
    assert leaves(memory) == [1, 1, 1, 0, 0]
    memory.update_priorities(np.array([0, 1, 2]), np.array([0.5, 0.25, 0.5]))
    numbered(memory, 1, begin=3)
    assert leaves(memory) == [0.5, 0.25, 0.5, 1, 0]
    memory.update_priorities(np.array([1]), np.array([7.0]))
    memory.update_priorities(np.array([1]), np.array([0.25]))
    numbered(memory, 3, begin=4)  # the last two overwrite rows 0 and 1
    assert leaves(memory) == [7, 7, 0.5, 1, 7]
    memory.check_valid()


def test_a_row_that_comes_twice_keeps_its_last_error():
    memory = filled(3, 3, prioritized())
    memory.update_priorities(np.array([1, 2, 1]), np.array([9.0, 3.0, 4.0]))
    assert leaves(memory) == [1, 4, 3]
    memory.check_valid()


def test_rows_that_went_before_their_errors_came_are_passed_over():
    memory = filled(3, 3, prioritized())
    batch = memory.sample(3)
    assert batch.row.tolist() == [0, 1, 2]
    numbered(memory, 2, begin=3)  # in the slots of rows 0 and 1
    memory.update_priorities(batch.row, np.array([100.0, 100.0, 5.0]))
    assert leaves(memory) == [1, 1, 5]
    numbered(memory, 1, begin=5)
    assert leaves(memory) == [1, 1, 5]  # the largest is 5, not 100
    memory.update_priorities(np.array([0, 1]), np.array([100.0, 100.0]))  # both of them gone
    assert leaves(memory) == [1, 1, 5]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_errors_that_are_no_numbers_end_the_run_and_change_nothing(bad):
    memory = filled(3, 3, prioritized(), [1.0, 2.0, 3.0])
    before = snapshot(memory)
    with pytest.raises(NumericalError, match=rf"^diverged: .* {bad}; try .*") as error:
        memory.update_priorities(np.array([0, 1]), np.array([5.0, bad], np.float32))
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)
    assert snapshot(memory) == before


def test_the_largest_float32_errors_are_numbers():
    worst = float(np.finfo(np.float32).max)
    memory = filled(3, 3, Prioritized(2.0, 1e-6, constant(1.0)), [worst, worst, 0.0])
    batch = memory.sample(32)
    assert set(batch.row.tolist()) == {0, 1}
    assert batch.weight.tolist() == [1.0] * 32
    assert memory.effective_size() == pytest.approx(2.0)
    memory.check_valid()


def test_sampling_changes_nothing_but_its_stream_and_takes_a_fixed_part_of_it():
    world = World(2, 3, 40, [[Event.GOES_ON, Event.TRUNCATED]] * 30)
    for seed, sampler in enumerate((prioritized(), prioritized(beta=0.0))):
        memory, _ = play(world, seed, sampler=sampler)
        before, stream = snapshot(memory), deepcopy(memory._rng)
        batches = [memory.sample(40), memory.sample(2)]
        batches[0].weight.zero_()  # a batch belongs to whoever asked for it
        batches[0].row[:] = -1
        assert snapshot(memory) == before
        stream.random(42)
        assert memory._rng.bit_generator.state == stream.bit_generator.state


def test_same_stream_same_batches():
    world = World(2, 3, 40, [[Event.GOES_ON, Event.TRUNCATED]] * 30)
    (one, _), (two, _) = (play(world, 1, sampler=prioritized()) for _ in range(2))
    assert snapshot(one) == snapshot(two)
    for steps in range(5):
        a, b = one.sample(32, steps), two.sample(32, steps)
        assert a.row.tolist() == b.row.tolist()
        assert a.weight.tolist() == b.weight.tolist()
        for memory in (one, two):
            memory.update_priorities(a.row, np.abs(a.reward.numpy()))
    assert snapshot(one) == snapshot(two)


def test_rows_are_the_batch_s_rows():
    for sampler in (Uniform(), prioritized()):
        memory = filled(50, 137, sampler)
        batch = memory.sample(64)
        assert batch.action.tolist() == batch.row.tolist()
        assert memory.newest(3).row.tolist() == [134, 135, 136]
        assert (batch.weight is None) == isinstance(sampler, Uniform)


def test_uniform_rows_are_those_of_one_call_of_the_generator():
    """Runs made before there were samplers stay the same to the last bit."""
    memory, stream = filled(50, 137, None, seed=3), np.random.default_rng(3)
    for _ in range(3):
        assert memory.sample(32, 5).row.tolist() == stream.integers(87, 137, 32).tolist()
    memory.update_priorities(np.array([90]), np.array([np.nan]))
    assert not any(name.startswith("priority") for name in memory.state_dict())


def test_age_counts_the_rows_that_came_since():
    memory = filled(50, 137, None)
    assert memory.age(np.array([136, 135, 87])).tolist() == [0, 1, 49]


def test_effective_size_by_hand():
    assert filled(50, 137, None).effective_size() == 50.0
    assert filled(8, 6, prioritized()).effective_size() == 6.0
    assert filled(3, 3, prioritized(), [1.0, 1.0, 2.0]).effective_size() == pytest.approx(16 / 6)
    assert memory_of(World(1, 1, 5, CALM), sampler=prioritized()).effective_size() == 0.0


def test_check_valid_notices_priorities_of_the_wrong_rows():
    for slot, p in ((1, 0.0), (4, 0.5), (0, 2.0)):
        memory = filled(5, 3, prioritized())
        memory.check_valid()
        memory._sampler._tree.set(np.array([slot]), p)
        with pytest.raises(AssertionError):
            memory.check_valid()
