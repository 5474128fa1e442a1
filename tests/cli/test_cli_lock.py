"""One folder, one process: in this process and in others."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dqn_cli.cli import lock
from dqn_cli.cli.lock import CLAIM, claimed, is_held
from dqn_cli.errors import ConfigError, StorageError

HOLDER = """
import sys, time
from pathlib import Path
from dqn_cli.cli.lock import claimed
with claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def refused(folder):
    with pytest.raises(ConfigError) as caught, claimed(folder):
        pass
    return str(caught.value)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/run."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_held_until_the_end(tmp_path):
    run = tmp_path / "run"
    for _ in range(2):
        with claimed(run):
            assert is_held(run)
            assert (run / CLAIM).read_text() == f"{os.getpid()}\n"
            assert (
                refused(run) == f"{run} is in use by process {os.getpid()}; wait for its end, or write another folder"
            )
        assert not is_held(run)
        assert [file.name for file in run.iterdir()] == [CLAIM]
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == [run]


def test_another_process_holds_it_and_a_killed_one_does_not(holder, tmp_path):
    run = tmp_path / "run"
    assert f"is in use by process {holder.pid};" in refused(run)
    assert (run / CLAIM).read_text() == f"{holder.pid}\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / CLAIM).read_text() == f"{holder.pid}\n"  # stale
    with claimed(run):
        assert (run / CLAIM).read_text() == f"{os.getpid()}\n"


def test_where_a_file_system_has_no_locks_the_number_tells(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    run = tmp_path / "run"
    assert f"is in use by process {holder.pid};" in refused(run)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed(run):
        assert (run / CLAIM).read_text() == f"{os.getpid()}\n"
    assert (run / CLAIM).read_text() == ""
    for stale in (f"{os.getpid()}\n", "no number", "9" * 12):  # the first after a container's start
        (run / CLAIM).write_text(stale)
        with claimed(run):
            pass


def test_a_lock_that_is_refused_is_no_error_of_the_disk(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(descriptor, how):
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "fcntl", NoLocks)
    with claimed(tmp_path / "run"):
        pass


def fail(folder, act=lambda: None):
    with claimed(folder):
        act()
        raise KeyError


@pytest.mark.parametrize("wrote", [False, True])
def test_what_never_began_leaves_nothing(wrote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError):
        fail(Path("a/b/run").absolute(), Path("a/b/run/x").touch if wrote else lambda: None)
    left = {"a", "a/b", "a/b/run", "a/b/run/run.lock", "a/b/run/x"}
    assert {str(path) for path in Path().rglob("*")} == (left if wrote else set())


@pytest.mark.parametrize("there", [{"x"}, {"x", CLAIM}])
def test_what_was_there_before_stays(there, tmp_path):
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(KeyError):
        fail(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == there


def test_a_folder_that_is_deleted_meanwhile_is_not_missed(tmp_path):
    with pytest.raises(KeyError):
        fail(tmp_path / "run", lambda: shutil.rmtree(tmp_path / "run"))


def test_a_lock_that_was_deleted_while_it_was_waited_for(tmp_path, monkeypatch):
    real, first = lock._lock, [True]

    def let_go(descriptor):
        if first.pop() if first else False:
            (tmp_path / CLAIM).unlink()  # by the process that had it
        return real(descriptor)

    monkeypatch.setattr(lock, "_lock", let_go)
    with claimed(tmp_path):
        assert (tmp_path / CLAIM).read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"file/run cannot be written \(Not a directory\)"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/null"), os.mkfifo, os.mkdir])
def test_what_is_no_lock_is_not_written_to(make, tmp_path):
    make(tmp_path / CLAIM)
    with pytest.raises(StorageError, match="cannot be written"), claimed(tmp_path):
        pass
    assert not is_held(tmp_path)


def test_no_descriptor_is_left(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    with claimed(tmp_path / "a"):
        refused(tmp_path / "a")
    assert set(os.listdir("/proc/self/fd")) == before
