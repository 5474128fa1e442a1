"""How gradients change the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dqn_cli.config import (
    AdamConfig,
    FqfConfig,
    OptimizerConfig,
    RmspropConfig,
    RmspropNatureConfig,
    SgdConfig,
    ValueConfig,
)
from dqn_cli.schedules import Schedule


@dataclass(frozen=True)
class Descent:
    """How gradients become steps: the first optimizer's learning rate follows `lr`, the others keep their own.

    Gradients of the first one's parameters are rescaled together to a norm of at most `max_grad_norm`.
    """

    optimizers: tuple[torch.optim.Optimizer, ...]
    lr: Schedule
    max_grad_norm: float | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of the first optimizer."""
        return [w for group in self.optimizers[0].param_groups for w in group["params"]]

    def step(self, steps: int) -> None:
        """Change the weights, as of `steps` steps into the run."""
        for group in self.optimizers[0].param_groups:
            group["lr"] = self.lr(steps)
        for optimizer in self.optimizers:
            optimizer.step()


def make_descent(config: OptimizerConfig, value: ValueConfig, network: nn.Module, lr: Schedule) -> Descent:
    """The optimizers of a network: FQF's proposals have one of their own (Yang et al. 2019, section 4.1)."""
    proposal = [w for name, w in network.named_parameters() if name.startswith("proposal.")]
    apart = {id(w) for w in proposal}
    optimizers = [make_optimizer(config, [w for w in network.parameters() if id(w) not in apart])]
    if isinstance(value, FqfConfig):
        optimizers.append(torch.optim.RMSprop(proposal, lr=value.fraction_lr, alpha=0.95, eps=1e-5))
    return Descent(tuple(optimizers), lr, config.max_grad_norm)


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `config` describes, at its initial learning rate."""
    match config:
        case AdamConfig():
            # one kernel for all parameters: a third of the time of the default, on a CPU too
            return torch.optim.Adam(parameters, lr=config.lr, eps=config.eps, fused=True)
        case RmspropConfig():
            return torch.optim.RMSprop(
                parameters,
                lr=config.lr,
                alpha=config.decay,
                eps=config.eps,
                centered=config.centered,
                momentum=config.momentum,
            )
        case RmspropNatureConfig():
            return RmspropNature(parameters, lr=config.lr, decay=config.decay, eps=config.eps)
        case SgdConfig():
            return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)
    raise TypeError(f"no optimizer for {type(config).__name__}")


def quantities(optimizer: torch.optim.Optimizer) -> dict[str, bool]:
    """What an optimizer remembers of each parameter once it has made a step, found out by making one.

    By name, whether it is as large as the parameter (else it is one number).
    """
    w = nn.Parameter(torch.zeros(1))
    w.grad = torch.zeros(1)
    like: Any = type(optimizer)
    other = like([w], **optimizer.defaults)
    other.step()
    return {name: value.dim() > 0 for name, value in other.state[w].items() if isinstance(value, torch.Tensor)}


class RmspropNature(torch.optim.Optimizer):
    """RMSProp of DQN (Mnih et al. 2015; Graves 2013, eq. 38-40): centred, epsilon inside the root.

    m <- decay m + (1 - decay) g,  v <- decay v + (1 - decay) g^2,  w <- w - lr g / sqrt(v - m^2 + eps).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, decay: float, eps: float) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "eps": eps})
        for group in self.param_groups:
            for w in group["params"]:
                self.state[w] = {"grad_avg": torch.zeros_like(w), "square_avg": torch.zeros_like(w)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            decay, eps, lr = group["decay"], group["eps"], group["lr"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                m, v = self.state[w]["grad_avg"], self.state[w]["square_avg"]
                m.lerp_(w.grad, 1 - decay)
                v.mul_(decay).addcmul_(w.grad, w.grad, value=1 - decay)
                # rounding can push the variance of a constant gradient below 0
                variance = v.addcmul(m, m, value=-1).clamp_(min=0)
                w.addcdiv_(w.grad, variance.add_(eps).sqrt_(), value=-lr)
