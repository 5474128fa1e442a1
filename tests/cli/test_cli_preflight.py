from types import SimpleNamespace

import pytest

from dqn_cli.cli import preflight as module
from dqn_cli.cli.preflight import free_memory, preflight
from dqn_cli.config import (
    AtariConfig,
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    MlpConfig,
    NatureCnnConfig,
    OnlineConfig,
    QlearningConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.errors import CheckpointError, ConfigError
from dqn_cli.replay.size import replay_bytes


def config(env="CartPole-v1", **parts):
    defaults = {"network": MlpConfig(), "variant": VdqnConfig(), "value": ScalarConfig()}
    defaults["replay"] = UniformConfig(capacity=1000)
    return Config(
        env=parts.pop("game", None) or GymConfig(id=env, **parts.pop("env_parts", {})),
        exploration=EpsilonConfig(),
        optimizer=SgdConfig(),
        run=RunConfig(total_steps=20_000),
        **defaults | parts,
    )


def test_a_network_that_no_checkpoint_holds_is_refused():
    from dqn_cli.training.checkpoint import LIMITS, MODEL

    assert LIMITS[MODEL] == module.MAX_MODEL_BYTES
    widest = 22_000  # 4 bytes for each of widest^2 + 7 widest + 2 weights, once for vdqn and twice for ddqn
    preflight(config(network=MlpConfig(hidden=[widest, widest])), ())
    with pytest.raises(ConfigError, match=r"network.hidden=\[22000, 22000\] makes 484,176,002 weights, 3.9 GB"):
        preflight(config(network=MlpConfig(hidden=[widest, widest]), variant=DdqnConfig(target_every=100)), ())


def test_a_convolutional_network_that_no_checkpoint_holds_is_refused():
    game = AtariConfig(id="ALE/Pong-v5", resize=[1024, 1024], frame_stack=1)
    message = r"^network=nature_cnn on \[1024, 1024\] makes 503,\d+,\d+ weights, 4.0 GB .* write smaller observations$"
    with pytest.raises(ConfigError, match=message):
        preflight(config(game=game, network=NatureCnnConfig(), variant=DdqnConfig(target_every=100)), ())


def test_what_fits_is_described():
    facts, notices = preflight(config(), ())
    assert (facts.spec.frame_shape, facts.num_actions, facts.discrete) == ((4,), 2, False)
    assert notices == []


def test_an_atari_game_is_described_without_being_played():
    facts, _ = preflight(config(game=AtariConfig(id="ALE/Breakout-v5"), network=NatureCnnConfig()), ())
    assert (facts.spec.obs_shape, facts.spec.dtype, facts.num_actions) == ((4, 84, 84), "uint8", 4)
    assert (facts.time_limit_steps, facts.frame_skip, facts.discrete) == (27_000, 4, False)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"network": NatureCnnConfig()},
            r"^network=nature_cnn needs images, .*float32 of shape \[4\]; write network=mlp",
        ),
        (
            {"network": NatureCnnConfig(), "game": AtariConfig(id="ALE/Pong-v5", resize=[84, 30])},
            "^network=nature_cnn does not fit images of 84x30",
        ),
        ({"game": AtariConfig(id="ALE/Pong-v5", crop=[30, 0, 60, 84])}, r"^env.crop=\[30, 0, 60, 84\]: rows 30 to 90"),
        ({"game": AtariConfig(id="ALE/Pong-v5", crop=[0, 1, 84, 84])}, "columns 1 to 85 are not all within the 84x84"),
        ({"game": AtariConfig(id="ALE/Pong-v5", crop=[0, 1, 84])}, r"is not possible; write \[top,left,height,width\]"),
        ({"game": AtariConfig(id="ALE/Pong-v5", crop=[0, 0, 0, 84])}, "is not possible; write"),
        (
            {"game": AtariConfig(id="ALE/Pong-v5", resize=[84])},
            r"^env.resize=\[84\] is not possible; write \[height,width",
        ),
        ({"game": AtariConfig(id="ALE/Brekout-v5")}, "^env.id=ALE/Brekout-v5 is not an Atari game"),
        ({"game": AtariConfig(id="PongNoFrameskip-v4")}, "^env.id=PongNoFrameskip-v4 is not an Atari game"),
        ({"game": AtariConfig(id="CartPole-v1")}, "^env.id=CartPole-v1 is not an Atari game"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        preflight(config(**parts), ())


def test_notices_of_the_rules_and_of_the_environment_come_together():
    _, notices = preflight(config("CliffWalking-v1", replay=UniformConfig(capacity=10**6)), ())
    assert [notice.split()[0] for notice in notices] == ["replay.capacity=20000", "CliffWalking-v1"]


def test_the_rules_come_before_the_environment():
    with pytest.raises(ConfigError, match="device=gpu"):
        preflight(config("Nowhere-v0", device="gpu"), ())


def test_a_table_needs_a_discrete_observation():
    with pytest.raises(ConfigError) as caught:
        preflight(config(network=TableConfig()), ())
    assert str(caught.value) == (
        "network=table needs one discrete observation, CartPole-v1 gives float32 of shape [4]; write network=mlp"
    )
    tabular = {"network": TableConfig(), "variant": QlearningConfig(), "replay": OnlineConfig()}
    with pytest.raises(ConfigError, match=r"^variant=qlearning needs .*; write variant=ddqn$"):
        preflight(config(**tabular), ())
    with pytest.raises(ConfigError, match=r"needs one discrete observation"):
        preflight(config("Taxi-v4", env_parts={"frame_stack": 2}, **tabular), ())
    preflight(config("Taxi-v4", **tabular), ())


def test_a_memory_that_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    needed = replay_bytes(1000, preflight(config(), ())[0].spec, 1, 1)
    monkeypatch.setattr(module, "free_memory", lambda: needed)
    preflight(config(), ())
    monkeypatch.setattr(module, "free_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match=r"replay.capacity=1000 needs 0.00 GB, 0.00 GB of memory are free; write a"):
        preflight(config(), ())
    monkeypatch.setattr(module, "free_memory", lambda: 2_500_000_000)
    huge = config(replay=UniformConfig(capacity=10**9))
    with pytest.raises(ConfigError, match=r"needs \d+\.\d\d GB, 2\.50 GB of memory are free"):
        preflight(huge, {"replay.capacity"})


def test_what_to_begin_from_must_exist(tmp_path):
    with pytest.raises(CheckpointError, match=r"init_from=/nowhere does not exist; write a run folder"):
        preflight(config(init_from="/nowhere"), ())
    preflight(config(init_from=str(tmp_path)), ())


def test_free_memory_is_the_least_of_machine_and_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(module, "own_cgroup", lambda: tmp_path / "outer" / "inner")

    def group(path, limit, used, cache):
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.max").write_text(f"{limit}\n")
        (path / "memory.current").write_text(f"{used}\n")
        (path / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")

    assert free_memory() == 1000
    group(tmp_path / "outer" / "inner", "max", 300, 0)
    assert free_memory() == 1000
    group(tmp_path / "outer", 700, 300, 100)
    assert free_memory() == 500
    group(tmp_path / "outer" / "inner", 300, 400, 0)
    assert free_memory() == 0


def test_free_memory_of_this_machine():
    assert 0 < free_memory() < 10**15
