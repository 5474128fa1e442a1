"""The trials of a study: a journal on disk that several processes share, also on several machines with a common disk.

Whoever looks for a trial holds the study's lock, and whoever has one holds the lock of its folder for as long as it
runs. The system lets go of the locks of a process that dies, so that a trial that is running by the journal and whose
folder nobody holds is one that was stopped: the next process goes on with it, under the same number, so that no trial
is lost and none is counted twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from dqn_cli.errors import CheckpointError, StorageError
from dqn_cli.tuning.settings import Pruner, TuneConfig
from dqn_cli.tuning.space import Numbers, Space

JOURNAL, TRIALS = "journal.log", "trials"
NAME = "dqn-tune"  # of the one study in the journal
ATTEMPTS = 3  # after which a trial that ends its process is given up
RETURNS, ERROR, ATTEMPT = "returns", "error", "attempt"  # what is kept of a trial beside its values
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Pruned(Exception):
    """The trial looks worse than others did at this step."""


class Lock(JournalFileOpenLock):
    """One process at a time, and one that holds it may take it again; a process that dies lets go of it.

    A journal whose last line has no end, as a full disk leaves it, is cut back to the line before.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._file = journal, journal.with_suffix(".lock")
        self._depth, self._descriptor = 0, -1

    def acquire(self) -> bool:
        """Wait for it. Raises `StorageError` where the disk has no locks."""
        if self._depth == 0:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._mend()
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, OSError):
                    why = error.strerror or str(error)
                    raise StorageError(f"{self._file} cannot be locked ({why}); write another tune.dir") from error
                raise
            self._descriptor = descriptor
        self._depth += 1
        return True

    def release(self) -> None:
        """Let others have it."""
        self._depth -= 1
        if self._depth == 0:
            os.close(self._descriptor)

    @contextmanager
    def held(self) -> Iterator[None]:
        """As long as the `with` lasts."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _mend(self) -> None:
        if not self._journal.exists():
            return
        with self._journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            if size and file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


@dataclass
class Taken:
    """A trial that this process runs; `returns` are those of its seeds that are through, `again` if it was stopped."""

    trial: Trial
    folder: Path
    values: Mapping[str, Any]
    returns: list[float]
    again: bool
    _seen: set[int]

    def report(self, step: int, value: float, prune: bool) -> None:
        """How good it is so far. Raises `Pruned` where it may be ended and is not worth going on with."""
        if step not in self._seen:  # it is told again where a trial went on from a checkpoint before
            self._seen.add(step)
            self.trial.report(value, step)
        if prune and self.trial.should_prune():
            raise Pruned(f"at step {step:,} with {value:.6g}")

    def through(self, value: float) -> None:
        """One more seed has come to its end."""
        self.returns = [*self.returns, value]
        self.trial.set_user_attr(RETURNS, self.returns)


class Study:
    """The trials in `folder`, as `space` and `settings` have them. Raises `CheckpointError` where no journal is one.

    `hold` holds a folder for this process, `held` says whether any process does. `steps` are those of a trial's whole
    runs, `period` those between its evaluations.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        settings: TuneConfig,
        hold: Callable[[Path], AbstractContextManager[None]],
        held: Callable[[Path], bool],
        steps: int,
        period: int,
    ) -> None:
        self.folder, self.space, self.settings = folder, space, settings
        self._hold, self._held = hold, held
        journal = folder / JOURNAL
        self.lock = Lock(journal)
        with self.lock.held():
            try:
                self._storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=self.lock))
                self.study = optuna.create_study(
                    study_name=NAME,
                    storage=self._storage,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=make_pruner(settings, steps, period),
                )
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                why = f"{type(error).__name__}: {error!s:.80}"
                raise CheckpointError(f"{journal} is no journal of trials ({why}); write another tune.dir") from error

    def trials(self) -> list[FrozenTrial]:
        """Those that were begun."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]

    def ended(self) -> int:
        """How many are through."""
        return sum(trial.state in ENDED for trial in self.trials())

    def first(self, values: Mapping[str, Any]) -> None:
        """Let the first trial have these values, those of the settings that are searched through."""
        with self.lock.held():
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(dict(values))

    def take(self, stack: ExitStack) -> Taken | None:
        """A trial that was stopped, else a new one; its folder is held by `stack`. None: there is none to begin."""
        with self.lock.held():
            begun = self.trials()
            for found in begun:
                if found.state is TrialState.RUNNING and not self._held(self.folder_of(found.number)):
                    if found.user_attrs.get(ATTEMPT, 0) < ATTEMPTS:
                        return self._taken(found.number, found, stack)
                    self.end(found, error=f"it ended its process {ATTEMPTS} times without a word")
            return None if len(begun) >= self.settings.trials else self._taken(len(begun), None, stack)

    def _taken(self, number: int, before: FrozenTrial | None, stack: ExitStack) -> Taken:
        # a sampler of its own for each trial: what is drawn depends on what is known, and on nothing else
        self.study.sampler = make_sampler(self.settings, number)
        trial = self.study.ask() if before is None else Trial(self.study, before._trial_id)
        folder = self.folder_of(number)
        stack.enter_context(self._hold(folder))
        attrs = trial.user_attrs
        trial.set_user_attr(ATTEMPT, attrs.get(ATTEMPT, 0) + 1)
        values = {key: self._suggest(trial, key) for key in self.space}
        seen = set() if before is None else {*before.intermediate_values}
        return Taken(trial, folder, values, [*attrs.get(RETURNS, [])], before is not None, seen)

    def _suggest(self, trial: Trial, key: str) -> Any:
        one = self.space[key]
        if not isinstance(one, Numbers):
            return trial.suggest_categorical(key, one.words)
        if one.whole:
            return one.tried(trial.suggest_int(key, int(one.low), int(one.high), log=one.log))
        return one.tried(trial.suggest_float(key, one.low, one.high, log=one.log))

    def running(self) -> int:
        """How many trials other processes are at."""
        with self.lock.held():
            return sum(trial.state is TrialState.RUNNING for trial in self.trials())

    def end(
        self, trial: Trial | FrozenTrial, value: float | None = None, pruned: bool = False, error: str | None = None
    ) -> None:
        """Say what came of a trial: its value, that it was pruned, or why there is none."""
        if error is not None:
            self._storage.set_trial_user_attr(trial._trial_id, ERROR, error)
        if value is not None:
            self.study.tell(trial.number, value)
        else:
            self.study.tell(trial.number, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """The first of the trials with the highest value; None while there is none."""
        whole = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        return max(whole, key=lambda trial: trial.value or 0.0, default=None)

    def values_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """What was tried."""
        return {
            key: one.tried(trial.params[key]) if isinstance(one, Numbers) else trial.params[key]
            for key, one in self.space.items()
            if key in trial.params
        }

    def folder_of(self, number: int) -> Path:
        """Where a trial's runs are."""
        return self.folder / TRIALS / f"{number:04d}"


def make_sampler(settings: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    """TPE (Bergstra et al. 2011), with a stream of its own for trial `number`."""
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup)


def make_pruner(settings: TuneConfig, steps: int, period: int) -> optuna.pruners.BasePruner:
    """What ends a trial early; nothing in the first quarter of its run, which says little about its end."""
    if settings.pruner is Pruner.median:
        return optuna.pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=steps // 4)
    if settings.pruner is Pruner.halving:
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=period, reduction_factor=3)
    return optuna.pruners.NopPruner()
