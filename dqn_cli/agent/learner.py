"""Learning: one gradient update serves every variant. Knows no environment, no replay and no gamma."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dqn_cli.agent.optimizers import Descent, quantities
from dqn_cli.algorithm.losses import Error
from dqn_cli.algorithm.munchausen import Munchausen
from dqn_cli.algorithm.rules import BootstrapRule, Network
from dqn_cli.algorithm.targets import chosen, greedy_action
from dqn_cli.algorithm.values import Look, Value
from dqn_cli.device import to_device
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.types import Batch, UpdateResult


@dataclass(frozen=True)
class Method:
    """What targets and errors are made of."""

    rule: BootstrapRule
    value: Value
    munchausen: Munchausen | None = None


class Learner:
    """The networks and their update. `target` is a frozen copy of `online`, or None where the rule does without.

    `descent` holds the parameters of `online`; `rng`, on their device, draws the noise and the quantiles of updates.
    """

    def __init__(
        self, online: ValueNetwork, method: Method, descent: Descent, rng: torch.Generator, tau: float = 1.0
    ) -> None:
        self.online = online
        self.target = deepcopy(online).requires_grad_(False) if method.rule.needs_target else None
        self.method = method
        self._descent = descent
        self._rng = rng
        self._tau = tau
        self._parameters = list(online.parameters())

    def network(self, which: str) -> ValueNetwork:
        """The network called online or target. Raises `ValueError` where there is no such one."""
        if which == Network.ONLINE:
            return self.online
        if which == Network.TARGET and self.target is not None:
            return self.target
        raise ValueError(f"this learner has no {which} network")

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One gradient step on the mean, weighted loss of `batch`; `step` is where the learning rate's schedule stands.

        Every pass through a noisy network draws noise of its own (Fortunato et al. 2018, algorithm 1).
        """
        batch = to_device(batch, self._parameters[0].device)
        y = self._targets(batch, self._noisy_look)
        self.online.iterate_norms()
        error = self.method.value.error(self._noisy_look(self.online, batch.obs), batch.action, y)
        loss = (error.loss if batch.weight is None else batch.weight * error.loss).mean()

        for w in self._parameters:  # zero_grad() does this by way of a profiler's hook, for 5 % of an update
            w.grad = None
        torch.autograd.backward(loss)
        grad_norm = self._clip_gradients()
        self._descent.step(step)
        return UpdateResult(loss.detach(), error.q.detach().mean(), grad_norm, error.priority)

    def look(self, obs: Tensor, rng: torch.Generator) -> Look:
        """What the online network says of obs [B, *obs_shape], without noise."""
        return self._quiet_look(rng)(self.online, obs)

    def error(self, look: Look, batch: Batch, rng: torch.Generator) -> Error:
        """How far such a `look` at the batch's observations is from its targets, without noise and gradient."""
        return self.method.value.error(look, batch.action, self._targets(batch, self._quiet_look(rng)))

    @torch.no_grad()
    def _targets(self, batch: Batch, look: Callable[..., Look]) -> Tensor:
        """What the value of each action should have been: the rule, the value representation and Munchausen's terms.

        What is needed of a look is read before the next look at the same network, which may draw other noise.
        """
        obs_tm1, a_tm1, r_t, discount_t, obs_t = batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs
        rule, value, munchausen = self.method.rule, self.method.value, self.method.munchausen

        evaluated_t = look(self.network(rule.evaluate), obs_t, ahead=True)
        selected_t = evaluated_t if rule.select == rule.evaluate else look(self.network(rule.select), obs_t, ahead=True)
        if munchausen is None:
            return value.target(r_t, discount_t, chosen(evaluated_t.z, greedy_action(selected_t.q)))
        z_t = munchausen.bootstrap(evaluated_t.z, selected_t.q)
        q_tm1 = look(self.network(rule.select), obs_tm1).q
        return value.target(r_t + munchausen.bonus(q_tm1, a_tm1), discount_t, z_t)

    def _noisy_look(self, network: ValueNetwork, obs: Tensor, ahead: bool = False) -> Look:
        network.draw_noise(self._rng)
        return self.method.value.look(network, obs, self._rng, ahead)

    def _quiet_look(self, rng: torch.Generator) -> Callable[..., Look]:
        def look(network: ValueNetwork, obs: Tensor, ahead: bool = False) -> Look:
            network.silence()
            return self.method.value.look(network, obs, rng, ahead)

        return look

    def _clip_gradients(self) -> Tensor | None:
        most = self._descent.max_grad_norm
        return None if most is None else clip_grad_norm_(self._descent.parameters, most)

    @torch.no_grad()
    def sync_target(self) -> None:
        """target <- tau online + (1 - tau) target, in place; a copy to the last bit at tau 1. Buffers are copied."""
        network = self.network(Network.TARGET)
        for old, new in zip(network.parameters(), self._parameters, strict=True):
            if self._tau == 1:
                old.copy_(new)
            else:
                old.lerp_(new, self._tau)
        for buffer, newer in zip(network.buffers(), self.online.buffers(), strict=True):
            buffer.copy_(newer)

    def model_state(self) -> dict[str, Tensor]:
        """The weights, as views: `online.*`, and `target.*` where there is a target network."""
        networks = {Network.ONLINE: self.online, Network.TARGET: self.target}
        return {
            f"{which}.{name}": w
            for which, network in networks.items()
            if network is not None
            for name, w in network.state_dict().items()
        }

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of a `model_state`. Raises `ValueError` where names or shapes differ."""
        _load_weights(self.online, _below(state, Network.ONLINE))
        if self.target is not None:
            _load_weights(self.target, _below(state, Network.TARGET))

    def load_online(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights of an online network, in both networks. Raises `ValueError` as above."""
        self.load_model_state({f"{which}.{name}": w for which in Network for name, w in weights.items()})

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizers remember of each parameter, as views: `<parameter>.<quantity>`."""
        names = {id(w): name for name, w in self.online.named_parameters()}
        return {
            f"{names[id(w)]}.{key}": value
            for optimizer in self._descent.optimizers
            for w, entries in optimizer.state.items()
            for key, value in entries.items()
            if isinstance(value, Tensor)
        }

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over an `optimizer_state`. Raises `ValueError` where it is not one of these optimizers' and parameters.

        Nothing is one too: that of before the first update.
        """
        names = {id(w): name for name, w in self.online.named_parameters()}
        wanted: set[str] = set()
        for optimizer in self._descent.optimizers:
            own = [w for group in optimizer.param_groups for w in group["params"]]
            memory: dict[int, dict[str, Tensor]] = {}
            for (i, w), (name, large) in product(enumerate(own), quantities(optimizer).items()):
                wanted.add(entry := f"{names[id(w)]}.{name}")
                if state:
                    memory.setdefault(i, {})[name] = _fitted(entry, state.get(entry), w if large else w.new_empty(()))
            optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})
        if unknown := sorted(state.keys() - wanted):
            raise ValueError(f"{unknown[0]} belongs to no parameter of this network")


def _fitted(entry: str, value: Tensor | None, like: Tensor) -> Tensor:
    """`value` in the layout of `like`, if it has its shape: fused kernels pair numbers by their place in memory."""
    if value is None:
        raise ValueError(f"{entry} is missing")
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"{entry} is {value.dtype} of shape {list(value.shape)}, expected {list(like.shape)}")
    return torch.empty_like(like, requires_grad=False).copy_(value)


def _below(state: Mapping[str, Tensor], which: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{which}."): w for name, w in state.items() if name.startswith(f"{which}.")}


def _load_weights(network: ValueNetwork, weights: Mapping[str, Tensor]) -> None:
    own = {name: list(w.shape) for name, w in network.state_dict().items()}
    given = {name: list(w.shape) for name, w in weights.items()}
    for name, w in network.state_dict().items():
        if name in weights and weights[name].dtype != w.dtype:
            raise ValueError(f"{name} is {weights[name].dtype}, this network needs {w.dtype}")
    for name in [*own, *given]:
        if own.get(name) != given.get(name):
            raise ValueError(f"{name} has shape {given.get(name, 'none')}, this network needs {own.get(name, 'none')}")
    network.load_state_dict(dict(weights))
