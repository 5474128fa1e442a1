"""Any environment of a configuration, whatever runs it."""

from __future__ import annotations

from dataclasses import replace

from dqn_cli.config import AtariConfig, Engine, EnvConfig, GymConfig, LifeLoss, MinatarConfig
from dqn_cli.envs.atari import AtariLanes, describe_atari
from dqn_cli.envs.make import EnvFacts, SeedOf, describe_gym, missing_dependency
from dqn_cli.envs.minatar import describe_minatar, make_game
from dqn_cli.envs.vector import GymLanes, MakeEnv

Lanes = AtariLanes | GymLanes  # environments side by side


def describe(config: EnvConfig) -> EnvFacts:
    """What a run must know of its environment. Raises `ConfigError` where an agent could not use it."""
    if isinstance(config, AtariConfig):
        if config.engine is Engine.gymnasium:
            _game(config)
        return describe_atari(config)
    if isinstance(config, MinatarConfig):
        return describe_minatar(config)
    assert isinstance(config, GymConfig)
    return describe_gym(config)


def make_lanes(config: EnvConfig, num_envs: int, seed_of: SeedOf, render: str | None = None) -> Lanes:
    """E environments side by side, episodes seeded by `seed_of(lane, episode)`; with `render` lane 0 is shown.

    `render` is "human" (a window) or "rgb_array" (`GymLanes.pictures`).
    """
    if isinstance(config, AtariConfig):
        config = config if render is None else showable(config)
        if config.engine is Engine.native:
            return AtariLanes(config, num_envs, seed_of)
        return GymLanes(config, num_envs, seed_of, render, _game(config))
    if isinstance(config, MinatarConfig):
        return GymLanes(config, num_envs, seed_of, render, make_game)
    assert isinstance(config, GymConfig)
    return GymLanes(config, num_envs, seed_of, render)


def reseed_every_steps(config: EnvConfig) -> int:
    """Steps of a lane after which its next episode gets a seed of its own: what a resumed run plays again is shorter.

    A seed costs an Atari lane a fifth of a second, because the emulator loads the ROM again, and the other lanes wait
    for it. Eight lanes that take 2,000 steps/s together come to 20,000 each in 80 s and lose 8 x 0.2 s of them: 2 %.
    Elsewhere a seed costs next to nothing, and 50,000 steps are played again in seconds.
    """
    return 20_000 if isinstance(config, AtariConfig) else 50_000


def frame_skip_of(config: EnvConfig) -> int | None:
    """Emulator frames in a step; None where there is no emulator."""
    return config.frame_skip if isinstance(config, AtariConfig) else None


def whole_games(config: EnvConfig) -> EnvConfig:
    """The environment of an evaluation: lives do not matter, so that scores are of whole games."""
    return replace(config, life_loss=LifeLoss.ignore) if isinstance(config, AtariConfig) else config


def showable(config: AtariConfig) -> AtariConfig:
    """The game on the engine that can show it: ale-py's own can neither open a window nor give pictures."""
    return replace(config, engine=Engine.gymnasium)


def _game(config: AtariConfig) -> MakeEnv:
    # imported where it is needed only: OpenCV takes its time, and wants libraries that not every server has
    try:
        from dqn_cli.envs.atari_game import AtariGame
    except ImportError as error:
        raise missing_dependency(config.id, error) from error
    return AtariGame
