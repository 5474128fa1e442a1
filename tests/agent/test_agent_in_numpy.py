"""The forward pass in NumPy: the network's own values, for the weights of the moment, where it applies."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from small_learners import SPEC, VALUES, make, random_batch, seeded
from torch import nn

from dqn_cli.agent.actor import Actor
from dqn_cli.agent.exploration import Boltzmann, EpsilonGreedy
from dqn_cli.agent.in_numpy import numpy_pass
from dqn_cli.agent.policy import Policy
from dqn_cli.algorithm.losses import mse
from dqn_cli.algorithm.values import Scalar, make_value
from dqn_cli.config import Head, MinatarCnnConfig, MlpConfig, ScalarConfig, TableConfig
from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.networks.heads import Stream
from dqn_cli.networks.layers import ACTIVATIONS, Layers
from dqn_cli.networks.make import make_network
from dqn_cli.networks.q_network import QNetwork, ValueNetwork
from dqn_cli.networks.torsos import Mlp
from dqn_cli.types import ObsSpec

A = 3


def mlp(hidden=(8, 6), spec=SPEC, seed=0, **settings) -> ValueNetwork:
    torch.manual_seed(seed)
    return make_network(MlpConfig(hidden=list(hidden), **settings), ScalarConfig(), spec, A)


def observations(spec: ObsSpec, num_envs: int, seed: int = 0) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), (num_envs, *spec.obs_shape)
    if spec.dtype == "float32":
        return rng.normal(size=shape).astype(np.float32)
    return rng.integers(0, 256 if spec.dtype == "uint8" else 2, shape).astype(spec.dtype)


def policy(network: ValueNetwork, fast: bool = True, value: str = "scalar") -> Policy:
    return Policy(network, make_value(VALUES[value], mse, torch.device("cpu")), seeded(5), noisy=True, fast=fast)


def assert_close(q: np.ndarray, expected: np.ndarray) -> None:
    """Equal within rounding, 2e-6 of the largest value."""
    assert q.dtype == expected.dtype == np.float32
    assert q.shape == expected.shape
    assert np.abs(q - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("num_envs", [1, 2, 9])
@pytest.mark.parametrize("head", [Head.plain, Head.dueling])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (7,), (120, 84), (5, 1, 6, 3)])
def test_values_are_the_networks(hidden, activation, head, num_envs) -> None:
    for seed in range(5):
        network, obs = mlp(hidden, seed=seed, activation=activation, head=head), observations(SPEC, num_envs, seed)
        found = numpy_pass(network, Scalar(mse))
        assert found is not None
        assert_close(found(obs), network(torch.from_numpy(obs)).detach().numpy())


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize(
    "spec",
    [ObsSpec((5, 4, 2), "uint8"), ObsSpec((3, 4), "uint8", 4), ObsSpec((6, 2), "bool"), ObsSpec((3,), "float32", 2)],
)
def test_observations_of_all_kinds(spec, num_envs) -> None:
    network, obs = mlp(spec=spec), observations(spec, num_envs)
    for seen in (obs, np.asfortranarray(obs)):
        assert_close(policy(network).q(seen), policy(network, fast=False).q(seen))


def test_by_hand() -> None:
    """relu([1 2] [1 -1; 0 1] + [0 .5]) = [1 1.5]; plain 2 - 1.5 and 3 + 1; dueling with V = 10 and the mean 2.25."""
    plain, dueling = mlp((2,), ObsSpec((2,), "float32")), mlp((2,), ObsSpec((2,), "float32"), head=Head.dueling)
    first, bias = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), torch.tensor([0.0, 0.5])
    last, last_bias = torch.tensor([[2.0, -1.0], [3.0, 0.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0, 2.25])
    with torch.no_grad():
        for network in (plain, dueling):
            for stream in (part for part in network.modules() if isinstance(part, Stream)):
                stream.hidden.weight.copy_(first)
                stream.hidden.bias.copy_(bias)
                stream.output.weight.copy_(last if len(stream.output.bias) == 3 else torch.zeros(1, 2))
                stream.output.bias.copy_(last_bias if len(stream.output.bias) == 3 else torch.tensor([10.0]))
    obs = np.float32([[1.0, 2.0]])
    assert policy(plain).q(obs).tolist() == [[0.5, 4.0, 2.25]]
    assert policy(dueling).q(obs).tolist() == [[8.25, 11.75, 10.0]]


@pytest.mark.parametrize("explorer", [EpsilonGreedy(A), EpsilonGreedy(A, [1.0, 2.0]), Boltzmann()])
def test_the_same_actions_and_the_same_draws(explorer) -> None:
    network = mlp(head=Head.dueling)
    rngs = [np.random.default_rng(1) for _ in range(2)]
    acts = [Actor(policy(network, fast), explorer, FrameStack(SPEC, 2), rngs[fast]) for fast in (False, True)]
    for i in range(300):
        frame = observations(SPEC, 2, seed=i)
        slow, fast = (actor.act(frame, np.zeros(2, bool), 0.2).tolist() for actor in acts)
        top = np.sort(acts[0].values(), axis=1)
        assert (top[:, -1] - top[:, -2]).min() > 1e-6  # or rounding might decide
        assert fast == slow
        assert_close(acts[1].values(), acts[0].values())
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def moved(network: ValueNetwork) -> None:
    """Its weights lie in one tensor from now on, and are others."""
    flat = torch.cat([w.detach().flatten() for w in network.parameters()])
    for w, part in zip(network.parameters(), flat.split([w.numel() for w in network.parameters()]), strict=True):
        w.data = part.view(w.shape)
    flat.mul_(0.5)


CHANGES = {
    "update": lambda learner: learner.update(random_batch(1), 0),
    "sync": lambda learner: learner.sync_target(),
    "load": lambda learner: [n.load_state_dict(mlp(seed=9).state_dict()) for n in (learner.online, learner.target)],
    "move": lambda learner: [moved(n) for n in (learner.online, learner.target)],
    "update where it moved": lambda learner: (moved(learner.online), learner.update(random_batch(1), 0)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", ["online", "target"])
def test_weights_that_change_are_seen_at_once(which, change) -> None:
    learner, obs = make("tdqn"), observations(SPEC, 2)
    learner.update(random_batch(0), 0)  # so that the two networks differ
    network = learner.network(which)
    acts = policy(network)
    before = acts.q(obs)
    kept = before.copy()
    CHANGES[change](learner)
    after = acts.q(obs)
    assert_close(after, network(torch.from_numpy(obs)).detach().numpy())
    touched = which == ("target" if change == "sync" else "online") or change in ("load", "move")
    assert (np.abs(after - before).max() > 1e-5) == touched
    assert np.array_equal(before, kept)  # values already given stay what they are


class Scaled(nn.Linear):
    """A layer that is not what it derives from."""

    def forward(self, x):
        return 2 * super().forward(x)


NOT_IN_NUMPY = {
    "noise": lambda: mlp(noisy=True),
    "layer norm": lambda: mlp(layer_norm=True),
    "convolutions": lambda: make_network(MinatarCnnConfig(), ScalarConfig(), ObsSpec((8, 8, 2), "bool"), A),
    "table": lambda: make_network(TableConfig(), ScalarConfig(), SPEC, A),
    "a layer of another kind": lambda: QNetwork(Mlp(SPEC, [8], Layers(Scaled)), Stream(8, None, (A,), Layers())),
    "double precision": lambda: mlp().double(),
}


@pytest.mark.parametrize("network", NOT_IN_NUMPY)
def test_what_is_no_plain_mlp_acts_through_torch(network) -> None:
    assert numpy_pass(NOT_IN_NUMPY[network](), Scalar(mse)) is None


@pytest.mark.parametrize("value", [name for name in VALUES if name != "scalar"])
def test_so_does_what_gives_more_than_a_number_per_action(value) -> None:
    torch.manual_seed(0)
    network = make_network(MlpConfig(hidden=[8]), VALUES[value], SPEC, A)
    obs = observations(SPEC, 2)
    assert numpy_pass(network, make_value(VALUES[value], mse, torch.device("cpu"))) is None
    assert np.array_equal(policy(network, value=value).q(obs), policy(network, fast=False, value=value).q(obs))


def test_fast_asks_no_module_and_slow_does(monkeypatch) -> None:
    network, obs = mlp(), observations(SPEC, 1)
    asked = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x: asked.append(len(x)) or forward(x))
    policy(network).q(obs)
    assert asked == []
    policy(network, fast=False).q(obs)
    assert asked == [1]


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_diverged_network_is_asked_without_a_warning(num_envs) -> None:
    network, obs = mlp(head=Head.dueling), np.full((num_envs, 4), 1e30, np.float32)
    with torch.no_grad():
        for w in network.parameters():
            w.fill_(1e30)
    fast, slow = (policy(network, fast).q(obs) for fast in (True, False))
    assert np.isnan(fast).all()
    assert np.isnan(slow).all()


def test_a_copy_of_the_network_has_its_own_values() -> None:
    network, obs = mlp(), observations(SPEC, 1)
    acts, others = policy(network), policy(deepcopy(network))
    with torch.no_grad():
        network.head.output.bias.add_(1)
    np.testing.assert_allclose(acts.q(obs), others.q(obs) + 1, rtol=1e-6)
