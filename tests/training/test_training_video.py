from __future__ import annotations

import csv
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import ImageColor

from dqn_cli import build
from dqn_cli.agent.actor import Actor
from dqn_cli.agent.exploration import EpsilonGreedy
from dqn_cli.agent.policy import Policy
from dqn_cli.algorithm.losses import mse
from dqn_cli.algorithm.values import Scalar
from dqn_cli.cli.main import evaluate
from dqn_cli.config import (
    Config,
    DdqnConfig,
    EpsilonConfig,
    GymConfig,
    MlpConfig,
    ScalarConfig,
    SgdConfig,
    UniformConfig,
)
from dqn_cli.envs.frame_stack import FrameStack
from dqn_cli.envs.lanes import describe
from dqn_cli.errors import ConfigError, EnvironmentFault, StorageError
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.training import panel, video
from dqn_cli.training.checkpoint import CheckpointStore
from dqn_cli.training.evaluator import play
from dqn_cli.training.panel import Moment, Panel
from dqn_cli.training.video import Recorder, Scene, VideoFile, video_file
from dqn_cli.types import EpisodeStats, ObsSpec, StepResult
from dqn_cli.validate import plain

Q = np.array([1.0, 3.0, 2.0], np.float32)
ONE = np.ones(1, np.bool_)


def rgb(color: str) -> tuple[int, ...]:
    return ImageColor.getrgb(color)


def picture(value: int, height: int = 8, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


class Film:
    """Episodes of the lengths given. Picture 10 * episode + step is an observation's; with 100 it leads to that one."""

    num_envs, fps, action_names = 1, 4.0, ["left", "stay", "right"]

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.episode = lengths, 0

    def reset(self) -> np.ndarray:
        self.step, self.waiting = 0, [picture(0)]
        return np.zeros((1, 1), np.float32)

    def send(self, actions: np.ndarray) -> None:
        pass

    def recv(self) -> StepResult:
        self.step += 1
        now = 10 * self.episode + self.step
        self.waiting += [picture(100 + now), picture(now)]
        self.out, self.waiting = self.waiting, []
        over = np.array([self.step == self.lengths[self.episode]])
        stats = [EpisodeStats(0, self.episode, 0.5 * self.step, self.step)] if over[0] else []
        if over[0]:
            self.episode, self.step = self.episode + 1, 0
            self.waiting = [picture(10 * self.episode)]  # the next episode's start
        frame = np.zeros((1, 1), np.float32)
        return StepResult(frame, frame, np.array([0.5]), over, over & False, over, stats)

    def pictures(self) -> list[np.ndarray]:
        if self.episode == self.step == 0:
            self.out, self.waiting = self.waiting, []
        return self.out


class Decides:
    """Action and values of the decisions in their order."""

    def __init__(self) -> None:
        self.count = -1

    def act(self, frame: np.ndarray, first: np.ndarray, epsilon: float) -> np.ndarray:
        self.count += 1
        return np.array([1])

    def values(self) -> np.ndarray:
        return Q[None] + self.count


class Takes:
    """In the place of a file."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, Moment, float]] = []

    def write(self, drawn: tuple[int, Moment], fps: float) -> None:
        self.shown.append((*drawn, fps))


class BareScene:
    """Shows which picture was drawn with which moment."""

    def __init__(self, first: np.ndarray, title: str, names: list[str]) -> None:
        assert (title, names) == ("Film-v0", Film.action_names)

    def draw(self, shown: np.ndarray, moment: Moment) -> tuple[int, Moment]:
        return int(shown[0, 0, 0]), moment


def test_every_picture_is_shown_once_with_the_values_of_its_observation(monkeypatch):
    monkeypatch.setattr(video, "Scene", BareScene)
    file, envs = Takes(), Film([2, 1, 5])
    recorder = Recorder(Decides(), envs, file, "Film-v0")
    result = play(recorder, recorder, 2, 0.0, check=lambda done: None)
    assert (result.scores, result.lengths) == ([1.0, 0.5], [2, 1])
    seen = [
        (number, moment.episode, moment.step, moment.score, float(moment.q[0]), moment.over)
        for number, moment, fps in file.shown
        if fps == 4.0
    ]
    hold = 4  # a second
    assert seen == [
        (0, 0, 0, 0.0, 1.0, False),
        (101, 0, 0, 0.0, 1.0, False),
        (1, 0, 1, 0.5, 2.0, False),
        (102, 0, 1, 0.5, 2.0, False),
        (2, 0, 1, 0.5, 2.0, False),
        *[(2, 0, 2, 1.0, 2.0, True)] * hold,
        (10, 1, 0, 0.0, 3.0, False),
        (111, 1, 0, 0.0, 3.0, False),
        (11, 1, 0, 0.0, 3.0, False),
        *[(11, 1, 1, 0.5, 3.0, True)] * hold,
    ]


def test_which_actions_are_random():
    assert Moment(0, 0, 0.0, Q, 1).kind == "greedy"
    assert Moment(0, 0, 0.0, Q, 2).kind == "random"
    assert Moment(0, 0, 0.0, np.zeros(3), 0).kind == "greedy"  # the first of equal values
    assert Moment(0, 0, 0.0, Q, 2, over=True).kind == "over"


def bars(drawn: np.ndarray, color: str) -> list[int]:
    """Lengths of the bars of a color, from the top: rows of pixels that hold a run of it and not just letters."""
    runs = [int((row == rgb(color)).all(axis=1).sum()) for row in drawn[panel.TOP : -panel.BOTTOM]]
    return [run for run, before in zip(runs, [0, *runs], strict=False) if run >= 3 and before < 3]


def test_bars_are_as_long_as_an_action_is_better_than_the_worst():
    drawn = Panel("x", ["left", "stay", "right"], 420).draw(Moment(0, 0, 0.0, np.array([1.0, 3.0, 2.0]), 1))
    (best,) = bars(drawn, panel.GREEDY)
    worst, middle = bars(drawn, panel.BAR)
    assert worst == 3
    assert best > 150
    assert middle == pytest.approx(best / 2, abs=2)


def test_bars_keep_their_scale():
    side = Panel("x", ["left", "stay", "right"], 420)
    (wide,) = bars(side.draw(Moment(0, 0, 0.0, np.array([0.0, 4.0, 0.0]), 1)), panel.GREEDY)
    (narrow,) = bars(side.draw(Moment(0, 1, 0.0, np.array([7.0, 8.0, 7.0]), 1)), panel.GREEDY)
    assert narrow == pytest.approx(wide / 4, abs=2)


def test_a_random_action_has_another_color():
    drawn = Panel("x", ["left", "stay", "right"], 420).draw(Moment(0, 0, 0.0, Q, 2))
    assert len(bars(drawn, panel.RANDOM)) == 1
    assert bars(drawn, panel.GREEDY) == []


@pytest.mark.parametrize("values", [np.zeros(18), np.linspace(-123456, 123456, 18), np.full(18, 0.001)], ids=str)
def test_18_actions_and_long_names_fit(values):
    names = ["UPRIGHTFIRE", "a name that nobody would think of" * 3, *map(str, range(16))]
    drawn = Panel("Namespace/" + "Long" * 40, names, 420).draw(Moment(999_998, 26_999, -1234567.5, values, 17))
    assert drawn.shape == (420, panel.WIDTH, 3)
    margin = drawn[:, -panel.MARGIN + 2 :]
    assert (margin == rgb(panel.BACKGROUND)).all()
    if np.ptp(values):
        assert len(bars(drawn, panel.BAR)) == 17


def test_of_too_many_actions_the_best_and_the_chosen_one_are_shown():
    side = Panel("x", [f"action {i}" for i in range(100)], 420)
    q = np.arange(100.0)
    rows = side._shown(Moment(0, 0, 0.0, q, 3))
    assert rows == [3, *range(100 - len(rows) + 1, 100)]
    assert len(bars(side.draw(Moment(0, 0, 0.0, q, 3)), panel.RANDOM)) == 1


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((210, 160, 3), 2),
        ((400, 600, 3), 1),
        ((10, 10, 3), 42),
        ((241, 721, 3), 1),
        ((15, 400, 3), 1),
        ((900, 3, 3), 1),
    ],
)
def test_small_pictures_are_enlarged_by_whole_factors(shape, scale):
    shown = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    drawn = Scene(shown, "x", ["a", "b"]).draw(shown, Moment(0, 0, 0.0, Q[:2], 0))
    height, width = shape[0] * scale, shape[1] * scale
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0
    assert drawn.shape[0] >= height
    top = (drawn.shape[0] - height) // 2
    assert (drawn[top : top + height : scale, :width:scale] == shown).all()
    assert (drawn[top + scale - 1 : top + height : scale, scale - 1 : width : scale] == shown).all()


def test_pictures_that_change_their_size_are_told():
    scene = Scene(picture(0), "x", ["a", "b"])
    with pytest.raises(EnvironmentFault, match=r"changed from \(8, 6, 3\) to \(9, 6, 3\)"):
        scene.draw(picture(0, 9), Moment(0, 0, 0.0, Q[:2], 0))


def decoded(path: Path) -> tuple[av.VideoStream, list[np.ndarray]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "codec", "count", "rate"),
    [("a.mp4", "h264", 31, 60), ("a.webm", "vp9", 31, 60), ("a.gif", "gif", 11, 20), ("A.MP4", "h264", 31, 60)],
)
def test_formats(tmp_path, name, codec, count, rate):
    path = tmp_path / name
    shown = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    with video_file(path) as file:
        for _ in range(31):
            file.write(shown, 60.0)
        assert not path.exists()
    stream, frames = decoded(path)
    assert stream.codec_context.name == codec
    assert stream.average_rate == rate
    assert len(frames) == count
    assert all(np.abs(frame.astype(int) - shown).mean() < 20 for frame in frames)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if codec != "gif":
        assert stream.codec_context.pix_fmt == "yuv420p"
    if codec == "h264":  # the index stands before the pictures
        data = path.read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_gif_shows_the_colors_of_its_first_picture_and_later_ones_nearly(tmp_path):
    first, later = picture(0, 32, 32), picture(0, 32, 32)
    first[:], later[:] = (12, 34, 56), (250, 130, 60)
    with video_file(tmp_path / "a.gif") as file:
        for shown in (first, first, later):
            file.write(shown, 10.0)
    _, frames = decoded(tmp_path / "a.gif")
    assert (frames[1] == first).all()
    assert np.abs(frames[2].astype(int) - later).max() <= 43


def interrupted(file: VideoFile) -> None:
    file.write(picture(0, 64, 64), 30.0)
    raise KeyboardInterrupt


def test_what_fails_leaves_nothing_and_harms_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    for before in (None, b"precious"):
        if before:
            path.write_bytes(before)
        with pytest.raises(KeyboardInterrupt), video_file(path) as file:
            interrupted(file)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_file_that_is_there_is_replaced(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with video_file(path) as file:
        file.write(picture(200, 64, 64), 30.0)
    assert len(decoded(path)[1]) == 1


def test_paths_that_cannot_be_written_are_told_before_anything_is_played(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(ConfigError, match=r"a\.mp4 is a folder"), video_file(tmp_path / "a.mp4"):
        pytest.fail("it was opened")
    with pytest.raises(StorageError, match=r"cannot write .*none/a\.mp4"), video_file(tmp_path / "none" / "a.mp4"):
        pytest.fail("it was opened")


@contextmanager
def small_disk(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def film_noise(path: Path) -> None:
    rng = np.random.default_rng(0)
    with video_file(path) as file:
        for _ in range(10):
            file.write(rng.integers(0, 256, (256, 256, 3), np.uint8), 10.0)


def test_a_full_disk_is_told(tmp_path):
    with small_disk(2**16), pytest.raises(StorageError, match=r"cannot write .*a\.gif"):
        film_noise(tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


class Identity(ValueNetwork):
    def forward(self, obs):
        return obs


def test_values_are_of_the_observation_acted_on_whatever_was_done():
    spec = ObsSpec((3,), "float32", 1)
    policy = Policy(Identity(), Scalar(mse), torch.Generator(), noisy=False)
    actor = Actor(policy, EpsilonGreedy(3), FrameStack(spec, 1), np.random.default_rng(0))
    for epsilon in (0.0, 1.0):
        frame = np.array([[0.0, epsilon, 5.0]], np.float32)
        actor.act(frame, ONE, epsilon)
        assert (actor.values() == frame).all()


CONFIG = Config(
    env=GymConfig(id="CartPole-v1", time_limit_steps=15),
    network=MlpConfig(hidden=[8]),
    variant=DdqnConfig(),
    value=ScalarConfig(),
    replay=UniformConfig(),
    exploration=EpsilonConfig(),
    optimizer=SgdConfig(),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    facts = describe(CONFIG.env)
    learner = build.make_learner(CONFIG, facts.spec, facts.num_actions, torch.Generator())
    CheckpointStore(tmp_path, keep=1).save_best(9, config=plain(CONFIG), model=learner.model_state(), state={})
    return tmp_path


def played(folder: Path) -> list[tuple[float, int]]:
    with (folder / "episodes.csv").open(newline="") as file:
        return [(float(row["score"]), int(row["length"])) for row in csv.DictReader(file)]


def test_filming_changes_nothing_and_films_everything(run, capsys):
    words = [str(run), "episodes=2", "epsilon=0.5"]
    assert evaluate([*words, "num_envs=1", f"out={run / 'plain'}"]) == 0
    assert evaluate([*words, f"video={run / 'a.mp4'}", f"out={run / 'filmed'}"]) == 0
    assert f"video        {run / 'a.mp4'}" in capsys.readouterr().out
    episodes = played(run / "filmed")
    assert episodes == played(run / "plain")
    stream, frames = decoded(run / "a.mp4")
    assert stream.average_rate == 50
    assert len(frames) == sum(1 + length + 50 for _, length in episodes)  # an episode's end stands for a second
    assert frames[0].shape == (400, 600 + panel.WIDTH, 3)


def test_a_missing_extra_names_the_remedy(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "dqn_cli.training.video")
    assert evaluate([str(run), f"video={run / 'a.mp4'}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "pip install 'dqn-cli[video]'" in err
    assert not (run / "eval").exists()
    assert not (run / "a.mp4").exists()


def test_a_video_that_cannot_be_written_leaves_no_result(run, capsys):
    assert evaluate([str(run), f"video={run / 'none' / 'a.mp4'}"]) == 6
    assert "cannot write" in capsys.readouterr().err
    assert not (run / "eval").exists()
