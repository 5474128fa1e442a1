"""Finding out where a run stands that was stopped. What needs torch is imported late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_cli.config import Config

if TYPE_CHECKING:
    from dqn_cli.training.checkpoint import Checkpoint

REPLAY_DIR = "replay"


@dataclass(frozen=True)
class Found:
    """The newest checkpoint of a run that is whole; `notices` tell of those that are not."""

    checkpoint: Checkpoint
    notices: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Steps that the run has done."""
        return self.checkpoint.step

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration as plain data that nobody vouches for."""
        return self.checkpoint.config

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Circumstances, wall time and the positions of the log files when it was written."""
        return self.checkpoint.fingerprint

    @property
    def positions(self) -> dict[str, int]:
        """How long each log file was."""
        logs = self.fingerprint.get("logs")
        return logs if isinstance(logs, dict) else {}

    def other_circumstances(self, now: Mapping[str, Any]) -> list[str]:
        """What is different now, in a line if anything is: then the run goes on, but not bit for bit."""
        before, after = _versions(self.fingerprint), _versions(now)
        names = [name for name in after if before.get(name) != after[name]]  # others would be a stranger's
        changed = [f"{name} {before.get(name)} -> {after[name]}" for name in names]
        return [f"other circumstances than before, not bit for bit: {', '.join(changed)}"] if changed else []

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.checkpoint.state.get("finished") is True


def _versions(circumstances: Mapping[str, Any]) -> dict[str, str]:
    """All of them by name, the versions too."""
    versions = circumstances.get("versions")
    own = {name: circumstances.get(name) for name in ("device", "threads", "cpu")}
    every = {**own, **(versions if isinstance(versions, dict) else {})}
    return {str(name): _shown(value) for name, value in every.items()}


def _shown(value: Any) -> str:
    """What nobody vouches for, so that the terminal does not obey it."""
    return "".join(letter for letter in str(value)[:40] if letter.isprintable())


@dataclass(frozen=True)
class Resume:
    """How a run goes on: from what was `found`, which had `config`; `env`: exact, or restart with new episodes."""

    config: Config
    env: str
    found: Found


def find(run_dir: Path) -> Found | None:
    """The newest whole checkpoint of a run folder, None where there is none yet.

    Raises `CheckpointError` where there are some, but all of them damaged.
    """
    from dqn_cli.replay.segments import SegmentStore, parse
    from dqn_cli.training import checkpoint as checkpoints

    store = SegmentStore(run_dir / REPLAY_DIR)
    newest = checkpoints.newest(run_dir, lambda checkpoint: store.verify(parse(checkpoint.segments)))
    return None if newest is None else Found(*newest)
