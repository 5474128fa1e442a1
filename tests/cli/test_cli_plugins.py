"""`plugin=`: a torso of the user's own, registered by a module that only the command line can name."""

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore

from dqn_cli import plugins
from dqn_cli.agent.registered import Registered
from dqn_cli.cli import main
from dqn_cli.cli.main import evaluate, train
from dqn_cli.cli.paths import choices
from dqn_cli.config import CHOICES, ScalarConfig
from dqn_cli.errors import ConfigError
from dqn_cli.networks.make import make_network
from dqn_cli.networks.shapes import parameter_shapes
from dqn_cli.plugins import knob, register_exploration, register_torso
from dqn_cli.types import ObsSpec
from dqn_cli.validate import SETTINGS

MODULE = '''
from math import prod
from torch import nn
from dqn_cli.plugins import knob, register_exploration, register_torso

@register_exploration("in_turn", until=knob(100, "steps of actions in turn", ge=0))
def in_turn(num_actions, num_envs, until):
    """Every action in turn, then the best ones."""
    def choose(steps, coin, choice, q):
        return [steps // num_envs % num_actions] * num_envs if steps < until else q().argmax(axis=1)
    return choose

@register_torso("funnel", width=knob(8, "units of the first layer", ge=2, le=64), tail=False, sizes=[4, 3])
def funnel(obs_shape, width, tail, sizes):
    """Layers that become narrower."""
    widths = [prod(obs_shape), width, *sizes] if tail else [prod(obs_shape), width]
    return nn.Sequential(nn.Flatten(), *(nn.Linear(a, b) for a, b in zip(widths, widths[1:])))
'''
SMALL = ["run.total_steps=300", "run.learning_starts_steps=50", "run.eval_every_steps=null", "run.eval_episodes=2"]
USED = ["plugin=my_nets", "network=funnel"]


@pytest.fixture(autouse=True)
def _forget():
    choices, settings, made = copy.deepcopy(CHOICES), copy.copy(SETTINGS), dict(plugins.FACTORIES)
    owners = {key: dict(value) for key, value in SETTINGS.items()}
    yield
    for now, before in ((CHOICES, choices), (SETTINGS, settings), (plugins.FACTORIES, made)):
        now.clear()
        now |= before
    for key, value in owners.items():
        SETTINGS[key].clear()
        SETTINGS[key] |= value
    plugins.forget()
    for names in ConfigStore.instance().repo.values():  # Hydra's own memory
        if isinstance(names, dict):
            names.pop("funnel.yaml", None)
            names.pop("in_turn.yaml", None)
    sys.modules.pop("my_nets", None)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def err(capfd):
    _, text = capfd.readouterr()
    assert text.count("\n") == 1
    return text.partition("error: ")[2].strip()


def test_a_network_of_the_users_own(module, trainer, capfd):
    assert train([*USED, "network.width=16", "network.head=dueling", "network.sizes=[5]", "network.tail=true"]) == 0
    config = trainer.runs[0][0]
    network = config.network
    assert (config.plugin, network.name, network.width, network.sizes) == ("my_nets", "funnel", 16, [5])
    assert (network.head, network.units) == ("dueling", 256)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("network=funnel", "unknown network funnel; write one of "),
        (
            "plugin=my_net network=funnel",
            "plugin=my_net cannot be imported (ModuleNotFoundError: No module named 'my_n",
        ),
        (
            "plugin=my_nets,other network=funnel",
            "plugin=my_nets,other names several modules; write one that imports th",
        ),
        ("plugin=my_nets network=funel", "unknown network funel; did you mean funnel?"),
        ("plugin=my_nets network=funnel network.width=1", "network.width=1 is not in [2, 64]"),
        (
            "plugin=my_nets network=funnel network.width=x",
            "network.width=x is not a whole number; see dqn-train --help",
        ),
        ("plugin=my_nets network=funnel network.wdth=4", "unknown setting network.wdth; did you mean network.width?"),
        ("plugin=my_nets network=funnel network.hidden=[4]", "network.hidden does nothing with network=funnel: it bel"),
        ("plugin=my_nets network=mlp network.tail=true", "network.tail does nothing with network=mlp: it belongs to f"),
        ("plugin=my_nets network=funnel network.sizes=[x]", "network.sizes"),
        (
            "plugin=my_nets network=funnel network.units=null network.layer_norm=true",
            "network.layer_norm does nothing ",
        ),
        ("plugin=my_nets network=funnel precision=bf16", "precision=bf16 is for convolutions, network=funnel has none"),
    ],
)
def test_its_settings_are_held_to_the_same_rules(line, message, module, trainer, capfd):
    assert train(line.split()) == 2
    assert err(capfd).startswith(message)
    assert trainer.runs == []


def test_lists_help_and_plan(module, capfd):
    assert train(["plugin=my_nets", "--list", "networks"]) == 0
    lines = [line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines()]
    assert ["funnel", "Layers that become narrower."] in lines
    assert train(["plugin=my_nets", "--help", "network.tail"]) == 0
    assert capfd.readouterr().out.startswith("network.tail ")
    assert main.plan([*USED, "--no-probe", *SMALL, "network.units=null"]) == 0
    out = capfd.readouterr().out
    assert "network=funnel" in out
    assert "58" in re.search(r"parameters +(.*)", out)[1]  # (4 + 1) 8 and (8 + 1) 2


def test_the_forecast_knows_its_shapes(module):
    train(["plugin=my_nets", "--version"])
    config = CHOICES["network"]["funnel"](head="dueling", noisy=True, layer_norm=True, units=6, tail=True)
    spec = ObsSpec((3, 2), "uint8", 2)
    made = [tuple(w.shape) for w in make_network(config, ScalarConfig(), spec, 5).parameters()]
    assert parameter_shapes(config, ScalarConfig(), spec, 5) == made
    assert made[0] == (8, 12)


def test_it_sees_numbers_and_scaled_bytes(module):
    @register_torso("seen")
    def seen(obs_shape):
        return torch.nn.Flatten()

    config = CHOICES["network"]["seen"](units=None)
    network = make_network(config, ScalarConfig(), ObsSpec((2, 2), "uint8", 1), 3)
    assert network.features(torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)).tolist() == [
        pytest.approx([0.0, 0.2, 0.4, 1.0])
    ]
    network = make_network(config, ScalarConfig(), ObsSpec((2,), "float32", 1), 3)
    assert network.features(torch.tensor([[7.0, -1.0]])).tolist() == [[7.0, -1.0]]


def broken(obs_shape):
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (broken, "cannot be made (KeyError: 'oops'); mend it, or write other settings"),
        (lambda obs_shape: torch.nn.Linear(9, 2), "cannot be made (RuntimeError"),
        (
            lambda obs_shape: torch.nn.Identity(),
            "Identity makes [2, 2, 2] of a batch of 2; return a torch.nn.Module",
        ),
        (lambda obs_shape: torch.flatten, "builtin_function_or_method makes [8] of a batch of 2"),
        (
            lambda obs_shape: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4)),
            "has the buffer 1.running_",
        ),
    ],
)
@pytest.mark.parametrize("on", ["cpu", "meta"])
def test_a_torso_that_is_none(factory, message, on):
    register_torso("none")(factory)
    with torch.device(on), pytest.raises(ConfigError) as caught:
        make_network(CHOICES["network"]["none"](), ScalarConfig(), ObsSpec((2, 2), "float32", 1), 3)
    told = str(caught.value)
    assert told.startswith("network=none on observations [2, 2]")
    assert message in told


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {}, "network=mlp is taken, or no name; write another one"),
        ("a b", {}, "network=a b is taken, or no name; write another one"),
        ("x", {"width": None}, "network.width=None has no type that a setting can have"),
        ("x", {"sizes": []}, "network.sizes=[] has no type"),
        ("x", {"sizes": [1, "a"]}, "network.sizes=[1, 'a'] has no type"),
        ("x", {"head": 3}, "network.head is a setting of every such choice; write another name"),
        ("x", {"hidden": 3}, "network.hidden is a list elsewhere and not here"),
    ],
)
def test_registrations_that_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        register_torso(name, **settings)(lambda obs_shape: None)
    assert "x" not in choices("network")
    assert isinstance(knob(1, "text", ge=0).metadata["text"], str)


def test_trained_resumed_evaluated_and_made_again(module, capfd):
    assert train([*USED, *SMALL, "hydra.run.dir=run", "run.checkpoint_every_steps=100"]) == 0
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert (manifest["config"]["plugin"], manifest["config"]["network"]["name"]) == ("my_nets", "funnel")
    for name in ("final", "step"):
        shutil.rmtree(f"run/checkpoints/{name}-000000300", ignore_errors=True)
    capfd.readouterr()
    needed = "parts of the run come from the module 'my_nets'; if you trust it, write plugin=my_nets"
    assert evaluate(["run", "episodes=2", "out=e"]) == 2
    assert err(capfd) == needed
    assert train(["resume=run"]) == 2
    assert err(capfd) == needed
    assert train(["rerun=run"]) == 2
    assert err(capfd) == needed
    assert evaluate(["run", "plugin=my_nets", "episodes=2", "out=e"]) == 0
    assert train(["resume=run", "plugin=my_nets"]) == 0
    assert train(["rerun=run", "plugin=my_nets", "hydra.run.dir=again"]) == 0
    assert "resumed    at step 200 of 300\n" in capfd.readouterr().out
    for name in ("metrics.csv", "episodes.csv", "config.yaml"):
        assert Path("run", name).read_bytes() == Path("again", name).read_bytes()


def test_what_a_checkpoint_says_is_not_imported(module, capfd):
    assert train([*USED, *SMALL, "hydra.run.dir=run"]) == 0
    code = """
import sys
from dqn_cli.cli.main import evaluate, train
assert evaluate(["run"]) == train(["resume=run", "run.total_steps=400"]) == train(["rerun=run"]) == 2
assert "my_nets" not in sys.modules
"""
    path = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ | {"PYTHONPATH": path})
    Path("my_nets.py").write_text("")
    sys.modules.pop("my_nets")
    del CHOICES["network"]["funnel"]
    capfd.readouterr()
    assert evaluate(["run", "plugin=my_nets"]) == 3
    assert "network=funnel is not a choice; write one of mlp, " in err(capfd)


def test_a_plugin_that_an_evaluation_does_not_need(module, capfd):
    assert train([*SMALL, "hydra.run.dir=run"]) == 0
    capfd.readouterr()
    assert evaluate(["run", "plugin=my_nets"]) == 2
    assert err(capfd) == "plugin=my_nets would do nothing, the run has none; remove it"


def test_an_exploration_of_the_users_own(module, capfd):
    words = ["plugin=my_nets", "exploration=in_turn", "exploration.until=60", "env=FrozenLake", "num_envs=2"]
    assert train([*words, *SMALL, "network.hidden=[4]", "hydra.run.dir=run", "run.log_every_steps=100"]) == 0
    with open("run/metrics.csv") as file:
        assert {row["epsilon"] + row["temperature"] for row in csv.DictReader(file)} == {""}
    assert main.plan([*words, "--no-probe"]) == 0
    assert "exploration.until=60" in capfd.readouterr().out
    assert train([*words, "exploration.until=-1"]) == 2
    assert train([*words[:2], "exploration.until=-1"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].endswith("exploration.until=-1 is not in [0, inf)")
    assert train([*words[:2], "exploration.begin=1"]) == 2
    assert err(capfd).startswith("exploration.begin does nothing with exploration=in_turn: it belongs to epsilon; ")
    assert train(["rerun=run", "plugin=my_nets", "hydra.run.dir=again"]) == 0
    assert Path("run/episodes.csv").read_bytes() == Path("again/episodes.csv").read_bytes()


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda steps, coin, choice, q: [0, 3], "exploration=own chose [0, 3]; return 2 whole numbers below 3"),
        (lambda steps, coin, choice, q: [0, -1], "exploration=own chose [0, -1]; return 2 whole numbers below 3"),
        (lambda steps, coin, choice, q: [0.0, 1.0], "exploration=own chose [0.0, 1.0]; return 2 whole numbers"),
        (lambda steps, coin, choice, q: 1, "exploration=own chose 1; return 2 whole numbers below 3"),
        (lambda steps, coin, choice, q: 1 / 0, "exploration=own raised ZeroDivisionError: division by zero; mend it"),
        (lambda: None, "exploration=own raised TypeError"),
    ],
)
def test_actions_that_are_none(choose, message):
    register_exploration("own")(lambda num_actions, num_envs: choose)
    explorer = Registered(CHOICES["exploration"]["own"](), 3, 2)
    with pytest.raises(ConfigError) as caught:
        explorer.choose(7.0, [0.5, 0.5], [0.5, 0.5], lambda: None)
    assert str(caught.value).startswith(message)


def test_what_an_exploration_is_given():
    seen = []

    @register_exploration("own", x=2.5)
    def own(num_actions, num_envs, x):
        return lambda *given: seen.append((num_actions, num_envs, x, *given)) or [2, 0]

    actions = Registered(CHOICES["exploration"]["own"](x=1.5), 3, 2).choose(7.0, [0.1, 0.2], [0.3, 0.4], max)
    assert (actions.tolist(), actions.dtype) == ([2, 0], "int64")
    assert seen == [(3, 2, 1.5, 7, [0.1, 0.2], [0.3, 0.4], max)]


def test_the_readmes_example(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = re.search(r"<!-- plugin -->\n(.*?)<!-- end -->", readme, re.DOTALL)[1]
    module, commands = re.search(r"```python\n(.*?)```.*?```\n(.*?)```", section, re.DOTALL).groups()
    name = re.match(r"# (\w+\.py)\n", module)[1]
    (tmp_path / name).write_text(module)
    scripts = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", commands], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "runs/mine/checkpoints").is_dir()
