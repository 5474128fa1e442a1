"""One gradient update, the target network, and what a checkpoint keeps of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dqn_cli.agent.gradient import Method
from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import make_descent
from dqn_cli.algorithm.losses import LOSSES
from dqn_cli.algorithm.rules import RULES
from dqn_cli.algorithm.values import Scalar
from dqn_cli.config import (
    CHOICES,
    AdamConfig,
    MinatarCnnConfig,
    MlpConfig,
    RmspropConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
)
from dqn_cli.networks.make import make_network
from dqn_cli.schedules import constant, linear
from dqn_cli.types import Batch, ObsSpec

SPEC = ObsSpec((4,), "float32")


def mlp_learner(variant="tdqn", config=None, seed=0, loss="huber", max_grad_norm=None, tau=1.0, fast=True) -> Learner:
    torch.manual_seed(seed)
    online = make_network(MlpConfig(hidden=[16, 8]), ScalarConfig(), SPEC, 3)
    config = config or AdamConfig(lr=3e-3)
    descent = replace(make_descent(config, ScalarConfig(), online, constant(config.lr)), max_grad_norm=max_grad_norm)
    return Learner(online, Method(RULES[variant], Scalar(LOSSES[loss])), descent, torch.Generator(), tau, fast)


def random_batch(seed: int, size: int = 32, discount: float = 0.9) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(size, 4, generator=g),
        torch.randint(0, 3, (size,), generator=g),
        torch.randn(size, generator=g),
        torch.full((size,), discount),
        torch.randn(size, 4, generator=g),
    )


def flat(network) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in network.parameters()])


def table_learner(lr, states: int = 5, loss: str = "mse") -> Learner:
    table = make_network(TableConfig(), ScalarConfig(), ObsSpec((states,), "float32"), 2)
    descent = make_descent(SgdConfig(), ScalarConfig(), table, lr)
    return Learner(table, Method(RULES["qlearning"], Scalar(LOSSES[loss])), descent, torch.Generator())


def transition(s: int, a: int, r: float, discount: float, s_next: int, states: int = 5) -> Batch:
    one_hot = torch.eye(states)
    return Batch(one_hot[[s]], torch.tensor([a]), torch.tensor([r]), torch.tensor([discount]), one_hot[[s_next]])


def test_a_table_moves_one_entry_by_the_learning_rate_times_the_td_error() -> None:
    learner = table_learner(constant(0.25))
    entries = torch.arange(10.0).reshape(2, 5)  # Q(s, a) = 5 a + s
    learner.load_online({"entries": entries})
    learner.update(transition(s=1, a=0, r=2.0, discount=0.5, s_next=3), 0)
    expected = entries.clone()
    expected[0, 1] += 0.25 * (2.0 + 0.5 * 8.0 - 1.0)
    assert torch.equal(learner.online.entries, expected)


def test_table_sgd_and_mse_are_watkins_q_learning() -> None:
    random, q, alpha = np.random.default_rng(0), np.zeros((5, 2)), 0.2
    learner = table_learner(constant(alpha))
    for _ in range(2000):
        s, a, s_next = random.integers(5), random.integers(2), random.integers(5)
        r, discount = random.random(), 0.0 if random.random() < 0.1 else 0.75
        learner.update(transition(s, a, r, discount, s_next), 0)
        q[s, a] += alpha * (r + discount * q[s_next].max() - q[s, a])
    np.testing.assert_allclose(learner.online.entries.detach().numpy().T, q, atol=2e-6)


def test_the_learning_rate_follows_its_schedule() -> None:
    moved = []
    for step in (0, 50, 100):
        learner = table_learner(linear(0.5, 0.0, 100))
        learner.update(transition(s=0, a=1, r=1.0, discount=0.0, s_next=0), step)
        moved.append(learner.online.entries[1, 0].item())
    assert moved == [0.5, 0.25, 0.0]


def test_the_loss_is_the_mean_over_the_batch() -> None:
    learner = table_learner(constant(1.0))
    pair = [transition(0, 0, 3.0, 0.0, 0), transition(1, 1, 1.0, 0.0, 0)]
    joined = Batch(*(torch.cat([getattr(b, f) for b in pair]) for f in Batch.__slots__[:5]))
    result = learner.update(joined, 0)
    assert result.loss.item() == (9.0 / 2 + 1.0 / 2) / 2
    assert learner.online.entries[0, 0].item() == 1.5
    assert learner.online.entries[1, 1].item() == 0.5


def test_the_loss_is_the_one_configured() -> None:
    learner = table_learner(constant(1.0), loss="huber")
    assert learner.update(transition(0, 0, 3.0, 0.0, 0), 0).loss.item() == 2.5
    assert learner.online.entries[0, 0].item() == 1.0


def test_the_result_tells_of_the_batch_before_the_update_and_holds_no_graph() -> None:
    learner, batch = mlp_learner(max_grad_norm=1.0), random_batch(0)
    mean_q = learner.online(batch.obs)[torch.arange(32), batch.action].mean()
    result = learner.update(batch, 0)
    torch.testing.assert_close(result.mean_q, mean_q.detach())
    for value in (result.loss, result.mean_q, result.grad_norm):
        assert value.shape == ()
        assert not value.requires_grad
    assert mlp_learner().update(batch, 0).grad_norm is None


@pytest.mark.parametrize("max_grad_norm", [0.05, 1e3])
def test_gradients_are_clipped_by_their_norm(max_grad_norm) -> None:
    learner = mlp_learner("vdqn", SgdConfig(lr=0.5), loss="mse", max_grad_norm=max_grad_norm)
    batch, weights = random_batch(1), list(learner.online.parameters())
    y = batch.reward + batch.discount * learner.online(batch.next_obs).detach().amax(1)
    loss = 0.5 * (learner.online(batch.obs)[torch.arange(32), batch.action] - y).square().mean()
    g = torch.cat([x.flatten() for x in torch.autograd.grad(loss, weights)])
    expected = flat(learner.online) - 0.5 * g * min(1.0, max_grad_norm / g.norm().item())
    result = learner.update(batch, 0)
    torch.testing.assert_close(flat(learner.online), expected)
    torch.testing.assert_close(result.grad_norm, g.norm())
    assert 0.05 < g.norm() < 1e3


def test_batches_are_brought_to_the_networks_device() -> None:
    table = make_network(TableConfig(), ScalarConfig(), ObsSpec((5,), "float32"), 2).to("meta")
    descent = make_descent(SgdConfig(), ScalarConfig(), table, constant(0.1))
    learner = Learner(table, Method(RULES["ddqn"], Scalar(LOSSES["mse"])), descent, torch.Generator())
    assert learner.update(transition(0, 0, 1.0, 0.9, 1), 0).loss.device.type == "meta"


def test_gradients_do_not_add_up_over_updates() -> None:
    learner = table_learner(constant(1.0))
    for _ in range(3):
        learner.update(transition(0, 0, 1.0, 0.0, 0), 0)
    assert learner.online.entries[0, 0].item() == 1.0


def test_vdqn_allocates_no_target_network() -> None:
    learner = mlp_learner("vdqn")
    assert learner.target is None
    assert learner.network("online") is learner.online
    assert all(name.startswith("online.") for name in learner.model_state())
    with pytest.raises(ValueError, match="no target network"):
        learner.network("target")
    with pytest.raises(ValueError, match="no target network"):
        learner.sync_target()


@pytest.mark.parametrize("variant", ["tdqn", "ddqn"])
def test_the_target_network_is_a_frozen_copy_until_it_is_synchronised(variant) -> None:
    learner = mlp_learner(variant)
    assert learner.network("target") is learner.target
    start = flat(learner.online)
    assert torch.equal(flat(learner.target), start)
    for i in range(5):
        learner.update(random_batch(i), i)
    assert torch.equal(flat(learner.target), start)
    assert not torch.equal(flat(learner.online), start)
    assert all(w.grad is None and not w.requires_grad for w in learner.target.parameters())
    learner.sync_target()
    assert torch.equal(flat(learner.target), flat(learner.online))
    learner.update(random_batch(9), 9)
    assert not torch.equal(flat(learner.target), flat(learner.online))


@pytest.mark.parametrize("tau", [1.0, 0.75, 0.005])
def test_polyak_averaging_in_place(tau) -> None:
    learner = mlp_learner(tau=tau)
    where = [w.data_ptr() for w in learner.target.parameters()]
    for i in range(5):
        learner.update(random_batch(i), i)
    online, target = flat(learner.online), flat(learner.target)
    learner.sync_target()
    torch.testing.assert_close(flat(learner.target), tau * online + (1 - tau) * target)
    assert torch.equal(flat(learner.online), online)
    assert [w.data_ptr() for w in learner.target.parameters()] == where


def test_a_copy_is_exact_where_averaging_would_not_be() -> None:
    learner = mlp_learner()
    torch.nn.init.constant_(learner.target.head.output.bias, torch.inf)
    learner.sync_target()
    assert torch.equal(flat(learner.target), flat(learner.online))


@pytest.mark.parametrize(("variant", "online", "target"), [("vdqn", 2, 0), ("tdqn", 1, 1), ("ddqn", 2, 1)])
def test_no_forward_pass_is_made_twice(variant, online, target) -> None:
    learner, count = mlp_learner(variant, fast=False), {"online": 0, "target": 0}

    def counting(which: str):
        def hook(*_) -> None:
            count[which] += 1

        return hook

    learner.online.register_forward_hook(counting("online"))
    if learner.target is not None:
        learner.target.register_forward_hook(counting("target"))
    learner.update(random_batch(0), 0)
    assert count == {"online": online, "target": target}


def test_a_fixed_regression_is_learnt() -> None:
    learner, batch = mlp_learner(config=AdamConfig(lr=1e-2)), random_batch(0, discount=0.0)
    losses = [learner.update(batch, i).loss.item() for i in range(300)]
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("variant", ["vdqn", "tdqn", "ddqn"])
def test_the_same_seed_gives_the_same_bits(variant) -> None:
    first, second, other = (mlp_learner(variant, seed=seed, max_grad_norm=1.0) for seed in (3, 3, 4))
    for i in range(30):
        for learner in (first, second, other):
            learner.update(random_batch(i), i)
    assert torch.equal(flat(first.online), flat(second.online))
    assert not torch.equal(flat(first.online), flat(other.online))


OPTIMIZERS = [
    *(config() for config in CHOICES["optimizer"].values()),
    SgdConfig(momentum=0.9),
    RmspropConfig(momentum=0.9),
]


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda config: f"{config.name} {getattr(config, 'momentum', '')}")
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(config) -> None:
    original, restored = mlp_learner("ddqn", config, seed=0), mlp_learner("ddqn", config, seed=1)
    for i in range(5):
        original.update(random_batch(i), i)
    restored.load_model_state(original.model_state())
    restored.load_optimizer_state(original.optimizer_state())
    for i in range(5, 10):
        for learner in (original, restored):
            learner.update(random_batch(i), i)
    for kept, found in zip(original.model_state().items(), restored.model_state().items(), strict=True):
        assert kept[0] == found[0]
        assert torch.equal(kept[1], found[1])
    assert {n: t.tolist() for n, t in original.optimizer_state().items()} == {
        n: t.tolist() for n, t in restored.optimizer_state().items()
    }


def test_the_states_are_named_and_flat() -> None:
    learner = mlp_learner("tdqn")
    learner.update(random_batch(0), 0)
    names = [name for name, _ in learner.online.named_parameters()]
    assert set(learner.model_state()) == {f"{which}.{name}" for which in ("online", "target") for name in names}
    assert set(learner.optimizer_state()) == {
        f"{name}.{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert all(isinstance(t, torch.Tensor) and not t.requires_grad for t in learner.model_state().values())


def test_both_networks_can_begin_with_other_weights() -> None:
    source, learner = mlp_learner("vdqn", seed=1), mlp_learner("ddqn", seed=2)
    learner.load_online(source.online.state_dict())
    assert torch.equal(flat(learner.online), flat(source.online))
    assert torch.equal(flat(learner.target), flat(source.online))
    learner.update(random_batch(0), 0)
    assert not torch.equal(flat(learner.online), flat(source.online))
    assert torch.equal(flat(learner.target), flat(source.online))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"online.head.output.bias": torch.zeros(7)}, r"head.output.bias has shape \[7\], this network needs \[3\]"),
        ({"target.head.output.bias": torch.zeros(7)}, r"head.output.bias has shape \[7\], this network needs \[3\]"),
        ({"online.noise": torch.zeros(2)}, r"noise has shape \[2\], this network needs none"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message) -> None:
    learner = mlp_learner("tdqn")
    with pytest.raises(ValueError, match=message):
        learner.load_model_state({**learner.model_state(), **change})


def test_missing_weights_are_refused() -> None:
    learner = mlp_learner("tdqn")
    with pytest.raises(ValueError, match=r"has shape none, this network needs \[16, 4\]"):
        learner.load_model_state({k: v for k, v in learner.model_state().items() if k.startswith("online.")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonsense.step": torch.ones(())}, "nonsense.step belongs to no parameter"),
        ({"head.output.bias.exp_avg": None}, "head.output.bias.exp_avg is missing"),
        ({"head.output.bias.exp_avg": torch.ones(())}, r"exp_avg is torch.float32 of shape \[\], expected \[3\]"),
        ({"head.output.bias.step": torch.ones(3)}, r"step is torch.float32 of shape \[3\], expected \[\]"),
        ({"head.output.bias.exp_avg": torch.ones(3, dtype=torch.float64)}, "torch.float64"),
    ],
)
def test_another_networks_optimizer_state_is_refused(change, message) -> None:
    learner = mlp_learner()
    learner.update(random_batch(0), 0)
    state = {name: w for name, w in {**learner.optimizer_state(), **change}.items() if w is not None}
    with pytest.raises(ValueError, match=message):
        mlp_learner().load_optimizer_state(state)


def test_what_an_optimizer_remembers_is_paired_with_its_weights_in_any_layout() -> None:
    """Fused kernels go through memory, where channels-last weights lie in another order than those of a file."""

    def learner(seed: int) -> Learner:
        torch.manual_seed(seed)
        spec, config = ObsSpec((10, 10, 3), "bool"), MinatarCnnConfig()
        online = make_network(config, ScalarConfig(), spec, 3).to(memory_format=torch.channels_last)
        descent = make_descent(AdamConfig(), ScalarConfig(), online, constant(1e-3))
        return Learner(online, Method(RULES["vdqn"], Scalar(LOSSES["huber"])), descent, torch.Generator())

    def images(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        obs, next_obs = torch.rand(2, 4, 10, 10, 3, generator=g) < 0.3
        return replace(random_batch(seed, 4), obs=obs, next_obs=next_obs)

    original, restored = learner(0), learner(1)
    original.update(images(0), 0)
    restored.load_model_state(original.model_state())
    restored.load_optimizer_state({name: w.contiguous() for name, w in original.optimizer_state().items()})
    for one in (original, restored):
        one.update(images(1), 1)
    assert torch.equal(flat(original.online), flat(restored.online))
