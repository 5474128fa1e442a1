"""Products by oneDNN against torch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dqn_cli.networks import wide


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_linear(monkeypatch, shape, dtype) -> None:
    monkeypatch.setattr(wide, "LARGE", 1)
    torch.manual_seed(0)
    numbers = [torch.randn(*size, dtype=dtype, requires_grad=True) for size in ((*shape, 6), (4, 6), (4,))]
    above = torch.randn(*shape, 4, dtype=dtype)
    results = []
    for function in (F.linear, wide.linear):
        y = function(*numbers)
        assert y.shape == above.shape
        results.append([y, *torch.autograd.grad(y, numbers, above)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_only_what_is_large_goes_that_way(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(wide, "_product", lambda x, weight, bias=None: taken.append(len(weight)) or x @ weight.T)
    torch.manual_seed(0)
    rows = wide.LARGE // 1024
    for count in (rows - 1, rows):
        wide.linear(torch.ones(2, 1024), torch.ones(count, 1024), torch.ones(count))
    assert taken == ([rows] if wide._ONEDNN else [])


def test_no_gradient_is_computed_for_an_input_that_needs_none(monkeypatch) -> None:
    products = []
    monkeypatch.setattr(wide, "LARGE", 1)
    monkeypatch.setattr(wide, "_product", lambda x, weight, bias=None: products.append(1) or x @ weight.T)
    layer = wide.WideLinear(3, 2)
    layer(torch.ones(4, 3)).sum().backward()
    assert len(products) == (2 if wide._ONEDNN else 0)
