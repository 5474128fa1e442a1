from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dqn_cli.errors import Interrupted
from dqn_cli.seeding import Purpose, integer
from dqn_cli.training.evaluator import EvalResult, Evaluator, SeedOf, Seen, play
from dqn_cli.types import EpisodeStats, StepResult


class Lottery:
    """Episodes whose length and score follow from their seed alone: short ones score low."""

    def __init__(self, num_envs: int, seed_of: SeedOf) -> None:
        self.num_envs, self.seed_of = num_envs, seed_of
        self.seeds_used: list[int | None] = []

    def reset(self) -> np.ndarray:
        self.episode = np.zeros(self.num_envs, int)
        self.left = np.array([self.length(lane, 0) for lane in range(self.num_envs)])
        return np.zeros((self.num_envs, 1), np.float32)

    def length(self, lane: int, episode: int) -> int:
        seed = self.seed_of(lane, episode)
        self.seeds_used.append(seed)
        assert seed is not None
        return 1 + seed % 20

    def send(self, actions: np.ndarray) -> None:
        pass

    def recv(self) -> StepResult:
        self.left -= 1
        over = self.left == 0
        stats = []
        for lane in np.flatnonzero(over):
            length = 1 + self.seed_of(lane, self.episode[lane]) % 20  # type: ignore[operator]
            stats.append(EpisodeStats(int(lane), int(self.episode[lane]), float(length), length))
            self.episode[lane] += 1
            self.left[lane] = self.length(lane, self.episode[lane])
        frame = np.zeros((self.num_envs, 1), np.float32)
        return StepResult(frame, frame, np.zeros(self.num_envs), over, over & False, over, stats)


class Still:
    def __init__(self) -> None:
        self.told: list[tuple[list[bool], float]] = []

    def act(self, frame: np.ndarray, first: np.ndarray, epsilon: float) -> np.ndarray:
        self.told.append((first.tolist(), epsilon))
        return np.zeros(len(frame), np.int64)


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_each_episode_counts_once_however_the_lanes_are_cut(lanes: int) -> None:
    envs = Lottery(lanes, lambda lane, episode: integer(5, Purpose.EVAL_ENV, lane + episode * lanes))
    result = play(Still(), envs, 13, 0.0, check=lambda done: None)
    wanted = [1 + integer(5, Purpose.EVAL_ENV, i) % 20 for i in range(13)]
    assert result.lengths == wanted
    assert result.scores == wanted


class Counter:
    """Counts the steps that are part of the result."""

    def __init__(self) -> None:
        self.steps = 0

    def add(self, step: StepResult, counted: np.ndarray) -> None:
        self.steps += int(counted.sum())

    def seen(self) -> Seen:
        return Seen(float(self.steps), None, None)


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_who_looks_on_sees_every_step_of_the_episodes_that_count_and_changes_nothing(lanes: int) -> None:
    def lottery() -> Lottery:
        return Lottery(lanes, lambda lane, episode: integer(5, Purpose.EVAL_ENV, lane + episode * lanes))

    result = play(Still(), lottery(), 13, 0.0, lambda done: None, Counter())
    assert result == play(Still(), lottery(), 13, 0.0, lambda done: None)
    assert result.seen == Seen(sum(result.lengths), None, None)


def test_evaluations_are_recorded_and_confirmations_are_not() -> None:
    actors: list[Still] = []

    def make_record(actor: Still) -> Counter:
        actors.append(actor)
        return Counter()

    evaluator = Evaluator(Lottery, lambda lanes: Still(), seed=0, episodes=4, make_record=make_record)
    first, again = evaluator.run(lambda done: None), evaluator.run(lambda done: None)
    assert first.seen == again.seen == Seen(sum(first.lengths), None, None)
    assert evaluator.confirm(10, lambda done: None).seen is None
    assert len(set(map(id, actors))) == 2  # its own actor each time


def test_an_evaluation_repeats_itself_and_a_confirmation_meets_fresh_episodes() -> None:
    evaluator = Evaluator(Lottery, lambda lanes: Still(), seed=0, episodes=9)
    first, again = evaluator.run(lambda done: None), evaluator.run(lambda done: None)
    at_10, at_20 = evaluator.confirm(10, lambda done: None), evaluator.confirm(20, lambda done: None)
    assert first == again
    for result, stream in ((first, (Purpose.EVAL_ENV, 0)), (at_10, (Purpose.BEST_ENV, 10))):
        assert result.lengths == [1 + integer(0, *stream, i) % 20 for i in range(9)]
    assert len({tuple(r.scores) for r in (first, at_10, at_20)}) == 3


@pytest.mark.parametrize(("episodes", "lanes"), [(1, 1), (3, 3), (9, 8)])
def test_an_evaluation_is_greedy_and_begins_in_every_lane_at_an_episodes_start(episodes: int, lanes: int) -> None:
    actor = Still()
    evaluator = Evaluator(Lottery, lambda lanes: actor, seed=0, episodes=episodes)
    for _ in range(2):
        actor.told.clear()
        evaluator.run(lambda done: None)
        assert actor.told[0] == ([True] * lanes, 0.0)
        assert {epsilon for _, epsilon in actor.told} == {0.0}


def test_an_evaluation_explores_as_it_is_told_with_a_new_actor_each_time() -> None:
    actors: list[Still] = []

    def make_actor(lanes: int) -> Still:
        actors.append(Still())
        return actors[-1]

    evaluator = Evaluator(Lottery, make_actor, seed=0, episodes=3, epsilon=0.25)
    evaluator.run(lambda done: None)
    evaluator.confirm(10, lambda done: None)
    assert len(actors) == 2
    assert {epsilon for actor in actors for _, epsilon in actor.told} == {0.25}


def test_an_evaluation_can_be_stopped() -> None:
    def check(done: int) -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        play(Still(), Lottery(1, lambda lane, episode: 3), 5, 0.0, check)


def test_statistics_by_hand() -> None:
    result = EvalResult([1.0, 2.0, 6.0], [10, 20, 60])
    assert (result.mean, result.median, result.mean_length) == (3.0, 2.0, 30.0)
    assert result.sd == pytest.approx(np.sqrt((4 + 1 + 9) / 2))
    assert EvalResult([4.0], [1]).sd == 0.0
    assert EvalResult([4.0] * 5, [1] * 5).interval == (4.0, 4.0)


def test_the_interval_of_many_episodes_needs_little_memory() -> None:
    result = EvalResult(list(np.arange(1000.0)), [1] * 1000)
    tracemalloc.start()
    low, high = result.interval
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6
    assert low == pytest.approx(499.5 - 1.96 * result.sd / 1000**0.5, abs=1)
    assert high == pytest.approx(499.5 + 1.96 * result.sd / 1000**0.5, abs=1)


def test_the_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = EvalResult(list(rng.normal(7.0, 3.0, 60)), [1] * 60).interval
        hits += low <= 7.0 <= high
    assert 0.90 <= hits / 200 <= 0.98
