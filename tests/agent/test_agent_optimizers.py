"""Optimisers against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dqn_cli.agent.optimizers import RmspropNature, make_optimizer
from dqn_cli.config import (
    CHOICES,
    AdamConfig,
    OptimizerConfig,
    RmspropConfig,
    RmspropNatureConfig,
    SgdConfig,
)


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
