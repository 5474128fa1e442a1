"""Quantiles at fractions: the embedding's formula, shapes, and fractions that do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dqn_cli.networks.heads import Dueling, Stream
from dqn_cli.networks.implicit import CosineEmbedding, ImplicitQNetwork
from dqn_cli.networks.layers import Layers
from dqn_cli.networks.torsos import Mlp
from dqn_cli.types import ObsSpec

SPEC = ObsSpec((4,), "float32")
BATCH, ACTIONS, FEATURES = 5, 3, 8


def network(fractions: int | None = None, dueling: bool = False) -> ImplicitQNetwork:
    torso = Mlp(SPEC, [FEATURES], Layers())
    head = Dueling(FEATURES, 16, ACTIONS, (), Layers()) if dueling else Stream(FEATURES, 16, (ACTIONS,), Layers())
    return ImplicitQNetwork(torso, head, 6, fractions)


def test_the_embedding_is_equation_4() -> None:
    embedding = CosineEmbedding(cosines=6, features=3)
    tau = torch.tensor([[0.0, 0.3, 1.0], [0.5, 0.25, 0.9]])
    weight, bias = (w.detach().double().numpy() for w in embedding.linear.parameters())
    expected = np.zeros((2, 3, 3))
    for b in range(2):
        for t in range(3):
            for j in range(3):
                total = sum(np.cos(np.pi * i * tau[b, t].item()) * weight[j, i] for i in range(6))
                expected[b, t, j] = max(0.0, total + bias[j])
    assert (expected > 0).any()
    np.testing.assert_allclose(embedding(tau).detach().numpy(), expected, atol=1e-6)


def test_the_first_cosine_is_a_constant_and_the_last_counts() -> None:
    embedding = CosineEmbedding(cosines=3, features=1)
    with torch.no_grad():
        embedding.linear.weight.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
        embedding.linear.bias.fill_(0.5)
    torch.testing.assert_close(embedding(torch.tensor([[0.25, 0.0]])).flatten(), torch.tensor([1.5, 3.5]))


@pytest.mark.parametrize("dueling", [False, True])
def test_quantiles_are_the_head_of_a_product(dueling) -> None:
    net, obs, tau = network(dueling=dueling), torch.randn(BATCH, 4), torch.rand(BATCH, 7)
    features = net.features(obs)
    assert features.shape == (BATCH, FEATURES)
    quantiles = net.at(features, tau)
    assert quantiles.shape == (BATCH, ACTIONS, 7)
    for t in range(7):
        product = features * net.embedding(tau[:, t : t + 1]).squeeze(1)
        torch.testing.assert_close(quantiles[:, :, t], net.head(product))


def test_a_quantile_depends_on_its_own_fraction_and_state_alone() -> None:
    net, obs, tau = network(), torch.randn(BATCH, 4), torch.rand(BATCH, 7)
    quantiles = net.at(net.features(obs), tau)
    other = net.at(net.features(obs), tau.index_fill(1, torch.tensor([2]), 0.123))
    same = torch.arange(7) != 2
    torch.testing.assert_close(other[:, :, same], quantiles[:, :, same])
    assert not torch.equal(other[:, :, 2], quantiles[:, :, 2])


def test_proposals_begin_nearly_even_and_have_names_of_their_own() -> None:
    net = network(fractions=10)
    widths = net.proposal(net.features(torch.randn(BATCH, 4))).softmax(1)
    assert widths.shape == (BATCH, 10)
    torch.testing.assert_close(widths, torch.full((BATCH, 10), 0.1), atol=0.005, rtol=0)
    names = {name for name, _ in net.named_parameters() if name.startswith("proposal.")}
    assert names == {"proposal.weight", "proposal.bias"}
    assert not hasattr(network(), "proposal")


def test_frequencies_are_no_weights() -> None:
    assert list(network(4).state_dict()) == [name for name, _ in network(4).named_parameters()]


def test_without_fractions_there_are_no_values() -> None:
    with pytest.raises(TypeError, match="fractions"):
        network()(torch.zeros(1, 4))


def test_the_observation_itself_can_be_the_features() -> None:
    net = ImplicitQNetwork(Mlp(ObsSpec((2, 2), "uint8", 3), [], Layers()), Stream(12, 4, (2,), Layers()), 5, None)
    obs = torch.randint(0, 256, (BATCH, 3, 2, 2), dtype=torch.uint8)
    assert net.at(net.features(obs), torch.rand(BATCH, 3)).shape == (BATCH, 2, 3)
