"""From features to values: shapes, the dueling equation, its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dqn_cli.networks.heads import Dueling, Stream
from dqn_cli.networks.layers import Layers


def test_a_dueling_head_by_hand() -> None:
    head = Dueling(1, None, 2, (), Layers())
    with torch.no_grad():
        head.value.output.weight.copy_(torch.tensor([[2.0]]))
        head.value.output.bias.copy_(torch.tensor([1.0]))
        head.advantage.output.weight.copy_(torch.tensor([[1.0], [4.0]]))
        head.advantage.output.bias.copy_(torch.tensor([0.0, -2.0]))
    # V = 2 * 3 + 1 = 7; A = (3, 10), mean 6.5
    assert head(torch.tensor([[3.0]])).tolist() == [[3.5, 10.5]]


@pytest.mark.parametrize("outputs", [(), (5,)])
@pytest.mark.parametrize("units", [None, 8])
def test_the_dueling_equation_for_each_output_on_its_own(outputs, units) -> None:
    head = Dueling(6, units, 3, outputs, Layers())
    x = torch.randn(4, 6)
    q, v, a = head(x), head.value(x), head.advantage(x)
    assert v.shape == (4, 1, *outputs)
    assert q.shape == a.shape == (4, 3, *outputs)
    for action in range(3):
        torch.testing.assert_close(q[:, action], v[:, 0] + a[:, action] - (a[:, 0] + a[:, 1] + a[:, 2]) / 3)
    torch.testing.assert_close(q.mean(1), v[:, 0])  # what makes V identifiable


def test_the_streams_of_a_dueling_head_share_nothing() -> None:
    head = Dueling(6, 8, 3, (), Layers())
    value, advantage = list(head.value.parameters()), list(head.advantage.parameters())
    assert [w.shape for w in value] == [(8, 6), (8,), (1, 8), (1,)]
    assert [w.shape for w in advantage] == [(8, 6), (8,), (3, 8), (3,)]
    q = head(torch.randn(4, 6))
    (q[:, 0] - q[:, 1]).sum().backward()  # no difference between actions says anything of the state's value
    assert all(not w.grad.any() for w in value)
    assert head.advantage.hidden.weight.grad.any()


@pytest.mark.parametrize("shape", [(3,), (3, 5)])
def test_leading_dimensions_pass_through(shape) -> None:
    x = torch.randn(4, 7, 6)
    for head in (Stream(6, 8, shape, Layers()), Dueling(6, 8, 3, shape[1:], Layers())):
        assert head(x).shape == (4, 7, *shape)
        torch.testing.assert_close(head(x)[2, 3], head(x[2, 3]))


def test_the_hidden_layer_has_the_activation_that_is_asked_for() -> None:
    head = Stream(2, 3, (2,), Layers(activation=torch.tanh))
    x = torch.randn(5, 2)
    hidden = torch.tanh(F.linear(x, head.hidden.weight, head.hidden.bias))
    torch.testing.assert_close(head(x), F.linear(hidden, head.output.weight, head.output.bias))


def test_outputs_lie_action_by_action() -> None:
    head = Stream(1, None, (2, 3), Layers())
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(torch.arange(6.0))
    assert head(torch.zeros(1, 1)).tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
