"""How gradients change the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from dqn_cli.config import (
    AdamConfig,
    FqfConfig,
    OptimizerConfig,
    RmspropConfig,
    RmspropNatureConfig,
    SgdConfig,
    ValueConfig,
)
from dqn_cli.device import on_gpu
from dqn_cli.schedules import Schedule


@dataclass(frozen=True)
class Descent:
    """How gradients become steps: the first optimizer's learning rate follows `lr`, the others keep their own.

    Gradients of the first one's parameters are rescaled together to a norm of at most `max_grad_norm`.
    """

    optimizers: tuple[torch.optim.Optimizer, ...]
    lr: Schedule
    max_grad_norm: float | None = None

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Of the first optimizer."""
        return [w for group in self.optimizers[0].param_groups for w in group["params"]]

    @torch.no_grad()
    def clip(self, whole: Tensor | None = None) -> Tensor | None:
        """Rescale the gradients; their norm before that [], or None where they are left as they are.

        `whole` has all of them side by side, where they lie so.
        """
        most = self.max_grad_norm
        if most is None:
            return None
        pieces = [w.grad for w in self.parameters if w.grad is not None] if whole is None else [whole]
        if pieces[0].device.type != "cpu":
            total: Tensor = clip_grad_norm_(self.parameters, most)
            return total
        # the same to the last bit on a CPU, less 30 us of sorting gradients by device and dtype
        norms = [torch.linalg.vector_norm(g) for g in pieces]
        norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        share = (most / (norm + 1e-6)).clamp_(max=1.0)
        for g in pieces:
            g.mul_(share)
        return norm

    def schedule(self, steps: int) -> None:
        """Set the learning rate, `steps` steps into the run; in place where it is a tensor, for a captured step."""
        lr = self.lr(steps)
        for group in self.optimizers[0].param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def step(self) -> None:
        """Change the weights."""
        for optimizer in self.optimizers:
            optimizer.step()


def make_descent(config: OptimizerConfig, value: ValueConfig, network: nn.Module, lr: Schedule) -> Descent:
    """The optimizers of a network: FQF's proposals have one of their own (Yang et al. 2019, section 4.1)."""
    proposal = [w for name, w in network.named_parameters() if name.startswith("proposal.")]
    apart = {id(w) for w in proposal}
    optimizers = [make_optimizer(config, [w for w in network.parameters() if id(w) not in apart])]
    if isinstance(value, FqfConfig):
        capturable = on_gpu(proposal[0].device)
        optimizers.append(Rmsprop(proposal, lr=value.fraction_lr, alpha=0.95, eps=1e-5, capturable=capturable))
    return Descent(tuple(optimizers), lr, config.max_grad_norm)


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `config` describes, at its initial learning rate; on a GPU a graph can capture its step."""
    parameters = list(parameters)
    capturable = any(on_gpu(w.device) for w in parameters)
    match config:
        case AdamConfig():
            # one kernel for all parameters: a third of the time of the default, on a CPU too
            lr = torch.tensor(config.lr, device=parameters[0].device) if capturable else config.lr
            return FusedAdam(parameters, lr=lr, eps=config.eps, fused=True, capturable=capturable)
        case RmspropConfig():
            return Rmsprop(
                parameters,
                lr=config.lr,
                alpha=config.decay,
                eps=config.eps,
                centered=config.centered,
                momentum=config.momentum,
                capturable=capturable,
            )
        case RmspropNatureConfig():
            return RmspropNature(parameters, lr=config.lr, decay=config.decay, eps=config.eps)
        case SgdConfig():
            return Sgd(parameters, lr=config.lr, momentum=config.momentum)
    raise TypeError(f"no optimizer for {type(config).__name__}")


def quantities(optimizer: torch.optim.Optimizer) -> dict[str, bool]:
    """What an optimizer remembers of each parameter once it has made a step, found out by making one.

    By name, whether it is as large as the parameter (else it is one number).
    """
    w = nn.Parameter(torch.zeros(1))
    w.grad = torch.zeros(1)
    like: Any = type(optimizer)
    elsewhere = {"capturable": False, "lr": 0.0} if optimizer.defaults.get("capturable") else {}  # it is on the CPU
    other = like([w], **{**optimizer.defaults, **elsewhere})
    other.step()
    return {name: value.dim() > 0 for name, value in other.state[w].items() if isinstance(value, torch.Tensor)}


EXTRAS = ("weight_decay", "amsgrad", "maximize")
KERNEL: Callable[..., object] | None = getattr(torch, "_fused_adam_", None)  # a private function: it may go


def _unwrapped(method: Any) -> Any:
    """A method without what torch has put around it."""
    return getattr(method, "__wrapped__", method)


class Lean(torch.optim.Optimizer):
    """torch's optimizers without what it puts around their methods.

    Guards against its compiler import that compiler, for more than a second of every start; a profiler's hook costs
    as much as the step of a small network.
    """

    add_param_group = _unwrapped(torch.optim.Optimizer.add_param_group)
    state_dict = _unwrapped(torch.optim.Optimizer.state_dict)
    load_state_dict = _unwrapped(torch.optim.Optimizer.load_state_dict)
    zero_grad = _unwrapped(torch.optim.Optimizer.zero_grad)

    def __init_subclass__(cls) -> None:
        cls.step.hooked = True  # type: ignore[attr-defined]


class Rmsprop(Lean, torch.optim.RMSprop):
    """`torch.optim.RMSprop`."""

    step = torch.no_grad()(_unwrapped(torch.optim.RMSprop.step))


class Sgd(Lean, torch.optim.SGD):
    """`torch.optim.SGD`."""

    step = torch.no_grad()(_unwrapped(torch.optim.SGD.step))


class FusedAdam(Lean, torch.optim.Adam):
    """`torch.optim.Adam(fused=True)` to the last bit, without what its `step` finds out anew each time.

    That takes longer than the step itself where networks are small. Parameters that are not all of one dtype on a CPU,
    or not all with gradients, are left to torch; so is the first step, which makes the memory.
    """

    _memory: tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        group = self.param_groups[0]
        own = group["params"]
        gradients = [g for w in own if (g := w.grad) is not None]
        if KERNEL is None or self._memory is None or len(gradients) < len(own):
            _unwrapped(torch.optim.Adam.step)(self)
            self._memory = self._remembered()
            return
        counts, steps, m, v = self._memory
        counts.add_(1)
        beta1, beta2 = group["betas"]
        KERNEL(
            own,
            gradients,
            m,
            v,
            [],  # largest squares: of AMSGrad
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._memory = None

    def _remembered(self) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]] | None:
        """The state as the kernel takes it: all counts of steps as one tensor, their views, and the two averages."""
        own = self.param_groups[0]["params"]
        states = [self.state[w] for w in own if self.state[w]]
        kinds = {(w.device.type, w.dtype) for w in own}
        usual = len(self.param_groups) == len(kinds) == 1 and not any(self.defaults[name] for name in EXTRAS)
        if KERNEL is None or len(states) < len(own) or own[0].device.type != "cpu" or not usual:
            return None
        counts = torch.stack([state["step"] for state in states])
        for state, count in zip(states, counts.unbind(), strict=True):
            state["step"] = count
        steps, m, v = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        return counts, steps, m, v


class RmspropNature(Lean):
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
