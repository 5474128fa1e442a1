import itertools

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dqn_cli.cli import preflight
from dqn_cli.cli.hydra_app import register
from dqn_cli.cli.job import load
from dqn_cli.cli.paths import atari_games, choices, conf_dir, minatar_games
from dqn_cli.config import CHOICES, RunConfig, TdqnConfig, UniformConfig
from dqn_cli.errors import ConfigError


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="test"):
        yield


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch):
    """A million frames fit, wherever these tests run."""
    monkeypatch.setattr(preflight, "free_memory", lambda: 1 << 40)


def composed(*overrides):
    return compose("config", list(overrides))


def loaded(*overrides):
    """The configuration and the notices of a run with these overrides."""
    if "env=LunarLander" in overrides:
        pytest.importorskip("Box2D")
    if "env=gym" in overrides:
        overrides = (*overrides, "env.id=FrozenLake-v1")
    return load(composed(*overrides), list(overrides))


def combine(env, variant, network, value, replay, optimizer):
    """Compose and settle; what does not go together is refused in one line, for a reason that we expect."""
    named = {"variant": variant, "network": network, "value": value, "replay": replay, "optimizer": optimizer}
    overrides = (f"env={env}", *(f"{group}={choice}" for group, choice in named.items()))
    networks = SMALL if env in MINATAR else IMAGES if env in GAMES else {"mlp", "table"} if env in DISCRETE else {"mlp"}
    fits = (
        network in networks
        and (variant != "qlearning" or (network, value, replay) == ("table", "scalar", "online"))
        and (network != "table" or value not in ("implicit", "fqf"))
    )
    if not fits:
        reasons = r"does not fit (variant=qlearning|network=table|images)|needs one discrete observation|needs images"
        with pytest.raises(ConfigError, match=reasons) as told:
            loaded(*overrides)
        assert "\n" not in str(told.value)
        return
    config, _ = loaded(*overrides)
    assert {group: getattr(config, group).name for group in named} == named


VARIANTS, NETWORKS, VALUES, REPLAYS, OPTIMIZERS = (
    choices(group) for group in ("variant", "network", "value", "replay", "optimizer")
)
GAMES = ["Breakout", "Qbert"]  # of 104 that differ by their ids alone: test_config_atari.py
MINATAR = ["minatar/Breakout"]  # of five that differ by their ids alone: test_config_minatar.py
ENVS = [env for env in choices("env") if env not in atari_games() | minatar_games() or env in GAMES + MINATAR]
DISCRETE = {"FrozenLake", "FrozenLake8x8", "CliffWalking", "Taxi", "gym"}
IMAGES = {"mlp", "nature_cnn", "nips_cnn", "minatar_cnn", "impala"}
SMALL = {"mlp", "minatar_cnn", "impala"}


@pytest.mark.parametrize("env", ENVS)
def test_every_env_composes_with_every_choice(env):
    shift = ENVS.index(env)
    for i in range(len(NETWORKS)):  # each choice of a group at least once; all their combinations: below
        turn = i + shift
        combine(env, VARIANTS[i % 4], NETWORKS[i], VALUES[turn % 5], REPLAYS[turn % 3], OPTIMIZERS[turn % 4])


@pytest.mark.slow
@pytest.mark.parametrize("env", ENVS)
def test_every_combination(env):
    for combination in itertools.product(VARIANTS, NETWORKS, VALUES, REPLAYS, OPTIMIZERS):
        combine(env, *combination)


@pytest.mark.parametrize("group", [group for group in CHOICES if group != "env"])
def test_every_choice_of_the_code_has_its_file(group):
    assert choices(group) == sorted(CHOICES[group])


def test_every_file_of_values_belongs_to_a_family_and_a_choice():
    for file in (conf_dir() / "values").rglob("*.yaml"):
        if "experiment" in file.relative_to(conf_dir()).parts:
            continue  # a preset's: test_config_presets.py
        group = file.parent.name
        names = (
            choices("family")
            if group == "values"
            else [f"{family}_{choice}" for family in choices("family") for choice in CHOICES[group]]
        )
        assert file.stem in names, file


@pytest.mark.parametrize("env", [env for env in ENVS if env != "LunarLander"])
def test_defaults_run_as_they_are(env):
    """What an environment brings needs no clipping and leaves nothing to say."""
    assert loaded(f"env={env}")[1] == []


@pytest.mark.parametrize("env", ["FrozenLake", "FrozenLake8x8", "CliffWalking", "Taxi", "gym"])
def test_qlearning_brings_what_it_is_made_of(env):
    config, notices = loaded(f"env={env}", "variant=qlearning")
    names = config.network.name, config.replay.name, config.optimizer.name, config.loss
    assert names == ("table", "online", "sgd", "mse")
    assert config.optimizer.max_grad_norm is None  # else one step were not alpha times the TD error
    assert config.optimizer.lr >= 0.1
    assert notices == []


def test_what_is_typed_beats_what_qlearning_brings():
    config, _ = loaded("env=Taxi", "variant=qlearning", "optimizer=adam", "loss=huber")
    assert (config.optimizer.name, config.loss) == ("adam", "huber")


def test_the_defaults():
    config, _ = loaded()
    names = [getattr(config, group).name for group in ("variant", "network", "replay", "exploration", "optimizer")]
    assert [config.env.id, *names] == ["CartPole-v1", "ddqn", "mlp", "uniform", "epsilon", "adam"]


def test_the_command_line_beats_the_family_and_the_family_the_defaults():
    values = conf_dir() / "values"
    tuned = OmegaConf.merge(
        OmegaConf.load(values / "mountaincar.yaml"), OmegaConf.load(values / "replay/mountaincar_uniform.yaml")
    )
    family = composed("env=MountainCar")
    assert family.run.total_steps == tuned.run.total_steps != RunConfig().total_steps
    assert family.replay.capacity == tuned.replay.capacity != UniformConfig().capacity
    typed = composed("env=MountainCar", "run.total_steps=77", "replay.capacity=78")
    assert (typed.run.total_steps, typed.replay.capacity) == (77, 78)
    assert typed.replay.batch_size == family.replay.batch_size == tuned.replay.batch_size


def test_a_family_can_be_borrowed():
    borrowed = composed("env=gym", "env.id=CartPole-v0", "family=cartpole")
    assert borrowed.env.id == "CartPole-v0"
    assert borrowed.run == composed("env=CartPole").run
    assert borrowed.run != composed("env=gym", "env.id=CartPole-v0").run
    assert composed("env=CartPole", "family=plain").run == composed("env=gym").run


def test_a_target_period_of_the_family_never_meets_a_variant_without_one():
    assert "target_every" not in composed("env=CartPole", "variant=vdqn").variant
    assert composed("env=CartPole", "variant=tdqn").variant.target_every != TdqnConfig().target_every


def test_the_environments_are_what_they_say():
    assert composed("env=FrozenLake").env.kwargs == {"map_name": "4x4", "is_slippery": True}
    assert composed("env=FrozenLake8x8").env.kwargs == {"map_name": "8x8", "is_slippery": True}
    assert composed("env=CliffWalking").env.time_limit_steps == 200
    assert composed("env=LunarLander").env.id == "LunarLander-v3"


COLUMNS = [
    *("env.id", "run.total_steps", "optimizer.lr", "loss", "optimizer.max_grad_norm"),
    *("replay.capacity", "replay.batch_size", "discount"),
    *("variant.target_every", "exploration.over_steps", "exploration.end", "run.learning_starts_steps"),
    *("run.update_every_steps", "run.updates_per_round", "network.hidden"),
]
ROWS = {  # the libraries' own numbers: they change only when a row was copied wrongly
    "cleanrl_cartpole": (
        *("CartPole-v1", 500_000, 2.5e-4, "mse", None, 10_000, 128, 0.99),
        *(500, 250_000, 0.05, 10_000, 10, 1, [120, 84]),
    ),
    "zoo_cartpole": (
        *("CartPole-v1", 50_000, 2.3e-3, "huber", 10, 100_000, 64, 0.99),
        *(10, 8_000, 0.04, 1_000, 256, 128, [256, 256]),
    ),
    "zoo_mountaincar": (
        *("MountainCar-v0", 120_000, 4e-3, "huber", 10, 10_000, 128, 0.98),
        *(600, 24_000, 0.07, 1_000, 16, 8, [256, 256]),
    ),
    "zoo_acrobot": (
        *("Acrobot-v1", 100_000, 6.3e-4, "huber", 10, 50_000, 128, 0.99),
        *(250, 12_000, 0.1, 0, 4, 4, [256, 256]),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_experiment_is_exactly_the_published_row(name):
    c = composed(f"experiment={name}")
    assert {key: OmegaConf.select(c, key) for key in COLUMNS} == dict(zip(COLUMNS, ROWS[name], strict=True))
    assert (c.variant.name, c.variant.target_unit.value, c.variant.tau) == ("tdqn", "steps", 1.0)
    assert (c.optimizer.name, c.optimizer.lr_schedule.value, c.optimizer.eps) == ("adam", "constant", 1e-8)
    assert (c.exploration.schedule.value, c.exploration.begin) == ("linear", 1.0)
    assert (c.replay.n_step, c.num_envs, c.reward_clip) == (1, 1, None)
    source = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    assert "# Source: github.com/" in source
    assert "# 1. " in source


def test_an_experiment_gives_way_to_the_command_line():
    config, _ = loaded("experiment=zoo_cartpole", "variant=ddqn", "optimizer.lr=1e-3", "env=Acrobot")
    assert (config.variant.name, config.variant.target_every, config.optimizer.lr) == ("ddqn", 10, 1e-3)
    assert (config.env.id, config.run.total_steps) == ("Acrobot-v1", 50_000)
    assert loaded("experiment=zoo_cartpole", "variant=vdqn")[0].variant.name == "vdqn"
