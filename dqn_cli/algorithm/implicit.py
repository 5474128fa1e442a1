"""Returns as a function of the fraction: quantiles at whatever fractions tau in (0, 1) one asks for.

IQN draws the fractions, FQF learns which ones to ask for.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from dqn_cli.algorithm.fractions import Fractions, fraction_loss, propose
from dqn_cli.algorithm.losses import Error, pairwise_errors, quantile_huber
from dqn_cli.algorithm.targets import bellman_target, chosen
from dqn_cli.config import FqfConfig, ImplicitConfig


class QuantileFunction(Protocol):
    """A network that gives quantiles at fractions."""

    def features(self, obs: Tensor, /) -> Tensor:
        """Features [B, F] of obs [B, *obs_shape]."""

    def at(self, features: Tensor, tau: Tensor, /) -> Tensor:
        """Quantiles [B, A, T] at fractions tau [B, T]."""


class ProposedQuantileFunction(QuantileFunction, Protocol):
    """Such a network that proposes fractions, too."""

    def proposal(self, features: Tensor, /) -> Tensor:
        """Logits [B, N] of the fractions' widths."""


class ImplicitLook:
    """z: quantiles [B, A, N] at random fractions `tau` [B, N]; q: their mean over `acting` fractions of its own."""

    def __init__(self, network: QuantileFunction, obs: Tensor, rng: torch.Generator, drawn: int, acting: int) -> None:
        self._network, self._rng, self._drawn, self._acting = network, rng, drawn, acting
        self._features = network.features(obs)

    @cached_property
    def tau(self) -> Tensor:
        """The fractions of z, uniform in (0, 1), [B, N]."""
        return self._draw(self._drawn)

    @cached_property
    def z(self) -> Tensor:
        """Quantiles at `tau`, [B, A, N]."""
        return self._network.at(self._features, self.tau)

    @cached_property
    def q(self) -> Tensor:
        """The mean over K fractions, [B, A]: the paper's policy, neutral to risk."""
        return self._network.at(self._features, self._draw(self._acting)).mean(dim=2)

    def _draw(self, count: int) -> Tensor:
        features = self._features
        return torch.rand(len(features), count, generator=self._rng, device=features.device, dtype=features.dtype)


class Implicit:
    """IQN: N quantiles drawn of a prediction, N' of a target, K to choose an action (Dabney et al. 2018b).

    https://arxiv.org/abs/1806.06923. Priority: as with `Quantile`.
    """

    outputs: tuple[int, ...] = ()

    def __init__(self, config: ImplicitConfig) -> None:
        self._config = config

    def look(self, network: QuantileFunction, obs: Tensor, rng: torch.Generator, ahead: bool = False) -> ImplicitLook:
        """See `Value`: N' quantiles where `ahead`, else N."""
        config = self._config
        drawn = config.target_quantiles if ahead else config.quantiles
        return ImplicitLook(network, obs, rng, drawn, config.acting_quantiles)

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
        """See `Value`."""
        return bellman_target(r_t, discount_t, z_t)

    def error(self, look_tm1: ImplicitLook, a_tm1: Tensor, target: Tensor) -> Error:
        """See `Value`; `q` is the mean of the N quantiles drawn, as K more would cost another pass."""
        z = chosen(look_tm1.z, a_tm1)
        u = pairwise_errors(z, target)
        loss = quantile_huber(u, look_tm1.tau, self._config.kappa).mean(dim=1)
        return Error(loss, u.detach().abs().mean(dim=(1, 2)), z.detach().mean(dim=1))


class FqfLook:
    """z: quantiles at the midpoints of the proposed fractions, [B, A, N]; ahead with their widths behind, [B, A, 2 N].

    q is the mean of the quantiles by their widths.
    """

    def __init__(self, network: ProposedQuantileFunction, obs: Tensor, ahead: bool) -> None:
        self._network, self._ahead = network, ahead
        self._features = network.features(obs)

    @cached_property
    def fractions(self) -> Fractions:
        """What is proposed for each observation; their gradients go no further than the proposal layer."""
        return propose(self._network.proposal(self._features.detach()))

    @cached_property
    def proposed(self) -> Tensor:
        """Quantiles at the proposed fractions' midpoints, [B, A, N]; they do not move the fractions."""
        return self._network.at(self._features, self.fractions.midpoints.detach())

    @cached_property
    def z(self) -> Tensor:
        """Quantiles for losses, or quantiles and widths for targets."""
        if not self._ahead:
            return self.proposed
        return torch.cat([self.proposed, self.fractions.widths.unsqueeze(1).expand_as(self.proposed)], dim=2)

    @cached_property
    def q(self) -> Tensor:
        """sum_i (tau_{i+1} - tau_i) F^-1(midpoint_i), [B, A]."""
        return (self.proposed * self.fractions.widths.detach().unsqueeze(1)).sum(dim=2)

    def between(self, action: Tensor) -> Tensor:
        """Quantiles of action [B] at tau_1 ... tau_{N-1}, [B, N - 1], without gradients."""
        with torch.no_grad():
            return chosen(self._network.at(self._features, self.fractions.tau[:, 1:-1]), action)


class Fqf:
    """FQF: quantiles at N fractions that a layer of its own proposes for each state (Yang et al. 2019).

    https://arxiv.org/abs/1911.02140. Priority: as with `Quantile`, each target by its width. One deviation: a target
    is made of the quantiles at the fractions proposed for the next state, each counting by its width. The paper reuses
    the fractions of s_tm1 and counts all alike: the same where fractions are even, else not the distribution that the
    next state's Q is the mean of, and asked for where nothing was learnt.
    """

    outputs: tuple[int, ...] = ()

    def __init__(self, config: FqfConfig) -> None:
        self._config = config

    def look(
        self, network: ProposedQuantileFunction, obs: Tensor, rng: torch.Generator, ahead: bool = False
    ) -> FqfLook:
        """See `Value`."""
        return FqfLook(network, obs, ahead)

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
        """Quantiles, moved, and their widths: [B, 2 N], as z_t."""
        z, widths = z_t.chunk(2, dim=1)
        return torch.cat([bellman_target(r_t, discount_t, z), widths], dim=1)

    def error(self, look_tm1: FqfLook, a_tm1: Tensor, target: Tensor) -> Error:
        """See `Value`. The value of the loss is the quantiles'; its gradient moves the proposals, too, by their own."""
        z, fractions = chosen(look_tm1.z, a_tm1), look_tm1.fractions
        y, widths = target.chunk(2, dim=1)
        u = pairwise_errors(z, y)
        loss = (quantile_huber(u, fractions.midpoints.detach(), self._config.kappa) * widths).sum(dim=1)
        priority = (u.detach().abs().mean(dim=1) * widths).sum(dim=1)
        proposals = fraction_loss(fractions, z.detach(), look_tm1.between(a_tm1), self._config.entropy)
        q = (z * fractions.widths).sum(dim=1).detach()
        return Error(loss + (proposals - proposals.detach()), priority, q)
