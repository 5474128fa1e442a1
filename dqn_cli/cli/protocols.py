"""How the papers let a trained policy play Atari games, as one table. Needs no torch.

Scores are raw and of whole games under every protocol. What belongs to the network's input (frame skip, stack, picture,
number of actions) stays as it was trained: where a protocol asks for something else, the result says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dqn_cli.config import AtariConfig, Config, EnvConfig
from dqn_cli.errors import ConfigError
from dqn_cli.training.plan import make_epsilon


@dataclass(frozen=True)
class Protocol:
    """Rules of an evaluation.

    epsilon: a number, or where the run's configuration has it; episodes: how many where the user does not say.
    rules: settings of `AtariConfig` that it sets; empty leaves the environment as it was trained.
    asks: settings that it would set, were they not part of what the network was trained on.
    """

    text: str
    epsilon: float | Callable[[Config], float] = 0.0
    episodes: int = 100
    rules: Mapping[str, Any] = field(default_factory=dict)
    asks: Mapping[str, Any] = field(default_factory=dict)


def _last_epsilon(config: Config) -> float:
    epsilon = make_epsilon(config.exploration, config.num_envs)
    if epsilon is None:
        raise ConfigError(
            f"protocol=training needs an epsilon, the run's exploration={config.exploration.name} has none; "
            "write protocol=run or protocol=greedy"
        )
    return epsilon(config.run.total_steps)


# nature: Mnih et al. 2015, https://doi.org/10.1038/nature14236, Methods.
# machado: Machado et al. 2018, https://arxiv.org/abs/1709.06009. Its sticky actions and its 18 actions are in the ALE's
#   documentation too; epsilon, frame limit and number of episodes are from memory. The paper scores the last 100
#   episodes of training, this the policy that came out of it.
# dopamine: github.com/google/dopamine, dqn.gin and atari_lib.py: games of at most 27,000 steps, of 4 frames each.
PROTOCOLS = {
    "run": Protocol(
        "as the run's own evaluations, or with epsilon=",
        epsilon=lambda config: config.run.eval_epsilon,
    ),
    "greedy": Protocol("as trained, epsilon 0"),
    "training": Protocol(
        "as trained, with the epsilon that training ended with",
        epsilon=_last_epsilon,
    ),
    "nature": Protocol(
        "epsilon .05, up to 30 no-ops, not sticky, 5 minutes, 30 episodes (Mnih 2015)",
        epsilon=0.05,
        episodes=30,
        rules={"sticky": 0.0, "noop_max": 30, "fire_reset": False, "max_frames": 18_000},
        asks={"frame_skip": 4, "max_pool": True},
    ),
    "machado": Protocol(
        "epsilon .01, sticky .25, 5 minutes (Machado 2018)",
        epsilon=0.01,
        rules={"sticky": 0.25, "noop_max": 0, "fire_reset": False, "max_frames": 18_000},
        asks={"full_actions": True},
    ),
    "dopamine": Protocol(
        "epsilon .001, sticky .25, 30 minutes",
        epsilon=0.001,
        rules={"sticky": 0.25, "noop_max": 0, "fire_reset": False, "max_frames": 108_000},
        asks={"frame_skip": 4, "max_pool": True},
    ),
}


def epsilon(name: str, config: Config) -> float:
    """The protocol's probability of a random action, for a policy of a run of `config`."""
    own = PROTOCOLS[name].epsilon
    return own(config) if callable(own) else own


def under(name: str, env: EnvConfig) -> EnvConfig:
    """`env` with the protocol's rules. Raises `ConfigError` where it has such rules and `env` is no Atari game."""
    rules = PROTOCOLS[name].rules
    if not rules:
        return env
    if not isinstance(env, AtariConfig):
        raise ConfigError(
            f"protocol={name} has the rules of Atari games, {env.id} was not trained as one; "
            "write protocol=greedy, protocol=training, or neither"
        )
    return replace(env, **rules)


def differences(name: str, env: EnvConfig) -> list[str]:
    """What the protocol asks for and the network was not trained on, a line each."""
    asked = PROTOCOLS[name].asks.items()
    return [
        f"{name} asks for env.{key}={_word(value)}, the network was trained with {_word(getattr(env, key))}"
        for key, value in asked
        if getattr(env, key) != value
    ]


def shown(name: str, env: Mapping[str, Any]) -> str:
    """The protocol's name and, of an Atari game, the rules that it was played by; `env` as plain data."""
    rules = [f"{key}={_word(env[key])}" for key in ("sticky", "noop_max", "fire_reset", "max_frames") if key in env]
    return f"{name} ({', '.join(rules)})" if rules else name


def _word(value: Any) -> str:
    """A value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
