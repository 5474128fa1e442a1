"""Learning: one gradient update serves every variant. Knows no environment, no replay and no gamma."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from dqn_cli.algorithm.losses import LossFunction
from dqn_cli.algorithm.rules import BootstrapRule, Network
from dqn_cli.algorithm.targets import greedy_action, q_learning_target, value_of
from dqn_cli.device import to_device
from dqn_cli.schedules import Schedule
from dqn_cli.types import Batch, UpdateResult


class Learner:
    """The networks and their update. `target` is a frozen copy of `online`, or None where the rule does without.

    `optimizer` holds the parameters of `online`, in their order, and `lr` sets its learning rate at every update.
    """

    def __init__(
        self,
        online: nn.Module,
        rule: BootstrapRule,
        loss: LossFunction,
        optimizer: torch.optim.Optimizer,
        lr: Schedule,
        max_grad_norm: float | None,
        tau: float = 1.0,
    ) -> None:
        self.online = online
        self.target = deepcopy(online).requires_grad_(False) if rule.needs_target else None
        self._rule = rule
        self._loss = loss
        self._optimizer = optimizer
        self._lr = lr
        self._max_grad_norm = max_grad_norm
        self._tau = tau
        self._parameters = list(online.parameters())
        self._device = self._parameters[0].device

    def network(self, which: str) -> nn.Module:
        """The network called online or target. Raises `ValueError` where there is no such one."""
        if which == Network.ONLINE:
            return self.online
        if which == Network.TARGET and self.target is not None:
            return self.target
        raise ValueError(f"this learner has no {which} network")

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One gradient step on the mean loss of `batch`; `step` is where the learning rate's schedule stands."""
        batch = to_device(batch, self._device)
        obs_tm1, a_tm1, r_t, discount_t, obs_t = batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs

        y = self._targets(r_t, discount_t, obs_t)
        q_tm1 = value_of(self.online(obs_tm1), a_tm1)
        loss = self._loss(q_tm1, y).mean()

        for w in self._parameters:  # zero_grad() does this by way of a profiler's hook, for 5 % of an update
            w.grad = None
        torch.autograd.backward(loss)
        grad_norm = self._clip_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr(step)
        self._optimizer.step()
        return UpdateResult(loss.detach(), q_tm1.detach().mean(), grad_norm)

    @torch.no_grad()
    def _targets(self, r_t: Tensor, discount_t: Tensor, obs_t: Tensor) -> Tensor:
        select, evaluate = self._rule.select, self._rule.evaluate
        q_evaluate_t = self.network(evaluate)(obs_t)
        q_select_t = q_evaluate_t if select == evaluate else self.network(select)(obs_t)
        return q_learning_target(r_t, discount_t, q_evaluate_t, greedy_action(q_select_t))

    def _clip_gradients(self) -> Tensor | None:
        return None if self._max_grad_norm is None else clip_grad_norm_(self._parameters, self._max_grad_norm)

    @torch.no_grad()
    def sync_target(self) -> None:
        """target <- tau online + (1 - tau) target, in place; a copy to the last bit at tau 1."""
        for target, online in zip(self.network(Network.TARGET).parameters(), self._parameters, strict=True):
            if self._tau == 1:
                target.copy_(online)
            else:
                target.lerp_(online, self._tau)

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
        """What the optimizer remembers of each parameter, as views: `<parameter>.<quantity>`."""
        names = [name for name, _ in self.online.named_parameters()]
        memory = self._optimizer.state_dict()["state"]
        return {
            f"{names[i]}.{key}": value
            for i, entries in memory.items()
            for key, value in entries.items()
            if isinstance(value, Tensor)
        }

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over an `optimizer_state`. Raises `ValueError` where it is not of these parameters."""
        index = {name: i for i, (name, _) in enumerate(self.online.named_parameters())}
        memory: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            parameter, _, key = name.rpartition(".")
            if parameter not in index:
                raise ValueError(f"{name} belongs to no parameter of this network")
            memory.setdefault(index[parameter], {})[key] = value.clone()
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": memory})


def _below(state: Mapping[str, Tensor], which: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{which}."): w for name, w in state.items() if name.startswith(f"{which}.")}


def _load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = {name: list(w.shape) for name, w in network.state_dict().items()}
    given = {name: list(w.shape) for name, w in weights.items()}
    for name in [*own, *given]:
        if own.get(name) != given.get(name):
            raise ValueError(f"{name} has shape {given.get(name, 'none')}, this network needs {own.get(name, 'none')}")
    network.load_state_dict(dict(weights))
