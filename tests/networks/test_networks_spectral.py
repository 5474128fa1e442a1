"""Spectral norms: against the singular values, the gradient, who iterates and what is kept."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dqn_cli.config import ImpalaConfig, NatureCnnConfig, ScalarConfig
from dqn_cli.networks.make import make_network
from dqn_cli.networks.spectral import SpectralConv2d
from dqn_cli.types import ObsSpec

IMAGES = ObsSpec((36, 36), "uint8", 2)
NATURE = NatureCnnConfig(spectral_norm=True)


def images(batch: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (batch, *IMAGES.obs_shape), dtype=torch.uint8)


def iterated(convolution: SpectralConv2d, times: int = 300) -> SpectralConv2d:
    for _ in range(times):
        convolution.iterate()
    return convolution


def test_the_weight_is_divided_by_its_largest_singular_value() -> None:
    torch.manual_seed(0)
    convolution = iterated(SpectralConv2d(5, 7, 3, stride=2, padding=1))
    sigma = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2)
    x = torch.randn(2, 5, 9, 9)
    by_hand = F.conv2d(x, convolution.weight / sigma, convolution.bias, stride=2, padding=1)
    torch.testing.assert_close(convolution(x), by_hand)


def test_one_power_iteration_by_hand() -> None:
    convolution = SpectralConv2d(2, 2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).view(2, 2, 1, 1))
        convolution.u.copy_(torch.tensor([1.0, 1.0]) / 2**0.5)
    convolution.iterate()
    torch.testing.assert_close(convolution.v, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(convolution.u, torch.tensor([1.8, 3.2]) / (1.8**2 + 3.2**2) ** 0.5)


def test_the_gradient_passes_through_the_norm_and_not_through_its_vectors() -> None:
    torch.manual_seed(0)
    convolution, x = iterated(SpectralConv2d(2, 3, 3)), torch.randn(4, 2, 5, 5)
    weight = convolution.weight.detach().clone().requires_grad_()
    u, v = convolution.u.clone(), convolution.v.clone()
    sigma = (u[:, None] * weight.flatten(1) * v).sum()
    F.conv2d(x, weight / sigma, convolution.bias.detach()).square().sum().backward()
    convolution(x).square().sum().backward()
    torch.testing.assert_close(convolution.weight.grad, weight.grad, atol=1e-4, rtol=1e-4)
    assert not any(b.requires_grad for b in convolution.buffers())


def test_the_size_of_a_weight_says_nothing() -> None:
    convolution, x = iterated(SpectralConv2d(2, 3, 3)), torch.randn(4, 2, 5, 5)
    before = convolution(x)
    convolution.weight.data *= 10
    torch.testing.assert_close(convolution(x), before)


@pytest.mark.parametrize(("config", "normed"), [(NATURE, 2), (ImpalaConfig(spectral_norm=True), 12)])
def test_which_convolutions_have_a_norm(config, normed) -> None:
    network = make_network(config, ScalarConfig(), IMAGES, 3)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    spectral = [m for m in convolutions if isinstance(m, SpectralConv2d)]
    assert len(spectral) == normed
    if isinstance(config, ImpalaConfig):  # all of the residual blocks
        assert len(convolutions) == 15
        assert all(m.in_channels == m.out_channels for m in spectral)
    else:
        assert spectral == convolutions[1:]


def test_norms_are_nearly_right_from_the_start() -> None:
    torch.manual_seed(0)
    network = make_network(NATURE, ScalarConfig(), IMAGES, 3)
    for m in network.modules():
        if isinstance(m, SpectralConv2d):
            exact = torch.linalg.matrix_norm(m.weight.flatten(1), 2)
            assert 0.9 * exact < m.u @ m.weight.flatten(1) @ m.v <= exact * 1.0001


def test_passes_change_nothing_and_iterations_follow_the_weights() -> None:
    torch.manual_seed(0)
    network, obs = make_network(NATURE, ScalarConfig(), IMAGES, 3), images()
    with torch.no_grad():
        network.torso.convolutions[1].weight.copy_(torch.randn_like(network.torso.convolutions[1].weight))
    before = {name: b.clone() for name, b in network.named_buffers()}
    assert len(before) == 4
    q = network(obs)
    assert torch.equal(network(obs), q)
    assert all(torch.equal(before[name], b) for name, b in network.named_buffers())
    network.iterate_norms()
    assert all(not torch.equal(before[name], b) for name, b in network.named_buffers())
    assert not torch.equal(network(obs), q)


def test_a_checkpoint_keeps_the_vectors_and_a_copy_has_its_own() -> None:
    network, other = (make_network(NATURE, ScalarConfig(), IMAGES, 3) for _ in range(2))
    obs = images()
    assert not torch.equal(network(obs), other(obs))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(obs), other(obs))
    copy, q = deepcopy(network), network(obs)
    network.iterate_norms()
    assert torch.equal(copy(obs), q)
    copy.iterate_norms()
    assert torch.equal(copy(obs), network(obs))


def test_norms_draw_no_numbers() -> None:
    torch.manual_seed(0)
    normed = make_network(NATURE, ScalarConfig(), IMAGES, 3)
    torch.manual_seed(0)
    plain = make_network(NatureCnnConfig(), ScalarConfig(), IMAGES, 3)
    assert all(torch.equal(a, b) for a, b in zip(normed.parameters(), plain.parameters(), strict=True))


def test_networks_without_norms_iterate_nothing() -> None:
    network = make_network(NatureCnnConfig(), ScalarConfig(), IMAGES, 3)
    before = {name: w.clone() for name, w in network.state_dict().items()}
    network.iterate_norms()
    assert all(torch.equal(before[name], w) for name, w in network.state_dict().items())
