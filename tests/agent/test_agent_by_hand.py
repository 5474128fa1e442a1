"""The gradient that was derived by hand: the same as autograd's, wherever it is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_learners import ACTIONS, DEEP, MUNCHAUSEN, flat, make, random_batch, state_of
from torch import Tensor

from dqn_cli.agent.by_hand import ByHand
from dqn_cli.agent.gradient import ByAutograd, Method
from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import make_descent
from dqn_cli.algorithm.losses import LOSSES
from dqn_cli.algorithm.rules import RULES
from dqn_cli.algorithm.values import Scalar
from dqn_cli.config import AdamConfig, Head, MinatarCnnConfig, MlpConfig, RmspropConfig, ScalarConfig, SgdConfig
from dqn_cli.networks.make import make_network
from dqn_cli.networks.q_network import QNetwork
from dqn_cli.networks.torsos import Mlp
from dqn_cli.schedules import constant
from dqn_cli.types import Batch, ObsSpec

WIDE = ObsSpec((3, 7), "float32")  # more inputs than are kept as columns
BYTES = ObsSpec((5,), "uint8")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def of(learner: Learner, batch: Batch, step: int = 0) -> tuple[Tensor, ...]:
    """What an update tells, and the gradient that it leaves (after clipping)."""
    result = learner.update(batch, step)
    gradient = torch.cat([w.grad.flatten() for w in learner.online.parameters()])
    norm = torch.zeros(()) if result.grad_norm is None else result.grad_norm
    return result.loss, result.mean_q, norm, result.priority, gradient


def weighted(batch: Batch, seed: int) -> Batch:
    return replace(batch, weight=torch.rand(len(batch.action), generator=torch.Generator().manual_seed(seed)))


def side_by_side(batch: Batch) -> Batch:
    """As a memory gives it: obs and next_obs are parts of one tensor."""
    both = torch.stack([batch.obs, batch.next_obs], 1)
    return replace(batch, obs=both[:, 0], next_obs=both[:, 1])


def pair(max_grad_norm: float | None = None, **options) -> tuple[Learner, Learner]:
    learners = make(**options), make(**options, fast=False)
    for learner, kind in zip(learners, (ByHand, ByAutograd), strict=True):
        assert type(learner.gradient) is kind
        learner._descent = replace(learner._descent, max_grad_norm=max_grad_norm)
        if learner.target is not None:  # another network than the online one, in both learners the same
            for w in learner.target.parameters():
                w.mul_(0.7).add_(0.05)
    return learners


@settings(max_examples=40, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 20), max_size=4),
    activation=st.sampled_from(["relu", "tanh"]),
    head=st.sampled_from(Head),
    variant=st.sampled_from(DEEP),
    loss=st.sampled_from(["mse", "huber"]),
    spec=st.sampled_from([ObsSpec((4,), "float32"), WIDE, BYTES]),
    munchausen=st.sampled_from([None, MUNCHAUSEN]),
    max_grad_norm=st.sampled_from([None, 0.01, 10.0]),
    size=st.sampled_from([1, 2, 9]),
    weights=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_one_update_is_the_one_of_autograd(
    hidden, activation, head, variant, loss, spec, munchausen, max_grad_norm, size, weights, seed
) -> None:
    network = MlpConfig(hidden=hidden, activation=activation, head=head)
    fast, slow = pair(
        max_grad_norm, variant=variant, network=network, spec=spec, loss=loss, munchausen=munchausen, seed=seed
    )
    batch = random_batch(seed, size, spec=spec)
    batch = replace(side_by_side(batch), reward=3 * batch.reward)
    if weights:
        batch = weighted(batch, seed)
    for ours, theirs in zip(of(fast, batch), of(slow, batch), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


class DoubleMlp(Mlp):
    """In the precision of its weights; being no plain `Mlp`, it is left to autograd."""

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.flatten(1).double()
        for layer in self.layers:
            x = self._activation(layer(x))
        return x


def learner_in(dtype: torch.dtype, fast: bool, variant: str, head: Head, activation: str) -> Learner:
    torch.manual_seed(1)
    config = AdamConfig(lr=1e-3)
    online = make_network(
        MlpConfig(hidden=[24, 16], head=head, activation=activation), ScalarConfig(), ObsSpec((4,), "float32"), ACTIONS
    ).to(dtype)
    if dtype == torch.float64 and not fast:
        online.torso.__class__ = DoubleMlp
    descent = replace(make_descent(config, ScalarConfig(), online, constant(1e-3)), max_grad_norm=1.0)
    learner = Learner(online, Method(RULES[variant], Scalar(LOSSES["huber"])), descent, torch.Generator(), fast=fast)
    assert type(learner.gradient) is (ByHand if fast else ByAutograd)
    return learner


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("variant", "head", "activation"),
    [
        ("vdqn", Head.plain, "relu"),
        ("tdqn", Head.plain, "relu"),
        ("ddqn", Head.dueling, "relu"),
        ("tdqn", Head.dueling, "tanh"),
        ("ddqn", Head.plain, "tanh"),
    ],
)
def test_two_hundred_updates_are_those_of_autograd(dtype, variant, head, activation) -> None:
    fast, slow = (learner_in(dtype, choice, variant, head, activation) for choice in (True, False))
    close = CLOSE if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    start = flat(fast.online)
    for i in range(200):
        batch = random_batch(i, 16)
        batch = replace(batch, reward=batch.reward.to(dtype), discount=batch.discount.to(dtype))
        results = [learner.update(batch, i) for learner in (fast, slow)]
        if i % 25 == 24 and variant != "vdqn":
            for learner in (fast, slow):
                learner.sync_target()
    torch.testing.assert_close(flat(fast.online), flat(slow.online), **close)
    for told in ("loss", "mean_q", "grad_norm", "priority"):
        torch.testing.assert_close(*(getattr(result, told) for result in results), **close)
    assert (flat(fast.online) - start).abs().max() > 0.01


def tiny(variant: str, loss: str, lr: float) -> Learner:
    """One input x, one hidden unit h = relu(2 x + 1), Q = (3 h - 1, h)."""
    online = make_network(MlpConfig(hidden=[1]), ScalarConfig(), ObsSpec((1,), "float32"), 2)
    descent = make_descent(SgdConfig(lr=lr), ScalarConfig(), online, constant(lr))
    learner = Learner(online, Method(RULES[variant], Scalar(LOSSES[loss])), descent, torch.Generator())
    learner.load_online(
        {
            "head.hidden.weight": torch.tensor([[2.0]]),
            "head.hidden.bias": torch.tensor([1.0]),
            "head.output.weight": torch.tensor([[3.0], [1.0]]),
            "head.output.bias": torch.tensor([-1.0, 0.0]),
        }
    )
    assert isinstance(learner.gradient, ByHand)
    return learner


def test_numbers_by_hand() -> None:
    """s = 1: h = 3, Q = (8, 3). s' = 0.5: h = 2, Q = (5, 2). y = 1 + 0.5 * 5 = 3.5; of action 0, u = 8 - 3.5 = 4.5."""
    learner = tiny("vdqn", "mse", lr=0.01)
    one, action = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    batch = Batch(one.view(1, 1), action, one, 0.5 * one, 0.5 * one.view(1, 1), weight=torch.tensor([0.5]))
    result = learner.update(batch, 0)
    assert result.loss.item() == 0.5 * 0.5 * 4.5**2
    assert result.mean_q.item() == 8.0
    assert result.priority.tolist() == [4.5]
    found = {name: w.grad.flatten().tolist() for name, w in learner.online.named_parameters()}
    assert found == {
        "head.hidden.weight": [2.25 * 3 * 1],  # w u dQ/dh dh/dx
        "head.hidden.bias": [2.25 * 3],
        "head.output.weight": [2.25 * 3, 0.0],  # w u h
        "head.output.bias": [2.25, 0.0],
    }
    assert learner.online.head.output.bias.tolist() == pytest.approx([-1 - 0.0225, 0.0])


def test_hubers_slope_is_at_most_one_and_units_that_are_off_learn_nothing() -> None:
    learner = tiny("vdqn", "huber", lr=0.01)
    obs, zero = torch.tensor([[1.0], [-1.0]]), torch.zeros(2)  # of the second h = relu(-1) = 0, Q = (-1, 0)
    result = learner.update(Batch(obs, torch.tensor([0, 0]), zero, zero, obs), 0)
    assert result.loss.item() == ((8 - 0.5) + 0.5) / 2
    assert result.mean_q.item() == 3.5
    found = {name: w.grad.flatten().tolist() for name, w in learner.online.named_parameters()}
    assert found == {
        "head.hidden.weight": [0.5 * 3 * 1],
        "head.hidden.bias": [0.5 * 3],
        "head.output.weight": [0.5 * 3, 0.0],
        "head.output.bias": [0.5 - 0.5, 0.0],
    }


def test_batches_of_changing_size() -> None:
    fast, slow = pair()
    for i, size in enumerate((5, 8, 5, 1, 8)):
        for ours, theirs in zip(*(of(learner, random_batch(i, size), i) for learner in (fast, slow)), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_what_an_update_tells_outlives_the_next_one() -> None:
    learner, _ = pair(max_grad_norm=1.0)
    result = learner.update(random_batch(0), 0)
    kept = [t.clone() for t in (result.loss, result.mean_q, result.grad_norm, result.priority)]
    learner.update(random_batch(1), 1)
    for now, then in zip((result.loss, result.mean_q, result.grad_norm, result.priority), kept, strict=True):
        assert torch.equal(now, then)


def test_a_batch_is_not_written_to() -> None:
    learner, batch = make(), weighted(random_batch(0), 0)
    before = [t.clone() for t in (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs, batch.weight)]
    learner.update(batch, 0)
    for now, then in zip(
        (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs, batch.weight), before, strict=True
    ):
        assert torch.equal(now, then)


@pytest.mark.parametrize("optimizer", [AdamConfig(lr=3e-3), RmspropConfig(lr=3e-3), SgdConfig(lr=0.1, momentum=0.9)])
def test_a_restored_learner_goes_on_to_the_last_bit(optimizer) -> None:
    original, restored = make(optimizer=optimizer), make(optimizer=optimizer, seed=1)
    for i in range(5):
        original.update(random_batch(i), i)
        restored.update(random_batch(i + 50), i)  # whose memory of batches is not that of the original
    restored.load_model_state(original.model_state())
    restored.load_optimizer_state(original.optimizer_state())
    for i in range(5, 10):
        results = [learner.update(random_batch(i), i) for learner in (original, restored)]
        assert torch.equal(*(result.priority for result in results))
        if i == 7:
            for learner in (original, restored):
                learner.sync_target()
    assert state_of(original) == state_of(restored)


def test_the_states_are_those_of_any_learner() -> None:
    fast, slow = pair()
    for learner in (fast, slow):
        learner.update(random_batch(0), 0)
    for ours, theirs in ((fast.model_state(), slow.model_state()), (fast.optimizer_state(), slow.optimizer_state())):
        assert [(name, w.shape, w.stride()) for name, w in ours.items()] == [
            (name, w.shape, w.stride()) for name, w in theirs.items()
        ]
        assert list(ours) == list(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"fast": False},
        {"network": MlpConfig(hidden=[8], noisy=True)},
        {"network": MlpConfig(hidden=[8], layer_norm=True)},
        {"network": MlpConfig(hidden=[8], activation="silu")},
        {"value": "categorical"},
        {"value": "quantile"},
        {"value": "implicit"},
        {"network": MinatarCnnConfig(), "spec": ObsSpec((10, 10, 3), "bool")},
    ],
    ids=str,
)
def test_the_rest_is_left_to_autograd(options) -> None:
    assert isinstance(make(**options).gradient, ByAutograd)


def test_networks_that_only_look_like_mlps_are_left_to_autograd() -> None:
    class Other(QNetwork):
        """Its passes may be anything."""

    for change in (
        lambda learner: setattr(learner.online, "__class__", Other),
        lambda learner: setattr(learner.online.torso, "__class__", DoubleMlp),
        lambda learner: learner.online.half(),
        lambda learner: learner.online.head.half(),
    ):
        source = make()
        change(source)
        learner = Learner(source.online, source.method, source._descent, torch.Generator())
        assert isinstance(learner.gradient, ByAutograd)
