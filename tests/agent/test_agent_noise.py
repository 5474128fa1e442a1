"""Whose noise acts, when it is drawn, and where it is silent."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from small_learners import (
    DEEP,
    MUNCHAUSEN,
    VALUES,
    flat,
    gradients,
    make,
    noisy,
    random_batch,
    seeded,
    state_of,
)
from torch import Tensor

from dqn_cli.agent.learner import Learner
from dqn_cli.agent.policy import Policy
from dqn_cli.algorithm.losses import LOSSES, mse
from dqn_cli.algorithm.values import make_value
from dqn_cli.config import SgdConfig
from dqn_cli.networks.noisy import NoisyLinear
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.types import Batch

OBS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def noise_of(network: ValueNetwork) -> list[Tensor | None]:
    """What each noisy layer adds, as it stands."""
    layers = [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]
    assert len(layers) == 3
    return [None if layer.noise is None else torch.cat(layer.noise) for layer in layers]


def same(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


def copied(noise: list[Tensor | None]) -> list[Tensor | None]:
    return [None if part is None else part.clone() for part in noise]


class Spy:
    """Notes who draws noise, and under which draw each noisy layer is passed."""

    def __init__(self, learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.draws: list[str] = []
        self.passes: list[tuple[str, int, str]] = []  # (network, its how many-th draw, layer)
        self.noise: dict[tuple[str, int, str], Tensor] = {}
        for which, network in (("online", learner.online), ("target", learner.target)):
            if network is not None:
                self._watch(which, network, monkeypatch)

    def _watch(self, which: str, network: ValueNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
        draw_noise = network.draw_noise

        def draw(rng: torch.Generator) -> None:
            self.draws.append(which)
            draw_noise(rng)

        monkeypatch.setattr(network, "draw_noise", draw)
        for name, layer in network.named_modules():
            if isinstance(layer, NoisyLinear):
                layer.register_forward_pre_hook(lambda layer, _, name=name: self._passed(which, name, layer))

    def _passed(self, which: str, name: str, layer: NoisyLinear) -> None:
        key = (which, self.draws.count(which), name)
        assert layer.noise is not None
        now = torch.cat(layer.noise)
        assert torch.equal(self.noise.setdefault(key, now.clone()), now), "the noise changed within a pass"
        self.passes.append(key)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("variant", "munchausen", "draws"),
    [
        ("vdqn", False, ["online", "online"]),
        ("tdqn", False, ["target", "online"]),
        ("ddqn", False, ["target", "online", "online"]),
        ("vdqn", True, ["online", "online", "online"]),
        ("tdqn", True, ["target", "target", "online"]),
        ("ddqn", True, ["target", "online", "online", "online"]),
    ],
)
def test_every_pass_of_an_update_draws_noise_of_its_own(variant, munchausen, draws, value, monkeypatch) -> None:
    if munchausen and value in ("categorical", "fqf"):
        return  # which settle.py refuses
    learner = make(variant, value, network=noisy(), munchausen=MUNCHAUSEN if munchausen else None)
    spy = Spy(learner, monkeypatch)
    learner.update(random_batch(0), 0)
    assert spy.draws == draws
    for which in sorted(set(draws)):
        layers = {name for network, _, name in spy.passes if network == which}
        assert len(layers) == 3
        for name in layers:  # every layer is passed under every draw, in turn, and the draws differ
            seen = [draw for network, draw, layer in spy.passes if (network, layer) == (which, name)]
            assert seen == sorted(seen)
            assert set(seen) == set(range(1, draws.count(which) + 1))
            noises = [tuple(spy.noise[which, draw, name].tolist()) for draw in set(seen)]
            assert len(set(noises)) == len(noises)
    # the pass with gradients was the last: what it was made with is what is still there
    now = torch.cat([noise for noise in noise_of(learner.online) if noise is not None])
    last = [spy.noise["online", draws.count("online"), f"{name}"] for name in names(learner.online)]
    assert torch.equal(now, torch.cat(last))


def names(network: ValueNetwork) -> list[str]:
    return [name for name, layer in network.named_modules() if isinstance(layer, NoisyLinear)]


@pytest.mark.parametrize("variant", DEEP)
def test_gradients_are_those_of_the_pass_with_its_noise(variant) -> None:
    """A naive twin, that draws where the rule looks, in the order of the update."""
    learner, batch = make(variant, network=noisy(), loss="mse", optimizer=SgdConfig(lr=0.5), rng=seeded(7)), sampled()
    online, target, rng = deepcopy(learner.online), deepcopy(learner.target), seeded(7)
    rows = torch.arange(len(batch.action))
    with torch.no_grad():
        evaluates = online if variant == "vdqn" else target
        evaluates.draw_noise(rng)
        q_t = q_select_t = evaluates(batch.next_obs)
        if variant == "ddqn":
            online.draw_noise(rng)
            q_select_t = online(batch.next_obs)
        y = batch.reward + batch.discount * q_t[rows, q_select_t.argmax(1)]
    online.draw_noise(rng)
    (0.5 * (online(batch.obs)[rows, batch.action] - y).square()).mean().backward()
    learner.update(batch, 0)
    expected, found = gradients(online), gradients(learner.online)
    assert expected.keys() == found.keys()
    assert sum("sigma" in name for name in found) == 6
    for name, g in found.items():
        torch.testing.assert_close(g, expected[name])
        assert g.abs().sum() > 0


def sampled() -> Batch:
    return random_batch(3, size=32)


def acting(learner: Learner, which: str, *, noise: bool, value: str = "scalar", seed: int = 5) -> Policy:
    representation = make_value(VALUES[value], LOSSES["mse"], torch.device("cpu"))
    return Policy(learner.network(which), representation, seeded(seed), noisy=noise)


def seen(network: ValueNetwork) -> np.ndarray:
    """What it says of `OBS`, under the noise of the moment."""
    return network(torch.from_numpy(OBS)).detach().numpy()


@pytest.mark.parametrize("which", ["online", "target"])
def test_acting_draws_at_every_look_of_the_network_that_acts_and_of_no_other(which) -> None:
    learner = make("tdqn", network=noisy())
    other = learner.network("target" if which == "online" else "online")
    other.draw_noise(seeded(1))
    before = copied(noise_of(other))
    policy, twin, rng = acting(learner, which, noise=True), deepcopy(learner.network(which)), seeded(5)
    looks = []
    for _ in range(3):
        looks.append(policy.q(OBS).copy())
        twin.draw_noise(rng)
        assert np.array_equal(looks[-1], seen(twin))
        assert same(noise_of(learner.network(which)), noise_of(twin))
        assert same(noise_of(other), before)
    assert not np.array_equal(looks[0], looks[1])
    assert not np.array_equal(looks[1], looks[2])


def test_the_target_network_acts_with_its_frozen_means_and_sigmas() -> None:
    learner = make("tdqn", network=noisy())
    policy, frozen, rng = acting(learner, "target", noise=True), deepcopy(learner.target), seeded(5)
    for i in range(3):
        learner.update(random_batch(i), i)
        frozen.draw_noise(rng)
        assert np.array_equal(policy.q(OBS), seen(frozen))
    assert not torch.equal(flat(learner.online), flat(frozen))


@pytest.mark.parametrize("value", VALUES)
def test_an_evaluation_has_no_noise_whatever_was_drawn_before(value) -> None:
    learner = make("ddqn", value, network=noisy())
    fresh = acting(learner, "online", noise=False, value=value).q(OBS).copy()
    learner.online.draw_noise(seeded(1))
    assert np.array_equal(acting(learner, "online", noise=False, value=value).q(OBS), fresh)
    assert noise_of(learner.online) == [None] * 3
    loud = acting(learner, "online", noise=True, value=value).q(OBS)
    assert not np.array_equal(loud, fresh)
    if value == "scalar":  # the means alone, by hand
        with torch.no_grad():
            for layer in learner.online.modules():
                if isinstance(layer, NoisyLinear):
                    layer.weight_sigma.zero_()
                    layer.bias_sigma.zero_()
        assert np.array_equal(acting(learner, "online", noise=True).q(OBS), fresh)


def test_a_silent_look_draws_no_number() -> None:
    learner, rng = make("ddqn", network=noisy()), seeded(5)
    Policy(learner.online, make_value(VALUES["scalar"], mse, torch.device("cpu")), rng, noisy=False).q(OBS)
    assert torch.equal(rng.get_state(), seeded(5).get_state())


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("which", ["online", "target"])
def test_neither_acting_nor_evaluating_changes_a_bit_of_the_updates(which, value) -> None:
    quiet, busy = (make("tdqn", value, network=noisy()) for _ in range(2))
    acts, plays = (acting(busy, which, noise=noise, value=value) for noise in (True, False))
    acts.q(OBS)  # the first noise of this network is drawn where nothing has a gradient
    for i in range(6):
        acts.q(OBS)
        plays.q(OBS)
        for learner in (quiet, busy):
            learner.update(random_batch(i), i)
            if i == 3:
                learner.sync_target()
    assert state_of(quiet) == state_of(busy)


@pytest.mark.parametrize("value", VALUES)
def test_the_same_draws_give_the_same_bits_and_others_other_bits(value) -> None:
    first, second, other = (make("ddqn", value, network=noisy(), rng=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(flat(first.online), flat(other.online))
    for i in range(10):
        for learner in (first, second, other):
            learner.update(random_batch(i), i)
    assert state_of(first) == state_of(second)
    assert state_of(first) != state_of(other)


def test_noise_is_no_part_of_what_a_checkpoint_keeps() -> None:
    loud, silent = make("tdqn", network=noisy()), make("tdqn", network=noisy())
    loud.online.draw_noise(seeded(1))
    assert state_of(loud) == state_of(silent)
