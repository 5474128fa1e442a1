"""Optimisers against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dqn_cli.agent import optimizers
from dqn_cli.agent.optimizers import Descent, FusedAdam, RmspropNature, make_optimizer
from dqn_cli.config import (
    CHOICES,
    AdamConfig,
    OptimizerConfig,
    RmspropConfig,
    RmspropNatureConfig,
    SgdConfig,
)
from dqn_cli.schedules import constant


def adam(g, s, c):
    s["t"] = s.get("t", 0) + 1
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g * g
    return s["m"] / (1 - 0.9 ** s["t"]) / (np.sqrt(s["v"] / (1 - 0.999 ** s["t"])) + c.eps)


def rmsprop(g, s, c):
    s["m"] = c.decay * s.get("m", 0) + (1 - c.decay) * g
    s["v"] = c.decay * s.get("v", 0) + (1 - c.decay) * g * g
    s["b"] = c.momentum * s.get("b", 0) + g / (np.sqrt(s["v"] - (s["m"] ** 2 if c.centered else 0)) + c.eps)
    return s["b"]


def rmsprop_nature(g, s, c):
    s["m"] = c.decay * s.get("m", 0) + (1 - c.decay) * g
    s["v"] = c.decay * s.get("v", 0) + (1 - c.decay) * g * g
    return g / np.sqrt(s["v"] - s["m"] ** 2 + c.eps)


def sgd(g, s, c):
    s["m"] = c.momentum * s.get("m", 0) + g
    return s["m"]


@pytest.mark.parametrize(
    ("config", "twin"),
    [
        (AdamConfig(lr=0.03, eps=0.1), adam),
        (RmspropConfig(lr=0.02, decay=0.8, eps=0.3), rmsprop),
        (RmspropConfig(lr=0.02, decay=0.8, eps=0.3, centered=True), rmsprop),
        (RmspropConfig(lr=0.02, decay=0.8, eps=0.3, momentum=0.7), rmsprop),
        (RmspropNatureConfig(lr=0.02, decay=0.8, eps=0.3), rmsprop_nature),
        (RmspropNatureConfig(lr=2.5e-4), rmsprop_nature),
        (SgdConfig(lr=0.1), sgd),
        (SgdConfig(lr=0.1, momentum=0.7), sgd),
    ],
    ids=lambda value: f"{value}" if isinstance(value, OptimizerConfig) else "",
)
def test_many_steps_equal_the_formula(config, twin) -> None:
    random = np.random.default_rng(0)
    start = [random.normal(size=shape) for shape in ((4, 3), (3,))]
    parameters = [nn.Parameter(torch.from_numpy(w.copy())) for w in start]
    optimizer, states = make_optimizer(config, parameters), [{} for _ in start]
    for _ in range(200):
        for i, w in enumerate(parameters):
            g = random.normal(size=start[i].shape) + 0.5
            w.grad = torch.from_numpy(g)
            start[i] -= config.lr * twin(g, states[i], config)
        optimizer.step()
    for w, expected in zip(parameters, start, strict=True):
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_every_choice_can_be_made() -> None:
    for name, config in CHOICES["optimizer"].items():
        optimizer = make_optimizer(config(lr=0.25), [nn.Parameter(torch.zeros(2))])
        assert optimizer.param_groups[0]["lr"] == 0.25, name
    with pytest.raises(TypeError, match="no optimizer for OptimizerConfig"):
        make_optimizer(OptimizerConfig(), [])


def test_natures_epsilon_is_inside_the_root() -> None:
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RmspropNature([w], lr=1.0, decay=0.95, eps=0.01)
    w.grad = torch.full((1,), 0.02, dtype=torch.float64)
    optimizer.step()
    variance = 0.05 * 0.02**2 - (0.05 * 0.02) ** 2
    assert w.item() == pytest.approx(-0.02 / (variance + 0.01) ** 0.5, rel=1e-12)
    assert w.item() != pytest.approx(-0.02 / (variance**0.5 + 0.01), rel=0.1)


def test_natures_root_stays_real_when_gradients_do_not_change() -> None:
    w = nn.Parameter(torch.zeros(1000))
    optimizer = RmspropNature([w], lr=1e-3, decay=0.95, eps=1e-12)
    w.grad = torch.linspace(-1e3, 1e3, 1000)
    for _ in range(2000):
        optimizer.step()
    assert torch.isfinite(w).all()


def test_nature_leaves_weights_without_gradient_alone() -> None:
    w = nn.Parameter(torch.ones(2))
    RmspropNature([w], lr=1.0, decay=0.95, eps=0.01).step()
    assert w.tolist() == [1.0, 1.0]


def layers_of(dtype: torch.dtype, seed: int = 0) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=g, dtype=dtype)) for shape in ((37, 5), (37,), (3, 37), (3,), ())]


def with_gradients(parameters: list[nn.Parameter], seed: int) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    for w in parameters:
        w.grad = torch.randn(w.shape, generator=g, dtype=w.dtype) * 3 ** (seed % 7 - 3)
    return parameters


def bits(parameters, optimizer) -> list[list[float]]:
    remembered = [optimizer.state[w][name] for w in parameters for name in sorted(optimizer.state[w])]
    return [t.detach().flatten().tolist() for t in (*parameters, *remembered)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("missing", [None, 0, 7], ids=lambda step: f"a gradient missing at {step}")
def test_adam_is_torchs_to_the_last_bit(dtype, missing) -> None:
    config = AdamConfig(lr=0.01, eps=1e-4)
    ours, theirs = layers_of(dtype), layers_of(dtype)
    optimizer, twin = make_optimizer(config, ours), torch.optim.Adam(theirs, lr=0.01, eps=1e-4, fused=True)
    for i in range(40):
        for parameters, one in ((ours, optimizer), (theirs, twin)):
            one.param_groups[0]["lr"] = 0.01 / (1 + i)
            with_gradients(parameters, i)
            if i == missing:
                parameters[1].grad = None
            one.step()
        assert bits(ours, optimizer) == bits(theirs, twin), i


def test_adam_goes_on_from_torchs_memory_and_torch_from_its() -> None:
    for first, second in ((FusedAdam, torch.optim.Adam), (torch.optim.Adam, FusedAdam), (FusedAdam, FusedAdam)):
        parameters, twins = layers_of(torch.float32), layers_of(torch.float32)
        one, straight = first(parameters, lr=0.01, fused=True), torch.optim.Adam(twins, lr=0.01, fused=True)
        for i in range(12):
            with_gradients(parameters, i)
            with_gradients(twins, i)
            if i == 5:
                other = second(parameters, lr=0.5, fused=True)
                other.step()  # what it made of its own is forgotten
                with torch.no_grad():
                    for w, twin in zip(parameters, twins, strict=True):
                        w.copy_(twin)
                other.load_state_dict(one.state_dict())
                one = other
            one.step()
            straight.step()
        assert bits(parameters, one) == bits(twins, straight)


def test_adam_without_torchs_private_kernel(monkeypatch) -> None:
    """It is only left out of the way there: torch's own step calls it by another name."""
    monkeypatch.setattr(optimizers, "KERNEL", None)
    ours, theirs = layers_of(torch.float32), layers_of(torch.float32)
    optimizer, twin = make_optimizer(AdamConfig(lr=0.01), ours), torch.optim.Adam(theirs, lr=0.01, eps=1e-8, fused=True)
    for i in range(5):
        for parameters, one in ((ours, optimizer), (theirs, twin)):
            with_gradients(parameters, i)
            one.param_groups[0]["eps"] = 1e-8
            one.step()
    assert bits(ours, optimizer) == bits(theirs, twin)


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_clipping_is_torchs_to_the_last_bit(most) -> None:
    ours, theirs = layers_of(torch.float32), layers_of(torch.float32)
    for parameters in (ours, theirs):
        with_gradients(parameters, 3)
    descent = Descent((torch.optim.SGD(ours, lr=1.0),), constant(1.0), most)
    norm = descent.clip()
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs, most))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert 0.5 < norm < 1e3


def test_gradients_that_lie_in_one_vector_are_clipped_as_one() -> None:
    w = nn.Parameter(torch.zeros(2))
    whole = torch.tensor([3.0, 4.0])
    w.grad = whole.view(2)
    norm = Descent((torch.optim.SGD([w], lr=1.0),), constant(1.0), 1.0).clip(whole)
    assert norm.item() == 5.0
    torch.testing.assert_close(w.grad, torch.tensor([0.6, 0.8]))
    assert Descent((torch.optim.SGD([w], lr=1.0),), constant(1.0), None).clip(whole) is None
