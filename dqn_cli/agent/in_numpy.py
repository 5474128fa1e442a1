"""Q-values of small networks in NumPy: for a few observations, torch's calls cost several times its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from dqn_cli.algorithm.values import Scalar, Value
from dqn_cli.networks.heads import Dueling, Stream
from dqn_cli.networks.layers import Activation
from dqn_cli.networks.q_network import QNetwork, ValueNetwork
from dqn_cli.networks.torsos import Mlp

Floats = NDArray[np.float32]
Function = Callable[[Floats], Floats]
Layer = tuple[nn.Module, Function | None]  # and what follows it
Step = tuple[Floats, Floats, Function | None]  # the same, as views of weight [inputs, outputs] and bias [outputs]

PARTS = (QNetwork, Mlp, Stream, Dueling, nn.ModuleList, nn.Linear)  # these and no subclass: no noise, no layer norm
ZERO = np.zeros((), np.float32)  # a Python number would be made into one at every call
ACTIVATIONS: dict[Activation, Function] = {F.relu: lambda x: np.maximum(x, ZERO), torch.tanh: np.tanh}


def numpy_pass(network: ValueNetwork, value: Value) -> NumpyPass | None:
    """What computes the Q-values that `value` reads off `network`; None where that is no plain MLP.

    One is on the CPU, has linear layers and nothing else but activations, and says one number per action; its head may
    be a dueling one.
    """
    if not isinstance(network, QNetwork) or not isinstance(value, Scalar):
        return None
    if any(type(part) not in PARTS for part in network.modules()):
        return None
    if any(w.device.type != "cpu" or w.dtype != torch.float32 for w in network.parameters()):
        return None
    return NumpyPass(network)


class NumpyPass:
    """The forward pass of a plain MLP, on zero-copy views of its weights: what changes them is seen at once.

    That includes weights that moved (`parameter.data = ...`), but not parameters that took the place of others. Values
    differ from the network's by rounding: the sums are the same, in another order.
    """

    def __init__(self, network: QNetwork) -> None:
        torso = network.torso
        assert isinstance(torso, Mlp)
        self._scale = torso._scale
        self._torso: list[Layer] = [(layer, _in_numpy(torso._activation)) for layer in torso.layers]
        # modules come in the order in which they were made: of a dueling head the value, then the advantages
        self._streams = [_layers(part) for part in network.modules() if isinstance(part, Stream)]
        self._addresses = [w.data_ptr for w in network.parameters()]
        self._seen_at: list[int] = []

    @np.errstate(all="ignore")  # torch says nothing of an overflow either
    def __call__(self, obs: NDArray[Any]) -> Floats:
        """Q-values [E, A] of obs [E, *obs_shape], in an array of their own."""
        at = [address() for address in self._addresses]
        if at != self._seen_at:  # views are made at the first call, or made anew
            self._seen_at, self._torso_steps = at, _views(self._torso)
            self._stream_steps = [_views(stream) for stream in self._streams]
        # one observation goes through as a vector, a fourth faster than a matrix of one row
        flat: NDArray[Any] = obs.ravel() if len(obs) == 1 else obs.reshape(len(obs), -1)
        x: Floats = flat.astype(np.float32, copy=False)
        if self._scale != 1:
            x = x * self._scale
        features = _through(self._torso_steps, x)
        *value, q = (_through(steps, features) for steps in self._stream_steps)
        if value:  # of a dueling head, see there
            q = value[0] + q - np.add.reduce(q, axis=-1, keepdims=True) / q.shape[-1]
        return q.reshape(len(obs), -1)


def _layers(stream: Stream) -> list[Layer]:
    hidden: list[Layer] = [] if stream.hidden is None else [(stream.hidden, _in_numpy(stream._activation))]
    return [*hidden, (stream.output, None)]


def _in_numpy(activation: Activation) -> Function:
    """By way of torch, at the price of a call or two, where NumPy has nothing of the kind."""
    return ACTIVATIONS.get(activation, lambda x: activation(torch.from_numpy(x)).numpy())


def _views(layers: Iterable[Layer]) -> list[Step]:
    views = []
    for layer, activation in layers:
        weight, bias = (w.detach().numpy() for w in layer.parameters())
        views.append((weight.T, bias, activation))
    return views


def _through(steps: Iterable[Step], x: Floats) -> Floats:
    for weight, bias, activation in steps:
        x = x.dot(weight) + bias
        if activation is not None:
            x = activation(x)
    return x
