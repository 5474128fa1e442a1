"""Lanes that come back to where they were, without the environments' help: a seed, the actions since then, a proof.

A simulator's own copy cannot be trusted (that of an ALE game is silently wrong), but what began with a seed can be
played again. So a lane gets a seed of its own from time to time, its actions since then are kept, and what is played
again is compared with what was seen: every frame, the rewards, the episodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from dqn_cli.envs.lanes import Lanes
from dqn_cli.envs.make import SeedOf
from dqn_cli.errors import CheckpointError, EnvironmentFault, NumericalError
from dqn_cli.types import StepResult

MAX_REPLAY_STEPS = 10_000_000  # an hour or more: a run needs less, but a file may ask for it
MAX_EPISODE = 2**53
REMEDY = "resume_env=restart begins new episodes instead"

State = Mapping[str, NDArray[Any]]


class JournaledLanes:
    """E environments whose state is arrays: `state` after a step, `restore` of it into new ones.

    Episode 0 of a lane gets the seed `seed_of(lane, 0)`; so does, with its own number, an episode that begins when the
    lane has taken `reseed_every_steps` steps or more since its last seed. The others go on from the lane's generator.
    Steps are counted and not seconds, so that a run's bytes do not depend on how fast the machine is.
    """

    def __init__(
        self, make: Callable[[SeedOf], Lanes], seed_of: Callable[[int, int], int], reseed_every_steps: int
    ) -> None:
        self._seed_of, self._reseed_every_steps = seed_of, reseed_every_steps
        self._lanes = make(self._seed)
        self.num_envs = lanes = self._lanes.num_envs
        self.spec, self.num_actions = self._lanes.spec, self._lanes.num_actions
        self._action_type = np.dtype(np.uint8 if self.num_actions <= 256 else np.int32)
        self._sent: list[int] | None = None  # a row of actions that is under way
        self._actions = array(self._action_type.char)  # rows of E actions, from the oldest of the lanes' seeds on
        self._rows = 0
        # plain numbers, a list of each: at every step some of them change, and NumPy takes ten times as long for one
        self._begun, self._episode = [0] * lanes, [0] * lanes  # the row and the episode where a seed was given
        self._reward, self._checksum = [0.0] * lanes, [0] * lanes  # seen since then
        self._current, self._current_begun = [0] * lanes, [0] * lanes  # the episode now, and the row where it began
        self._begins = [False] * lanes  # whatever the rule says, an episode that begins now gets a seed
        self._rule_holds = True
        self._seeded: list[int] = []  # the lanes that have got a seed since `_forget`
        self._frame: NDArray[Any] | None = None  # None until the first episodes begin
        self._first = np.zeros(lanes, np.bool_)

    def reset(self) -> NDArray[Any]:
        """Begin episode 0 in every lane; its first frames `[E, *frame_shape]`, valid until the second `recv`."""
        return self._begin([True] * self.num_envs, [0] * self.num_envs)

    def send(self, actions: NDArray[np.int64]) -> None:
        """Let the lanes take the actions `[E]`, each in [0, num_actions). Raises `ValueError` for others."""
        self._lanes.send(actions)
        self._sent = actions.tolist()

    def recv(self) -> StepResult:
        """Wait for the lanes; begin the next episode where one ended. Raises `RuntimeError` without a `send`."""
        if self._sent is None:
            raise RuntimeError("recv without send")
        step = self._lanes.recv()
        self._actions.extend(self._sent)
        self._rows, self._sent = self._rows + 1, None
        reward, checksum = self._reward, self._checksum
        for lane, paid in enumerate(step.reward.tolist()):
            reward[lane] += paid
            checksum[lane] = crc32(step.next_frame[lane], checksum[lane])  # reads the frame where it lies, no copy
        self._frame, self._first = step.frame, step.first
        if step.episodes:
            for episode in step.episodes:
                self._current[episode.lane] += 1
                self._current_begun[episode.lane] = self._rows
            self._forget()
        return step

    def close(self) -> None:
        """Release what the lanes hold."""
        self._lanes.close()

    def state(self) -> dict[str, NDArray[Any]]:
        """Where the lanes are, as copies by name. Raises `RuntimeError` before `reset`, and between `send` and `recv`.

        - "lanes.actions" `[T, E]`: a row per step since the oldest of the lanes' seeds; zeros before a lane's own seed
        - "lanes.begun" `[E]`: the row that the lane's seed came before; "lanes.episode" `[E]`: the number of the
          episode that began with it
        - "lanes.reward" `[E]` and "lanes.checksum" `[E]`: since then, the sum of the rewards and the frames' CRC-32
        - "lanes.current" `[E]` and "lanes.length" `[E]`: the number of the episode now, and its steps so far
        - "lanes.frame" `[E, *frame_shape]`: to act on next; "lanes.first" `[E]`: whether it begins an episode
        """
        if self._frame is None or self._sent is not None:
            raise RuntimeError("the state of lanes that have not begun, or that are taking a step")
        actions = np.array(self._actions, self._action_type).reshape(-1, self.num_envs)
        for lane, row in enumerate(self._begun):
            actions[:row, lane] = 0
        return {
            "lanes.actions": actions,
            "lanes.begun": np.array(self._begun, np.int64),
            "lanes.episode": np.array(self._episode, np.int64),
            "lanes.reward": np.array(self._reward, np.float64),
            "lanes.checksum": np.array(self._checksum, np.int64),
            "lanes.current": np.array(self._current, np.int64),
            "lanes.length": self._rows - np.array(self._current_begun, np.int64),
            "lanes.frame": np.array(self._frame),
            "lanes.first": self._first.copy(),
        }

    def restore(self, state: State) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Play again what led to `state`; the frames to act on next `[E, *frame_shape]`, and which begin an episode.

        Only for lanes that were not reset yet (`RuntimeError`). Raises `CheckpointError` for arrays that such lanes
        cannot have made, `EnvironmentFault` where they do not come to the same frames, rewards and episodes.
        """
        rows = self.replayed_steps(state)
        if rows > MAX_REPLAY_STEPS:
            raise CheckpointError(
                f"lanes.actions: {rows:,} steps to play again, at most {MAX_REPLAY_STEPS:,}; {REMEDY}"
            )
        self._only_when_new()
        try:
            self._replay(state)
        except (EnvironmentFault, NumericalError) as error:
            raise EnvironmentFault(f"{error}, when the same was played again; {REMEDY}") from error
        reached = self.state()
        by_lane = reached.keys() - {"lanes.actions"}
        for lane in range(self.num_envs):
            if any(reached[name][lane].tobytes() != state[name][lane].tobytes() for name in by_lane):
                raise EnvironmentFault(
                    f"env {self._lanes.env_id} does not come back to where it was "
                    f"(lane {lane}, episode {state['lanes.current'][lane]}): "
                    f"it is not the same after reset(seed) and the same actions; {REMEDY}"
                )
        return reached["lanes.frame"], reached["lanes.first"]

    def restart(self, state: State) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Begin each lane's next episode instead, with a seed: returns and raises as `restore`, but plays nothing."""
        self._check(state)
        self._only_when_new()
        return self._begin([True] * self.num_envs, (state["lanes.current"] + 1).tolist()), self._first

    def replayed_steps(self, state: State) -> int:
        """How many steps of all lanes at once `restore` takes. Raises `CheckpointError` as `restore` does."""
        self._check(state)
        return len(state["lanes.actions"])

    def _seed(self, lane: int, episode: int) -> int | None:
        """The seed of an episode that begins, None where it goes on without; asked while the lanes begin or step."""
        overdue = self._rule_holds and self._rows + 1 - self._begun[lane] >= self._reseed_every_steps
        if not overdue and not self._begins[lane]:
            return None
        self._seeded.append(lane)
        return self._seed_of(lane, episode)

    def _begin(self, which: list[bool], episodes: list[int]) -> NDArray[Any]:
        """Begin the episodes of these numbers in the lanes `which`, each with a seed."""
        self._sent, self._begins = None, which
        self._frame = self._lanes.begin(np.array(which), np.array(episodes, np.int64))
        self._begins = [False] * self.num_envs
        self._first = self._first | which
        for lane in range(self.num_envs):
            if which[lane]:
                self._current[lane], self._current_begun[lane] = episodes[lane], self._rows
        self._forget()
        return self._frame

    def _forget(self) -> None:
        """What the lanes did before they got a seed is not needed any more."""
        if not self._seeded:
            return
        for lane in self._seeded:
            self._begun[lane], self._episode[lane] = self._rows, self._current[lane]
            self._reward[lane], self._checksum[lane] = 0.0, 0
        self._seeded = []
        oldest = min(self._begun)
        del self._actions[: oldest * self.num_envs]
        self._rows -= oldest
        self._begun = [row - oldest for row in self._begun]
        self._current_begun = [row - oldest for row in self._current_begun]

    def _replay(self, state: State) -> None:
        """Play all rows; where a lane's seed came it begins, and what it did until then does not matter."""
        actions, begun, episodes = state["lanes.actions"], state["lanes.begun"], state["lanes.episode"].tolist()
        self._rule_holds = False  # the seeds are given where they were given
        for row in range(len(actions) + 1):
            begins = begun == row
            if begins.any():
                self._begin(begins.tolist(), episodes)
            if row < len(actions):
                self.send(actions[row].astype(np.int64))
                self.recv()
        self._rule_holds = True

    def _only_when_new(self) -> None:
        if self._frame is not None:
            raise RuntimeError("only lanes that were not reset yet can be brought to a state")

    def _check(self, state: State) -> None:
        """Raise `CheckpointError` unless such lanes can have made these arrays; that they did, only playing proves."""
        lanes = (self.num_envs,)
        actions = state.get("lanes.actions")
        rows = len(actions) if actions is not None and actions.ndim else 0
        integers = dict.fromkeys(("begun", "episode", "checksum", "current", "length"), (lanes, np.dtype(np.int64)))
        expected = {
            "actions": ((rows, *lanes), self._action_type),
            "frame": ((*lanes, *self.spec.frame_shape), np.dtype(self.spec.dtype)),
            "first": (lanes, np.dtype(np.bool_)),
            "reward": (lanes, np.dtype(np.float64)),
            **integers,
        }
        for name, (shape, dtype) in expected.items():
            array = state.get(f"lanes.{name}")
            if array is None or (array.shape, array.dtype) != (shape, dtype):
                found = "missing" if array is None else f"{array.shape} of {array.dtype}"
                raise CheckpointError(f"lanes.{name} is {found}, expected {shape} of {dtype}")
        begun, episode, current, length = (state[f"lanes.{n}"] for n in ("begun", "episode", "current", "length"))
        since = rows - begun
        _within("lanes.begun", begun, 0, rows)
        _within("lanes.begun", begun.min(keepdims=True), 0, 0)
        _within("lanes.actions", state["lanes.actions"], 0, self.num_actions - 1)
        for lane, row in enumerate(begun):
            _within("lanes.actions", state["lanes.actions"][:row, lane], 0, 0)
        _within("lanes.episode", episode, 0, MAX_EPISODE)
        _within("lanes.current", current, episode, episode + since)
        _within("lanes.length", length, 0, since)


def _within(name: str, values: NDArray[Any], low: Any, high: Any) -> None:
    """Raise `CheckpointError` where one of the values is less than `low` or more than `high`, numbers or arrays."""
    wrong = np.flatnonzero((values < low) | (values > high))
    if wrong.size:
        value, low, high = (np.broadcast_to(numbers, values.shape).flat[wrong[0]] for numbers in (values, low, high))
        raise CheckpointError(f"{name} holds {value}, expected {low} to {high}")
