"""What random play scores, against what was measured on the emulator by other means."""

from contextlib import closing

import numpy as np
import pytest
from atari_console import make

from dqn_cli.config import AtariConfig

# mean and standard error of 20 to 60 games: uniform actions, sticky .25, 4 frames per action, ale-py 0.12.1 by itself
MEASURED = {
    "Pong": (-20.0, 0.2),
    "Breakout": (1.4, 0.2),
    "SpaceInvaders": (143, 10),
    "Seaquest": (83, 7),
    "MsPacman": (267, 18),
    "Asterix": (282, 22),
}
LANES, GAMES_PER_LANE = 5, 6


@pytest.mark.slow
@pytest.mark.parametrize("game", MEASURED)
def test_random_play_scores_as_measured(game):
    rng = np.random.default_rng(2)
    scores = []
    with closing(make(AtariConfig(id=f"ALE/{game}-v5"), LANES)) as lanes:
        lanes.reset()
        while len(scores) < LANES * GAMES_PER_LANE:
            lanes.send(rng.integers(lanes.num_actions, size=LANES))
            scores += [e.score for e in lanes.recv().episodes if e.episode < GAMES_PER_LANE]
    mean, error = np.mean(scores), np.std(scores, ddof=1) / np.sqrt(len(scores))
    print(f"{game}: {mean:.2f} +- {error:.2f}")
    expected, its_error = MEASURED[game]
    assert abs(mean - expected) <= 4 * np.hypot(error, its_error)
