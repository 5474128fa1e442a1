"""The residual torso: the paper's sizes, the forward pass by hand, pictures of every size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dqn_cli.config import ImpalaConfig, ScalarConfig
from dqn_cli.errors import ConfigError
from dqn_cli.networks.make import make_network
from dqn_cli.networks.shapes import impala_shapes
from dqn_cli.networks.torsos import Impala
from dqn_cli.types import ObsSpec

ATARI = ObsSpec((84, 84), "uint8", 4)
MINATAR = ObsSpec((10, 10, 4), "bool")


def count(config: ImpalaConfig, spec: ObsSpec) -> int:
    return sum(w.numel() for w in make_network(config, ScalarConfig(), spec, 6).parameters())


def test_the_papers_size() -> None:
    first, second, third = ((4 * 9 + 1) * 16, (16 * 9 + 1) * 32, (32 * 9 + 1) * 32)
    blocks = 4 * (16 * 9 + 1) * 16 + 8 * (32 * 9 + 1) * 32
    assert count(ImpalaConfig(), ATARI) == first + second + third + blocks + (32 * 121 + 1) * 256 + 257 * 6


def test_shapes_by_hand() -> None:
    assert impala_shapes(ATARI, ImpalaConfig()) == [(4, 84, 84), (16, 42, 42), (32, 21, 21), (32, 11, 11)]
    pooled = impala_shapes(ATARI, ImpalaConfig(width=2, pool=6))
    assert pooled == [(4, 84, 84), (32, 42, 42), (64, 21, 21), (64, 11, 11), (64, 6, 6)]
    assert impala_shapes(MINATAR, ImpalaConfig()) == [(4, 10, 10), (16, 5, 5), (32, 3, 3), (32, 2, 2)]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("pool", [None, 2])
def test_the_forward_pass_by_hand(pool, norm) -> None:
    torch.manual_seed(0)
    spec = ObsSpec((21, 18, 3), "uint8", 2)
    torso = Impala(spec, ImpalaConfig(pool=pool, layer_norm=norm))
    for name, w in torso.named_parameters():
        torch.nn.init.normal_(w, std=0.1 if w.dim() == 4 else 0.5) if "bias" in name or w.dim() == 4 else None
    obs = torch.randint(0, 256, (2, *spec.obs_shape), dtype=torch.uint8)
    x = obs.permute(0, 1, 4, 2, 3).reshape(2, 6, 21, 18).double() / 255
    parameters = iter([w.double() for w in torso.parameters()])

    def convolved(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), next(parameters), next(parameters))

    for _ in range(3):
        x = F.max_pool2d(F.pad(convolved(x), (1, 1, 1, 1), value=-1e9), 3, 2)
        for _ in range(2):
            x = x + convolved(convolved(x.relu()).relu())
        if norm:
            x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            x = x * next(parameters) + next(parameters)
    x = x.relu()
    assert x.shape == (2, 32, 3, 3)
    if pool:  # 3 -> 2: windows of two that overlap
        x = torch.stack([x[:, :, i : i + 2, j : j + 2].amax((2, 3)) for i in (0, 1) for j in (0, 1)], -1)
    assert next(parameters, None) is None
    torch.testing.assert_close(torso(obs), x.flatten(1).float(), atol=1e-4, rtol=1e-4)


def test_width_multiplies_all_channels() -> None:
    torso = Impala(MINATAR, ImpalaConfig(width=3))
    channels = [m.out_channels for m in torso.modules() if isinstance(m, torch.nn.Conv2d)]
    assert channels == [48] * 5 + [96] * 10
    assert torso(torch.rand(2, 10, 10, 4) < 0.5).shape == (2, 96 * 4)


@settings(deadline=None, max_examples=15)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    stack=st.integers(1, 3),
    dtype=st.sampled_from(["bool", "uint8"]),
)
def test_pictures_of_every_size_fit(height: int, width: int, stack: int, dtype: str) -> None:
    spec = ObsSpec((height, width, 2), dtype, stack)
    torso = Impala(spec, ImpalaConfig())
    assert torso(torch.zeros((2, *spec.obs_shape), dtype=getattr(torch, dtype))).shape == (2, torso.features)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^network=impala needs images, .* of shape \[4\]; write network=mlp$"):
        Impala(ObsSpec((4,), "float32"), ImpalaConfig())
    message = (
        "^network.pool=6 is more than the 2x2 that network=impala leaves of images of 10x10; write 2 or less, or null$"
    )
    with pytest.raises(ConfigError, match=message):
        Impala(MINATAR, ImpalaConfig(pool=6))
    assert impala_shapes(MINATAR, ImpalaConfig(pool=2))[-1] == (32, 2, 2)
