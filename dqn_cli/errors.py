"""What a user can cause, one class per exit code. Everything else that escapes is our bug (exit code 1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake or mishap that is not our bug: shown as one line (what is wrong, the value, what to do)."""

    exit_code = 2


class ConfigError(UserError):
    """Configuration or usage: an unknown, ill-typed, out-of-range or dead setting, a missing extra."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be used."""

    exit_code = 3


class EnvironmentFault(UserError):
    """An environment that raises, or returns what its spaces do not allow."""

    exit_code = 4


class NumericalError(UserError):
    """NaN or infinity in rewards, losses or parameters."""

    exit_code = 5


class StorageError(UserError):
    """A folder that cannot be written, a full disk."""

    exit_code = 6


class FolderGone(StorageError):
    """The folder of a run is not there any more: there is no point in going on."""


class Interrupted(UserError):
    """A signal, after everything worth keeping was saved: 130 for Ctrl-C, 75 for those that a scheduler sends."""

    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unwritable(error: OSError) -> StorageError:
    """The line for an `OSError` that nobody expected where it happened."""
    if isinstance(error, BrokenPipeError):
        return StorageError("the output was closed before the end")
    where = error.filename or ("the current folder" if isinstance(error, FileNotFoundError) else "the output")
    return StorageError(f"cannot write {where}: {error.strerror or error}; make room or choose another folder")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while `path` is written into a `StorageError` that names it."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error} (errno {error.errno})"
        raise StorageError(f"cannot write {path}: {reason}; make room or choose another folder") from error
