"""The multilayer perceptron below a linear head."""

from __future__ import annotations

import pytest
import torch

from dqn_cli.config import Activation
from dqn_cli.networks.q_network import QNetwork
from dqn_cli.networks.torsos import ACTIVATIONS, Mlp
from dqn_cli.types import ObsSpec

VECTOR = ObsSpec((4,), "float32")


def test_the_forward_pass_by_hand() -> None:
    network = QNetwork(Mlp(VECTOR, [8, 6], "tanh"), 3)
    obs = torch.randn(5, 4)
    w = dict(network.named_parameters())
    x = torch.tanh(obs @ w["torso.layers.0.weight"].T + w["torso.layers.0.bias"])
    x = torch.tanh(x @ w["torso.layers.1.weight"].T + w["torso.layers.1.bias"])
    torch.testing.assert_close(network(obs), x @ w["head.weight"].T + w["head.bias"])


def test_every_activation_is_offered_and_differs_from_the_others() -> None:
    assert set(ACTIVATIONS) == {choice.value for choice in Activation}
    x, outputs = torch.linspace(-2, 2, 9), []
    for name in ACTIVATIONS:
        torso = Mlp(ObsSpec((1,), "float32"), [1], name)
        torch.nn.init.ones_(torso.layers[0].weight)
        torch.nn.init.zeros_(torso.layers[0].bias)
        outputs.append(tuple(torso(x[:, None]).flatten().tolist()))
        assert outputs[-1] == tuple(ACTIVATIONS[name](x).tolist())
    assert len(set(outputs)) == len(ACTIVATIONS)


def test_outputs_are_not_bounded() -> None:
    network = QNetwork(Mlp(VECTOR, [8], "relu"), 2)
    q = network(torch.randn(64, 4) * 1e4)
    assert q.max() > 100
    assert q.min() < -100


def test_without_hidden_layers_q_is_linear_in_the_observation() -> None:
    network = QNetwork(Mlp(VECTOR, [], "relu"), 2)
    assert [name for name, _ in network.named_parameters()] == ["head.weight", "head.bias"]
    a, b = torch.randn(1, 4), torch.randn(1, 4)
    torch.testing.assert_close(network(a + b) - network(b), network(a) - network(0 * a))


def test_bytes_are_scaled_to_one_and_other_numbers_are_not() -> None:
    spec = ObsSpec((2, 3), "uint8")
    torso = Mlp(spec, [], "relu")
    obs = torch.tensor([[[0, 51, 102], [153, 204, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(torso(obs), torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]]))
    numbers = Mlp(ObsSpec((2,), "float64"), [], "relu")
    for dtype in (torch.float64, torch.float32, torch.int64):
        features = numbers(torch.tensor([[255, -7]], dtype=dtype))
        assert features.tolist() == [[255.0, -7.0]]
        assert features.dtype == torch.float32


def test_stacked_frames_are_one_observation() -> None:
    spec = ObsSpec((2, 3), "float32", stack=4)
    torso = Mlp(spec, [7], "relu")
    assert torso.layers[0].in_features == 24
    assert torso(torch.zeros(5, *spec.obs_shape)).shape == (5, torso.features) == (5, 7)


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = QNetwork(Mlp(VECTOR, [16], "relu"), 2)
        return torch.cat([w.flatten() for w in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("batch", [1, 32])
def test_one_value_per_action(batch) -> None:
    assert QNetwork(Mlp(VECTOR, [8], "silu"), 6)(torch.randn(batch, 4)).shape == (batch, 6)
