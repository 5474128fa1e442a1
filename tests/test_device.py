"""Devices, threads and staging."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dqn_cli import device, seeding
from dqn_cli.errors import ConfigError
from dqn_cli.seeding import Purpose
from dqn_cli.types import Batch

CORES = device.usable_cores()


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "set_device", pretend.current.append)

    pretend.current = []
    return pretend


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "name", "convolutional", "expected"),
    [
        (0, "auto", False, "cpu"),
        (0, "auto", True, "cpu"),
        (2, "auto", False, "cpu"),
        (2, "auto", True, "cuda:0"),
        (2, "cpu", True, "cpu"),
        (2, "cuda", False, "cuda:0"),
        (2, "cuda:1", False, "cuda:1"),
    ],
)
def test_device_by_name(gpus, count, name, convolutional, expected) -> None:
    gpus(count)
    assert device.resolve(name, convolutional) == torch.device(expected)
    # streams and events are the current device's where none is named
    assert gpus.current == [torch.device(expected)] * expected.startswith("cuda")


def test_mps_only_when_asked(monkeypatch, gpus) -> None:
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.resolve("auto", True).type == "cpu"
    assert device.resolve("mps", False).type == "mps"


@pytest.mark.parametrize(
    ("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (0, "mps"), (0, "gpu"), (0, ""), (0, "meta")]
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(gpus, count, name) -> None:
    gpus(count)
    there = "cpu, cuda:0, cuda:1" if count else "cpu"
    with pytest.raises(ConfigError, match=f"^device={name} is not available here; write auto or one of: {there}$"):
        device.resolve(name, True)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize(("setting", "count"), [("1", 1), (str(CORES), CORES)])
def test_threads(setting, count, convolutional) -> None:
    torch.set_num_threads(CORES % 2 + 1)
    assert device.set_threads(setting, convolutional) == count == torch.get_num_threads()


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(
    ("allowed", "physical", "convolutional", "count"),
    [(8, 4, False, 1), (8, 4, True, 4), (2, 4, True, 2), (4, None, True, 4), (1, 1, True, 1)],
)
def test_auto_gives_convolutions_the_physical_cores_that_are_allowed(
    monkeypatch, allowed, physical, convolutional, count
) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: allowed)
    monkeypatch.setattr(device.psutil, "cpu_count", lambda logical: physical)
    assert device.set_threads("auto", convolutional) == count == torch.get_num_threads()


@pytest.mark.parametrize("setting", ["0", "-1", "1.5", "many", "", str(CORES + 1)])
def test_impossible_thread_counts_are_refused(setting) -> None:
    with pytest.raises(ConfigError, match=f"^threads={setting} .*; write auto or a number from 1 to {CORES}$"):
        device.set_threads(setting, False)


@pytest.mark.parametrize(
    ("kind", "machine", "has", "slow"),
    [
        ("cpu", "x86_64", (False, False), True),
        ("cpu", "AMD64", (False, False), True),
        ("cpu", "x86_64", (True, False), False),
        ("cpu", "x86_64", (False, True), False),
        ("cpu", "arm64", (False, False), False),
        ("cuda", "x86_64", (False, False), False),
    ],
)
def test_a_cpu_without_bfloat16_says_so(monkeypatch, kind, machine, has, slow) -> None:
    monkeypatch.setattr(device.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has[1])
    line = device.slow_bfloat16(torch.device(kind))
    assert (line is not None) == slow
    assert line is None or line.startswith("precision=bf16 will be slower")


def test_staging() -> None:
    fields = torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2), torch.ones(2), torch.zeros(2, 3), torch.ones(2)
    batch = Batch(*fields, row=np.array([3, 4]))
    assert device.to_device(batch, torch.device("cpu")) is batch
    moved = device.to_device(batch, torch.device("meta"))
    assert moved.row is batch.row  # the memory's own, never on a device
    for name, tensor in zip(Batch.__slots__, fields, strict=False):
        copy = getattr(moved, name)
        assert copy.device.type == "meta"
        assert (copy.shape, copy.dtype) == (tensor.shape, tensor.dtype)


def test_a_batch_without_weights_has_none_elsewhere_either() -> None:
    fields = torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2), torch.ones(2), torch.zeros(2, 3)
    assert device.to_device(Batch(*fields), torch.device("meta")).weight is None


def test_where_a_stream_stands_is_text_that_differs_after_a_draw() -> None:
    stream = device.generator(5, torch.device("cpu"))
    before = device.state_of(stream)
    assert before == device.state_of(device.generator(5, torch.device("cpu"))) != device.state_of(torch.Generator())
    torch.rand(1, generator=stream)
    assert device.state_of(stream) != before


def test_a_stream_goes_on_where_another_stood():
    one, other = device.generator(1, torch.device("cpu")), device.generator(2, torch.device("cpu"))
    torch.rand(7, generator=one)
    device.move_to(other, device.state_of(one))
    assert torch.equal(torch.randn(9, generator=one), torch.randn(9, generator=other))


@pytest.mark.parametrize("state", [None, 3, "", "AAAA", "not base64!", "ä", ["A"]])
def test_what_is_no_position_of_a_stream_is_refused(state):
    with pytest.raises(ValueError, match="not the position of a stream"):
        device.move_to(device.generator(1, torch.device("cpu")), state)


def test_numpys_streams_too():
    one, other = seeding.generator(1, Purpose.REPLAY), seeding.generator(2, Purpose.REPLAY)
    one.integers(0, 9, 5, dtype=np.uint32)  # half of a 64 bit number is left for the next draw
    seeding.move_to(other, json.loads(json.dumps(seeding.state_of(one))))
    assert one.integers(0, 2**30, 9, dtype=np.uint32).tolist() == other.integers(0, 2**30, 9, dtype=np.uint32).tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"bit_generator": "MT19937"},
        {"state": {"state": 1.5, "inc": 3}},
        {"state": {"state": -1, "inc": 3}},
        {"state": {"state": 2**200, "inc": 3}},
        {"state": []},
        {"has_uint32": "x"},
        {"uinteger": 2**70},
    ],
)
def test_what_is_no_position_of_numpys_streams_is_refused(change):
    stream = seeding.generator(1, Purpose.REPLAY)
    with pytest.raises(ValueError, match=r"position|PCG64"):
        seeding.move_to(stream, seeding.state_of(stream) | change)
