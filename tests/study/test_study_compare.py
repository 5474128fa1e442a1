import pytest
from study_runs import run

from dqn_cli.errors import ConfigError
from dqn_cli.study.compare import compare
from dqn_cli.study.settings import Aggregate, Score


def runs(tmp, finals, name, first_seed=0, env="CartPole-v1"):
    """A run for each final score, with seeds in order."""
    return [
        run(tmp, (0.0, 0.0, final), env, seed, words={"variant": name}, variant__name=name)
        for seed, final in enumerate(finals, first_seed)
    ]


def compared(a, b, **more):
    choices = {
        "metric": Score.auto,
        "chosen": (None, None),
        "aggregate": Aggregate.mean,
        "unfinished": False,
        "reps": 500,
    }
    return compare(a, b, **(choices | more))


def test_pairs_of_seeds(tmp_path):
    (found,) = compared(runs(tmp_path, [1, 2, 3, 4, 5, 6], "a"), runs(tmp_path, [3, 4, 5, 6, 7, 7], "b"))
    assert found.settings == {"variant.name": ("a", "b")}
    assert (found.seeds, found.wins, found.paired) == ([0, 1, 2, 3, 4, 5], 6, True)
    assert found.final.difference.value == pytest.approx(11 / 6)
    assert 1 <= found.final.difference.low <= found.final.difference.high <= 2  # of the differences 2 2 2 2 2 1
    assert found.final.p == 2 / 64
    assert "more than noise" in found.final.sentence
    assert "random signs of 6" in found.final.sentence


def test_other_seeds_are_not_paired(tmp_path):
    (found,) = compared(runs(tmp_path, [1, 2, 3, 4], "a"), runs(tmp_path, [11, 12, 13, 14], "b", first_seed=10))
    assert (found.seeds, found.paired) == ([], False)
    assert found.final.difference.value == 10
    assert found.final.p == pytest.approx(2 / 70)
    assert found.final.improvement.value == 1


def test_all_runs_count_where_some_seeds_have_no_partner(tmp_path):
    (found,) = compared(runs(tmp_path, [1, 2, 3, 4], "a"), runs(tmp_path, [5, 5, 5, 9], "b", first_seed=2))
    assert (found.seeds, found.paired) == ([2, 3], False)
    assert found.final.difference.value == 6 - 2.5


def test_a_seed_that_is_there_twice_is_no_pair(tmp_path):
    twice = [*runs(tmp_path, [1, 2], "a"), *runs(tmp_path, [3], "a")]
    (found,) = compared(twice, runs(tmp_path, [1, 2, 3], "b"))
    assert (found.seeds, found.paired) == ([1], False)


def test_runs_without_a_partner_are_not_thrown_away(tmp_path):
    (found,) = compared(runs(tmp_path, [1, 2], "a"), runs(tmp_path, [1, 2, 9], "b"))
    assert not found.paired
    assert found.final.difference.value == 4 - 1.5


def test_too_few_runs_say_nothing(tmp_path):
    for n in (1, 2, 3):
        (found,) = compared(runs(tmp_path, [0.0] * n, "a"), runs(tmp_path, [100.0] * n, "b"))
        assert found.final.p is None
        assert "too few to tell" in found.final.sentence
    assert "p = 0.1." in found.final.sentence  # 2 of the 20 divisions of 6 scores


def test_noise_is_called_noise(tmp_path):
    (found,) = compared(runs(tmp_path, [1, 9, 2, 8, 5], "a"), runs(tmp_path, [2, 8, 3, 9, 4], "b"))
    assert found.final.p > 0.5
    assert found.final.sentence.startswith("Not told from noise")
    (found,) = compared(runs(tmp_path, [1] * 5, "a"), runs(tmp_path, [1] * 5, "b"))
    assert found.final.p == 1


def test_a_side_of_several_configurations(tmp_path):
    sweep = runs(tmp_path, [1, 2], "a") + runs(tmp_path, [3, 4], "b")
    with pytest.raises(ConfigError, match="A holds 2 configurations of CartPole-v1: variant=a, variant=b"):
        compared(sweep, runs(tmp_path, [1], "c"))
    (found,) = compared(sweep, sweep, chosen=("variant=a", "variant=b"))
    assert found.final.difference.value == 2
    with pytest.raises(ConfigError, match="a=x is no configuration of A; known: variant=a, variant=b"):
        compared(sweep, sweep, chosen=("x", None))


def test_environments_must_be_the_same(tmp_path):
    with pytest.raises(ConfigError, match="A is CartPole-v1 and B is Taxi-v3: nothing to compare"):
        compared(runs(tmp_path, [1], "a"), runs(tmp_path, [1], "b", env="Taxi-v3"))
