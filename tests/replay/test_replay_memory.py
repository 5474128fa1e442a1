"""What the memory hands out: uniform samples, the newest rows, dtypes; and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from replay_twin import Event, World, memory_of, play

from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.replay.frames import FrameRing, first_stack, pushed_stack
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.types import ObsSpec, StepResult

CALM = [[Event.GOES_ON]]


def numbered(memory, count, reward=1.0, begin=0):
    """Append `count` endless steps of one lane; the action is the row's number."""
    no, frame = np.zeros(1, bool), np.zeros((1, 2), np.int32)
    if begin == 0:
        memory.start(frame)
    for action in range(begin, begin + count):
        memory.append(np.array([action]), StepResult(frame, frame, np.array([reward]), no, no, no))


def test_sampling_is_uniform_over_the_live_rows():
    memory = memory_of(World(1, 1, 50, CALM), seed=3)
    numbered(memory, 137)
    draws = memory.sample(50_000).action.numpy()
    assert draws.min() >= 87
    assert draws.max() <= 136
    counts = np.bincount(draws - 87, minlength=50)
    assert ((counts - 1000) ** 2 / 1000).sum() < 85.4  # the 99.9 % point of chi-square with 49 degrees of freedom


def test_sampling_covers_a_memory_that_is_not_full():
    memory = memory_of(World(1, 1, 50, CALM))
    numbered(memory, 3)
    assert set(memory.sample(200).action.tolist()) == {0, 1, 2}


def test_sampling_changes_nothing_but_its_stream():
    memory, _ = play(World(2, 3, 40, [[Event.GOES_ON, Event.TRUNCATED]] * 30), 0)
    before = {name: array.tobytes() for name, array in memory.state_dict().items()}
    one, two = memory.sample(1000), memory.sample(1000)
    one.obs.zero_()  # a batch belongs to whoever asked for it
    one.reward.zero_()
    assert {name: array.tobytes() for name, array in memory.state_dict().items()} == before
    assert not torch.equal(one.action, two.action)


def test_same_stream_same_batch():
    world = World(2, 3, 40, [[Event.GOES_ON, Event.TRUNCATED]] * 30)
    (one, _), (two, _) = play(world, 1), play(world, 1)
    for name in ("obs", "action", "reward", "discount", "next_obs"):
        assert torch.equal(getattr(one.sample(32), name), getattr(two.sample(32), name))
    states = [{name: array.tobytes() for name, array in memory.state_dict().items()} for memory in (one, two)]
    assert states[0] == states[1]
    other, _ = play(world, 2)
    assert other.state_dict()["row.action"].tobytes() != states[0]["row.action"]


@pytest.mark.parametrize(
    ("spec", "shape"), [(ObsSpec((4,), "float32", 1), (4,)), (ObsSpec((84, 84), "uint8", 4), (4, 84, 84))]
)
def test_shapes_and_dtypes(spec, shape):
    memory = ReplayMemory(10, spec, NStepAccumulator(1, 0.99, 2), np.random.default_rng(0))
    frame, no = np.ones((2, *spec.frame_shape), spec.dtype), np.zeros(2, bool)
    memory.start(frame)
    assert memory.append(np.zeros(2, np.int64), StepResult(frame, frame, np.ones(2), no, no, no)) == 2
    batch = memory.sample(5)
    assert batch.obs.shape == batch.next_obs.shape == (5, *shape)
    assert batch.obs.dtype == batch.next_obs.dtype == getattr(torch, spec.dtype)
    assert [batch.action.dtype, batch.reward.dtype, batch.discount.dtype] == [torch.int64, torch.float32, torch.float32]
    assert batch.action.shape == batch.reward.shape == batch.discount.shape == (5,)


def test_newest_come_in_the_order_of_writing_across_the_wrap():
    memory = memory_of(World(1, 1, 7, CALM))
    numbered(memory, 10)
    assert memory.newest(5).action.tolist() == [5, 6, 7, 8, 9]
    assert memory.newest(7).action.tolist() == [3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(AssertionError, match="8 rows wanted, 7 are live"):
        memory.newest(8)


def test_newest_rows_of_an_end_are_its_tails():
    world = World(1, 3, 20, [[Event.GOES_ON]] * 5 + [[Event.TERMINATED]])
    memory, twin = play(world, 0)
    assert memory.newest(3).action.tolist() == [row[1] for row in twin.rows[-3:]]
    assert memory.newest(3).discount.tolist() == [0.0] * 3


def test_one_step_that_finishes_more_rows_than_fit_keeps_the_last_ones():
    world = World(2, 4, 3, [[Event.GOES_ON] * 3] * 3 + [[Event.TRUNCATED] * 3])
    memory, twin = play(world, 0)
    assert len(twin.rows) == 12
    assert len(memory) == 3


@pytest.mark.parametrize(("clip", "total"), [(None, 4.5), (1.0, 1.5), (2.0, 3.0), (3.0, 4.5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_rewards_are_clipped_before_they_are_summed(clip, total, sign):
    memory = memory_of(World(1, 2, 10, CALM, discount=0.5), reward_clip=clip)
    numbered(memory, 2, reward=3.0 * sign)
    assert memory.newest(1).reward.tolist() == [total * sign]


def test_windows_that_are_open_are_not_rows_yet():
    memory = memory_of(World(1, 3, 10, CALM))
    numbered(memory, 2)
    assert len(memory) == 0
    with pytest.raises(AssertionError, match="nothing to sample"):
        memory.sample(1)
    numbered(memory, 1, begin=2)
    assert memory.sample(2).action.tolist() == [0, 0]


@pytest.mark.parametrize("n_step", [1, 2, 3, 4])
def test_frames_that_both_stacks_show_are_gathered_once_unless_a_window_was_cut_short(n_step):
    calm = [[Event.GOES_ON]] * 12
    memory, _ = play(World(4, n_step, 20, calm), 0)
    batch = memory.sample(8)
    assert np.shares_memory(batch.obs.numpy(), batch.next_obs.numpy()) == (n_step < 4)
    memory, _ = play(World(4, n_step, 20, [*calm, [Event.TERMINATED]]), 0)
    batch = memory.newest(n_step)  # windows of n, n - 1, ... 1 steps
    assert np.shares_memory(batch.obs.numpy(), batch.next_obs.numpy()) == (n_step == 1)
    last = np.array([8, 9, 10, 11, 12, 13])[:, None] * np.array([1, -1])
    for i, (obs, next_obs) in enumerate(zip(batch.obs.numpy(), batch.next_obs.numpy(), strict=True)):
        np.testing.assert_array_equal(next_obs, last[-4:])
        np.testing.assert_array_equal(obs[-1], last[-1 - n_step + i])


def test_a_reward_beyond_float32_is_infinite_and_said():
    memory = memory_of(World(1, 1, 10, CALM))
    with pytest.warns(RuntimeWarning, match="overflow"):
        numbered(memory, 2, reward=-1e39)
    assert memory.newest(2).reward.tolist() == [-np.inf, -np.inf]
    assert memory.newest(2).action.tolist() == [0, 1]


def test_clipping_does_not_make_a_number_of_what_is_none():
    memory = memory_of(World(1, 1, 10, CALM), reward_clip=1.0)
    numbered(memory, 1, reward=np.nan)
    assert np.isnan(memory.newest(1).reward.item())


def test_start_comes_once():
    memory = memory_of(World(1, 1, 10, CALM))
    numbered(memory, 1)
    with pytest.raises(AssertionError, match="start"):
        memory.start(np.zeros((1, 2), np.int32))


def test_check_valid_notices_rows_that_lead_nowhere():
    memory, _ = play(World(2, 1, 10, CALM * 5), 0)
    memory.check_valid()
    for ids in ([[3, 9], [9, 10]], [[3, 2], [2, 4]], [[3, 4], [4, 4]], [[-1000, 1], [1, 2]]):
        kept = memory.state_dict()["row.ids"][2].copy()
        memory.state_dict()["row.ids"][2] = ids
        with pytest.raises(AssertionError):
            memory.check_valid()
        memory.state_dict()["row.ids"][2] = kept
    memory.check_valid()


def test_frames_are_stored_once_and_found_by_id():
    ring = FrameRing(5, ObsSpec((2,), "int32", 3))
    frames = np.arange(16, dtype=np.int32).reshape(8, 2)
    assert list(ring.append(frames[:3])) == [0, 1, 2]
    assert list(ring.append(frames[3:7])) == [3, 4, 5, 6]  # wraps
    assert list(ring.append(frames[7:])) == [7]
    ids = np.array([[[3, 4, 5], [4, 5, 6]], [[3, 3, 7], [5, 6, 7]]])
    np.testing.assert_array_equal(ring.gather(ids), frames[ids])
    assert ring.storage.shape == (5, 2)


def test_a_stack_begins_with_its_first_frame_repeated():
    assert first_stack(9, 3) == (9, 9, 9)
    assert pushed_stack(pushed_stack((4, 4, 4), 10), 12) == (4, 10, 12)
    assert pushed_stack((4,), 5) == (5,)


@pytest.mark.parametrize("stack", [1, 3])
def test_replay_shows_what_the_actor_saw(stack):
    spec, rng = ObsSpec((2,), "float32", stack), np.random.default_rng(0)
    actor, memory = FrameStack(spec, 2), ReplayMemory(100, spec, NStepAccumulator(1, 0.9, 2), rng)
    frame, seen = rng.random((2, 2), np.float32), []
    memory.start(frame)
    first = np.ones(2, bool)
    for _ in range(40):
        seen.append(actor.push(frame, first).copy())
        successor, first = rng.random((2, 2), np.float32), rng.random(2) < 0.3
        frame = np.where(first[:, None], rng.random((2, 2), np.float32), successor)
        memory.append(np.zeros(2, np.int64), StepResult(frame, successor, np.ones(2), first, ~first & False, first))
    np.testing.assert_array_equal(memory.newest(80).obs.numpy(), np.concatenate(seen))
