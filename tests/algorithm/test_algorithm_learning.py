"""Every representation recovers a known distribution of returns, and Q* of a small, slippery chain."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_cli.algorithm.implicit import Fqf, FqfLook, ImplicitLook
from dqn_cli.algorithm.losses import mse
from dqn_cli.algorithm.rules import RULES, Network
from dqn_cli.algorithm.targets import chosen, greedy_action
from dqn_cli.algorithm.values import Categorical, Quantile, Value, make_value
from dqn_cli.config import (
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
SHARP = 0.02  # kappa: nearly the quantiles themselves, which Huber's loss would smooth


def network(config: ValueConfig, value: Value, states: int, actions: int) -> QNetwork:
    spec, layers = ObsSpec((states,), "float32"), Layers()
    if isinstance(config, (ImplicitConfig, FqfConfig)):
        fractions = config.quantiles if isinstance(config, FqfConfig) else None
        torso = Mlp(spec, [32], layers)
        return ImplicitQNetwork(torso, Stream(32, 32, (actions,), layers), config.embedding, fractions)
    return QNetwork(Mlp(spec, [], layers), Stream(states, None, (actions, *value.outputs), layers))


def optimizers(
    net: QNetwork, lr: float, steps: int
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    proposals = [w for name, w in net.named_parameters() if name.startswith("proposal.")]
    rest = [w for name, w in net.named_parameters() if not name.startswith("proposal.")]
    found: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=lr)]
    if proposals:
        found.append(torch.optim.RMSprop(proposals, lr=1e-4, alpha=0.95, eps=1e-5))
    return found, [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.01, steps) for o in found]


def learn_rewards(config: ValueConfig, rewards: Tensor, steps: int, lr: float) -> tuple[Value, QNetwork]:
    """Learn the return of one state and action whose episodes end at once, with each of `rewards` equally often."""
    torch.manual_seed(0)
    value, rng = make_value(config, mse, CPU), torch.Generator().manual_seed(0)
    net = network(config, value, 1, 1)
    found, schedules = optimizers(net, lr, steps)
    size = 32
    obs, action, over = torch.ones(size, 1), torch.zeros(size, dtype=torch.int64), torch.zeros(size)
    for step in range(steps):
        r_t = rewards[torch.arange(step * size, (step + 1) * size) % len(rewards)]
        with torch.no_grad():
            z_t = chosen(value.look(net, obs, rng, ahead=True).z, action)
            target = value.target(r_t, over, z_t)
        error = value.error(value.look(net, obs, rng), action, target)
        for optimizer in found:
            optimizer.zero_grad()
        error.loss.mean().backward()
        for optimizer, schedule in zip(found, schedules, strict=True):
            optimizer.step()
            schedule.step()
    return value, net


def mean_q(value: Value, net: QNetwork, obs: Tensor) -> Tensor:
    """Q [B, A], without the noise of a single draw of fractions."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return torch.stack([value.look(net, obs, rng).q for _ in range(50)]).mean(0)


def shuffled(rewards: Tensor) -> Tensor:
    return rewards[torch.randperm(len(rewards), generator=torch.Generator().manual_seed(1))]


COIN = shuffled(torch.cat([torch.zeros(300), torch.ones(700)]))  # 0 with probability 0.3, else 1


def mixture() -> Tensor:
    """Half N(-2, 0.5^2), half N(1, 0.2^2), by their quantiles."""
    normal = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(500) + 0.5) / 500)
    return shuffled(torch.cat([-2 + 0.5 * normal, 1 + 0.2 * normal]))


def quantiles(value: Value, net: QNetwork) -> tuple[Tensor, Tensor]:
    """Fractions [T] that the representation knows of, and what it says of the one state there, [T]."""
    look = value.look(net, torch.ones(1, 1), torch.Generator().manual_seed(0))
    match look:
        case ImplicitLook():
            tau = look.tau[0]
        case FqfLook():
            tau = look.fractions.midpoints[0]
        case _:
            assert isinstance(value, Quantile)
            tau = value.tau
    return tau.detach(), look.z[0, 0].detach()


def test_c51_recovers_the_probabilities_of_a_coin() -> None:
    value, net = learn_rewards(CategoricalConfig(atoms=11, v_min=-1, v_max=1.5), COIN, steps=400, lr=0.1)
    assert isinstance(value, Categorical)
    p = net(torch.ones(1, 1))[0, 0].softmax(0).detach()
    torch.testing.assert_close(p[[4, 8]], torch.tensor([0.3, 0.7]), atol=0.02, rtol=0)  # the atoms at 0 and 1
    assert p[[4, 8]].sum() > 0.99


def test_c51_recovers_a_mixture() -> None:
    rewards = mixture()
    value, net = learn_rewards(CategoricalConfig(atoms=61, v_min=-5, v_max=3), rewards, steps=600, lr=0.1)
    assert isinstance(value, Categorical)
    p = net(torch.ones(1, 1))[0, 0].softmax(0).detach()
    distribution = p.cumsum(0)
    true = (rewards.unsqueeze(1) <= value.atoms + (value.atoms[1] - value.atoms[0]) / 2).float().mean(0)
    assert (distribution - true).abs().max() < 0.05
    torch.testing.assert_close(p @ value.atoms, rewards.mean(), atol=0.02, rtol=0)


SHAPES: dict[str, tuple[ValueConfig, int, float]] = {
    "quantile": (QuantileConfig(quantiles=25, kappa=SHARP), 600, 0.05),
    "implicit": (ImplicitConfig(quantiles=16, target_quantiles=2, acting_quantiles=64, kappa=SHARP), 500, 5e-3),
    "fqf": (FqfConfig(quantiles=16, kappa=SHARP), 500, 5e-3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_quantiles_of_a_coin(name) -> None:
    config, steps, lr = SHAPES[name]
    tau, z = quantiles(*learn_rewards(config, COIN, steps, lr))
    clear = (tau - 0.3).abs() > 0.08  # a smooth function cannot jump
    assert clear.sum() >= 10
    torch.testing.assert_close(z[clear], (tau[clear] > 0.3).float(), atol=0.12, rtol=0)


@pytest.mark.parametrize("name", SHAPES)
def test_quantiles_of_a_mixture(name) -> None:
    config, steps, lr = SHAPES[name]
    rewards = mixture()
    value, net = learn_rewards(config, rewards, steps, lr)
    tau, z = quantiles(value, net)
    clear = ((tau - 0.5).abs() > 0.08) & ((tau - 0.5).abs() < 0.47)
    assert clear.sum() >= 10
    torch.testing.assert_close(z[clear], torch.quantile(rewards, tau[clear]), atol=0.2, rtol=0)
    torch.testing.assert_close(mean_q(value, net, torch.ones(1, 1))[0, 0], rewards.mean(), atol=0.1, rtol=0)


class Exponential:
    """A network that knows the exponential distribution's F^-1, for any state, and learns to propose."""

    def __init__(self) -> None:
        self.logits = torch.zeros(1, 4, requires_grad=True)

    def features(self, obs: Tensor) -> Tensor:
        return obs

    def at(self, features: Tensor, tau: Tensor) -> Tensor:
        return -torch.log1p(-tau.clamp(max=1 - 1e-6)).unsqueeze(1)

    def proposal(self, features: Tensor) -> Tensor:
        return self.logits


def test_proposals_find_the_best_four_parts_of_a_known_distribution() -> None:
    """W1 to the truth is least at 0.4, 0.7 and 0.9; even parts begin at 0.25, 0.5 and 0.75."""
    value, net = Fqf(FqfConfig(quantiles=4)), Exponential()
    optimizer = torch.optim.Adam([net.logits], lr=0.05)
    target = torch.cat([torch.randn(1, 4), torch.full((1, 4), 0.25)], dim=1)
    for _ in range(200):
        look = value.look(net, torch.zeros(1, 1), torch.Generator())
        optimizer.zero_grad()
        value.error(look, torch.zeros(1, dtype=torch.int64), target).loss.sum().backward()
        optimizer.step()
    tau = value.look(net, torch.zeros(1, 1), torch.Generator()).fractions.tau[0, 1:-1]
    torch.testing.assert_close(tau.detach(), torch.tensor([0.4, 0.7, 0.9]), atol=0.01, rtol=0)


STATES, DISCOUNT = 4, 0.8
SMALL: dict[str, ValueConfig] = {
    "scalar": ScalarConfig(),
    "categorical": CategoricalConfig(atoms=31, v_min=-1, v_max=3),
    "quantile": QuantileConfig(quantiles=16, kappa=0.2),
    "implicit": ImplicitConfig(quantiles=16, target_quantiles=16, acting_quantiles=32, embedding=16, kappa=0.2),
    "fqf": FqfConfig(quantiles=8, embedding=16, kappa=0.2),
}


def chain() -> list[tuple[int, int, float, int, bool]]:
    """All (s, a, r, s', end) of a chain: right leads to 1 or 3 at its end, left to 0.3; one move in four slips.

    Each pair of state and action occurs with its outcomes as often as they happen.
    """
    outcomes = []
    for state in range(STATES):
        for action, move in ((0, -1), (1, 1)):
            for outcome in range(4):
                after = state + (move if outcome else -move)
                if after < 0:
                    outcomes.append((state, action, 0.3, 0, True))
                elif after == STATES:
                    outcomes.append((state, action, 1.0 if outcome % 2 else 3.0, 0, True))
                else:
                    outcomes.append((state, action, 0.0, after, False))
    return outcomes


def q_star(outcomes: list[tuple[int, int, float, int, bool]]) -> np.ndarray:
    q = np.zeros((STATES, 2))
    for _ in range(200):
        new = np.zeros_like(q)
        for state, action, reward, after, end in outcomes:
            new[state, action] += (reward + (0 if end else DISCOUNT * q[after].max())) / 4
        q = new
    return q


@pytest.mark.parametrize("variant", ["vdqn", "tdqn", "ddqn"])
@pytest.mark.parametrize("name", SMALL)
def test_q_star_of_a_chain(name, variant) -> None:
    torch.manual_seed(0)
    config, rule, rng, steps = SMALL[name], RULES[variant], torch.Generator().manual_seed(0), 400
    value = make_value(config, mse, CPU)
    nets = {Network.ONLINE: network(config, value, STATES, 2)}
    nets[Network.TARGET] = deepcopy(nets[Network.ONLINE])
    online = nets[Network.ONLINE]
    table = config.name not in ("implicit", "fqf")
    found, schedules = optimizers(online, 0.03 if table else 5e-3, steps)
    outcomes = chain()
    states, actions, r_t, after, end = (torch.tensor(column) for column in zip(*outcomes, strict=True))
    one_hot = torch.eye(STATES)
    for step in range(steps):
        with torch.no_grad():
            evaluated = value.look(nets[rule.evaluate], one_hot[after], rng, ahead=True)
            same = rule.select == rule.evaluate
            selected = evaluated if same else value.look(nets[rule.select], one_hot[after], rng, ahead=True)
            z_t = chosen(evaluated.z, greedy_action(selected.q))
            target = value.target(r_t, DISCOUNT * ~end, z_t)
        loss = value.error(value.look(online, one_hot[states], rng), actions, target).loss.mean()
        for optimizer in found:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(found, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 10 == 0:
            nets[Network.TARGET].load_state_dict(online.state_dict())
    expected = q_star(outcomes)
    q = mean_q(value, online, one_hot).numpy()
    assert (q.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(q, expected, atol=0.1)
