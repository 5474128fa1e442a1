import gymnasium
import pytest

from dqn_cli.envs.atari import registered_rom
from dqn_cli.envs.atari_scores import REFERENCES, Reference


@pytest.mark.parametrize(
    ("game", "random", "human"),
    [
        ("Pong", -20.7, 14.6),
        ("Breakout", 1.7, 30.5),
        ("SpaceInvaders", 148, 1668.7),
        ("Seaquest", 68.4, 42054.7),
        ("BeamRider", 363.9, 16926.5),
        ("Qbert", 163.9, 13455),
        ("Enduro", 0, 860.5),
        ("Freeway", 0, 29.6),
        ("Boxing", 0.1, 12.1),
        ("Asterix", 210, 8503.3),
    ],
)
def test_some_games_as_they_were_published(game, random, human):
    assert REFERENCES[f"ALE/{game}-v5"] == Reference(random, human)


def test_57_games_that_exist():
    assert len(REFERENCES) == 57
    for env_id in REFERENCES:
        assert env_id in gymnasium.registry
        assert registered_rom(env_id)


def test_a_human_plays_better_than_chance():
    assert all(reference.human > reference.random for reference in REFERENCES.values())


def test_normalized_by_hand():
    breakout = REFERENCES["ALE/Breakout-v5"]
    assert breakout.normalized(1.7) == 0
    assert breakout.normalized(30.5) == 100
    assert breakout.normalized(401.2) == pytest.approx(100 * 399.5 / 28.8)  # Mnih et al. 2015
    assert REFERENCES["ALE/DoubleDunk-v5"].normalized(-17.5) == pytest.approx(50)
    assert REFERENCES["ALE/Pong-v5"].normalized(-21) < 0
