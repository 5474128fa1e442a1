"""One folder, one process: a run's folder is locked for as long as the run writes to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dqn_cli.errors import ConfigError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CLAIM = "run.lock"
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold it. Where an error ends that before anything was written, nothing of it is left.

    The system lets go of the lock of a process that dies. Raises `ConfigError` where another one has it, `StorageError`
    where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = set(os.listdir(folder))
        descriptor = _locked(folder)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}); write another folder") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _undo(folder, before)
        raise
    finally:
        with suppress(OSError):  # where there are no locks the number is what tells
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process writes to `folder`."""
    try:
        # to be read, as it may be another user's
        descriptor = os.open(folder / CLAIM, _FLAGS & ~(os.O_CREAT | os.O_RDWR) | os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int:
    """A descriptor of the lock, which is ours."""
    file = folder / CLAIM
    while True:
        descriptor = os.open(file, _FLAGS, 0o644)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise OSError(0, f"{CLAIM} is not a regular file of its own name")
            if not _lock(descriptor):
                pid = _owner(descriptor)
                by = f"process {pid}" if pid else "another process"
                raise ConfigError(f"{folder} is in use by {by}; wait for its end, or write another folder")
            with suppress(FileNotFoundError):  # who had it may have deleted it since it was opened
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, shared: bool = False) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    pid = _owner(descriptor)
    # a process that is started again in a container often has the number that it had before
    return pid in (None, os.getpid()) or not psutil.pid_exists(pid or 0)


def _owner(descriptor: int) -> int | None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    digits = os.read(descriptor, 16).strip()
    return int(digits) if digits.isdigit() and len(digits) < 10 else None


def _undo(folder: Path, before: set[str]) -> None:
    now = set(os.listdir(folder))
    if now == {CLAIM} or now - before == {CLAIM}:
        (folder / CLAIM).unlink()
    if now == {CLAIM}:  # folders above go too, where they are empty and below here
        if folder.is_relative_to(here := Path.cwd()) and folder != here:
            os.removedirs(folder.relative_to(here))
        else:
            folder.rmdir()
