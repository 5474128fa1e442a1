"""Updates as a CUDA graph: what can be shown without one, by a recorder that does the work again, and with one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_learners import BATCH, make, random_batch, seeded, state_of
from torch import Tensor

from dqn_cli.agent.captured import WARM_UP, Captured
from dqn_cli.config import AdamConfig, MlpConfig
from dqn_cli.device import GraphRecorder
from dqn_cli.schedules import linear
from dqn_cli.types import Batch, UpdateResult

CPU = torch.device("cpu")


class Again:
    """What a CUDA graph does, as far as a CPU can: the work is handed over once, and done at each replay."""

    def __init__(self, refuses: bool = False) -> None:
        self.words: list[str] = []
        self._refuses = refuses

    def warm_up(self, work):
        self.words.append("warm up")
        return work()

    def record(self, work):
        self.words.append("record")
        if self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._work = work

    def replay(self):
        self.words.append("replay")
        return self._work()


def weighted(seed: int) -> Batch:
    return replace(random_batch(seed), weight=torch.rand(BATCH, generator=seeded(seed)))


def seeing(seen: list[Batch]):
    def update(batch: Batch) -> UpdateResult:
        seen.append(batch)
        return UpdateResult(batch.reward.sum(), batch.reward.mean(), None, batch.reward.abs())

    return update


def test_the_first_updates_are_made_as_they_are_and_all_others_are_replays():
    recorder = Again()
    captured = Captured(seeing([]), recorder, CPU, pytest.fail)
    for seed in range(WARM_UP + 3):
        captured(random_batch(seed))
    assert recorder.words == ["warm up"] * WARM_UP + ["record"] + ["replay"] * 3


def test_every_batch_comes_over_whole_and_lies_in_the_same_memory():
    seen: list[Batch] = []
    captured = Captured(seeing(seen), Again(), CPU, pytest.fail)
    batches = [weighted(seed) for seed in range(WARM_UP + 3)]
    for batch in batches:
        captured(batch)
        for name in ("obs", "action", "reward", "discount", "next_obs", "weight"):
            given, got = getattr(batch, name), getattr(seen[-1], name)
            assert got.dtype == given.dtype
            assert torch.equal(got, given), name
    for name in ("obs", "reward", "discount", "next_obs", "weight"):  # actions become integers within the work
        assert len({getattr(batch, name).data_ptr() for batch in seen}) == 1, name


def test_a_batch_without_weights_has_none():
    seen: list[Batch] = []
    Captured(seeing(seen), Again(), CPU, pytest.fail)(random_batch(0))
    assert seen[0].weight is None


@pytest.mark.parametrize(
    "switches",
    [{}, {"value": "implicit"}, {"value": "fqf"}, {"network": MlpConfig(hidden=[8, 6], noisy=True)}],
    ids=["scalar", "implicit", "fqf", "noisy"],
)
def test_captured_updates_are_those_that_are_not(switches):
    plain, captured = (make("ddqn", lr=linear(3e-3, 1e-4, 30), **switches) for _ in range(2))
    captured.capture(Again(), pytest.fail)
    for seed in range(12):
        a, b = (learner.update(weighted(seed), 2 * seed) for learner in (plain, captured))
        assert_same(a, b)
        if seed % 5 == 4:
            for learner in (plain, captured):
                learner.sync_target()
    assert state_of(plain) == state_of(captured)


def test_an_update_that_cannot_be_recorded_goes_on_as_it_is_and_says_why():
    plain, captured, said = make(), make(), []
    captured.capture(Again(refuses=True), said.append)
    for seed in range(WARM_UP + 3):
        assert_same(plain.update(random_batch(seed), 0), captured.update(random_batch(seed), 0))
    assert said == ["note: updates are not captured as a CUDA graph: operation not permitted when stream is capturing"]
    assert state_of(plain) == state_of(captured)


def assert_same(a: UpdateResult, b: UpdateResult) -> None:
    for name in ("loss", "mean_q", "grad_norm", "priority"):
        one, other = getattr(a, name), getattr(b, name)
        assert one is other is None or torch.equal(one, other), name


@pytest.mark.gpu
@pytest.mark.parametrize("value", ["scalar", "categorical", "quantile", "implicit", "fqf"])
@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "noisy"])
def test_a_graph_of_an_update_is_that_update(value, noisy):
    device = torch.device("cuda")
    learners, draws = [], []
    for _ in range(2):
        draws.append(torch.Generator(device).manual_seed(3))
        network = MlpConfig(hidden=[8, 6], noisy=noisy)
        learner = make("ddqn", value, network=network, rng=draws[-1], device=device, lr=linear(3e-3, 1e-4, 300))
        learners.append(learner)
    plain, captured = learners
    captured.capture(GraphRecorder(draws[1]), pytest.fail)
    for seed in range(200):
        results = [learner.update(weighted(seed), seed) for learner in learners]
        torch.testing.assert_close(results[0].loss, results[1].loss, rtol=1e-5, atol=1e-6)
        if seed % 50 == 49:
            for learner in learners:
                learner.sync_target()
    pairs = zip(plain.online.parameters(), captured.online.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_a_changed_learning_rate_reaches_the_graph():
    device = torch.device("cuda")
    rng = torch.Generator(device).manual_seed(0)
    learner = make(optimizer=AdamConfig(lr=1e-3), rng=rng, device=device, lr=lambda step: 1e-3 if step < 10 else 0.0)
    learner.capture(GraphRecorder(rng), pytest.fail)
    for seed in range(10):
        learner.update(random_batch(seed), seed)
    before: list[Tensor] = [w.detach().clone() for w in learner.online.parameters()]
    learner.update(random_batch(10), 10)
    assert all(torch.equal(w, old) for w, old in zip(learner.online.parameters(), before, strict=True))
