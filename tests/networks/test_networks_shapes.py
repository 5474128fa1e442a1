"""What is known of a network without torch, against the network; networks from nothing but shapes."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
import torch

from dqn_cli.build import to_fast_layout
from dqn_cli.config import (
    CategoricalConfig,
    FqfConfig,
    Head,
    ImpalaConfig,
    ImplicitConfig,
    Init,
    MinatarCnnConfig,
    MlpConfig,
    NatureCnnConfig,
    NetworkConfig,
    NipsCnnConfig,
    Padding,
    QuantileConfig,
    ScalarConfig,
    TableConfig,
    ValueConfig,
)
from dqn_cli.networks.implicit import ImplicitQNetwork
from dqn_cli.networks.make import make_network
from dqn_cli.networks.shapes import buffer_shapes, outputs_of, parameter_shapes
from dqn_cli.types import ObsSpec

VALUES = [
    ScalarConfig(),
    CategoricalConfig(atoms=5),
    QuantileConfig(quantiles=7),
    ImplicitConfig(embedding=9),
    FqfConfig(embedding=9, quantiles=6),
]
VECTOR, ATARI, CELLS = ObsSpec((4,), "float32", 2), ObsSpec((36, 40), "uint8", 3), ObsSpec((10, 10, 7), "bool", 2)
SWITCHES = [
    {"head": head, "noisy": noisy, "layer_norm": norm}
    for head, noisy, norm in product(Head, (False, True), (False, True))
]


def networks() -> list[tuple[NetworkConfig, ObsSpec]]:
    """Every switch with every kind of network, and each network's own settings."""
    found: list[tuple[NetworkConfig, ObsSpec]] = []
    for switches in SWITCHES:
        found += [(MlpConfig(hidden=hidden, **switches), VECTOR) for hidden in ([], [6], [6, 5, 3])]
        for spectral in (False, True):
            images = {**switches, "spectral_norm": spectral}
            found.append((NatureCnnConfig(padding=Padding.same if spectral else Padding.valid, **images), ATARI))
            found.append((NipsCnnConfig(**images, init=Init.glorot), ATARI))
            found.append((MinatarCnnConfig(**images), CELLS))
            found.append((ImpalaConfig(**images, pool=2, width=2), CELLS))
            found.append((ImpalaConfig(**images), CELLS))
    return found


CASES = [*networks(), (TableConfig(), ObsSpec((5,), "float32"))]


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)
def test_shapes_are_those_of_the_network_in_its_order(value, part) -> None:
    with torch.device("meta"):
        for config, spec in CASES[part::4]:
            if isinstance(config, TableConfig) and not (outputs_of(value) or isinstance(value, ScalarConfig)):
                continue
            network = make_network(config, value, spec, 3)
            assert parameter_shapes(config, value, spec, 3) == [tuple(w.shape) for w in network.parameters()], config
            names = {name for name, _ in network.named_parameters()}
            kept = [tuple(w.shape) for name, w in network.state_dict().items() if name not in names]
            assert buffer_shapes(config, spec) == kept, config


def observations(spec: ObsSpec, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 2 if spec.dtype == "bool" else 256, (batch, *spec.obs_shape)).to(getattr(torch, spec.dtype))


def said(network: torch.nn.Module, obs: torch.Tensor) -> torch.Tensor:
    if isinstance(network, ImplicitQNetwork):
        features = network.features(obs)
        return network.at(features, torch.linspace(0.1, 0.9, 4).expand(len(obs), 4))
    return network(obs)


@pytest.mark.parametrize("case", range(20))
def test_a_network_of_shapes_alone_takes_weights_over(case) -> None:
    random = Random(case)
    (config, spec), value = random.choice(CASES[:-1]), VALUES[case % len(VALUES)]
    network, obs = make_network(config, value, spec, 3), observations(spec)
    expected = said(network, obs)
    last = () if isinstance(network, ImplicitQNetwork) else outputs_of(value)
    assert expected.shape == (2, 3, *((4,) if isinstance(network, ImplicitQNetwork) else last))
    with torch.device("meta"):
        empty = make_network(config, value, spec, 3)
    empty.load_state_dict(network.state_dict(), assign=True)
    filled = to_fast_layout(empty, torch.device("cpu"))
    torch.testing.assert_close(said(filled, obs), expected, atol=1e-4, rtol=1e-4)
    filled.draw_noise(torch.Generator())
    assert torch.equal(said(filled, obs), said(filled, obs))
    filled.iterate_norms()
    said(filled, obs).square().sum().backward()
    lonely = {"proposal.weight", "proposal.bias"}  # learnt by a loss of their own
    assert {name for name, w in filled.named_parameters() if w.grad is None} <= lonely


@pytest.mark.parametrize(
    ("value", "outputs"),
    [
        (ScalarConfig(), ()),
        (CategoricalConfig(), (51,)),
        (QuantileConfig(), (200,)),
        (ImplicitConfig(), ()),
        (FqfConfig(), ()),
    ],
)
def test_outputs_per_action(value: ValueConfig, outputs) -> None:
    assert outputs_of(value) == outputs


def test_an_unknown_network_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError, match="NetworkConfig"):
        parameter_shapes(NetworkConfig(), ScalarConfig(), VECTOR, 3)
    with pytest.raises(TypeError, match="NetworkConfig"):
        make_network(NetworkConfig(), ScalarConfig(), VECTOR, 3)
