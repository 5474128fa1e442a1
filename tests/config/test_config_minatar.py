"""What a MinAtar game brings, and MinAtar's own DQN."""

import re
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from hydra import compose, initialize_config_dir

from dqn_cli.agent.optimizers import make_optimizer
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.job import load
from dqn_cli.cli.paths import conf_dir, minatar_games
from dqn_cli.config import CHOICES, RmspropConfig
from dqn_cli.envs.minatar import GAMES
from dqn_cli.errors import ConfigError
from dqn_cli.validate import plain

pytestmark = pytest.mark.skipif(find_spec("minatar") is None, reason="needs the extra minatar")


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
        yield


@cache
def settled(*overrides):
    """The settings of a run, by their dotted keys; nothing of what was brought along had to be clipped."""
    config, notices = load(compose("config", list(overrides), return_hydra_config=True), list(overrides))
    assert notices == []
    return {
        f"{section}.{key}" if isinstance(part, dict) else section: value
        for section, part in plain(config).items()
        for key, value in (part.items() if isinstance(part, dict) else [("", part)])
    }


def assert_row(settings, expected):
    assert {key: settings[key] for key in expected} == expected


def test_every_game_has_its_file_and_its_words():
    assert {settled(f"env={name}")["env.id"] for name in minatar_games()} == set(GAMES)
    for name in minatar_games():
        text = (conf_dir() / "env" / f"{name}.yaml").read_text()
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("minatar/"))
        assert text.splitlines()[1].startswith(f"# MinAtar's {words}: ")
        assert f"id: MinAtar/{name.removeprefix('minatar/')}\n" in text


@pytest.mark.parametrize("name", sorted(minatar_games()))
def test_games_differ_by_their_ids_alone(name):
    breakout = settled("env=minatar/Breakout")
    assert settled(f"env={name}") == breakout | {"env.id": name.replace("minatar", "MinAtar")}


def test_what_a_game_brings():
    assert_row(
        settled("env=minatar/Breakout"),
        {
            **{"env.name": "minatar", "env.sticky": 0.1, "env.ramping": True, "env.full_actions": False},
            **{"env.frame_stack": 1, "env.time_limit_steps": 10_000, "network.name": "minatar_cnn"},
            **{"network.init": "glorot", "variant.name": "ddqn", "variant.target_every": 1_000, "loss": "mse"},
            **{"variant.target_unit": "steps", "optimizer.name": "adam", "optimizer.lr": 2.5e-4, "discount": 0.99},
            **{"optimizer.eps": 3.125e-4 / 2, "replay.capacity": 100_000, "replay.batch_size": 32, "replay.n_step": 1},
            **{"exploration.end": 0.01, "exploration.over_steps": 250_000, "exploration.delay_steps": 1_000},
            **{"run.total_steps": 1_000_000, "run.learning_starts_steps": 1_000, "run.update_every_steps": 4},
            **{"reward_clip": None, "run.eval_every_steps": 100_000, "run.eval_episodes": 20},
        },
    )


CHOSEN = [
    f"{group}={choice}"
    for group, choices in CHOICES.items()
    if group != "env"
    for choice in choices
    if choice not in ("nature_cnn", "nips_cnn", "table", "qlearning", "online", "noisy", "per_env")
]


@pytest.mark.parametrize("choice", CHOSEN)
def test_a_game_goes_with_every_choice(choice):
    group, _, name = choice.partition("=")
    assert settled("env=minatar/Breakout", choice)[f"{group}.name"] == name


@pytest.mark.parametrize("network", ["nature_cnn", "nips_cnn"])
def test_networks_for_larger_pictures_are_refused_in_one_line(network):
    with pytest.raises(ConfigError, match=rf"^network={network} does not fit images of 10x10"):
        settled("env=minatar/Breakout", f"network={network}")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("replay=prioritized", {"replay.capacity": 100_000, "replay.batch_size": 32}),
        ("variant=tdqn", {"variant.target_every": 1_000}),
        ("value=categorical", {"value.atoms": 51, "value.v_min": -100.0, "value.v_max": 100.0}),
        ("value=quantile", {"value.quantiles": 51}),
        ("value=implicit", {"value.quantiles": 32, "value.target_quantiles": 32, "value.acting_quantiles": 32}),
        ("optimizer=rmsprop", {"optimizer.eps": 0.01, "optimizer.momentum": 0.95, "loss": "huber"}),
    ],
)
def test_what_a_choice_brings(choice, expected):
    assert_row(settled("env=minatar/Asterix", choice), expected)


ROW = {
    **{"env.id": "MinAtar/Breakout", "env.sticky": 0.1, "env.ramping": True, "env.full_actions": True},
    **{"env.frame_stack": 1, "env.time_limit_steps": 10_000, "network.name": "minatar_cnn", "network.init": "fan_in"},
    **{"network.padding": "valid", "variant.name": "tdqn", "variant.target_every": 1_000, "variant.tau": 1.0},
    **{"variant.target_unit": "updates", "value.name": "scalar", "replay.name": "uniform", "replay.n_step": 1},
    **{"replay.capacity": 100_000, "replay.batch_size": 32, "exploration.begin": 1.0, "exploration.end": 0.1},
    **{"exploration.schedule": "linear", "exploration.over_steps": 100_000, "exploration.delay_steps": 5_000},
    **{"optimizer.name": "rmsprop", "optimizer.lr": 2.5e-4, "optimizer.decay": 0.95, "optimizer.momentum": 0.95},
    **{"optimizer.centered": True, "optimizer.eps": 0.01, "optimizer.max_grad_norm": None, "loss": "huber"},
    **{"optimizer.lr_schedule": "constant", "discount": 0.99, "reward_clip": None, "num_envs": 1},
    **{"run.total_steps": 5_000_000, "run.learning_starts_steps": 5_000, "run.update_every_steps": 1},
    **{"run.updates_per_round": 1, "run.eval_epsilon": 0.1},
}


def test_the_preset_is_exactly_the_published_row():
    assert_row(settled("experiment=minatar_dqn"), ROW)


def test_the_preset_tells_its_source_its_row_and_its_deviations():
    head, _, _ = (conf_dir() / "experiment" / "minatar_dqn.yaml").read_text().partition("defaults:")
    lines = head.splitlines()
    assert [line.partition(": ")[0] for line in lines[2:4]] == ["# Source", "# Row"]
    numbers = re.findall(r"^# (\d+)\. ", head.partition("# Deviations:\n")[2], re.MULTILINE)
    assert numbers == [str(i + 1) for i in range(len(numbers))] != []


def test_the_preset_takes_any_game_and_gives_way_to_the_command_line():
    preset = settled("experiment=minatar_dqn")
    assert settled("experiment=minatar_dqn", "env=minatar/Freeway") == preset | {"env.id": "MinAtar/Freeway"}
    typed = ["optimizer=adam", "variant=ddqn", "env.sticky=0.0", "run.total_steps=500_000"]
    expected = {"optimizer.name": "adam", "variant.name": "ddqn", "env.sticky": 0.0, "run.total_steps": 500_000}
    assert_row(settled("experiment=minatar_dqn", *typed), expected | {"variant.target_unit": "updates"})


def test_the_optimizer_of_the_preset_by_hand():
    """Two steps with the gradient 1 on one weight; PyTorch divides by the root first, and adds momentum after."""
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(RmspropConfig(lr=0.1, decay=0.5, eps=0.5, centered=True, momentum=0.9), [w])
    square, mean, velocity, expected = 0.0, 0.0, 0.0, 0.0
    for _ in range(2):
        w.grad = torch.ones(1)
        optimizer.step()
        square, mean = 0.5 * square + 0.5, 0.5 * mean + 0.5
        velocity = 0.9 * velocity + 1 / ((square - mean**2) ** 0.5 + 0.5)
        expected -= 0.1 * velocity
    assert w.item() == pytest.approx(expected, rel=1e-6)
