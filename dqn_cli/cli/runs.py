"""What a run's folder holds, told by names alone: no file is opened, and torch is not needed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.training.summary import shown

MANIFEST, CHECKPOINTS, REPLAY = "manifest.json", "checkpoints", "replay"
JOBS = "jobs.json"  # of a sweep
_CHECKPOINT = re.compile(r"(?:\.old-)?(step|final|best)-(\d{9,18})")


@dataclass(frozen=True)
class Standing:
    """Where a run stands: at the step of its newest whole checkpoint, None where it has none yet."""

    step: int | None
    finished: bool


def standing(folder: Path) -> Standing | None:
    """Where the run in `folder` stands; None where there is no run. Raises `CheckpointError` where it is not to see."""
    try:
        names = os.listdir(folder / CHECKPOINTS) if (folder / CHECKPOINTS).is_dir() else []
        begun = (folder / MANIFEST).is_file()
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    found = [match for name in names if (match := _CHECKPOINT.fullmatch(name))]
    if not begun and not found:
        return None
    # of two at the same step the final one counts; best ones have no more than weights
    resumable = [(int(match[2]), match[1] == "final") for match in found if match[1] != "best"]
    return Standing(*max(resumable)) if resumable else Standing(None, False)


def refuse_run(folder: Path, stands: Standing) -> ConfigError:
    """The refusal to begin a run where there is one."""
    seen = f"hydra.run.dir={shown(folder)} already holds a run"
    if stands.finished:
        return ConfigError(f"{seen}, finished at step {stands.step:,}; write another folder")
    if stands.step is None:
        how = f"start it again with dqn-train resume={shown(folder)}"
        return ConfigError(f"{seen}, stopped before its first checkpoint; {how}")
    return ConfigError(f"{seen}, stopped at step {stands.step:,}; continue it with dqn-train resume={shown(folder)}")


def locate(text: str, key: str = "resume") -> tuple[Path, Standing]:
    """The run folder that `resume=<text>`, or another `key`, means. Raises `CheckpointError` where that is none."""
    try:
        folder = Path(text).expanduser()
        found = "is a file" if folder.exists() and not folder.is_dir() else "does not exist"
    except (OSError, RuntimeError) as error:  # too long a name, no such home
        raise CheckpointError(f"{key}={text[:200]} cannot be read: {error}") from error
    if not folder.is_dir():
        raise CheckpointError(f"{key}={text} {found}; write a run folder of dqn-train")
    folder = folder.absolute()
    if _CHECKPOINT.fullmatch(folder.name) and folder.parent.name == CHECKPOINTS:
        raise CheckpointError(f"{key}={text} is a checkpoint; write its run: {key}={shown(folder.parent.parent)}")
    stands = standing(folder)
    if stands is None and (folder / JOBS).is_file():
        elsewhere = "" if key == "resume" else " with another hydra.sweep.dir"
        raise CheckpointError(
            f"{key}={text} is a sweep; write its own command again{elsewhere}, or the folder of one of its jobs"
        )
    if stands is None:
        raise CheckpointError(f"{key}={text} holds no run; write a run folder of dqn-train")
    refuse_links(folder)
    return folder, stands


def refuse_links(folder: Path) -> None:
    """Raise `CheckpointError` where a link could lead what is written into a run's folder elsewhere."""
    for below in (folder, folder / CHECKPOINTS, folder / REPLAY):
        if not below.is_dir():
            continue
        for entry in below.iterdir():
            if entry.is_symlink():
                raise CheckpointError(f"{entry} is a link; a run's folder has none, put the file there itself")
