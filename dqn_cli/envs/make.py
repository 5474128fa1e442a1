"""One environment of Gymnasium's registry, from its configuration, with every mistake told in one line."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Discrete, Space

from dqn_cli.config import GymConfig
from dqn_cli.envs.spaces import action_range, observer, texts
from dqn_cli.errors import ConfigError, EnvironmentFault
from dqn_cli.types import ObsSpec

DEFAULT_TIME_LIMIT_STEPS = 10_000

# words of Gymnasium's message, and our extra that brings what it misses; box2d first, it brings pygame as well
_EXTRAS = {"box2d": "box2d", "pygame": "render", "minatar": "minatar"}


SeedOf = Callable[[int, int], int | None]  # (lane, episode) -> seed of that episode, None to go on without


@dataclass(frozen=True, slots=True)
class EnvFacts:
    """What the rest of a run must know of its environment; `discrete`: one of finitely many states is observed."""

    spec: ObsSpec
    num_actions: int
    discrete: bool
    time_limit_steps: int
    notices: list[str]
    frame_skip: int | None = None  # emulator frames per step, of an Atari game


def describe_gym(config: GymConfig) -> EnvFacts:
    """Make one environment, look at it, close it. Raises `ConfigError` where an agent could not use it."""
    env = make_env(config)
    try:
        space = env.observation_space
        spec, _ = observer(config.id, space, config.frame_stack)
        num_actions, _ = action_range(config.id, env.action_space)
    finally:
        with suppress(Exception):  # what was seen counts
            env.close()
    limit, notices = _time_limit(config, _registered(config))
    if left_out := texts(space):
        notices.append(f"{config.id} observes text, which is left out: {', '.join(left_out)}")
    if config.id.startswith("ALE/"):
        game = config.id.removeprefix("ALE/").rpartition("-v")[0]
        notices.append(f"{config.id} is played as it is registered; env={game} shows it as the papers do")
    return EnvFacts(spec, num_actions, isinstance(space, Discrete), limit, notices)


def make_env(config: GymConfig, render: str | None = None) -> gymnasium.Env[Any, Any]:
    """The environment behind `config`, always with a time limit.

    Raises `ConfigError` for an unknown id, module or argument and for a missing extra, `EnvironmentFault` where the
    environment's own constructor raises.
    """
    registered = _registered(config)
    limit, _ = _time_limit(config, registered)
    try:
        _check_arguments(config, registered, render)
        kwargs = {**config.kwargs, "render_mode": render} if render else config.kwargs
        env = gymnasium.make(registered, max_episode_steps=limit, disable_env_checker=True, **kwargs)
    except ConfigError:
        raise
    except (DependencyNotInstalled, ImportError) as error:
        raise missing_dependency(config.id, error) from error
    except Exception as error:
        if config.kwargs:
            raise ConfigError(f"env.kwargs={config.kwargs}: {config.id} refuses them, {one_line(error)}") from error
        raise EnvironmentFault(f"env {config.id}: its constructor raised {one_line(error)}") from error
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), Space):
            raise EnvironmentFault(f"env {config.id}: its {name} is missing or not a space of Gymnasium's")
    return env


def missing_dependency(env_id: str, error: Exception) -> ConfigError:
    """The remedy for a package that `env_id` needs and that is not there."""
    extra = next((extra for word, extra in _EXTRAS.items() if word in str(error).lower()), None)
    remedy = f"pip install 'dqn-cli[{extra}]'" if extra else "install it"
    return ConfigError(f"env.id={env_id} needs a package that is missing ({one_line(error)}); {remedy}")


def one_line(error: Exception) -> str:
    """An exception's class and message, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _registered(config: GymConfig) -> EnvSpec:
    """The registry's entry for the configured id. Nothing but the module that the user named is imported for it."""
    if ":" in config.id:
        module, _, name = config.id.partition(":")
        raise ConfigError(f"env.id={config.id} names a module; write env.id={name} env.module={module}")
    if config.module is not None:
        _import(config.module)
    elif config.id.startswith("ALE/"):
        _import("ale_py")
    entry = gymnasium.registry.get(config.id)
    if entry is None:
        raise ConfigError(f"env.id={config.id} is not registered; {_advice(config.id)}")
    return entry


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"env.module={module} cannot be imported ({one_line(error)}); "
            "install it, or name its folder in the environment variable PYTHONPATH"
        ) from error


def _advice(env_id: str) -> str:
    name = re.sub(r"-v\d+$", "", env_id)
    if name.startswith("MinAtar/"):
        return f"write env={name.replace('MinAtar', 'minatar')}"
    versions = sorted(other for other in gymnasium.registry if re.fullmatch(re.escape(name) + r"-v\d+", other))
    if versions:
        return f"write env.id={' or '.join(versions)}"
    close = get_close_matches(env_id, gymnasium.registry, n=1)
    return f"did you mean {close[0]}?" if close else "env.module=... names the Python module that registers it"


def _time_limit(config: GymConfig, registered: EnvSpec) -> tuple[int, list[str]]:
    for limit in (config.time_limit_steps, registered.max_episode_steps):
        if limit is not None:
            return limit, []
    notice = (
        f"{config.id} has no time limit: episodes are truncated after {DEFAULT_TIME_LIMIT_STEPS} steps "
        "(env.time_limit_steps)"
    )
    return DEFAULT_TIME_LIMIT_STEPS, [notice]


def _check_arguments(config: GymConfig, registered: EnvSpec, render: str | None) -> None:
    if "render_mode" in config.kwargs:
        shown = config.kwargs["render_mode"]
        raise ConfigError(f"env.kwargs.render_mode={shown} is not possible; write dqn-eval with render=human or video=")
    entry = registered.entry_point
    constructor: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    _check_render(config, getattr(constructor, "metadata", None), render)
    parameters = inspect.signature(constructor).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in config.kwargs:
        if name not in parameters:
            raise ConfigError(
                f"env.kwargs.{name}={config.kwargs[name]}: {config.id} has no such argument; "
                f"it takes {', '.join(parameters) or 'none'}"
            )
    if render and "render_mode" not in parameters:
        raise ConfigError(f"render={render}: {config.id} has no argument render_mode, it cannot be shown")


def _check_render(config: GymConfig, metadata: Any, render: str | None) -> None:
    if render is None or not isinstance(metadata, dict):  # a function or a wrapper does not say
        return
    modes = metadata.get("render_modes") or []
    if render not in modes and "rgb_array" not in modes:  # from pictures Gymnasium makes a window
        raise ConfigError(f"render={render}: {config.id} cannot be shown so, its render_modes are {modes or 'none'}")
