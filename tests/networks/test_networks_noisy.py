"""Noisy layers: how they begin, the statistics of their noise, who shares it and who does not."""

from __future__ import annotations

from copy import deepcopy
from math import pi, sqrt

import pytest
import torch
from torch.nn import functional as F

from dqn_cli.config import FqfConfig, Head, Init, MinatarCnnConfig, MlpConfig, NatureCnnConfig, ScalarConfig
from dqn_cli.networks.make import make_network
from dqn_cli.networks.noisy import Noise, NoisyLinear
from dqn_cli.types import ObsSpec

VECTOR = ObsSpec((4,), "float32")
NOISY = MlpConfig(hidden=[8, 6], noisy=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_layer_begins_as_in_the_paper() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(400, 300, 0.5)
    assert torch.equal(layer.weight_sigma, torch.full((300, 400), 0.5 / 20))
    assert torch.equal(layer.bias_sigma, torch.full((300,), 0.5 / 20))
    for mean in (layer.weight, layer.bias):
        assert 0.95 / 20 < mean.abs().max() <= 1 / 20
    assert layer.weight.std().item() == pytest.approx(1 / 20 / sqrt(3), rel=0.01)


def test_the_noise_is_a_signed_root_of_normal_numbers() -> None:
    layer = NoisyLinear(3, 2, 0.5)
    noise = Noise([layer])
    noise.draw(generator(1))
    e = torch.empty(5).normal_(generator=generator(1))
    expected = torch.tensor([(1 if x > 0 else -1) * sqrt(abs(x)) for x in e.tolist()])
    torch.testing.assert_close(torch.cat(layer.noise), expected)


def test_moments_of_the_noise() -> None:
    layer = NoisyLinear(200_000, 1, 0.5)
    Noise([layer]).draw(generator())
    f, n = layer.noise[0], 200_000
    assert f.mean().item() == pytest.approx(0, abs=4 * (2 / pi) ** 0.25 / sqrt(n))
    assert f.square().mean().item() == pytest.approx(sqrt(2 / pi), abs=4 * 0.61 / sqrt(n))  # E f^2 = E |e|
    assert f.pow(4).mean().item() == pytest.approx(1, abs=4 * 1.42 / sqrt(n))  # E f^4 = E e^2


def test_mean_and_variance_of_the_outputs() -> None:
    torch.manual_seed(0)
    layer, rng, draws = NoisyLinear(5, 3, 0.8), generator(), 20_000
    torch.nn.init.uniform_(layer.weight_sigma)
    torch.nn.init.uniform_(layer.bias_sigma)
    noise, x, rows = Noise([layer]), torch.randn(5), []
    with torch.no_grad():
        mean = layer(x)
        for _ in range(draws):
            noise.draw(rng)
            rows.append(layer(x))
        y = torch.stack(rows)
        # noise_q = f_q (sum_p sigma_qp f_p x_p + sigma_q), where E f = 0 and E f^2 = sqrt(2 / pi) = m
        m = sqrt(2 / pi)
        variance = m * (m * (layer.weight_sigma.square() @ x.square()) + layer.bias_sigma.square())
    torch.testing.assert_close(y.mean(0), mean, atol=5 * (variance.max() / draws).sqrt().item(), rtol=0)
    torch.testing.assert_close(y.var(0), variance, atol=0, rtol=0.08)


@pytest.mark.parametrize("rows", [(), (1,), (64,), (7, 3)])
def test_outputs_and_gradients_are_those_of_an_explicit_noisy_weight(rows) -> None:
    layer = NoisyLinear(6, 4, 0.5)
    Noise([layer]).draw(generator())
    x = torch.randn(*rows, 6, requires_grad=True)
    twins = [w.detach().clone().requires_grad_() for w in (x, *layer.parameters())]
    x_twin, weight, bias, weight_sigma, bias_sigma = twins
    f_in, f_out = layer.noise
    noisy = weight + weight_sigma * (f_out[:, None] * f_in[None, :])
    y_twin = x_twin @ noisy.T + bias + bias_sigma * f_out
    y = layer(x)
    torch.testing.assert_close(y, y_twin)
    y.square().sum().backward()
    y_twin.square().sum().backward()
    for w, twin in zip((x, *layer.parameters()), twins, strict=True):
        torch.testing.assert_close(w.grad, twin.grad)


def test_silence_leaves_exactly_the_means() -> None:
    torch.manual_seed(0)
    noisy = make_network(NOISY, ScalarConfig(), VECTOR, 3)
    plain = make_network(MlpConfig(hidden=[8, 6]), ScalarConfig(), VECTOR, 3)
    plain.load_state_dict({name: w for name, w in noisy.state_dict().items() if "sigma" not in name})
    obs = torch.randn(5, 4)
    assert torch.equal(noisy(obs), plain(obs))  # before the first draw too
    noisy.draw_noise(generator())
    assert not torch.allclose(noisy(obs), plain(obs))
    noisy.silence()
    assert torch.equal(noisy(obs), plain(obs))


def test_every_draw_is_new_and_the_generator_alone_decides_it() -> None:
    torch.manual_seed(0)
    network, obs = make_network(NOISY, ScalarConfig(), VECTOR, 3), torch.randn(5, 4)
    twin = deepcopy(network)
    rng, twin_rng, seen = generator(3), generator(3), []
    for _ in range(3):
        network.draw_noise(rng)
        torch.rand(7)  # the global stream plays no part
        twin.draw_noise(twin_rng)
        seen.append(network(obs))
        assert torch.equal(seen[-1], twin(obs))
        assert torch.equal(seen[-1], network(obs))  # one noise until the next draw
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[1], seen[2])


def test_layers_do_not_share_their_noise() -> None:
    network = make_network(MlpConfig(hidden=[4, 4], noisy=True), ScalarConfig(), VECTOR, 4)
    network.draw_noise(generator())
    parts = [f for layer in network.modules() if isinstance(layer, NoisyLinear) for f in layer.noise]
    assert len(parts) == 6
    assert len({tuple(f.tolist()) for f in parts}) == 6


def test_a_copy_has_noise_of_its_own() -> None:
    network, obs = make_network(NOISY, ScalarConfig(), VECTOR, 3), torch.randn(5, 4)
    network.draw_noise(generator(1))
    copy, before = deepcopy(network), network(obs)
    assert torch.equal(copy(obs), before)
    copy.draw_noise(generator(2))
    drawn = copy(obs)
    assert torch.equal(network(obs), before)
    assert not torch.allclose(drawn, before)
    network.silence()
    assert torch.equal(copy(obs), drawn)


def test_an_actor_may_be_the_first_to_draw() -> None:
    network = make_network(NOISY, ScalarConfig(), VECTOR, 3)
    with torch.inference_mode():
        network.draw_noise(generator())
        network(torch.randn(1, 4))
    network.draw_noise(generator())
    network(torch.randn(5, 4)).sum().backward()
    assert all(w.grad is not None for w in network.parameters())


def test_noise_that_is_drawn_before_the_backward_pass_cannot_pass_unseen() -> None:
    network = make_network(NOISY, ScalarConfig(), VECTOR, 3)
    network.draw_noise(generator())
    loss = network(torch.randn(5, 4)).sum()
    network.draw_noise(generator(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_noise_is_no_state() -> None:
    network = make_network(NOISY, ScalarConfig(), VECTOR, 3)
    network.draw_noise(generator())
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("head", [*Head])
def test_every_fully_connected_layer_from_observation_to_values_is_noisy_and_no_other(head) -> None:
    network = make_network(MlpConfig(hidden=[8, 6], noisy=True, head=head), FqfConfig(quantiles=3), VECTOR, 3)
    plain = {name for name, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
    assert plain == {"embedding.linear", "proposal"}
    noisy = {name for name, m in network.named_modules() if isinstance(m, NoisyLinear)}
    streams = ["head"] if head is Head.plain else ["head.value", "head.advantage"]
    assert noisy == {"torso.layers.0"} | {f"{stream}.{layer}" for stream in streams for layer in ("hidden", "output")}


def test_glorots_start_leaves_noisy_layers_as_they_are() -> None:
    spec = ObsSpec((10, 10, 4), "bool")
    network = make_network(
        MinatarCnnConfig(noisy=True, init=Init.glorot, noisy_sigma=0.3, layer_norm=True), ScalarConfig(), spec, 3
    )
    (convolution, norm), (hidden, _) = network.torso.convolutions[0], network.head.hidden
    assert not convolution.bias.any()
    assert norm.weight.min() == 1
    assert torch.equal(hidden.weight_sigma, torch.full((128, 1024), 0.3 / 32))
    assert hidden.weight.abs().max() <= 1 / 32 < (6 / (1024 + 128)) ** 0.5
    assert hidden.bias.any()


def test_a_noisy_cnn_draws_by_hand() -> None:
    spec = ObsSpec((36, 36), "uint8")
    network = make_network(NatureCnnConfig(noisy=True), ScalarConfig(), spec, 2)
    obs = torch.randint(0, 256, (3, 36, 36), dtype=torch.uint8)
    network.draw_noise(generator())
    x = network.features(obs)
    for layer in (network.head.hidden, network.head.output):
        f_in, f_out = layer.noise
        x = x @ (layer.weight + layer.weight_sigma * f_out.outer(f_in)).T + layer.bias + layer.bias_sigma * f_out
        x = F.relu(x) if layer is network.head.hidden else x
    torch.testing.assert_close(network(obs), x)
