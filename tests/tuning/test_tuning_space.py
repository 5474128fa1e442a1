"""Search spaces: what is read, and what is refused."""

import pytest

from dqn_cli.errors import ConfigError
from dqn_cli.tuning.space import Choices, Numbers, load, plain, word


def space_of(tmp_path, text):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return load(file)


def test_a_space(tmp_path):
    space = space_of(
        tmp_path,
        """
optimizer.lr: {low: 1e-4, high: 1e-2, log: true}
replay.n_step: {low: 1, high: 5}
network.hidden: [[64, 64], [256]]
replay.capacity: [1e3, 2_000]
optimizer.max_grad_norm: [null, 10.0]
variant: [tdqn, ddqn]
""",
    )
    assert space == {
        "optimizer.lr": Numbers(1e-4, 1e-2, log=True),
        "replay.n_step": Numbers(1, 5, whole=True),
        "network.hidden": Choices(("[64,64]", "[256]")),
        "replay.capacity": Choices(("1000.0", "2000")),
        "optimizer.max_grad_norm": Choices(("null", "10.0")),
        "variant": Choices(("tdqn", "ddqn")),
    }
    assert plain(space)["optimizer.lr"] == {"low": 1e-4, "high": 1e-2, "log": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no settings; write lines such as optimizer.lr: {low: 1e-4"),
        ("- optimizer.lr", "holds no settings"),
        ("optimizer.lr: {low: 1", "cannot be read"),
        ("optimizer.lr: 1e-3", "optimizer.lr: 0.001 is not a range or a list; write {low: 1e-4"),
        ("optimizer.lrr: {low: 1e-4, high: 1}", "unknown setting optimizer.lrr; did you mean optimizer.lr?"),
        ("optimizer.lr: {low: 1e-4, high: 11}", "optimizer.lr: high=11 is not in (0, 10]"),
        ("optimizer.lr: {low: 0, high: 1}", "optimizer.lr: low=0 is not in (0, 10]"),
        ("optimizer.lr: {low: 1, high: 1}", "optimizer.lr: low=1 is not below high=1"),
        ("optimizer.lr: {low: 1}", "optimizer.lr: high=None is not a number"),
        ("optimizer.lr: {low: .nan, high: 1}", "low=nan is not in (0, 10]"),
        ("optimizer.lr: {low: 0.1, high: 1, step: 2}", "optimizer.lr: step is not understood"),
        ("optimizer.lr: {low: 0.1, high: 1, log: 3}", "optimizer.lr: log=3 is not true or false"),
        ("optimizer.lr_end: {low: 0, high: 1, log: true}", "optimizer.lr_end: low=0 has no logarithm"),
        ("optimizer.lr: [0.1]", "optimizer.lr: [0.1] is not a list of two choices or more"),
        ("optimizer.lr: [0.1, 0.1]", "optimizer.lr: 0.1 stands there twice"),
        ("optimizer.lr: [0.1, 20]", "optimizer.lr: 20 is not in (0, 10]"),
        ("replay.n_step: {low: 1, high: 2.5}", "replay.n_step: high=2.5 is not a whole number"),
        ("replay.n_step: {low: true, high: 3}", "replay.n_step: low=True is not a whole number"),
        ("network.noisy: {low: 0, high: 1}", "network.noisy: {'low': 0, 'high': 1} is not a range"),
        ("variant: [tdqn, dqn]", "variant: dqn is not a choice; did you mean "),
        ("variant: {low: 1, high: 2}", "is not a list of two choices or more"),
        ("seed: {low: 1, high: 2}", "seed is the same in all trials"),
        ("run.total_steps: [10, 20]", "run.total_steps is the same in all trials"),
        ("env.sticky: [0.0, 0.25]", "env.sticky is the same in all trials"),
        ("env: [Pong, Breakout]", "env is the same in all trials"),
        ("value: [scalar, categorical]\nvalue.atoms: [21, 51]", "value.atoms does nothing with value=scalar"),
    ],
)
def test_refusals(tmp_path, line, message):
    with pytest.raises(ConfigError) as error:
        space_of(tmp_path, line)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_are_rounded_and_stay_inside():
    between = Numbers(0.00123446, 0.98765)
    assert between.tried(0.0319999) == 0.032
    assert between.tried(0.00123446) == 0.00123446  # .001234 lies outside
    assert between.tried(0.98765) == 0.98765  # and so does .9877
    assert Numbers(1, 5, whole=True).tried(3) == 3


def test_what_a_space_holds():
    assert Numbers(1, 5).holds(5)
    assert not Numbers(1, 5).holds(5.1)
    assert not Numbers(1, 5).holds(None)
    assert not Numbers(0, 5).holds(True)
    assert Choices(("[64,64]", "null")).holds([64, 64])
    assert Choices(("[64,64]", "null")).holds(None)


def test_words():
    assert [word(value) for value in (None, True, [1, [2]], 1e-5, "a")] == ["null", "true", "[1,[2]]", "1e-05", "a"]
