"""What a process of `dqn-tune` does: take a trial, run it as dqn-train would, say what came of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dqn_cli.cli import sweep
from dqn_cli.cli.arguments import clean, parse, typed_keys
from dqn_cli.cli.compare import differences
from dqn_cli.cli.compare import told as in_words
from dqn_cli.cli.composition import read
from dqn_cli.cli.explain import explain
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.job import told
from dqn_cli.cli.lock import claimed, is_held
from dqn_cli.cli.paths import conf_dir, config_folders
from dqn_cli.cli.resume import changed
from dqn_cli.cli.way import AUTO, Way, begin_or_go_on
from dqn_cli.config import Config
from dqn_cli.errors import CheckpointError, ConfigError, Interrupted, NumericalError, StorageError, UserError, writing
from dqn_cli.files import read_bytes
from dqn_cli.tuning.settings import TuneConfig
from dqn_cli.tuning.space import GROUPS, Choices, Space, plain, word
from dqn_cli.validate import plain as plain_config
from dqn_cli.validate import typed

if TYPE_CHECKING:
    from dqn_cli.tuning.trials import Study, Taken

STUDY, OUTPUT = "study.json", "output.txt"
MAX_BYTES = 1 << 24
OWN = ("seed", "device", "threads")  # of a run on a machine, and of no study or preset
POLL_S = 1.0  # how often a process without a trial looks whether another one was stopped
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A search: the words of dqn-train, what they come to, what is searched, and where the trials are."""

    words: list[str]  # without the seed
    config: Config
    seed: int
    search: str
    space: Space
    settings: TuneConfig
    folder: Path
    command: list[str]
    config_folders: list[str]

    def words_of(self, values: Mapping[str, Any]) -> list[str]:
        """The words of a run with these values."""
        return [*self.words, *(f"{key}={word(value)}" for key, value in values.items())]


@contextmanager
def composing() -> Iterator[None]:
    """While this is entered, `composed` composes."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="dqn-tune"):
        yield


@lru_cache(maxsize=64)
def composed(*words: str) -> DictConfig:
    """What Hydra makes of the words. Raises `ConfigError`."""
    own = [json.dumps(f"file://{folder}") for folder in config_folders()]
    path = [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    try:
        return compose("config", [*clean(words), *path], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


def config_of(words: Sequence[str], values: Mapping[str, Any]) -> Config:
    """The run of these words with these values, as it is written. Raises user errors.

    Only choices of groups bring other values along, so that a composition is needed for these alone.
    """
    chosen = [f"{key}={word(value)}" for key, value in values.items() if key in GROUPS]
    settings = [f"{key}={word(value)}" for key, value in values.items() if key not in GROUPS]
    return changed(_written(*words, *chosen), parse(settings))


@lru_cache(maxsize=64)
def _written(*words: str) -> Config:
    return read(composed(*words))


def open_study(plan: Plan) -> Study:
    """The study in its folder, which is made where it is missing. Raises `ConfigError` where another one is there."""
    try:
        from dqn_cli.tuning.trials import Study
    except ImportError as error:
        raise ConfigError(f"dqn-tune needs a package that is missing ({error}); pip install 'dqn-cli[tune]'") from error
    had = plan.folder.is_dir() and {*os.listdir(plan.folder)} - {"journal.log", "journal.lock"}
    if had and not (plan.folder / STUDY).exists():
        raise ConfigError(f"tune.dir={plan.folder} holds other things than a study; write another tune.dir")
    with writing(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
    total, period = plan.config.run.total_steps, plan.config.run.eval_every_steps
    study = Study(plan.folder, plan.space, plan.settings, claimed, is_held, total, period or total)
    with study.lock.held():
        _agree(plan)
    study.first(first_values(plan))
    return study


def _agree(plan: Plan) -> None:
    """Write what the study is, or compare it with what stands there. Raises `ConfigError` where that is another one."""
    settings = plan.settings
    search = {name: getattr(settings, name) for name in ("seeds", "pruner", "startup", "seed")}
    config = {
        key: value for key, value in plain_config(plan.config).items() if key not in ("seed", "device", "threads")
    }
    now: dict[str, Any] = {"space": plain(plan.space), "tune": search, "seed": plan.seed, "config": config}
    file = plan.folder / STUDY
    if not file.exists():
        with writing(file):
            temporary = file.with_name(f".tmp-{STUDY}")
            temporary.write_text(json.dumps(now, indent=2, allow_nan=False) + "\n")
            temporary.replace(file)
        return
    from dqn_cli.training.untrusted import strict_json

    before = strict_json(file, read_bytes(file, MAX_BYTES))
    now = json.loads(json.dumps(now))
    for name in now:
        if before.get(name) != now[name]:
            raise ConfigError(
                f"tune.dir={plan.folder} holds another study: {_changed(name, before.get(name), now[name], file)}; "
                "write its settings, or another tune.dir"
            )


def _changed(name: str, before: Any, now: Any, file: Path) -> str:
    if name == "config":
        try:
            return in_words(differences(typed(before), typed(now)))
        except Exception as error:  # data that nobody vouches for may break a parser in any way
            raise CheckpointError(f"{file}: not a study's configuration: {error}") from error
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{'tune.' * (name == 'tune')}{key} {before.get(key)} -> {now.get(key)}" for key in keys[:3])
    return f"{name} {before} -> {now}"


def first_values(plan: Plan) -> dict[str, Any]:
    """What the settings are without a search, as far as the space holds them: what is found should be better."""
    data = plain_config(plan.config)
    found = {}
    for key, one in plan.space.items():
        section, _, name = key.rpartition(".")
        value = data.get(section, {}).get(name) if section else data.get(key)
        value = value["name"] if isinstance(value, dict) else value
        if one.holds(value):
            found[key] = word(value) if isinstance(one, Choices) else value
    return found


def work(plan: Plan, tell: Tell, wanted: Callable[[], bool] = lambda: True) -> Study:
    """Run trials until all are through, or are no longer `wanted`. Raises what ends a study, such as signals."""
    with composing():
        study = open_study(plan)
        waiting = False
        while wanted():
            with ExitStack() as stack:
                taken = study.take(stack)
                if taken is not None:
                    run_trial(plan, study, taken, tell)
                    waiting = False
                    continue
            if not (others := study.running()):
                break
            if not waiting:
                tell(f"waiting for {others} trial{'s' * (others > 1)} of other processes")
            waiting = True
            time.sleep(POLL_S)
    return study


def run_trial(plan: Plan, study: Study, taken: Taken, tell: Tell) -> None:
    """Run a trial, each of its seeds, and say what came of it. Raises what is not the trial's fault."""
    from dqn_cli.tuning.trials import Pruned

    number = taken.trial.number
    how = "goes on" if taken.again else "begins"
    tell(f"trial {number} {how}: {' '.join(f'{key}={word(value)}' for key, value in taken.values.items())}")
    before = study.best()
    try:
        while len(taken.returns) < plan.settings.seeds:
            taken.through(run_seed(plan, taken))
        value = sum(taken.returns) / len(taken.returns)
        study.end(taken.trial, value)
        best = ", the best so far" if before is None or value > (before.value or 0.0) else ""
        outcome = f"return {value:.6g}{best}"
    except Pruned as pruned:
        study.end(taken.trial, pruned=True)
        outcome = f"pruned {pruned}"
    except NumericalError as error:  # such settings are bad ones, which the sampler should know
        study.end(taken.trial, pruned=True, error=str(error))
        outcome = str(error)
    except (Interrupted, StorageError):
        raise
    except UserError as error:
        study.end(taken.trial, error=str(error))
        outcome = f"failed: {error}"
    tell(f"trial {number}: {outcome} ({study.ended()} of {plan.settings.trials})")


def run_seed(plan: Plan, taken: Taken) -> float:
    """Run the next seed of a trial, in a folder of its own: the final policy's mean return. Raises as `run_trial`."""
    from dqn_cli.tuning.trials import Pruned

    seed = plan.seed + len(taken.returns)
    words = [*plan.words_of(taken.values), f"seed={seed}"]
    folder = taken.folder / f"seed-{seed}"
    result = {"job": taken.trial.number, "overrides": words, "return_mean": None, "error": None, "exit_code": None}
    with claimed(folder):
        try:
            written = config_of(plan.words, {**taken.values, "seed": seed})
            way = begin_or_go_on(folder, written, typed_keys(clean(words)), AUTO)
            sweep.record(folder, **result | {"status": "running"})
            value = _finished(way) if way.finished else _train(plan, taken, way, words, folder)
        except Pruned as pruned:
            sweep.record(folder, **result | {"status": "interrupted", "error": f"pruned {pruned}"})
            raise
        except (Interrupted, KeyboardInterrupt) as stop:
            code = stop.exit_code if isinstance(stop, Interrupted) else Interrupted.exit_code
            when = str(stop).partition(";")[0]  # how to go on is another thing for a study
            sweep.record(folder, **result | {"status": "interrupted", "error": when or None, "exit_code": code})
            raise Interrupted(f"{when or 'stopped by Ctrl-C'}; go on with the same command", code) from stop
        except Exception as error:
            failure = told(error, folder)
            sweep.record(folder, **result | {"status": "failed", "error": str(failure), "exit_code": failure.exit_code})
            raise failure from error
        sweep.record(folder, **result | {"status": "done", "return_mean": value, "exit_code": 0})
    return value


def _finished(way: Way) -> float:
    """The result of a run that was through when its process ended."""
    from dqn_cli.training.watcher import past_of

    assert way.resume is not None
    last = past_of(way.resume.found.checkpoint.state).last
    if last is None:
        raise CheckpointError("the run was finished without an evaluation; write another tune.dir")
    return last.result.mean


def _train(plan: Plan, taken: Taken, way: Way, words: list[str], folder: Path) -> float:
    from dqn_cli.build import train_run  # torch is imported here: after every check that can do without

    done, total = taken.returns, way.config.run.total_steps
    last_seed = len(done) + 1 == plan.settings.seeds

    def evaluated(steps: int, mean: float) -> None:
        at_end = last_seed and steps >= total
        taken.report(len(done) * total + steps, (sum(done) + mean) / (len(done) + 1), prune=not at_end)

    with (folder / OUTPUT).open("a") as file, redirect_stdout(file):
        for notice in way.notices:
            print(f"note: {notice}")
        summary = train_run(
            way.config,
            run_dir=folder,
            overrides=words,
            command=["dqn-train", *words],
            resume=way.resume,
            evaluated=evaluated,
        )
        print(*summary.lines(), sep="\n")
    return summary.metric
