"""Every file operation that saving makes fails once in turn, and the process dies there once.

The operations are found by a run without faults, so that a new one is tried too. Whatever happens: every checkpoint
that has a name is whole, and so is the newest, which is the one from before or the new one; its segments are there; and
the same call again has the outcome that it would have had.
"""

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from checkpoint_maker import contents, file_of, plain, segment, weights

from dqn_cli.errors import StorageError
from dqn_cli.replay.segments import SegmentStore
from dqn_cli.training.checkpoint import CheckpointStore, find, newest, read

ONCE = ["ENOSPC", "EIO", "EIO although it is done"]  # that operation alone
FROM_THEN_ON = ["full", "broken"]  # nothing can be written any more; nothing can be done any more
DEATHS = ["dies", "torn"]  # before the operation; in the midst of a write
SLOW = ["EIO", "broken", "torn"]  # hardly other ways through the code
MODES = [mode for mode in ONCE + FROM_THEN_ON + DEATHS if mode not in SLOW]
KILLED = 9


class Died(BaseException):
    """The process has ended: nobody may handle that, and nothing happens after it."""


class Disk:
    """Counts the operations that change files, and lets the one with the number `at` go wrong."""

    def __init__(self, mode: str = "fine", at: int = 1):
        self.seen: list[str] = []
        self._mode, self._at = mode, at

    def does(self, name: str, call: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """An operation; `half` does a part of it, where it has parts."""
        self.seen.append(name)
        now, later = len(self.seen) == self._at, len(self.seen) >= self._at
        match self._mode:
            case "ENOSPC" | "EIO" if now:
                raise OSError(getattr(errno, self._mode), os.strerror(getattr(errno, self._mode)))
            case "EIO although it is done" if now:
                if name not in ("create", "open"):
                    call()
                raise OSError(errno.EIO, "Input/output error")
            case "full" if later and name in ("write", "mkdir", "create"):
                raise OSError(errno.ENOSPC, "No space left on device")
            case "broken" if later:
                raise OSError(errno.EIO, "Input/output error")
            case "short" if now and half:
                return half()
            case "dies" if later:
                raise Died
            case "torn" if later:
                if now and half:
                    half()
                raise Died
            case "exits" if now:
                if half:
                    half()
                os._exit(KILLED)
        return call()

    @contextmanager
    def used(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "open"):
                patch.setattr(os, name, self._counted(name, getattr(os, name)))
            patch.setattr(os, "fsync", self._counted("fsync", lambda descriptor: None))  # a real one only takes time
            patch.setattr(io, "open", self._opener(io.open))
            yield

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.does(name, lambda: call(*args, **kwargs))

    def _opener(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wxa+"):
                return original(file, mode, *args, **kwargs)
            return File(self, self.does("create", lambda: original(file, mode, *args, **kwargs)))

        return opened


class File:
    """A file that is written."""

    def __init__(self, disk: Disk, file: Any):
        self._disk, self._file = disk, file
        self.fileno = file.fileno

    def write(self, data: memoryview) -> int:
        def write(part: memoryview) -> int:
            written = self._file.write(part)
            self._file.flush()
            return written

        return self._disk.does("write", lambda: write(data), lambda: write(data[: len(data) // 2 + 1]))

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._disk.does("close", lambda: None)


def of(step: int) -> list[dict[str, Any]]:
    """The segments of a step: one that all have, and its own tail."""
    return [segment("frames", 0, 16_384), segment("rows", 0, step)]


def opened(run: Path) -> CheckpointStore:
    return CheckpointStore(run, keep=2, prune=SegmentStore(run / "replay").prune)


def save(run: Path, kind: str, step: int, value: float = 1.5) -> None:
    """What a run does when its segments are there."""
    store = opened(run)
    if kind == "best":
        store.save_best(step, **weights(value))
    else:
        (store.save_step if kind == "step" else store.save_final)(step, **contents(value, of(step)))


BEFORE = [("step", 10), ("best", 10), ("step", 20), ("final", 20)]
CALLS: dict[str, Callable[[Path], object]] = {
    "step": lambda run: save(run, "step", 30),
    "step, there already": lambda run: save(run, "step", 20, 2.5),
    "step, of a run that went back": lambda run: save(run, "step", 15),
    "best": lambda run: save(run, "best", 30),
    "best, there already": lambda run: save(run, "best", 10, 2.5),
    "final": lambda run: save(run, "final", 30),
    "final, there already": lambda run: save(run, "final", 20, 2.5),
    "first": lambda run: save(run, "step", 15),
    "opening": opened,
}


@pytest.fixture(scope="module")
def place():
    """A folder in memory, where there is one: thousands of files are made and deleted."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def template(place):
    """A run with checkpoints of each kind, and all segments that its next one may name."""
    run = place / "template"
    run.mkdir()
    for kind, step in BEFORE:
        save(run, kind, step)
    (run / "replay").mkdir()
    for step in (10, 15, 20, 30):
        for entry in of(step):
            (run / "replay" / file_of(entry)).touch()
    return run


def prepare(template: Path, run: Path, name: str) -> None:
    """The run as it is before the call of that name."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(template, run, copy_function=os.link)  # nobody writes to a file that is there
    saved = run / "checkpoints"
    if name == "first":
        shutil.rmtree(saved)
    if name == "opening":  # after the process died between two renames, and another time while it wrote
        shutil.copytree(saved / "step-000000020", saved / ".tmp-step-000000030")
        shutil.rmtree(saved / "final-000000020")
        (saved / "step-000000020").rename(saved / ".old-step-000000020")


def checkpoints(run: Path) -> dict[str, dict[str, bytes]]:
    """The files of everything that has the name of a checkpoint."""
    saved = run / "checkpoints"
    folders = [path for path in sorted(saved.iterdir()) if path.name[0] != "."] if saved.is_dir() else []
    return {folder.name: files(folder) for folder in folders}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def last(run: Path) -> Any:
    """What a resumed run goes on from; nothing is damaged, and nothing that it needs was deleted."""

    def check(found: Any) -> None:
        assert all((run / "replay" / file_of(entry)).exists() for entry in found.segments)

    found = newest(run, check)
    if found is None:
        return None
    checkpoint, notices = found
    assert notices == []
    return plain(checkpoint)


class Outcome:
    """What a call makes of a run without faults, and with one."""

    def __init__(self, template: Path, run: Path, name: str):
        self._template, self._run, self._name = template, run, name
        prepare(template, run, name)
        self._before = checkpoints(run)
        self._last = [last(run)]
        disk = Disk()
        with disk.used():
            CALLS[name](run)
        self.operations = disk.seen
        self._after = checkpoints(run)
        self._last.append(last(run))
        for checkpoint in self._after:
            read(run / "checkpoints" / checkpoint, loop=True)
        self._best = [] if name == "first" else [self._before["best-000000010"], files(find(run, "best"))]
        self._segments = sorted(path.name for path in (run / "replay").iterdir())

    def with_fault(self, mode: str, at: int) -> bool:
        """The call with a fault; whether it told of it. The state after it, and what the same call then does."""
        prepare(self._template, self._run, self._name)
        disk = Disk(mode, at)
        told = None
        with disk.used():
            try:
                CALLS[self._name](self._run)
            except (StorageError, Died) as error:
                told = error
        assert len(disk.seen) >= at
        if isinstance(told, StorageError):
            assert "cannot write" in str(told)
            assert "(errno " in str(told)
        self.check()
        if told is None:
            self.check_done()
        self.again()
        return told is not None

    def check(self) -> None:
        """Nothing half-made has a name, nothing that is needed is gone."""
        for name, found in checkpoints(self._run).items():
            assert found in (self._before.get(name), self._after.get(name))
        assert last(self._run) in self._last
        if self._best:
            assert files(find(self._run, "best")) in self._best

    def check_done(self) -> None:
        """Who says that it is saved has saved it."""
        assert last(self._run) == self._last[1]
        assert checkpoints(self._run).items() >= self._after.items()

    def again(self) -> None:
        """Nothing is left of the fault."""
        with Disk().used():
            CALLS[self._name](self._run)
        assert sorted(path.name for path in (self._run / "checkpoints").iterdir()) == sorted(self._after)
        assert checkpoints(self._run) == self._after
        assert sorted(path.name for path in (self._run / "replay").iterdir()) == self._segments


@pytest.mark.parametrize("mode", [*MODES, *(pytest.param(mode, marks=pytest.mark.slow) for mode in SLOW)])
@pytest.mark.parametrize("name", CALLS)
def test_every_operation_fails_in_turn(template, place, name, mode):
    outcome = Outcome(template, place / "run", name)
    told = [outcome.with_fault(mode, at) for at in range(1, len(outcome.operations) + 1)]
    if mode in DEATHS:
        assert all(told)
    elif mode in (*ONCE, "broken") and name != "opening":
        # what clears up before and after may fail quietly, but nothing that a checkpoint depends on
        begin = outcome.operations.index("create")
        assert all(told[begin : outcome.operations.index("rename", begin) + 1])


@pytest.mark.parametrize("name", [name for name in CALLS if name != "opening"])
def test_every_write_is_short_in_turn(template, place, name):
    """The system may take a part of what it is given, and nobody needs to know."""
    outcome = Outcome(template, place / "run", name)
    writes = [at for at, operation in enumerate(outcome.operations, 1) if operation == "write"]
    assert len(writes) >= (4 if name.startswith("best") else 6)
    assert not any(outcome.with_fault("short", at) for at in writes)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["step", "step, there already", "step, of a run that went back", "best", "opening"])
def test_process_is_killed(template, place, name):
    """The same with a process that really ends."""
    run = place / "run"
    outcome = Outcome(template, run, name)
    for at in range(1, len(outcome.operations) + 1, 4):
        prepare(template, run, name)
        if (child := os.fork()) == 0:
            try:
                with Disk("exits", at).used():
                    CALLS[name](run)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
        outcome.check()
        outcome.again()


def test_operations_are_found(template, place):
    """Those of a save that rotates: a file that was missed here would never fail."""
    operations = Outcome(template, place / "run", "step, of a run that went back").operations
    assert [operations.count(name) for name in ("create", "write", "close")] == [6, 6, 6]
    assert operations.count("rename") == 3  # the new one, and two that are later
    assert operations.count("rmdir") == 2
    assert operations.count("unlink") == 2 * 6 + 2  # and two segments
    assert operations.count("fsync") == 6 + 4  # of the run, the new folder, and its parent before and after
