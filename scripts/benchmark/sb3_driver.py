"""Runs stable-baselines3's DQN on a task, in an environment of its own: sb3_driver.py TASK.json

It is used as its documentation shows it, with a callback for nothing; what is counted is counted by wrappers around the
replay buffer's `sample` (called once for each update) and `polyak_update`.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3.dqn.dqn as sb3
import torch
from gymnasium.spaces import Box, Discrete
from marks import Marks
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack

STICKY, LIMIT_STEPS = 0.1, 10_000  # as dqn-cli plays MinAtar


class MinatarGame(gymnasium.Env[Any, Any]):
    """A game of MinAtar as dqn-cli plays it, from the same file of the same package."""

    def __init__(self, file: str) -> None:
        spec = spec_from_file_location("minatar_game", file)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        self._game = module.Env(ramping=True)
        self._actions = self._game.minimal_action_set()
        self.observation_space = Box(0, 1, tuple(self._game.state_shape()), bool)
        self.action_space = Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game."""
        if seed is not None:
            self._game.random = np.random.RandomState(seed)
        self._game.reset()
        self._last, self._length = 0, 0
        return self._game.state(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take the action, or now and then the last one again."""
        if self._game.random.rand() >= STICKY:
            self._last = self._actions[action]
        reward, over = self._game.act(self._last)
        self._length += 1
        return self._game.state(), float(reward), bool(over), not over and self._length >= LIMIT_STEPS, {}


class MinatarCnn(BaseFeaturesExtractor):
    """16 convolutions of 3x3 and a layer of 128 (Young & Tian 2019)."""

    def __init__(self, space: Box) -> None:
        super().__init__(space, 128)
        rows, columns, channels = space.shape
        flat = 16 * (rows - 2) * (columns - 2)
        relu = torch.nn.ReLU()
        convolution, linear = torch.nn.Conv2d(channels, 16, 3), torch.nn.Linear(flat, 128)
        self.layers = torch.nn.Sequential(convolution, relu, torch.nn.Flatten(), linear, relu)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """obs [B, rows, columns, channels] -> features [B, 128]."""
        features: torch.Tensor = self.layers(obs.permute(0, 3, 1, 2))
        return features


def make_game(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """A game of Atari, in this process or in one of its own, which has to know of the games too."""
    import ale_py

    gymnasium.register_envs(ale_py)
    return gymnasium.make(env_id, **kwargs)


def make_envs(task: dict[str, Any]) -> VecEnv:
    """The environments, as its own helpers make them."""
    vec = SubprocVecEnv if task["vec"] == "subproc" else DummyVecEnv
    if task["kind"] == "atari":
        games = make_atari_env(
            partial(make_game, task["env_id"]),
            n_envs=task["num_envs"],
            seed=0,
            wrapper_kwargs={"terminal_on_life_loss": False, "noop_max": 30},
            env_kwargs={"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False},
            vec_env_cls=vec,
        )
        return VecFrameStack(games, 4)
    env = partial(MinatarGame, task["game_file"]) if task["kind"] == "minatar" else task["env_id"]
    return make_vec_env(env, n_envs=task["num_envs"], seed=0, vec_env_cls=vec)


def make_model(task: dict[str, Any]) -> DQN:
    """The agent of a task's numbers."""
    policies: dict[str, tuple[str, dict[str, Any]]] = {
        "mlp": ("MlpPolicy", {"net_arch": list(task["hidden"])}),
        "minatar_cnn": ("MlpPolicy", {"features_extractor_class": MinatarCnn, "net_arch": []}),
        "nature_cnn": ("CnnPolicy", {}),
    }
    policy, policy_kwargs = policies[task["network"]]
    return DQN(
        policy,
        make_envs(task),
        learning_rate=task["lr"],
        buffer_size=task["capacity"],
        learning_starts=task["starts"],
        batch_size=task["batch"],
        gamma=task["discount"],
        train_freq=task["train_freq"],
        gradient_steps=task["gradient_steps"],
        target_update_interval=task["target_every"],
        exploration_fraction=task["epsilon_over"] / task["total_steps"],
        exploration_final_eps=task["epsilon_end"],
        max_grad_norm=task["max_grad_norm"],
        policy_kwargs=policy_kwargs | {"optimizer_kwargs": {"eps": task["adam_eps"]}},
        device=task["device"],
        seed=0,
    )


def count(model: Any, marks: Marks) -> None:
    """Let the agent count itself."""
    step, sample, polyak_update = model.env.step, model.replay_buffer.sample, sb3.polyak_update

    def first_step(actions: Any) -> Any:
        done = step(actions)
        marks.first_step()
        del model.env.step  # the class's own is there again
        return done

    def sampling(batch_size: int, env: Any = None) -> Any:
        marks.update(model.num_timesteps, batch_size)
        return sample(batch_size, env=env)

    def syncing(params: Any, target_params: Any, tau: float) -> None:
        params = list(params)
        if params:  # and not the statistics of batch normalisation, of which there are none
            marks.copy()
        polyak_update(params, target_params, tau)

    model.env.step, model.replay_buffer.sample, sb3.polyak_update = first_step, sampling, syncing


def main() -> int:
    """Train, then print the line."""
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(task["threads"])
    model, marks = make_model(task), Marks(task["settle_updates"])
    count(model, marks)
    model.learn(task["total_steps"])
    marks.end()
    if model._n_updates != marks.updates:
        raise RuntimeError(f"it says that it made {model._n_updates} updates, counted were {marks.updates}")
    print(marks.report("stable-baselines3", model.num_timesteps, torch.get_num_threads()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
