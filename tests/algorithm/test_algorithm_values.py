"""Every representation: what it looks at, by what it chooses, and how wrong it finds itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dqn_cli.algorithm.fractions import propose
from dqn_cli.algorithm.implicit import Fqf, Implicit
from dqn_cli.algorithm.losses import huber, pairwise_errors, quantile_huber
from dqn_cli.algorithm.targets import chosen
from dqn_cli.algorithm.values import Categorical, Quantile, Scalar, Value, make_value
from dqn_cli.config import (
    CHOICES,
    CategoricalConfig,
    FqfConfig,
    ImplicitConfig,
    QuantileConfig,
    ScalarConfig,
    ValueConfig,
)
from dqn_cli.networks.heads import Stream
from dqn_cli.networks.implicit import ImplicitQNetwork
from dqn_cli.networks.layers import Layers
from dqn_cli.networks.q_network import QNetwork
from dqn_cli.networks.torsos import Mlp
from dqn_cli.types import ObsSpec

CPU = torch.device("cpu")
BATCH, ACTIONS = 6, 3
CONFIGS: dict[str, ValueConfig] = {
    "scalar": ScalarConfig(),
    "categorical": CategoricalConfig(atoms=11),
    "quantile": QuantileConfig(quantiles=7),
    "implicit": ImplicitConfig(quantiles=5, target_quantiles=4, acting_quantiles=9, embedding=6),
    "fqf": FqfConfig(quantiles=8, embedding=6, entropy=0.1),
}
SEEN: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # numbers per action: of a prediction, of a target
    "scalar": ((), ()),
    "categorical": ((11,), (11,)),
    "quantile": ((7,), (7,)),
    "implicit": ((5,), (4,)),
    "fqf": ((8,), (16,)),
}


def made(name: str, device: torch.device = CPU) -> Value:
    return make_value(CONFIGS[name], huber, device)


def network(name: str) -> QNetwork:
    value, torso = made(name), Mlp(ObsSpec((4,), "float32"), [8], Layers())
    head = Stream(8, 16, (ACTIONS, *value.outputs), Layers())
    if name in ("implicit", "fqf"):
        return ImplicitQNetwork(torso, head, 6, 8 if name == "fqf" else None)
    return QNetwork(torso, head)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Line:
    """F^-1(tau) = slope tau of two actions, for any state; counts what it is asked for."""

    def __init__(self, logits: Tensor | None = None) -> None:
        self.logits = logits
        self.asked: list[Tensor] = []
        self.features_asked = 0

    def features(self, obs: Tensor) -> Tensor:
        self.features_asked += 1
        return obs

    def at(self, features: Tensor, tau: Tensor) -> Tensor:
        self.asked.append(tau)
        return torch.stack([tau, 10 * tau], dim=1)

    def proposal(self, features: Tensor) -> Tensor:
        assert self.logits is not None
        return self.logits.expand(len(features), -1)


def test_every_choice_has_a_representation() -> None:
    assert set(CONFIGS) == set(CHOICES["value"])
    kinds = [type(made(name)) for name in CONFIGS]
    assert kinds == [Scalar, Categorical, Quantile, Implicit, Fqf]
    with pytest.raises(TypeError, match="ValueConfig"):
        make_value(ValueConfig(), huber, CPU)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_gradients(name) -> None:
    value, net = made(name), network(name)
    obs, action = torch.randn(BATCH, 4), torch.arange(BATCH) % ACTIONS
    look = value.look(net, obs, rng())
    with torch.no_grad():
        ahead = value.look(net, obs, rng(), ahead=True)
        target = value.target(torch.randn(BATCH), torch.full((BATCH,), 0.9), chosen(ahead.z, action))
    assert (look.z.shape, ahead.z.shape) == tuple((BATCH, ACTIONS, *n) for n in SEEN[name])
    assert look.q.shape == ahead.q.shape == (BATCH, ACTIONS)
    assert target.shape == (BATCH, *SEEN[name][1])
    error = value.error(look, action, target)
    assert all(part.shape == (BATCH,) for part in error)
    assert (error.priority >= 0).all()
    assert [part.requires_grad for part in error] == [True, False, False]
    error.loss.mean().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in net.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_part_is_computed_once_and_an_update_can_be_repeated(name) -> None:
    value, net, obs = made(name), network(name), torch.randn(BATCH, 4)
    look, again, other = (value.look(net, obs, rng(seed)) for seed in (0, 0, 1))
    assert look.z is look.z
    assert look.q is look.q
    assert torch.equal(look.z, again.z)
    assert torch.equal(look.q, again.q)
    assert torch.equal(look.z, other.z) == (name != "implicit")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_transition_is_judged_on_its_own(name) -> None:
    value, net, obs = made(name), network(name), torch.randn(BATCH, 4)
    action, r_t = torch.arange(BATCH) % ACTIONS, torch.randn(BATCH)
    look = value.look(net, obs, rng())
    target = value.target(r_t, torch.zeros(BATCH), chosen(look.z, action))
    error = value.error(look, action, target)
    changed = target.clone()
    changed[0] = changed[0].roll(1, 0) if name == "categorical" else changed[0] + 1
    after = value.error(look, action, changed)
    for before, now in zip(error[:2], after[:2], strict=True):
        assert (before != now).tolist() == [True] + [False] * (BATCH - 1)


def test_scalar_by_hand() -> None:
    value, q = Scalar(huber), torch.tensor([[1.0, 5.0], [2.0, 0.0]])
    look = value.look(lambda obs: q, torch.zeros(2, 1), rng())
    assert look.z is look.q is q
    error = value.error(look, torch.tensor([1, 0]), torch.tensor([2.0, 2.5]))
    assert error.loss.tolist() == [2.5, 0.125]
    assert error.priority.tolist() == [3.0, 0.5]
    assert error.q.tolist() == [5.0, 2.0]


def test_categorical_by_hand() -> None:
    value = Categorical(CategoricalConfig(atoms=3, v_min=-2, v_max=2), CPU)
    p = torch.tensor([[[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]]])
    look = value.look(lambda obs: p.log().clamp(min=-1e9), torch.zeros(1, 1), rng())
    torch.testing.assert_close(look.q, torch.tensor([[0.5, 0.0]]))
    target = value.target(torch.tensor([1.0]), torch.tensor([0.5]), look.z[:, 0])  # atoms move to 0, 1 and 2
    torch.testing.assert_close(target, torch.tensor([[0.0, 0.375, 0.625]]))
    error = value.error(look, torch.tensor([0]), target)
    cross = -0.375 * math.log(0.25) - 0.625 * math.log(0.5)
    entropy = -0.375 * math.log(0.375) - 0.625 * math.log(0.625)
    torch.testing.assert_close(torch.cat(error), torch.tensor([cross, cross - entropy, 0.5]))


def test_quantile_by_hand() -> None:
    value = Quantile(QuantileConfig(quantiles=2), CPU)
    assert value.tau.tolist() == [0.25, 0.75]
    look = value.look(lambda obs: torch.tensor([[[9.0, 9.0], [0.0, 2.0]]]), torch.zeros(1, 1), rng())
    assert look.q.tolist() == [[9.0, 1.0]]
    target = value.target(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([[-1.0, -3.0]]))
    assert target.tolist() == [[1.0, -3.0]]
    error = value.error(look, torch.tensor([1]), target)
    assert error.loss.tolist() == [1.625]  # as in the losses' own test
    assert error.priority.tolist() == [(1 + 3 + 1 + 5) / 4]
    assert error.q.tolist() == [1.0]


def test_implicit_draws_what_each_use_needs_from_features_seen_once() -> None:
    value, line = Implicit(ImplicitConfig(quantiles=5, target_quantiles=4, acting_quantiles=2000)), Line()
    look = value.look(line, torch.zeros(3, 1), rng())
    torch.testing.assert_close(look.z[:, 1], 10 * look.tau)
    torch.testing.assert_close(look.q, torch.tensor([[0.5, 5.0]]).expand(3, -1), atol=0.3, rtol=0)
    assert [tau.shape[1] for tau in line.asked] == [5, 2000]
    assert value.look(line, torch.zeros(3, 1), rng(), ahead=True).z.shape == (3, 2, 4)
    assert line.features_asked == 2
    assert line.asked[1].unique().numel() > 5000  # fractions of its own for every state
    assert 0 <= line.asked[1].min() < 0.01 < 0.99 < line.asked[1].max() < 1


def test_what_implicit_is_not_asked_for_costs_nothing() -> None:
    value, line = Implicit(ImplicitConfig(acting_quantiles=3)), Line()
    assert value.look(line, torch.zeros(3, 1), rng(), ahead=True).q.shape == (3, 2)
    assert [tau.shape[1] for tau in line.asked] == [3]


def test_the_error_of_implicit_is_at_the_fractions_of_its_prediction() -> None:
    value, line = Implicit(ImplicitConfig(quantiles=5, kappa=0.5)), Line()
    look = value.look(line, torch.zeros(2, 1), rng())
    action, target = torch.tensor([1, 0]), torch.randn(2, 4)
    error = value.error(look, action, target)
    u = pairwise_errors(chosen(look.z, action), target)
    torch.testing.assert_close(error.loss, quantile_huber(u, look.tau, 0.5).mean(1))
    torch.testing.assert_close(error.priority, u.abs().mean((1, 2)))


def test_fqf_weighs_quantiles_by_widths() -> None:
    line = Line(logits=torch.tensor([[1.0, 3.0]]).log())  # parts [0, 1/4] and [1/4, 1]
    value = Fqf(FqfConfig(quantiles=2))
    look = value.look(line, torch.zeros(1, 1), rng())
    torch.testing.assert_close(look.z[0], torch.tensor([[0.125, 0.625], [1.25, 6.25]]))
    torch.testing.assert_close(look.q, torch.tensor([[0.5, 5.0]]))
    assert len(line.asked) == 1
    ahead = value.look(line, torch.zeros(1, 1), rng(), ahead=True)
    torch.testing.assert_close(ahead.z[0, 1], torch.tensor([1.25, 6.25, 0.25, 0.75]))  # widths behind
    y = value.target(torch.tensor([1.0]), torch.tensor([0.5]), ahead.z[:, 1])
    torch.testing.assert_close(y, torch.tensor([[1.625, 4.125, 0.25, 0.75]]))
    torch.testing.assert_close(ahead.q, look.q)
    error = value.error(look, torch.tensor([1]), torch.tensor([[0.0, 10.0, 0.4, 0.6]]))
    torch.testing.assert_close(error.q, torch.tensor([5.0]))
    u = torch.tensor([[[-1.25, 8.75], [-6.25, 3.75]]])
    torch.testing.assert_close(
        error.loss, quantile_huber(u, torch.tensor([[0.125, 0.625]]), 1.0) @ torch.tensor([0.4, 0.6])
    )
    torch.testing.assert_close(error.priority, torch.tensor([0.4 * 3.75 + 0.6 * 6.25]))


def test_one_backward_pass_moves_proposals_and_the_rest_each_by_their_own_loss() -> None:
    net, obs, action = network("fqf"), torch.randn(BATCH, 4), torch.arange(BATCH) % ACTIONS
    y, widths = torch.randn(BATCH, 8), torch.rand(BATCH, 8).softmax(1)
    target = torch.cat([y, widths], dim=1)

    def gradients(entropy: float) -> tuple[Tensor, dict[str, Tensor]]:
        value = Fqf(FqfConfig(quantiles=8, entropy=entropy))
        error = value.error(value.look(net, obs, rng()), action, target)
        parameters = dict(net.named_parameters())
        return error.loss, dict(
            zip(parameters, torch.autograd.grad(error.loss.sum(), list(parameters.values())), strict=True)
        )

    (loss, without), (same, with_entropy) = gradients(0.0), gradients(5.0)
    assert torch.equal(loss, same)
    features = net.features(obs)
    fractions = propose(net.proposal(features))
    z = chosen(net.at(features, fractions.midpoints.detach()), action)
    alone = (quantile_huber(pairwise_errors(z, y), fractions.midpoints.detach(), 1.0) * widths).sum(1)
    torch.testing.assert_close(loss, alone)
    rest = {name: w for name, w in net.named_parameters() if not name.startswith("proposal.")}
    for name, gradient in zip(rest, torch.autograd.grad(alone.sum(), list(rest.values())), strict=True):
        torch.testing.assert_close(without[name], gradient)
        torch.testing.assert_close(with_entropy[name], gradient)
    assert not torch.allclose(without["proposal.bias"], with_entropy["proposal.bias"])
    between = chosen(net.at(features, fractions.tau[:, 1:-1]), action)
    distance = ((between - z[:, :-1]).abs() - (between - z[:, 1:]).abs()).detach() * fractions.tau[:, 1:-1]
    (own,) = torch.autograd.grad(distance.sum(), net.proposal.bias)
    torch.testing.assert_close(without["proposal.bias"], own)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_number_is_read_and_no_shape_depends_on_one(name, monkeypatch) -> None:
    """Tensors without numbers would refuse: what passes here can be captured by a CUDA graph."""
    meta = torch.device("meta")
    draw = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, generator, **where: draw(*shape, **where))  # no generator there
    value, net = made(name, meta), network(name).to(meta)
    obs, action = torch.zeros(BATCH, 4, device=meta), torch.zeros(BATCH, dtype=torch.int64, device=meta)
    ahead = value.look(net, obs, rng(), ahead=True)
    y = value.target(
        torch.zeros(BATCH, device=meta), torch.zeros(BATCH, device=meta), chosen(ahead.z, ahead.q.argmax(1))
    )
    value.error(value.look(net, obs, rng()), action, y).loss.mean().backward()
