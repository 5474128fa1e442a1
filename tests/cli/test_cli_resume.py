"""`resume=`: which runs go on, configured how, and what is refused before anything is written."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from fake_runs import CONFIG, Found, leave

from dqn_cli.cli.compare import FREE, MACHINE, at_length_of, compared, differences, told
from dqn_cli.cli.lock import claimed
from dqn_cli.cli.main import train
from dqn_cli.cli.provenance import leaves
from dqn_cli.cli.resume import take
from dqn_cli.cli.runs import Standing, standing
from dqn_cli.cli.way import Asked
from dqn_cli.config import AtariConfig, LrSchedule, PrioritizedConfig, TdqnConfig
from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.settle import settle
from dqn_cli.training import resuming
from dqn_cli.validate import plain, typed

SETTINGS = plain(CONFIG)


def changed(**values):
    """The configuration with other values: `run__total_steps=3`."""
    data = deepcopy(SETTINGS)
    for key, value in values.items():
        section, _, name = key.rpartition("__")
        (data[section] if section else data)[name] = value
    return typed(data)


@pytest.fixture
def run(trainer, tmp_path):
    """A run that was stopped at step 20,000."""
    folder = tmp_path / "runs" / "x"
    leave(folder, CONFIG, 10_000)
    leave(folder, CONFIG, 20_000)
    return folder


def files(folder="."):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != "run.lock"}


def refused(argv, capfd, code=2):
    """The one line of a refusal that changes nothing and trains nothing."""
    before = files()
    assert train(argv) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert files() == before
    return err.removeprefix("dqn-train: error: ").strip()


# the words


def test_taking_leaves_the_rest_as_it_was():
    assert take(["seed=1"]) == (["seed=1"], None)
    assert take(["seed=1", "resume=a b=c", "-m"]) == (["seed=1", "-m"], Asked("a b=c", "exact", False))
    every = ["resume=auto", "+resume_env=restart", "resume_override=true"]
    assert take(every) == ([], Asked("auto", "restart", True))
    assert take(["resume=x", "resume_env=exact", "resume_override=false"]) == ([], Asked("x"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("resume", "resume has no value; write resume=<run folder>|auto"),
        ("resume=", "resume has no value; write resume=<run folder>|auto"),
        ("resume=a resume=b", "resume is given twice, by resume=a and resume=b; write one of them"),
        ("resume=a resume_env=fresh", "resume_env=fresh is not one of exact, restart; write resume_env=exact"),
        ("resume=a resume_override", "resume_override has no value; write resume_override=true|false"),
        ("resume=a resume_override=1", "resume_override=1 is not one of true, false; write resume_override=true"),
        ("resume_env=restart", "resume_env=restart does nothing without resume=...; remove it, or write resume=<run"),
        ("resume_override=true seed=1", "resume_override=true does nothing without resume=...; "),
        ("resum=x", "unknown setting resum; did you mean resume?"),
        ("resume_overide=true", "unknown setting resume_overide; did you mean resume_override?"),
        ("--resume=x", "--resume=x is not a flag: settings have no dashes; write resume=x"),
        ("--resume x", "--resume is not a flag: settings have no dashes; write resume=..."),
        ("resume=auto", "resume=auto needs a folder that stays the same; write hydra.run.dir=..."),
        ("-m resume=auto seed=1,2", "resume=auto does nothing with -m: a sweep goes on with the same command again"),
    ],
)
def test_words_that_are_not_understood(line, message, trainer, capfd):
    assert refused(line.split(), capfd).startswith(message)
    assert list(Path().iterdir()) == []


def test_help_for_the_words(capsys):
    assert train(["--help", "resume"]) == 0
    assert [line.partition("=")[0] for line in capsys.readouterr().out.splitlines() if "=  " in line] == [
        "resume",
        "resume_env",
        "resume_override",
    ]
    assert train(["--help", "ablate"]) == 0
    assert capsys.readouterr().out.startswith("ablate=  ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-m seed=1", "resume=runs/x continues one run; remove -m (a sweep goes on with its own command again)"),
        ("--cfg job", "--cfg cannot be used with resume=runs/x; remove one of them"),
        ("hydra.run.dir=y", "hydra.run.dir does nothing with resume=runs/x, which stays in its folder; remove it"),
        ("init_from=y", "init_from=y and resume=runs/x cannot both be had: a run goes on with its own weights; "),
        ("variant=tdqn", "resume=runs/x takes its settings from the run; remove variant=tdqn"),
        ("env=Taxi", "resume=runs/x takes its settings from the run; remove env=Taxi"),
        ("experiment=rainbow", "resume=runs/x takes its settings from the run; remove experiment=rainbow"),
        ("without=noisy", "resume=runs/x takes its settings from the run; remove without=noisy"),
        ("ablate=each", "resume=runs/x takes its settings from the run; remove ablate=each"),
        ("run.total_steps=1e5,2e5", "run.total_steps=100000,200000 lists several values, resume=runs/x continues one"),
        ("run.totl_steps=9", "unknown setting run.totl_steps; did you mean run.total_steps?"),
        ("run.total_steps=many", "run.total_steps=many is not a whole number; see dqn-train --help run.total_steps"),
        ("run.total_steps=0", "run.total_steps=0 is not in [1, 1000000000000]"),
        ("run.total_steps=1e5 run.total_steps=2e5", "run.total_steps is given twice, by run.total_steps=100000 and"),
        ("run.log_every_steps=1e6", "run.log_every_steps=1000000 is never reached: run.total_steps=50000; write a"),
        ("env.sticky=0.5", "env.sticky does nothing here: it belongs to Atari games and MinAtar's games; remove"),
        ("device=${oc.env:HOME}", "device=${oc.env:HOME} would be evaluated; write the value itself"),
        ("run.total_steps=20000", "run.total_steps=20000 is not beyond step 20000 of the run; write more"),
        ("discount=0.9", "the run was configured otherwise: discount 0.99 -> 0.9; keep its settings, or insist with "),
        (
            "discount=0.9 network.hidden=[8] seed=7 num_envs=2 loss=mse",
            "the run was configured otherwise: network.hidden [256,256] -> [8], loss huber -> mse, seed 0 -> 7, "
            "discount 0.99 -> 0.9 and 1 more; keep its settings, or insist with resume_override=true",
        ),
        ("env.kwargs.x=1", "the run was configured otherwise: env.kwargs"),
    ],
)
def test_what_a_run_that_goes_on_does_not_take(line, message, run, trainer, capfd):
    assert refused(["resume=runs/x", *line.split()], capfd).startswith(message)
    assert trainer.runs == []


# the folder


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "resume=nowhere does not exist; write a run folder of dqn-train"),
        ("file", "resume=file is a file; write a run folder of dqn-train"),
        ("empty", "resume=empty holds no run; write a run folder of dqn-train"),
        ("sw", "resume=sw is a sweep; write its own command again, or the folder of one of its jobs"),
        (
            "runs/x/checkpoints/step-000010000",
            "resume=runs/x/checkpoints/step-000010000 is a checkpoint; write its run: resume=runs/x",
        ),
    ],
)
def test_folders_that_hold_no_run(folder, message, run, capfd):
    Path("file").touch()
    for path in ("empty/checkpoints", "sw"):
        Path(path).mkdir(parents=True)
    Path("sw/jobs.json").touch()
    assert refused([f"resume={folder}"], capfd, 3) == message


@pytest.mark.parametrize("place", [".", "checkpoints", "replay"])
def test_a_link_could_lead_elsewhere(place, run, tmp_path, capfd):
    (run / place).mkdir(exist_ok=True)
    (run / place / "metrics.csv").symlink_to(tmp_path / "elsewhere")
    assert "metrics.csv is a link; a run's folder has none" in refused(["resume=runs/x"], capfd, 3)
    assert "metrics.csv is a link" in refused(["env=CartPole", "resume=auto", "hydra.run.dir=runs/x"], capfd, 3)


def test_the_folder_itself_may_be_a_link_and_below_home(run, trainer, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(run)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train(["resume=~/link"]) == 0
    assert trainer.runs[0][1].samefile(run)


def test_where_a_run_stands_is_told_by_names(tmp_path):
    def stands(*names):
        folder = tmp_path / "-".join(names)
        for name in names:
            (folder / "checkpoints" / name).mkdir(parents=True)
        return standing(folder)

    assert stands() is None
    assert stands(".tmp-step-000000010") is None
    assert stands("best-000000010") == Standing(None, False)
    assert stands("step-000000010", "best-000000030", "step-000000020") == Standing(20, False)
    assert stands("step-000000020", "final-000000020") == Standing(20, True)
    assert stands("final-000000020", "step-000000030") == Standing(30, False)  # it went on
    assert stands(".old-step-000000020", "step-000000010") == Standing(20, False)  # killed while it saved
    assert stands("step-000000010", "step-1000000000") == Standing(1_000_000_000, False)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "manifest.json").touch()
    assert standing(tmp_path / "begun") == Standing(None, False)


# how it goes on


def test_a_run_goes_on_in_its_folder_configured_as_it_was(run, trainer, capfd):
    assert train(["resume=runs/x"]) == 0
    ((config, folder, rest),) = trainer.runs
    assert (config, folder) == (CONFIG, run)
    found = Found(20_000, SETTINGS, False, ["found by a fake"])
    assert rest == {
        "overrides": [],
        "command": ["dqn-train", "resume=runs/x"],
        "resume": resuming.Resume(CONFIG, "exact", found),
    }
    out, err = capfd.readouterr()
    assert out.splitlines() == ["note: found by a fake", "resumed    at step 20,000 of 50,000", "final 10.0"]
    assert err == ""


def test_what_is_typed_takes_the_place_of_what_was(run, trainer, capfd):
    words = ["run.total_steps=1e5", "logger=csv", "run.stop_at_return=null", "resume_env=restart"]
    assert train([*words, "resume=runs/x"]) == 0
    ((config, _, rest),) = trainer.runs
    assert config == changed(run__total_steps=100_000, logger="csv")
    assert (rest["resume"].config, rest["resume"].env) == (CONFIG, "restart")
    assert rest["overrides"] == words[:3]
    assert "note: found by a fake\nresumed    at step 20,000 of 100,000\n" in capfd.readouterr().out


def test_nothing_is_clipped_that_is_in_use(trainer, tmp_path):
    config = changed(exploration__over_steps=40_000, run__learning_starts_steps=15_000, replay__capacity=50_000)
    leave(tmp_path / "x", config, 20_000)
    assert train(["resume=x", "run.total_steps=25000"]) == 0
    assert trainer.runs[0][0] == typed(plain(config) | {"run": plain(config)["run"] | {"total_steps": 25_000}})


def test_settings_that_make_another_run_of_it_are_insisted_on(run, trainer, capfd):
    assert train(["resume=runs/x", "discount=0.9", "resume_override=true"]) == 0
    assert trainer.runs[0][0] == changed(discount=0.9)
    assert (
        "note: discount 0.99 -> 0.9: the run goes on, but no longer bit for bit as without the stop\n"
        in capfd.readouterr().out
    )


def test_a_run_that_is_in_use_is_left_alone(run, trainer, capfd):
    with claimed(run):
        told = refused(["resume=runs/x"], capfd)
        assert told == f"{run} is in use by process {os.getpid()}; wait for its end, or write another folder"
        assert "is in use by" in refused(["env=CartPole", "hydra.run.dir=runs/x"], capfd)
        assert "is in use by" in refused(["env=CartPole", "hydra.run.dir=runs/x", "resume=auto"], capfd)
    assert trainer.runs == []


def test_checkpoints_that_are_all_damaged(run, trainer, capfd, monkeypatch):
    def find(folder):
        raise CheckpointError("all of them are damaged")

    monkeypatch.setattr(resuming, "find", find)
    assert refused(["resume=runs/x"], capfd, 3) == "all of them are damaged"


# what may change


def other(value):
    """Another value of the same type."""
    kinds = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.01, str: lambda v: f"{v}x"}
    lists = {list: lambda v: [*v, 3], dict: lambda v: {"x": 1}, type(None): lambda v: 7}
    return (kinds | lists)[type(value)](value)


CHOICE = {"loss": "mse", "logger": "csv", "variant.target_unit": "updates", "variant.act_with": "target"} | {
    "network.activation": "tanh",
    "network.head": "dueling",
    "exploration.schedule": "constant",
    "optimizer.lr_schedule": "linear",
    "precision": "bf16",
}


@pytest.mark.parametrize("key", [key for key, _ in leaves(SETTINGS) if not key.endswith(".name")])
def test_every_setting_is_free_or_noticed_or_refused(key):
    *sections, name = key.split(".")
    data = deepcopy(SETTINGS)
    place = data[sections[0]] if sections else data
    place[name] = CHOICE.get(key, other(place[name]) if place[name] is not None or key != "env.module" else "mod")
    wanted = typed(data)
    assert [found.partition(".kwargs")[0] for found in differences(CONFIG, wanted)] == [key.partition(".kwargs")[0]]
    if key in FREE or key in MACHINE:
        assert compared(CONFIG, wanted, override=False) == []
        return
    with pytest.raises(ConfigError) as caught:
        compared(CONFIG, wanted, override=False)
    assert f"the run was configured otherwise: {key}" in str(caught.value)
    assert " -> " in str(caught.value)
    (notice,) = compared(CONFIG, wanted, override=True)
    assert notice.startswith(key)
    assert notice.endswith("the run goes on, but no longer bit for bit as without the stop")


def test_what_is_free():
    run = {"total_steps", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "checkpoint_replay"}
    assert {*FREE} == {f"run.{name}" for name in run | {"stall_s", "stop_at_return"}} | {"logger"}
    assert {*MACHINE} == {"device", "threads"}
    assert {*FREE, *MACHINE} <= {key for key, _ in leaves(SETTINGS)}


def test_other_choices_are_told_in_short():
    data = plain(changed(seed=1)) | {"variant": plain(TdqnConfig()), "env": plain(AtariConfig(id="ALE/Pong-v5"))}
    found = differences(CONFIG, typed(data))
    assert found == {"env.id": ("CartPole-v1", "ALE/Pong-v5"), "variant": ("ddqn", "tdqn"), "seed": (0, 1)}
    assert told(found) == "env.id CartPole-v1 -> ALE/Pong-v5, variant ddqn -> tdqn, seed 0 -> 1"


def test_a_schedule_that_the_length_stretches_is_told():
    linear = changed(optimizer__lr_schedule=LrSchedule.linear)
    longer = deepcopy(linear)
    longer.run.total_steps = 60_000
    (notice,) = compared(linear, longer, override=False)
    assert notice.startswith("the learning rate's decay (optimizer.lr_schedule=linear) now ends with the run's new end")
    assert compared(linear, deepcopy(linear), override=False) == []
    for over, notices in ((None, 1), (1_000, 0)):
        rising = typed(SETTINGS | {"replay": plain(PrioritizedConfig(beta_over_steps=over))})
        longer = deepcopy(rising)
        longer.run.total_steps = 60_000
        assert len(compared(rising, longer, override=False)) == notices


def test_what_the_length_clips_is_no_difference():
    written = changed(exploration__over_steps=200_000, replay__capacity=80_000)
    stored = deepcopy(written)
    settle(stored, {"replay.capacity"})
    assert stored.exploration.over_steps == 50_000
    written.run.total_steps = 100_000
    written.run.log_every_steps = 7
    settled = deepcopy(written)
    settle(settled, {"replay.capacity"})
    assert "exploration.over_steps" in differences(stored, settled)
    wanted = at_length_of(stored, written, {"replay.capacity", "run.total_steps"})
    assert differences(stored, wanted) == {"run.total_steps": (50_000, 100_000), "run.log_every_steps": (500, 7)}


def test_a_length_that_was_not_possible_is_compared_as_it_is():
    written = changed(run__total_steps=100_000, run__learning_starts_steps=60_000)
    assert at_length_of(CONFIG, written, {"run.learning_starts_steps"}).run.learning_starts_steps == 60_000


# the end


def test_a_run_that_is_finished_says_so_and_writes_nothing(trainer, tmp_path, capfd):
    leave(tmp_path / "x", CONFIG, 50_000, finished=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for line in ("resume=x", "resume=x logger=csv"):
        assert train(line.split()) == 0
        assert capfd.readouterr() == ("run is finished (50,000 steps); write run.total_steps=... to go on\n", "")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert trainer.runs == []


def test_a_finished_run_goes_on_where_more_steps_are_written(trainer, tmp_path, capfd):
    leave(tmp_path / "x", CONFIG, 50_000, finished=True)
    assert train(["resume=x", "run.total_steps=6e4"]) == 0
    assert (trainer.runs[0][0], trainer.runs[0][2]["resume"].found.step) == (changed(run__total_steps=60_000), 50_000)
    assert "resumed    at step 50,000 of 60,000" in capfd.readouterr().out
    assert train(["resume=x"]) == 0
    assert capfd.readouterr().out.startswith("run is finished (60,000 steps)")


def test_a_goal_that_was_reached_may_be_set_anew(trainer, tmp_path, capfd):
    leave(tmp_path / "x", changed(run__stop_at_return=100.0), 30_000, finished=True)
    assert train(["resume=x", "logger=csv"]) == 0
    out = capfd.readouterr().out
    assert (
        out == "run is finished (30,000 steps, run.stop_at_return=100 reached); write run.stop_at_return=... to go on\n"
    )
    assert train(["resume=x", "run.stop_at_return=200"]) == 0
    assert trainer.runs[0][0] == changed(run__stop_at_return=200.0)


def test_a_finished_run_whose_last_checkpoint_is_damaged_goes_on(trainer, tmp_path, monkeypatch):
    leave(tmp_path / "x", CONFIG, 40_000)
    leave(tmp_path / "x", CONFIG, 60_000, finished=True)
    monkeypatch.setattr(resuming, "find", lambda folder: Found(40_000, SETTINGS, False, ["damaged"]))
    assert train(["resume=x", "logger=csv"]) == 0
    assert trainer.runs[0][2]["resume"].found.step == 40_000


# the beginning


def test_a_run_without_a_checkpoint_starts_again(trainer, tmp_path, capfd):
    leave(tmp_path / "x", CONFIG)
    assert train(["resume=x"]) == 0
    ((config, folder, rest),) = trainer.runs
    assert (config, folder, rest["resume"]) == (CONFIG, tmp_path / "x", None)
    assert "note: the run was stopped before its first checkpoint: it starts again\n" in capfd.readouterr().out


def test_a_run_that_wrote_no_configuration_cannot_start_again(trainer, tmp_path, capfd):
    for text in ("", "[]", "{}", '{"config": 3}', '{"config": {}, "config": {}}', '{"config": {"seed": NaN}}'):
        (tmp_path / "x" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / "manifest.json").write_text(text)
        refused(["resume=x"], capfd, 3)
    assert trainer.runs == []


# trust


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ({"env": {**SETTINGS["env"], "id": "evil:Env-v0"}}, "env.id=evil:Env-v0 would import a module; it is not", 3),
        ({"device": "${oc.env:HOME}"}, "not a run's configuration: device=${oc.env:HOME} would be evaluated", 3),
        ({"_target_": "os.system"}, "not a run's configuration: unknown setting _target_", 3),
        ({"discount": 2}, "not a run's configuration: discount=2.0 is not in [0, 1]", 3),
        ({"run": []}, "not a run's configuration: run=[] is not a group of settings", 3),
        ({"seed": {"a": 1}}, "not a run's configuration: seed", 3),
        (
            {"env": {**SETTINGS["env"], "module": "evil"}},
            "the run's environment comes from the module 'evil'; if you trust it, write env.module=evil",
            2,
        ),
    ],
)
def test_a_strangers_run_is_not_believed(change, message, code, checkpoint, run, trainer, capfd):
    data = json.dumps(SETTINGS | change)
    if checkpoint:
        (run / "checkpoints" / "step-000020000" / "config.json").write_text(data)
    else:
        (run / "manifest.json").write_text(f'{{"config": {data}}}')
        for folder in (run / "checkpoints").iterdir():
            folder.rename(folder.with_name(f"best-{folder.name[5:]}"))
    assert message in refused(["resume=runs/x"], capfd, code)
    assert trainer.runs == []


def test_a_module_is_imported_only_where_it_is_written_again(run, trainer, capfd, tmp_path, monkeypatch):
    (tmp_path / "mine_for_resume.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    env = {**SETTINGS["env"], "module": "mine_for_resume"}
    leave(tmp_path / "y", typed(SETTINGS | {"env": env}), 20_000)
    assert "write env.module=mine_for_resume" in refused(["resume=y"], capfd)
    assert "write env.module=mine_for_resume" in refused(["resume=y", "env.module=os"], capfd)
    assert not Path("imported").exists()
    assert train(["resume=y", "env.module=mine_for_resume"]) == 0
    assert Path("imported").exists()
    assert trainer.runs[0][0].env.module == "mine_for_resume"


# resume=auto, and a folder that already holds a run


AUTO = ["env=Taxi", "variant=qlearning", "hydra.run.dir=x", "run.total_steps=2000"]


def stop(trainer, step):
    """Let the next run be killed at a step."""

    def act(config, run_dir):
        trainer.act = lambda config, run_dir: 10.0
        leave(run_dir, config, step)
        raise KeyboardInterrupt

    trainer.act = act


def test_auto_starts_goes_on_and_ends(trainer, capfd):
    stop(trainer, 1_000)
    assert train([*AUTO, "resume=auto"]) == 130
    assert trainer.runs[0][2]["resume"] is None
    capfd.readouterr()
    assert train([*AUTO, "resume=auto"]) == 0
    (first, _, _), (config, _, rest) = trainer.runs
    assert (config, rest["resume"].config, rest["resume"].found.step) == (first, first, 1_000)
    assert "resumed    at step 1,000 of 2,000" in capfd.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in Path("x").rglob("*")}
    assert train([*AUTO, "resume=auto"]) == 0
    assert capfd.readouterr() == ("run is finished (2,000 steps); write run.total_steps=... to go on\n", "")
    assert {path: path.stat().st_mtime_ns for path in Path("x").rglob("*")} == before
    assert "discount" in refused([*AUTO, "resume=auto", "discount=0.5"], capfd)
    assert len(trainer.runs) == 2
    longer = [word.replace("2000", "3000") for word in AUTO]
    assert train([*longer, "resume=auto"]) == 0  # though epsilon's decay was clipped to 2,000 steps
    assert trainer.runs[2][0].run.total_steps == 3_000
    assert trainer.runs[2][0].exploration == first.exploration


def test_auto_compares_what_is_written_with_what_was_stored(trainer, capfd):
    stop(trainer, 1_000)
    assert train(AUTO) == 130
    capfd.readouterr()
    told = refused([*AUTO, "resume=auto", "seed=3", "logger=csv"], capfd)
    assert told.startswith("the run was configured otherwise: seed 0 -> 3; keep its settings, or insist with ")
    assert train([*AUTO, "resume=auto", "seed=3", "resume_override=true", "resume_env=restart"]) == 0
    config, _, rest = trainer.runs[1]
    assert (config.seed, rest["resume"].config.seed, rest["resume"].env) == (3, 0, "restart")


def test_auto_starts_again_what_has_no_checkpoint(trainer, capfd):
    stop(trainer, None)
    assert train(AUTO) == 130
    assert train([*AUTO, "resume=auto", "seed=5"]) == 0  # nothing of the old one counts
    assert (trainer.runs[1][0].seed, trainer.runs[1][2]["resume"]) == (5, None)
    assert "it starts again" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (1_000, "hydra.run.dir=x already holds a run, stopped at step 1,000; continue it with dqn-train resume=x"),
        (
            None,
            "hydra.run.dir=x already holds a run, stopped before its first checkpoint; "
            "start it again with dqn-train resume=x",
        ),
    ],
)
def test_without_it_a_folder_that_holds_a_run_is_refused(step, told, trainer, capfd):
    stop(trainer, step)
    assert train(AUTO) == 130
    capfd.readouterr()
    assert refused(AUTO, capfd) == told
    assert train(["resume=x"]) == 0


def test_nothing_of_torch_is_needed_to_refuse(run, tmp_path):
    leave(tmp_path / "done", CONFIG, 50_000, finished=True)
    code = """
import sys
from dqn_cli.cli.main import train
for line, code in [
    ("resume=nowhere", 3), ("resume=done", 0), ("resume=runs/x variant=tdqn", 2), ("resume=runs/x seed=a,b", 2),
    ("resume=auto", 2), ("env=CartPole hydra.run.dir=runs/x", 2), ("env=CartPole hydra.run.dir=done", 2),
]:
    assert train(line.split()) == code, line
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
