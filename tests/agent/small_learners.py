"""Learners small enough to be asked hundreds of times, with any switch turned on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dqn_cli.agent.gradient import Method
from dqn_cli.agent.learner import Learner
from dqn_cli.agent.optimizers import make_descent
from dqn_cli.algorithm.losses import LOSSES
from dqn_cli.algorithm.munchausen import Munchausen
from dqn_cli.algorithm.rules import RULES
from dqn_cli.algorithm.values import make_value
from dqn_cli.config import (
    AdamConfig,
    CategoricalConfig,
    FqfConfig,
    ImplicitConfig,
    LayeredConfig,
    MlpConfig,
    OptimizerConfig,
    QuantileConfig,
    ScalarConfig,
    ValueConfig,
)
from dqn_cli.networks.make import make_network
from dqn_cli.schedules import Schedule, constant
from dqn_cli.types import Batch, ObsSpec

CPU = torch.device("cpu")
SPEC = ObsSpec((4,), "float32")
ACTIONS = 3
BATCH = 8
DEEP = ["vdqn", "tdqn", "ddqn"]
VALUES: dict[str, ValueConfig] = {
    "scalar": ScalarConfig(),
    "categorical": CategoricalConfig(atoms=7, v_min=-3, v_max=3),
    "quantile": QuantileConfig(quantiles=5),
    "implicit": ImplicitConfig(quantiles=6, target_quantiles=5, acting_quantiles=4, embedding=8),
    "fqf": FqfConfig(quantiles=4, embedding=8, fraction_lr=1e-3),
}
MUNCHAUSEN = Munchausen(alpha=0.9, tau=0.3, clip=-1.0)


def noisy() -> MlpConfig:
    return MlpConfig(hidden=[8, 6], noisy=True)


def make(
    variant: str = "ddqn",
    value: str = "scalar",
    *,
    network: LayeredConfig | None = None,
    spec: ObsSpec = SPEC,
    optimizer: OptimizerConfig | None = None,
    lr: Schedule | None = None,
    loss: str = "huber",
    munchausen: Munchausen | None = None,
    tau: float = 1.0,
    seed: int = 0,
    rng: torch.Generator | None = None,
    fast: bool = True,
    device: torch.device = CPU,
) -> Learner:
    """A learner whose weights follow from `seed`; so does what it draws, unless `rng` is given."""
    torch.manual_seed(seed)
    config, optimizer = VALUES[value], optimizer or AdamConfig(lr=3e-3)
    online = make_network(network or MlpConfig(hidden=[8, 6]), config, spec, ACTIONS).to(device)
    return Learner(
        online,
        Method(RULES[variant], make_value(config, LOSSES[loss], device), munchausen),
        make_descent(optimizer, config, online, lr or constant(optimizer.lr)),
        rng or seeded(seed),
        tau,
        fast,
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(seed: int, size: int = BATCH, discount: float = 0.9, spec: ObsSpec = SPEC) -> Batch:
    g = seeded(seed)

    def observations() -> Tensor:
        if spec.dtype == "uint8":
            return torch.randint(0, 256, (size, *spec.obs_shape), dtype=torch.uint8, generator=g)
        return torch.randn(size, *spec.obs_shape, generator=g)

    return Batch(
        observations(),
        torch.randint(0, ACTIONS, (size,), generator=g),
        torch.randn(size, generator=g),
        torch.full((size,), discount),
        observations(),
    )


def flat(network: nn.Module) -> Tensor:
    return torch.cat([w.detach().flatten() for w in network.parameters()])


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: w.grad.clone() for name, w in network.named_parameters() if w.grad is not None}


def state_of(learner: Learner) -> dict[str, bytes]:
    """Every bit that a learner has learnt."""
    model, optimizers = learner.model_state(), learner.optimizer_state()
    tensors = {**model, **{f"optimizer.{name}": w for name, w in optimizers.items()}}
    return {name: w.detach().numpy().tobytes() for name, w in tensors.items()}
