"""What goes on inside a run, looked at when a row of `metrics.csv` is due. Looking changes nothing.

Which transitions are looked at follows from the seed and the step alone, not from how often somebody has looked
before: a run trains to the same bytes whatever `run.log_every_steps` is, and there is no stream to be saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from dqn_cli import seeding
from dqn_cli.algorithm.losses import Error
from dqn_cli.algorithm.values import Look
from dqn_cli.device import generator, to_device
from dqn_cli.networks.layers import ACTIVATIONS
from dqn_cli.seeding import Purpose
from dqn_cli.types import Batch

TRANSITIONS = 256  # that are looked at
DORMANT_TAU = 0.025
TINY = 1e-12


class Inspected(Protocol):
    """A learner that can be looked at; `target` is None where it does without."""

    @property
    def online(self) -> nn.Module:
        """The network that learns."""

    @property
    def target(self) -> nn.Module | None:
        """Its delayed copy."""

    def look(self, obs: Tensor, rng: torch.Generator) -> Look:
        """What the online network says about obs `[B, *obs_shape]`, without noise."""

    def error(self, look: Look, batch: Batch, rng: torch.Generator) -> Error:
        """How wrong that is for `batch`, by targets without noise."""


class Remembers(Protocol):
    """A memory that can be looked at."""

    def __len__(self) -> int:
        """Rows that can be drawn."""

    def peek(self, batch_size: int, rng: np.random.Generator, steps: int) -> Batch:
        """Transitions drawn as those to learn from are, but with `rng`."""

    def age(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many steps ago rows `[B]` were stored."""

    def effective_size(self) -> float:
        """(sum p)^2 / sum p^2 over the rows' priorities p."""


class Diagnostics:
    """Numbers about learner and memory, as columns of `metrics.csv`; `seed` is the run's."""

    def __init__(self, learner: Inspected, memory: Remembers, seed: int) -> None:
        self._learner = learner
        self._memory = memory
        self._seed = seed
        self._device = next(learner.online.parameters()).device
        self.distance: float | None = None  # as it was measured last

    @torch.no_grad()
    def row(self, steps: int) -> dict[str, float]:
        """Those that apply, by the names of `Metric`, `steps` steps into a run that has made an update."""
        stream = seeding.generator(self._seed, Purpose.DIAGNOSTICS, steps)
        rng = generator(seeding.integer(self._seed, Purpose.DIAGNOSTICS, steps), self._device)
        drawn = self._memory.peek(TRANSITIONS, stream, steps)
        batch = to_device(drawn, self._device)
        with Activations() as activations:
            look = self._learner.look(batch.obs, rng)
            q_max = look.q.amax(dim=1)
        error = self._learner.error(look, batch, rng).priority
        low, median, high = error.quantile(error.new_tensor((0.1, 0.5, 0.9))).tolist()
        found = {"q_max": float(q_max.mean()), "td_error_p10": low, "td_error_p50": median, "td_error_p90": high}
        if self.distance is not None:
            found["target_distance"] = self.distance
        if activations.magnitudes:
            found["dormant"] = dormant_share(activations.magnitudes)
        if drawn.weight is not None:
            found["priority_ess"] = self._memory.effective_size() / len(self._memory)
        assert drawn.row is not None
        return {**found, "sample_age": float(self._memory.age(drawn.row).mean())}

    @torch.no_grad()
    def measure_distance(self) -> None:
        """Look at how far the target network is behind, a step before a row: it is often moved at the row's own."""
        if self._learner.target is not None:
            self.distance = relative_distance(self._learner.online, self._learner.target)


class Activations(TorchFunctionMode):
    """While this context is entered: the mean magnitude of every hidden unit, per layer that is passed through.

    A unit of a convolution is a channel. Networks need not know that they are watched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.magnitudes: list[Tensor] = []  # [units] each

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS.values():
            others = (0, 2, 3) if result.dim() == 4 else tuple(range(result.dim() - 1))
            self.magnitudes.append(result.abs().mean(others))
        return result


def dormant_share(magnitudes: Iterable[Tensor]) -> float:
    """Share of all units whose mean magnitude is at most .025 of their layer's mean (Sokar et al. 2023, eq. 1)."""
    return float(torch.cat([unit <= DORMANT_TAU * unit.mean() for unit in magnitudes]).float().mean())


def relative_distance(online: nn.Module, target: nn.Module) -> float:
    """L2 norm of online - target over all weights, relative to that of online."""
    own = list(online.parameters())
    apart = [w - old for w, old in zip(own, target.parameters(), strict=True)]
    return float(get_total_norm(apart) / get_total_norm(own).clamp(min=TINY))
