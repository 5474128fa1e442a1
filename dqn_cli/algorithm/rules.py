"""The variants of deep Q-learning: which network selects the next action, and which one evaluates it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Network(StrEnum):
    """The network that learns, and its delayed copy."""

    ONLINE = "online"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class BootstrapRule:
    """y = r + d Q_evaluate(s', argmax_a Q_select(s', a))."""

    select: Network
    evaluate: Network

    @property
    def needs_target(self) -> bool:
        """Whether there is a target network at all."""
        return Network.TARGET in (self.select, self.evaluate)


RULES: dict[str, BootstrapRule] = {
    "vdqn": BootstrapRule(select=Network.ONLINE, evaluate=Network.ONLINE),  # Mnih et al. 2013
    "tdqn": BootstrapRule(select=Network.TARGET, evaluate=Network.TARGET),  # Mnih et al. 2015
    "ddqn": BootstrapRule(select=Network.ONLINE, evaluate=Network.TARGET),  # van Hasselt et al. 2016
    "qlearning": BootstrapRule(select=Network.ONLINE, evaluate=Network.ONLINE),  # Watkins 1989
}
