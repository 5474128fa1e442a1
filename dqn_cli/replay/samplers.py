"""Which rows of the memory are learnt from: all alike, or those with large errors more often.

A row's number grows for ever; it is stored in the slot `row` modulo the capacity. The live rows are a `range`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dqn_cli.errors import NumericalError
from dqn_cli.replay.frames import Ids, ring_slots
from dqn_cli.replay.sum_tree import Priorities, SumTree
from dqn_cli.schedules import Schedule

LARGEST = 1e100  # more than any float32 error to the power 2; a billion of them squared can still be summed


class Draw(NamedTuple):
    """Rows `[B]` and their importance weights `[B]`, the largest of which is 1; None where all are 1."""

    row: Ids
    weight: NDArray[np.float32] | None


class Sampler(Protocol):
    """Draws rows for a memory, which tells it about every row that comes or goes."""

    def allocate(self, capacity: int) -> None:
        """Make room for `capacity` rows and forget everything; the memory does this once."""

    def moved(self, before: range, live: range) -> None:
        """The rows `before` were live, now `live` are: rows came at its end, others went at its beginning."""

    def draw(self, rng: np.random.Generator, live: range, batch_size: int, steps: int) -> Draw:
        """Rows drawn with replacement; `steps` is where schedules stand. Changes nothing but `rng`."""

    def update(self, live: range, row: Ids, error: NDArray[np.floating[Any]]) -> None:
        """Take note of how wrong the predictions `[B]` of these rows were; rows that are gone do not matter."""

    def effective_size(self, live: range) -> float:
        """How many rows, drawn uniformly, would be repeated as often."""

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next draws depend on beside `rng`, as plain arrays (views, not copies)."""

    def load(self, state: Mapping[str, NDArray[Any]], live: range) -> None:
        """Take over a `state_dict` of arrays as large as these. Raises `ValueError` where it is not of these rows."""

    def check_valid(self, live: range) -> None:
        """Assert that exactly the live rows can be drawn."""


class Uniform:
    """Every live row alike (Lin 1992, Mnih et al. 2013)."""

    nbytes = 0

    def allocate(self, capacity: int) -> None:
        """Nothing is kept."""

    def moved(self, before: range, live: range) -> None:
        """Nothing is kept."""

    def draw(self, rng: np.random.Generator, live: range, batch_size: int, steps: int) -> Draw:
        """Rows without weights."""
        return Draw(rng.integers(live.start, live.stop, batch_size), None)

    def update(self, live: range, row: Ids, error: NDArray[np.floating[Any]]) -> None:
        """Errors do not matter here."""

    def effective_size(self, live: range) -> float:
        """All of them."""
        return float(len(live))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Nothing is kept."""
        return {}

    def load(self, state: Mapping[str, NDArray[Any]], live: range) -> None:
        """Nothing is kept."""

    def check_valid(self, live: range) -> None:
        """Nothing can be wrong."""


class Prioritized:
    """Rows in proportion to p = (|error| + eps)^alpha (Schaul et al. 2016, section 3.3, algorithm 1).

    A new row gets the largest p so far, 1 at first, so that each is learnt from soon. What the unequal frequencies
    P(i) = p_i / sum_k p_k do to the expected update is undone by weights (N P(i))^-beta, in full at beta 1; they are
    divided by the largest of the batch (section 3.4).
    """

    def __init__(self, alpha: float, eps: float, beta: Schedule) -> None:
        self._alpha, self._eps, self._beta = alpha, eps, beta
        self.allocate(capacity=1)

    def allocate(self, capacity: int) -> None:
        """Make room for `capacity` priorities and forget everything; the memory does this once."""
        self._capacity, self._tree, self._largest = capacity, SumTree(capacity), 1.0

    def moved(self, before: range, live: range) -> None:
        """Rows that went get priority 0, those that came the largest so far."""
        gone = range(max(before.start, live.stop - self._capacity), min(live.start, before.stop))
        if len(gone):  # and no new row is in their slots yet
            self._tree.set(ring_slots(gone.start, len(gone), self._capacity), 0.0)
        new = range(before.stop, live.stop)
        if len(new):
            self._tree.set(ring_slots(new.start, len(new), self._capacity), self._largest)

    def draw(self, rng: np.random.Generator, live: range, batch_size: int, steps: int) -> Draw:
        """Rows and weights. The sum of all p is cut into `batch_size` equal parts, each gives one (appendix B.2.1)."""
        mass = (np.arange(batch_size) + rng.random(batch_size)) * (self._tree.total / batch_size)
        slot = self._tree.find(mass)
        p = self._tree.leaves[slot]
        weight = (p / p.min()) ** -self._beta(steps)  # N and the sum go out when the largest weight becomes 1
        return Draw(live.start + (slot - live.start) % self._capacity, weight.astype(np.float32))

    def update(self, live: range, row: Ids, error: NDArray[np.floating[Any]]) -> None:
        """Set p where the row is still live. Raises `NumericalError`, before anything changes, for NaN or infinity."""
        p = (np.abs(error, dtype=np.float64) + self._eps) ** self._alpha
        if not (p <= LARGEST).all():  # NaN is not
            raise NumericalError(
                f"diverged: the error of a transition is {error[~(p <= LARGEST)][0]}; "
                "try a smaller optimizer.lr, or optimizer.max_grad_norm=10"
            )
        kept = row >= live.start
        if kept.any():
            p = p[kept]
            self._tree.set(row[kept] % self._capacity, p)
            self._largest = max(self._largest, float(p.max()))

    def effective_size(self, live: range) -> float:
        """(sum p)^2 / sum p^2 (Kish 1965): N where all are equal, 1 where one has everything."""
        squares = float(self._tree.leaves @ self._tree.leaves)
        return self._tree.total**2 / squares if squares else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the tree."""
        return self._tree.nbytes

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The leaves, of which the tree is a function, and the largest p so far."""
        return {"priority.leaves": self._tree.leaves, "priority.largest": np.array(self._largest)}

    def load(self, state: Mapping[str, NDArray[Any]], live: range) -> None:
        """Take over the priorities of the rows `live`. Raises `ValueError`, before anything changes."""
        leaves, largest = state["priority.leaves"], float(state["priority.largest"])
        if fault := self._fault(leaves, largest, live):
            raise ValueError(fault)
        self._tree.set(slice(0, self._capacity), leaves)
        self._largest = largest

    def check_valid(self, live: range) -> None:
        """Assert that the live rows' priorities are above 0, all others 0, and the tree their sums."""
        self._tree.check_valid()
        fault = self._fault(self._tree.leaves, self._largest, live)
        assert fault is None, fault

    def _fault(self, leaves: Priorities, largest: float, live: range) -> str | None:
        is_live = np.zeros(self._capacity, bool)
        is_live[np.arange(live.start, live.stop) % self._capacity] = True
        rules = {
            "the largest priority is out of range": 1 <= largest <= LARGEST,  # NaN is not
            "a priority is above the largest so far, negative or no number": (
                (leaves >= 0) & (leaves <= largest)
            ).all(),
            "a live row can never be drawn": leaves[is_live].all(),
            "a row that is gone can be drawn": not leaves[~is_live].any(),
        }
        return next((fault for fault, kept in rules.items() if not kept), None)
