"""Files of folders that anybody may have written to, and names that outlive a power loss."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from dqn_cli.errors import CheckpointError


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises `CheckpointError`, as `reading` does."""
    with reading(path, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


@contextmanager
def reading(path: Path, limit: int) -> Iterator[BufferedReader]:
    """A regular file of at most `limit` bytes, open; no links, and no waiting for a pipe's other end.

    Raises `CheckpointError`, one line that names the file.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))

    try:
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: not a regular file")
            if status.st_size > limit:
                raise CheckpointError(f"{path}: {status.st_size:,} bytes, expected at most {limit:,}")
            yield file
    except OSError as error:
        reason = "is a link, not a regular file" if path.is_symlink() else (error.strerror or str(error)).lower()
        raise CheckpointError(f"{path}: {reason}") from error


def sync_folder(folder: Path) -> None:
    """Make names durable, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
