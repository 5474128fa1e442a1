"""The learner with every representation of values: weights, priorities, what is restored, and looking on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from small_learners import (
    ACTIONS,
    BATCH,
    MUNCHAUSEN,
    SPEC,
    VALUES,
    flat,
    gradients,
    make,
    noisy,
    random_batch,
    seeded,
    state_of,
)
from torch.nn import functional as F

from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import make_descent
from dqn_cli.config import AdamConfig, NipsCnnConfig, SgdConfig
from dqn_cli.networks.make import make_network
from dqn_cli.schedules import constant, linear
from dqn_cli.types import Batch, ObsSpec, UpdateResult

WEIGHTS = torch.tensor([1.0, 0.5, 0.25, 0.125, 1.0, 0.0, 0.75, 0.3])
PICTURES = ObsSpec((20, 20), "uint8")


def updated(learner: Learner, batch: Batch) -> UpdateResult:
    return learner.update(batch, 0)


def test_the_weighted_mean_by_hand() -> None:
    learner, batch = make("vdqn", loss="mse", optimizer=SgdConfig(lr=0.5)), replace(random_batch(1), weight=WEIGHTS)
    rows, parameters = torch.arange(BATCH), list(learner.online.parameters())
    y = batch.reward + batch.discount * learner.online(batch.next_obs).detach().amax(1)
    q = learner.online(batch.obs)[rows, batch.action]
    loss = sum(w * 0.5 * (q[i] - y[i]) ** 2 for i, w in enumerate(WEIGHTS.tolist())) / BATCH
    g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
    expected = flat(learner.online) - 0.5 * g
    result = updated(learner, batch)
    torch.testing.assert_close(flat(learner.online), expected)
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(result.priority, (y - q).abs().detach())  # of each transition, whatever its weight
    torch.testing.assert_close(result.mean_q, q.detach().mean())


@pytest.mark.parametrize("value", VALUES)
def test_weights_scale_each_rows_gradient_and_nothing_else(value) -> None:
    """Weights are linear: the gradients of w, and of 1 - w, add up to those without weights."""
    batch = random_batch(2)
    found, results = [], []
    for weight in (None, WEIGHTS, 1 - WEIGHTS, torch.ones(BATCH)):
        learner = make("ddqn", value)
        results.append(updated(learner, replace(batch, weight=weight)))
        found.append(gradients(learner.online))
    plain, some, others, ones = found
    for name, g in plain.items():
        torch.testing.assert_close(some[name] + others[name], g, msg=name)
        torch.testing.assert_close(ones[name], g, rtol=0, atol=0, msg=name)
        assert not torch.equal(some[name], g), name
    for result in results[1:]:
        assert torch.equal(result.priority, results[0].priority)
        assert torch.equal(result.mean_q, results[0].mean_q)


@pytest.mark.parametrize("value", VALUES)
def test_a_row_of_weight_0_teaches_nothing(value) -> None:
    batch, weight = random_batch(2), torch.ones(BATCH)
    weight[3] = 0.0
    obs, reward = batch.obs.clone(), batch.reward.clone()
    obs[3], reward[3] = 100.0, 1000.0
    learners = [make("tdqn", value) for _ in range(2)]
    updated(learners[0], replace(batch, weight=weight))
    updated(learners[1], replace(batch, obs=obs, reward=reward, weight=weight))
    torch.testing.assert_close(flat(learners[0].online), flat(learners[1].online))


@pytest.mark.parametrize("variant", ["vdqn", "ddqn"])
@pytest.mark.parametrize("value", VALUES)
def test_priorities_are_a_number_for_each_row(value, variant) -> None:
    learner = make(variant, value, network=noisy())
    for i in range(3):
        priority = updated(learner, random_batch(i)).priority
        assert priority.shape == (BATCH,)
        assert priority.dtype == torch.float32
        assert not priority.requires_grad
        assert priority.isfinite().all()
        assert (priority > 0).all()


@pytest.mark.parametrize("value", sorted(VALUES.keys() - {"categorical"}))  # whose divergence knows no distance
def test_what_is_most_wrong_has_the_largest_priority(value) -> None:
    batch = random_batch(0, discount=0.0)
    reward = torch.zeros(BATCH)
    reward[5] = 2.5
    assert updated(make("tdqn", value), replace(batch, reward=reward)).priority.argmax() == 5


@pytest.mark.parametrize("value", ["scalar", "categorical"])
def test_the_priority_of_what_is_foreseen_is_0(value) -> None:
    learner, batch = make("tdqn", value), random_batch(4, discount=1.0)
    greedy = learner.look(batch.obs, seeded(0)).q.argmax(1)
    reward = torch.zeros(BATCH)
    reward[2] = 0.5
    # the next state is the present one, and nothing is gained on the way
    foreseen = replace(batch, action=greedy, reward=reward, next_obs=batch.obs)
    priority = updated(learner, foreseen).priority.clone()
    assert priority[2] > 0.01
    priority[2] = 0.0
    torch.testing.assert_close(priority, torch.zeros(BATCH), rtol=0, atol=1e-6)


@pytest.mark.parametrize("munchausen", [None, MUNCHAUSEN], ids=["plain", "munchausen"])
@pytest.mark.parametrize("variant", ["vdqn", "ddqn"])
@pytest.mark.parametrize("value", VALUES)
def test_looking_on_changes_no_bit_of_the_updates(value, variant, munchausen) -> None:
    if munchausen and value in ("categorical", "fqf"):
        return  # which settle.py refuses
    rngs = [seeded(1), seeded(1)]
    alone, watched = (make(variant, value, network=noisy(), munchausen=munchausen, rng=rng) for rng in rngs)
    seen = []
    for i in range(5):
        rng = seeded(9)
        batch = random_batch(100)
        look = watched.look(batch.obs, rng)
        seen.append((look.q, watched.error(look, batch, rng)))
        for learner in (alone, watched):
            learner.update(random_batch(i), i)
    assert state_of(alone) == state_of(watched)
    assert torch.equal(*(rng.get_state() for rng in rngs))
    q, error = seen[0]
    assert q.shape == (BATCH, ACTIONS)
    assert error.priority.shape == (BATCH,)
    assert not torch.equal(seen[0][0], seen[-1][0])


@pytest.mark.parametrize("value", VALUES)
def test_a_look_depends_on_its_own_numbers_alone(value) -> None:
    learner, batch = make("ddqn", value, network=noisy()), random_batch(0)

    def seen() -> tuple[torch.Tensor, torch.Tensor]:
        rng = seeded(4)
        look = learner.look(batch.obs, rng)
        return look.q, learner.error(look, batch, rng).priority

    first = seen()
    learner.online.draw_noise(seeded(1))
    assert learner.target is not None
    learner.target.draw_noise(seeded(2))
    assert all(torch.equal(a, b) for a, b in zip(first, seen(), strict=True))


@pytest.mark.parametrize("value", VALUES)
def test_what_is_looked_at_is_what_an_update_tells(value) -> None:
    """Without noise, from the same numbers: the errors of `error` are those of `update`."""
    learner, batch, rng = make("vdqn", value, rng=seeded(6), fast=False), random_batch(0), seeded(6)
    error = learner.error(learner.look(batch.obs, rng), batch, rng)
    result = updated(learner, batch)
    assert torch.equal(error.priority, result.priority)
    assert torch.equal(error.loss.mean(), result.loss)
    assert torch.equal(error.q.mean(), result.mean_q)


@pytest.mark.parametrize("value", VALUES)
def test_a_restored_learner_of_any_value_goes_on_as_if_nothing_had_happened(value) -> None:
    rngs = [seeded(1), seeded(2)]
    original, restored = (make("ddqn", value, network=noisy(), seed=seed, rng=rng) for seed, rng in enumerate(rngs))
    for i in range(4):
        original.update(random_batch(i), i)
    restored.load_model_state(original.model_state())
    restored.load_optimizer_state(original.optimizer_state())
    rngs[1].set_state(rngs[0].get_state())
    assert state_of(original) == state_of(restored)
    for i in range(4, 8):
        for learner in (original, restored):
            learner.update(random_batch(i), i)
    assert state_of(original) == state_of(restored)


PROPOSAL = ["proposal.weight", "proposal.bias"]


def test_proposals_have_an_optimizer_of_their_own() -> None:
    learner = make("ddqn", "fqf")
    descent = make_descent(AdamConfig(), VALUES["fqf"], learner.online, constant(1e-3))
    named = {id(w): name for name, w in learner.online.named_parameters()}
    first, second = ([named[id(w)] for g in o.param_groups for w in g["params"]] for o in descent.optimizers)
    assert second == PROPOSAL
    assert sorted(first + second) == sorted(named.values())
    assert [id(w) for w in descent.parameters] == [id(w) for w in learner.online.parameters()][: len(first)]
    assert len(make_descent(AdamConfig(), VALUES["implicit"], learner_of("implicit"), constant(1e-3)).optimizers) == 1


def learner_of(value: str) -> torch.nn.Module:
    return make_network(noisy(), VALUES[value], SPEC, ACTIONS)


def test_the_proposals_learning_rate_follows_no_schedule() -> None:
    learner = make("ddqn", "fqf", lr=linear(0.1, 0.0, 100))
    before = {name: w.detach().clone() for name, w in learner.online.named_parameters()}
    learner.update(random_batch(0), 100)  # where the schedule has come to 0
    moved = {name for name, w in learner.online.named_parameters() if not torch.equal(w, before[name])}
    assert moved == set(PROPOSAL)
    # a first step of RMSProp: lr g / (sqrt(.05 g^2) + eps), which is 1e-3 / sqrt(.05) unless g is small
    step = (learner.online.proposal.weight - before["proposal.weight"]).abs().amax().item()
    assert step == pytest.approx(1e-3 / 0.05**0.5, rel=0.05)


def test_the_proposals_gradients_are_not_clipped_with_the_others() -> None:
    free, clipped = make("ddqn", "fqf"), make("ddqn", "fqf", optimizer=AdamConfig(lr=3e-3, max_grad_norm=1e-3))
    batch = random_batch(0)
    assert updated(free, batch).grad_norm is None
    whole = gradients(free.online)
    others = torch.cat([g.flatten() for name, g in whole.items() if name not in PROPOSAL])
    result = updated(clipped, batch)
    assert result.grad_norm is not None
    torch.testing.assert_close(result.grad_norm, others.norm())
    assert others.norm() > 1e-2
    for name, g in gradients(clipped.online).items():
        if name in PROPOSAL:
            assert torch.equal(g, whole[name])
            assert g.abs().sum() > 0
        else:
            torch.testing.assert_close(g, whole[name] * (1e-3 / others.norm()), rtol=1e-4, atol=1e-9)


def test_the_state_of_two_optimizers_is_one_of_named_tensors() -> None:
    learner = make("ddqn", "fqf")
    updated(learner, random_batch(0))
    names = [name for name, _ in learner.online.named_parameters()]
    adam = {f"{name}.{key}" for name in names if name not in PROPOSAL for key in ("step", "exp_avg", "exp_avg_sq")}
    assert set(learner.optimizer_state()) == adam | {f"{n}.{key}" for n in PROPOSAL for key in ("step", "square_avg")}


def spectral(tau: float) -> Learner:
    return make("tdqn", network=NipsCnnConfig(spectral_norm=True), spec=PICTURES, tau=tau)


def test_an_update_follows_the_spectral_norms_by_one_iteration() -> None:
    learner = spectral(1.0)
    (layer,) = [m for m in learner.online.modules() if hasattr(m, "iterate")]
    matrix = layer.weight.detach().flatten(1).clone()
    v = F.normalize(matrix.T @ layer.u, dim=0)
    u = F.normalize(matrix @ v, dim=0)
    updated(learner, random_batch(0, spec=PICTURES))
    torch.testing.assert_close(layer.u, u)
    torch.testing.assert_close(layer.v, v)


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_buffers_are_copied_to_the_target_network_whatever_tau(tau) -> None:
    learner = spectral(tau)
    assert learner.target is not None
    start = deepcopy(learner.target)
    for i in range(3):
        learner.update(random_batch(i, spec=PICTURES), i)
    buffers = dict(learner.online.named_buffers())
    assert [name.rpartition(".")[2] for name in buffers] == ["u", "v"]
    for name, buffer in learner.target.named_buffers():
        assert torch.equal(buffer, start.get_buffer(name))
        assert not torch.equal(buffer, buffers[name])
    learner.sync_target()
    for name, buffer in learner.target.named_buffers():
        assert torch.equal(buffer, buffers[name])
        assert buffer.data_ptr() != buffers[name].data_ptr()
    torch.testing.assert_close(flat(learner.target), tau * flat(learner.online) + (1 - tau) * flat(start))
    assert set(learner.model_state()) == {
        f"{which}.{name}" for which in ("online", "target") for name in learner.online.state_dict()
    }
    assert set(buffers) <= set(learner.online.state_dict())
