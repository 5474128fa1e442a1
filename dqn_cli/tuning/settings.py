"""The settings of `dqn-tune`, with their ranges and meanings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dqn_cli.config import knob


class Pruner(StrEnum):
    """When a trial is stopped early."""

    median = "median"
    halving = "halving"
    none = "none"


@dataclass
class TuneConfig:
    """A search for settings (`dqn-tune`)."""

    trials: int = knob(50, "trials in all, pruned and failed ones counted", ge=1, le=100_000)
    jobs: int = knob(1, "processes on this machine", ge=1, le=1_024)
    seeds: int = knob(1, "runs of a trial: seed, seed + 1 ...; their mean counts", ge=1, le=1_000)
    pruner: Pruner = knob(
        Pruner.median,
        "median: stop a trial below the others' median, after a quarter of its run; "
        "halving: keep the best third, with three times the steps each time; none",
    )
    startup: int = knob(10, "trials drawn at random before the sampler learns and the median counts", ge=1, le=100_000)
    seed: int = knob(0, "of the sampler", ge=0, le=2**63 - 1)
    dir: str | None = knob(None, "the study's folder; null: runs/tune/<env>_<method>_<search>")
