import re

import pytest

from dqn_cli.cli import paths
from dqn_cli.cli.arguments import check
from dqn_cli.cli.evaluate import parse
from dqn_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("seed-1_variant-ddqn", "seed-1_variant-ddqn"),
        ("network.hidden-[64,64]_optimizer.lr-0.001", "network.hidden-64-64_optimizer.lr-0.001"),
        ("env.id-ALE/Pong-v5", "env.id-ALE-Pong-v5"),
        ("env-minatar/Breakout_seed-1", "env-minatar-Breakout_seed-1"),
        ("", "base"),
        ("x-${seed} 'y'", "x-seed-y"),
    ],
)
def test_a_jobs_folder_is_readable(name, folder):
    assert paths.job_folder(name) == folder


def test_a_long_name_is_shortened_and_told_apart():
    one, other = (paths.job_folder("a" * 200 + end) for end in "xy")
    assert one != other
    assert len(one) == len(other) == 120


@pytest.mark.parametrize("name", ["network.hidden-[64,64]", "env.kwargs.a-{b:1}", "x-a b=c", "x-'$(rm)'", "a" * 300])
def test_a_jobs_folder_can_be_typed_back(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = f"runs/sweeps/{paths.job_folder(name)}"
    (tmp_path / folder).mkdir(parents=True)
    assert re.fullmatch(r"[\w./-]+", folder, re.ASCII)  # nothing that a shell reads
    assert check([f"init_from={folder}"]) == [f"init_from={folder}"]
    assert parse([f"checkpoint={folder}"])[0].checkpoint == folder


def test_the_folder_of_an_environment():
    assert paths.env_folder("CartPole", "CartPole-v1") == "CartPole"
    assert paths.env_folder("gym", "ALE/Pong-v5") == "ALE-Pong-v5"
    assert paths.env_folder("minatar/Breakout", "MinAtar/Breakout") == "minatar-Breakout"


def test_the_folder_of_a_method():
    assert paths.method_folder(None, "ddqn") == "ddqn"
    assert paths.method_folder("rainbow", "ddqn") == "rainbow"


def test_games_come_last_and_folders_are_part_of_their_names():
    envs = paths.choices("env")
    games = [f"minatar/{name}" for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")]
    assert envs[:2] == ["Acrobot", "CartPole"]
    assert envs[envs.index("gym") + 1 :] == [*games, *sorted(paths.atari_games())]
    assert {"Breakout", "minatar/Breakout"} < set(envs)
    assert not any("/" in name for group in ("family", "network", "experiment") for name in paths.choices(group))


def test_names_in_short():
    assert paths.in_short(["b", "a"]) == "b, a"
    assert paths.in_short(paths.choices("variant"), " ") == "ddqn qlearning tdqn vdqn"
    assert paths.in_short(["Taxi", "Qbert", "Pong"]) == "Taxi, Pong ... (--list envs)"
    assert paths.in_short(["Taxi", "gym", "minatar/Freeway"], " ") == "Taxi gym, minatar/Breakout ... (--list envs)"


def test_configuration_files_are_found_beside_and_inside_the_package(tmp_path, monkeypatch):
    assert (paths.conf_dir() / "config.yaml").is_file()
    inside = tmp_path / "dqn_cli"
    (inside / "conf").mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(inside / "cli" / "paths.py"))
    with pytest.raises(ConfigError, match="install it again"):
        paths.conf_dir()
    (inside / "conf" / "config.yaml").touch()
    assert paths.conf_dir() == inside / "conf"
