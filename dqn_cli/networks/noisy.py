"""Layers whose weights have learnt noise, for exploration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dqn_cli.networks.wide import linear


class NoisyLinear(nn.Module):
    """A fully connected layer with factorised noise (Fortunato et al. 2018, eq. 9 to 11): [..., p] -> [..., q].

    weight + weight_sigma * f_out f_in^T and bias + bias_sigma * f_out, with f = sgn(e) sqrt|e| of p and q normal e.
    It begins as in section 3.2: means uniform in +-1 / sqrt(p), sigmas `sigma` / sqrt(p). `Noise` draws f.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))
        self.noise: tuple[Tensor, Tensor] | None = None  # f_in [p] and f_out [q]; None: the means alone

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., q] under the noise of the moment, the same for the whole batch."""
        if self.noise is None:
            return linear(x, self.weight, self.bias)
        f_in, f_out = self.noise
        # from 16 rows on this is faster than a second product with the sigmas, which needs no noisy weight
        weight = torch.addcmul(self.weight, self.weight_sigma, f_out.outer(f_in))
        return linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, f_out))


class Noise:
    """The noise of several layers, drawn at once into one tensor: for small networks most of the cost is calls."""

    def __init__(self, layers: Sequence[NoisyLinear]) -> None:
        self._layers = layers
        self._sides = [side for layer in layers for side in reversed(layer.weight.shape)]
        self._drawn: Tensor | None = None  # made when first needed, on the device where the layers are by then
        self._parts: list[tuple[Tensor, Tensor]] = []  # of it, as the layers take them

    def draw(self, rng: torch.Generator) -> None:
        """Fresh noise in every layer, in place; `rng` lives on the layers' device."""
        if self._layers:
            self._refresh(rng)
            for layer, part in zip(self._layers, self._parts, strict=True):
                layer.noise = part

    def vector(self, rng: torch.Generator) -> Tensor:
        """The same numbers as one tensor [numbers] that is the caller's; the layers keep what they have."""
        return self._refresh(rng).clone() if self._layers else torch.empty(0)

    def hold(self, vector: Tensor) -> None:
        """Let every layer have its part of a `vector`."""
        for layer, part in zip(self._layers, self._split(vector), strict=True):
            layer.noise = part

    def silence(self) -> None:
        """No noise in any layer until the next draw."""
        for layer in self._layers:
            layer.noise = None

    def _refresh(self, rng: torch.Generator) -> Tensor:
        device = self._layers[0].weight.device
        if self._drawn is None or self._drawn.device != device:
            self._allocate(device)
        assert self._drawn is not None
        e = self._drawn.normal_(generator=rng)
        return torch.mul(e.sign(), e.abs().sqrt_(), out=e)

    @torch.inference_mode(False)  # the first to draw may be an actor, and what it makes there could not be learnt with
    def _allocate(self, device: torch.device) -> None:
        self._drawn = torch.empty(sum(self._sides), device=device)
        self._parts = self._split(self._drawn)

    def _split(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        if not self._layers:
            return []
        parts = iter(torch.split(vector, self._sides))
        return list(zip(parts, parts, strict=True))
