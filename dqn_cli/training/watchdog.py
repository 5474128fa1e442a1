"""The end of a run whose environment does not answer any more.

Handlers of signals do not run while the main thread is inside a native call, so that a run that is stuck there can
only be ended by another thread, and where the call holds the interpreter's lock as well, only by one without Python.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from dqn_cli.errors import EnvironmentFault

STACKS = "stacks.txt"
LAST_RESORT = 6  # times stall_s
_LOOKS = 8  # in stall_s
_LONGEST_S = 1e9  # longer ones are more than timers can count
_STDERR = 2  # the descriptor: Python's own stderr may be locked by the thread that is stuck


class Watchdog:
    """Within its `with`, ends the process where there is no `beat` for `stall_s` seconds (up to an eighth more).

    Then the stacks of all threads are in `run_dir`/stacks.txt, one line that ends with `advice()` is on stderr, and the
    exit code is that of an `EnvironmentFault`. A native call that keeps the interpreter's lock is ended after
    `LAST_RESORT` times as long, with the stacks on stderr and exit code 1, the only one that faulthandler knows; so is
    a process that was stopped for so long (SIGSTOP, Ctrl-Z), once it goes on.
    """

    def __init__(self, stall_s: float, run_dir: Path, advice: Callable[[], str]):
        self._stall_s = min(stall_s, _LONGEST_S)
        self._path = run_dir / STACKS
        self._advice = advice
        self._beats = 0
        self._pauses = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """The run is alive; to be called at every step."""
        self._beats += 1

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Work of our own that may take longer than `stall_s`, such as a checkpoint."""
        self._pauses += 1
        try:
            yield
        finally:
            self._beats += 1
            self._pauses -= 1

    def _watch(self) -> None:
        """Look now and then. Looks are counted, not seconds: a process that was stopped meanwhile is not stuck."""
        seen, silent = self._beats, 0
        while silent < _LOOKS:
            faulthandler.dump_traceback_later(LAST_RESORT * self._stall_s, exit=True, file=_STDERR)
            if self._over.wait(self._stall_s / _LOOKS):
                return
            silent = silent + 1 if seen == self._beats and not self._pauses else 0
            seen = self._beats
        self._end()

    def _end(self) -> None:
        try:
            line = f"dqn-train: error: no step for {self._stall_s:g} s; the stacks are {self._dump()}; {self._advice()}"
            os.write(_STDERR, f"{line}\n".encode())
        finally:  # whatever fails above
            os._exit(EnvironmentFault.exit_code)

    def _dump(self) -> str:
        """Write all stacks behind those that are there; where that cannot be, above the line. Says where they are."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with suppress(OSError):
            faulthandler.dump_traceback(os.open(self._path, flags, 0o666))
            return f"in {self._path}"
        faulthandler.dump_traceback(_STDERR)
        return "above"
