"""The best trial as a preset: a file of conf/experiment, whole in itself, that `--config-dir` finds."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from dqn_cli.cli.composition import read
from dqn_cli.cli.tune_trials import OWN, Plan, composed
from dqn_cli.config import CHOICES
from dqn_cli.validate import plain

GROUPS = ("family", *CHOICES)


def preset(plan: Plan, values: Mapping[str, Any], which: str, value: float) -> str:
    """The file's text: the choices of every group, and all settings that these alone would not give.

    `composed` must be possible.
    """
    job = composed(*plan.words_of(values))
    chosen = {group: str(job.hydra.runtime.choices[group]) for group in GROUPS}
    bare = composed(*(f"{group}={choice}" for group, choice in chosen.items()))
    different = _different(plain(read(job)), plain(read(bare)))
    settings = {key: item for key, item in different.items() if key not in OWN}
    overrides = [f"  - override /{group}: {choice}" for group, choice in chosen.items()]
    body = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=116) if settings else ""
    head = [f"# {line}" for line in _head(plan, f"{which}, return {value:.6g}")]
    return "\n".join(["# @package _global_", *head, "defaults:", *overrides, "  - _self_", body])


def _head(plan: Plan, found: str) -> list[str]:
    """Where the file comes from."""
    last = plan.seed + plan.settings.seeds - 1
    seeds = f"seed {plan.seed}" if last == plan.seed else f"seeds {plan.seed} to {last}"
    texts = [
        f"Found by {shlex.join(plan.command)}",
        f"{found} ({seeds}); the best of many trials is too good on average: hold it against other seeds.",
    ]
    return [line for text in texts for line in textwrap.wrap(text, 116, break_on_hyphens=False, break_long_words=False)]


def _different(now: Mapping[str, Any], bare: Mapping[str, Any]) -> dict[str, Any]:
    """What is not the same, in its sections."""
    found: dict[str, Any] = {}
    for key, value in now.items():
        if isinstance(value, Mapping) and isinstance(bare.get(key), Mapping):
            if inner := _different(value, bare[key]):
                found[key] = inner
        elif key not in bare or bare[key] != value:
            found[key] = value
    return found
