from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqn_cli.config import MinatarCnnConfig, MlpConfig, NatureCnnConfig, ScalarConfig
from dqn_cli.networks.layers import ACTIVATIONS
from dqn_cli.networks.make import make_network
from dqn_cli.training.diagnostics import TRANSITIONS, Activations, Diagnostics, dormant_share, relative_distance
from dqn_cli.types import Batch, ObsSpec


class Learner:
    """Q(s, .) = (s, 2 s) of states 0 ... 255 in any order; the error of a state is its number."""

    def __init__(self, target: nn.Module | None = None, activation: Any = None) -> None:
        self.online = nn.Linear(1, 1)
        nn.init.constant_(self.online.weight, 3.0)
        nn.init.constant_(self.online.bias, 4.0)
        self.target, self._activation = target, activation
        self.draws: list[list[float]] = []
        self.with_gradient: list[bool] = []

    def look(self, obs: Tensor, rng: torch.Generator) -> Any:
        self.draws.append(torch.rand(3, generator=rng).tolist())
        self.with_gradient.append(torch.is_grad_enabled())
        if self._activation is not None:
            self._activation(obs)
        return SimpleNamespace(q=torch.cat([obs, 2 * obs], 1))

    def error(self, look: Any, batch: Batch, rng: torch.Generator) -> Any:
        F.relu(batch.next_obs)  # of a target network, say: not one of the units that learn
        return SimpleNamespace(priority=look.q[:, 0])


class Memory:
    """Rows 0 ... 255, each drawn once, and 400 stored by now."""

    def __init__(self, prioritized: bool = False) -> None:
        self._prioritized = prioritized
        self.asked: list[tuple[int, int]] = []
        self.orders: list[list[int]] = []

    def __len__(self) -> int:
        return 400

    def peek(self, batch_size: int, rng: np.random.Generator, steps: int) -> Batch:
        self.asked.append((batch_size, steps))
        row = rng.permutation(batch_size)
        self.orders.append(row.tolist())
        obs = torch.from_numpy(row[:, None].astype(np.float32))
        return Batch(obs, obs, obs, obs, obs, weight=obs if self._prioritized else None, row=row)

    def age(self, row: np.ndarray) -> np.ndarray:
        return 399 - row

    def effective_size(self) -> float:
        return 100.0


def test_a_row_by_hand() -> None:
    learner, memory = Learner(), Memory()
    assert Diagnostics(learner, memory, seed=0).row(1000) == {
        "q_max": pytest.approx(2 * 127.5),
        "td_error_p10": pytest.approx(25.5),
        "td_error_p50": pytest.approx(127.5),
        "td_error_p90": pytest.approx(229.5),
        "sample_age": 399 - 127.5,
    }
    assert memory.asked == [(TRANSITIONS, 1000)]
    assert learner.with_gradient == [False]


def test_what_applies_to_some_runs_only() -> None:
    target = nn.Linear(1, 1)
    nn.init.constant_(target.weight, 3.0)
    nn.init.constant_(target.bias, 2.0)
    learner = Learner(target, activation=lambda obs: F.relu(torch.cat([obs, -obs, obs, obs], 1)))
    diagnostics = Diagnostics(learner, Memory(prioritized=True), seed=0)
    diagnostics.measure_distance()
    nn.init.constant_(target.bias, 4.0)  # the target network is moved, then the row is due
    row = diagnostics.row(1000)
    assert row["target_distance"] == pytest.approx(2 / 5)  # |(0, 2)| of |(3, 4)|
    assert row["dormant"] == 0.25
    assert row["priority_ess"] == 100 / 400


def test_what_is_looked_at_follows_from_seed_and_step_alone() -> None:
    learner, memory = Learner(), Memory()
    diagnostics = Diagnostics(learner, memory, seed=3)
    before = torch.get_rng_state()
    for step in (500, 1000, 500):
        diagnostics.row(step)
    Diagnostics(learner, memory, seed=4).row(500)
    assert torch.equal(torch.get_rng_state(), before)
    for seen in (learner.draws, memory.orders):
        first, other_step, again, other_seed = seen
        assert first == again
        assert first != other_step
        assert first != other_seed


def test_dormant_units_are_those_below_a_fortieth_of_their_layers_mean() -> None:
    # mean of the first layer: 1, so that .025 is just dormant; of the second nothing is awake
    assert dormant_share([torch.tensor([0.0, 0.025, 0.026, 3.949])]) == 0.5
    assert dormant_share([torch.tensor([0.0, 0.025, 0.026, 3.949]), torch.zeros(2)]) == pytest.approx(4 / 6)
    assert dormant_share([torch.ones(7)]) == 0.0


def test_the_units_of_a_known_network() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4))
    with torch.no_grad():
        for w in network.parameters():
            w.zero_()
        network[0].bias.copy_(torch.tensor([0.0, 1.0, -2.0]))  # one unit is dormant
        network[2].weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))  # tanh(1), tanh(-2): the second too
    with Activations() as watched:
        network(torch.randn(5, 2))
    hidden, last = watched.magnitudes
    torch.testing.assert_close(hidden, torch.tensor([0.0, 1.0, 2.0]).tanh())
    torch.testing.assert_close(last, torch.tensor([1.0, 0.0]).tanh())
    assert dormant_share(watched.magnitudes) == pytest.approx(2 / 5)


def test_a_unit_of_a_convolution_is_a_channel_and_leading_dimensions_are_averaged() -> None:
    x = torch.zeros(2, 3, 4, 5)
    x[1, 2, 3, 4] = 40.0
    y = torch.tensor([[[-1.0, 2.0], [3.0, 4.0]]])
    with Activations() as watched, torch.inference_mode():
        F.relu(x)
        F.relu(y)
    assert [unit.tolist() for unit in watched.magnitudes] == [[0.0, 0.0, 1.0], [1.5, 3.0]]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_seen_once_and_only_while_somebody_looks(name: str) -> None:
    x = torch.linspace(-1, 1, 6).reshape(3, 2)
    ACTIVATIONS[name](x)
    with Activations() as watched:
        y = ACTIVATIONS[name](x)
        torch.sigmoid(x) + x.relu_()
    ACTIVATIONS[name](x)
    assert len(watched.magnitudes) == 1
    torch.testing.assert_close(watched.magnitudes[0], y.abs().mean(0))


def test_the_distance_of_equal_and_of_empty_networks_is_0() -> None:
    network = nn.Linear(3, 2)
    assert relative_distance(network, network) == 0.0
    with torch.no_grad():
        for w in network.parameters():
            w.zero_()
    assert relative_distance(network, network) == 0.0


@pytest.mark.parametrize(
    ("config", "spec", "units"),
    [
        (NatureCnnConfig(), ObsSpec((84, 84), "uint8", 4), [32, 64, 64, 512]),
        (MinatarCnnConfig(), ObsSpec((10, 10, 6), "bool"), [16, 128]),
        (MlpConfig(hidden=[8, 6]), ObsSpec((4,), "float32"), [8, 6]),
    ],
    ids=["nature_cnn", "minatar_cnn", "mlp"],
)
def test_a_unit_of_a_convolution_is_a_channel_of_the_last_one_too(config, spec, units):
    network = make_network(config, ScalarConfig(), spec, 3)
    obs = torch.ones(2, *spec.obs_shape, dtype=getattr(torch, spec.dtype))
    with torch.no_grad(), Activations() as activations:
        seen = network(obs)
    assert [len(magnitudes) for magnitudes in activations.magnitudes] == units
    torch.testing.assert_close(seen, network(obs).detach())
