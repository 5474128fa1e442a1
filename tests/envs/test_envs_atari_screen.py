"""From the settings to the size of a frame, without a game."""

import pytest

from dqn_cli.config import AtariConfig, Preprocess
from dqn_cli.envs.atari import Screen, screen_of
from dqn_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "screen", "shape"),
    [
        ({}, Screen(84, 84, slice(0, 84), slice(0, 84), False), (84, 84)),
        ({"color": True}, Screen(84, 84, slice(0, 84), slice(0, 84), True), (84, 84, 3)),
        ({"preprocess": Preprocess.nips2013}, Screen(110, 84, slice(18, 102), slice(0, 84), False), (84, 84)),
        (
            {"preprocess": Preprocess.nips2013, "crop": [0, 2, 100, 80]},
            Screen(110, 84, slice(0, 100), slice(2, 82), False),
            (100, 80),
        ),
        (
            {"preprocess": Preprocess.nips2013, "resize": [60, 50]},
            Screen(60, 50, slice(0, 60), slice(0, 50), False),
            (60, 50),
        ),
        ({"resize": [60, 50], "crop": [1, 2, 59, 48]}, Screen(60, 50, slice(1, 60), slice(2, 50), False), (59, 48)),
    ],
)
def test_screen(settings, screen, shape):
    found = screen_of(AtariConfig(id="ALE/Pong-v5", **settings))
    assert found == screen
    assert found.frame_shape == shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": [84]}, r"^env.resize=\[84\] is not possible; write \[height,width\]"),
        ({"resize": [0, 84]}, r"^env.resize=\[0, 84\] is not possible"),
        ({"crop": [18, 0, 84]}, r"^env.crop=\[18, 0, 84\] is not possible; write \[top,left,height,width\]"),
        ({"crop": [18, 0, 0, 84]}, r"^env.crop=\[18, 0, 0, 84\] is not possible"),
        ({"crop": [18, 0, 84, 84]}, r"^env.crop=\[18, 0, 84, 84\]: rows 18 to 102 .*84x84 .*write a smaller crop$"),
        ({"crop": [0, 1, 84, 84]}, r"columns 1 to 85 are not all within the 84x84"),
    ],
)
def test_impossible_screens_are_told_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        screen_of(AtariConfig(id="ALE/Pong-v5", **settings))
    assert "\n" not in str(caught.value)
