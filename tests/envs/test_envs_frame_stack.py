"""The actor's frame stack against a list of deques."""

from collections import deque

import numpy as np
import pytest

from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.types import ObsSpec


@pytest.mark.parametrize("stack", [2, 3, 4])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("shape", "dtype"), [((4,), "float32"), ((2, 3), "uint8")])
def test_equals_the_naive_twin(stack, num_envs, shape, dtype):
    rng = np.random.default_rng(0)
    frames = FrameStack(ObsSpec(shape, dtype, stack), num_envs)
    twins = [deque(maxlen=stack) for _ in range(num_envs)]
    before = kept = None
    for t in range(60):
        frame = rng.integers(0, 255, (num_envs, *shape)).astype(dtype)
        first = np.full(num_envs, True) if t == 0 else rng.random(num_envs) < 0.2
        for lane, twin in enumerate(twins):
            twin.extend([frame[lane]] * (stack if first[lane] else 1))
        obs = frames.push(frame, first)
        assert obs.dtype == dtype
        np.testing.assert_array_equal(obs, [np.stack(twin) for twin in twins])
        if before is not None:
            np.testing.assert_array_equal(before, kept)  # the last observation outlives one push
        before, kept = obs, obs.copy()


def test_without_stacking_the_frame_itself_is_returned():
    frame = np.ones((2, 4), np.float32)
    assert FrameStack(ObsSpec((4,), "float32"), 2).push(frame, np.array([True, False])) is frame
