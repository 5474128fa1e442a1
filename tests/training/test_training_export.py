"""Q-functions as ONNX against torch, and against numbers that were worked out by hand."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
import onnx
import onnxruntime

from dqn_cli.algorithm.losses import huber
from dqn_cli.algorithm.values import make_value
from dqn_cli.build import to_fast_layout
from dqn_cli.config import (
    CategoricalConfig,
    FqfConfig,
    Head,
    ImpalaConfig,
    ImplicitConfig,
    MinatarCnnConfig,
    MlpConfig,
    NatureCnnConfig,
    QuantileConfig,
    ScalarConfig,
    TableConfig,
)
from dqn_cli.errors import ConfigError, NumericalError
from dqn_cli.networks.make import make_network
from dqn_cli.networks.wide import LARGE
from dqn_cli.training.export import LIMIT, Agreement, QFunction, compare, to_onnx
from dqn_cli.types import ObsSpec

CPU = torch.device("cpu")
VECTOR, STATES = ObsSpec((4,), "float32"), ObsSpec((5,), "float32")
ATARI, COLORED = ObsSpec((36, 40), "uint8", 4), ObsSpec((40, 36, 3), "uint8", 2)
LARGE_ATARI = ObsSpec((84, 84), "uint8", 4)
CELLS = ObsSpec((10, 10, 7), "bool")
ACTIONS = 3


def function_of(network, value, spec):
    torch.manual_seed(0)
    made = to_fast_layout(make_network(network, value, spec, ACTIONS), CPU)
    return QFunction(made, make_value(value, huber, CPU), value)


def observations(spec, count=40):
    rng = np.random.default_rng(1)
    shape = (count, *spec.obs_shape)
    if spec.dtype == "float32":
        return rng.normal(size=shape).astype(np.float32)
    return rng.integers(0, 256 if spec.dtype == "uint8" else 2, shape).astype(spec.dtype)


@pytest.fixture(scope="module")
def pictures():
    """A noisy network for pictures and what became of it: the function, its weights before, the model."""
    function = function_of(NatureCnnConfig(noisy=True), CategoricalConfig(atoms=5), ATARI)
    before = {name: weight.clone() for name, weight in function.network.state_dict().items()}
    return function, before, to_onnx(function, ATARI, {"env": "Toy-v0"})


def asked(model, obs):
    return onnxruntime.InferenceSession(model).run(["q"], {"obs": obs})[0]


@pytest.mark.parametrize(
    ("network", "value", "spec"),
    [
        (MlpConfig(hidden=[16, 8]), ScalarConfig(), VECTOR),
        (MlpConfig(hidden=[]), ScalarConfig(), ObsSpec((2, 3), "uint8", 2)),
        (MlpConfig(hidden=[8], head=Head.dueling, noisy=True, layer_norm=True), CategoricalConfig(atoms=7), VECTOR),
        (MlpConfig(hidden=[8], head=Head.dueling), QuantileConfig(quantiles=6), VECTOR),
        (MlpConfig(hidden=[8, 8], noisy=True), ImplicitConfig(embedding=5, acting_quantiles=4), VECTOR),
        (MlpConfig(hidden=[8, 8], head=Head.dueling), FqfConfig(embedding=5, quantiles=6), VECTOR),
        (TableConfig(initial_q=0.5), ScalarConfig(), STATES),
        (TableConfig(initial_q=0.5), CategoricalConfig(atoms=5, v_min=-1, v_max=3), STATES),
        (NatureCnnConfig(spectral_norm=True, layer_norm=True), ScalarConfig(), LARGE_ATARI),
        (NatureCnnConfig(head=Head.dueling, noisy=True), CategoricalConfig(), COLORED),
        (MinatarCnnConfig(), QuantileConfig(quantiles=5), CELLS),
        (ImpalaConfig(spectral_norm=True, pool=2), ImplicitConfig(acting_quantiles=3), ATARI),
    ],
    ids=lambda part: getattr(part, "name", "") if not isinstance(part, ObsSpec) else part.dtype,
)
def test_onnx_says_what_torch_says(network, value, spec):
    function = function_of(network, value, spec)
    model, obs = to_onnx(function, spec, {}), observations(spec)
    found = compare(model, function, obs)
    found.require()
    assert (found.observations, found.same_action) == (40, 40)
    assert found.scale == pytest.approx(float(np.abs(asked(model, obs)).max()), rel=1e-4)
    assert asked(model, obs[:1]).shape == (1, ACTIONS)
    assert asked(model, obs).dtype == np.float32


def test_a_large_layer_is_one_that_torch_multiplies_by_onednn():
    made = make_network(NatureCnnConfig(spectral_norm=True, layer_norm=True), ScalarConfig(), LARGE_ATARI, ACTIONS)
    assert max(weight.numel() for weight in made.head.parameters()) >= LARGE


def test_numbers_worked_out_by_hand():
    function = function_of(
        MlpConfig(hidden=[]), CategoricalConfig(atoms=3, v_min=-1, v_max=1), ObsSpec((2,), "float32")
    )
    logits = torch.tensor([[0.0, 0.0, 0.0], [-50.0, -50.0, 50.0], [0.0, -50.0, 0.0]])
    with torch.no_grad():
        function.network.head.output.weight.zero_()
        function.network.head.output.weight[8, 0] = -100.0  # where obs[0] is 1, action 2 never has the return 1
        function.network.head.output.bias.copy_(logits.flatten())
    model = to_onnx(function, ObsSpec((2,), "float32"), {})
    np.testing.assert_allclose(asked(model, np.array([[0, 0], [1, 0]], np.float32)), [[0, 1, 0], [0, 1, -1]], atol=1e-6)


def test_quantiles_at_the_midpoints():
    config = ImplicitConfig(embedding=6, acting_quantiles=4)
    function = function_of(MlpConfig(hidden=[8, 8]), config, VECTOR)
    obs = observations(VECTOR)
    with torch.no_grad():
        features = function.network.features(torch.from_numpy(obs))
        at = [function.network.at(features, torch.full((len(obs), 1), tau)) for tau in (0.125, 0.375, 0.625, 0.875)]
    wanted = (sum(at) / 4).squeeze(2).numpy()
    np.testing.assert_allclose(asked(to_onnx(function, VECTOR, {}), obs), wanted, atol=1e-6)


def test_the_same_bytes_each_time_whatever_the_noise_is_no_paths_in_them_and_nothing_printed(pictures, capfd):
    function, _, model = pictures
    function.network.draw_noise(torch.Generator().manual_seed(3))
    again = QFunction(function.network, make_value(CategoricalConfig(atoms=5), huber, CPU), CategoricalConfig(atoms=5))
    assert to_onnx(again, ATARI, {"env": "Toy-v0"}) == model
    assert capfd.readouterr() == ("", "")
    assert b"sigma" not in model
    assert re.findall(rb"[\w/.-]+\.py\b", model) == []
    assert str(Path(torch.__file__).parent).encode() not in model
    parsed = onnx.load_from_string(model)
    assert [(prop.key, prop.value) for prop in parsed.metadata_props] == [("env", "Toy-v0")]
    assert [node.doc_string for node in parsed.graph.node if node.doc_string] == []


def test_the_interface(pictures):
    parsed = onnx.load_from_string(pictures[2])
    (obs,), (q,) = parsed.graph.input, parsed.graph.output
    assert (obs.name, obs.type.tensor_type.elem_type) == ("obs", onnx.TensorProto.UINT8)
    assert [dim.dim_param or dim.dim_value for dim in obs.type.tensor_type.shape.dim] == ["N", 4, 36, 40]
    assert (q.name, q.type.tensor_type.elem_type) == ("q", onnx.TensorProto.FLOAT)
    assert [dim.dim_param or dim.dim_value for dim in q.type.tensor_type.shape.dim] == ["N", ACTIONS]


def test_the_graph_is_not_longer_than_the_network(pictures):
    parsed = onnx.load_from_string(pictures[2])
    kinds = [node.op_type for node in parsed.graph.node]
    assert kinds.count("Conv") == 3
    assert kinds.count("Gemm") == 2
    assert len(kinds) < 20  # one for each plane of a stack, and the copies between, would be more


def test_the_function_that_is_exported_stays_as_it_was(pictures):
    function, before, _ = pictures
    after = function.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_weights_are_refused(pictures):
    function, _, model = pictures
    obs, other = observations(ATARI), deepcopy(function)
    compare(model, other, obs).require()
    with torch.no_grad():
        other.network.head.output.bias[4] += 0.1  # the highest atom of action 0
    found = compare(model, other, obs)
    wanted = np.abs(other(torch.from_numpy(obs)).detach().numpy() - asked(model, obs)).max()
    assert found.difference == pytest.approx(float(wanted), rel=1e-3)
    assert found.scale == pytest.approx(float(np.abs(asked(model, obs)).max()), abs=0.5)
    assert found.relative > 1e-3
    with pytest.raises(NumericalError, match="differs from torch by 0"):
        found.require()


def test_a_network_that_onnx_has_no_words_for():
    class Odd(torch.nn.Module):
        def forward(self, obs):
            return torch.ops.aten.adaptive_max_pool2d(obs, [2, 2])[0] if bool(obs.sum() > 0) else obs

    function = function_of(MlpConfig(hidden=[4]), ScalarConfig(), VECTOR)
    function.network.torso = Odd()
    with pytest.raises(ConfigError, match="cannot be written as ONNX"):
        to_onnx(function, VECTOR, {})


@pytest.mark.parametrize(
    ("difference", "scale", "relative"),
    [(0.0, 0.0, 0.0), (0.0, 5.0, 0.0), (1e-3, 100.0, 1e-5), (LIMIT, 1.0, LIMIT)],
)
def test_what_is_close(difference, scale, relative):
    found = Agreement(10, difference, scale, 10)
    assert found.relative == pytest.approx(relative)
    found.require()


@pytest.mark.parametrize(
    ("difference", "scale"),
    [(1e-9, 0.0), (1.01e-4, 1.0), (float("nan"), 1.0), (1.0, float("nan")), (float("inf"), 1.0)],
)
def test_what_is_not(difference, scale):
    with pytest.raises(NumericalError, match="nothing is exported"):
        Agreement(10, difference, scale, 10).require()
