"""ale-py's vector engine, as it is used here, against the emulator played by hand: one rule at a time.

The other engine has the same rules because it agrees with this one: test_envs_atari_engines.py.
"""

import sys
from collections import Counter
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from atari_console import (
    Console,
    breakout,
    first_episode_only,
    make,
    random_actions,
    same_seed,
    shrunk,
    steps,
)

from dqn_cli.config import AtariConfig, Engine, LifeLoss
from dqn_cli.types import EpisodeStats


def compare(config, number):
    """Play, check each frame and reward of the first game against the console; the steps, and the frames' screens."""
    with closing(make(config, seed_of=same_seed)) as lanes:
        console = Console(config)
        np.testing.assert_array_equal(lanes.reset()[0], shrunk(console.start(5)))
        seen, shown = [], []
        actions = random_actions(lanes, number)
        for step, action in zip(steps(lanes, actions), actions[:, 0], strict=True):
            score, screens = console.press(action, config.frame_skip)
            assert step.reward.tolist() == [score]
            seen.append(step)
            if step.terminated:
                break
            latest = np.max(screens[-2:], axis=0) if config.max_pool else screens[-1]
            np.testing.assert_array_equal(step.next_frame[0], shrunk(latest))
            shown.append(screens)
    return seen, shown


@pytest.mark.parametrize(("frame_skip", "max_pool"), [(1, True), (2, True), (3, False), (4, True)])
def test_frames_are_skipped_and_the_brightest_of_the_last_two_is_shown(frame_skip, max_pool):
    config = AtariConfig(id="ALE/SpaceInvaders-v5", sticky=0.0, frame_skip=frame_skip, max_pool=max_pool)
    _, shown = compare(config, 60)
    assert len(shown) > 40
    if frame_skip > 1:  # else nothing was seen of the pool: shots are drawn on every other frame
        assert any((screens[-2] > screens[-1]).any() for screens in shown)


def test_rewards_and_scores_are_raw():
    results, _ = compare(AtariConfig(id="ALE/SpaceInvaders-v5", sticky=0.0, max_frames=1200), 300)
    rewards = [step.reward.item() for step in results]
    assert max(rewards) >= 5
    (episode,) = results[-1].episodes
    assert episode.score == sum(rewards) > 50


def test_sticky_actions():
    sticky, _ = compare(breakout(sticky=0.25), 40)
    exact, _ = compare(breakout(), 40)
    assert any((one.next_frame != other.next_frame).any() for one, other in zip(sticky, exact, strict=True))


def test_all_eighteen_actions():
    with closing(make(breakout(full_actions=True))) as full, closing(make(breakout())) as minimal:
        full.reset()
        minimal.reset()
        assert (full.num_actions, minimal.num_actions) == (18, 4)
        moves = np.array([1, 2, 2, 3, 3, 3, 0, 2, 2, 2])
        places = np.array([0, 1, 3, 4])  # of NOOP, FIRE, RIGHT and LEFT among all
        for one, other in zip(steps(full, places[moves]), steps(minimal, moves), strict=True):
            np.testing.assert_array_equal(one.next_frame, other.next_frame)
        assert len({step.next_frame.tobytes() for step in steps(full, np.arange(18))}) > 5


def starts(config, button, number=80):
    """How many frames of `button`, then of nothing, the games begin with, and how often."""
    console = Console(config)
    frames = {console.start(0).tobytes(): 0}
    for i in range(config.noop_max + 1):
        (screen,) = console.press(button if i == 0 else 0, 1)[1]
        frames[screen.tobytes()] = i + 1
    with closing(make(config, seed_of=first_episode_only)) as lanes:
        first = lanes.reset()[0]
        others = [step.frame[0] for step in steps(lanes, np.zeros(number - 1, np.int64))]
    return Counter(frames[frame.tobytes()] for frame in [first, *others])


def one_step_games(game):
    return AtariConfig(id=game, sticky=0.0, noop_max=3, fire_reset=True, max_frames=4, resize=[210, 160])


def test_no_op_starts():
    found = starts(one_step_games("ALE/Freeway-v5"), button=0)  # a game without FIRE, in which all moves at once
    assert set(found) == {0, 1, 2, 3}
    assert all(9 <= number <= 31 for number in found.values())  # 20 expected, 2.8 standard deviations


def test_fire_is_pressed_first_and_is_one_of_the_no_ops():
    found = starts(one_step_games("ALE/Enduro-v5"), button=1)
    assert set(found) == {1, 2, 3}
    assert 27 <= found[1] <= 53  # half of them: none drawn, or one
    assert all(9 <= found[number] <= 31 for number in (2, 3))


def test_frames_at_the_start_do_not_count_towards_the_limit():
    with closing(make(breakout(noop_max=30, max_frames=20), seed_of=first_episode_only)) as lanes:
        lanes.reset()
        ended = [step.episodes for step in steps(lanes, np.zeros(15, np.int64))]
    assert ended == [[EpisodeStats(0, i // 5, 0.0, 5)] if i % 5 == 4 else [] for i in range(15)]


@pytest.mark.parametrize(("max_frames", "limit"), [(43, 10), (3, 1)])
def test_truncation_shows_the_true_last_frame_and_then_a_new_game(max_frames, limit):
    config = breakout(max_frames=max_frames)
    console = Console(config)
    first = shrunk(console.start(5))
    actions = np.array([1, 2, 2, 2, 3, 3, 3, 2, 3, 3])[:limit]
    with closing(make(config, seed_of=same_seed)) as lanes:
        lanes.reset()
        *before, last = steps(lanes, actions)
    for action in actions:
        _, screens = console.press(action, 4)
    assert not any(step.first.any() or step.truncated.any() for step in before)
    assert (last.first.tolist(), last.truncated.tolist(), last.terminated.tolist()) == ([True], [True], [False])
    np.testing.assert_array_equal(last.next_frame[0], shrunk(np.max(screens[-2:], axis=0)))
    np.testing.assert_array_equal(last.frame[0], first)
    assert (last.next_frame != last.frame).any()
    assert last.episodes == [EpisodeStats(0, 0, 0.0, limit)]


NUMBER = 200
ACTIONS = np.random.default_rng(3).integers(4, size=NUMBER)


@cache
def game(life_loss):
    with closing(make(breakout(life_loss=life_loss), seed_of=same_seed)) as lanes:
        lanes.reset()
        return list(steps(lanes, ACTIONS))


@cache
def losses():
    """Steps of the first game in which the console says that a life was lost; the last one ends it."""
    console, lost = Console(breakout()), []
    console.start(5)
    for i, action in enumerate(ACTIONS):
        lives = console.ale.lives()
        console.press(action, 4)
        if console.ale.lives() < lives:
            lost.append(i)
        if console.ale.game_over():
            break
    assert len(lost) == 5
    assert lost[-1] == i
    return lost


def test_lives_ignored():
    end = losses()[-1]
    assert [i for i, step in enumerate(game(LifeLoss.ignore)) if step.terminated][0] == end  # noqa: RUF015
    (episode,) = game(LifeLoss.ignore)[end].episodes
    assert (episode.length, episode.score) == (
        end + 1,
        sum(step.reward.item() for step in game(LifeLoss.ignore)[: end + 1]),
    )


def test_a_life_lost_is_a_terminal_and_the_game_goes_on():
    lost = losses()
    marked = game(LifeLoss.terminal)[: lost[-1] + 1]
    assert [i for i, step in enumerate(marked) if step.terminated] == lost
    assert [i for i, step in enumerate(marked) if step.first] == lost[-1:]
    for one, other in zip(marked, game(LifeLoss.ignore), strict=False):
        np.testing.assert_array_equal(one.frame, other.frame)
        np.testing.assert_array_equal(one.next_frame, other.next_frame)
        assert one.episodes == other.episodes
        assert not one.truncated


def test_a_life_lost_begins_a_new_game():
    results = game(LifeLoss.reset)
    ends = [i for i, step in enumerate(results) if step.first]
    assert [i for i, step in enumerate(results) if step.terminated] == ends
    assert [step.episodes[0].length for step in results if step.first] == np.diff([-1, *ends]).tolist()
    console, lost = Console(breakout()), []
    first = shrunk(console.start(5))
    for i, action in enumerate(ACTIONS):
        lives = console.ale.lives()
        console.press(action, 4)
        if console.ale.lives() < lives:
            lost.append(i)
            console.start(5)
    assert ends == lost
    for end in ends:
        np.testing.assert_array_equal(results[end].frame[0], first)
        assert (results[end].next_frame != first).any()


@pytest.mark.parametrize("engine", list(Engine))
@pytest.mark.parametrize("life_loss", list(LifeLoss))
def test_a_life_lost_at_the_limit(life_loss, engine):
    limit = losses()[0] + 1
    with closing(make(breakout(engine, life_loss=life_loss, max_frames=4 * limit), seed_of=same_seed)) as lanes:
        lanes.reset()
        *_, last = steps(lanes, ACTIONS[:limit])
    assert last.first.tolist() == [True]
    assert last.terminated.tolist() == [life_loss is not LifeLoss.ignore]
    assert last.truncated.tolist() == [life_loss is not LifeLoss.reset]


def test_games_are_seeded_as_asked():
    asked = []

    def seed_of(lane, episode):
        asked.append((lane, episode))
        return [3, None, 4][episode] if lane else 9

    config = AtariConfig(id="ALE/Pong-v5", sticky=0.25, max_frames=40)
    with closing(make(config, 2, seed_of)) as lanes:
        lanes.reset()
        actions = random_actions(lanes, 29)
        results = list(steps(lanes, actions))
        assert asked == [(lane, episode) for episode in range(3) for lane in range(2)]
        asked.clear()
        lanes.reset()
        assert asked == [(0, 0), (1, 0)]
        assert [step.first.tolist() for step in steps(lanes, actions[:10])][-1] == [True, True]  # from the start
    for lane, seeds in enumerate([(9, 9, 9), (3, None, 4)]):
        console = Console(config)
        for i in range(29):
            if i % 10 == 0:
                console.start(seeds[i // 10])
            _, screens = console.press(actions[i, lane], 4)
            np.testing.assert_array_equal(results[i].next_frame[lane], shrunk(np.max(screens[-2:], axis=0)))


def test_an_episode_of_any_number_begins_in_some_lanes(monkeypatch):
    """A game that begins so is the game of that number; those beside it go on."""
    monkeypatch.setattr("dqn_cli.envs.atari.usable_cores", lambda: 4)
    config = breakout(sticky=0.25, noop_max=10, max_frames=100)
    with closing(make(config, 2)) as lanes, closing(make(config, 2)) as undisturbed:
        lanes.reset()
        undisturbed.reset()
        actions = random_actions(lanes, 40)
        *_, step = steps(lanes, actions[:10])
        frames = lanes.begin(np.array([False, True]), np.array([8, 9]))
        np.testing.assert_array_equal(frames[0], step.frame[0])
        results = list(steps(lanes, actions[10:]))
        for one, two in zip(results, list(steps(undisturbed, actions))[10:], strict=True):
            for name in ("frame", "next_frame", "reward", "terminated", "truncated", "first"):
                np.testing.assert_array_equal(getattr(one, name)[0], getattr(two, name)[0])
    begun = [episode for step in results for episode in step.episodes]
    assert [(e.lane, e.episode, e.length) for e in begun] == [(0, 0, 25), (1, 9, 25)]
    assert begun[1].score == sum(step.reward[1] for step in results[:25])
    with closing(make(config, 1, lambda lane, episode: 1000 + 9 + episode)) as twin:
        np.testing.assert_array_equal(twin.reset()[0], frames[1])
        for one, two in zip(steps(twin, actions[10:, 1]), results, strict=True):
            np.testing.assert_array_equal(one.next_frame[0], two.next_frame[1])
            np.testing.assert_array_equal(one.frame[0], two.frame[1])


def test_the_first_beginning_is_of_all_games():
    asked = []
    with closing(make(breakout(), 2, lambda *key: asked.append(key))) as lanes:
        lanes.begin(np.array([False, True]), np.array([7, 7]))
        lanes.begin(np.array([False, True]), np.array([8, 8]))
        assert asked == [(0, 0), (1, 7), (1, 8)]


def test_lanes_play_what_they_would_play_alone(monkeypatch):
    """Lanes beside them that end and begin, and the number of threads, change nothing."""
    monkeypatch.setattr("dqn_cli.envs.atari.usable_cores", lambda: 4)
    config = breakout(sticky=0.25, noop_max=10, life_loss=LifeLoss.reset)

    def seed_of(lane, episode):
        return None if episode % 3 == 1 else 1000 * lane + episode

    with closing(make(config, 3, seed_of)) as lanes:
        firsts = lanes.reset()
        actions = random_actions(lanes, 90)
        together = list(steps(lanes, actions))
    ends = np.array([step.first for step in together])
    assert ends.any(axis=0).all()
    assert (ends.any(axis=1) & ~ends.all(axis=1)).sum() >= 5
    for lane in range(3):
        with closing(make(config, 1, lambda _, episode, lane=lane: seed_of(lane, episode))) as alone:
            np.testing.assert_array_equal(alone.reset()[0], firsts[lane])
            for one, all_three in zip(steps(alone, actions[:, lane]), together, strict=True):
                for name in ("frame", "next_frame", "reward", "terminated", "truncated", "first"):
                    np.testing.assert_array_equal(getattr(one, name)[0], getattr(all_three, name)[lane])
                mine = [(e.episode, e.score, e.length) for e in all_three.episodes if e.lane == lane]
                assert [(e.episode, e.score, e.length) for e in one.episodes] == mine


def test_a_result_stays_valid_while_the_next_one_is_made():
    with closing(make(breakout(max_frames=8), 2)) as lanes:
        lanes.reset()
        lanes.send(np.array([1, 1]))
        first = lanes.recv()
        kept = first.next_frame.copy(), first.frame.copy()
        list(steps(lanes, np.ones((1, 2), np.int64)))
        np.testing.assert_array_equal((first.next_frame, first.frame), kept)


def test_actions_are_checked_before_the_emulator_sees_them():
    with closing(make(breakout(), 2)) as lanes:
        lanes.reset()
        for actions in ([0], [0, 4], [0, -1], [0.0, 1.0], [[0, 1]], [True, False]):
            with pytest.raises(ValueError, match="actions must be"):
                lanes.send(np.array(actions))
        list(steps(lanes, np.array([[0, 3]], np.uint8)))


def test_sends_and_receives_come_in_turn():
    with closing(make(breakout())) as lanes:
        first = lanes.reset()
        lanes.send(np.array([1]))
        with pytest.raises(RuntimeError, match="send without recv"):
            lanes.send(np.array([1]))
        np.testing.assert_array_equal(lanes.reset(), first)  # not the step that was under way
        with pytest.raises(RuntimeError, match="recv without send"):
            lanes.recv()
        (step,) = steps(lanes, [0])
        assert step.reward.shape == (1,)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_that_the_emulator_does_not_take(seed):
    lanes = make(breakout(), seed_of=lambda lane, episode: seed)
    with closing(lanes), pytest.raises(ValueError, match=r"seeds must be in \[0, 2147483647\]"):
        lanes.reset()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_ends_the_threads():
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    lanes = make(breakout())
    lanes.reset()
    lanes.send(np.array([0]))
    assert len(list(tasks.iterdir())) > before
    lanes.close()
    assert len(list(tasks.iterdir())) == before
    lanes.close()
