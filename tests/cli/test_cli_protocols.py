import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from dqn_cli import build
from dqn_cli.cli import protocols
from dqn_cli.cli.evaluate import parse
from dqn_cli.cli.main import evaluate
from dqn_cli.cli.protocols import PROTOCOLS
from dqn_cli.config import (
    AtariConfig,
    Config,
    DdqnConfig,
    Engine,
    EpsilonConfig,
    EpsilonSchedule,
    GymConfig,
    LifeLoss,
    NipsCnnConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    UniformConfig,
    check_ranges,
)
from dqn_cli.envs.lanes import describe
from dqn_cli.errors import ConfigError
from dqn_cli.training.checkpoint import CheckpointStore
from dqn_cli.training.evaluator import EvalResult
from dqn_cli.validate import plain

CARTPOLE = GymConfig(id="CartPole-v1")
TRAINED = AtariConfig(
    id="ALE/Breakout-v5",
    sticky=0.1,
    noop_max=7,
    fire_reset=True,
    life_loss=LifeLoss.terminal,
    frame_skip=4,
    max_frames=40,
)
CONFIG = Config(
    env=TRAINED,
    network=NipsCnnConfig(),
    variant=DdqnConfig(),
    value=ScalarConfig(),
    replay=UniformConfig(),
    exploration=EpsilonConfig(schedule=EpsilonSchedule.linear, begin=1.0, end=0.5, over_steps=400),
    optimizer=SgdConfig(),
    run=RunConfig(total_steps=200, eval_epsilon=0.02),
)


def save(run: Path, config: Config = CONFIG) -> Path:
    """A checkpoint of an untrained agent."""
    facts = describe(config.env)
    learner = build.make_learner(config, facts.spec, facts.num_actions, torch.Generator())
    return CheckpointStore(run, keep=1).save_best(9, config=plain(config), model=learner.model_state(), state={})


@pytest.fixture
def played(monkeypatch):
    """What would have been played; four episodes come of it."""
    calls = []

    def evaluate_checkpoint(checkpoint, config, options, watch):
        calls.append((config.env, options))
        return EvalResult([1.7, 30.5, 30.5, 59.3], [10, 10, 10, 10])

    monkeypatch.setattr(build, "evaluate_checkpoint", evaluate_checkpoint)
    return calls


@pytest.mark.parametrize(
    ("name", "sticky", "noop_max", "max_frames", "epsilon", "episodes"),
    [
        ("nature", 0.0, 30, 18_000, 0.05, 30),
        ("machado", 0.25, 0, 18_000, 0.01, 100),
        ("dopamine", 0.25, 0, 108_000, 0.001, 100),
    ],
)
def test_the_papers_rules(tmp_path, played, name, sticky, noop_max, max_frames, epsilon, episodes):
    save(tmp_path)
    assert evaluate([str(tmp_path), f"protocol={name}"]) == 0
    ((env, options),) = played
    assert env == replace(
        TRAINED,
        sticky=sticky,
        noop_max=noop_max,
        fire_reset=False,
        max_frames=max_frames,
        life_loss=LifeLoss.ignore,
    )
    assert (options.epsilon, options.episodes) == (epsilon, episodes)


@pytest.mark.parametrize(("name", "epsilon"), [("run", 0.02), ("greedy", 0.0), ("training", 0.75)])
def test_as_trained_but_whole_games(tmp_path, played, name, epsilon):
    save(tmp_path)
    assert evaluate([str(tmp_path), f"protocol={name}"]) == 0
    ((env, options),) = played
    assert env == replace(TRAINED, life_loss=LifeLoss.ignore)
    assert options.epsilon == pytest.approx(epsilon)  # of 1 to .5 over 400 steps, the run has 200
    assert options.episodes == 100


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_networks_input_stays_as_it_was_trained(name):
    env = replace(TRAINED, frame_skip=3, frame_stack=2, color=True, max_pool=False, resize=[50, 40], full_actions=True)
    under = protocols.under(name, env)
    changed = {key for key, value in asdict(under).items() if value != getattr(env, key)}
    assert changed <= {"sticky", "noop_max", "fire_reset", "max_frames"}
    check_ranges(under)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_other_environments_have_no_such_rules(name):
    if name in ("run", "greedy", "training"):
        assert protocols.under(name, CARTPOLE) == CARTPOLE
    else:
        with pytest.raises(ConfigError, match=rf"protocol={name} .* CartPole-v1 was not trained as one"):
            protocols.under(name, CARTPOLE)


def test_what_a_protocol_asks_for_and_cannot_have():
    assert protocols.differences("machado", TRAINED) == [
        "machado asks for env.full_actions=true, the network was trained with false"
    ]
    assert protocols.differences("machado", replace(TRAINED, full_actions=True)) == []
    assert protocols.differences("nature", TRAINED) == []
    assert protocols.differences("dopamine", replace(TRAINED, frame_skip=3, max_pool=False)) == [
        "dopamine asks for env.frame_skip=4, the network was trained with 3",
        "dopamine asks for env.max_pool=true, the network was trained with false",
    ]
    assert protocols.differences("greedy", CARTPOLE) == []


@pytest.mark.parametrize(
    ("words", "episodes", "epsilon"),
    [
        ([], 100, 0.02),
        (["epsilon=0.2"], 100, 0.2),
        (["epsilon=0"], 100, 0.0),
        (["epsilon=null"], 100, 0.02),
        (["protocol=greedy"], 100, 0.0),
        (["protocol=nature"], 30, 0.05),
        (["protocol=nature", "episodes=100"], 100, 0.05),
        (["protocol=nature", "video=a.gif"], 1, 0.05),
        (["video=a.mp4"], 1, 0.02),
        (["video=a.mp4", "episodes=3"], 3, 0.02),
        (["protocol=machado", "seed=3"], 100, 0.01),
    ],
)
def test_what_is_not_typed_comes_from_the_protocol(tmp_path, played, words, episodes, epsilon):
    save(tmp_path)
    assert evaluate([str(tmp_path), *words]) == 0
    ((_, options),) = played
    assert (options.episodes, options.epsilon) == (episodes, epsilon)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["protocol=natur"], "write one of run, greedy, training, nature, machado, dopamine"),
        (["protocol=nature", "epsilon=0.1"], "epsilon=0.1 contradicts protocol=nature"),
        (["protocol=training", "epsilon=0"], "epsilon=0 contradicts protocol=training"),
        (["protocol=greedy", "epsilon=0.2"], "epsilon=0.2 contradicts protocol=greedy"),
        (["video=a.mp4", "render=human"], "render=human and video=a.mp4 cannot both be had"),
        (["video=a.mp4", "num_envs=2"], "num_envs=2 would do nothing: a video shows one"),
        (["video=a.avi"], "video=a.avi is not possible; write a file's name that ends in .mp4, .webm or .gif"),
        (["video=mp4"], "video=mp4 is not possible"),
        (["video=folder/.mp4"], "video=folder/.mp4 is not possible"),
    ],
)
def test_contradictions(words, part):
    with pytest.raises(ConfigError, match=part):
        parse(["checkpoint=x", *words])


def test_what_is_shown_is_played_by_the_engine_that_can_show(tmp_path, played, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    save(tmp_path)
    assert evaluate([str(tmp_path), "render=human"]) == 0
    assert evaluate([str(tmp_path), "video=a.mp4"]) == 0
    assert [(env.engine, options.num_envs) for env, options in played] == [(Engine.gymnasium, 1)] * 2


def test_the_protocol_stands_in_everything_that_is_left(tmp_path, played, capsys):
    save(tmp_path)
    assert evaluate([str(tmp_path), "protocol=machado", "episodes=4"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "eval" / "best-000000009_machado_seed-0_epsilon-0.01_episodes-4"
    result = json.loads((folder / "eval.json").read_text())
    assert result["protocol"] == "machado"
    assert result["env_rules"] == plain(replace(CONFIG, env=played[0][0]))["env"]
    assert result["env_rules"]["max_frames"] == 18_000
    assert result["env_rules"]["life_loss"] == "ignore"
    short = "the human's games lasted up to 108,000 frames, these at most 18,000"
    assert result["notes"] == [*protocols.differences("machado", TRAINED), short]
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert shown["protocol"] == "machado (sticky=0.25, noop_max=0, fire_reset=false, max_frames=18000)"
    assert shown["note"] == "; ".join(result["notes"])


def test_the_folder_says_how_many_were_played_side_by_side(tmp_path, played):
    save(tmp_path)
    for words in (["episodes=4"], ["episodes=4", "num_envs=2"], ["episodes=4", "video=a.mp4"]):
        assert evaluate([str(tmp_path), *words]) == 0
    name = "best-000000009_seed-0_epsilon-0.02_episodes-4"
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {name, f"{name}_envs-2", f"{name}_envs-1"}


def test_a_folder_of_the_users_stays_where_nothing_was_played(tmp_path, capsys, monkeypatch):
    save(tmp_path)
    (tmp_path / "mine").mkdir()
    words = [str(tmp_path), "device=cuda:99"]
    assert evaluate([*words, f"out={tmp_path / 'mine'}"]) == evaluate([*words, f"out={tmp_path / 'new'}"]) == 2
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "new").exists()


def test_a_window_needs_a_screen(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"^render=human needs a screen, and DISPLAY is not set; write video="):
        parse(["checkpoint=x", "render=human"])
    monkeypatch.setenv("DISPLAY", ":0")
    parse(["checkpoint=x", "render=human"])


def test_what_training_would_refuse_no_checkpoint_may_have(tmp_path, capsys):
    exploration = EpsilonConfig(schedule=EpsilonSchedule.exponential, begin=0.0)
    save(tmp_path, replace(CONFIG, exploration=exploration))
    assert evaluate([str(tmp_path), "protocol=training"]) == 3
    assert "needs both above 0" in capsys.readouterr().err


def test_what_is_told_cannot_steer_the_terminal(capsys):
    assert evaluate(["checkpoint=x", "select=\x1b[31m"]) == 2
    assert r"select=\x1b[31m is not possible" in capsys.readouterr().err


def test_human_normalized_score(tmp_path, played, capsys):
    save(tmp_path)
    assert evaluate([str(tmp_path), f"out={tmp_path / 'out'}"]) == 0
    result = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert result["return_mean"] == 30.5
    assert result["human_normalized_percent"] == 100
    assert result["human_normalized_by"] == {"random": 1.7, "human": 30.5, "source": "Wang et al. 2016"}
    assert "human-normalized 100.0 % (random 1.7, human 30.5: Wang et al. 2016)\n" in capsys.readouterr().out


@pytest.mark.parametrize("env", [CARTPOLE, AtariConfig(id="ALE/Adventure-v5")], ids=lambda env: env.id)
def test_no_human_normalized_score_where_nobody_has_measured_it(tmp_path, monkeypatch, capsys, env):
    monkeypatch.setattr("dqn_cli.build.evaluate_checkpoint", lambda *arguments: EvalResult([1.0], [1]))
    save(tmp_path)
    monkeypatch.setattr("dqn_cli.cli.evaluate.trusted_config", lambda *arguments: replace(CONFIG, env=env))
    assert evaluate([str(tmp_path), f"out={tmp_path / 'out'}"]) == 0
    assert "human_normalized" not in (tmp_path / "out" / "eval.json").read_text()
    assert "human-normalized" not in capsys.readouterr().out


def test_a_real_game_as_trained(tmp_path):
    save(tmp_path)
    words = [str(tmp_path), "protocol=training", "episodes=2", f"out={tmp_path / 'out'}"]
    assert evaluate(words) == 0
    lines = (tmp_path / "out" / "episodes.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[1] for line in lines] == ["length", "10", "10"]  # 40 frames of 4 per step
