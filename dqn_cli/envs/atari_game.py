"""An Atari game as a Gymnasium environment: the emulator frame by frame, OpenCV for the picture.

It plays what `AtariLanes` plays, more slowly, and can be watched. From the same seeds and actions both make the same
frames, rewards and ends, found by running ale-py 0.12.1: sticky actions are drawn by the emulator, no-ops as ale-py's
Linux wheels draw them (C++ leaves that to the compiler's library, so that elsewhere their number may differ), and the
frame in which a game ends is left out, as there. OpenCV's rounding belongs to its version: 4.10 and 5.0 agree.
"""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium
import numpy as np
from ale_py import Action, ALEInterface, LoggerMode
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from dqn_cli.config import AtariConfig, LifeLoss
from dqn_cli.envs.atari import limit_steps, rom_path, screen_of
from dqn_cli.envs.vector import TERMINAL

Picture = NDArray[np.uint8]


class AtariGame(gymnasium.Env[Any, Any]):
    """One game, seen as `config` says: observations `[height, width]` or `[height, width, 3]` uint8, raw rewards.

    A lost life terminates the episode with `env.life_loss=reset`, and is `info[TERMINAL]` with `terminal`. With
    `render="rgb_array"` every frame of the emulator is kept for `render()`, with "human" it is shown in a window.
    Raises `ConfigError` for an unknown game or an impossible screen.
    """

    metadata = {"render_modes": ["human", "rgb_array_list"], "render_fps": 60}  # noqa: RUF012

    def __init__(self, config: AtariConfig, render: str | None = None) -> None:
        self.render_mode = "rgb_array_list" if render == "rgb_array" else render
        self._config, self._screen = config, screen_of(config)
        self._rom = rom_path(config.id)
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale = ALEInterface()
        self._ale.setFloat("repeat_action_probability", config.sticky)
        self._ale.setBool("display_screen", render == "human")
        self._ale.loadROM(self._rom)
        self._actions = self._ale.getLegalActionSet() if config.full_actions else self._ale.getMinimalActionSet()
        self._limit_steps = limit_steps(config)
        self._noops = np.random.default_rng()
        self._pictures: list[Picture] = []
        # the last frame and the one before; the brightest of both is left in the first, as ale-py does
        self._recent = np.zeros((2, *self._ale.getScreenDims(), *(3,) * config.color), np.uint8)
        self.observation_space = Box(0, 255, self._screen.frame_shape, np.uint8)
        self.action_space = Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """Begin a game: FIRE and no-ops as configured, FIRE being one of them. A seed starts both generators anew."""
        if seed is not None:
            self._ale.setInt("random_seed", seed)
            self._ale.loadROM(self._rom)  # the seed counts from here on
            self._noops = _mersenne_twister(seed)
        self._ale.reset_game()
        self._keep_picture()
        noops = int(self._noops.integers(self._config.noop_max + 1, dtype=np.uint32))
        if self._config.fire_reset and Action.FIRE in self._actions:
            self._act(Action.FIRE)
            noops -= 1
        for _ in range(noops):
            self._act(Action.NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        self._length, self._lives = 0, self._ale.lives()
        self._recent[1] = 0
        self._look(0)
        return self._frame(), {}

    def step(self, action: int) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """Take the action for `env.frame_skip` frames, or until the game is over."""
        reward, over = 0, False
        for to_go in reversed(range(self._config.frame_skip)):
            reward += self._act(self._actions[action])
            over = self._ale.game_over()
            if over:
                break
            if to_go < 2:
                self._look(to_go)
        lost, self._lives = self._ale.lives() < self._lives, self._ale.lives()
        self._length += 1
        terminated = over or (lost and self._config.life_loss is LifeLoss.reset)
        truncated = not terminated and self._length >= self._limit_steps
        terminal = lost and self._config.life_loss is LifeLoss.terminal
        return self._frame(), float(reward), terminated, truncated, {TERMINAL: terminal}

    def render(self) -> list[Picture]:  # type: ignore[override]  # the base class has the type of one picture free
        """The emulator's frames since the last call, in colors, as large as the game draws them."""
        pictures, self._pictures = self._pictures, []
        return pictures

    def get_action_meanings(self) -> list[str]:
        """What the joystick does, by action."""
        return [action.name for action in self._actions]

    def _act(self, action: Action) -> int:
        reward = self._ale.act(action)
        self._keep_picture()
        return int(reward)

    def _keep_picture(self) -> None:
        if self.render_mode == "rgb_array_list":
            self._pictures.append(self._ale.getScreenRGB())

    def _look(self, age: int) -> None:
        look = self._ale.getScreenRGB if self._config.color else self._ale.getScreenGrayscale
        look(self._recent[age])

    def _frame(self) -> Picture:
        frame = self._recent[0]
        if self._config.max_pool:
            np.maximum(frame, self._recent[1], out=frame)
        screen = self._screen
        scaled = cv2.resize(frame, (screen.width, screen.height), interpolation=cv2.INTER_AREA)
        return np.array(scaled[screen.rows, screen.columns], np.uint8)


def _mersenne_twister(seed: int) -> np.random.Generator:
    """C++'s std::mt19937, which ale-py's vector engine draws from."""
    bits = np.random.MT19937()
    bits.state = np.random.RandomState(seed).get_state(legacy=False)  # type: ignore[assignment]  # a wider type
    return np.random.Generator(bits)
