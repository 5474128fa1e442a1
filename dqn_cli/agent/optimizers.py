"""How gradients change the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dqn_cli.config import AdamConfig, OptimizerConfig, RmspropConfig, RmspropNatureConfig, SgdConfig


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `config` describes, at its initial learning rate."""
    match config:
        case AdamConfig():
            # one kernel for all parameters: a third of the time of the default, on a CPU too
            return torch.optim.Adam(parameters, lr=config.lr, eps=config.eps, fused=True)
        case RmspropConfig():
            return torch.optim.RMSprop(
                parameters, lr=config.lr, alpha=config.decay, eps=config.eps, centered=config.centered
            )
        case RmspropNatureConfig():
            return RmspropNature(parameters, lr=config.lr, decay=config.decay, eps=config.eps)
        case SgdConfig():
            return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)
    raise TypeError(f"no optimizer for {type(config).__name__}")


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
