"""Nothing is forgotten: whatever is left out of a checkpoint as it is read is noticed, every field in turn."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import brief
from test_integration_resume import differences, stopped, train

from dqn_cli.config import (
    AdamConfig,
    Config,
    EpsilonConfig,
    GymConfig,
    ImplicitConfig,
    MlpConfig,
    PrioritizedConfig,
    RunConfig,
)
from dqn_cli.errors import UserError
from dqn_cli.training import resuming
from dqn_cli.training.checkpoint import Checkpoint
from dqn_cli.training.resuming import Found, Resume

# every part that has a state, and rows of metrics.csv between two updates
CONFIG = brief(
    env=GymConfig(id="CartPole-v1", frame_stack=5),
    network=MlpConfig(hidden=[8], noisy=True),
    value=ImplicitConfig(quantiles=3, target_quantiles=3, acting_quantiles=3, embedding=4),
    replay=PrioritizedConfig(capacity=80, batch_size=4, n_step=3, beta_over_steps=90),
    exploration=EpsilonConfig(over_steps=100),
    optimizer=AdamConfig(max_grad_norm=1.0),
    num_envs=2,
    run=RunConfig(
        total_steps=140,
        learning_starts_steps=20,
        update_every_steps=10,
        eval_every_steps=40,
        eval_episodes=2,
        log_every_steps=6,
        checkpoint_every_steps=None,
    ),
)
PARTS = ("model", "optimizer", "arrays", "state", "fingerprint", "segments")
# the time that a run took is no part of its results, and a newer version may have been installed meanwhile
FREE = {
    "fingerprint.versions",
    "fingerprint.device",
    "fingerprint.threads",
    "fingerprint.cpu",
    "fingerprint.clock",
    "fingerprint.logs.timing.csv",
    "fingerprint.logs.steps",
}

Path_ = tuple[Any, ...]  # of a field: the part, then keys


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; one that has hardly begun; one that was stopped a step before a row, one a step earlier."""
    base, patch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    train(CONFIG, base / "whole")
    for name, after in {"begun": 1, "early": 76, "late": 77}.items():
        assert not stopped(CONFIG, base / name, after, patch)
    return base


def fields(checkpoint: Checkpoint) -> Iterator[Path_]:
    """Every leaf that a checkpoint has, without the configuration."""
    for part in PARTS:
        yield from leaves(getattr(checkpoint, part), (part,))


def leaves(value: Any, path: Path_) -> Iterator[Path_]:
    if isinstance(value, dict) and value and ".".join(map(str, path)) not in FREE:
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and path[0] == "segments":
        for i in range(len(value)):
            yield (*path, i)
    else:
        yield path


def changed(checkpoint: Checkpoint, path: Path_, change: Callable[[Any, Any], None]) -> Checkpoint:
    """A copy in which `change(container, key)` was done to the field."""
    part, *keys, last = path
    content = copy.deepcopy(getattr(checkpoint, part))
    container = content
    for key in keys:
        container = container[key]
    change(container, last)
    return replace(checkpoint, **{part: content})


def goes_unnoticed(config: Config, whole: Path, folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether a run that is resumed from this ends with the bytes of one that was not stopped."""
    try:
        train(config, folder, Resume(config, "exact", Found(checkpoint)))
    except UserError:
        return False
    return differences(config, whole, folder) == []


def check(folders: Path, tmp_path: Path, change: Callable[[Checkpoint, Path_], Any]) -> None:
    """A field may not matter for what happens to come next: it has to be noticed in one of two runs."""
    late = unnoticed(folders / "whole", folders / "late", tmp_path, change)
    early = unnoticed(folders / "whole", folders / "early", tmp_path, change, late)
    assert not early, early


def unnoticed(
    whole: Path,
    halted: Path,
    tmp_path: Path,
    change: Callable[[Checkpoint, Path_], Any],
    only: list[Path_] | None = None,
) -> list[Path_]:
    """The fields whose change makes no difference."""
    found = resuming.find(halted)
    assert found is not None
    missed, tried = [], 0
    for i, path in enumerate(fields(found.checkpoint)):
        if ".".join(map(str, path)) in FREE or "tfevents" in str(path[-1]):  # those have tests of their own
            continue
        if (mutant := change(found.checkpoint, path)) is None:
            continue
        tried += 1
        if only is not None and path not in only:
            continue
        folder = tmp_path / str(i)
        shutil.copytree(halted, folder)
        if goes_unnoticed(CONFIG, whole, folder, mutant):
            missed.append(path)
        shutil.rmtree(folder)
    assert tried > 30
    return missed


@pytest.mark.parametrize("name", ["early", "late"])
def test_the_checkpoint_itself_goes_on_to_the_same_bytes(name: str, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / name, tmp_path / "run")
    found = resuming.find(tmp_path / "run")
    assert found is not None
    assert goes_unnoticed(CONFIG, folders / "whole", tmp_path / "run", found.checkpoint)


def test_every_field_that_is_missing_is_noticed(folders: Path, tmp_path: Path) -> None:
    def drop(container: Any, key: Any) -> None:
        del container[key]

    check(folders, tmp_path, lambda checkpoint, path: changed(checkpoint, path, drop))


def test_every_field_that_is_not_taken_over_is_noticed(folders: Path, tmp_path: Path) -> None:
    """Each has the value instead that it would have had if nobody had loaded it."""
    begun = resuming.find(folders / "begun")
    assert begun is not None

    def as_it_began(checkpoint: Checkpoint, path: Path_) -> Checkpoint | None:
        value: Any = getattr(begun.checkpoint, path[0])
        try:
            for key in path[1:]:
                value = value[key]
        except (KeyError, IndexError, TypeError):  # before the first update there is none
            return None
        same = value is getattr(checkpoint, path[0]) or repr(value) == repr(field_of(checkpoint, path))
        return None if same else changed(checkpoint, path, lambda container, key: container.__setitem__(key, value))

    check(folders, tmp_path, as_it_began)


def field_of(checkpoint: Checkpoint, path: Path_) -> Any:
    value: Any = getattr(checkpoint, path[0])
    for key in path[1:]:
        value = value[key]
    return value
