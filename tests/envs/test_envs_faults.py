"""Environments that break their word: each one ends in the right exception, in one line that says where."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from dqn_cli.config import GymConfig
from dqn_cli.envs.vector import GymLanes
from dqn_cli.errors import ConfigError, EnvironmentFault, NumericalError

GOOD = np.zeros(3, np.float32)


def raising(error):
    def call(*_):
        raise error

    return call


class Odd(gymnasium.Env):
    """Well-behaved, but for what `on_step` (from the third step of the second episode on) or `on_reset` return."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    on_step = on_reset = None

    def reset(self, *, seed=None, options=None):
        self.episode = seed
        self.steps = 0
        return self.on_reset() if self.on_reset and self.episode == 1 else (GOOD, {})

    def step(self, action):
        self.steps += 1
        if self.episode == 1 and self.steps == 3 and self.on_step:
            return self.on_step()
        return GOOD, 0.0, self.episode == 0 and self.steps == 5, False, {}


def run(registered, **calls):
    kind = type("Kind", (Odd,), {name: staticmethod(call) for name, call in calls.items()})
    lanes = GymLanes(GymConfig(id=registered(kind)), 2, lambda lane, episode: episode if lane == 1 else 2)
    lanes.reset()
    for _ in range(12):
        lanes.send(np.zeros(2, np.int64))
        lanes.recv()


def test_the_well_behaved_one_runs(registered):
    run(registered)


STEP_FAULTS = {
    "raises": (raising(KeyError("lost")), EnvironmentFault, "step raised KeyError: 'lost'"),
    "raises over two lines": (raising(OSError("a\n  b")), EnvironmentFault, "step raised OSError: a b"),
    "raises without a word": (raising(RuntimeError()), EnvironmentFault, "step raised RuntimeError"),
    "four values": (lambda: (GOOD, 0.0, False, {}), EnvironmentFault, r"step raised ValueError: .*expected 5, got 4"),
    "nothing": (lambda: None, EnvironmentFault, "step raised TypeError: .*NoneType"),
    "shape": (
        lambda: (np.zeros(4, "f"), 0.0, False, False, {}),
        EnvironmentFault,
        r"observation is an .*\(4,\).*\(3,\)",
    ),
    "none": (lambda: (None, 0.0, False, False, {}), EnvironmentFault, "observation is None"),
    "list": (lambda: ([0, 0, 0], 0.0, False, False, {}), EnvironmentFault, r"observation is \[0, 0, 0\], a list"),
    "nan": (
        lambda: (GOOD * np.nan, 0.0, False, False, {}),
        EnvironmentFault,
        r"observation is not finite: array\(\[nan",
    ),
    "reward nan": (lambda: (GOOD, np.nan, False, False, {}), NumericalError, "reward is nan"),
    "reward inf": (lambda: (GOOD, -np.float32("inf"), False, False, {}), NumericalError, "reward is -inf"),
    "reward text": (lambda: (GOOD, "1.0", False, False, {}), EnvironmentFault, "reward is '1.0', a str, not a number"),
    "reward none": (lambda: (GOOD, None, False, False, {}), EnvironmentFault, "reward is None"),
    "reward array": (lambda: (GOOD, np.ones(1), False, False, {}), EnvironmentFault, "reward is array"),
    "reward matrix": (lambda: (GOOD, np.ones((40, 2)), False, False, {}), EnvironmentFault, r"reward is .*\.\.\."),
    "terminated": (lambda: (GOOD, 0.0, None, False, {}), EnvironmentFault, "terminated is None and truncated False"),
    "truncated": (lambda: (GOOD, 0.0, False, "no", {}), EnvironmentFault, "terminated is False and truncated 'no'"),
}


@pytest.mark.parametrize(("call", "kind", "message"), STEP_FAULTS.values(), ids=STEP_FAULTS.keys())
def test_step(call, kind, message, registered):
    with pytest.raises(kind, match=rf"^env Odd-v0: {message}.* \(lane 1, episode 1, step 3\)$") as caught:
        run(registered, on_step=call)
    assert "\n" not in str(caught.value)


RESET_FAULTS = {
    "raises": (raising(OSError("gone")), "reset raised OSError: gone"),
    "no info": (lambda: GOOD, r"reset raised ValueError: .*expected 2"),
    "none": (lambda: None, "reset raised TypeError"),
    "shape": (lambda: (np.zeros((3, 1), "f"), {}), r"observation is an array of shape \(3, 1\)"),
    "nan": (lambda: (GOOD + np.inf, {}), "observation is not finite"),
}


@pytest.mark.parametrize(("call", "message"), RESET_FAULTS.values(), ids=RESET_FAULTS.keys())
def test_reset(call, message, registered):
    with pytest.raises(EnvironmentFault, match=rf"^env Odd-v0: {message}.* \(lane 1, episode 1, step 0\)$") as caught:
        run(registered, on_reset=call)
    assert "\n" not in str(caught.value)


def test_the_cause_is_kept(registered):
    error = OSError("gone")
    with pytest.raises(EnvironmentFault) as caught:
        run(registered, on_step=raising(error))
    assert caught.value.__cause__ is error


def test_a_package_missing_for_the_picture_only_is_a_matter_of_configuration(registered):
    with pytest.raises(ConfigError, match=r"^env.id=Odd-v0 needs a package .*pip install 'dqn-cli\[render\]'$"):
        run(registered, on_reset=raising(DependencyNotInstalled("pygame is not installed")))


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.int64(1), np.float64(1)])
@pytest.mark.parametrize("end", [True, np.True_, 1])
def test_every_kind_of_number_and_truth_is_taken(reward, end, registered):
    kind = type("Kind", (Odd,), {"step": lambda self, action: (GOOD, reward, end, False, {})})
    lanes = GymLanes(GymConfig(id=registered(kind)), 1, lambda lane, episode: 2)
    lanes.reset()
    lanes.send(np.zeros(1, np.int64))
    step = lanes.recv()
    assert (step.reward.tolist(), step.terminated.tolist(), step.first.tolist()) == ([1.0], [True], [True])
    assert type(step.episodes[0].score) is float
