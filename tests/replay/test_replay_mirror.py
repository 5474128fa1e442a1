"""Frames that lie on another device too: every batch is the one that the host would have put together."""

from __future__ import annotations

import pytest
import torch
from replay_twin import Life, compare, memory_of, random_world

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_mirrored_memory_gives_the_same_batches_in_random_worlds(device):
    for seed in range(60):
        world = random_world(seed)
        host, mirrored = memory_of(world, seed), memory_of(world, seed, device=device)
        life = Life(world, seed, host, mirrored)
        for t, events in enumerate(world.events):
            life.step(events, host, mirrored)
            if len(host) and t % 5 == 0:
                assert_same(host.sample(16), mirrored.sample(16), device)
        compare(mirrored, life.twin, life.frame_count) if device.type == "cpu" else None
        states = [{name: array.tobytes() for name, array in m.state_dict().items()} for m in (host, mirrored)]
        assert states[0] == states[1]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_mirrored_memory_that_is_loaded_has_the_frames_that_were_written(device):
    world = next(world for world in map(random_world, range(100)) if len(world.events) > 40)
    host = memory_of(world)
    life = Life(world, 0, host)
    for events in world.events:
        life.step(events, host)
    loaded = memory_of(world, device=device)

    def fill(rings):
        for name, ring in rings.items():
            ring.storage[:] = host.rings()[name].storage

    loaded.load(host.small_state(), fill, 1 << 40)
    assert_same(host.sample(64), loaded.sample(64), device)


def assert_same(one, other, device):
    for name in ("obs", "next_obs"):
        assert getattr(other, name).device.type == device.type
    for name in ("obs", "action", "reward", "discount", "next_obs"):
        assert torch.equal(getattr(one, name), getattr(other, name).cpu()), name
