import copy
import json
from dataclasses import fields

import pytest

from dqn_cli.config import (
    CHOICES,
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    Loss,
    MlpConfig,
    Range,
    RmspropNatureConfig,
    ScalarConfig,
    UniformConfig,
)
from dqn_cli.errors import ConfigError
from dqn_cli.validate import SETTINGS, check_key, plain, similar_settings, typed

CONFIG = Config(
    env=GymConfig(id="CartPole-v1", kwargs={"a": {"b": [1, 2.5, None, "x"]}}),
    network=MlpConfig(hidden=[8, 4]),
    variant=DdqnConfig(target_every=7),
    value=ScalarConfig(),
    replay=UniformConfig(),
    exploration=EpsilonConfig(),
    optimizer=RmspropNatureConfig(),
)


def changed(path, value):
    data = copy.deepcopy(plain(CONFIG))
    *parents, leaf = path.split("/")
    section = data
    for name in parents:
        section = section[name]
    section[leaf] = value
    return data


def test_plain_and_typed_are_inverse_also_through_json():
    again = typed(json.loads(json.dumps(plain(CONFIG))))
    assert again == CONFIG
    assert type(again.variant) is DdqnConfig
    assert again.loss is Loss.huber
    assert type(plain(CONFIG)["loss"]) is str


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sede", 1, "unknown setting sede; did you mean seed?"),
        ("env/idd", 1, "unknown setting env.idd; did you mean env.id?"),
        ("seed", "abc", "seed=abc is not a whole number; see dqn-train --help seed"),
        ("seed", 1.5, "seed=1.5 is not a whole number"),
        ("seed", True, "seed=True is not a whole number"),
        ("seed", None, "seed=null is not possible"),
        ("discount", "x", "discount=x is not a number"),
        ("loss", "hubr", "loss=hubr is not one of mse, huber; did you mean huber?"),
        ("network/hidden", 64, r"network.hidden=64 has the wrong form; write network.hidden=\[64,64\]"),
        ("network/hidden", [8, "a"], "network.hidden=a is not a whole number"),
        ("env/kwargs", [1], r"env.kwargs=\[1\] has the wrong form; write env.kwargs.x=1"),
        ("seed", [1], r"seed=\[1\] has the wrong form; write seed=..."),
        ("env/id", "???", "env.id has no value; write env.id=..., such as CartPole-v1"),
        (
            "network",
            {"name": "mpl"},
            "network=mpl is not a choice; write one of mlp, nature_cnn, nips_cnn, minatar_cnn, impala, table",
        ),
        ("network", {"name": [1]}, "is not a choice"),
        ("network", "mlp", "network=mlp is not a choice"),
        ("network", {}, "network=None is not a choice"),
        ("run", 3, "run=3 is not a group of settings"),
        ("network/initial_q", 1.0, "network.initial_q does nothing with network=mlp: it belongs to table"),
        ("env/id", "${oc.env:HOME}", r"env.id=\$\{oc.env:HOME\} would be evaluated"),
        ("env/kwargs", {"a": {"b": ["${seed}"]}}, r"env.kwargs.a.b=\$\{seed\} would be evaluated"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        typed(changed(path, value))
    assert "\n" not in str(caught.value)


def test_what_an_older_run_did_not_know_takes_its_default():
    data = plain(CONFIG)
    del data["reward_clip"], data["run"]["log_every_steps"]
    assert typed(data) == CONFIG


@pytest.mark.parametrize("group", CHOICES)
def test_a_key_of_another_choice_is_refused_in_every_group(group):
    for name, cls in CHOICES[group].items():
        own = {key for key, owners in SETTINGS.items() if key.startswith(f"{group}.") and name in owners}
        assert own == {f"{group}.{f.name}" for f in fields(cls) if f.name != "name"}
        for key in SETTINGS:
            if key.startswith(f"{group}.") and key not in own:
                here = "here" if group == "env" else f"with {group}={name}"
                with pytest.raises(ConfigError, match=rf"^{key} does nothing {here}: it belongs to "):
                    check_key(key, {group: name})
            else:
                check_key(key, {group: name})


def test_the_owners_of_a_key_are_named():
    with pytest.raises(ConfigError) as caught:
        check_key("variant.target_every", {"variant": "vdqn"})
    assert str(caught.value) == (
        "variant.target_every does nothing with variant=vdqn: it belongs to tdqn, ddqn; remove it or use one of those"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("gamma", "discount"),
        ("learning_rate", "optimizer.lr or optimizer.lr_end"),
        ("total_step", "run.total_steps"),
        ("optimiser.lr", "optimizer.lr"),
        ("variannt", "variant"),
        ("run.totl_steps", "run.total_steps"),
    ],
)
def test_settings_are_found_by_name_meaning_and_likeness(written, meant):
    assert similar_settings(written) == f"; did you mean {meant}?"


def test_nothing_is_suggested_where_nothing_is_near():
    assert similar_settings("xyz") == ""


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_in_no_range(number):
    assert number not in Range()


def test_whole_numbers_too_large_for_a_float_can_be_compared():
    assert 10**400 in Range(ge=1)
    assert 10**400 not in Range(ge=1, le=10**12)


def test_a_list_in_a_list_has_the_wrong_form():
    with pytest.raises(ConfigError, match=r"network\.hidden=\[\[8\]\] has the wrong form"):
        typed(changed("network/hidden", [[8]]))
