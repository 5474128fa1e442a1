"""Explorations that a module of the user's own registered."""

from __future__ import annotations

import numpy as np

from dqn_cli import plugins
from dqn_cli.agent.exploration import Actions, Uniform, Values
from dqn_cli.config import OwnExplorationConfig
from dqn_cli.errors import ConfigError


class Registered:
    """A user's own function in the place of an `Explorer`. Raises `ConfigError` where it cannot be made."""

    def __init__(self, config: OwnExplorationConfig, num_actions: int, num_envs: int) -> None:
        self._name, self._num_actions, self._num_envs = config.name, num_actions, num_envs
        try:
            self._choose = plugins.make("exploration", config, num_actions, num_envs)
        except Exception as error:
            raise ConfigError(f"exploration={config.name} cannot be made ({plugins.one_line(error)})") from error

    def choose(self, level: float, coin: Uniform, choice: Uniform, q: Values) -> Actions:
        """Actions [E]; `level` is the number of steps. Raises `ConfigError` where there are others, or an error."""
        try:
            actions = np.asarray(self._choose(int(level), coin, choice, q))
        except Exception as error:
            raise ConfigError(f"exploration={self._name} raised {plugins.one_line(error)}; mend it") from error
        whole = actions.shape == (self._num_envs,) and np.issubdtype(actions.dtype, np.integer)
        if not whole or actions.min() < 0 or actions.max() >= self._num_actions:
            wanted = f"{self._num_envs} whole numbers below {self._num_actions}"
            raise ConfigError(f"exploration={self._name} chose {actions.tolist()!s:.60}; return {wanted}")
        return actions.astype(np.int64)
