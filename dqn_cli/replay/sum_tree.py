"""A sum tree: draw one of a million leaves in proportion to its priority, without looking at all of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dqn_cli.replay.frames import Ids

Priorities = NDArray[np.float64]

FAN_OUT = 64  # few levels, so few NumPy calls: 2 would take 20 for a million leaves, 256 adds up more than it saves


def level_sizes(size: int) -> list[int]:
    """Nodes of each level over `size` leaves, from the leaves to the root; all but the root in whole families."""
    sizes: list[int] = []
    nodes = size
    while nodes > 1 or not sizes:
        nodes = -(-nodes // FAN_OUT)
        sizes.append(nodes * FAN_OUT)
    return [*sizes, 1]


def tree_bytes(size: int) -> int:
    """Bytes that a tree over `size` leaves allocates."""
    return sum(level_sizes(size)) * np.dtype(np.float64).itemsize


class SumTree:
    """`size` leaves of priority 0 at first; each node above them is the sum of its children.

    After Schaul et al. 2016, appendix B.2.1. A node is summed anew when a child changes, never adjusted by a
    difference: rounding errors cannot pile up, and the tree is a function of its leaves alone.
    """

    def __init__(self, size: int) -> None:
        self._levels = [np.zeros(nodes) for nodes in level_sizes(size)]  # lazy: pages come with writes
        self._families = [level.reshape(-1, FAN_OUT) for level in self._levels[:-1]]
        self.leaves: Priorities = self._levels[0][:size]

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._levels[-1][0])

    @property
    def nbytes(self) -> int:
        """Bytes allocated, equal to `tree_bytes`. The system hands them out only as they are written."""
        return sum(level.nbytes for level in self._levels)

    def set(self, slots: slice | Ids, priority: Priorities | float) -> None:
        """Give leaves their priorities, finite and 0 or more; where a slot comes twice, its last one counts."""
        self.leaves[slots] = priority
        count = slots.stop - slots.start if isinstance(slots, slice) else len(slots)
        for families, parents in zip(self._families, self._levels[1:], strict=True):
            if len(families) <= count:  # cheaper than to pick out the ones that changed; the others' sums stay
                slots = slice(0, len(families))
            elif isinstance(slots, slice):
                slots = slice(slots.start // FAN_OUT, -(-slots.stop // FAN_OUT))
            else:
                slots = slots // FAN_OUT
            if isinstance(slots, slice):
                np.add.reduce(families[slots], axis=1, out=parents[slots])
            else:
                parents[slots] = np.add.reduce(families.take(slots, axis=0), axis=1)

    def find(self, mass: Priorities) -> Ids:
        """For each mass `[n]`, in [0, total), the slot i with p_0 + .. + p_(i-1) <= mass < p_0 + .. + p_i.

        Never a leaf of priority 0, also where rounding makes a mass as large as a sum. Needs a total above 0.
        """
        lines, node = np.arange(0, len(mass) * FAN_OUT, FAN_OUT), np.zeros(len(mass), np.int64)
        for families in reversed(self._families):
            if len(families) <= len(mass):  # high up there are few: each is added up once
                upto = families.cumsum(axis=1).take(node, axis=0)
            else:
                upto = families.take(node, axis=0).cumsum(axis=1)
            mass = np.minimum(mass, np.nextafter(upto[:, -1], 0.0))
            child = (upto > mass[:, None]).argmax(axis=1)
            mass = mass - upto.take(lines + (child - 1)) * (child > 0)
            node = node * FAN_OUT + child
        return node

    def check_valid(self) -> None:
        """Assert that every node is the sum of its children, to the last bit, and that nothing is beyond the leaves."""
        assert np.isfinite(self.leaves).all(), "a priority is not a number"
        assert (self.leaves >= 0).all(), "a priority is negative"
        assert not self._levels[0][len(self.leaves) :].any(), "a leaf that is none has a priority"
        for families, (_, parents) in zip(self._families, pairwise(self._levels), strict=True):
            sums = families.sum(axis=1)
            assert (parents[: len(sums)] == sums).all(), "a node is not the sum of its children"
            assert not parents[len(sums) :].any(), "a node without children has a priority"
