"""The targets that a learner really learns: V-DQN, T-DQN and DDQN against hand-worked numbers and theorems."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dqn_cli.agent.gradient import Method
from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import Descent
from dqn_cli.algorithm.losses import Error, mse
from dqn_cli.algorithm.munchausen import Munchausen
from dqn_cli.algorithm.rules import RULES
from dqn_cli.algorithm.values import Quantile, QuantileLook, Scalar
from dqn_cli.config import QuantileConfig
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.schedules import constant
from dqn_cli.types import Batch

DEEP = ["vdqn", "tdqn", "ddqn"]


class Values(ValueNetwork):
    """Q of state i is row i, so that a test can write any estimate it likes."""

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.q = nn.Parameter(q.clone())

    def forward(self, obs: Tensor) -> Tensor:
        return self.q[obs]


def learnt_targets(variant: str, r: Tensor, discount: Tensor, q_online: Tensor, q_target: Tensor) -> Tensor:
    """y [B] of `B` transitions whose successors are valued q_online, q_target [B, A].

    Every present state has Q 0, and the learning rate undoes the mean over the batch: one update moves Q(s, 0) to y.
    """
    size = len(r)
    now = torch.zeros_like(q_online)
    online = Values(torch.cat([now, q_online]))
    optimizer = torch.optim.SGD(online.parameters(), lr=1.0)
    descent = Descent((optimizer,), constant(float(size)))
    learner = Learner(online, Method(RULES[variant], Scalar(mse)), descent, torch.Generator())
    if learner.target is not None:
        learner.target.load_state_dict({"q": torch.cat([now, q_target])})
    states = torch.arange(size)
    learner.update(Batch(states, torch.zeros(size, dtype=torch.int64), r, discount, states + size), 0)
    return online.q.detach()[:size, 0]


def f64(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# the two networks disagree on the best action: online prefers action 1, target action 2
Q_ONLINE, Q_TARGET = f64([1.0, 4.0, 2.0]), f64([3.0, -1.0, 5.0])


@pytest.mark.parametrize(("variant", "value"), [("vdqn", 4.0), ("qlearning", 4.0), ("tdqn", 5.0), ("ddqn", -1.0)])
@pytest.mark.parametrize(
    ("what", "r", "discount"),
    [
        ("a step", 0.5, 0.9),
        ("terminal: nothing follows", 0.5, 0.0),
        ("truncated: the episode would have gone on", -2.0, 0.99),
        ("three steps", 1.0 + 0.9 * 2.0 + 0.81 * 3.0, 0.9**3),
        ("a tail of two steps before a terminal state", 1.0 + 0.9 * 2.0, 0.0),
        ("no discounting", -1.0, 1.0),
    ],
)
def test_targets_by_hand(variant, value, what, r, discount) -> None:
    y = learnt_targets(variant, f64(r), f64(discount), Q_ONLINE, Q_TARGET)
    torch.testing.assert_close(y, f64(r + discount * value))


@st.composite
def estimates(draw):
    size, actions = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    number = st.floats(-100, 100, width=32)

    def array(*shape: int) -> Tensor:
        count = torch.Size(shape).numel()
        return f64(*draw(st.lists(number, min_size=count, max_size=count))).reshape(shape)

    discount = f64(*draw(st.lists(st.floats(0, 1, width=32), min_size=size, max_size=size)))
    return array(size), discount, array(size, actions), array(size, actions)


@settings(max_examples=60, deadline=None)
@given(estimates())
def test_ddqn_is_never_above_tdqn(world) -> None:
    assert (learnt_targets("ddqn", *world) <= learnt_targets("tdqn", *world) + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(estimates())
def test_equal_networks_make_the_variants_agree(world) -> None:
    r, discount, q, _ = world
    v, t, d = (learnt_targets(variant, r, discount, q, q) for variant in DEEP)
    assert torch.equal(v, t)
    assert torch.equal(v, d)


@settings(max_examples=40, deadline=None)
@given(estimates(), st.sampled_from(DEEP))
def test_without_discount_the_target_is_the_reward(world, variant) -> None:
    r, discount, q_online, q_target = world
    torch.testing.assert_close(learnt_targets(variant, r, 0 * discount, q_online, q_target), r)


@settings(max_examples=40, deadline=None)
@given(estimates(), st.sampled_from(DEEP), st.randoms(use_true_random=False))
def test_names_of_actions_do_not_matter(world, variant, random) -> None:
    r, discount, q_online, q_target = world
    q_online = q_online + torch.arange(q_online.shape[1]) * 1e-3  # equal values are told apart by their names
    names = random.sample(range(q_online.shape[1]), q_online.shape[1])
    if any(len(set(row)) < len(row) for row in q_online.tolist()):
        return
    y = learnt_targets(variant, r, discount, q_online, q_target)
    assert torch.equal(y, learnt_targets(variant, r, discount, q_online[:, names], q_target[:, names]))


def bias(variant: str, actions: int, independent: bool) -> float:
    """Mean of y - V* where V* = 0 and the errors are iid U[-1, 1] (van Hasselt et al. 2016, Theorem 2)."""
    size, noise = 100_000, torch.Generator().manual_seed(actions)
    q_online, q_target = torch.rand(2, size, actions, generator=noise, dtype=torch.float64) * 2 - 1
    zero, one = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    return float(learnt_targets(variant, zero, one, q_online, q_target if independent else q_online).mean())


@pytest.mark.parametrize("actions", [2, 3, 4, 6, 18])
@pytest.mark.parametrize("variant", ["vdqn", "tdqn"])
def test_the_max_over_noisy_values_overestimates(variant, actions) -> None:
    assert bias(variant, actions, independent=True) == pytest.approx((actions - 1) / (actions + 1), abs=0.01)


@pytest.mark.parametrize("actions", [2, 3, 4, 6, 18])
def test_ddqn_does_not_with_two_independent_networks(actions) -> None:
    assert bias("ddqn", actions, independent=True) == pytest.approx(0, abs=0.01)


def test_ddqn_overestimates_where_both_networks_err_alike() -> None:
    assert bias("ddqn", 4, independent=False) == pytest.approx(0.6, abs=0.01)


# Munchausen: of the state two actions are left, with (ln of) probabilities that are easily worked out at tau 1
NOW_ONLINE, NOW_TARGET = f64([0.0, 0.0]), f64([0.0, log(7)])  # action 0 has probability 1/2, and 1/8
NEXT_ONLINE, NEXT_TARGET = f64([0.0, log(3)]), f64([log(2), 0.0])  # 1/4 and 3/4, 2/3 and 1/3


def munchausen_learner(variant: str, value, method: Munchausen, lr: float, spread: Tensor, scale: float) -> Learner:
    """State 0 is the present, state 1 the next one; quantiles lie `spread` [A, N] around each Q (one row: Q itself)."""

    def table(now: Tensor, ahead: Tensor) -> Tensor:
        q = scale * torch.cat([now, ahead])
        return q if spread.numel() == 0 else q.unsqueeze(2) + spread

    online = Values(table(NOW_ONLINE, NEXT_ONLINE))
    descent = Descent((torch.optim.SGD(online.parameters(), lr=1.0),), constant(lr))
    learner = Learner(online, Method(RULES[variant], value, method), descent, torch.Generator())
    if learner.target is not None:
        learner.target.load_state_dict({"q": table(NOW_TARGET, NEXT_TARGET)})
    return learner


def from_0_to_1(r: float, discount: float) -> Batch:
    state, action = torch.tensor([0]), torch.tensor([0])
    return Batch(state, action, f64(r), f64(discount), state + 1)


# (tau log pi(a|s) of the selecting network, sum_a pi(a) (q(a) - log pi(a)) of the next state) at tau 1
# one network selects and evaluates: ln sum exp q. DDQN: (1/4) ln 2 + (3/4) 0 + (1/4) ln 4 + (3/4) ln(4/3)
MUNCHAUSEN = {
    "vdqn": (-log(2), log(4)),
    "tdqn": (-log(8), log(3)),
    "ddqn": (-log(2), 9 / 4 * log(2) - 3 / 4 * log(3)),
}


@pytest.mark.parametrize("tau", [1.0, 0.03])  # values scaled by tau keep the policy, and scale both terms
@pytest.mark.parametrize(("variant", "terms"), MUNCHAUSEN.items())
@pytest.mark.parametrize(("clip", "r", "discount"), [(-100.0, 0.5, 0.9), (-1.5, 0.5, 0.9), (-100.0, -2.0, 0.0)])
def test_munchausen_targets_by_hand(variant, terms, clip, r, discount, tau) -> None:
    method = Munchausen(alpha=0.9, tau=tau, clip=clip * tau)
    learner = munchausen_learner(variant, Scalar(mse), method, 1.0, torch.empty(0), tau)
    learner.update(from_0_to_1(r, discount), 0)
    log_pi, soft = terms
    expected = r + 0.9 * tau * max(log_pi, clip) + discount * tau * soft
    (q,) = [w.detach() for w in learner.online.parameters()]
    torch.testing.assert_close(q[0], torch.stack([f64(expected).squeeze(), tau * NOW_ONLINE[0, 1]]))


def test_munchausen_clips_where_tdqn_alone_goes_below() -> None:
    assert -log(8) < -1.5 < -log(2)  # or the clip above would have tested nothing


def test_without_alpha_and_almost_without_entropy_munchausen_is_the_variant_itself() -> None:
    for variant in DEEP:
        method = Munchausen(alpha=0.0, tau=1e-6, clip=-1.0)
        learner = munchausen_learner(variant, Scalar(mse), method, 1.0, torch.empty(0), 1.0)
        learner.update(from_0_to_1(0.5, 0.9), 0)
        # the best of the next state's: online ln 3, target ln 2; of the online network's best, the target says 0
        expected = {"vdqn": log(3), "tdqn": log(2), "ddqn": 0.0}[variant]
        (q,) = [w.detach() for w in learner.online.parameters()]
        torch.testing.assert_close(q[0, 0], f64(0.5 + 0.9 * expected).squeeze(), rtol=0, atol=1e-5)


class Told(Quantile):
    """Remembers the targets that it was told."""

    def error(self, look_tm1: QuantileLook, a_tm1: Tensor, target: Tensor) -> Error:
        self.target_seen = target
        return super().error(look_tm1, a_tm1, target)


@pytest.mark.parametrize(("variant", "terms"), MUNCHAUSEN.items())
def test_munchausen_targets_of_quantiles_by_hand(variant, terms) -> None:
    """Both actions' quantiles are mixed, each with its own: here 1 and 3 below and above Q, for either network."""
    value = Told(QuantileConfig(quantiles=2), torch.device("cpu"))
    spread = f64([-1.0, 1.0], [-3.0, 3.0])  # around the first action's Q, and the second's
    learner = munchausen_learner(variant, value, Munchausen(alpha=0.9, tau=1.0, clip=-1.5), 1.0, spread, 1.0)
    learner.update(from_0_to_1(0.5, 0.9), 0)
    log_pi, soft = terms
    first = {"vdqn": 1 / 4, "tdqn": 2 / 3, "ddqn": 1 / 4}[variant]  # probability of action 0
    width = first * 1.0 + (1 - first) * 3.0
    middle = 0.5 + 0.9 * max(log_pi, -1.5) + 0.9 * soft
    torch.testing.assert_close(value.target_seen, f64([middle - 0.9 * width, middle + 0.9 * width]))
