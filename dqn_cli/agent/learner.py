"""Learning: one gradient update serves every variant. Knows no environment, no replay and no gamma."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import product

import torch
from torch import Tensor

from dqn_cli.agent.by_hand import by_hand
from dqn_cli.agent.captured import Captured, Recorder
from dqn_cli.agent.gradient import ByAutograd, Gradient, Method, targets
from dqn_cli.agent.optimizers import Descent, quantities
from dqn_cli.algorithm.losses import Error
from dqn_cli.algorithm.rules import Network
from dqn_cli.algorithm.values import Look
from dqn_cli.device import to_device
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.types import Batch, UpdateResult


class Learner:
    """The networks and their update. `target` is a frozen copy of `online`, or None where the rule does without.

    `descent` holds the parameters of `online`; `rng`, on their device, draws the noise and the quantiles of updates.
    `gradient` is how the gradient of a batch is found: with `fast` as it was derived by hand, where it was, else by
    autograd. Another one may be put in its place.
    """

    gradient: Gradient

    def __init__(
        self,
        online: ValueNetwork,
        method: Method,
        descent: Descent,
        rng: torch.Generator,
        tau: float = 1.0,
        fast: bool = True,
    ) -> None:
        self.online = online
        self.target = deepcopy(online).requires_grad_(False) if method.rule.needs_target else None
        self.method = method
        derived = by_hand(online, self.target, method) if fast else None
        self.gradient = derived or ByAutograd(self.network, method, rng)
        self._descent = descent
        self._tau = tau
        self._parameters = list(online.parameters())
        self._device = self._parameters[0].device
        self._apply: Callable[[Batch], UpdateResult] = self._apply_now

    def network(self, which: str) -> ValueNetwork:
        """The network called online or target. Raises `ValueError` where there is no such one."""
        if which == Network.ONLINE:
            return self.online
        if which == Network.TARGET and self.target is not None:
            return self.target
        raise ValueError(f"this learner has no {which} network")

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One gradient step on the mean, weighted loss of `batch`, `step` steps into the run."""
        self._descent.schedule(step)
        return self._apply(batch)

    def _apply_now(self, batch: Batch) -> UpdateResult:
        slope = self.gradient(to_device(batch, self._device))
        grad_norm = self._descent.clip(slope.whole)
        self._descent.step()
        return UpdateResult(slope.loss, slope.mean_q, grad_norm, slope.priority)

    def capture(self, recorder: Recorder, say: Callable[[str], None]) -> None:
        """Let `recorder` replay updates; where it cannot, `say` is told so in a line, and they are made as before."""
        self._apply = Captured(self._apply_now, recorder, self._device, say)

    @property
    def way(self) -> str:
        """How updates are computed, in words."""
        return self._apply.way if isinstance(self._apply, Captured) else self.gradient.way

    def look(self, obs: Tensor, rng: torch.Generator) -> Look:
        """What the online network says of obs [B, *obs_shape], without noise."""
        return self._quiet_look(rng)(self.online, obs)

    def error(self, look: Look, batch: Batch, rng: torch.Generator) -> Error:
        """How far such a `look` at the batch's observations is from its targets, without noise and gradient."""
        with torch.no_grad():
            y = targets(batch, self.method, self.network, self._quiet_look(rng))
        return self.method.value.error(look, batch.action, y)

    def _quiet_look(self, rng: torch.Generator) -> Callable[..., Look]:
        def look(network: ValueNetwork, obs: Tensor, ahead: bool = False) -> Look:
            network.silence()
            return self.method.value.look(network, obs, rng, ahead)

        return look

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
