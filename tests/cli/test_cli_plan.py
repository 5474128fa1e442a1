"""`dqn-plan` in this process, without its probe, which needs torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dqn_cli import __version__
from dqn_cli.cli import plan_report
from dqn_cli.cli.arguments import GROUPS, clean
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.lock import CLAIM
from dqn_cli.cli.main import plan, train
from dqn_cli.cli.paths import choices, conf_dir
from dqn_cli.cli.plan import settled
from dqn_cli.cli.provenance import COMMAND_LINE, DEFAULT, leaves, sources
from dqn_cli.cli.runs import MANIFEST
from dqn_cli.training.forecast import Forecast
from dqn_cli.training.probe import Speed
from dqn_cli.validate import SETTINGS, plain


@pytest.fixture
def shown(trainer, capfd):
    """Run `dqn-plan --no-probe`, with the words of a line, in an empty folder that stays empty; what it printed."""

    def show(line, code=0):
        assert plan(["--no-probe", *line.split()]) == code
        out, err = capfd.readouterr()
        assert err == ""
        assert list(Path().iterdir()) == []
        return out

    return show


def section(out, title):
    """The rows of a section, by their labels, unwrapped."""
    rows, label = {}, None
    for line in out[out.index(f"{title}\n") :].split("\n\n")[0].splitlines()[1:]:
        label = line[:17].strip() or label
        rows[label] = f"{rows.get(label, '')} {line[17:].strip()}".strip()
    return rows


REFUSED = [
    "env=CartPol",
    "variant=x",
    "cartpole",
    "run.totl_steps=3",
    "--listt",
    "optimizer.lr=abc",
    "seed=null",
    "seed=1,2",
    "network.hidden=[65536,65536]",
    "variant=vdqn variant.target_every=10",
    "env=gym",
    "env=gym env.id=Pendulum-v1",
    "env=Breakout network=mlp env.crop=[0,0,99,99]",
    "env=CartPole network=nature_cnn",
    "optimizer.lr=${nope}",
    "variant=qlearning",
    "env=Taxi variant=qlearning run.updates_per_round=2",
    "replay.capacity=1e12 run.total_steps=1e12",
    "run.total_steps=10 run.learning_starts_steps=10",
    "init_from=nowhere",
    "hydra.run.dir=/dev/null/x",
    "hydra.run.dir=${nope}",
    "hydra/launcher=joblibb",
    "--config-name x",
    "--cfg job --info defaults",
    "-m seed=1,a",
    "-m variant=vdqn,ddqn variant.target_every=10",
    "-m hydra.sweep.dir=/dev/null/x",
    "-m hydra/sweeper=optuna",
]


@pytest.mark.parametrize("line", REFUSED)
def test_what_training_refuses_is_refused_in_the_same_words(line, trainer, capfd):
    code = train(line.split())
    out, err = capfd.readouterr()
    assert (code != 0, out, err.count("\n")) == (True, "", 1)
    assert plan(line.split()) == code
    out, told = capfd.readouterr()
    same = [re.sub(r"[\d.]+ GB of memory are free", "", text) for text in (err, told)]
    assert (out, same[1]) == ("", same[0].replace("dqn-train: ", "dqn-plan: ", 1))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("line", ["hydra.run.dir=here", "-m hydra.sweep.dir=here"])
def test_a_folder_that_holds_runs_is_refused(line, trainer, capfd):
    Path("here").mkdir()
    files = {Path("here", CLAIM), Path("here", MANIFEST)}
    for file in files:
        file.touch()
    assert plan(line.split()) == 2
    assert "here already holds" in capfd.readouterr().err
    assert {*Path().rglob("*")} == {Path("here"), *files}


def test_a_plan_begins(trainer, capfd):
    assert plan(["resume=runs/x"]) == 2
    assert capfd.readouterr().err == "dqn-plan: error: dqn-plan shows what begins; leave out resume=runs/x\n"


def test_a_sweep_that_has_begun_can_be_planned_and_stays_as_it_is(trainer, capfd):
    line = ["-m", "env=Taxi", "variant=tdqn", "run.total_steps=2000", "hydra.sweep.dir=sw"]
    assert train([*line, "seed=0"]) == 0
    before = {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()}
    assert plan(["--no-probe", *line, "seed=0,1"]) == 0
    assert {file: file.read_bytes() for file in Path("sw").rglob("*") if file.is_file()} == before


COMPOSITIONS = [
    *([f"env={env}"] for env in ("CartPole", "MountainCar", "CliffWalking", "Taxi", "Breakout", "MsPacman")),
    *([f"experiment={experiment}"] for experiment in choices("experiment")),
    *(["env=FrozenLake", f"variant={variant}"] for variant in choices("variant")),
    *([f"optimizer={optimizer}", "network.hidden=[8,8]"] for optimizer in choices("optimizer")),
    ["env=Taxi", "variant=qlearning", "optimizer=adam", "loss=huber"],
    ["env=CartPole", "family=plain", "num_envs=2", "run={total_steps:700,eval_episodes:2}"],
    ["env=gym", "env.id=FrozenLake-v1", "env.kwargs.is_slippery=false", "env.kwargs={map_name:8x8}"],
    ["env=FrozenLake", "env.kwargs={map_name:8x8}"],
    ["experiment=dopamine", "variant=ddqn", "run.total_steps=700", "env=Pong", "env.sticky=0"],
]


def composed(overrides):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = clean(overrides)
        return compose("config", overrides, return_hydra_config=True), sources("config", overrides)


def written_in(source, key, config):
    """What `source` says of `key`, read without Hydra."""
    group, _, name = key.partition(".")
    if source == DEFAULT:
        fields = SETTINGS[key]
        f = fields.get(plain(config)[group]["name"] if group in GROUPS else "") or fields[""]
        default = f.default_factory() if callable(f.default_factory) else f.default
        return getattr(default, "value", default)
    content = yaml.safe_load((conf_dir() / f"{source}.yaml").read_text()) or {}
    return content[group] if not name else OmegaConf.select(OmegaConf.create(content), key)


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_every_value_and_choice_is_the_one_in_the_named_source(overrides):
    composition, found = composed(overrides)
    run = settled(composition)
    typed = {key: value for word in overrides for key, value in leaves(nested(word))}
    for key, value in leaves(plain(run.written)):
        if key.endswith(".name") and key.partition(".")[0] in GROUPS:
            continue
        if found[key] == COMMAND_LINE:
            assert value == typed[key], key
        else:
            assert key not in typed
            said = written_in(found[key], key, run.written)
            assert (float(said) if isinstance(value, float) else said) == value, (key, found[key])
    check_choices(overrides, composition, found)


def nested(word):
    """An override as nested dictionaries."""
    key, _, value = word.partition("=")
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value.replace(':', ': ')}"]))


def check_choices(overrides, composition, found):
    """Every choice of a group was made where it is said."""
    for group in GROUPS:
        choice, source = composition.hydra.runtime.choices[group], found[group]
        if source == COMMAND_LINE:
            assert f"{group}={choice}" in overrides
            continue
        assert not any(word.startswith(f"{group}=") for word in overrides)
        defaults = yaml.safe_load((conf_dir() / f"{source}.yaml").read_text())["defaults"]
        said = [entry for entry in defaults if isinstance(entry, dict)]
        prefix = "" if source == "config" else "override /"
        assert {f"{prefix}{group}": choice} in said


def test_the_configuration_is_shown_to_the_last_setting(shown):
    lines = shown("env=Taxi run.total_steps=1e3 run.log_every_steps=10 replay.n_step=2").splitlines()
    assert "  env=Taxi                           command line" in lines
    assert "  env.id=Taxi-v4                     env/Taxi" in lines
    assert "  network.hidden=[64]                values/network/taxi_mlp" in lines
    assert "  optimizer.eps=1e-08                default" in lines
    assert "  network=mlp                        config" in lines
    assert "  family=taxi                        env/Taxi" in lines
    assert "  run.total_steps=1000               command line" in lines
    at = lines.index("  exploration.over_steps=1000        clipped from 100000")
    assert lines[at + 1] == " " * 37 + "(values/exploration/taxi_epsilon)"
    assert "note: exploration.over_steps=1000 instead of 100000: the run has only 1000 steps" in lines
    composition, _ = composed(["env=Taxi"])
    for key, _ in leaves(plain(settled(composition).config)):
        assert key.endswith(".name") or any(line.startswith(f"  {key}=") for line in lines)


def test_a_schedule_worked_out_by_hand(shown):
    rows = section(
        shown(
            "env=CartPole variant=tdqn num_envs=4 run.total_steps=1002 run.learning_starts_steps=100 "
            "run.update_every_steps=10 run.updates_per_round=3 replay.batch_size=16 variant.target_every=50 "
            "run.eval_every_steps=250 run.checkpoint_every_steps=300 exploration.over_steps=502"
        ),
        "schedule",
    )
    # 251 rounds of 4; multiples of 10 in (100, 1004]: 90; the end, 1004, is no multiple of 250
    assert rows["steps"] == "1,004"
    assert rows["updates"] == "270: 3 per 10 steps, of 16 transitions each, so that a transition is sampled 4.8 times"
    assert rows["first update"] == "at step 112"
    assert rows["target syncs"] == "20: one per 50 steps"
    assert rows["evaluations"] == "5 of 20 episodes, and one more at each new best"


def test_epsilon_worked_out_by_hand(shown):
    out = shown(
        "env=CartPole run.total_steps=2000 run.learning_starts_steps=100 exploration.delay_steps=500 "
        "exploration.over_steps=1000 exploration.begin=1 exploration.end=0.1 run.checkpoint_every_steps=null"
    )
    rows = [
        re.split(r"  +", line.strip())
        for line in out[out.index("epsilon       learning") :].split("\n\n")[0].splitlines()
    ]
    assert rows[1:] == [
        ["0", "1", "0.004", "begin"],
        ["100", "1", "0.0038", "learning starts"],
        ["500", "1", "0.003", "decay begins, 25 %"],
        ["1,000", "0.55", "0.002", "50 %"],
        ["1,500", "0.1", "0.001", "decay ends, 75 %"],
        ["2,000", "0.1", "0", "end"],
    ]
    assert section(out, "memory and disk")["checkpoints"].startswith("best and final; ")


def test_an_atari_game(shown):
    out = shown("experiment=nature env=Pong replay.capacity=1000")
    assert section(out, "environment") == {
        "id": "ALE/Pong-v5",
        "observation": "the last 4 frames, each uint8 of shape [84, 84]",
        "actions": "6",
        "time limit": "27,000 steps (108,000 frames)",
        "rules": "engine=native sticky=0.0 noop_max=30 fire_reset=false life_loss=terminal full_actions=false "
        "frame_skip=4 max_pool=true max_frames=108000 preprocess=nature resize=null crop=null color=false",
    }
    rows = section(out, "schedule")
    assert rows["steps"] == "50,000,000 (200,000,000 frames)"
    assert rows["updates"].startswith("12,487,500: ")  # multiples of 4 in (50,000, 50,000,000]
    assert rows["target syncs"] == "5,000: one per 10,000 steps"
    assert rows["first update"] == "at step 50,004"
    rows = section(out, "memory and disk")
    # 4 * 32 * 64 + 32, 32 * 64 * 16 + 64, 64 * 64 * 9 + 64, 3136 * 512 + 512, 512 * 6 + 6
    assert rows["parameters"] == "1,687,206, and as many in the target network"
    assert rows["checkpoints"] == (
        "50 periodic, of which the last 2 stay; best and final; 27 MB each (weights 13.5 MB, optimizer 13.5 MB)"
    )
    # up to a segment of 16,384 more than the ring holds, of frames and of rows
    assert rows["replay on disk"] == "at most 131 MB, before compression"
    assert rows["disk"].startswith("at most 226 MB of checkpoints stay, of ")


def test_what_depends_on_episodes_is_not_counted(shown):
    rows = section(
        shown("variant=ddqn variant.target_unit=episodes variant.target_every=4 variant.tau=.5 run.stop_at_return=9"),
        "schedule",
    )
    assert rows["target syncs"] == "once per 4 episodes, by tau=0.5"
    assert rows["goal"] == "the run ends before, where an evaluation reaches a mean return of 9"
    rows = section(shown("env=Taxi variant=qlearning replay.n_step=3 num_envs=2"), "schedule")
    assert rows["updates"].startswith("299,996 to 300,000: every n-step return is learnt once")
    assert rows["first update"] == "by step 6"
    assert "target syncs" not in rows
    assert section(shown("env=Taxi variant=qlearning"), "schedule")["updates"].startswith("300,000: every transition")


@pytest.mark.parametrize("overrides", COMPOSITIONS[::5], ids=" ".join)
def test_the_plan_fits_80_columns(overrides, shown):
    out = shown(" ".join([*overrides, "replay.capacity=2000"] if "variant=qlearning" not in overrides else overrides))
    notes = out.index("\nnote: ") if "\nnote: " in out else len(out)
    assert max(map(len, out[:notes].splitlines())) <= 80
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_the_time_follows_from_the_probe(trainer, capfd):
    asked = []

    def probe(config):
        asked.append(config)
        return Speed("cpu", 1, 0.002, 0.03)

    sys.modules["dqn_cli.build"].probe = probe
    assert plan(["env=CartPole", "run.stop_at_return=100"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    (config,) = asked
    assert config.run.total_steps == 60_000
    rows = section(out, "time")
    assert rows["probe"] == "2 ms a step and 30 ms an update, on cpu with 1 thread, as busy as this machine is now"
    assert rows["expected"] == "17 min, evaluations not counted"  # 60,000 * 2 ms + 29,500 * 30 ms = 1005 s
    assert rows["update"] == "by autograd"
    # twice 12 * 24 * 500 steps of 2 ms: 20 episodes on 8 lanes are 3 rounds
    assert rows["evaluations"].startswith("at most about 10 min: ")
    sys.modules["dqn_cli.build"].probe = lambda config: Speed("cpu", 2, 0.002, 0.0)
    assert plan(["env=Taxi", "variant=qlearning"]) == 0
    out, _ = capfd.readouterr()
    assert section(out, "time")["probe"].startswith("2 ms a step, learning included, on cpu with 2 threads, ")
    assert list(Path().iterdir()) == []
    assert trainer.runs == []


def test_the_time_that_compiling_takes_is_shown_and_counted(trainer, capfd):
    speed = Speed("cpu", 1, 0.002, 0.03, "compiled", 65)
    sys.modules["dqn_cli.build"].probe = lambda config: speed
    assert plan(["env=CartPole"]) == 0
    rows = section(capfd.readouterr()[0], "time")
    assert rows["update"] == "compiled, after 65 s of compiling"
    assert rows["expected"] == "18 min, evaluations not counted"  # 1005 s, and 65 s


def test_without_a_probe_nothing_says_how_long_it_takes(shown):
    assert "\ntime\n" not in shown("env=CartPole")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (101, "2 min"), (5900, "98 min"), (6100, "1.7 h"), (3e5, "83.3 h"), (4e5, "4.6 days")],
)
def test_durations(seconds, text):
    assert plan_report.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (7.25e9, "7.25 GB")])
def test_sizes(count, text):
    assert plan_report.size(count) == text


def test_a_sweep_is_a_table(shown):
    # 2 * 9,000 + 19 frames of 16 bytes, 9,000 rows of 32, a stack of 8, three windows of 24 and their counter of 8
    assert shown("-m env=CartPole variant=tdqn,vdqn num_envs=1,7 seed=2 run.total_steps=9000").splitlines() == [
        "  job   steps  updates  memory  overrides",
        "    0   9,000    4,000  576 kB  variant=tdqn num_envs=1",
        "    1   9,002    4,001  579 kB  variant=tdqn num_envs=7",
        "    2   9,000    4,000  576 kB  variant=vdqn num_envs=1",
        "    3   9,002    4,001  579 kB  variant=vdqn num_envs=7",
        "total  36,004   16,002  579 kB  at a time",
    ]


def test_a_sweep_of_a_range_and_of_its_own_parameters(shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    (folder / "experiment/mine.yaml").write_text(
        "# @package _global_\ndiscount: 0.5\nhydra: {sweeper: {params: {loss: 'mse,huber'}}}\n"
    )
    lines = shown(f"-m seed=range(3) experiment=mine --config-dir {folder}").splitlines()
    assert len(lines) == 8
    assert lines[1].endswith("loss=mse seed=0")
    line = next(line for line in shown(f"experiment=mine --config-dir {folder}").splitlines() if "discount" in line)
    assert line.split() == ["discount=0.5", "experiment/mine"]


def test_jobs_that_would_be_refused_are_told_and_the_others_counted(shown):
    lines = shown("-m run.total_steps=500,5000 run.learning_starts_steps=600", code=1).splitlines()
    assert lines[1].split() == ["0", "-", "-", "-", "run.total_steps=500"]
    assert lines[2].split()[:3] == ["1", "5,000", "2,200"]
    assert lines[3].split()[:3] == ["total", "5,000", "2,200"]
    told = "run.learning_starts_steps=600 leaves nothing to learn: run.total_steps=500; write fewer"
    assert lines[4:] == [f"job 0 would be refused: {told}"]


def test_a_sweep_whose_jobs_are_not_known_is_refused(trainer, capfd):
    assert plan(["-m", "seed=1", "hydra.sweeper._target_=some.other.Sweeper"]) == 2
    assert "this sweeper chooses its jobs as it goes" in capfd.readouterr().err


def test_a_wide_sweep_fits_80_columns():
    totals = Forecast(
        steps=10**9, updates=10**9, most_updates=10**9, first_update_steps=1, target_syncs=0, evaluations=0,
        checkpoints=0, replay_bytes=10**9, replay_disk_bytes=0, parameters=1, model_bytes=4, optimizer_bytes=0,
    )  # fmt: skip
    words = [[f"network.hidden=[{i},64,64]", f"optimizer.lr=1e-{i}", f"replay.batch_size={i}"] for i in range(12)]
    assert max(map(len, plan_report.sweep(words, [totals] * 12))) > 80  # of several lines
    text = "\n".join(plan_report.sweep(words, [totals] * 12))
    assert max(map(len, text.splitlines())) <= 80


def test_help_version_and_lists(capsys):
    assert plan(["--version"]) == 0
    assert capsys.readouterr().out == f"dqn-plan {__version__}\n"
    assert plan(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: dqn-plan ")
    assert max(map(len, out.splitlines())) <= 80
    for command, other in ((plan, train), (train, plan)):
        for question in (["--help", "seed"], ["--list", "variants"]):
            assert command(question) == 0
            first = capsys.readouterr().out
            assert other(question) == 0
            assert capsys.readouterr().out == first


@pytest.mark.parametrize("line", ["--cfg job env=Taxi", "-sc install=bash"])
def test_hydras_own_questions_have_the_same_answers(line, trainer, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dqn-plan"])
    assert train(line.split()) == 0
    out, _ = capfd.readouterr()
    assert plan(line.split()) == 0
    assert capfd.readouterr() == (out, "")
    assert len(out.splitlines()) > 10


@pytest.mark.parametrize(
    "line", ["", "experiment=dopamine replay.capacity=1000", "-m seed=1,2", "env=Taxi variant=qlearning"]
)
def test_without_a_probe_torch_is_not_imported(line, tmp_path):
    code = f"""
import sys
from dqn_cli.cli.main import plan
assert plan(["--no-probe", *{line.split()!r}]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
