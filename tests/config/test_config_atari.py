import re
import runpy
from functools import cache
from pathlib import Path

import ale_py
import gymnasium
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dqn_cli.agent.optimizers import make_optimizer
from dqn_cli.algorithm.losses import huber, mse
from dqn_cli.cli import preflight
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.job import load
from dqn_cli.cli.paths import atari_games, choices, conf_dir
from dqn_cli.config import AdamConfig, AtariConfig, RmspropNatureConfig
from dqn_cli.envs.lanes import describe
from dqn_cli.validate import plain

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "atari_envs"
GAMES = sorted(atari_games())


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
        yield


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch):
    """A million frames fit, wherever these tests run."""
    monkeypatch.setattr(preflight, "free_memory", lambda: 1 << 40)


@cache
def settled(*overrides):
    """The settings of a run, by their dotted keys; nothing of what was brought along had to be clipped."""
    composed = compose("config", list(overrides), return_hydra_config=True)
    config, notices = load(composed, list(overrides))
    assert notices == []
    settings = {"family": composed.hydra.runtime.choices.family}
    return settings | {
        f"{section}.{key}" if isinstance(part, dict) else section: value
        for section, part in plain(config).items()
        for key, value in (part.items() if isinstance(part, dict) else [("", part)])
    }


def assert_row(settings, expected):
    assert {key: settings[key] for key in expected} == expected


# the games


def test_the_files_are_those_that_the_script_writes():
    files = {f"{game}.yaml": (conf_dir() / "env" / f"{game}.yaml").read_text() for game in GAMES}
    assert files == runpy.run_path(str(SCRIPT))["files"]()


def test_every_game_of_the_registry_has_its_file():
    gymnasium.register_envs(ale_py)
    ids = [OmegaConf.load(conf_dir() / "env" / f"{game}.yaml").env.id for game in GAMES]
    assert sorted(ids) == sorted(name for name in gymnasium.registry if re.fullmatch(r"ALE/.*-v5", name))
    assert ids == [f"ALE/{game}-v5" for game in GAMES]


@pytest.mark.parametrize(
    ("game", "title"), [("MsPacman", "Ms Pacman"), ("TicTacToe3D", "Tic Tac Toe 3D"), ("UpNDown", "Up N Down")]
)
def test_titles_are_words(game, title):
    assert f"\n# Atari 2600: {title}\n" in (conf_dir() / "env" / f"{game}.yaml").read_text()


@pytest.mark.parametrize("game", GAMES)
def test_every_game_can_be_played(game):
    facts = describe(AtariConfig(id=f"ALE/{game}-v5"))
    assert 2 <= facts.num_actions <= 18
    assert facts.spec.obs_shape == (4, 84, 84)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_every_game_composes(game):
    assert settled(f"env={game}") == settled("env=Breakout") | {"env.id": f"ALE/{game}-v5"}


@pytest.mark.parametrize("game", ["MontezumaRevenge", "Pong"])
def test_any_game_can_be_seen_as_in_2013(game):
    assert settled(f"env={game}", "env.preprocess=nips2013")["env.preprocess"] == "nips2013"


# the family of all games: Dopamine's settings, for 10M steps

FAMILY = {
    **{"env.sticky": 0.25, "env.noop_max": 0, "env.life_loss": "ignore", "env.frame_skip": 4, "env.max_pool": True},
    **{"env.full_actions": False, "env.max_frames": 108_000, "env.frame_stack": 4, "reward_clip": 1.0},
    **{"run.total_steps": 10_000_000, "run.learning_starts_steps": 20_000, "run.update_every_steps": 4},
    **{"run.updates_per_round": 1, "run.eval_every_steps": 250_000, "run.eval_epsilon": 0.01, "run.eval_episodes": 10},
    **{"run.checkpoint_every_steps": 250_000, "run.log_every_steps": 10_000, "discount": 0.99},
    **{"exploration.begin": 1.0, "exploration.end": 0.01, "exploration.over_steps": 250_000},
    **{"exploration.delay_steps": 20_000, "replay.capacity": 1_000_000, "replay.batch_size": 32},
}
ADAM = {"optimizer.lr": 6.25e-5, "optimizer.eps": 7.5e-5, "optimizer.max_grad_norm": None, "loss": "mse"}


@pytest.mark.parametrize("variant", ["vdqn", "tdqn", "ddqn"])
def test_a_game_brings_the_settings_of_dopamine(variant):
    settings = settled("env=Pong", f"variant={variant}")
    network = {"network.name": "nature_cnn", "network.init": "glorot", "network.padding": "valid"}
    assert_row(settings, FAMILY | ADAM | network | {"optimizer.name": "adam"})
    assert settings.get("variant.target_every") == (None if variant == "vdqn" else 8_000)


@pytest.mark.parametrize("network", ["nips_cnn", "mlp"])
def test_a_game_can_be_seen_by_another_network(network):
    own = {"network.init": "glorot"} if network == "nips_cnn" else {"network.hidden": [256, 256]}
    assert_row(settled("env=Pong", f"network={network}"), FAMILY | ADAM | own | {"network.name": network})


@pytest.mark.parametrize(
    ("optimizer", "values"),
    [
        ("rmsprop", {"optimizer.lr": 2.5e-4, "optimizer.eps": 3.2e-3, "optimizer.centered": True, "loss": "huber"}),
        ("rmsprop_nature", {"optimizer.lr": 2.5e-4, "optimizer.eps": 1e-5, "optimizer.decay": 0.95, "loss": "huber"}),
        ("sgd", {"optimizer.lr": 0.01, "optimizer.max_grad_norm": 10.0, "loss": "mse"}),
    ],
)
def test_a_game_has_values_for_every_optimizer(optimizer, values):
    assert_row(settled("env=Pong", f"optimizer={optimizer}"), FAMILY | values | {"optimizer.name": optimizer})


def test_what_is_typed_beats_the_family():
    settings = settled("env=Pong", "optimizer=rmsprop", "loss=mse", "env.sticky=0", "variant.target_every=77")
    assert_row(settings, {"loss": "mse", "env.sticky": 0.0, "variant.target_every": 77, "optimizer.lr": 2.5e-4})


# the presets: published numbers, which change only where a row was copied wrongly

NO_STICKY = {"env.sticky": 0.0, "env.full_actions": False, "env.frame_skip": 4, "env.frame_stack": 4}
PYTORCH = {"network.padding": "valid", "network.init": "fan_in"}
ONE_OF_32 = {"replay.batch_size": 32, "replay.n_step": 1, "run.updates_per_round": 1, "num_envs": 1, "reward_clip": 1.0}
LIVES = {"env.life_loss": "terminal", "env.noop_max": 30, "env.max_pool": True, "env.preprocess": "nature"}
NATURE = {
    **{"variant.name": "tdqn", "variant.target_every": 10_000, "variant.target_unit": "steps", "variant.tau": 1.0},
    **{"network.name": "nature_cnn", "loss": "huber", "discount": 0.99, "optimizer.name": "rmsprop_nature"},
    **{"optimizer.lr": 2.5e-4, "optimizer.decay": 0.95, "optimizer.eps": 0.01 / 32**2, "optimizer.max_grad_norm": None},
    **{"replay.capacity": 1_000_000, "run.total_steps": 50_000_000, "run.learning_starts_steps": 50_000},
    **{"exploration.begin": 1.0, "exploration.end": 0.1, "exploration.over_steps": 1_000_000},
    **{"exploration.delay_steps": 50_000, "run.update_every_steps": 4, "run.eval_epsilon": 0.05},
    **{"env.fire_reset": False, "run.eval_every_steps": 250_000, "run.eval_episodes": 30, "env.max_frames": 108_000},
}
ROWS = {
    "nature": NO_STICKY | ONE_OF_32 | LIVES | PYTORCH | NATURE,
    "double_dqn": NO_STICKY
    | ONE_OF_32
    | LIVES
    | PYTORCH
    | NATURE
    | {"variant.name": "ddqn", "run.eval_every_steps": 1_000_000},
    "nips2013": {
        **NO_STICKY,
        **ONE_OF_32,
        **PYTORCH,
        **{"variant.name": "vdqn", "network.name": "nips_cnn", "loss": "mse", "discount": 0.95},
        **{"optimizer.name": "rmsprop", "optimizer.lr": 2e-4, "optimizer.decay": 0.99, "optimizer.eps": 1e-3},
        **{"optimizer.centered": False, "optimizer.max_grad_norm": None, "replay.capacity": 1_000_000},
        **{"run.total_steps": 10_000_000, "run.learning_starts_steps": 100, "run.update_every_steps": 1},
        **{"exploration.begin": 1.0, "exploration.end": 0.1, "exploration.over_steps": 1_000_000},
        **{"exploration.delay_steps": 0, "run.eval_epsilon": 0.05, "env.life_loss": "ignore", "env.noop_max": 0},
        **{"env.max_pool": False, "env.preprocess": "nips2013", "env.fire_reset": False},
    },
    "dopamine": {
        **FAMILY,
        **ADAM,
        **{"variant.name": "tdqn", "variant.target_every": 8_000, "network.name": "nature_cnn"},
        **{"network.padding": "same", "network.init": "glorot"},
        **{"run.total_steps": 50_000_000, "run.eval_epsilon": 0.001, "env.fire_reset": False},
        **{"run.eval_every_steps": 1_000_000, "run.checkpoint_every_steps": 1_000_000, "optimizer.name": "adam"},
    },
    "cleanrl_atari": {
        **NO_STICKY,
        **ONE_OF_32,
        **LIVES,
        **PYTORCH,
        **{"variant.name": "tdqn", "variant.target_every": 1_000, "variant.target_unit": "steps", "variant.tau": 1.0},
        **{"network.name": "nature_cnn", "loss": "mse", "discount": 0.99, "optimizer.name": "adam"},
        **{"optimizer.lr": 1e-4, "optimizer.eps": 1e-8 / 2, "optimizer.max_grad_norm": None},
        **{"replay.capacity": 1_000_000, "run.total_steps": 10_000_000, "run.learning_starts_steps": 80_000},
        **{"exploration.begin": 1.0, "exploration.end": 0.01, "exploration.over_steps": 1_000_000},
        **{"exploration.delay_steps": 0, "run.update_every_steps": 4, "env.fire_reset": True},
    },
    "zoo_atari": {
        **NO_STICKY,
        **ONE_OF_32,
        **LIVES,
        **PYTORCH,
        **{"variant.name": "tdqn", "variant.target_every": 1_000, "variant.target_unit": "steps", "variant.tau": 1.0},
        **{"network.name": "nature_cnn", "loss": "huber", "discount": 0.99, "optimizer.name": "adam"},
        **{"optimizer.lr": 1e-4, "optimizer.eps": 1e-8, "optimizer.max_grad_norm": 10.0},
        **{"replay.capacity": 100_000, "run.total_steps": 10_000_000, "run.learning_starts_steps": 100_000},
        **{"exploration.begin": 1.0, "exploration.end": 0.01, "exploration.over_steps": 1_000_000},
        **{"exploration.delay_steps": 0, "run.update_every_steps": 4, "env.fire_reset": True},
    },
}


def test_every_preset_has_its_row_here_or_in_the_test_of_the_composition():
    others = {"cleanrl_cartpole", "zoo_acrobot", "zoo_cartpole", "zoo_mountaincar"}
    any_env = {"c51", "qrdqn", "iqn", "fqf", "prioritized", "dueling", "noisy", "munchausen", "m_iqn"}  # ..._presets.py
    any_env |= {"rainbow", "dopamine_rainbow", "beyond_the_rainbow"}
    assert set(choices("experiment")) == set(ROWS) | others | any_env | {"minatar_dqn"}


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_is_exactly_the_published_row(name):
    settings = settled(f"experiment={name}")
    always = {"env.id": "ALE/Breakout-v5", "optimizer.lr_schedule": "constant", "exploration.schedule": "linear"}
    assert_row(settings, ROWS[name] | always)


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_tells_its_source_its_row_and_its_deviations(name):
    head, _, _ = (conf_dir() / "experiment" / f"{name}.yaml").read_text().partition("defaults:")
    lines = head.splitlines()
    assert [line.partition(": ")[0] for line in lines[2:4]] == ["# Source", "# Row"]
    deviations = "\n".join(lines[lines.index("# Deviations:") + 1 :])
    numbers = re.findall(r"^# (\d+)\. ", deviations, re.MULTILINE)
    assert numbers == [str(i + 1) for i in range(len(numbers))] != []


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_takes_any_game_and_nothing_of_the_family_of_all_games(name):
    settings = settled(f"experiment={name}", "env=Seaquest")
    assert settings == settled(f"experiment={name}") | {"env.id": "ALE/Seaquest-v5"}
    assert settings["family"] == {"double_dqn": "nature"}.get(name, name)


@pytest.mark.parametrize(
    ("name", "variant", "period"),
    [
        *(("nature", "ddqn", 10_000), ("nature", "vdqn", None)),
        *(("double_dqn", "tdqn", 10_000), ("double_dqn", "vdqn", None)),
        *(("nips2013", "tdqn", 10_000), ("nips2013", "ddqn", 10_000)),
        *(("dopamine", "ddqn", 8_000), ("cleanrl_atari", "ddqn", 1_000), ("zoo_atari", "ddqn", 1_000)),
    ],
)
def test_a_preset_has_the_target_period_of_its_row_for_other_variants(name, variant, period):
    settings = settled(f"experiment={name}", f"variant={variant}")
    assert (settings["variant.name"], settings.get("variant.target_every")) == (variant, period)


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_gives_way_to_the_command_line(name):
    typed = ["optimizer=sgd", "network=mlp", "env.sticky=0.1", "run.total_steps=2_000_000", "seed=3"]
    expected = {"optimizer.name": "sgd", "network.name": "mlp", "env.sticky": 0.1, "run.total_steps": 2_000_000}
    assert_row(settled(f"experiment={name}", *typed), expected | {"seed": 3})


def test_double_dqn_is_nature_with_another_target():
    nature, double = settled("experiment=nature"), settled("experiment=double_dqn")
    assert {key for key in nature if nature[key] != double[key]} == {"variant.name", "run.eval_every_steps"}


# what the presets say about their optimizers


def trained(reduce, error, optimizer, updates=20):
    """A small network's weights after updates on batches of 32 rows."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    step = make_optimizer(optimizer, network.parameters())
    for _ in range(updates):
        x, target = torch.randn(32, 5), 3 * torch.randn(32)
        step.zero_grad()
        reduce(error(network(x)[:, 0], target)).backward()
        step.step()
    return torch.cat([w.detach().flatten() for w in network.parameters()])


def test_eps_for_the_mean_gives_the_update_of_nature_for_the_sum():
    settings = settled("experiment=nature")
    lr, decay = settings["optimizer.lr"], settings["optimizer.decay"]
    ours = trained(torch.mean, huber, RmspropNatureConfig(lr=lr, decay=decay, eps=settings["optimizer.eps"]))
    theirs = trained(torch.sum, huber, RmspropNatureConfig(lr=lr, decay=decay, eps=0.01))
    unscaled = trained(torch.mean, huber, RmspropNatureConfig(lr=lr, decay=decay, eps=0.01))
    assert torch.equal(ours, theirs)  # 32 is a power of 2: not even the rounding differs
    assert not torch.allclose(ours, unscaled, atol=1e-4)


@pytest.mark.parametrize(("name", "published"), [("dopamine", 1.5e-4), ("cleanrl_atari", 1e-8)])
def test_half_of_eps_gives_the_update_of_the_whole_squared_error(name, published):
    settings = settled(f"experiment={name}")
    lr, eps = settings["optimizer.lr"], settings["optimizer.eps"]
    ours = trained(torch.mean, mse, AdamConfig(lr=lr, eps=eps))
    theirs = trained(torch.mean, lambda q, target: (q - target) ** 2, AdamConfig(lr=lr, eps=published))
    assert torch.equal(ours, theirs)
