"""`dqn-tune`: what is refused, what is tried, what is left, and that it goes on after whatever stopped it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("optuna")

from dqn_cli.cli.main import train, tune
from dqn_cli.cli.paths import choices
from dqn_cli.cli.tune import make_plan
from dqn_cli.errors import EnvironmentFault, Interrupted, NumericalError
from dqn_cli.study import runs

LINE = ["env=CartPole", "variant=ddqn", "search=cartpole", "run.total_steps=20_000", "tune.dir=study"]
FAST = ["search=s.yaml", "env=CartPole", "tune.dir=study"]


@pytest.fixture
def space(trainer):
    Path("s.yaml").write_text("optimizer.lr: {low: 1e-4, high: 1e-1, log: true}\nreplay.n_step: {low: 1, high: 4}\n")
    trainer.act = lambda config, run_dir: 100 * config.optimizer.lr + config.replay.n_step
    return trainer


def table():
    return list(csv.DictReader(Path("study/trials.csv").read_text().splitlines()))


def tell(trainer, steps, mean):
    """What an evaluation of the run that is going tells."""
    trainer.runs[-1][2]["evaluated"](steps, mean)


# what is tried and what is left


def test_a_search(space, capfd):
    assert tune([*FAST, "tune.trials=6", "seed=3", "tune.startup=2"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    rows = table()
    assert [row["trial"] for row in rows] == list("012345")
    assert {row["state"] for row in rows} == {"complete"}
    for row, (config, folder, rest) in zip(rows, space.runs, strict=True):
        assert float(row["optimizer.lr"]) == config.optimizer.lr
        assert int(row["replay.n_step"]) == config.replay.n_step
        assert (config.seed, config.threads) == (3, "1")
        assert folder == Path(row["folder"], "seed-3")
        assert rest["overrides"][-1] == "seed=3"
        assert f"optimizer.lr={config.optimizer.lr}" in rest["command"]
    # the settings as they are without a search come first
    assert (rows[0]["optimizer.lr"], rows[0]["replay.n_step"]) == ("0.004", "3")
    best = max(rows, key=lambda row: float(row["return_mean"]))
    assert f"best       trial {best['trial']}: return " in out
    assert "trials     6 trials: 6 complete -> study/trials.csv" in out
    assert {"history.svg", "importance.svg", "study.json", "journal.log"} <= {
        file.name for file in Path("study").iterdir()
    }
    found = runs.load([Path("study/trials")])
    assert [(run.status, run.seed) for run in found] == [("finished", 3)] * 6


def test_its_preset_is_its_best_run(space, capfd):
    more = ["variant=tdqn", "network.hidden=[32]", "run.total_steps=5_000", "exploration.over_steps=700"]
    assert tune([*FAST, "tune.trials=4", "experiment=dueling", *more]) == 0
    best = max(space.runs, key=lambda run: space.act(*run[:2]))[0]
    (file,) = Path("study/conf/experiment").glob("*.yaml")
    assert file.read_text().startswith("# @package _global_\n# Found by dqn-tune search=s.yaml")
    assert "hold it against other seeds" in file.read_text()
    capfd.readouterr()
    assert train(["--config-dir", "study/conf", f"experiment={file.stem}", "seed=0", "threads=1"]) == 0
    assert space.runs[-1][0] == best
    assert (
        train(["--config-dir", "study/conf", f"experiment={file.stem}", "replay.n_step=7", "seed=0", "threads=1"]) == 0
    )
    assert space.runs[-1][0].replay.n_step == 7


def test_the_same_command_again_does_only_what_is_missing(space, capfd):
    for trials, new in ((2, 2), (2, 0), (5, 3), (4, 0)):
        before = len(space.runs)
        assert tune([*FAST, f"tune.trials={trials}"]) == 0
        assert len(space.runs) - before == new
    assert len(table()) == 5


def test_it_is_deterministic_for_one_process(space):
    for folder in ("study", "other"):
        assert tune([*FAST[:-1], f"tune.dir={folder}", "tune.trials=4", "tune.startup=2"]) == 0
    lrs = [config.optimizer.lr for config, *_ in space.runs]
    assert lrs[:4] == lrs[4:]
    assert tune([*FAST[:-1], "tune.dir=third", "tune.trials=2", "tune.seed=1"]) == 0
    assert lrs[1] != space.runs[-1][0].optimizer.lr


def test_the_seeds_of_a_trial_are_averaged(space):
    space.act = lambda config, run_dir: float(config.seed)
    assert tune([*FAST, "tune.trials=2", "tune.seeds=3", "seed=10"]) == 0
    assert [config.seed for config, *_ in space.runs] == [10, 11, 12] * 2
    assert {(row["return_mean"], row["returns"]) for row in table()} == {("11.0", "10 11 12")}


def test_evaluations_are_told_and_bad_trials_pruned(space):
    def act(config, run_dir):
        value = 1.0 if len(space.runs) == 4 else 100.0
        for steps in (5_000, 10_000, 20_000, 30_000):
            tell(space, steps, value)
        return value

    space.act = act
    assert tune([*FAST, "tune.trials=5", "tune.startup=3"]) == 0
    rows = table()
    assert [row["state"] for row in rows] == [*["complete"] * 3, "pruned", "complete"]
    # CartPole runs for 60,000 steps; the first quarter is left alone
    assert (rows[3]["steps"], rows[3]["return_mean"]) == ("20000", "1.0")
    result = json.loads(Path(rows[3]["folder"], "seed-0/result.json").read_text())
    assert (result["status"], result["error"]) == ("interrupted", "pruned at step 20,000 with 1")


def test_pruning_looks_at_the_mean_over_seeds(space):
    def act(config, run_dir):
        tell(space, 20_000, 10.0 * (1 + config.seed))
        return 10.0 * (1 + config.seed)

    space.act = act
    assert tune([*FAST, "tune.trials=1", "tune.seeds=2"]) == 0
    lines = [json.loads(line) for line in Path("study/journal.log").read_text().splitlines()]
    told = [(line["step"], line["intermediate_value"]) for line in lines if "intermediate_value" in line]
    assert told == [(20_000, 10.0), (80_000, 15.0)]


def test_what_diverges_is_told_to_the_sampler_and_what_fails_is_named(space, capfd):
    def act(config, run_dir):
        if len(space.runs) == 2:
            raise NumericalError("diverged: loss is nan")
        if len(space.runs) == 3:
            raise EnvironmentFault("step() raised")
        if len(space.runs) == 4:
            raise RuntimeError("a bug")
        return 5.0

    space.act = act
    assert tune([*FAST, "tune.trials=5"]) == 0
    out, _ = capfd.readouterr()
    assert [row["state"] for row in table()] == ["complete", "pruned", "failed", "failed", "complete"]
    assert [row["error"] for row in table()][1:3] == ["diverged: loss is nan", "step() raised"]
    assert "which is a bug of dqn-cli; see study/trials/0003/seed-0/traceback.txt" in table()[3]["error"]
    assert "5 trials: 2 complete, 1 pruned, 2 failed" in out


def test_without_a_best_trial_it_has_failed(space, capfd):
    def act(config, run_dir):
        raise EnvironmentFault("step() raised")

    space.act = act
    assert tune([*FAST, "tune.trials=2"]) == 1
    assert "best       none" in capfd.readouterr().out
    assert not Path("study/conf").exists()


# what stops it


@pytest.mark.parametrize(("code", "stop"), [(130, "Ctrl-C"), (75, "SIGTERM")])
def test_a_signal_ends_it_and_its_trial_goes_on(space, capfd, code, stop):
    whole = space.act

    def act(config, run_dir):
        if len(space.runs) == 3:
            raise Interrupted(f"stopped by {stop} at step 100; saved, continue with dqn-train resume=x", code)
        return whole(config, run_dir)

    space.act = act
    assert tune([*FAST, "tune.trials=4", "tune.seeds=2"]) == code
    assert capfd.readouterr().err == f"dqn-tune: stopped by {stop} at step 100; go on with the same command\n"
    assert tune([*FAST, "tune.trials=4", "tune.seeds=2"]) == 0
    assert "trial 1 goes on: optimizer.lr=" in capfd.readouterr().out
    rows = table()
    assert [row["state"] for row in rows] == ["complete"] * 4
    assert [row["attempts"] for row in rows] == ["1", "2", "1", "1"]
    assert len(space.runs) == 4 * 2 + 1
    assert space.runs[2][0] == space.runs[3][0]


def test_a_run_that_was_through_when_its_process_died_is_not_run_again(space, monkeypatch):
    from dqn_cli.cli import tune_trials

    record = tune_trials.sweep.record

    dies = [True]

    def dying(folder, **result):
        if result["status"] == "done" and dies:
            dies.pop()
            raise KeyboardInterrupt
        record(folder, **result)

    monkeypatch.setattr(tune_trials.sweep, "record", dying)
    monkeypatch.setattr(tune_trials, "_finished", lambda way: 42.0)  # the fake leaves no state
    assert tune([*FAST, "tune.trials=1"]) == 130
    assert tune([*FAST, "tune.trials=1"]) == 0
    assert [row["return_mean"] for row in table()] == ["42.0"]
    assert len(space.runs) == 1


WORKER = """
import sys, time
from types import ModuleType
sys.path.insert(0, {tests!r})
from fake_runs import find, leave
from dqn_cli.training import resuming
resuming.find = find
module = ModuleType("dqn_cli.build")

class Summary:
    def __init__(self, metric): self.metric = metric
    def lines(self): return []

def train_run(config, run_dir, **rest):
    with open("runs.txt", "a") as file:
        file.write(run_dir.parent.name + "\\n")
    time.sleep({seconds})
    leave(run_dir, config, config.run.total_steps, finished=True)
    return Summary(config.optimizer.lr)

module.train_run = train_run
sys.modules["dqn_cli.build"] = module
from dqn_cli.cli.main import tune
sys.exit(tune(sys.argv[1:]))
"""


def begin(seconds):
    code = WORKER.format(tests=str(Path(__file__).parent), seconds=seconds)
    return subprocess.Popen(
        [sys.executable, "-c", code, *FAST, "tune.trials=8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_processes_one_is_killed_and_no_trial_is_lost_or_counted_twice(space):
    doomed = begin(seconds=60)
    while not Path("runs.txt").exists():  # it is in the midst of its trial
        assert doomed.poll() is None, doomed.communicate()
        time.sleep(0.02)
    other = begin(seconds=0.05)
    deadline = time.monotonic() + 60
    while Path("runs.txt").read_text().count("\n") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.communicate()
    out, err = other.communicate(timeout=60)
    assert (other.returncode, err) == (0, "")
    assert "trial 0 goes on" in out
    rows = table()
    assert [row["trial"] for row in rows] == list("01234567")
    assert [row["state"] for row in rows] == ["complete"] * 8
    assert [row["attempts"] for row in rows] == ["2", *["1"] * 7]
    ran = Path("runs.txt").read_text().split()
    assert sorted(ran) == sorted(["0000", *(f"{number:04d}" for number in range(8))])
    assert len({row["optimizer.lr"] for row in rows}) == 8


# what is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("env=CartPole", "search= is missing; write search=<one of atari, cartpole, minatar, tabular, or FILE.yaml>"),
        ("search=cartpol", "unknown search cartpol; did you mean cartpole?"),
        ("search=no.yaml", "search=no.yaml does not exist; write a YAML file, or one of atari"),
        ("search=cartpole search=atari", "search is given twice, by search=cartpole and search=atari"),
        ("search=", "search has no value"),
        ("serch=cartpole", "unknown setting serch; did you mean search?"),
        ("search=cartpole tune.trial=3", "unknown setting tune.trial; did you mean tune.trials?"),
        ("search=cartpole tune.trials=0", "tune.trials=0 is not in [1, 100000]"),
        ("search=cartpole tune.trials=many", "tune.trials=many is not a whole number; see dqn-tune --help"),
        ("search=cartpole tune.pruner=mean", "tune.pruner=mean is not one of median, halving, none"),
        ("search=cartpole tune.jobs=1000", "tune.jobs=1000 with threads=1 needs 1000 cores, "),
        ("search=cartpole threads=auto tune.jobs=2", "threads=auto is not for tune.jobs=2; write threads=1"),
        ("search=cartpole -m", "-m is not a flag of dqn-tune"),
        ("search=cartpole resume=auto", "resume=auto: resume is a word of dqn-train alone"),
        ("search=cartpole hydra.run.dir=x", "hydra.run.dir does nothing here"),
        ("search=cartpole seed=1,2", "seed=1,2 lists several values"),
        ("search=cartpole optimizer.lr=1", "optimizer.lr is searched by search=cartpole; leave out optimizer.lr=..."),
        ("search=cartpole env=CartPol", "unknown env CartPol; did you mean CartPole?"),
        ("search=cartpole discont=1", "unknown setting discont; did you mean discount?"),
        (
            "search=atari variant=vdqn",
            "search=atari tries variant.target_every=1000: variant.target_every does nothing",
        ),
        ("search=cartpole env=Taxi variant=qlearning", "search=cartpole tries replay.batch_size="),
        ("search=cartpole run.total_steps=500", "search=cartpole tries "),
        (
            "search=cartpole tune.pruner=median run.eval_every_steps=null",
            "tune.pruner=median does nothing with run.eval_every_steps=null, one evaluation at the end; ",
        ),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(line, message, trainer, capfd):
    assert tune(line.split()) == 2
    out, err = capfd.readouterr()
    assert err.startswith(f"dqn-tune: error: {message}")
    assert (out, err.count("\n"), trainer.runs, list(Path().iterdir())) == ("", 1, [], [])


def test_where_nothing_is_evaluated_on_the_way_nothing_is_pruned(trainer):
    assert make_plan([*LINE, "run.eval_every_steps=null"]).settings.pruner == "none"
    assert make_plan(LINE).settings.pruner == "median"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["discount=0.9"], "tune.dir=study holds another study: discount 0.99 -> 0.9; write its settings, or another"),
        (["tune.seeds=2"], "tune.dir=study holds another study: tune.seeds 1 -> 2; "),
        (["seed=4"], "tune.dir=study holds another study: seed 0 -> 4; "),
    ],
)
def test_another_study_needs_another_folder(space, capfd, more, message):
    assert tune([*FAST, "tune.trials=1"]) == 0
    capfd.readouterr()
    assert tune([*FAST, "tune.trials=1", *more]) == 2
    assert message in capfd.readouterr().err
    Path("s.yaml").write_text("optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\nreplay.n_step: [1, 3]\n")
    assert tune([*FAST, "tune.trials=1"]) == 2
    assert "holds another study: optimizer.lr {'low': 0.0001" in capfd.readouterr().err
    assert len(space.runs) == 1


def test_a_folder_with_other_things_is_refused(space, capfd):
    Path("study").mkdir()
    Path("study/thesis.txt").write_text("mine")
    assert tune([*FAST, "tune.trials=1"]) == 2
    assert "tune.dir=study holds other things than a study" in capfd.readouterr().err
    assert [file.name for file in Path("study").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("cartpole", ["env=CartPole", "variant=ddqn"]),
        ("cartpole", ["env=Acrobot", "variant=tdqn"]),
        ("tabular", ["env=FrozenLake", "variant=qlearning"]),
        ("minatar", ["env=minatar/Breakout", "variant=ddqn"]),
        ("atari", ["env=Pong", "experiment=dopamine"]),
    ],
)
def test_the_shipped_spaces_fit_what_they_are_for(trainer, search, words):
    assert {*choices("search")} == {"cartpole", "tabular", "minatar", "atari"}
    plan = make_plan([f"search={search}", *words])
    assert plan.folder.parent == Path("runs/tune")
    assert plan.folder.name.endswith(f"_{search}")


def test_the_help_fits_on_a_screen(capsys):
    assert tune(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert len(out.splitlines()) <= 40
    assert "tune.trials=50" in out


def test_the_preset_is_plain_yaml(space):
    assert tune([*FAST, "tune.trials=2"]) == 0
    (file,) = Path("study/conf/experiment").glob("*.yaml")
    data = yaml.safe_load(file.read_text())
    assert {*data} == {"defaults", "optimizer", "replay"} or {*data} == {"defaults", "optimizer"}
    assert "seed" not in file.read_text().split("defaults:")[1]
