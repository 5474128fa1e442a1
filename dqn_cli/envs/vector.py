"""Several environments side by side: actions go in, one `StepResult` comes out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from math import isfinite
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from dqn_cli.config import EnvConfig
from dqn_cli.envs.make import SeedOf, make_env, missing_dependency, one_line
from dqn_cli.envs.spaces import Frame, Misfit, Write, action_range, brief, checked_actions, observer
from dqn_cli.errors import EnvironmentFault, NumericalError, UserError
from dqn_cli.types import EpisodeStats, StepResult

TERMINAL = "dqn_cli/terminal"  # true in `info`: the end of an episode for learning, while the environment goes on
DEFAULT_FPS = 30.0

MakeEnv = Callable[[Any, str | None], gymnasium.Env[Any, Any]]  # (configuration, render)
Picture = NDArray[np.uint8]


class GymLanes:
    """E Gymnasium environments in this process, one after the other: a CartPole step is too short to be shared out.

    Observations, rewards and ends are checked at every step; `EnvironmentFault` (wrong type or shape, an exception of
    the environment's own) and `NumericalError` (reward NaN or infinite) name lane, episode and step, where step 0 is
    the reset. With `render` lane 0 is shown: "human" in a window, "rgb_array" by `pictures`, of which `fps` make a
    second. `action_names` are for people.
    """

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        seed_of: SeedOf,
        render: str | None = None,
        make: MakeEnv = make_env,
    ) -> None:
        self.env_id, self.num_envs = config.id, num_envs
        with ExitStack() as stack:  # closes what was made if the next one cannot be
            envs = [stack.enter_context(closing(make(config, render if i == 0 else None))) for i in range(num_envs)]
            self.spec, write = observer(config.id, envs[0].observation_space, config.frame_stack)
            self.num_actions, first_action = action_range(config.id, envs[0].action_space)
            stack.pop_all()
        self.fps = float(envs[0].metadata.get("render_fps") or DEFAULT_FPS)
        self.action_names = [str(action) for action in range(self.num_actions)]
        if render == "rgb_array":
            self.action_names = _meanings(envs[0], self.num_actions) or self.action_names
        self._lanes = [
            _Lane(config.id, i, env, write, first_action, keeps_pictures=render == "rgb_array" and i == 0)
            for i, env in enumerate(envs)
        ]
        self._keeps_pictures, self._pictures = render == "rgb_array", list[Picture]()
        self._seed_of = seed_of
        self._actions: list[int] | None = None
        # two of each, used in turn: a result stays valid while the next one is made
        self._buffers = [_Buffers(self._empty_result(), self._empty_frames()) for _ in range(2)]
        self._frame = self._buffers[0].begun  # what `begin` leaves as it is

    def _empty_frames(self) -> Frame:
        return np.zeros((self.num_envs, *self.spec.frame_shape), self.spec.dtype)

    def _empty_result(self) -> StepResult:
        frames, lanes = self._empty_frames(), self.num_envs
        terminated, truncated, first = np.zeros((3, lanes), np.bool_)
        return StepResult(frames, frames, np.zeros(lanes), terminated, truncated, first)

    def reset(self) -> Frame:
        """Begin episode 0 in every lane; its first frames `[E, *frame_shape]`, valid until the second `recv`."""
        return self.begin(np.ones(self.num_envs, np.bool_), np.zeros(self.num_envs, np.int64))

    def begin(self, which: NDArray[np.bool_], episodes: NDArray[np.int64]) -> Frame:
        """Begin the episodes of these numbers `[E]` in the lanes `which` `[E]`, whatever was played there.

        The frames to act on next `[E, *frame_shape]`, valid until the second `recv`; those of the other lanes are as
        they were. Actions that were sent are forgotten. Until its first `begin` a lane is at rest: its frames are
        zeros and it takes no step.
        """
        self._actions = None
        frames = self._buffers[0].begun
        np.copyto(frames, self._frame)
        for lane in self._lanes:
            if which[lane.index]:
                self._begin(lane, int(episodes[lane.index]), frames)
        if which[0]:
            self._pictures = self._lanes[0].take_pictures()
        self._frame = frames
        return frames

    def send(self, actions: NDArray[np.int64]) -> None:
        """Take the actions `[E]`, each in [0, num_actions). Raises `ValueError` for others: they are our bug."""
        self._actions = checked_actions(actions, self.num_envs, self.num_actions)

    def recv(self) -> StepResult:
        """Step every lane, begin the next episode where one ended. Raises `RuntimeError` without a `send` before."""
        if self._actions is None:
            raise RuntimeError("recv without send")
        actions, self._actions = self._actions, None
        self._buffers.reverse()
        buffers = self._buffers[0]
        result, begun = buffers.result, buffers.begun
        ended: list[_Lane] = []
        for i, lane in enumerate(self._lanes):
            if not lane.begun:
                continue
            reward, terminated, truncated, terminal = lane.step(actions[i], buffers.next_frames[i])
            result.reward[i] = reward
            result.terminated[i] = terminated or terminal
            result.truncated[i] = truncated
            result.first[i] = over = terminated or truncated
            if over:
                ended.append(lane)
        if self._keeps_pictures:
            self._pictures += self._lanes[0].take_pictures()
        result.frame, result.episodes = result.next_frame, []
        if ended:
            result.episodes = [lane.stats() for lane in ended]
            np.copyto(begun, result.next_frame)
            result.frame = begun
            for lane in ended:
                self._begin(lane, lane.episode + 1, begun)
        self._frame = result.frame
        return result

    def _begin(self, lane: _Lane, episode: int, frames: Frame) -> None:
        lane.reset(episode, self._seed_of(lane.index, episode), frames[lane.index])

    def pictures(self) -> list[Picture]:
        """What lane 0 showed since the last call, each `[height, width, 3]`; nothing without `render="rgb_array"`.

        One picture per step and at an episode's start, of an Atari game every frame of the emulator. After `reset`
        they are the start of episode 0, after `recv` those of the step; the start of the episode that follows comes
        with its first step.
        """
        pictures, self._pictures = self._pictures, []
        return pictures

    def close(self) -> None:
        """Release what the environments hold."""
        for lane in self._lanes:
            lane.close()


class _Buffers:
    """What one result is written into."""

    def __init__(self, result: StepResult, begun: Frame) -> None:
        self.result, self.begun = result, begun
        self.next_frames = list(result.next_frame)  # a view of each lane's, made once and not at every step


_NUMBER = (float, Real)  # float first: asking an abstract class takes longer
_TRUTH = (bool, np.bool_, int, np.integer)


class _Lane:
    """One environment, the episode that it is in, and the checks on all that it returns."""

    def __init__(
        self,
        env_id: str,
        index: int,
        env: gymnasium.Env[Any, Any],
        write: Write,
        first_action: int,
        keeps_pictures: bool,
    ) -> None:
        self.index = index
        self.begun = False
        self.episode, self.length, self.score = 0, 0, 0.0
        self._id, self._env, self._write, self._first_action = env_id, env, write, first_action
        self._keeps_pictures, self._pictures = keeps_pictures, list[Picture]()

    def reset(self, episode: int, seed: int | None, out: Frame) -> None:
        self.begun = True
        self.episode, self.length, self.score = episode, 0, 0.0
        try:
            observation, _ = self._env.reset(seed=seed)
        except Exception as error:
            raise self._raised("reset", error) from error
        self._observe(observation, out)
        if self._keeps_pictures:
            self._pictures = self._render()

    def step(self, action: int, out: Frame) -> tuple[float, bool, bool, bool]:
        self.length += 1
        try:
            observation, reward, terminated, truncated, info = self._env.step(action + self._first_action)
        except Exception as error:
            raise self._raised("step", error) from error
        self._observe(observation, out)
        # the exact types are asked for first: it takes a fifth of the time, and they are what nearly all return
        if type(reward) is not float:
            reward = self._number(reward)
        if not isfinite(reward):
            raise NumericalError(self._at(f"reward is {reward}"))
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = self._truths(terminated, truncated)
        self.score += reward
        if self._keeps_pictures:
            self._pictures += self._render()
        return reward, terminated, truncated, isinstance(info, dict) and info.get(TERMINAL) is True

    def take_pictures(self) -> list[Picture]:
        pictures, self._pictures = self._pictures, []
        return pictures

    def stats(self) -> EpisodeStats:
        return EpisodeStats(self.index, self.episode, self.score, self.length)

    def close(self) -> None:
        with suppress(Exception):  # the run is over: a failure to tidy up must not hide how it went
            self._env.close()

    def _observe(self, observation: Any, out: Frame) -> None:
        try:
            self._write(observation, out)
        except Misfit as misfit:
            raise EnvironmentFault(self._at(f"observation is {misfit}")) from misfit

    def _number(self, reward: Any) -> float:
        if not isinstance(reward, _NUMBER):
            raise EnvironmentFault(self._at(f"reward is {brief(reward)}, a {type(reward).__name__}, not a number"))
        return float(reward)

    def _truths(self, terminated: Any, truncated: Any) -> tuple[bool, bool]:
        if not isinstance(terminated, _TRUTH) or not isinstance(truncated, _TRUTH):
            ends = f"terminated is {brief(terminated)} and truncated {brief(truncated)}"
            raise EnvironmentFault(self._at(f"{ends}, both must be true or false"))
        return bool(terminated), bool(truncated)

    def _render(self) -> list[Picture]:
        try:
            shown = self._env.render()
        except Exception as error:
            raise self._raised("render", error) from error
        pictures = shown if isinstance(shown, list) else [shown]
        for picture in pictures:
            if not isinstance(picture, np.ndarray):
                raise EnvironmentFault(self._at(f"render returned {brief(picture)}, not an array"))
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                text = f"render returned an array of shape {picture.shape} and type {picture.dtype}"
                raise EnvironmentFault(self._at(f"{text}, not (height, width, 3) of uint8"))
        return [np.array(picture) for picture in pictures]  # copies: some draw into the same array again

    def _raised(self, call: str, error: Exception) -> UserError:
        if isinstance(error, DependencyNotInstalled):  # rendering is set up late, at the first frame shown
            return missing_dependency(self._id, error)
        return EnvironmentFault(self._at(f"{call} raised {one_line(error)}"))

    def _at(self, text: str) -> str:
        return f"env {self._id}: {text} (lane {self.index}, episode {self.episode}, step {self.length})"


def _meanings(env: gymnasium.Env[Any, Any], number: int) -> list[str]:
    """What the actions are called; empty where the environment has no `number` names for them."""
    try:
        names = [str(name) for name in env.unwrapped.get_action_meanings()]  # type: ignore[attr-defined]
    except Exception:  # not every environment has them, and a wrapper may have fewer actions
        return []
    return names if len(names) == number else []
