"""One environment from its configuration: what it is, and every way to get it wrong."""

import sys

import gymnasium
import pytest
from gymnasium.envs.registration import registry
from gymnasium.error import DependencyNotInstalled

from dqn_cli.config import GymConfig
from dqn_cli.envs.lanes import describe
from dqn_cli.envs.make import make_env, missing_dependency
from dqn_cli.errors import ConfigError, EnvironmentFault


@pytest.mark.parametrize(
    ("env_id", "frame_shape", "actions", "discrete", "limit"),
    [
        ("CartPole-v1", (4,), 2, False, 500),
        ("Acrobot-v1", (6,), 3, False, 500),
        ("MountainCar-v0", (2,), 3, False, 200),
        ("FrozenLake-v1", (16,), 4, True, 100),
        ("FrozenLake8x8-v1", (64,), 4, True, 200),
        ("Taxi-v4", (500,), 6, True, 200),
        ("LunarLander-v3", (8,), 4, False, 1000),
    ],
)
def test_facts(env_id, frame_shape, actions, discrete, limit):
    if env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D", reason="needs the extra box2d")
    facts = describe(GymConfig(id=env_id))
    assert (facts.spec.frame_shape, facts.spec.dtype, facts.spec.stack) == (frame_shape, "float32", 1)
    assert (facts.num_actions, facts.discrete, facts.time_limit_steps, facts.notices) == (actions, discrete, limit, [])


def test_frame_stack_reaches_the_spec():
    assert describe(GymConfig(id="CartPole-v1", frame_stack=3)).spec.obs_shape == (3, 4)


def test_an_environment_without_a_time_limit_gets_one_and_a_notice():
    facts = describe(GymConfig(id="CliffWalking-v1"))
    assert facts.time_limit_steps == 10_000
    assert facts.notices == [
        "CliffWalking-v1 has no time limit: episodes are truncated after 10000 steps (env.time_limit_steps)"
    ]
    env = make_env(GymConfig(id="CliffWalking-v1"))
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(10_000)] == [False] * 9_999 + [True]


def test_the_time_limit_of_the_configuration_wins():
    config = GymConfig(id="MountainCar-v0", time_limit_steps=3)
    assert (describe(config).time_limit_steps, describe(config).notices) == (3, [])
    env = make_env(config)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_arguments_reach_the_environment():
    config = GymConfig(id="FrozenLake-v1", kwargs={"desc": ["SFG"], "is_slippery": False})
    assert describe(config).spec.frame_shape == (3,)


def test_a_module_is_imported_for_its_ids(tmp_path, monkeypatch):
    (tmp_path / "worlds_of_mine.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert describe(GymConfig(id="Mine-v0", module="worlds_of_mine")).time_limit_steps == 7
    finally:
        registry.pop("Mine-v0", None)


def test_an_atari_game_as_registered_keeps_its_picture_and_the_other_way_is_told():
    facts = describe(GymConfig(id="ALE/Pong-v5"))
    assert (facts.spec.frame_shape, facts.spec.dtype, facts.num_actions) == ((210, 160, 3), "uint8", 6)
    assert facts.notices[-1] == "ALE/Pong-v5 is played as it is registered; env=Pong shows it as the papers do"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GymConfig(id="CartPol-v1"), r"^env.id=CartPol-v1 is not registered; did you mean CartPole-v1\?$"),
        (GymConfig(id="MinAtar/Breakout-v1"), r"^env.id=MinAtar/Breakout-v1 is not .*; write env=minatar/Breakout$"),
        (GymConfig(id="CliffWalking-v0"), r"^env.id=CliffWalking-v0 is not registered; write env.id=CliffWalking-v1$"),
        (GymConfig(id="Taxi-v3"), r"write env.id=Taxi-v4$"),
        (GymConfig(id="CartPole"), r"write env.id=CartPole-v0 or CartPole-v1$"),
        (GymConfig(id="Zzz"), r"env.module=... names the Python module that registers it$"),
        (GymConfig(id="os:CartPole-v1"), r"write env.id=CartPole-v1 env.module=os$"),
        (GymConfig(id="X-v0", module="no_such_module"), r"^env.module=no_such_module cannot be imported .*PYTHONPATH$"),
        (
            GymConfig(id="CartPole-v1", kwargs={"gravity": 9}),
            r"^env.kwargs.gravity=9: CartPole-v1 has no such argument; it takes sutton_barto_reward, render_mode$",
        ),
        (GymConfig(id="FrozenLake-v1", kwargs={"map_name": "5x5"}), r"^env.kwargs=.*5x5.*FrozenLake-v1 refuses them"),
        (GymConfig(id="Pendulum-v1"), r"^env.id=Pendulum-v1 has continuous actions"),
        (GymConfig(id="Blackjack-v9"), r"write env.id=Blackjack-v1$"),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        describe(config)
    assert "\n" not in str(caught.value)


def test_a_constructor_that_raises_is_a_fault_of_the_environment(registered):
    def broken(render_mode=None):
        raise OSError("no such\nfile")

    with pytest.raises(EnvironmentFault, match=r"^env Odd-v0: its constructor raised OSError: no such file$"):
        describe(GymConfig(id=registered(broken)))


def test_text_that_is_left_out_is_told(registered):
    class Spoken(gymnasium.Env):
        """As MiniGrid has it: a picture, a direction, and what to do in words."""

        observation_space = gymnasium.spaces.Dict(
            image=gymnasium.spaces.Box(0, 255, (7, 7, 3), "uint8"),
            direction=gymnasium.spaces.Discrete(4),
            mission=gymnasium.spaces.Text(99),
        )
        action_space = gymnasium.spaces.Discrete(7)

    facts = describe(GymConfig(id=registered(Spoken)))
    assert (facts.spec.frame_shape, facts.spec.dtype) == ((4 + 7 * 7 * 3,), "float32")
    assert facts.notices == ["Odd-v0 observes text, which is left out: mission"]


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_spaces_are_needed(name, registered):
    spaces = {"observation_space": gymnasium.spaces.Discrete(2), "action_space": gymnasium.spaces.Discrete(2)}
    kind = type("Kind", (gymnasium.Env,), {**spaces, name: "none"})
    with pytest.raises(EnvironmentFault, match=f"^env Odd-v0: its {name} is missing or not a space of Gymnasium's$"):
        describe(GymConfig(id=registered(kind)))


def test_an_environment_that_cannot_be_shown(registered):
    env_id = registered(lambda: gymnasium.make("CartPole-v1").unwrapped)
    with pytest.raises(ConfigError, match=r"^render=human: Odd-v0 has no argument render_mode"):
        make_env(GymConfig(id=env_id), "human")


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ConfigError, match=r"^env.id=LunarLander-v3 needs a package .*pip install 'dqn-cli\[box2d\]'$"):
        describe(GymConfig(id="LunarLander-v3"))


def test_a_missing_dependency_without_an_extra_of_ours():
    error = missing_dependency("Ant-v5", DependencyNotInstalled("MuJoCo is not\ninstalled"))
    assert str(error).endswith("(DependencyNotInstalled: MuJoCo is not installed); install it")
    assert "dqn-cli[render]" in str(missing_dependency("CartPole-v1", DependencyNotInstalled("pygame is missing")))


def test_looking_at_an_environment_closes_it(registered):
    closed = []

    class Watched(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(2)
        action_space = gymnasium.spaces.Box(0, 1)

        def close(self):
            closed.append(True)
            raise OSError("the window is gone")

    with pytest.raises(ConfigError, match="continuous"):
        describe(GymConfig(id=registered(Watched)))
    assert closed == [True]
