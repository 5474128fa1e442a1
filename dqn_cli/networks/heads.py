"""From features to values: the last hidden layer and the outputs.

A is the number of actions, `outputs` the shape of what is said of each: () for its value, (N,) for atoms or quantiles.
"""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from dqn_cli.networks.layers import Layers


class Stream(nn.Module):
    """A hidden layer of `units`, or none for None, then linear outputs: features [..., F] -> [..., *shape].

    With the shape (A, *outputs) it is the plain head; the outputs are neither bounded nor normalised.
    """

    def __init__(self, features: int, units: int | None, shape: tuple[int, ...], layers: Layers) -> None:
        super().__init__()
        self._shape = shape
        self._activation = layers.activation
        self.hidden = None if units is None else layers.hidden(features, units)
        self.output = layers.linear(features if units is None else units, prod(shape))

    def forward(self, features: Tensor) -> Tensor:
        """Outputs [..., *shape]."""
        hidden = self.hidden
        x: Tensor = self.output(features if hidden is None else self._activation(hidden(features)))
        return x if len(self._shape) == 1 else x.view(*x.shape[:-1], *self._shape)


class Dueling(nn.Module):
    """Q = V + A - mean over actions of A, from two streams (Wang et al. 2016, eq. 9).

    Features [..., F] -> [..., A, *outputs], atoms and quantiles each on their own.
    """

    def __init__(
        self, features: int, units: int | None, num_actions: int, outputs: tuple[int, ...], layers: Layers
    ) -> None:
        super().__init__()
        self._actions = -1 - len(outputs)
        self.value = Stream(features, units, (1, *outputs), layers)
        self.advantage = Stream(features, units, (num_actions, *outputs), layers)

    def forward(self, features: Tensor) -> Tensor:
        """Values [..., A, *outputs]."""
        value: Tensor = self.value(features)
        advantage: Tensor = self.advantage(features)
        return value + advantage - advantage.mean(self._actions, keepdim=True)
