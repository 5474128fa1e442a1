"""Writes a run's checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dqn_cli.errors import FolderGone, StorageError
from dqn_cli.training.checkpoint import CheckpointStore
from dqn_cli.training.snapshot import Snapshot
from dqn_cli.types import UpdateResult


@dataclass(frozen=True)
class Keeper:
    """Three kinds of checkpoints, each of a step, the watcher's state and the newest update's result.

    `fingerprint` tells of what no bit of a run depends on: circumstances, wall time, the positions of log files.
    `refilled_at`: the step at which the memory began anew, 0 for the run's own beginning. `pausing`: no watchdog bites
    meanwhile.
    """

    store: CheckpointStore
    snapshot: Snapshot
    config: Mapping[str, Any]
    fingerprint: Callable[[], dict[str, Any]]
    pausing: Callable[[], AbstractContextManager[None]]
    refilled_at: int = 0

    def periodic(self, step: int, state: dict[str, Any], result: UpdateResult | None) -> None:
        """All that a resumed run needs."""
        with self.pausing(), self._leaving_nothing():
            self.store.save_step(step, **self._whole(state, result))

    def final(self, step: int, state: dict[str, Any], result: UpdateResult | None) -> None:
        """The same, of a run that is through: it can be made longer."""
        with self.pausing(), self._leaving_nothing():
            self.store.save_final(step, **self._whole({**state, "finished": True}, result))

    def best(self, step: int, state: dict[str, Any], result: UpdateResult | None) -> None:
        """The weights alone."""
        self.store.save_best(step, config=self.config, state=self._state(state), **self.snapshot.weights())

    @contextmanager
    def _leaving_nothing(self) -> Iterator[None]:
        """Where the disk is full, the next checkpoint needs the room that this one has taken in vain."""
        try:
            yield
        except StorageError as error:
            if not self.store.run_dir.is_dir():
                gone = f"{self.store.run_dir} is gone: it was deleted or moved while the run wrote to it"
                raise FolderGone(f"{gone}; start the run again") from error
            with suppress(StorageError):
                self.store.prune()
            raise

    def _state(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "streams": self.snapshot.positions(), "refilled_at": self.refilled_at}

    def _whole(self, state: dict[str, Any], result: UpdateResult | None) -> Any:
        whole = self.snapshot.whole(result)
        return {"config": self.config, "state": self._state(state), "fingerprint": self.fingerprint(), **whole}
