"""The multilayer perceptron below a linear head."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from dqn_cli.config import Activation, MlpConfig, ScalarConfig
from dqn_cli.networks.layers import ACTIVATIONS, Layers
from dqn_cli.networks.make import make_network
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.networks.torsos import Mlp
from dqn_cli.types import ObsSpec

VECTOR = ObsSpec((4,), "float32")


def mlp(hidden, num_actions, activation=Activation.relu) -> ValueNetwork:
    return make_network(MlpConfig(hidden=hidden, activation=activation), ScalarConfig(), VECTOR, num_actions)


def test_the_forward_pass_by_hand() -> None:
    network = mlp([8, 6], 3, Activation.tanh)
    obs = torch.randn(5, 4)
    w = dict(network.named_parameters())
    x = torch.tanh(obs @ w["torso.layers.0.weight"].T + w["torso.layers.0.bias"])
    torch.testing.assert_close(network.features(obs), x)
    x = torch.tanh(x @ w["head.hidden.weight"].T + w["head.hidden.bias"])
    torch.testing.assert_close(network(obs), x @ w["head.output.weight"].T + w["head.output.bias"])


def test_every_activation_is_offered_and_differs_from_the_others() -> None:
    assert set(ACTIVATIONS) == {choice.value for choice in Activation}
    x, outputs = torch.linspace(-2, 2, 9), []
    for name in ACTIVATIONS:
        torso = Mlp(ObsSpec((1,), "float32"), [1], Layers(activation=ACTIVATIONS[name]))
        torch.nn.init.ones_(torso.layers[0].weight)
        torch.nn.init.zeros_(torso.layers[0].bias)
        outputs.append(tuple(torso(x[:, None]).flatten().tolist()))
        assert outputs[-1] == tuple(ACTIVATIONS[name](x).tolist())
    assert len(set(outputs)) == len(ACTIVATIONS)


def test_outputs_are_not_bounded() -> None:
    network = mlp([8], 2)
    q = network(torch.randn(64, 4) * 1e4)
    assert q.max() > 100
    assert q.min() < -100


def test_without_hidden_layers_q_is_linear_in_the_observation() -> None:
    network = mlp([], 2)
    assert [name for name, _ in network.named_parameters()] == ["head.output.weight", "head.output.bias"]
    a, b = torch.randn(1, 4), torch.randn(1, 4)
    torch.testing.assert_close(network(a + b) - network(b), network(a) - network(0 * a))


def test_bytes_are_scaled_to_one_and_other_numbers_are_not() -> None:
    spec = ObsSpec((2, 3), "uint8")
    torso = Mlp(spec, [], Layers())
    obs = torch.tensor([[[0, 51, 102], [153, 204, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(torso(obs), torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]]))
    numbers = Mlp(ObsSpec((2,), "float64"), [], Layers())
    for dtype in (torch.float64, torch.float32, torch.int64):
        features = numbers(torch.tensor([[255, -7]], dtype=dtype))
        assert features.tolist() == [[255.0, -7.0]]
        assert features.dtype == torch.float32


def test_stacked_frames_are_one_observation() -> None:
    spec = ObsSpec((2, 3), "float32", stack=4)
    torso = Mlp(spec, [7], Layers())
    assert torso.layers[0].in_features == 24
    assert torso(torch.zeros(5, *spec.obs_shape)).shape == (5, torso.features) == (5, 7)


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = mlp([16], 2)
        return torch.cat([w.flatten() for w in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("batch", [1, 32])
def test_one_value_per_action(batch) -> None:
    assert mlp([8], 6, Activation.silu)(torch.randn(batch, 4)).shape == (batch, 6)


@pytest.mark.parametrize("hidden", [[], [8], [16, 8, 4]])
def test_weights_and_values_are_those_of_a_plain_stack_of_layers_to_the_last_bit(hidden) -> None:
    torch.manual_seed(5)
    widths = [4, *hidden, 3]
    layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())][:-1]
    twin, following = nn.Sequential(*layers), torch.rand(1)
    torch.manual_seed(5)
    network = mlp(hidden, 3)
    assert torch.rand(1) == following
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    obs = torch.randn(32, 4)
    assert torch.equal(network(obs), twin(obs))


def test_a_layer_norm_comes_before_each_activation() -> None:
    config = MlpConfig(hidden=[8, 6], activation=Activation.tanh, layer_norm=True)
    network = make_network(config, ScalarConfig(), VECTOR, 2)
    obs = torch.randn(5, 4)
    x = obs
    for linear, norm in (network.torso.layers[0], network.head.hidden):
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
        x = linear(x)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = torch.tanh(x * norm.weight + norm.bias)
    torch.testing.assert_close(network(obs), network.head.output(x))
