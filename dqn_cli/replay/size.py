"""How many frames, and how many bytes, a replay memory takes: known before anything is allocated."""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np

from dqn_cli.config import ReplayConfig, UniformConfig
from dqn_cli.replay.sum_tree import tree_bytes
from dqn_cli.types import ObsSpec

SEGMENT = 16_384  # records of a ring in one file: what a checkpoint writes once more, at most
SLACK_BYTES = 8 * 2**20  # frames beyond the capacity that cost less than this are simply kept


def row_dtype(stack: int) -> np.dtype[Any]:
    """One stored transition: the frame ids of obs and next_obs, and the three numbers of the n-step return."""
    fields = [("ids", "i8", (2, stack)), ("action", "i4"), ("reward", "f4"), ("discount", "f4")]
    return np.dtype(fields, align=True)


def row_struct(stack: int) -> Struct:
    """A row's bytes from its numbers, as `row_dtype` lays them out."""
    return Struct(f"={2 * stack}qiff4x")


def window_dtype(stack: int) -> np.dtype[Any]:
    """One n-step return that is still being summed up, from the step at which it began."""
    return np.dtype([("obs", "i8", (stack,)), ("reward", "f8"), ("action", "i4")], align=True)


def margin(stack: int, n_step: int, num_envs: int) -> int:
    """Frames that can be appended between a row's oldest frame and the row itself.

    The oldest frame came at most `stack + n_step` vector steps before the row, and a step appends at most two frames
    per environment: the successor, and the first frame of a new episode.
    """
    return 2 * (stack + n_step) * num_envs


def frames_kept(capacity: int, spec: ObsSpec, n_step: int, num_envs: int) -> int:
    """Frames that the ring holds for `capacity` rows.

    A row needs one new frame, and one more where it begins an episode. Frames so cheap that twice the capacity costs
    little get it: `capacity` rows are then kept however short the episodes are. Dear ones get 1/64: where episodes are
    shorter than 64 steps on average, the oldest rows go early. The rest is room for the margin by which rows retire
    early, for the frames between a row's oldest frame and the row, and for transitions in windows that are still open.
    """
    slack = max(capacity // 64, min(capacity, SLACK_BYTES // spec.frame_bytes))
    return capacity + slack + 2 * margin(spec.stack, n_step, num_envs) + n_step * num_envs


def replay_bytes(capacity: int, spec: ObsSpec, n_step: int, num_envs: int, prioritized: bool = False) -> int:
    """Bytes that `ReplayMemory` allocates: frames, rows, each environment's stack, open windows and priorities."""
    frames = frames_kept(capacity, spec, n_step, num_envs) * spec.frame_bytes
    rows = capacity * row_dtype(spec.stack).itemsize
    stacks = num_envs * spec.stack * 8
    windows = 0 if n_step == 1 else num_envs * (n_step * window_dtype(spec.stack).itemsize + 8)
    return frames + rows + stacks + windows + (tree_bytes(capacity) if prioritized else 0)


def disk_bytes(capacity: int, spec: ObsSpec, n_step: int, num_envs: int, prioritized: bool = False) -> int:
    """Bytes at most that a checkpoint needs for the full memory, before compression.

    A segment is kept as long as one of its records is in the ring, so there may be almost one more than the ring holds.
    Every further checkpoint that is kept adds what is new in it, and the priorities.
    """
    frames, row = frames_kept(capacity, spec, n_step, num_envs), row_dtype(spec.stack).itemsize
    small = replay_bytes(capacity, spec, n_step, num_envs) - frames * spec.frame_bytes - capacity * row
    priorities = 8 * (capacity + 1) if prioritized else 0  # the leaves and the largest: the tree is a function of them
    counters = 4 * 8  # the memory's three, and the number of steps
    return (frames + SEGMENT - 1) * spec.frame_bytes + (capacity + SEGMENT - 1) * row + small + priorities + counters


def replay_capacity(config: ReplayConfig, num_envs: int) -> int:
    """Rows kept: `replay.capacity`, or without replay those that one step of all environments can finish."""
    return config.capacity if isinstance(config, UniformConfig) else config.n_step * num_envs
