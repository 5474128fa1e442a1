"""The emulator itself, played by hand, and what a step of a game should show."""

import copy

import cv2
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms

from dqn_cli.config import AtariConfig, Engine
from dqn_cli.envs.atari import registered_rom
from dqn_cli.envs.lanes import make_lanes


class Console:
    """A game that is started by `start`; `press` presses one button for some frames and looks at each of them."""

    def __init__(self, config: AtariConfig):
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setFloat("repeat_action_probability", config.sticky)
        self.config = config

    def start(self, seed=None):
        if seed is not None:
            self.ale.setInt("random_seed", seed)
            self.ale.loadROM(roms.get_rom_path(registered_rom(self.config.id)))
        self.buttons = self.ale.getLegalActionSet() if self.config.full_actions else self.ale.getMinimalActionSet()
        self.ale.reset_game()
        return self.ale.getScreenGrayscale()

    def press(self, action, frames):
        """The score and the grey screens, as many as `frames` unless the game is over before."""
        score, screens = 0, []
        while len(screens) < frames and not self.ale.game_over():
            score += self.ale.act(self.buttons[action])
            screens.append(self.ale.getScreenGrayscale())
        return score, screens


def shrunk(screen, height=84, width=84):
    return cv2.resize(screen, (width, height), interpolation=cv2.INTER_AREA)


def breakout(engine=Engine.native, **settings):
    return AtariConfig(**{"id": "ALE/Breakout-v5", "engine": engine, "sticky": 0.0, **settings})


def same_seed(lane, episode):
    return 5


def first_episode_only(lane, episode):
    return 7 + lane if episode == 0 else None


def every_episode(lane, episode):
    return 1000 * lane + episode


def make(config, num_envs=1, seed_of=every_episode):
    return make_lanes(config, num_envs, seed_of)


def steps(lanes, actions):
    """The result of each row of actions `[steps, E]`, or `[steps]` for a single lane."""
    for row in actions:
        lanes.send(np.atleast_1d(row))
        yield copy.deepcopy(lanes.recv())  # the arrays are used again


def random_actions(lanes, number, seed=0):
    return np.random.default_rng(seed).integers(lanes.num_actions, size=(number, lanes.num_envs))
