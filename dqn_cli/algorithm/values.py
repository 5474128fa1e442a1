"""What is known of the return of an action, and what becomes of it: Q for acting, targets and errors for learning.

A representation says how many numbers a network gives per action, what they mean, how Q follows from them (the one
definition of the greedy action), and how far they are from a target. N is the number of atoms or quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from dqn_cli.algorithm.implicit import Fqf, Implicit
from dqn_cli.algorithm.losses import Error, LossFunction, cross_entropy, kl_divergence, pairwise_errors, quantile_huber
from dqn_cli.algorithm.targets import bellman_target, categorical_target, chosen
from dqn_cli.config import CategoricalConfig, FqfConfig, ImplicitConfig, QuantileConfig, ScalarConfig, ValueConfig

Outputs = Callable[[Tensor], Tensor]  # obs [B, *obs_shape] -> [B, A, *outputs]


class Look(Protocol):
    """What a network says of B observations. Each part is computed once, when it is first asked for.

    A noisy network must therefore keep its noise until the parts that are needed have been read.
    """

    @property
    def z(self) -> Tensor:
        """What is known of the returns, [B, A, *N], for targets and losses."""

    @property
    def q(self) -> Tensor:
        """Their means [B, A], by which actions are chosen."""


class Value(Protocol):
    """A representation of returns. Nothing in it draws numbers but from `rng`, or has shapes that depend on data."""

    outputs: tuple[int, ...]  # numbers that the network gives per action; () for one

    def look(self, network: Any, obs: Tensor, rng: torch.Generator, ahead: bool = False) -> Look:
        """What `network` says of obs [B, *obs_shape]; `ahead`: of the next states, to make targets of z."""

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
        """What z(s_tm1, a_tm1) should have been, of r_t [B], discount_t [B] and z_t [B, *N] of one action ahead."""

    def error(self, look_tm1: Any, a_tm1: Tensor, target: Tensor) -> Error:
        """How far the prediction for a_tm1 [B] is from `target` [B, *N]; `look_tm1` is of this class's `look`."""


class ScalarLook:
    """One number per action: z = q [B, A]."""

    def __init__(self, q: Tensor) -> None:
        self.z = self.q = q


class Scalar:
    """The mean of the return (Watkins 1989). Priority: the TD error's size (Schaul et al. 2016, sec. 3.3)."""

    outputs: tuple[int, ...] = ()

    def __init__(self, loss: LossFunction) -> None:
        self._loss = loss

    def look(self, network: Outputs, obs: Tensor, rng: torch.Generator, ahead: bool = False) -> ScalarLook:
        """See `Value`."""
        return ScalarLook(network(obs))

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
        """See `Value`."""
        return bellman_target(r_t, discount_t, z_t)

    def error(self, look_tm1: ScalarLook, a_tm1: Tensor, target: Tensor) -> Error:
        """See `Value`."""
        prediction = chosen(look_tm1.z, a_tm1)
        q = prediction.detach()
        return Error(self._loss(prediction, target), (target - q).abs(), q)


class CategoricalLook:
    """z: logits [B, A, N] of the atoms [N]."""

    def __init__(self, logits: Tensor, atoms: Tensor) -> None:
        self.z, self._atoms = logits, atoms

    @cached_property
    def q(self) -> Tensor:
        """sum_i p_i atom_i, [B, A]."""
        return self.z.softmax(dim=2) @ self._atoms


class Categorical:
    """C51: probabilities of N evenly spaced returns, the atoms (Bellemare et al. 2017). Priority: KL divergence."""

    def __init__(self, config: CategoricalConfig, device: torch.device) -> None:
        self.outputs: tuple[int, ...] = (config.atoms,)
        self.atoms = torch.linspace(config.v_min, config.v_max, config.atoms, device=device)

    def look(self, network: Outputs, obs: Tensor, rng: torch.Generator, ahead: bool = False) -> CategoricalLook:
        """See `Value`."""
        return CategoricalLook(network(obs), self.atoms)

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
        """Probabilities [B, N], of logits z_t [B, N]."""
        return categorical_target(r_t, discount_t, z_t.softmax(dim=1), self.atoms)

    def error(self, look_tm1: CategoricalLook, a_tm1: Tensor, target: Tensor) -> Error:
        """See `Value`."""
        log_p = chosen(look_tm1.z, a_tm1).log_softmax(dim=1)
        fixed = log_p.detach()
        return Error(cross_entropy(log_p, target), kl_divergence(fixed, target), fixed.exp() @ self.atoms)


class QuantileLook:
    """z: quantiles [B, A, N] of the return."""

    def __init__(self, z: Tensor) -> None:
        self.z = z

    @cached_property
    def q(self) -> Tensor:
        """Their mean, [B, A]."""
        return self.z.mean(dim=2)


class Quantile:
    """QR-DQN: the return's quantiles at N fixed fractions, the midpoints (2 i + 1) / 2 N (Dabney et al. 2018a).

    Priority: the mean size of all N x N TD errors, for every representation by quantiles; in units of return, like a
    scalar's TD error. Published agents take their sum over one axis instead (Clark et al. 2025, Beyond the Rainbow),
    N times as much, a factor that proportional sampling does not see.
    """

    def __init__(self, config: QuantileConfig, device: torch.device) -> None:
        self.outputs: tuple[int, ...] = (config.quantiles,)
        self.tau = (torch.arange(config.quantiles, device=device) + 0.5) / config.quantiles
        self._kappa = config.kappa

    def look(self, network: Outputs, obs: Tensor, rng: torch.Generator, ahead: bool = False) -> QuantileLook:
        """See `Value`."""
        return QuantileLook(network(obs))

    def target(self, r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
        """See `Value`."""
        return bellman_target(r_t, discount_t, z_t)

    def error(self, look_tm1: QuantileLook, a_tm1: Tensor, target: Tensor) -> Error:
        """See `Value`."""
        z = chosen(look_tm1.z, a_tm1)
        u = pairwise_errors(z, target)
        loss = quantile_huber(u, self.tau, self._kappa).mean(dim=1)
        return Error(loss, u.detach().abs().mean(dim=(1, 2)), z.detach().mean(dim=1))


def make_value(config: ValueConfig, loss: LossFunction, device: torch.device) -> Value:
    """The representation that `config` means, its constants on `device`; `loss` is a scalar's. Raises `TypeError`."""
    match config:
        case ScalarConfig():
            return Scalar(loss)
        case CategoricalConfig():
            return Categorical(config, device)
        case QuantileConfig():
            return Quantile(config, device)
        case ImplicitConfig():
            return Implicit(config)
        case FqfConfig():
            return Fqf(config)
    raise TypeError(f"no value representation for {type(config).__name__}")
