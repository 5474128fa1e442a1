"""The presets of single parts and of their combinations: published numbers on Atari, and any choice replaced."""

import re
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dqn_cli.cli.arguments import clean, typed_keys
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.job import read
from dqn_cli.cli.paths import choices, conf_dir
from dqn_cli.config import CHOICES
from dqn_cli.errors import ConfigError
from dqn_cli.settle import settle
from dqn_cli.validate import plain


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
        yield


@cache
def composed(*overrides):
    return compose("config", clean(overrides), return_hydra_config=True)


def settled(*overrides):
    """The settings of a run, by their dotted keys; nothing of what was brought along had to be clipped."""
    config = read(composed(*overrides))
    assert settle(config, typed_keys(clean(overrides))) == []
    return {
        f"{section}.{key}" if isinstance(part, dict) else section: value
        for section, part in plain(config).items()
        for key, value in (part.items() if isinstance(part, dict) else [("", part)])
    }


def assert_row(settings, expected):
    assert {key: settings.get(key) for key in expected} == expected


ENVS = {"cartpole": "env=CartPole", "atari": "env=Pong", "minatar": "env=minatar/Breakout"}
CHOSEN = ("variant", "value", "replay", "exploration", "head", "noisy", "munchausen")
# what each one is made of; all the rest is the family's
PARTS = {
    "c51": ("tdqn", "categorical", "uniform", "epsilon", "plain", False, False),
    "qrdqn": ("tdqn", "quantile", "uniform", "epsilon", "plain", False, False),
    "iqn": ("tdqn", "implicit", "uniform", "epsilon", "plain", False, False),
    "fqf": ("tdqn", "fqf", "uniform", "epsilon", "plain", False, False),
    "prioritized": ("ddqn", "scalar", "prioritized", "epsilon", "plain", False, False),
    "dueling": ("ddqn", "scalar", "uniform", "epsilon", "dueling", False, False),
    "noisy": ("tdqn", "scalar", "uniform", "noisy", "plain", True, False),
    "munchausen": ("tdqn", "scalar", "uniform", "epsilon", "plain", False, True),
    "m_iqn": ("tdqn", "implicit", "uniform", "epsilon", "plain", False, True),
    "rainbow": ("ddqn", "categorical", "prioritized", "noisy", "dueling", True, False),
    "dopamine_rainbow": ("tdqn", "categorical", "prioritized", "epsilon", "plain", False, False),
    "beyond_the_rainbow": ("tdqn", "implicit", "prioritized", "noisy", "dueling", True, True),
}
KEYS = (
    *("variant.name", "value.name", "replay.name", "exploration.name"),
    *("network.head", "network.noisy", "munchausen.enabled"),
)
THREE_STEPS = {"rainbow", "dopamine_rainbow", "beyond_the_rainbow"}


def words(preset, family):
    """What runs the preset on a family's environment."""
    mlp = ["network=mlp"] if (preset, family) == ("beyond_the_rainbow", "cartpole") else []
    return [f"experiment={preset}", ENVS[family], *mlp]


@pytest.mark.parametrize("family", ENVS)
@pytest.mark.parametrize("preset", PARTS)
def test_a_preset_is_made_of_its_parts_in_every_family(preset, family):
    settings = settled(*words(preset, family))
    assert_row(settings, dict(zip(KEYS, PARTS[preset], strict=True)))
    steps = 3 if preset in THREE_STEPS or family == "cartpole" else 1
    assert_row(settings, {"replay.n_step": steps, "optimizer.name": "adam"})


# the numbers of the papers and of their code, in steps of 4 frames; they change only where a row was copied wrongly

C51_SUPPORT = {"value.atoms": 51, "value.v_min": -10.0, "value.v_max": 10.0}
IQN_TAUS = {"value.quantiles": 64, "value.target_quantiles": 64, "value.acting_quantiles": 32, "value.embedding": 64}
MUNCHAUSEN = {"munchausen.alpha": 0.9, "munchausen.tau": 0.03, "munchausen.clip": -1.0}
QUANTILE_ADAM = {"optimizer.lr": 5e-5, "optimizer.eps": 0.01 / 32, "optimizer.max_grad_norm": None}
RAINBOW_ADAM = {"optimizer.lr": 6.25e-5, "optimizer.eps": 1.5e-4, "optimizer.max_grad_norm": None}
HALF_SQUARES_ADAM = {"optimizer.lr": 6.25e-5, "optimizer.eps": 1.5e-4 / 2, "loss": "mse"}
EPSILON = {"exploration.begin": 1.0, "exploration.end": 0.01, "exploration.over_steps": 250_000}
DOPAMINE = {
    **{"run.learning_starts_steps": 20_000, "run.update_every_steps": 4, "run.updates_per_round": 1, "num_envs": 1},
    **{"variant.target_every": 8_000, "variant.target_unit": "steps", "replay.capacity": 1_000_000},
    **{"replay.batch_size": 32, "discount": 0.99, "reward_clip": 1.0, "network.name": "nature_cnn", "env.sticky": 0.25},
}
ATARI = {
    "c51": DOPAMINE | EPSILON | C51_SUPPORT | {"optimizer.lr": 2.5e-4, "optimizer.eps": 0.01 / 32},
    "qrdqn": DOPAMINE | EPSILON | QUANTILE_ADAM | {"value.quantiles": 200, "value.kappa": 1.0},
    "iqn": DOPAMINE | EPSILON | QUANTILE_ADAM | IQN_TAUS | {"value.kappa": 1.0},
    "fqf": DOPAMINE
    | EPSILON
    | QUANTILE_ADAM
    | {"value.quantiles": 32, "value.embedding": 64, "value.kappa": 1.0, "value.fraction_lr": 2.5e-9},
    "prioritized": DOPAMINE
    | EPSILON
    | HALF_SQUARES_ADAM
    | {"replay.alpha": 0.6, "replay.beta_begin": 0.4, "replay.beta_end": 1.0, "replay.beta_over_steps": None},
    "dueling": DOPAMINE | EPSILON | HALF_SQUARES_ADAM | {"optimizer.max_grad_norm": 10.0},
    "noisy": DOPAMINE | HALF_SQUARES_ADAM | {"network.noisy_sigma": 0.5},
    "munchausen": DOPAMINE | EPSILON | QUANTILE_ADAM | MUNCHAUSEN | {"loss": "huber"},
    "m_iqn": DOPAMINE | EPSILON | QUANTILE_ADAM | MUNCHAUSEN | IQN_TAUS | {"value.kappa": 1.0},
    "rainbow": DOPAMINE
    | C51_SUPPORT
    | RAINBOW_ADAM
    | {"replay.alpha": 0.5, "replay.beta_begin": 0.4, "replay.beta_end": 1.0, "replay.beta_over_steps": None}
    | {"network.noisy_sigma": 0.5},
    "dopamine_rainbow": DOPAMINE
    | EPSILON
    | C51_SUPPORT
    | RAINBOW_ADAM
    | {"replay.alpha": 0.5, "replay.beta_begin": 0.5, "replay.beta_end": 0.5},
    "beyond_the_rainbow": {
        **MUNCHAUSEN,
        **{"network.name": "impala", "network.width": 2, "network.pool": 6, "network.spectral_norm": True},
        **{"network.layer_norm": False, "network.noisy_sigma": 0.5, "value.quantiles": 8, "value.embedding": 64},
        **{"value.target_quantiles": 8, "value.acting_quantiles": 8, "value.kappa": 1.0, "replay.alpha": 0.2},
        **{"replay.beta_begin": 0.4, "replay.beta_end": 1.0, "replay.capacity": 2**20, "replay.batch_size": 256},
        **{"variant.target_every": 500, "variant.target_unit": "updates", "num_envs": 64, "discount": 0.997},
        **{"run.update_every_steps": 64, "run.updates_per_round": 1, "run.learning_starts_steps": 200_000},
        **{"optimizer.lr": 1e-4, "optimizer.eps": 0.005 / 256, "optimizer.max_grad_norm": 10.0, "reward_clip": 1.0},
    },
}


@pytest.mark.parametrize("preset", PARTS)
def test_on_atari_a_preset_has_the_published_numbers(preset):
    assert_row(settled(*words(preset, "atari")), ATARI[preset] | {"optimizer.lr_schedule": "constant"})


@pytest.mark.parametrize("preset", PARTS)
def test_games_and_the_length_of_the_run_are_the_family_s(preset):
    family = settled("env=Pong")
    settings = settled(*words(preset, "atari"))
    same = [key for key in family if key.startswith("env.")] + ["run.total_steps", "run.eval_every_steps"]
    assert_row(settings, {key: family[key] for key in same})


@pytest.mark.parametrize("preset", sorted(set(PARTS) - {"prioritized", "dueling", "noisy", "munchausen"}))
def test_on_minatar_adam_is_that_of_revisiting_rainbow(preset):
    row = {"optimizer.lr": 2.5e-4, "optimizer.eps": 3.125e-4, "run.update_every_steps": 4, "replay.batch_size": 32}
    assert_row(settled(*words(preset, "minatar")), row)


@pytest.mark.parametrize("preset", PARTS)
def test_on_cartpole_the_schedule_is_the_family_s(preset):
    family = settled("env=CartPole", "replay=prioritized")
    names = ("run.", "optimizer.", "discount", "num_envs", "replay.capacity", "replay.batch_size", "variant.target")
    expected = {key: value for key, value in family.items() if key.startswith(names)}
    if preset == "noisy":  # whose exploration takes longer
        expected["run.total_steps"] = 120_000
    assert_row(settled(*words(preset, "cartpole")), expected)


# whatever is typed wins, and nothing of a preset stands in its way

REPLACED = [
    ("variant=vdqn", "value=scalar", "replay=uniform", "exploration=epsilon", "optimizer=sgd"),
    ("variant=ddqn", "value=quantile", "replay=prioritized", "exploration=boltzmann", "optimizer=rmsprop"),
    ("variant=tdqn", "value=implicit", "replay=online", "optimizer=rmsprop_nature", "network.head=dueling"),
    ("value=categorical", "munchausen.enabled=false", "network.noisy=false", "exploration=per_env"),
    ("value=fqf", "munchausen.enabled=false", "network=mlp", "replay.n_step=5"),
]


@pytest.mark.parametrize("shift", range(len(REPLACED)))
@pytest.mark.parametrize("preset", PARTS)
def test_any_choice_of_a_preset_can_be_replaced(preset, shift):
    typed, family = REPLACED[shift], list(ENVS)[(shift + list(PARTS).index(preset)) % len(ENVS)]
    overrides = [*words(preset, family), *(word for word in typed if word not in words(preset, family))]
    data = OmegaConf.create(plain(read(composed(*overrides))))
    for word in typed:
        key, _, value = word.partition("=")
        assert OmegaConf.select(data, f"{key}.name" if key in CHOICES else key) == yaml.safe_load(value)


@pytest.mark.parametrize("env", ["env=FrozenLake", "env=Taxi", "env=gym env.id=Acrobot-v1"])
@pytest.mark.parametrize("preset", sorted(set(PARTS) - {"beyond_the_rainbow"}))
def test_a_preset_takes_any_environment(preset, env):
    assert_row(settled(f"experiment={preset}", *env.split()), dict(zip(KEYS, PARTS[preset], strict=True)))


def test_what_a_preset_cannot_do_is_refused_for_a_reason():
    with pytest.raises(ConfigError, match=r"munchausen\.enabled"):
        settled("experiment=m_iqn", "value=categorical")


# the files


@pytest.mark.parametrize("preset", PARTS)
def test_a_preset_tells_its_source_its_row_and_its_deviations(preset):
    head, _, _ = (conf_dir() / "experiment" / f"{preset}.yaml").read_text().partition("defaults:")
    lines = head.splitlines()
    assert [line.partition(":")[0].partition(" (")[0] for line in lines[2:4]] == ["# Source", "# Row"]
    assert max(map(len, lines)) <= 120
    deviations = "\n".join(lines[lines.index("# Deviations:") + 1 :])
    numbers = re.findall(r"^# (\d+)\. ", deviations, re.MULTILINE)
    assert numbers == [str(i + 1) for i in range(len(numbers))] != []


FILES = sorted((conf_dir() / "values/experiment").rglob("*.yaml"))


def owner(file):
    """The run that a file of a preset's numbers is for: its overrides."""
    group, stem = file.parent.name, file.stem
    preset = max((name for name in (*PARTS, "btr") if stem.startswith(f"{name}_")), key=len)
    family, _, choice = stem.removeprefix(f"{preset}_").partition("_")
    if family not in ENVS:  # for all of them
        family, choice = "cartpole", stem.removeprefix(f"{preset}_")
    preset = {"btr": "beyond_the_rainbow"}.get(preset, preset)
    if group == "experiment":
        assert choice == ""
        return words(preset, family)
    assert choice in CHOICES[group]
    return [word for word in words(preset, family) if not word.startswith(f"{group}=")] + [f"{group}={choice}"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_file_of_a_preset_s_numbers_is_obeyed(file):
    content = yaml.safe_load(file.read_text())
    content.pop("defaults", None)
    config = plain(read(composed(*owner(file))))
    for section, said in content.items():
        for key, value in said.items() if isinstance(said, dict) else [(None, said)]:
            assert (config[section] if key is None else config[section][key]) == value


def families(group, choice):
    return {file.stem.removesuffix(f"_{choice}") for file in (conf_dir() / "values" / group).glob(f"*_{choice}.yaml")}


def test_prioritized_replay_has_the_size_of_the_uniform_one_in_every_family():
    assert families("replay", "prioritized") == families("replay", "uniform")
    for file in (conf_dir() / "values/replay").glob("*_prioritized.yaml"):
        assert yaml.safe_load(file.read_text())["defaults"][0] == file.stem.replace("_prioritized", "_uniform")


@pytest.mark.parametrize(
    ("env", "low", "high"),
    [
        *(("CartPole", 0, 100), ("FrozenLake", 0, 1), ("FrozenLake8x8", 0, 1), ("MountainCar", -50, 0)),
        *(("Acrobot", -100, 0), ("Taxi", -20, 20), ("CliffWalking", -120, 0), ("Pong", -10, 10)),
        ("LunarLander", -300, 300),
    ],
)
def test_the_support_holds_the_returns_of_the_family(env, low, high):
    assert_row(settled(f"env={env}", "value=categorical"), {"value.v_min": float(low), "value.v_max": float(high)})


@pytest.mark.parametrize("experiment", ["cleanrl_cartpole", "zoo_cartpole", "zoo_acrobot", "zoo_mountaincar"])
def test_the_presets_of_other_families_have_a_support_too(experiment):
    env = {"cartpole": "CartPole", "acrobot": "Acrobot", "mountaincar": "MountainCar"}[experiment.partition("_")[2]]
    preset, family = (read(composed(run, "value=categorical")) for run in (f"experiment={experiment}", f"env={env}"))
    assert preset.value == family.value


def test_these_are_presets():
    assert set(PARTS) <= set(choices("experiment"))
