"""The convolutional torsos: the papers' sizes, the forward pass by hand, every form of image."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dqn_cli.build import to_fast_layout
from dqn_cli.config import (
    ImpalaConfig,
    Init,
    MinatarCnnConfig,
    NatureCnnConfig,
    NipsCnnConfig,
    Padding,
    Precision,
    ScalarConfig,
)
from dqn_cli.errors import ConfigError
from dqn_cli.networks.make import make_network
from dqn_cli.networks.shapes import cnn_shapes, zeros
from dqn_cli.networks.torsos import Cnn
from dqn_cli.types import ObsSpec

ATARI = ObsSpec((84, 84), "uint8", 4)
SAME = Padding.same
DOPAMINE = NatureCnnConfig(padding=SAME, init=Init.glorot)  # as its networks have it
NATURE_BY_HAND = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64 + (3136 + 1) * 512 + (512 + 1) * 6
NIPS_BY_HAND = (4 * 64 + 1) * 16 + (16 * 16 + 1) * 32 + (32 * 81 + 1) * 256 + (256 + 1) * 6


@pytest.mark.parametrize(("config", "weights"), [(NatureCnnConfig(), NATURE_BY_HAND), (NipsCnnConfig(), NIPS_BY_HAND)])
def test_the_papers_sizes(config, weights) -> None:
    network = make_network(config, ScalarConfig(), ATARI, 6)
    assert sum(w.numel() for w in network.parameters()) == weights
    assert network(torch.zeros((3, 4, 84, 84), dtype=torch.uint8)).shape == (3, 6)


def test_shapes_by_hand() -> None:
    assert cnn_shapes(ATARI, NatureCnnConfig()) == [(4, 84, 84), (32, 20, 20), (64, 9, 9), (64, 7, 7)]
    assert cnn_shapes(ATARI, NipsCnnConfig()) == [(4, 84, 84), (16, 20, 20), (32, 9, 9)]
    assert cnn_shapes(ObsSpec((96, 80, 3), "uint8", 2), NipsCnnConfig())[0] == (6, 96, 80)


def test_the_forward_pass_by_hand() -> None:
    network = to_fast_layout(make_network(NatureCnnConfig(), ScalarConfig(), ATARI, 6), torch.device("cpu"))
    obs = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    w = {name: v.contiguous() for name, v in network.named_parameters()}
    x = obs.float() / 255
    for layer, stride in enumerate((4, 2, 1)):
        name = f"torso.convolutions.{layer}"
        x = F.relu(F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride))
    x = F.relu(x.flatten(1) @ w["head.hidden.weight"].T + w["head.hidden.bias"])
    torch.testing.assert_close(network(obs), x @ w["head.output.weight"].T + w["head.output.bias"])


def test_numbers_that_are_no_bytes_are_taken_as_they_are() -> None:
    torso = Cnn(ObsSpec((36, 36), "float32"), NatureCnnConfig())
    as_bytes = Cnn(ObsSpec((36, 36), "uint8"), NatureCnnConfig())
    as_bytes.load_state_dict(torso.state_dict())
    image = torch.randint(0, 256, (2, 36, 36), dtype=torch.uint8)
    torch.testing.assert_close(torso(image.float() / 255), as_bytes(image))
    assert not torch.allclose(torso(image.float()), as_bytes(image))


@pytest.mark.parametrize(
    ("frame", "stack", "channels"),
    [((40, 36), 1, 1), ((40, 36), 3, 3), ((40, 36, 3), 1, 3), ((40, 36, 3), 2, 6)],
)
def test_every_form_of_image_and_stack(frame, stack, channels) -> None:
    spec = ObsSpec(frame, "uint8", stack)
    torso = Cnn(spec, NatureCnnConfig())
    assert torso.convolutions[0].in_channels == channels
    obs = torch.randint(0, 256, (2, *spec.obs_shape), dtype=torch.uint8)
    features = torso(obs)
    assert features.shape == (2, torso.features) == (2, 64)
    # the k-th image of the stack and its c-th color are the channel k C + c
    planes = (
        obs.reshape(2, stack, *frame[:2], channels // stack).permute(0, 1, 4, 2, 3).reshape(2, channels, *frame[:2])
    )
    twin = Cnn(ObsSpec(frame[:2], "uint8", channels), NatureCnnConfig())
    twin.load_state_dict(torso.state_dict())
    torch.testing.assert_close(twin(planes if channels > 1 else planes[:, 0]), features)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((4,), r"^network=nature_cnn needs images, the environment gives uint8 of shape \[4\]; write network=mlp$"),
        ((35, 84), r"^network=nature_cnn does not fit images of 35x84, they are too small"),
        ((84, 35, 3), r"^network=nature_cnn does not fit images of 84x35, they are too small"),
        ((2, 84, 84, 3), r"needs images"),
    ],
)
def test_what_does_not_fit_is_refused(frame, message) -> None:
    with pytest.raises(ConfigError, match=message):
        cnn_shapes(ObsSpec(frame, "uint8"), NatureCnnConfig())
    with pytest.raises(ConfigError, match=message):
        Cnn(ObsSpec(frame, "uint8"), NatureCnnConfig())


def test_the_smallest_image_fits() -> None:
    assert cnn_shapes(ObsSpec((36, 36), "uint8"), NatureCnnConfig())[-1] == (64, 1, 1)
    assert cnn_shapes(ObsSpec((20, 20), "uint8"), NipsCnnConfig())[-1] == (32, 1, 1)


def test_the_fast_layout_changes_no_number_and_survives_the_target_network() -> None:
    network = make_network(NatureCnnConfig(), ScalarConfig(), ATARI, 6)
    before = {name: w.clone() for name, w in network.state_dict().items()}
    fast = to_fast_layout(network, torch.device("cpu"))
    assert all(torch.equal(before[name], w) for name, w in fast.state_dict().items())
    assert fast.torso.convolutions[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_dopamine_pads_as_same_does_elsewhere() -> None:
    assert [zeros(84, 8, 4, SAME), zeros(21, 4, 2, SAME), zeros(11, 3, 1, SAME)] == [(2, 2), (1, 2), (1, 1)]
    assert zeros(84, 8, 4, Padding.valid) == (0, 0)
    assert zeros(5, 1, 2, SAME) == (0, 0)  # the stride alone leaves ceil(5 / 2)
    assert cnn_shapes(ATARI, DOPAMINE) == [(4, 84, 84), (32, 21, 21), (64, 11, 11), (64, 11, 11)]
    assert cnn_shapes(ObsSpec((1, 1), "uint8"), DOPAMINE)[-1] == (64, 1, 1)
    network = make_network(DOPAMINE, ScalarConfig(), ATARI, 6)
    convolutions = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
    assert sum(w.numel() for w in network.parameters()) == convolutions + (64 * 121 + 1) * 512 + (512 + 1) * 6


@pytest.mark.parametrize("shape", [(84, 84), (37, 50)])
def test_the_padded_forward_pass_by_hand(shape) -> None:
    spec = ObsSpec(shape, "uint8", 4)
    torso = Cnn(spec, DOPAMINE)
    obs = torch.randint(0, 256, (2, *spec.obs_shape), dtype=torch.uint8)
    x = obs.double() / 255
    for convolution, (channels, kernel, stride) in zip(torso.convolutions, NatureCnnConfig.convolutions, strict=True):
        rows, columns = (-(-side // stride) for side in x.shape[-2:])
        top = max(0, (rows - 1) * stride + kernel - x.shape[-2]) // 2
        left = max(0, (columns - 1) * stride + kernel - x.shape[-1]) // 2
        around = torch.zeros(2, x.shape[1], x.shape[2] + 2 * kernel, x.shape[3] + 2 * kernel, dtype=torch.float64)
        around[:, :, kernel:-kernel, kernel:-kernel] = x
        out = torch.zeros(2, channels, rows, columns, dtype=torch.float64)
        for row in range(rows):
            for column in range(columns):
                i, j = kernel - top + row * stride, kernel - left + column * stride
                window = around[:, :, i : i + kernel, j : j + kernel].flatten(1)
                out[:, :, row, column] = window @ convolution.weight.double().flatten(1).T + convolution.bias.double()
        x = out.relu()
    torch.testing.assert_close(torso(obs), x.flatten(1).float())


def test_glorot_weights_have_glorots_bound_and_biases_are_zero() -> None:
    torch.manual_seed(0)
    network = make_network(DOPAMINE, ScalarConfig(), ATARI, 6)
    fans = {
        "convolutions.0": 4 * 64 + 32 * 64,
        "convolutions.1": 32 * 16 + 64 * 16,
        "hidden": 7744 + 512,
        "output": 518,
    }
    for name, w in network.named_parameters():
        if name.endswith("bias"):
            assert not w.any()
        for layer, fan in fans.items():
            if name.endswith(f"{layer}.weight"):
                bound = (6 / fan) ** 0.5
                assert 0.97 * bound < w.abs().max() <= bound
                assert w.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    untouched = make_network(NatureCnnConfig(), ScalarConfig(), ATARI, 6)
    assert all(w.any() for w in untouched.parameters())


def test_a_glorot_start_draws_what_a_plain_stack_of_layers_would() -> None:
    torch.manual_seed(4)
    layers = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3), nn.Linear(7744, 512)]
    layers.append(nn.Linear(512, 6))
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    following = torch.rand(1)
    torch.manual_seed(4)
    network = make_network(DOPAMINE, ScalarConfig(), ATARI, 6)
    assert torch.rand(1) == following
    weights = [w for layer in layers for w in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights, strict=True))


MINATAR = ObsSpec((10, 10, 7), "bool")


@pytest.mark.parametrize("stack", [1, 3])
def test_minatar_cells_are_zeros_and_ones(stack) -> None:
    spec = ObsSpec((10, 10, 7), "bool", stack)
    network = make_network(MinatarCnnConfig(), ScalarConfig(), spec, 6)
    assert network.torso.features == 16 * 8 * 8
    convolution = network.torso.convolutions[0]
    cells = torch.rand(5, *spec.obs_shape) < 0.2
    planes = cells.float().reshape(5, stack, 10, 10, 7).permute(0, 1, 4, 2, 3).reshape(5, 7 * stack, 10, 10)
    x = F.relu(F.conv2d(planes, convolution.weight, convolution.bias)).flatten(1)
    x = F.relu(x @ network.head.hidden.weight.T + network.head.hidden.bias)
    torch.testing.assert_close(network(cells), x @ network.head.output.weight.T + network.head.output.bias)


def test_minatars_network_has_the_size_of_its_paper() -> None:
    network = make_network(MinatarCnnConfig(), ScalarConfig(), MINATAR, 6)
    by_hand = (7 * 9 + 1) * 16 + (1024 + 1) * 128 + (128 + 1) * 6
    assert sum(w.numel() for w in network.parameters()) == by_hand


def test_the_networks_of_atari_refuse_minatars_small_pictures() -> None:
    with pytest.raises(ConfigError, match=r"^network=nature_cnn does not fit images of 10x10, they are too small"):
        make_network(NatureCnnConfig(), ScalarConfig(), MINATAR, 6)


def test_a_layer_norm_comes_before_each_activation() -> None:
    torch.manual_seed(0)
    network = make_network(NipsCnnConfig(layer_norm=True), ScalarConfig(), ATARI, 6)
    obs = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    x = obs.float() / 255
    for (convolution, norm), stride in zip(network.torso.convolutions, (4, 2), strict=True):
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
        x = F.conv2d(x, convolution.weight, convolution.bias, stride)
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), correction=0, keepdim=True)
        x = F.relu((x - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias)
    torch.testing.assert_close(network.features(obs), x.flatten(1), atol=1e-4, rtol=1e-4)
    linear, norm = network.head.hidden
    x = F.relu(F.layer_norm(linear(x.flatten(1)), (256,), norm.weight, norm.bias))
    torch.testing.assert_close(network(obs), network.head.output(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config", [NipsCnnConfig(layer_norm=True), NatureCnnConfig(spectral_norm=True), ImpalaConfig(units=8, pool=4)]
)
def test_convolutions_in_bfloat16_are_near_those_in_float32_and_weights_stay(config) -> None:
    networks = []
    for precision in (Precision.fp32, Precision.bf16):
        torch.manual_seed(0)
        networks.append(make_network(config, ScalarConfig(), ATARI, 6, precision))
    exact, coarse = networks
    obs = torch.randint(0, 256, (4, *ATARI.obs_shape), dtype=torch.uint8)
    features = [network.features(obs) for network in networks]
    assert all(x.dtype == torch.float32 for x in features)
    off = (features[0] - features[1]).abs().max() / features[0].abs().max()
    assert 0 < off < 0.03  # 8 bits of mantissa
    for network in networks:
        network(obs).square().sum().backward()
    for (name, w), v in zip(coarse.named_parameters(), exact.parameters(), strict=True):
        assert w.dtype == w.grad.dtype == torch.float32
        assert torch.equal(w, v)
        cosine = F.cosine_similarity(w.grad.flatten(), v.grad.flatten(), dim=0)
        assert cosine > 0.98, name


def test_features_in_bfloat16_are_those_of_rounded_numbers() -> None:
    """One convolution whose sums are exact in float32: only its result is rounded."""
    torso = Cnn(MINATAR, MinatarCnnConfig(), torch.bfloat16)
    convolution = torso.convolutions[0]
    with torch.no_grad():
        convolution.weight.copy_(torch.randint(-8, 9, convolution.weight.shape) / 8)
        convolution.bias.zero_()
    cells = torch.rand(3, *MINATAR.obs_shape) < 0.4
    x = F.conv2d(cells.float().movedim(-1, 1), convolution.weight)
    assert torch.equal(torso(cells), x.to(torch.bfloat16).relu().float().flatten(1))
