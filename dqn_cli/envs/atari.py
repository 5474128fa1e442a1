"""Atari games on ale-py's own vector engine: C++ threads that step while the learner learns.

What it is told and what is left to this file was found by running it (0.12.1). Its own frame limit returns a stale last
frame, its `episodic_life` restarts the game, its reward clipping loses the score, and an action that does not exist
blocks it for ever; so games are cut, lives are watched, and actions are checked here.

It does not look at the frame in which a game ends, and pools what it saw before: the last frame of a game that is over
is stale. Nothing is bootstrapped from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from dqn_cli.config import AtariConfig, LifeLoss, Preprocess
from dqn_cli.cores import usable_cores
from dqn_cli.envs.make import EnvFacts, SeedOf
from dqn_cli.envs.spaces import checked_actions
from dqn_cli.errors import ConfigError
from dqn_cli.types import EpisodeStats, ObsSpec, StepResult

KEEP_SEED = -1  # ale-py: the lane's generator goes on
MAX_SEED = 2**31 - 1
OUT_OF_REACH = 2**31 - 2  # frames; ale-py adds one
FULL_ACTIONS = 18

# resize [height, width] and crop [top, left, height, width]
PIPELINES: dict[Preprocess, tuple[list[int], list[int] | None]] = {
    Preprocess.nature: ([84, 84], None),
    Preprocess.nips2013: ([110, 84], [18, 0, 84, 84]),  # the playing area, without the score above it
}


@dataclass(frozen=True)
class Screen:
    """How a picture of 210x160 becomes a frame: scaled to `height` x `width`, of which `rows` x `columns` are kept."""

    height: int
    width: int
    rows: slice
    columns: slice
    color: bool

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(height, width), and 3 channels where it has colors."""
        kept = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return (*kept, 3) if self.color else kept


def screen_of(config: AtariConfig) -> Screen:
    """The pipeline that `env.preprocess`, `env.resize` and `env.crop` describe. Raises `ConfigError`."""
    resize, crop = PIPELINES[config.preprocess]
    if config.resize is not None:
        resize, crop = config.resize, None
    crop = config.crop if config.crop is not None else crop
    if len(resize) != 2 or min(resize) < 1:
        raise ConfigError(f"env.resize={config.resize} is not possible; write [height,width] such as [84,84]")
    height, width = resize
    crop = crop if crop is not None else [0, 0, height, width]
    if len(crop) != 4 or min(crop[2:]) < 1:
        raise ConfigError(f"env.crop={config.crop} is not possible; write [top,left,height,width] such as [18,0,84,84]")
    top, left, rows, columns = crop
    if top + rows > height or left + columns > width:
        raise ConfigError(
            f"env.crop={crop}: rows {top} to {top + rows} and columns {left} to {left + columns} are not all within "
            f"the {height}x{width} of env.resize; write a smaller crop"
        )
    return Screen(height, width, slice(top, top + rows), slice(left, left + columns), config.color)


def registered_rom(env_id: str) -> str:
    """The name of the game's ROM, from its entry in Gymnasium's registry. Raises `ConfigError`."""
    import ale_py  # noqa: F401  # which registers its games

    entry = gymnasium.registry.get(env_id)
    if not env_id.startswith("ALE/") or entry is None or "game" not in entry.kwargs:
        raise ConfigError(f"env.id={env_id} is not an Atari game of ale-py; dqn-train --list envs shows them")
    return str(entry.kwargs["game"])


def rom_path(env_id: str) -> Path:
    """Where ale-py keeps the game's ROM. Raises `ConfigError`."""
    from ale_py import roms

    path = roms.get_rom_path(registered_rom(env_id))
    if path is None:
        raise ConfigError(f"env.id={env_id}: this ale-py came without the game's ROM; install the one of PyPI")
    return path


def describe_atari(config: AtariConfig) -> EnvFacts:
    """What the rest of a run must know of a game, without playing it. Raises `ConfigError`."""
    spec = ObsSpec(screen_of(config).frame_shape, "uint8", config.frame_stack)
    return EnvFacts(spec, num_actions(config), False, limit_steps(config), [], config.frame_skip)


def num_actions(config: AtariConfig) -> int:
    """Actions that do something in the game, or all of them."""
    path = rom_path(config.id)
    return FULL_ACTIONS if config.full_actions else _minimal_actions(path)


@cache  # a run is checked before its folder is made, and once more when it begins
def _minimal_actions(rom: Path) -> int:
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
    game = ALEInterface()
    game.loadROM(rom)
    return len(game.getMinimalActionSet())


def limit_steps(config: AtariConfig) -> int:
    """Steps after which a game is truncated."""
    return max(1, config.max_frames // config.frame_skip)


class AtariLanes:
    """E games in as many threads as there are cores to spare. The results do not depend on the number of threads.

    Lives lost are handled as `env.life_loss` says; scores are raw, and of whole episodes.
    """

    def __init__(self, config: AtariConfig, num_envs: int, seed_of: SeedOf) -> None:
        from ale_py.vector_env import AtariVectorEnv  # here, as other environments need not wait for it

        self._screen = screen_of(config)
        self.env_id, self.num_envs = config.id, num_envs
        self.spec = ObsSpec(self._screen.frame_shape, "uint8", config.frame_stack)
        self._env: AtariVectorEnv = AtariVectorEnv(
            registered_rom(config.id),
            num_envs,
            num_threads=max(1, min(num_envs, usable_cores() - 1)),
            max_num_frames_per_episode=OUT_OF_REACH,
            repeat_action_probability=config.sticky,
            full_action_space=config.full_actions,
            img_height=self._screen.height,
            img_width=self._screen.width,
            grayscale=not config.color,
            stack_num=1,
            frameskip=config.frame_skip,
            maxpool=config.max_pool,
            noop_max=config.noop_max + 1,  # ale-py draws below its limit
            use_fire_reset=config.fire_reset,
            episodic_life=False,
            reward_clipping=False,
        )
        assert isinstance(self._env.single_action_space, Discrete)
        self.num_actions = int(self._env.single_action_space.n)
        self._seed_of = seed_of
        self._life_loss = config.life_loss
        self._limit_steps = limit_steps(config)
        self._in_flight = self._begun = False
        self._episode, self._length = np.zeros((2, num_envs), np.int64)
        self._score = np.zeros(num_envs)

    def reset(self) -> NDArray[np.uint8]:
        """Begin episode 0 in every lane; its first frames `[E, *frame_shape]`."""
        return self.begin(np.ones(self.num_envs, np.bool_), np.zeros(self.num_envs, np.int64))

    def begin(self, which: NDArray[np.bool_], episodes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Begin the episodes of these numbers `[E]` in the lanes `which` `[E]`, whatever was played there.

        The frames to act on next `[E, *frame_shape]`; those of the other lanes are as they were. The first `begin`
        begins episode 0 in the other lanes too: the engine wants all or none then.
        """
        if self._in_flight:
            self._env.recv()  # else the steps still under way would be taken for the first frames
            self._in_flight = False
        self._episode[which] = episodes[which]
        self._score[which] = self._length[which] = 0
        frame, self._lives = self._restart(which if self._begun else np.ones_like(which))
        self._begun = True
        return frame

    def send(self, actions: NDArray[np.int64]) -> None:
        """Let the threads take the actions `[E]`, each in [0, num_actions).

        Raises `ValueError` for others, `RuntimeError` before `recv` has seen the last ones.
        """
        if self._in_flight:
            raise RuntimeError("send without recv")
        checked_actions(actions, self.num_envs, self.num_actions)
        self._env.send(actions.astype(np.int64))
        self._in_flight = True

    def recv(self) -> StepResult:
        """Wait for the threads; begin the next episode where one ended. Raises `RuntimeError` without a `send`."""
        if not self._in_flight:
            raise RuntimeError("recv without send")
        self._in_flight = False
        screen, reward, game_over, _, info = self._env.recv()
        frame = next_frame = self._cut(screen)
        self._score += reward
        self._length += 1
        lost, self._lives = info["lives"] < self._lives, info["lives"]
        over = game_over | lost if self._life_loss is LifeLoss.reset else game_over
        terminated = over | lost if self._life_loss is LifeLoss.terminal else over
        truncated = ~over & (self._length >= self._limit_steps)
        first = over | truncated
        episodes = []
        if first.any():
            episodes = self._finish(np.flatnonzero(first))
            frame, self._lives = self._restart(first)
        return StepResult(frame, next_frame, reward.astype(np.float64), terminated, truncated, first, episodes)

    def _finish(self, lanes: NDArray[np.int64]) -> list[EpisodeStats]:
        """The episodes that end in these lanes, which the next ones follow."""
        ended = [
            EpisodeStats(lane, int(self._episode[lane]), float(self._score[lane]), int(self._length[lane]))
            for lane in lanes.tolist()
        ]
        self._episode[lanes] += 1
        self._score[lanes] = self._length[lanes] = 0
        return ended

    def _restart(self, which: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """New games in the lanes `which`; frames and lives of all lanes."""
        seeds = [self._seed_of(lane, int(self._episode[lane])) for lane in np.flatnonzero(which).tolist()]
        if any(seed is not None and not 0 <= seed <= MAX_SEED for seed in seeds):
            raise ValueError(f"seeds must be in [0, {MAX_SEED}], got {seeds}")
        given = np.array([KEEP_SEED if seed is None else seed for seed in seeds])
        screen, info = self._env.reset(seed=given, options={"reset_mask": which})
        return self._cut(screen), info["lives"]

    def _cut(self, screen: NDArray[Any]) -> NDArray[np.uint8]:
        """Frames `[E, *frame_shape]` of screens `[E, 1, height, width(, 3)]`, which the engine never writes again."""
        return np.ascontiguousarray(screen[:, 0, self._screen.rows, self._screen.columns])  # no copy without a crop

    def close(self) -> None:
        """Stop the threads; they finish the steps under way."""
        vars(self).pop("_env", None)  # ale-py's own close() leaves them waiting until nobody knows the engine any more
