"""MinAtar's games (Young & Tian 2019, arxiv.org/abs/1903.03176) as a Gymnasium environment.

The rules are those of the package's game files, and nothing else of it is imported: its `__init__` brings pandas,
seaborn and a window along, which takes two seconds. Sticky actions are drawn where its own `Environment` draws them.
"""

from __future__ import annotations

import colorsys
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import HumanRendering
from numpy.typing import NDArray

from dqn_cli.config import MinatarConfig
from dqn_cli.envs.make import EnvFacts, missing_dependency
from dqn_cli.errors import ConfigError
from dqn_cli.types import ObsSpec

Frame = NDArray[np.bool_]
Picture = NDArray[np.uint8]

GAMES = {  # by env.id, the files of the package
    "MinAtar/Asterix": "asterix",
    "MinAtar/Breakout": "breakout",
    "MinAtar/Freeway": "freeway",
    "MinAtar/Seaquest": "seaquest",
    "MinAtar/SpaceInvaders": "space_invaders",
}
ACTIONS = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}  # its names, and Atari's
CELL = 42  # pixels of a cell's side in a picture


def describe_minatar(config: MinatarConfig) -> EnvFacts:
    """What the rest of a run must know of a game. Raises `ConfigError` for an unknown one, and without the package."""
    game = MinatarGame(config)
    spec = ObsSpec(game.frame_shape, "bool", config.frame_stack)
    return EnvFacts(spec, len(game.actions), False, config.time_limit_steps, [])


def make_game(config: MinatarConfig, render: str | None = None) -> gymnasium.Env[Any, Any]:
    """The game; with `render="human"` in a window, with "rgb_array" it gives pictures. Raises as `describe_minatar`."""
    game = MinatarGame(config, "rgb_array" if render else None)
    return HumanRendering(game) if render == "human" else game


class MinatarGame(gymnasium.Env[Any, Any]):
    """One game, seen as `config` says: observations `[10, 10, C]` bool, a channel for each kind of object.

    From the same seed and actions an episode is always the same, whatever was played before.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012  # 50 ms, as its own window

    def __init__(self, config: MinatarConfig, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._game = _rules(config.id).Env(ramping=config.ramping)
        self._sticky, self._limit_steps = config.sticky, config.time_limit_steps
        every = range(len(self._game.action_map))
        self.actions = list(every if config.full_actions else self._game.minimal_action_set())
        self.frame_shape: tuple[int, ...] = tuple(self._game.state_shape())
        self.observation_space = Box(0, 1, self.frame_shape, bool)
        self.action_space = Discrete(len(self.actions))
        self._colors = _colors(len(self._game.channels))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Begin a game. A seed starts the random numbers anew, those of the sticky actions too."""
        if seed is not None:
            self._game.random = np.random.RandomState(seed)  # what the games draw from
        self._game.reset()
        self._last_action, self._length = 0, 0
        return self._game.state(), {}

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Take the action, or with probability `env.sticky` the one that was taken last (at the start: none)."""
        if self._game.random.rand() >= self._sticky:
            self._last_action = self.actions[action]
        reward, over = self._game.act(self._last_action)
        self._length += 1
        truncated = not over and self._length >= self._limit_steps
        return self._game.state(), float(reward), bool(over), truncated, {}

    def render(self) -> Picture:
        """The board `[420, 420, 3]`: of several objects in a cell the one whose channel comes first."""
        state = self._game.state()
        kind = np.where(state.any(-1), 1 + state.argmax(-1), 0)
        return self._colors[kind].repeat(CELL, 0).repeat(CELL, 1)

    def get_action_meanings(self) -> list[str]:
        """What the actions do, in Atari's words."""
        return [ACTIONS[self._game.action_map[action]] for action in self.actions]


@cache
def _rules(env_id: str) -> ModuleType:
    """The file of a game, as a module of its own."""
    if env_id not in GAMES:
        raise ConfigError(f"env.id={env_id} is not a game of MinAtar; write one of {', '.join(GAMES)}")
    package = find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise missing_dependency(env_id, ModuleNotFoundError("No module named 'minatar'"))
    file = Path(package.submodule_search_locations[0], "environments", f"{GAMES[env_id]}.py")
    spec = spec_from_file_location(f"minatar_{GAMES[env_id]}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _colors(channels: int) -> Picture:
    """A color `[1 + channels, 3]` for nothing, black, and for each channel, evenly around the color circle."""
    circle = [colorsys.hsv_to_rgb(i / channels, 0.7, 0.95) for i in range(channels)]
    return (255 * np.asarray([(0.0, 0.0, 0.0), *circle])).astype(np.uint8)
