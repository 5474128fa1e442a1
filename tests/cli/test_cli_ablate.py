"""`ablate=` and `without=`: which runs there are, what they leave out, and how they are told apart."""

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dqn_cli.cli.ablate import PARTS, combinations, parts_of, take
from dqn_cli.cli.arguments import clean
from dqn_cli.cli.composition import read
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.main import plan, train
from dqn_cli.cli.paths import choices, conf_dir
from dqn_cli.cli.sweep import labels
from dqn_cli.errors import ConfigError

RAINBOW = ["double", "dueling", "noisy", "n_step", "prioritized", "distributional"]


def config_of(*overrides):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
        return read(compose("config", clean(overrides), return_hydra_config=True))


def has(*overrides):
    config = config_of(*overrides)
    return {part for part in PARTS if PARTS[part](config)}


# the parts


def test_every_part_has_its_file():
    assert {*PARTS, "nothing"} == set(choices("without"))


def test_what_the_presets_are_made_of():
    assert has("experiment=rainbow", "env=Pong") == set(RAINBOW)
    assert has("experiment=beyond_the_rainbow") == {*RAINBOW, "munchausen", "spectral_norm"} - {"double"}
    assert has("experiment=c51", "env=Pong") == {"distributional"}
    assert has("experiment=nature") == set()
    assert has("env=Taxi", "variant=qlearning") == set()
    assert has("env=Pong", "network.layer_norm=true", "variant=tdqn") == {"layer_norm"}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_file_leaves_out_its_part_and_nothing_else(part):
    # layer_norm is of no preset; typed, it could not be left out
    whole = ["experiment=beyond_the_rainbow", "env=Breakout"]
    if part == "double":
        whole = ["experiment=rainbow", "env=Breakout"]
    if part == "layer_norm":
        assert not config_of(*whole, "without=layer_norm").network.layer_norm
        return
    assert has(*whole) - has(*whole, f"without={part}") == {part}
    assert has(*whole, "without=nothing") == has(*whole)


def test_several_parts_can_be_left_out_of_a_single_run():
    assert has("experiment=rainbow", "without=[noisy,prioritized]") == {*RAINBOW} - {"noisy", "prioritized"}
    config = config_of("experiment=rainbow", "env=Pong", "without=noisy")
    assert (config.exploration.name, config.exploration.end, config.network.noisy) == ("epsilon", 0.01, False)


def test_what_is_typed_wins_over_what_is_left_out():
    assert has("experiment=rainbow", "without=double", "variant=ddqn") == set(RAINBOW)


# the runs


def test_what_the_jobs_of_an_ablation_leave_out():
    assert combinations(["a", "b", "c"], "each") == [(), ("a",), ("b",), ("c",)]
    assert combinations(["a", "b", "c"], "add") == [("a", "b", "c"), ("b", "c"), ("a", "c"), ("a", "b")]
    assert combinations(["a"], "add") == [("a",), ()]


def test_the_jobs_in_words():
    assert labels(["nothing", "noisy", "double"]) == ["full", "full - noisy", "full - double"]
    adding = ["[noisy,double,n_step]", "[double,n_step]", "[noisy,n_step]", "[noisy,double]"]
    assert labels(adding) == ["base", "base + noisy", "base + double", "base + n_step"]
    assert labels(["[a,b]", "b", "a"]) == ["base", "base + a", "base + b"]
    assert labels(["a", "nothing"]) == ["full - a", "full"]  # of a single part, both ways are the same
    assert labels(["nothing", "[noisy,double]"]) == ["full", "full - noisy - double"]


def results():
    (file,) = Path("runs/sweeps").rglob("results.csv")
    return list(csv.DictReader(file.read_text().splitlines()))


def has_of(config):
    return {part for part in PARTS if PARTS[part](config)}


DOPAMINE = ["n_step", "prioritized", "distributional"]


def test_each_runs_the_preset_and_the_preset_minus_each_part(trainer, capfd):
    assert train(["-m", "experiment=dopamine_rainbow", "ablate=each", "seed=3,4"]) == 0
    runs = [(config.seed, {*DOPAMINE} - has_of(config)) for config, *_ in trainer.runs]
    assert runs == [(seed, out) for out in [set(), *({part} for part in DOPAMINE)] for seed in (3, 4)]
    rows = results()
    assert [row["without"] for row in rows] == [part for part in ["nothing", *DOPAMINE] for _ in (3, 4)]
    names = [Path(row["folder"]).name for row in rows]
    assert names[2] == "without-n_step_experiment-dopamine_rainbow_seed-3"
    assert len(set(names)) == 8
    out, _ = capfd.readouterr()
    assert "full - distributional" in out
    assert "full - n_step" in out


def test_add_runs_the_base_and_the_base_plus_each_part(trainer, capfd):
    assert train(["-m", "experiment=dopamine_rainbow", "ablate=add"]) == 0
    assert [has_of(config) for config, *_ in trainer.runs] == [set(), *({part} for part in DOPAMINE)]
    out, _ = capfd.readouterr()
    assert "base + distributional" in out
    assert len({row["folder"] for row in results()}) == 4


@pytest.mark.parametrize(
    ("typed", "held"),
    [
        ([], set()),
        (["variant=tdqn"], {"double"}),  # off
        (["variant=ddqn"], {"double"}),  # on, for good
        (["value.atoms=21"], {"distributional"}),  # the mean alone has no atoms
        (["replay.n_step=5"], {"n_step"}),
        (["exploration=noisy"], {"noisy"}),  # needs a noisy network
    ],
)
def test_what_the_user_holds_fast_is_no_part(typed, held):
    register()
    overrides = ["experiment=rainbow", *typed]
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
        master = compose("config", overrides, return_hydra_config=True)
        assert parts_of(master, overrides) == [part for part in RAINBOW if part not in held]


def test_the_plan_has_a_line_for_each_job(trainer, capfd):
    assert plan(["--no-probe", "-m", "experiment=c51", "env=FrozenLake", "ablate=each", "seed=1,2"]) == 0
    lines = capfd.readouterr().out.splitlines()
    expected = [f"MB  {part} seed={seed}" for part in ("full", "full - distributional") for seed in (1, 2)]
    assert all(line.endswith(words) for line, words in zip(lines[1:-1], expected, strict=True))
    assert list(Path().iterdir()) == []


# what is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("experiment=rainbow ablate=each", "ablate=each makes several runs; write -m before it"),
        ("-m experiment=rainbow ablate=all", "ablate=all is not one of each, add; write ablate=each"),
        ("-m experiment=rainbow ablate=", "ablate= is not one of each, add; write ablate=each"),
        ("-m experiment=rainbow ablate=each ablate=add", "ablate is given twice, by ablate=each and ablate=add; "),
        ("-m ablate=each", "ablate=each takes one preset apart, there is none; write experiment=rainbow "),
        ("-m ablate=add experiment=c51,iqn", "ablate=add takes one preset apart, experiment=c51,iqn is not one; "),
        ("-m ablate=each experiment=nature", "experiment=nature has no part that ablate=each could leave out; "),
        ("-m ablate=each experiment=rainbow without=noisy", "ablate=each chooses what is left out; "),
        ("-m ablate=each experiment=c51 value=scalar replay.n_step=1", "experiment=c51 has no part "),
        ("-m ablate=each experiment=rainbow network.noisy=false", "exploration=noisy "),
        (
            "-m ablate=each experiment=beyond_the_rainbow env=minatar/Breakout network=mlp,impala",
            "ablate=each: the jobs of this sweep have different parts; write a sweep for each",
        ),
        ("-m ablate=each experiment=rainbo", "unknown experiment rainbo; did you mean rainbow?"),
        ("experiment=rainbow without=nois", "unknown without nois; did you mean noisy?"),
        ("experiment=rainbow without=3", "without=3: without takes one name; write one of "),
        ("experiment=rainbow without=noisy,double", "without=noisy,double lists several values; "),
        ("dueling without=noisy", "dueling is not a setting; write experiment=dueling"),
        ("without", "without has no value; write without=<value>, without spaces"),
    ],
)
def test_refusals_are_one_line(line, message, trainer, capfd):
    assert train(line.split()) == 2
    out, err = capfd.readouterr()
    assert err.startswith(f"dqn-train: error: {message}")
    assert (out, err.count("\n"), trainer.runs, list(Path().iterdir())) == ("", 1, [], [])


def test_other_sweepers_are_refused(trainer, capfd, monkeypatch):
    monkeypatch.setattr("dqn_cli.cli.composition.BASIC_SWEEPER", "another.Sweeper")
    assert train(["-m", "experiment=rainbow", "ablate=each"]) == 2
    assert "leave out hydra/sweeper" in capfd.readouterr().err
    assert trainer.runs == []


def test_taking_leaves_the_rest_as_it_was():
    assert take(["-m", "ablate=add", "seed=1,2"]) == (["-m", "seed=1,2"], "add")
    assert take(["seed=1"]) == (["seed=1"], None)
    assert take(["--multirun", "ablate=each"]) == (["--multirun"], "each")
    with pytest.raises(ConfigError):
        take(["ablate=each", "seed=1,2"])
