import numpy as np
import pytest
from study_runs import run

from dqn_cli.errors import ConfigError
from dqn_cli.study.groups import differences, natural, study
from dqn_cli.study.series import Series
from dqn_cli.study.settings import Aggregate, Score
from dqn_cli.study.summary import band, middle, reference, summarize


def labels(found):
    return {env: {group.label: group.n for group in groups} for env, groups in found.envs.items()}


def test_seeds_are_put_together_and_called_what_was_typed(tmp_path):
    members = [
        run(
            tmp_path,
            seed=seed,
            env=env,
            words={"variant": variant, "run.total_steps": "5"},
            variant__name=variant,
            x=env,
        )
        for env in ("A-v0", "B-v0")
        for variant in ("ddqn", "tdqn")
        for seed in (0, 1, 2)
    ]
    found = study(members)
    assert labels(found) == {env: {"variant=ddqn": 3, "variant=tdqn": 3} for env in ("A-v0", "B-v0")}
    assert found.labels == ["variant=ddqn", "variant=tdqn"]
    assert found.left_out == []


def test_what_a_setting_brings_along_is_not_in_the_name(tmp_path):
    settings = {"ddqn": {"variant__tau": "1.0"}, "vdqn": {}}
    members = [run(tmp_path, variant__name=name, **more) for name, more in settings.items()]
    assert labels(study(members)) == {"CartPole-v1": {"variant=ddqn": 1, "variant=vdqn": 1}}


def test_as_few_settings_as_tell_them_apart(tmp_path):
    members = [run(tmp_path, optimizer__lr=lr, replay__n_step=n, a__b=lr) for lr in ("0.1", "0.01") for n in ("1", "3")]
    found = study(members)
    assert all(label.count("=") == 2 and "replay.n_step" in label for label in found.labels)
    assert len(found.labels) == 4


def test_where_it_ran_and_how_long_is_no_configuration(tmp_path):
    members = [run(tmp_path, device=device, run__total_steps=n) for device in ("cpu", "mps") for n in ("5", "6")]
    assert len(study(members).labels) == 1


def test_presets_are_called_by_their_names(tmp_path):
    members = [
        run(tmp_path, words={"experiment": "rainbow", "threads": "1"}, variant__name="ddqn"),
        run(tmp_path, words={"variant": "tdqn", "threads": "1"}, variant__name="tdqn"),
    ]
    assert study(members).labels == ["experiment=rainbow", "variant=tdqn"]


def test_what_all_typed_is_in_no_name(tmp_path):
    members = [run(tmp_path, words={"threads": "1", "x": "1", "k": k}, k=k) for k in ("1", "2")]
    foreign = run(tmp_path, words={"": "CleanRL dqn"})
    foreign.runner = "CleanRL"
    assert study([*members, foreign]).labels == ["CleanRL dqn", "k=1", "k=2"]


def test_a_single_configuration_is_called_by_its_variant(tmp_path):
    alone = run(tmp_path, words={"run.eval_every_steps": "500", "run.total_steps": "9"}, variant__name="ddqn")
    assert study([alone]).labels == ["variant=ddqn"]


def test_two_ways_to_type_the_same_are_one_configuration(tmp_path):
    members = [run(tmp_path, words={"optimizer.lr": lr}, optimizer__lr="0.001") for lr in ("1e-3", "0.001")]
    members.append(run(tmp_path, words={"optimizer.lr": "0.1"}, optimizer__lr="0.1"))
    assert labels(study(members)) == {"CartPole-v1": {"optimizer.lr=0.001": 2, "optimizer.lr=0.1": 1}}


def test_by_puts_the_others_together(tmp_path):
    members = [run(tmp_path, variant__name=name, x=x) for name in ("ddqn", "tdqn") for x in ("1", "2", "3")]
    assert labels(study(members, by="variant")) == {"CartPole-v1": {"variant=ddqn": 3, "variant=tdqn": 3}}
    with pytest.raises(ConfigError, match=r"by=varian is no setting of these runs; did you mean variant\?"):
        study(members, by="varian")


def test_runs_that_do_not_count_are_told_with_their_reason(tmp_path):
    failed = run(tmp_path, status="failed", seed=1)
    failed.reason = "out of memory"
    empty = run(tmp_path, seed=2)
    empty.series = {}
    members = [run(tmp_path), failed, empty]
    found = study(members)
    assert labels(found) == {"CartPole-v1": {"dqn-cli": 1}}
    assert [why for _, why in found.left_out] == ["failed: out of memory", "finished; no scores"]
    assert study(members, unfinished=True).envs["CartPole-v1"][0].n == 2


def test_where_nothing_has_finished_all_count(tmp_path):
    (group,) = study([run(tmp_path, status="running", seed=s) for s in (0, 1)]).envs["CartPole-v1"]
    assert (group.n, group.so_far) == (2, True)


def test_the_score_is_the_evaluations_where_there_are_three(tmp_path):
    many, few = run(tmp_path), run(tmp_path, values=(1.0, 2.0))
    for each in (many, few):
        each.series["return_mean"] = Series(np.array([100.0]), np.array([7.0]))
    assert study([many]).envs["CartPole-v1"][0].metric == "eval_return_mean"
    assert study([many, few]).envs["CartPole-v1"][0].metric == "return_mean"
    assert study([few], Score.eval_return_mean).envs["CartPole-v1"][0].metric == "eval_return_mean"


def test_numbers_are_sorted_by_size():
    assert sorted(["lr=0.1", "lr=1e-3", "n=10", "n=9", "a"], key=natural) == ["a", "lr=1e-3", "lr=0.1", "n=9", "n=10"]


def test_differences():
    assert differences({"a": "1", "b": "2", "device": "x"}, {"b": "3", "c": "4"}) == {
        "a": ("1", "-"), "b": ("2", "3"), "c": ("-", "4")
    }  # fmt: skip


def summary(members, threshold=None, aggregate=Aggregate.mean):
    return summarize(study(members), aggregate, threshold, 200)


def test_rows_by_hand(tmp_path):
    members = [run(tmp_path, (0.0, 10.0, 20.0), "X-v0", 0), run(tmp_path, (0.0, 10.0, 40.0), "X-v0", 1)]
    (row,) = summary(members, "15").rows["X-v0"]
    assert row.final.tolist() == [20.0, 40.0]
    assert row.final_estimate.value == 30.0
    assert row.area.tolist() == [10.0, 15.0]
    assert row.reached.tolist() == [300.0, 300.0]
    x, value, low, high = row.curve
    assert (x.tolist(), value.tolist()) == ([100, 200, 300], [0, 10, 30])
    assert (low[2], high[2]) == (20, 40)


@pytest.mark.parametrize("aggregate", list(Aggregate))
def test_a_line_without_a_band_is_the_same_line(aggregate):
    steps = np.array([1.0, 2.0])
    curves = [Series(steps, np.array(values)) for values in ([0.0, 1.0], [2.0, 5.0], [4.0, 3.0], [90.0, 9.0])]
    x, value = middle(curves, aggregate)
    assert x.tolist() == [1, 2]
    assert value.tolist() == ([24, 4.5] if aggregate is Aggregate.mean else [3, 4])
    np.testing.assert_allclose(value, band(curves, aggregate)[1])


def test_thresholds(tmp_path):
    members = [run(tmp_path, env=env) for env in ("CartPole-v1", "X-v0")]
    assert summary(members).thresholds == {"CartPole-v1": 475.0}  # of Gymnasium's registry
    assert summary(members, "2").thresholds == {"CartPole-v1": 2.0, "X-v0": 2.0}
    assert summary(members, "X-v0:3").thresholds == {"X-v0": 3.0}
    for wrong in ("x", "inf", "Y:3", "", "1,,2"):
        with pytest.raises(ConfigError, match="threshold="):
            summary(members, wrong)


def test_scores_over_environments_are_normalized(tmp_path):
    scores = {"A-v0": {"x": (0.0, 50.0), "y": (100.0, 100.0)}, "B-v0": {"x": (-1.0, -1.0), "y": (0.0, -0.5)}}
    members = [
        run(tmp_path, (score,) * 3, env, seed, words={"k": name}, k=name)
        for env, found in scores.items()
        for name, values in found.items()
        for seed, score in enumerate(values)
    ]
    found = summary(members)
    assert [each.label for each in found.overall] == ["k=x", "k=y"]
    assert found.overall[0].estimates["mean"].value == (0 + 0.5 + 0 + 0) / 4
    assert found.overall[1].estimates["mean"].value == (1 + 1 + 1 + 0.5) / 4
    assert found.overall[1].estimates["optimality gap"].value == 0.125
    (improvement,) = found.improvements
    assert (improvement.better, improvement.than, improvement.estimate.value) == ("k=y", "k=x", 1.0)
    profile = found.profiles[0]
    assert profile.share[np.searchsorted(profile.tau, 0.25)] == 0.25


def test_atari_games_are_measured_by_the_human(tmp_path):
    assert reference("PongNoFrameskip-v4") == reference("ALE/Pong-v5") == reference("Pong-v0")
    assert reference("CartPole-v1") is None
    human = reference("ALE/Pong-v5").human
    members = [run(tmp_path, (human,) * 3, "ALE/Pong-v5"), run(tmp_path, (1.7,) * 3, "BreakoutNoFrameskip-v4")]
    found = summary(members)
    assert found.rows["ALE/Pong-v5"][0].human.value == pytest.approx(100)
    assert found.rows["BreakoutNoFrameskip-v4"][0].human.value == pytest.approx(0)
    assert "Wang et al. 2016" in found.scale
    assert found.overall[0].estimates["mean"].value == pytest.approx(0.5)


def test_a_seed_that_is_there_twice_is_told(tmp_path):
    notes = summary([run(tmp_path, seed=seed) for seed in (0, 1, 1)]).notes
    assert notes == ["CartPole-v1, dqn-cli: more than one run of seed 1"]


def test_unequal_lengths_are_told(tmp_path):
    found = summary([run(tmp_path, (1.0,) * 3, seed=0), run(tmp_path, (1.0,) * 9, seed=1)])
    assert "runs end between step 300 and 900" in found.notes[0]
