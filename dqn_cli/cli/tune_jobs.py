"""The processes of `dqn-tune` on this machine, and what is written once the trials are through."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_cli.cli.paths import CONFIG_DIR, job_folder, take_folders
from dqn_cli.cli.tune_preset import preset
from dqn_cli.cli.tune_trials import Plan, composing, open_study, work
from dqn_cli.errors import Interrupted, writing
from dqn_cli.training.summary import shown
from dqn_cli.tuning.space import word

if TYPE_CHECKING:
    from dqn_cli.tuning.trials import Study

PRESETS = Path("conf", "experiment")


def tune(plan: Plan) -> int:
    """Run the trials that are left, with as many processes as are wanted: 0, 1 where there is no best one."""
    open_study(plan)  # before there are others
    with helpers(plan):
        study = work(plan, _tell)
    return finish(plan, study)


def _tell(line: str) -> None:
    print(line, flush=True)


@contextmanager
def helpers(plan: Plan) -> Iterator[None]:
    """The other processes, each as good as this one. They end with the trials, or where a signal ends this process.

    One that is killed is no loss: its trial goes on in another one.
    """
    spawn = multiprocessing.get_context("spawn")
    number = plan.settings.jobs - 1
    started: list[BaseProcess] = [spawn.Process(target=_help, args=(plan, os.getpid())) for _ in range(number)]
    for process in started:
        process.start()
    stop = signal.SIGTERM
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", None) == Interrupted.exit_code:
            stop = signal.SIGINT
        for process in started:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, stop)
        raise
    finally:
        for process in started:
            process.join()
    for process in started:
        if process.exitcode is not None and process.exitcode < 0:
            _tell(f"note: a process was killed by signal {-process.exitcode}; the others went on with its trial")


def _help(plan: Plan, parent: int) -> None:
    """A process of its own group, so that Ctrl-C reaches it by its parent, once."""
    from dqn_cli.cli.main import _guarded

    os.setpgid(0, 0)
    take_folders([word for folder in plan.config_folders for word in (CONFIG_DIR, folder)])

    def command(_: list[str]) -> int:
        work(plan, _tell, lambda: os.getppid() == parent)
        return 0

    raise SystemExit(_guarded("dqn-tune", command, []))


def finish(plan: Plan, study: Study) -> int:
    """Write the table, the pictures and the preset, and print what was found."""
    from dqn_cli.tuning import results

    folder, best = plan.folder, study.best()
    with study.lock.held():  # other processes come to their end too
        with writing(folder / results.TABLE):
            results.write_table(study)
        try:
            with writing(folder):
                pictures = results.write_pictures(study)
        except ImportError:
            pictures = []
            print("note: pictures need matplotlib; pip install 'dqn-cli[tune]' and write the same command again")
        name = job_folder(folder.name)
        if best is not None:
            file = folder / PRESETS / f"{name}.yaml"
            with writing(file), composing():
                file.parent.mkdir(parents=True, exist_ok=True)
                text = preset(plan, study.values_of(best), f"trial {best.number} of {study.ended()}", best.value or 0.0)
                temporary = file.with_name(f".tmp-{file.name}")
                temporary.write_text(text)
                temporary.replace(file)
    print(f"trials     {results.counted(study)} -> {shown(folder / results.TABLE)}")
    if pictures:
        print(f"pictures   {', '.join(shown(file) for file in pictures)}")
    if best is None:
        print("best       none: no trial came to its end")
        return 1
    values = " ".join(f"{key}={word(value)}" for key, value in study.values_of(best).items())
    print(f"best       trial {best.number}: return {best.value:.6g} with {values}")
    print(f"try it     dqn-train --config-dir {shown(folder / 'conf')} experiment={name} seed={plan.seed + 1000}")
    print(f"report     dqn-report {shown(folder / 'trials')}")
    return 0
