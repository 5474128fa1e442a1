"""Signals that ask a run to stop: Ctrl-C, and what schedulers send before they take a machine."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

_CAUGHT = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if name in signal.Signals.__members__  # Windows has fewer
]


class StopSignals:
    """Within its `with`, the first signal is only noted in `received`, for the run to end between two steps.

    A second one, of whatever kind, ends the process at once, as it would have without us. Signals that were ignored
    before stay ignored (`nohup`). Does nothing outside the main thread, the only one that signals reach.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _CAUGHT:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not ours to give back
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    @property
    def name(self) -> str:
        """What stopped the run, for people."""
        assert self.received is not None
        return "Ctrl-C" if self.received is signal.SIGINT else self.received.name

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C; 75 for the others: saved, ready to be resumed."""
        return 130 if self.received is signal.SIGINT else 75

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
