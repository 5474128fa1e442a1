"""A memory that was saved and loaded is the one that was not; what is none is refused."""

from __future__ import annotations

import random
import shutil
import tempfile
from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from replay_twin import ACTIONS, Event, Life, World, compare, memory_of, spec_of

from dqn_cli.errors import CheckpointError, StorageError
from dqn_cli.replay import segments, size
from dqn_cli.replay.memory import ReplayMemory
from dqn_cli.replay.n_step import NStepAccumulator
from dqn_cli.replay.samplers import LARGEST, Prioritized
from dqn_cli.replay.segments import SegmentStore
from dqn_cli.schedules import linear
from dqn_cli.types import StepResult


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 16)
    monkeypatch.setattr(segments, "PIECE_BYTES", 100)
    monkeypatch.setattr(size, "SLACK_BYTES", 0)  # so that frames run out, too


def sampler_of(prioritized):
    """One that takes errors as they are."""
    return Prioritized(alpha=1.0, eps=0.0, beta=linear(0.4, 1.0, 100)) if prioritized else None


def world_of(stack, n_step, lanes, capacity=60):
    return World(stack, n_step, capacity, [[Event.GOES_ON] * lanes])


def some_events(life, temper=0.15):
    return [life.rng.choice(list(Event)) if life.rng.random() < temper else Event.GOES_ON for _ in life.lanes]


def lived(world, steps, prioritized=True, seed=0, temper=0.15):
    """A memory and its life so far."""
    memory = memory_of(world, sampler=sampler_of(prioritized))
    life = Life(world, seed, memory)
    for _ in range(steps):
        life.step(some_events(life, temper), memory)
        life.learn(memory)
    return memory, life


def on_disk(memory):
    """What becomes of the small state in a checkpoint."""
    return safetensors.numpy.load(safetensors.numpy.save(memory.small_state()))


def snapshot(memory):
    return {name: array.tobytes() for name, array in memory.state_dict().items()}


def copied(rings):
    """A `fill` from arrays in memory."""

    def fill(into):
        for name, ring in into.items():
            ring.storage[:] = rings[name].storage

    return fill


def fill_of(memory):
    """A `fill` that writes only what the rings hold, as segments do."""

    def fill(into):
        for name, ring in memory.rings().items():
            where = np.arange(ring.begin, ring.end) % len(ring.storage)
            into[name].storage[where] = ring.storage[where]

    return fill


def restored(world, memory, store, found, prioritized):
    """A new memory from what is on disk, and the old one's random stream."""
    new = memory_of(world, seed=99, sampler=sampler_of(prioritized))
    new.load(on_disk(memory), lambda rings: store.load(found, rings), ACTIONS)
    new._rng.bit_generator.state = memory._rng.bit_generator.state
    return new


@pytest.mark.parametrize(
    ("stack", "n_step", "lanes", "prioritized"), list(product((1, 4), (1, 3), (1, 3), (False, True)))
)
def test_saved_and_loaded_again_and_again_it_is_the_undisturbed_one(tmp_path, stack, n_step, lanes, prioritized):
    world = world_of(stack, n_step, lanes)
    undisturbed, life = lived(world, 0, prioritized)
    memory, rng = undisturbed, random.Random(stack)
    memories = [undisturbed]
    store = SegmentStore(tmp_path)
    for _ in range(8):
        for _ in range(rng.randint(0, 90)):
            life.step(some_events(life), *memories)
            life.learn(*memories)
        memory.check_valid()
        found = store.save(memory.rings())
        if rng.random() < 0.7:
            store = SegmentStore(tmp_path)
            memory = restored(world, memory, store, found, prioritized)
            memories = [undisturbed, memory]
        assert snapshot(memory) == snapshot(undisturbed)
        store.prune({segment.file for segment in found})
    assert life.frame_count > 2 * len(undisturbed._frames)  # both rings went round
    for _ in range(200):
        life.step(some_events(life), *memories)
        life.learn(*memories)
    assert snapshot(memory) == snapshot(undisturbed)
    assert memory._rng.bit_generator.state == undisturbed._rng.bit_generator.state
    compare(memory, life.twin, life.frame_count)


@pytest.mark.parametrize("stack", [1, 4])
def test_a_patient_lane_beside_hectic_ones_reaches_far_back_and_is_believed(stack):
    world = world_of(stack, 4, 4)
    memory = memory_of(world, sampler=sampler_of(True))
    life, farthest = Life(world, 0, memory), 0
    for _ in range(30):
        life.step([Event.GOES_ON, *[Event.TERMINATED] * 3], memory)
        small = memory.small_state()
        open_windows = small["memory.window.obs"][:, 0][small["memory.window.obs"][:, 0] > 0]
        farthest = max(farthest, life.frame_count - min(open_windows.min(initial=10**9), small["memory.stacks"].min()))
        memory_of(world, sampler=sampler_of(True)).load(small, copied(memory.rings()), ACTIONS)
    assert farthest > size.margin(stack, 4, 4) // 2


def test_small_state_and_rings_are_all_of_the_state(tmp_path):
    memory, _ = lived(world_of(2, 3, 2), 70)
    state, small, rings = memory.state_dict(), memory.small_state(), memory.rings()
    assert {name.removeprefix("memory.") for name in small} | {"frames"} == {n for n in state if n[:4] != "row."}
    assert rings["frames"].storage is state["frames"]
    assert all(np.shares_memory(rings["rows"].storage, state[name]) for name in state if name.startswith("row."))
    assert all(array.flags.c_contiguous for array in small.values())  # safetensors writes others wrongly
    before = {name: array.tobytes() for name, array in small.items()}
    memory.append(np.zeros(2, int), StepResult(*np.zeros((2, 2, 2), np.int32), np.ones(2), *np.zeros((3, 2), bool)))
    assert {name: array.tobytes() for name, array in small.items()} == before  # copies


@pytest.mark.parametrize("steps", [0, 1, 20, 200])
def test_rings_hold_what_was_not_overwritten(steps):
    memory, life = lived(world_of(2, 3, 2), steps, temper=1.0)
    frames, rows = memory.rings()["frames"], memory.rings()["rows"]
    assert (frames.end, rows.end) == (life.frame_count, len(life.twin.rows))
    assert frames.begin == max(0, frames.end - len(memory._frames))
    assert rows.begin == max(0, rows.end - 60)
    assert frames.lanes == rows.lanes == 2
    if steps == 200:
        assert rows.begin < memory._live.start  # some have retired, and are kept all the same
    for number in range(frames.begin, frames.end):
        assert frames.storage[number % len(frames.storage)].tolist() == [number, -number]


SMALL = [
    "memory.stacks",
    "memory.counters",
    "memory.window.obs",
    "memory.window.action",
    "memory.window.reward",
    "memory.window.oldest",
    "memory.window.step",
    "memory.priority.leaves",
    "memory.priority.largest",
]


def refused(small, fill, match=None, prioritized=True, num_actions=ACTIONS):
    """A load that ends in one line, and leaves a memory that is as new."""
    world = world_of(2, 3, 2)
    new = memory_of(world, sampler=sampler_of(prioritized))
    with pytest.raises(CheckpointError, match=match) as error:
        new.load(small, fill, num_actions)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert snapshot(new) == snapshot(memory_of(world, sampler=sampler_of(prioritized)))
    life = Life(world, 0, new)  # and can be used
    for _ in range(10):
        life.step(some_events(life), new)
        life.learn(new)
    compare(new, life.twin, life.frame_count)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_may_be_missing_and_everything_has_its_shape(name):
    memory, _ = lived(world_of(2, 3, 2), 70)
    small, fill = memory.small_state(), copied(memory.rings())
    assert sorted(small) == sorted(SMALL)
    refused({key: array for key, array in small.items() if key != name}, fill, f"'{name}' is missing or unknown")
    array = small[name]
    for other in (array.reshape(1, *array.shape), array.astype(np.float32), array.astype(array.dtype.newbyteorder())):
        refused({**small, name: other}, fill, f"not one: {name} is ")
    if array.ndim:
        refused({**small, name: array[:-1]}, fill, f"{name} is .* expected {array.dtype} of shape")


def test_nothing_may_be_there_that_is_unknown():
    memory, _ = lived(world_of(2, 3, 2), 70)
    small, fill = memory.small_state(), copied(memory.rings())
    refused({**small, "memory.more": np.zeros(1)}, fill, "'memory.more' is missing or unknown")
    refused(small, fill, "'memory.priority.largest' is missing or unknown", prioritized=False)


def test_the_memory_of_other_sizes_is_refused():
    for other in (world_of(2, 3, 2, 61), world_of(3, 3, 2), world_of(2, 2, 2), world_of(2, 3, 1)):
        memory, _ = lived(other, 70)
        refused(memory.small_state(), copied(memory.rings()), "is int64 of shape|is float64 of shape")


def spoil(name, where, value):
    def spoilt(small):
        small[f"memory.{name}"][where] = value

    return spoilt


def backwards(small):
    end = small["memory.counters"][FRAMES]
    small["memory.stacks"][0] = end - 1, end - 2


FRAMES, OLDEST, NEXT = 0, 1, 2  # of the counters
WRONG_NUMBERS = [
    (spoil("counters", FRAMES, -1), "-1 frames"),
    (spoil("counters", FRAMES, 2**62), "frames, rows"),
    (spoil("counters", FRAMES, 2**63 - 1), "frames, rows"),
    (spoil("counters", FRAMES, 0), "frames, rows"),
    (spoil("counters", FRAMES, 10_000), "lost frame"),
    (spoil("counters", OLDEST, -1), "frames, rows"),
    (spoil("counters", OLDEST, 10_000), "frames, rows"),
    (spoil("counters", NEXT, 10_000), "frames, rows"),
    (spoil("counters", NEXT, -(2**63)), "frames, rows"),
    (spoil("counters", OLDEST, 0), "138 rows, its capacity is 60"),
    (spoil("stacks", (0, 0), -1), "shows a lost frame"),
    (spoil("stacks", (0, 0), 0), "shows a lost frame"),
    (spoil("stacks", (1, 1), 2**62), "shows a lost frame"),
    (spoil("stacks", (0, 1), 0), "shows a lost frame"),
    (backwards, "shows a lost frame"),
    (spoil("window.step", (), -1), "open windows"),
    (spoil("window.step", (), 2**63 - 1), "open windows"),
    (spoil("window.oldest", 0, 0), "open windows"),
    (spoil("window.oldest", 0, 70 - 3), "open windows"),  # one more than can be open
    (spoil("window.oldest", 1, 71), "open windows"),
    (spoil("window.oldest", 1, -(2**63)), "open windows"),
    (spoil("window.obs", ..., -1), "window points to a lost frame"),
    (spoil("window.obs", ..., 0), "window points to a lost frame"),
    (spoil("window.obs", ..., 2**40), "window points to a lost frame"),
    (spoil("window.action", ..., -1), "window has an action that there is not"),
    (spoil("window.action", ..., ACTIONS), "window has an action that there is not"),
    (spoil("window.reward", (0, 0), np.nan), "reward of an open window"),
    (spoil("window.reward", (0, 0), -np.inf), "reward of an open window"),
    (spoil("priority.largest", (), np.nan), "largest priority"),
    (spoil("priority.largest", (), np.inf), "largest priority"),
    (spoil("priority.largest", (), 2 * LARGEST), "largest priority"),
    (spoil("priority.largest", (), 0.5), "largest priority"),
    (spoil("priority.largest", (), 1.0), "above the largest"),
    (spoil("priority.leaves", 3, np.nan), "negative or no number"),
    (spoil("priority.leaves", 3, np.inf), "above the largest"),
    (spoil("priority.leaves", 3, -1.0), "negative"),
    (spoil("priority.leaves", ..., 0.0), "can never be drawn"),
]


@pytest.mark.parametrize(("spoilt", "match"), WRONG_NUMBERS)
def test_numbers_that_cannot_be_are_refused_before_anything_is_read(spoilt, match):
    memory, _ = lived(world_of(2, 3, 2), 70)
    small = memory.small_state()
    assert small["memory.counters"].tolist()[NEXT] == 138
    memory_of(world_of(2, 3, 2), sampler=sampler_of(True)).load(small, copied(memory.rings()), ACTIONS)
    spoilt(small)
    refused(small, lambda rings: pytest.fail("was read"), f"^the replay memory of the checkpoint is not one: .*{match}")


@pytest.mark.parametrize(("step", "oldest"), [(2**62, 2**62), (-1, -1), (1, -1), (5, -(2**63))])
def test_steps_that_cannot_be_are_refused_also_where_lanes_agree(step, oldest):
    memory, _ = lived(world_of(2, 3, 2), 70)
    small = memory.small_state()
    small["memory.window.step"][()], small["memory.window.oldest"][:] = step, oldest
    refused(small, fill_of(memory), "more open windows than there can be")


def test_open_windows_matter_and_closed_ones_do_not():
    memory, life = lived(world_of(2, 3, 2), 70)
    open_lines = [{(70 - 1 - age) % 3 for age in range(len(lane.open))} for lane in life.twin.lanes]
    assert sum(map(len, open_lines)) in range(1, 6)
    for line, lane in product(range(3), range(2)):
        for name, value in (("window.obs", -1), ("window.action", -1)):
            small = memory.small_state()
            small[f"memory.{name}"][line, lane] = value
            if line in open_lines[lane]:
                refused(small, fill_of(memory), "an open window")
            else:
                memory_of(world_of(2, 3, 2), sampler=sampler_of(True)).load(small, fill_of(memory), ACTIONS)


def test_rows_that_are_not_there_cannot_be_drawn():
    memory, _ = lived(world_of(2, 3, 2), 12)
    small = memory.small_state()
    small["memory.priority.leaves"][-1] = 0.5
    refused(small, lambda rings: pytest.fail("was read"), "a row that is gone can be drawn")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("action", -1, "action that there is not"),
        ("action", ACTIONS, "action that there is not"),
        ("reward", np.nan, "reward is not finite"),
        ("reward", np.inf, "reward is not finite"),
        ("discount", -0.1, "discount is not"),
        ("discount", 1.1, "discount is not"),
        ("discount", np.nan, "discount is not"),
        ("ids", [[-1, 200], [200, 200]], "lost frame"),
        ("ids", [[0, 200], [200, 200]], "lost frame"),
        ("ids", [[200, 200], [200, 2**62]], "yet to come"),
        ("ids", [[200, 199], [199, 201]], "order of time"),
        ("ids", [[200, 200], [200, 200]], "lead forward"),
        ("ids", [[200, 201], [199, 200]], "lead forward"),
    ],
)
def test_rows_that_cannot_be_are_refused_where_they_are_live(field, value, match):
    memory, _ = lived(world_of(2, 3, 2), 70, temper=1.0)
    rows, oldest = memory.rings()["rows"], memory._live.start
    assert rows.begin < oldest
    memory._rows[field][rows.begin % 60] = value  # retired: nobody will ever look
    fresh = memory_of(world_of(2, 3, 2), sampler=sampler_of(True))
    fresh.load(memory.small_state(), copied(memory.rings()), ACTIONS)
    for row in (oldest, oldest + 7, rows.end - 1):
        spoilt = memory.rings()["rows"]._replace(storage=memory.rings()["rows"].storage.copy())
        spoilt.storage[field][row % 60] = value
        refused(memory.small_state(), copied({**memory.rings(), "rows": spoilt}), match)


def test_the_environments_say_how_many_actions_there_are():
    memory, life = lived(world_of(2, 3, 2), 70)
    largest = max(row[1] for row in life.twin.rows[-len(memory) :])
    small = memory.small_state()
    small["memory.window.action"][...] = 0
    fresh = memory_of(world_of(2, 3, 2), sampler=sampler_of(True))
    fresh.load(small, copied(memory.rings()), largest + 1)
    refused(small, copied(memory.rings()), "action that there is not", num_actions=largest)


def test_records_that_were_not_written_are_noticed():
    memory, _ = lived(world_of(2, 3, 2), 70)
    refused(memory.small_state(), lambda rings: None)


def test_a_second_load_starts_from_nothing(tmp_path):
    """The newest checkpoint turns out to be damaged half way through: the one before it is loaded as if first."""
    world = world_of(2, 3, 2)
    memory, life = lived(world, 70)
    store = SegmentStore(tmp_path)
    older, small = store.save(memory.rings()), memory.small_state()
    before = snapshot(memory)
    for _ in range(100):
        life.step(some_events(life), memory)
    newer = store.save(memory.rings())
    path = tmp_path / newer[-1].file
    path.write_bytes(path.read_bytes()[:-1])
    fresh, store = memory_of(world, sampler=sampler_of(True)), SegmentStore(tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        fresh.load(memory.small_state(), lambda rings: store.load(newer, rings), ACTIONS)
    fresh.load(small, lambda rings: store.load(older, rings), ACTIONS)
    assert snapshot(fresh) == before


def test_nothing_is_left_of_what_was_there_before_a_load():
    world = world_of(2, 3, 2)
    young, _ = lived(world, 20)
    old, _ = lived(world, 200, seed=1)
    old.load(young.small_state(), fill_of(young), ACTIONS)
    assert snapshot(old) == snapshot(young)


def test_whatever_is_loaded_can_be_used():
    """Any byte may have any value: it is refused, or nothing that comes later fails."""
    memory, life = lived(world_of(2, 3, 2), 70)
    rng, accepted = random.Random(0), 0
    for _ in range(600):
        small, rows = memory.small_state(), memory.rings()["rows"].storage.copy()
        name = rng.choice([*SMALL[:-2], "rows", "memory.priority.leaves"])
        bytes_of = (rows if name == "rows" else small[name]).reshape(-1).view(np.uint8)
        for _ in range(rng.choice([1, 1, 3])):
            bytes_of[rng.randrange(len(bytes_of))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        rings = {**memory.rings(), "rows": memory.rings()["rows"]._replace(storage=rows)}
        new = memory_of(world_of(2, 3, 2), sampler=sampler_of(True))
        try:
            new.load(small, copied(rings), ACTIONS)
        except CheckpointError:
            continue
        accepted += 1
        new.check_valid()
        onward = deepcopy(life)
        with np.errstate(all="ignore"):  # sums of enormous rewards
            for _ in range(12):
                onward.twin.rows, onward.twin.priorities = [], []
                frame = np.zeros((2, 2), np.int32)
                ended = np.array([onward.rng.random() < 0.3, False])
                new.append(np.zeros(2, int), StepResult(frame, frame, np.zeros(2), ended, ended & False, ended))
                batch = new.sample(8)
                assert ((batch.action >= 0) & (batch.action < ACTIONS)).all()
                new.update_priorities(batch.row, np.ones(8))
            new.cut(frame)
            new.check_valid()
    assert 50 < accepted < 550


def test_a_cut_by_hand():
    """Gamma 1/2, n = 3: lane 0 took two steps of its episode, lane 1 one, lane 2 none."""
    memory = ReplayMemory(20, spec_of(2), NStepAccumulator(3, 0.5, 3), np.random.default_rng(0))
    no, yes = np.zeros(3, bool), np.ones(3, bool)

    def frames(*numbers):
        return np.array([[number, -number] for number in numbers], np.int32)

    def step(frame, successor, reward, terminated):
        return StepResult(frame, successor, np.array(reward), np.array(terminated), no, np.array(terminated))

    memory.start(frames(10, 20, 30))
    memory.append(np.array([1, 2, 3]), step(frames(11, 22, 31), frames(11, 21, 31), [1.0, 9, 9], [False, True, False]))
    memory.append(np.array([4, 5, 6]), step(frames(12, 23, 33), frames(12, 23, 32), [20.0, 8, 9], [False, False, True]))
    rows = len(memory)
    assert memory.cut(frames(15, 25, 35)) == 3
    cut = memory.newest(3)
    assert len(memory) == rows + 3
    assert cut.action.tolist() == [1, 4, 5]
    assert cut.reward.tolist() == [1 + 0.5 * 20, 20, 8]
    assert cut.discount.tolist() == [0.25, 0.5, 0.5]
    assert cut.obs[:, :, 0].tolist() == [[10, 10], [10, 11], [22, 22]]
    assert cut.next_obs[:, :, 0].tolist() == [[11, 12], [11, 12], [22, 23]]
    memory.append(np.array([7, 8, 9]), step(frames(0, 0, 0), frames(16, 26, 36), [4.0, 4, 4], yes))
    assert memory.newest(3).obs[:, :, 0].tolist() == [[15, 15], [25, 25], [35, 35]]
    assert memory.newest(3).next_obs[:, :, 0].tolist() == [[15, 16], [25, 26], [35, 36]]
    assert memory.newest(3).reward.tolist() == [4, 4, 4]
    memory.check_valid()


@pytest.mark.parametrize("n_step", [1, 2, 4])
def test_cuts_at_any_moment_equal_the_twin_s(n_step):
    for seed in range(25):
        memory, life = lived(world_of(1 + seed % 4, n_step, 1 + seed % 3), 20, seed=seed)
        for _ in range(4):
            life.cut(memory)
            compare(memory, life.twin, life.frame_count)
            for _ in range(life.rng.randint(0, 40)):
                life.step(some_events(life), memory)
                life.learn(memory)
            compare(memory, life.twin, life.frame_count)


def test_rows_of_one_step_are_whole_at_a_cut():
    memory, life = lived(world_of(4, 1, 3), 20)
    rows = len(memory)
    life.cut(memory)
    assert len(memory) == rows


class Journal(RuleBasedStateMachine):
    """A memory that lives, is saved, killed and loaded, beside its twin, which goes back with it."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.saved = []

    @initialize(
        world=st.builds(
            world_of, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 5, 20, 40])
        ),
        prioritized=st.booleans(),
    )
    def begin(self, world, prioritized):
        self.world, self.prioritized = world, prioritized
        self.memory = memory_of(world, sampler=sampler_of(prioritized))
        self.life, self.store = Life(world, 0, self.memory), SegmentStore(self.folder)

    @rule(count=st.integers(1, 30), event=st.sampled_from(Event))
    def steps(self, count, event):
        for _ in range(count):
            self.life.step(some_events(self.life), self.memory)
        self.life.step([event] * len(self.life.lanes), self.memory)

    @rule()
    def learn(self):
        if self.prioritized:
            self.life.learn(self.memory)

    @rule()
    def cut(self):
        self.life.cut(self.memory)
        self.life.step([Event.GOES_ON] * len(self.life.lanes), self.memory)  # a run that goes on takes a step

    @rule()
    def save(self):
        found = self.store.save(self.memory.rings())
        state = on_disk(self.memory), self.memory._rng.bit_generator.state, snapshot(self.memory)
        self.saved = [*self.saved[-1:], (found, deepcopy(self.life), *state)]
        self.store.prune({segment.file for found, *_ in self.saved for segment in found})

    @rule(at=st.integers(1, 8))
    def save_on_a_full_disk(self, at):
        done = []

        def full(*arguments):
            done.append(1)
            if len(done) >= at:
                raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segments.os, "fsync", full)
            try:
                self.store.save(self.memory.rings())
            except StorageError:
                assert len(done) == at

    @precondition(lambda self: self.saved)
    @rule(back=st.integers(1, 2))
    def kill(self, back):
        """All that was in memory is gone; the last save, or the one before, is what there is."""
        found, life, small, stream, before = self.saved[-min(back, len(self.saved))]
        self.memory = memory_of(self.world, seed=1, sampler=sampler_of(self.prioritized))
        self.store, self.life = SegmentStore(self.folder), deepcopy(life)
        self.store.verify(found)
        self.memory.load(small, lambda rings: self.store.load(found, rings), ACTIONS)
        self.memory._rng.bit_generator.state = stream
        assert snapshot(self.memory) == before

    @invariant()
    def equals_the_twin(self):
        if hasattr(self, "memory"):
            compare(self.memory, self.life.twin, self.life.frame_count)

    def teardown(self):
        shutil.rmtree(self.folder)


def test_any_history_of_steps_saves_and_kills():
    run_state_machine_as_test(
        Journal,
        settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None),
    )
