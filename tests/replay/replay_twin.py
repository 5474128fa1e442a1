"""A naive twin of the replay room: whole stacks in a list, plain Python; and the worlds that drive both."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch

from dqn_cli.replay import size
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.replay.samplers import Sampler
from dqn_cli.types import ObsSpec, StepResult


class Event(IntEnum):
    """What happens to one environment in one step: terminated, truncated, first."""

    GOES_ON = 0
    TERMINATED = 1
    TRUNCATED = 2
    BOTH = 3
    LIFE_LOST = 4
    CUT = 5
    TRUNCATED_IN_PLACE = 6


FLAGS = {
    Event.GOES_ON: (False, False, False),
    Event.TERMINATED: (True, False, True),
    Event.TRUNCATED: (False, True, True),
    Event.BOTH: (True, True, True),
    Event.LIFE_LOST: (True, False, False),
    Event.CUT: (False, False, True),
    Event.TRUNCATED_IN_PLACE: (False, True, False),
}

ACTIONS = 1000


@dataclass
class World:
    """Events `[steps][E]` and the sizes; a frame's pixels are its number, counted as frames come into being."""

    stack: int
    n_step: int
    capacity: int
    events: list[list[Event]]
    discount: float = 0.9


@dataclass
class TwinLane:
    frames: list[int] = field(default_factory=list)  # since the episode began
    open: list[tuple[list[int], int, list[float]]] = field(default_factory=list)


class Twin:
    """Keeps every transition ever made, as lists: (obs, action, reward, discount, next_obs)."""

    def __init__(self, world: World, first_frames: list[int]) -> None:
        self.world = world
        self.lanes = [TwinLane([frame]) for frame in first_frames]
        self.rows: list[tuple[list[int], int, float, float, list[int]]] = []
        self.priorities: list[float] = []  # of every row ever made
        self.largest = 1.0

    def stack(self, lane: TwinLane) -> list[int]:
        k = self.world.stack
        return ([lane.frames[0]] * k + lane.frames[1:])[-k:]

    def step(self, e: int, action: int, reward: float, frame: int, event: Event) -> None:
        lane, gamma = self.lanes[e], self.world.discount
        lane.open.append((self.stack(lane), action, []))
        lane.frames.append(frame)
        for _, _, rewards in lane.open:
            rewards.append(reward)
        still_open = []
        for obs, taken, rewards in lane.open:
            if event is Event.GOES_ON and len(rewards) < self.world.n_step:
                still_open.append((obs, taken, rewards))
                continue
            total = sum(gamma**i * r for i, r in enumerate(rewards))
            bootstrap = 0.0 if FLAGS[event][0] else gamma ** len(rewards)
            self.rows.append((obs, taken, total, bootstrap, self.stack(lane)))
            self.priorities.append(self.largest)
        lane.open = still_open

    def update(self, rows: list[int], errors: list[float], oldest: int) -> None:
        for row, error in zip(rows, errors, strict=True):
            if row >= oldest:
                self.priorities[row] = error
                self.largest = max(self.largest, error)

    def begin(self, e: int, frame: int) -> None:
        self.lanes[e].frames = [frame]

    def cut(self, e: int) -> None:
        lane, gamma = self.lanes[e], self.world.discount
        for obs, taken, rewards in lane.open:
            total = sum(gamma**i * r for i, r in enumerate(rewards))
            self.rows.append((obs, taken, total, gamma ** len(rewards), self.stack(lane)))
            self.priorities.append(self.largest)
        lane.open = []


def spec_of(stack: int) -> ObsSpec:
    return ObsSpec((2,), "int32", stack)


def memory_of(
    world: World,
    seed: int = 0,
    reward_clip: float | None = None,
    sampler: Sampler | None = None,
    device: torch.device | None = None,
) -> ReplayMemory:
    accumulator, rng = NStepAccumulator(world.n_step, world.discount, len(world.events[0])), np.random.default_rng(seed)
    return ReplayMemory(world.capacity, spec_of(world.stack), accumulator, rng, reward_clip, sampler, device)


def pixels(numbers: list[int]) -> np.ndarray:
    return np.array([[number, -number] for number in numbers], np.int32)


class Life:
    """Drives memories, all alike, and their twin by random actions, rewards and errors. Can be copied, and goes on."""

    def __init__(self, world: World, seed: int, *memories: ReplayMemory) -> None:
        self.lanes, self.rng = range(len(world.events[0])), random.Random(seed)
        self.frame_count = len(self.lanes)
        self.twin, self.drawn = Twin(world, list(self.lanes)), np.zeros(0, np.int64)
        for memory in memories:
            memory.start(pixels(list(self.lanes)))

    def step(self, events: list[Event], *memories: ReplayMemory) -> None:
        lanes, rng, twin = self.lanes, self.rng, self.twin
        actions, rewards = [rng.randrange(ACTIONS) for _ in lanes], [rng.uniform(-2, 2) for _ in lanes]
        successors = [self.frame_count + e for e in lanes]
        self.frame_count += len(lanes)
        shown, before = list(successors), len(twin.rows)
        for e in lanes:
            twin.step(e, actions[e], rewards[e], successors[e], events[e])
            if FLAGS[events[e]][2]:
                shown[e] = self.frame_count
                self.frame_count += 1
                twin.begin(e, shown[e])
        for memory in memories:
            terminated, truncated, first = (np.array([FLAGS[event][i] for event in events]) for i in range(3))
            step = StepResult(pixels(shown), pixels(successors), np.array(rewards), terminated, truncated, first)
            written = memory.append(np.array(actions), step)
            assert written == len(twin.rows) - before
            assert len(memory) >= min(written, twin.world.capacity)  # what a step finished can be learnt at once
            for reused in (step.frame, step.next_frame, step.reward):
                reused[...] = 99  # an environment may write the next step into the same arrays

    def learn(self, *memories: ReplayMemory) -> None:
        """The errors of rows drawn a step ago come, some of them too late; then others are drawn."""
        errors = [10 ** self.rng.uniform(-3, 3) for _ in self.drawn]
        self.twin.update(self.drawn.tolist(), errors, len(self.twin.rows) - len(memories[0]))
        batches = []
        for memory in memories:
            memory.update_priorities(self.drawn, np.array(errors))
            batches += [memory.sample(7)] if len(memory) else []
        for batch in batches:
            for name in ("obs", "action", "reward", "discount", "next_obs", "weight", "row"):
                one, other = getattr(batch, name), getattr(batches[0], name)
                assert one is other or np.asarray(one).tobytes() == np.asarray(other).tobytes()
            self.drawn = batch.row

    def cut(self, *memories: ReplayMemory) -> None:
        """Every episode is cut; then all begin anew."""
        before = len(self.twin.rows)
        begun = [self.frame_count + e for e in self.lanes]
        self.frame_count += len(self.lanes)
        for e in self.lanes:
            self.twin.cut(e)
            self.twin.begin(e, begun[e])
        for memory in memories:
            assert memory.cut(pixels(begun)) == len(self.twin.rows) - before


def play(
    world: World, seed: int, check_every: int = 10**9, sampler: Sampler | None = None
) -> tuple[ReplayMemory, Twin]:
    """Drive memory and twin by the same world, comparing them now and then and at the end.

    Where a sampler is given, errors come in, which it is to take as they are.
    """
    memory = memory_of(world, sampler=sampler)
    life = Life(world, seed, memory)
    for t, events in enumerate(world.events):
        life.step(events, memory)
        if sampler is not None:
            life.learn(memory)
        if t % check_every == check_every - 1:
            compare(memory, life.twin, life.frame_count)
    compare(memory, life.twin, life.frame_count)
    return memory, life.twin


def compare(memory: ReplayMemory, twin: Twin, frame_count: int) -> None:
    """Every live row equals the twin's; none went before its frames came within the margin of being lost."""
    world, live = twin.world, len(memory)
    sizes = (world.capacity, spec_of(world.stack), world.n_step, len(twin.lanes))
    possible = min(world.capacity, len(twin.rows))
    assert live <= possible
    if live < possible:
        kept = size.frames_kept(*sizes) - size.margin(world.stack, world.n_step, len(twin.lanes))
        assert twin.rows[-live - 1][0][0] < frame_count - kept
    memory.check_valid()
    if not twin.rows:
        return
    assert live > 0
    if "priority.leaves" in memory.state_dict():
        priorities = np.zeros(world.capacity)
        priorities[np.arange(len(twin.rows))[-live:] % world.capacity] = twin.priorities[-live:]
        np.testing.assert_array_equal(memory.state_dict()["priority.leaves"], priorities)
    obs, action, reward, discount, next_obs = zip(*twin.rows[-live:], strict=True)
    batch = memory.newest(live)
    for got, wanted in ((batch.obs, obs), (batch.next_obs, next_obs)):
        stacks = np.array(wanted, np.int32)[..., None] * np.array([1, -1], np.int32)
        np.testing.assert_array_equal(got.numpy(), stacks if world.stack > 1 else stacks[:, 0])
    np.testing.assert_array_equal(batch.action.numpy(), action)
    np.testing.assert_allclose(batch.reward.numpy(), reward, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(batch.discount.numpy(), discount, rtol=1e-6)


def random_world(seed: int, steps: int = 60) -> World:
    """1 to 4 environments of different tempers: some end at every step, some hardly ever."""
    rng = random.Random(seed)
    tempers = [rng.choice([0.02, 0.2, 0.6, 1.0]) for _ in range(rng.randint(1, 4))]
    endings = list(Event)[1:]

    def event(temper: float) -> Event:
        return rng.choice(endings) if rng.random() < temper else Event.GOES_ON

    events = [[event(temper) for temper in tempers] for _ in range(rng.randint(1, steps))]
    return World(rng.randint(1, 4), rng.randint(1, 4), rng.choice([1, 3, 10, 40, 100, 200]), events)
