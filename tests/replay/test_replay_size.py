"""The bytes that are promised, and those that are taken."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import psutil
import pytest

from dqn_cli.config import OnlineConfig, UniformConfig
from dqn_cli.errors import ConfigError
from dqn_cli.replay import segments, size
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.replay.samplers import Prioritized
from dqn_cli.replay.segments import SegmentStore
from dqn_cli.replay.size import disk_bytes, frames_kept, replay_bytes, replay_capacity, row_dtype
from dqn_cli.schedules import constant
from dqn_cli.types import ObsSpec, StepResult

CARTPOLE = ObsSpec((4,), "float32", 1)
ATARI = ObsSpec((84, 84), "uint8", 4)


def build(capacity, spec, n_step, num_envs, prioritized=False):
    accumulator, rng = NStepAccumulator(n_step, 0.99, num_envs), np.random.default_rng(0)
    sampler = Prioritized(0.6, 1e-6, constant(1.0)) if prioritized else None
    return ReplayMemory(capacity, spec, accumulator, rng, None, sampler)


@pytest.mark.parametrize("spec", [CARTPOLE, ATARI, ObsSpec((3,), "float64", 2)])
@pytest.mark.parametrize(("n_step", "num_envs"), [(1, 1), (3, 1), (1, 64), (5, 64)])
@pytest.mark.parametrize(("capacity", "prioritized"), [(1, False), (1000, False), (20_000, False), (20_000, True)])
def test_promised_bytes_are_the_allocated_bytes(spec, n_step, num_envs, capacity, prioritized):
    promised = replay_bytes(capacity, spec, n_step, num_envs, prioritized)
    build(1, spec, n_step, num_envs, prioritized)  # the first one imports what NumPy imports late
    tracemalloc.start()
    memory = build(capacity, spec, n_step, num_envs, prioritized)
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert memory.nbytes == promised
    assert abs(allocated - promised) <= 20_000  # the objects themselves, and open windows as plain numbers


@pytest.mark.parametrize(("n_step", "num_envs"), [(1, 1), (3, 1), (3, 64)])
def test_a_million_atari_transitions_take_at_most_7_3_gb(n_step, num_envs):
    assert 7.06e9 < replay_bytes(1_000_000, ATARI, n_step, num_envs) <= 7.3e9
    assert row_dtype(4).itemsize <= 100


@pytest.mark.skipif(psutil.virtual_memory().total < 12e9, reason="the system might not even promise 7.3 GB")
def test_memory_is_taken_only_as_it_is_written():
    before = psutil.Process().memory_info().rss
    memory = build(1_000_000, ATARI, 1, 1)
    memory.start(np.ones((1, 84, 84), np.uint8))
    assert memory.nbytes <= 7.3e9
    assert psutil.Process().memory_info().rss - before < 1e8


def test_cheap_frames_get_twice_the_room_and_dear_ones_a_64th():
    assert frames_kept(100_000, CARTPOLE, 1, 1) >= 200_000
    assert 1_015_625 <= frames_kept(1_000_000, ATARI, 1, 1) < 1_016_000


def test_more_than_there_is_is_refused_with_both_numbers():
    with pytest.raises(
        ConfigError, match=r"^replay.capacity=10+ needs 48\d{6}\.\d GB .* \d+\.\d GB are free; "
    ) as error:
        build(10**15, CARTPOLE, 1, 1)
    assert "\n" not in str(error.value)
    for prioritized in (False, True):
        with pytest.raises(ConfigError, match="capacity"):
            build(10**30, CARTPOLE, 1, 1, prioritized)


def test_a_million_priorities_take_8_mb():
    sizes = 1_000_000, ATARI, 1, 1
    assert replay_bytes(*sizes, prioritized=True) - replay_bytes(*sizes) == 8 * (1_000_000 + 15_680 + 256 + 64 + 1)


def test_capacity_without_replay_is_what_one_step_can_finish():
    assert replay_capacity(UniformConfig(capacity=123, n_step=3), 4) == 123
    assert replay_capacity(OnlineConfig(n_step=3), 4) == 12


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("n_step", "num_envs"), [(1, 1), (3, 4)])
def test_what_a_checkpoint_needs_on_disk_comes_up_to_the_bound(monkeypatch, tmp_path, n_step, num_envs, prioritized):
    for module in (size, segments):
        monkeypatch.setattr(module, "SEGMENT", 16)
    spec, largest = ObsSpec((3,), "float64", 2), {"frames": 0, "rows": 0}
    memory, store = build(40, spec, n_step, num_envs, prioritized), SegmentStore(tmp_path)
    frame, no = np.ones((num_envs, 3)), np.zeros(num_envs, bool)
    memory.start(frame)
    records = {name: ring.record_bytes for name, ring in memory.rings().items()}
    for _ in range(100 + 16 * 16):
        memory.append(np.zeros(num_envs, int), StepResult(frame, frame, np.ones(num_envs), no, no, no))
        found = store.save(memory.rings())
        for ring, most in largest.items():
            used = sum(segment.end - segment.begin for segment in found if segment.ring == ring) * records[ring]
            largest[ring] = max(most, used)
    reached = sum(largest.values()) + sum(array.nbytes for array in memory.small_state().values())
    bound = disk_bytes(40, spec, n_step, num_envs, prioritized)
    assert bound - sum(records.values()) * num_envs < reached <= bound


def test_a_million_atari_transitions_take_7_3_gb_on_disk_before_compression():
    frames, rows = 1_015_645 + 16_383, 1_000_000 + 16_383
    assert frames_kept(1_000_000, ATARI, 1, 1) == 1_015_646
    assert disk_bytes(1_000_000, ATARI, 1, 1) == (frames + 1) * 7056 + rows * 80 + 4 * 8 + 3 * 8 + 8
    assert disk_bytes(1_000_000, ATARI, 1, 1, True) - disk_bytes(1_000_000, ATARI, 1, 1) == 8_000_008


def test_sizes_are_known_without_torch():
    code = "import sys, dqn_cli.replay.size; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
