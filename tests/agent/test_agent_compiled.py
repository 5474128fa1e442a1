"""The compiled gradient against autograd's: with a backend that compiles nothing, and, slowly, with the real one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_learners import MUNCHAUSEN, flat, gradients, make, noisy, random_batch, seeded

from dqn_cli.agent.compiled import Compiled
from dqn_cli.agent.learner import Learner
from dqn_cli.config import Head, MinatarCnnConfig, MlpConfig
from dqn_cli.types import ObsSpec

CELLS = ObsSpec((10, 10, 3), "uint8")


def compiled(learner: Learner, seed: int = 0, backend: str = "eager") -> list[str]:
    """Let it learn by a compiled gradient; the notices that it will give."""
    said: list[str] = []
    learner.gradient = Compiled(learner.network, learner.method, seeded(seed), said.append, backend)
    return said


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


CASES = {
    "vdqn": {"variant": "vdqn"},
    "tdqn": {"variant": "tdqn", "loss": "mse"},
    "ddqn": {"variant": "ddqn"},
    "munchausen": {"munchausen": MUNCHAUSEN},
    "dueling": {"network": MlpConfig(hidden=[8, 6], head=Head.dueling, layer_norm=True)},
    "noisy": {"network": noisy()},
    "noisy munchausen": {"network": noisy(), "munchausen": MUNCHAUSEN, "variant": "tdqn"},
    "categorical": {"value": "categorical"},
    "quantile": {"value": "quantile", "variant": "tdqn"},
    "fqf": {"value": "fqf"},
    "pictures": {"network": MinatarCnnConfig(), "spec": CELLS, "variant": "tdqn"},
}


@pytest.mark.parametrize("case", CASES)
def test_its_updates_are_autograds(case) -> None:
    arguments, weighted = CASES[case], case in ("ddqn", "noisy", "quantile")
    slow, fast = make(**arguments), make(**arguments)
    said = compiled(fast)
    for turn in range(2):
        batch = random_batch(turn, spec=arguments.get("spec", ObsSpec((4,), "float32")))
        if weighted:
            batch = replace(batch, weight=torch.rand(len(batch.action), generator=seeded(turn)))
        one, other = slow.update(batch, turn), fast.update(batch, turn)
        for name in ("loss", "mean_q", "priority"):
            torch.testing.assert_close(getattr(other, name), getattr(one, name), atol=1e-5, rtol=1e-5)
            assert not getattr(other, name).requires_grad
        for name, gradient in gradients(slow.online).items():
            torch.testing.assert_close(gradients(fast.online)[name], gradient, atol=1e-5, rtol=1e-4)
    assert said == []


def test_a_noisy_network_goes_on_drawing_where_autograd_would() -> None:
    slow, fast = make(network=noisy(), rng=seeded(3)), make(network=noisy())
    rng = seeded(3)
    fast.gradient = Compiled(fast.network, fast.method, rng, print, "eager")
    fast.update(random_batch(0), 0)
    slow.update(random_batch(0), 0)
    slow_rng = slow.gradient._rng
    assert torch.equal(torch.rand(5, generator=rng), torch.rand(5, generator=slow_rng))


def test_each_size_of_batch_has_a_program_and_weights_are_read_anew() -> None:
    slow, fast = make("tdqn"), make("tdqn")
    said = compiled(fast)
    for turn, size in enumerate([8, 3, 8]):
        for learner in (slow, fast):
            learner.update(random_batch(turn, size), turn)
            if turn == 1:
                learner.sync_target()
                learner.load_online({name: w * 0.5 for name, w in learner.online.state_dict().items()})
    torch.testing.assert_close(flat(fast.online), flat(slow.online), atol=1e-5, rtol=1e-5)
    assert len(fast.gradient._programs) == 2
    assert said == []
    assert fast.gradient.way == "compiled"
    assert fast.gradient.compile_seconds > 0


def broken(graph, inputs):
    raise OSError("no compiler\nfound " + "x" * 999)


def test_where_the_compiler_fails_autograd_takes_over_to_the_bit() -> None:
    slow, fast = make(network=noisy(), rng=seeded(0)), make(network=noisy())
    said = compiled(fast, backend=broken)
    for turn in range(3):
        slow.update(random_batch(turn), turn)
        fast.update(random_batch(turn), turn)
    assert torch.equal(flat(fast.online), flat(slow.online))
    (line,) = said
    assert line.startswith("note: compile=true: updates are made by autograd, ")
    assert "\n" not in line
    assert len(line) < 260
    assert fast.gradient.way == "by autograd"


def test_gradients_lie_in_memory_as_their_weights_do() -> None:
    learner = make(network=MinatarCnnConfig(), spec=CELLS)
    learner.online.to(memory_format=torch.channels_last)
    compiled(learner)
    learner.update(random_batch(0, spec=CELLS), 0)
    assert all(w.grad.stride() == w.stride() for w in learner.online.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
@pytest.mark.parametrize("case", ["ddqn", "noisy", "categorical", "quantile", "fqf", "pictures"])
def test_in_truth_compiled_updates_are_autograds(case) -> None:
    arguments = CASES[case]
    slow, fast = make(**arguments), make(**arguments)
    said = compiled(fast, backend="inductor")
    for turn in range(20):
        batch = random_batch(turn, spec=arguments.get("spec", ObsSpec((4,), "float32")))
        slow.update(batch, turn)
        fast.update(batch, turn)
    torch.testing.assert_close(flat(fast.online), flat(slow.online), atol=1e-5, rtol=1e-5)
    assert said == []
