"""The floor below our own loop: what the environment takes alone, and what the arithmetic of an update must take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gymnasium
import torch

from dqn_cli import build
from dqn_cli.config import AtariConfig, Config, MinatarConfig
from dqn_cli.envs.minatar import make_game

SIDE = 1_024  # of the matrices whose product shows what the cores can do


def update_flops(config: Config) -> int:
    """Of T-DQN's update: a pass for the targets, one with gradients, and back twice as much as such a pass, but for
    the gradient of the first layer's input, which nobody needs. Convolutions without padding, layers in their order.
    """
    with ExitStack() as stack:
        parts = build.make_parts(config, stack)
        shape, modules = parts.envs.spec.obs_shape, [*parts.learner.online.modules()]
    layers = [layer for layer in modules if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    side = shape[1] if parts.envs.spec.stack > 1 else shape[0]  # [stack, side, side], or [side, side, channels]
    products = []
    for layer in layers:
        pixels = 1
        if isinstance(layer, torch.nn.Conv2d):
            side = (side - layer.kernel_size[0]) // layer.stride[0] + 1
            pixels = side**2
        products.append(layer.weight.numel() * pixels)
    return 2 * batch_size(config) * (4 * sum(products) - products[0])


def batch_size(config: Config) -> int:
    """Transitions of an update."""
    return int(getattr(config.replay, "batch_size", 1))


def flops_per_second() -> float:
    """What this process reaches in a product of large float32 matrices, with torch's threads."""
    a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    return 2 * SIDE**3 / least(lambda: torch.mm(a, b))


def least(work: Callable[[], object], times: int = 15) -> float:
    """Seconds that it takes undisturbed."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def env_seconds(config: Config, steps: int = 3_000) -> float:
    """The median of a step of one bare environment, with actions at random."""
    env, taken = bare(config), []
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        begin = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        taken.append(time.perf_counter() - begin)
        if terminated or truncated:
            env.reset()
    env.close()
    return statistics.median(taken)


def bare(config: Config) -> gymnasium.Env[Any, Any]:
    """The environment without a wrapper; an Atari game as gray pictures of its full size, four frames a step."""
    if isinstance(config.env, MinatarConfig):
        return make_game(config.env)
    if isinstance(config.env, AtariConfig):
        import ale_py

        gymnasium.register_envs(ale_py)
        atari = gymnasium.make(config.env.id, obs_type="grayscale", frameskip=config.env.frame_skip)
        return atari.unwrapped
    return gymnasium.make(config.env.id).unwrapped


def text(config: Config) -> tuple[list[str], dict[str, float]]:
    """Lines for the report, and the numbers in them."""
    step, flops, speed = env_seconds(config), update_flops(config), flops_per_second()
    lines = [
        f"floor: the environment alone {step * 1e6:,.1f} us a step; an update's {flops / 1e6:,.1f} MFLOP",
        f"       {flops / speed * 1e6:,.1f} us a call, at the {speed / 1e9:,.0f} GFLOP/s of a product of matrices here",
    ]
    return lines, {"env_us": step * 1e6, "update_flops": flops, "update_us": flops / speed * 1e6}
