"""Whole runs on Atari games, on small pictures: what is learnt from, what is scored, and that the engines agree."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_integration_runs import fingerprint

from dqn_cli import build
from dqn_cli.config import (
    AdamConfig,
    AtariConfig,
    Config,
    DdqnConfig,
    Engine,
    EpsilonConfig,
    LifeLoss,
    NipsCnnConfig,
    RunConfig,
    ScalarConfig,
    UniformConfig,
)


def pacman(steps: int = 900, **env: Any) -> Config:
    """A short game of Ms Pacman, whose points come in tens."""
    return Config(
        env=AtariConfig(id="ALE/MsPacman-v5", resize=[42, 42], sticky=0.0, **env),
        network=NipsCnnConfig(),
        variant=DdqnConfig(target_every=100),
        value=ScalarConfig(),
        replay=UniformConfig(capacity=steps, batch_size=4),
        exploration=EpsilonConfig(over_steps=steps),
        optimizer=AdamConfig(),
        reward_clip=1.0,
        threads="1",
        run=RunConfig(
            total_steps=steps,
            learning_starts_steps=50,
            update_every_steps=20,
            eval_every_steps=None,
            eval_episodes=1,
            eval_epsilon=1.0,
            log_every_steps=100,
            checkpoint_every_steps=None,
        ),
    )


def played(config: Config, folder: Path) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """The replay memory's columns after a run, and its episodes.csv."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        run = build.assemble(config, folder, stack)
        run.trainer.run()
        columns = run.memory.state_dict()
        rows = {name: columns[name][: len(run.memory)].copy() for name in ("row.reward", "row.discount")}
    with (folder / "episodes.csv").open() as file:
        return rows, list(csv.DictReader(file))


def test_rewards_are_clipped_for_learning_and_scores_are_raw(tmp_path: Path) -> None:
    rows, episodes = played(pacman(), tmp_path)
    assert set(rows["row.reward"]) == {0.0, 1.0}
    scores = [float(episode["score"]) for episode in episodes]
    assert scores
    assert min(scores) >= 60
    assert all(score % 10 == 0 for score in scores)
    assert [int(episode["frames"]) for episode in episodes] == [4 * int(episode["steps"]) for episode in episodes]


def test_a_life_is_an_episode_for_learning_only_where_that_is_asked_for(tmp_path: Path) -> None:
    ends, scores = {}, {}
    for mode in LifeLoss:
        rows, episodes = played(pacman(life_loss=mode), tmp_path / mode)
        ends[mode] = int((rows["row.discount"] == 0).sum())
        scores[mode] = [episode["score"] for episode in episodes]
    assert ends["ignore"] == len(scores["ignore"]) > 0
    assert ends["terminal"] >= 3 * len(scores["terminal"]) > 0  # three lives a game
    assert ends["reset"] == len(scores["reset"]) > len(scores["ignore"])
    assert np.mean([float(s) for s in scores["reset"]]) < np.mean([float(s) for s in scores["terminal"]])


def test_a_game_that_is_cut_is_no_end_for_learning(tmp_path: Path) -> None:
    rows, episodes = played(pacman(steps=300, max_frames=203), tmp_path)
    assert [int(episode["length"]) for episode in episodes] == [50] * 6  # whole steps of four frames
    assert (rows["row.discount"] > 0).all()


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_engines_give_the_same_run_to_the_last_bit(num_envs: int, tmp_path: Path) -> None:
    lives = LifeLoss.terminal if num_envs == 1 else LifeLoss.reset  # so that lanes begin anew at different times
    native = replace(pacman(steps=300 * num_envs, life_loss=lives, max_frames=700), num_envs=num_envs)
    python = replace(native, env=replace(native.env, engine=Engine.gymnasium))
    assert fingerprint(native, tmp_path / "native") == {
        name: content.replace(b"gymnasium", b"native") for name, content in fingerprint(python, tmp_path / "py").items()
    }
