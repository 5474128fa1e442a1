"""Observation and action spaces of every kind, against Gymnasium's own flatten."""

from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces

from dqn_cli.envs.spaces import Misfit, action_range, observer, texts
from dqn_cli.errors import ConfigError

BOX = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict(
    {
        "where": spaces.Discrete(5, start=-2),
        "eyes": spaces.Tuple((spaces.Box(0, 255, (2, 3), np.uint8), spaces.MultiDiscrete([2, 3]))),
        "arms": spaces.Dict({"left": BOX, "grip": spaces.MultiBinary(4)}),
    }
)
SPACES = {
    "discrete": spaces.Discrete(7),
    "discrete from 3": spaces.Discrete(4, start=3),
    "box": BOX,
    "box float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "box float16": spaces.Box(-1, 1, (5,), np.float16),
    "box int": spaces.Box(-9, 9, (4,), np.int64),
    "box scalar": spaces.Box(-1, 1, (), np.float32),
    "bytes": spaces.Box(0, 255, (2, 4, 3), np.uint8),
    "bits": spaces.Box(0, 1, (2, 4, 3), bool),
    "byte": spaces.Box(0, 255, (), np.uint8),
    "multi-discrete": spaces.MultiDiscrete([3, 1, 4]),
    "multi-discrete matrix": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[1, -1], [0, 5]])),
    "multi-binary": spaces.MultiBinary((2, 3)),
    "tuple": spaces.Tuple((spaces.Discrete(3), BOX)),
    "nested": NESTED,
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_every_space_is_flattened_as_gymnasium_does(space):
    spec, write = observer("X-v0", space, 1)
    frame = np.full(spec.frame_shape, 77, spec.dtype)  # what an earlier observation left behind must not shine through
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        write(sample, frame)
        np.testing.assert_array_equal(frame.reshape(-1), spaces.flatten(space, sample).astype(spec.dtype))


def test_bytes_and_bits_stay_as_they_are_and_everything_else_is_float32():
    dtypes = {name: observer("X-v0", space, 1)[0].dtype for name, space in SPACES.items()}
    assert dtypes == dict.fromkeys(SPACES, "float32") | {"bytes": "uint8", "bits": "bool"}


def test_bytes_and_bits_keep_their_shape_and_numbers_lie_in_a_row():
    assert observer("X-v0", SPACES["bytes"], 1)[0].frame_shape == (2, 4, 3)
    assert observer("X-v0", SPACES["bits"], 1)[0].frame_shape == (2, 4, 3)
    assert observer("X-v0", spaces.Box(-1, 1, (2, 4, 3), np.float32), 1)[0].frame_shape == (24,)


def test_stack_is_part_of_the_spec():
    spec, _ = observer("X-v0", BOX, 4)
    assert (spec.frame_shape, spec.obs_shape) == ((3,), (4, 3))


def test_plain_integers_and_ordered_dicts_are_observations_too():
    _, write = observer("X-v0", spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}), 1)
    frame = np.zeros(5, np.float32)
    write(OrderedDict(b=1, a=np.int64(2)), frame)
    assert frame.tolist() == [0, 0, 1, 0, 1]  # Gymnasium sorts the keys


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Graph(BOX, None),
        spaces.Sequence(BOX),
        spaces.OneOf((BOX, spaces.Discrete(2))),
        spaces.Dict({"words": spaces.Text(5), "heard": spaces.Sequence(BOX)}),
        None,
    ],
)
def test_spaces_of_no_fixed_size_are_refused(space):
    with pytest.raises(ConfigError, match=r"^env.id=X-v0: observations of .* have no fixed size; write a wrapper"):
        observer("X-v0", space, 1)


class Mission(spaces.Space):
    """Text of a class of its own, as MiniGrid has it."""

    def __init__(self):
        super().__init__(dtype=str)


SPOKEN = spaces.Dict(
    {
        "mission": Mission(),
        "image": spaces.Box(0, 255, (2, 2), np.uint8),
        "facing": spaces.Discrete(4),
        "ears": spaces.Tuple((spaces.Text(9), BOX)),
    }
)


def test_text_among_other_parts_is_left_out_and_named():
    assert texts(SPOKEN) == ["ears.0", "mission"]
    assert [texts(space) for space in SPACES.values()] == [[]] * len(SPACES)
    spec, write = observer("X-v0", SPOKEN, 1)
    frame = np.full(spec.frame_shape, 77, spec.dtype)
    pixels = np.array([[1, 2], [3, 4]], np.uint8)
    write({"mission": "go", "image": pixels, "facing": 2, "ears": ("hm", np.full(3, 0.5))}, frame)
    assert (spec.dtype, frame.tolist()) == ("float32", [0.5, 0.5, 0.5, 0, 0, 1, 0, 1, 2, 3, 4])


def test_text_that_is_left_out_is_still_a_part_of_an_observation():
    _, write = observer("X-v0", SPOKEN, 1)
    with pytest.raises(Misfit, match="not something with the parts ears, facing, image, mission"):
        write({"image": np.zeros((2, 2), np.uint8), "facing": 2, "ears": ("hm", np.zeros(3))}, np.zeros(11))


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (0,)), spaces.Dict({}), spaces.Dict({"words": spaces.Text(5)})])
def test_empty_observations_are_refused(space):
    with pytest.raises(ConfigError, match="is empty"):
        observer("X-v0", space, 1)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (BOX, np.zeros(4, np.float32), r"an array of shape \(4,\) and type float32, not an array of shape \(3,\)"),
        (BOX, np.zeros((1, 3), np.float32), r"an array of shape \(1, 3\)"),
        (BOX, [0.0, 0.0, 0.0], "a list, not an array"),
        (BOX, None, "None, a NoneType"),
        (BOX, np.array(["1", "2", "3"]), "does not convert to float32"),
        (BOX, np.array([None, 1, 2]), "does not convert to float32"),
        (BOX, np.array([0, np.nan, 0], np.float32), "not finite"),
        (BOX, np.array([0, 0, -np.inf]), "not finite"),
        (SPACES["bytes"], np.full((2, 4, 3), 300), "does not convert to uint8"),
        (SPACES["bits"], np.full((2, 4, 3), 2, np.uint8), "does not convert to bool"),
        (SPACES["bits"], np.zeros((2, 4), bool), r"not an array of shape \(2, 4, 3\)"),
        (SPACES["discrete from 3"], 2, r"2, not in 3 \.\.\. 6"),
        (SPACES["discrete from 3"], 7, r"7, not in 3 \.\.\. 6"),
        (SPACES["discrete"], 1.0, "1.0, a float, not an integer"),
        (SPACES["multi-discrete"], np.array([0, 0, 4]), "not in MultiDiscrete"),
        (SPACES["multi-discrete"], np.array([0, -1, 0]), "not in MultiDiscrete"),
        (SPACES["multi-discrete"], np.array([0.0, 0.0, 0.0]), "not an array of integers"),
        (SPACES["tuple"], (1,), "not something with the parts 0, 1"),
        (SPACES["tuple"], [1, np.zeros(3)], "not a tuple"),
        (NESTED, {"where": 0}, "not something with the parts arms, eyes, where"),
        (NESTED, NESTED.sample() | {"where": 9}, r"9, not in -2 \.\.\. 2"),
        (NESTED, np.zeros(3), "not something with the parts"),
    ],
)
def test_observations_outside_their_space_are_told_apart(space, value, message):
    spec, write = observer("X-v0", space, 1)
    with pytest.raises(Misfit, match=message) as caught:
        write(value, np.zeros(spec.frame_shape, spec.dtype))
    assert "\n" not in str(caught.value)


def test_actions():
    assert action_range("X-v0", spaces.Discrete(4)) == (4, 0)
    assert action_range("X-v0", spaces.Discrete(3, start=-1)) == (3, -1)
    assert action_range("X-v0", spaces.Discrete(4096)) == (4096, 0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (BOX, r"env.id=X-v0 has continuous actions Box.*max over all actions"),
        (
            spaces.Box(np.arange(99.0), np.arange(1.0, 100.0), dtype=np.float64),
            r"continuous actions Box\(.*\.\.\.: DQN",
        ),
        (spaces.MultiDiscrete([2, 2]), "numbers the combinations as one Discrete"),
        (spaces.MultiBinary(3), "numbers the combinations as one Discrete"),
        (spaces.Tuple((BOX,)), "choose an environment with Discrete actions"),
        (spaces.Discrete(4097), "has 4097 actions; at most 4096"),
    ],
)
def test_actions_without_a_max_are_refused(space, message):
    with pytest.raises(ConfigError, match=message) as caught:
        action_range("X-v0", space)
    assert "\n" not in str(caught.value)
