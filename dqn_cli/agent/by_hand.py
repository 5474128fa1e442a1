"""The gradient of small networks, derived by hand: what autograd computes, without its tape and without new memory.

Most of a small network's update is not arithmetic but what torch does around each operation. Here every operation of a
layer writes where the last batch's was, nothing is recorded, and the chain rule is a list of steps gone through
backwards. Activations are columns, one per transition: their products and sums are a little faster than those of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqn_cli.agent.gradient import Gradient, Method, Slope
from dqn_cli.algorithm.losses import LossFunction, huber, mse
from dqn_cli.algorithm.rules import Network
from dqn_cli.algorithm.values import Scalar
from dqn_cli.networks.heads import Dueling, Stream
from dqn_cli.networks.layers import Activation
from dqn_cli.networks.q_network import QNetwork, ValueNetwork
from dqn_cli.networks.torsos import Mlp
from dqn_cli.types import Batch

PARTS = (QNetwork, Mlp, Stream, Dueling, nn.ModuleList, nn.Linear)  # these and no subclass: no noise, no layer norm
KINDS = [{("cpu", torch.float32)}, {("cpu", torch.float64)}]
NARROW = 16  # inputs, up to which products with observations as rows take three times as long as with columns


class Bend(NamedTuple):
    """An activation function f, in place: y <- f(y); dy <- dy f', which y = f(x) tells, and need not survive."""

    forward: Callable[[Tensor], object]
    backward: Callable[[Tensor, Tensor], object]


def _tanh(y: Tensor) -> None:
    values = y.numpy()
    np.tanh(values, out=values)  # a ninth of the time of torch's


BENDS: dict[Activation, Bend] = {
    F.relu: Bend(torch.relu_, lambda dy, y: dy.mul_(y.sign_())),
    torch.tanh: Bend(_tanh, lambda dy, y: dy.mul_(y.square_().neg_().add_(1))),
}

# the derivative l' of each loss by u = Q(s, a) - y; of both the loss itself is l' (u - l' / 2)
DERIVATIVES: dict[LossFunction, Callable[[Tensor], Tensor]] = {mse: lambda u: u, huber: lambda u: u.clamp(-1, 1)}


class Layer(NamedTuple):
    """A fully connected layer: y = f(W x + b)."""

    linear: nn.Linear
    source: int  # number of the layer whose y is this one's x; -1: the observations
    bend: Bend | None  # f; None for outputs


def by_hand(online: ValueNetwork, target: ValueNetwork | None, method: Method) -> Gradient | None:
    """The gradient for these networks and this method, where it has been derived; else None.

    For MLPs on a CPU with one value per action: any depth and widths, ReLU or tanh, plain or dueling, without noise and
    layer norms; with any rule, loss and weights, Munchausen's terms too.
    """
    if not isinstance(online, QNetwork) or type(method.value) is not Scalar or method.value._loss not in DERIVATIVES:
        return None
    if any(type(part) not in PARTS for part in online.modules()):
        return None
    if {(w.device.type, w.dtype) for w in online.parameters()} not in KINDS:
        return None
    if any(activation not in BENDS for activation in _activations(online)):
        return None
    networks = {Network.ONLINE: online, **({Network.TARGET: target} if isinstance(target, QNetwork) else {})}
    return ByHand(networks, method, DERIVATIVES[method.value._loss])


class ByHand:
    """See `by_hand`. All gradients lie side by side in one vector, of which each parameter's `.grad` is a part."""

    way = "by hand"

    def __init__(
        self, networks: dict[Network, QNetwork], method: Method, derivative: Callable[[Tensor], Tensor]
    ) -> None:
        self._networks = networks
        self._method = method
        self._derivative = derivative
        parameters = list(networks[Network.ONLINE].parameters())
        self._whole = torch.zeros(sum(w.numel() for w in parameters), dtype=parameters[0].dtype)
        for w, part in zip(parameters, torch.split(self._whole, [w.numel() for w in parameters]), strict=True):
            w.grad = part.view_as(w)
        self._passes: dict[int, Passes] = {}  # by the size of the batch

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Slope:
        """See `Gradient`."""
        size = len(batch.action)
        passes = self._passes.get(size)
        if passes is None:
            passes = self._passes[size] = Passes(self._networks, size)
        action = batch.action.unsqueeze(0)
        y = self._targets(batch, passes.values)
        q = passes.values(Network.ONLINE, batch.obs).gather(0, action)[0]
        u = q - y
        slope = self._derivative(u)
        distance = torch.sub(u, slope, alpha=0.5)
        share = passes.share if batch.weight is None else batch.weight * passes.share
        dq = slope * share
        passes.backward(action, dq)
        # a product with 1 / B instead of a mean: half the time, for numbers that are only looked at
        return Slope(dq.dot(distance), q.dot(passes.share), u.abs_(), self._whole)

    def _targets(self, batch: Batch, values: Callable[[str, Tensor], Tensor]) -> Tensor:
        """As `gradient.targets`; each pass is read before the next one, which uses its memory."""
        rule, munchausen = self._method.rule, self._method.munchausen
        if munchausen is not None:
            selected_t = values(rule.select, batch.next_obs).t().clone()
            z_t = selected_t if rule.select == rule.evaluate else values(rule.evaluate, batch.next_obs).t()
            v_t = munchausen.bootstrap(z_t, selected_t)
            bonus = munchausen.bonus(values(rule.select, batch.obs).t(), batch.action)
            return batch.reward + bonus + batch.discount * v_t
        if rule.select == rule.evaluate:
            v_t = values(rule.select, batch.next_obs).amax(0)
        else:
            best = values(rule.select, batch.next_obs).max(0, keepdim=True).indices
            v_t = values(rule.evaluate, batch.next_obs).gather(0, best)[0]
        return v_t.mul_(batch.discount).add_(batch.reward)


class Forward(NamedTuple):
    """A layer's step from its inputs x [I, B] to its outputs y [O, B]."""

    bias: Tensor  # [O, 1]
    weight: Tensor  # [O, I]
    x: Tensor
    y: Tensor
    bend: Callable[[Tensor], object] | None


class Backward(NamedTuple):
    """A layer's step from dy, the loss's derivatives by y [O, B], to those by its parameters and by its inputs."""

    dy: Tensor
    y: Tensor
    bend: Callable[[Tensor, Tensor], object] | None
    rows: Tensor  # x as rows, [B, I]
    dweight: Tensor
    dbias: Tensor
    inward: Tensor  # W^T, [I, O]
    dx: Tensor | None  # [I, B]; None: of the observations, which nobody asks for
    adds: bool  # whether the other stream has left its share in dx


class Passes:
    """The ways through networks of one shape for B transitions, and the memory on them, which each pass uses anew."""

    def __init__(self, networks: dict[Network, QNetwork], size: int) -> None:
        online = networks[Network.ONLINE]
        layers, dueling, like = _layers(online), isinstance(online.head, Dueling), next(online.parameters()).detach()
        inputs, actions = layers[0].linear.in_features, layers[-1].linear.out_features
        assert isinstance(online.torso, Mlp)
        self._scale = online.torso._scale
        self._x = like.new_empty(inputs, size) if inputs <= NARROW else like.new_empty(size, inputs).t()
        self._z, self._dz = like.new_empty(2, actions + dueling, size)  # a dueling head's are V above A
        self._q, self._dq = like.new_empty(2, actions, size) if dueling else (self._z, self._dz)
        # Q = V + A - mean A as a matrix: [1 | I - 1 / n]
        ones, eye = like.new_ones(actions, 1), torch.eye(actions, dtype=like.dtype)
        self._mix = torch.cat([ones, eye - 1 / actions], 1) if dueling else None
        self._ones = like.new_ones(size)
        self.share = self._ones / size  # of each transition in a mean

        y, dy = (_outputs(layers, out) for out in (self._z, self._dz))
        x = [self._x if layer.source < 0 else y[layer.source] for layer in layers]
        self._forward: dict[str, list[Forward]] = {
            which: _forward(_layers(network), x, y) for which, network in networks.items()
        }
        self._backward = _backward(layers, x, y, dy)

    def values(self, which: str, obs: Tensor) -> Tensor:
        """Q [A, B] by the network called online or target of obs [B, *obs_shape]; the next pass overwrites it."""
        self._x.copy_((obs if obs.dim() == 2 else obs.flatten(1)).t())
        if self._scale != 1:
            self._x.mul_(self._scale)
        for bias, weight, x, y, bend in self._forward[which]:
            torch.addmm(bias, weight, x, out=y)
            if bend is not None:
                bend(y)
        return self._q if self._mix is None else torch.mm(self._mix, self._z, out=self._q)

    def backward(self, action: Tensor, dq: Tensor) -> None:
        """The gradient of the parameters, from the derivatives dq [B] by Q(s, a [1, B]), right after the pass of s."""
        self._dq.zero_().scatter_(0, action, dq.unsqueeze(0))
        if self._mix is not None:
            torch.mm(self._mix.t(), self._dq, out=self._dz)
        for dy, y, bend, rows, dweight, dbias, inward, dx, adds in self._backward:
            if bend is not None:
                bend(dy, y)
            torch.mm(dy, rows, out=dweight)
            torch.mv(dy, self._ones, out=dbias)
            if dx is not None and adds:
                dx.addmm_(inward, dy)
            elif dx is not None:
                torch.mm(inward, dy, out=dx)


def _activations(network: QNetwork) -> list[Activation]:
    return [part._activation for part in network.modules() if isinstance(part, (Mlp, Stream))]


def _layers(network: QNetwork) -> list[Layer]:
    """The layers in an order in which they can be computed."""
    torso = network.torso
    assert isinstance(torso, Mlp)
    layers = [Layer(_linear(layer), i - 1, BENDS[torso._activation]) for i, layer in enumerate(torso.layers)]
    features = len(layers) - 1
    for stream in (part for part in network.modules() if isinstance(part, Stream)):
        source = features
        if stream.hidden is not None:
            source = len(layers)
            layers.append(Layer(_linear(stream.hidden), features, BENDS[stream._activation]))
        layers.append(Layer(_linear(stream.output), source, None))
    return layers


def _linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return layer


def _outputs(layers: Sequence[Layer], whole: Tensor) -> list[Tensor]:
    """Memory [O, B] for each layer; of the outputs it is a part of `whole`."""
    widths = [layer.linear.out_features for layer in layers]
    ends = iter(torch.split(whole, [width for width, layer in zip(widths, layers, strict=True) if layer.bend is None]))
    return [
        next(ends) if layer.bend is None else whole.new_empty(width, whole.shape[1])
        for width, layer in zip(widths, layers, strict=True)
    ]


def _forward(layers: Sequence[Layer], x: Sequence[Tensor], y: Sequence[Tensor]) -> list[Forward]:
    return [
        Forward(
            layer.linear.bias.detach().unsqueeze(1),
            layer.linear.weight.detach(),
            x[i],
            y[i],
            None if layer.bend is None else layer.bend.forward,
        )
        for i, layer in enumerate(layers)
    ]


def _backward(
    layers: Sequence[Layer], x: Sequence[Tensor], y: Sequence[Tensor], dy: Sequence[Tensor]
) -> list[Backward]:
    steps, reached = [], set()
    for i, (linear, source, bend) in reversed(list(enumerate(layers))):
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        steps.append(
            Backward(
                dy[i],
                y[i],
                None if bend is None else bend.backward,
                x[i].t(),
                linear.weight.grad,
                linear.bias.grad,
                linear.weight.detach().t(),
                None if source < 0 else dy[source],
                source in reached,
            )
        )
        reached.add(source)
    return steps
