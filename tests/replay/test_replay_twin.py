"""The memory against its naive twin, in thousands of random worlds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_twin import Event, World, play, random_world

from dqn_cli.replay import memory as memory_module
from dqn_cli.replay import size
from dqn_cli.replay.samplers import Prioritized
from dqn_cli.schedules import constant


def crowded_worlds(seeds: range):
    """Worlds long enough, with frames dear enough, for rows to go because of their frames."""
    for seed in seeds:
        yield seed, random_world(seed, steps=300)


def errors_as_they_are():
    return Prioritized(alpha=1.0, eps=0.0, beta=constant(1.0))


def test_equals_the_twin_in_random_worlds():
    full = 0
    for seed in range(2500):
        world = random_world(seed)
        memory, twin = play(world, seed, check_every=23)
        # frames this cheap have room for the shortest episodes: rows go by capacity alone
        assert len(memory) == min(world.capacity, len(twin.rows))
        full += len(twin.rows) > world.capacity
    assert full > 1000


def test_equals_the_twin_where_frames_run_out(monkeypatch):
    monkeypatch.setattr(size, "SLACK_BYTES", 0)
    early = 0
    for seed, world in crowded_worlds(range(250)):
        memory, twin = play(world, seed, check_every=71)
        early += len(memory) < min(world.capacity, len(twin.rows))
    assert early > 20


def test_priorities_equal_the_twin_s_in_random_worlds():
    for seed in range(300):
        play(random_world(seed), seed, check_every=7, sampler=errors_as_they_are())


def test_priorities_equal_the_twin_s_where_rows_go_early(monkeypatch):
    monkeypatch.setattr(size, "SLACK_BYTES", 0)
    early = 0
    for seed, world in crowded_worlds(range(40)):
        memory, twin = play(world, seed, check_every=11, sampler=errors_as_they_are())
        early += len(memory) < min(world.capacity, len(twin.rows))
    assert early > 3


def test_without_the_margin_rows_outlive_their_frames(monkeypatch):
    monkeypatch.setattr(size, "SLACK_BYTES", 0)
    monkeypatch.setattr(memory_module, "margin", lambda *sizes: 0)
    broken = 0
    for seed, world in crowded_worlds(range(50)):
        try:
            play(world, seed, check_every=5)
        except AssertionError:
            broken += 1
    assert broken > 0


def test_a_patient_lane_beside_a_hectic_one_needs_the_margin(monkeypatch):
    """Lane 0 restarts at every step, lane 1 never: its rows come later but reach further back."""
    monkeypatch.setattr(size, "SLACK_BYTES", 0)
    world = World(4, 4, 200, [[Event.TERMINATED, Event.GOES_ON]] * 200)
    play(world, 0, check_every=1)
    monkeypatch.setattr(memory_module, "margin", lambda *sizes: 0)
    with pytest.raises(AssertionError, match="lost frame"):
        play(world, 0, check_every=1)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_equals_the_twin_in_adversarial_worlds(data):
    envs = data.draw(st.integers(1, 4))
    lanes = st.lists(st.sampled_from(Event), min_size=envs, max_size=envs)
    events = data.draw(st.lists(lanes, min_size=1, max_size=40))
    stack, n_step, capacity = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 30)))
    sampler = data.draw(st.sampled_from([None, errors_as_they_are()]))
    memory, twin = play(World(stack, n_step, capacity, events), 0, check_every=5, sampler=sampler)
    assert len(memory) == min(capacity, len(twin.rows))


@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize("envs", [1, 3, 64])
@pytest.mark.parametrize("capacity", [1, 50, 300])
def test_cheap_frames_keep_capacity_rows_of_one_step_episodes(envs, n_step, capacity):
    events = [[Event.TERMINATED] * envs] * (2 * capacity // envs + 5)
    memory, _ = play(World(4, n_step, capacity, events), 0)
    assert len(memory) == capacity


def test_cheap_frames_keep_capacity_rows_when_windows_stay_open():
    """The worst case: a patient lane's row, beside lanes that restart at every step and then fall silent."""
    n_step, envs = 8, 16
    hectic = [[Event.GOES_ON] + [Event.TERMINATED] * (envs - 1)] * 12
    silent = [[Event.GOES_ON] * envs] * (n_step - 1)
    for capacity in range(1, 3 * envs):
        memory, _ = play(World(1, n_step, capacity, hectic + silent), 0)
        assert len(memory) == capacity
