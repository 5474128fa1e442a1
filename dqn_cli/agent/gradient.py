"""The gradient of a batch's loss: what a learner asks for, and the way of getting it that every network knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from dqn_cli.algorithm.munchausen import Munchausen
from dqn_cli.algorithm.rules import BootstrapRule, Network
from dqn_cli.algorithm.targets import chosen, greedy_action
from dqn_cli.algorithm.values import Look, Value
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.types import Batch

N = TypeVar("N")


@dataclass(frozen=True)
class Method:
    """What targets and errors are made of."""

    rule: BootstrapRule
    value: Value
    munchausen: Munchausen | None = None


class Slope(NamedTuple):
    """What the gradient of a batch tells beside itself; none of it carries gradients, or is overwritten later."""

    loss: Tensor  # [], the mean of the weighted losses
    mean_q: Tensor  # [], the mean of Q(s, a) for the actions taken
    priority: Tensor  # [B], 0 or more
    whole: Tensor | None = None  # the gradients of all parameters side by side, where they lie so


class Gradient(Protocol):
    """Puts the gradient of a batch's loss into `.grad` of every parameter of the online network, in place of the last.

    The batch is on the device of the networks, whose weights are never changed but in place.
    """

    @property
    def way(self) -> str:
        """How it is found, in words."""

    def __call__(self, batch: Batch) -> Slope:
        """Of the mean, weighted loss of `batch`."""


def targets(batch: Batch, method: Method, network: Callable[[str], N], look: Callable[..., Look]) -> Tensor:
    """What the value of each action should have been: the rule, the value representation and Munchausen's terms.

    `network` gives those called online and target; `look(network, obs, ahead=...)` is what one says of observations. It
    is read before the next look at the same network, which may draw other noise. Call it where gradients are off.
    """
    obs_tm1, a_tm1, r_t, discount_t, obs_t = batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs
    rule, value, munchausen = method.rule, method.value, method.munchausen

    evaluated_t = look(network(rule.evaluate), obs_t, ahead=True)
    selected_t = evaluated_t if rule.select == rule.evaluate else look(network(rule.select), obs_t, ahead=True)
    if munchausen is None:
        return value.target(r_t, discount_t, chosen(evaluated_t.z, greedy_action(selected_t.q)))
    z_t = munchausen.bootstrap(evaluated_t.z, selected_t.q)
    q_tm1 = look(network(rule.select), obs_tm1).q
    return value.target(r_t + munchausen.bonus(q_tm1, a_tm1), discount_t, z_t)


class ByAutograd:
    """Of any network, by torch's tape. `network` gives those called online and target; `rng` draws noise and quantiles.

    Every pass through a noisy network draws noise of its own (Fortunato et al. 2018, algorithm 1).
    """

    way = "by autograd"

    def __init__(self, network: Callable[[str], ValueNetwork], method: Method, rng: torch.Generator) -> None:
        self._online = network(Network.ONLINE)
        self._network = network
        self._method = method
        self._rng = rng
        self._parameters = list(self._online.parameters())

    def __call__(self, batch: Batch) -> Slope:
        """See `Gradient`."""
        with torch.no_grad():
            y = targets(batch, self._method, self._network, self._look)
        self._online.iterate_norms()
        error = self._method.value.error(self._look(self._online, batch.obs), batch.action, y)
        loss = (error.loss if batch.weight is None else batch.weight * error.loss).mean()

        for w in self._parameters:  # zero_grad() does this by way of a profiler's hook, for 5 % of an update
            w.grad = None
        # told where the chain begins, torch need not find out what shape its 1 must have: 7 % of a small update
        torch.autograd.backward(loss, loss.new_ones(()))
        return Slope(loss.detach(), error.q.detach().mean(), error.priority)

    def _look(self, network: ValueNetwork, obs: Tensor, ahead: bool = False) -> Look:
        network.draw_noise(self._rng)
        return self._method.value.look(network, obs, self._rng, ahead)
