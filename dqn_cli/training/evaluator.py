"""Episodes on environments of their own, and what they say about a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dqn_cli.envs.make import SeedOf
from dqn_cli.seeding import Purpose, integer
from dqn_cli.training.trainer import Acts, Envs
from dqn_cli.types import EpisodeStats, StepResult

if TYPE_CHECKING:  # `dqn-plan` reads EVAL_LANES, and must not wait for torch
    from dqn_cli.agent.policy import Policy

EVAL_LANES = 8  # episodes of an evaluation that are played side by side


@dataclass(frozen=True, eq=False)
class Returns:
    """What is known of the return at one state: its mean `q [A]`, and for each action N of its `value [A, N]`.

    Either `mass [A, N]` says how probable each value is (atoms), or `fraction [A, N]` how probable a smaller return is
    (quantiles, in any order); the other one is None.
    """

    q: NDArray[np.float64]
    value: NDArray[np.float64]
    mass: NDArray[np.float64] | None = None
    fraction: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Seen:
    """What an evaluation tells beside its scores: see `Metric`. None where no return was seen, or Q is a scalar."""

    value_estimate: float | None
    value_return: float | None
    returns: Returns | None


@dataclass(frozen=True)
class EvalResult:
    """Scores (raw returns) and lengths of an evaluation's episodes, in the order of their seeds."""

    scores: list[float]
    lengths: list[int]
    seen: Seen | None = field(default=None, compare=False)

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))

    @property
    def sd(self) -> float:
        """Sample standard deviation of the scores; 0 for a single episode."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else 0.0

    @property
    def median(self) -> float:
        """Median score."""
        return float(np.median(self.scores))

    @property
    def mean_length(self) -> float:
        """Mean length in steps."""
        return float(np.mean(self.lengths))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the mean over episodes (10,000 resamples, always the same draws)."""
        scores, rng = np.asarray(self.scores), np.random.default_rng(0)
        # one resample at a time: all of them at once would take 160 kB per episode
        means = [scores[rng.integers(0, len(scores), len(scores))].mean() for _ in range(10_000)]
        low, high = np.quantile(means, (0.025, 0.975))
        return float(low), float(high)


class Observes(Protocol):
    """Looks on as episodes are played."""

    def add(self, step: StepResult, counted: NDArray[np.bool_]) -> None:
        """What the newest actions `[E]` led to; `counted` are those of episodes that are part of the result."""

    def seen(self) -> Seen:
        """What there was to see."""


def play(
    actor: Acts, envs: Envs, episodes: int, epsilon: float, check: Callable[[int], None], record: Observes | None = None
) -> EvalResult:
    """Play episodes 0 .. `episodes` - 1, episode i on lane i mod E, so that short ones are not over-counted.

    A lane that is through its own episodes goes on, unheeded, until the others are. `check` is called at every
    step with the number of episodes that are through, and may raise to stop; `record` looks on.
    """
    lanes = envs.num_envs
    done: dict[int, EpisodeStats] = {}
    playing = np.arange(lanes)
    frame, first = envs.reset(), np.ones(lanes, dtype=np.bool_)
    while len(done) < episodes:
        check(len(done))
        envs.send(actor.act(frame, first, epsilon))
        step = envs.recv()
        if record is not None:
            record.add(step, playing < episodes)
        for stats in step.episodes:
            index = stats.lane + stats.episode * lanes
            playing[stats.lane] = index + lanes
            if index < episodes:
                done[index] = stats
        frame, first = step.frame, step.first
    scores, lengths = [done[i].score for i in range(episodes)], [done[i].length for i in range(episodes)]
    return EvalResult(scores, lengths, None if record is None else record.seen())


class Thinks(Acts, Protocol):
    """An actor whose reasons can be seen, for the observations that it was asked about last."""

    obs: NDArray[Any]  # [E, *obs_shape]
    policy: Policy

    def values(self) -> NDArray[np.float32]:
        """Their Q-values `[E, A]`."""


class MakeEnvs(Protocol):
    """Builds E environments whose episodes are seeded by `seed_of(lane, episode)`."""

    def __call__(self, num_envs: int, seed_of: SeedOf) -> Envs:
        """Make them."""


class Evaluator:
    """Evaluates one actor again and again during a run, on the same seeds or on fresh ones."""

    def __init__(
        self,
        make_envs: MakeEnvs,
        make_actor: Callable[[int], Thinks],
        seed: int,
        episodes: int,
        epsilon: float = 0.0,
        make_record: Callable[[Thinks], Observes] | None = None,
    ):
        self._lanes = min(episodes, EVAL_LANES)
        self._seed = seed
        self._episodes = episodes
        self._epsilon = epsilon
        self._stream: tuple[Purpose, int] = (Purpose.EVAL_ENV, 0)
        self._envs = make_envs(self._lanes, self._seed_of)
        self._make_actor = make_actor
        self._make_record = make_record

    def run(self, check: Callable[[int], None]) -> EvalResult:
        """Episodes on the same seeds each time, so that two policies meet the same episodes; recorded."""
        return self._play((Purpose.EVAL_ENV, 0), check, self._make_record)

    def confirm(self, step: int, check: Callable[[int], None]) -> EvalResult:
        """Episodes on seeds that nothing was selected by."""
        return self._play((Purpose.BEST_ENV, step), check)

    def _play(
        self,
        stream: tuple[Purpose, int],
        check: Callable[[int], None],
        make_record: Callable[[Thinks], Observes] | None = None,
    ) -> EvalResult:
        self._stream = stream
        actor = self._make_actor(self._lanes)  # anew, so that its random actions are the same ones each time
        record = None if make_record is None else make_record(actor)
        return play(actor, self._envs, self._episodes, self._epsilon, check, record)

    def _seed_of(self, lane: int, episode: int) -> int:
        purpose, number = self._stream
        return integer(self._seed, purpose, number, lane + episode * self._lanes)
