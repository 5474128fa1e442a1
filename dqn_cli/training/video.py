"""Videos of episodes, with the Q-values that led the policy: `dqn-eval ... video=out.mp4`. Needs the extra `video`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageColor

from dqn_cli.envs.vector import Picture
from dqn_cli.errors import ConfigError, EnvironmentFault, writing
from dqn_cli.training.panel import BACKGROUND, COLORS, Moment, Panel
from dqn_cli.training.panel import WIDTH as PANEL_WIDTH
from dqn_cli.training.trainer import Acts, Envs
from dqn_cli.types import StepResult

HEIGHT = 420  # small pictures are enlarged to about this, by a whole factor
WIDEST = 720
PANEL_HEIGHT = 360  # at least
GIF_FPS = 20  # at most; browsers slow down what is much faster
LAST_PICTURE_S = 1.0  # for so long an episode's end can be seen


@dataclass(frozen=True)
class Codec:
    """How a format is encoded: FFmpeg's names of container, encoder and pixels, and their options."""

    container: str
    encoder: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)


# 4:2:0 is what browsers play; faststart puts the index first, so that a page can play before it has loaded the file
CODECS = {
    ".mp4": Codec("mp4", "libx264", "yuv420p", {"crf": "18", "preset": "fast"}, {"movflags": "+faststart"}),
    ".webm": Codec("webm", "libvpx-vp9", "yuv420p", {"crf": "32", "deadline": "realtime", "cpu-used": "6"}),
    ".gif": Codec("gif", "gif", "pal8"),
}


class VideoFile:
    """Pictures `[height, width, 3]` uint8, all of one even size, encoded into `file`.

    Raises `StorageError`, naming `path`, where they cannot be written.
    """

    def __init__(self, file: Path, path: Path) -> None:
        self._path = path
        self._codec = CODECS[path.suffix.lower()]
        self._stream: VideoStream | None = None
        self._palette: NDArray[np.uint8] | None = None
        self._count = 0
        with writing(path):
            file.touch()  # FFmpeg opens it with the first picture only
            options = dict(self._codec.container_options)
            self._container = av.open(str(file), "w", self._codec.container, options)

    def write(self, picture: Picture, fps: float) -> None:
        """Add a picture that is shown for 1 / `fps` seconds; `fps` and size are those of the first."""
        every = ceil(fps / GIF_FPS) if self._codec.container == "gif" else 1
        if self._count % every == 0:
            if self._stream is None:
                self._stream = self._open_stream(picture, Fraction(fps).limit_denominator(1000) / every)
            with writing(self._path):
                self._container.mux(self._stream.encode(self._frame(picture)))
        self._count += 1

    def _open_stream(self, picture: Picture, rate: Fraction) -> VideoStream:
        stream = self._container.add_stream(self._codec.encoder, rate, dict(self._codec.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = self._codec.pixels
        stream.bit_rate = 0  # quality decides, not size
        return stream

    def _frame(self, picture: Picture) -> av.VideoFrame:
        if self._codec.pixels != "pal8":
            return av.VideoFrame.from_ndarray(picture, format="rgb24")
        if self._palette is None:
            self._palette = _gif_palette(picture)
        image = Image.new("P", (1, 1))
        image.putpalette(self._palette.tobytes())
        indices = np.asarray(Image.fromarray(picture).quantize(palette=image, dither=Image.Dither.NONE))
        alpha_first = np.insert(self._palette, 0, 255, axis=1)
        indexed: Any = (indices, alpha_first)  # for pal8 a pair; PyAV's annotation has forgotten it
        return av.VideoFrame.from_ndarray(indexed, format="pal8")

    def finish(self) -> None:
        """Encode what is still buffered, and write the end of the file."""
        assert self._stream is not None
        with writing(self._path):
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def abandon(self) -> None:
        """Close it as it is: on a full disk a container that is left to itself complains when it is collected."""
        with suppress(av.FFmpegError):
            self._container.close()


def _gif_palette(first: Picture) -> NDArray[np.uint8]:
    """256 colors `[256, 3]` for a whole video: the first picture's, the panel's, and evenly spread ones for what comes.

    One palette for all pictures, since only then a GIF need not repeat what does not change: a sixth of the size.
    """
    even = list(product((0, 85, 170, 255), (0, 51, 102, 153, 204, 255), (0, 85, 170, 255)))
    panel = [ImageColor.getrgb(color)[:3] for color in COLORS]
    seen = Image.fromarray(first).quantize(256 - len(even) - len(panel), dither=Image.Dither.NONE).getpalette("RGB")
    colors = [*even, *panel, *np.reshape(seen or [], (-1, 3)).tolist()]
    return np.array((colors + [(0, 0, 0)] * 256)[:256], np.uint8)


@contextmanager
def video_file(path: Path) -> Iterator[VideoFile]:
    """A video that lies at `path` once the block is left, and nowhere where it is left by an exception.

    Raises `ConfigError` for a folder, `StorageError` where nothing can be written, both before the block is entered.
    """
    if path.is_dir():
        raise ConfigError(f"video={path} is a folder; write the name of a file in it, such as {path / 'video.mp4'}")
    temporary = path.with_name(f".tmp-{path.name}")
    file = VideoFile(temporary, path)
    try:
        yield file
        file.finish()
        with writing(path):
            temporary.replace(path)
    except BaseException:
        file.abandon()
        with suppress(OSError):
            temporary.unlink()
        raise


class Filmed(Envs, Protocol):
    """One environment that was made to be seen."""

    fps: float
    action_names: list[str]

    def pictures(self) -> list[Picture]:
        """What was to be seen since the last call, oldest first, each `[height, width, 3]` uint8.

        The start of an episode that follows another one comes with its first step.
        """


class Thinks(Acts, Protocol):
    """An actor whose reasons can be seen."""

    def values(self) -> NDArray[np.floating]:
        """Q-values `[E, A]` of the observations that were acted on last."""


class Recorder:
    """Films what `play` plays: stands between it and the actor and the environment, both of one lane.

    The picture of an observation is shown with the values of that observation, and so are the pictures on the way from
    it to the next one.
    """

    num_envs = 1

    def __init__(self, actor: Thinks, envs: Filmed, file: VideoFile, title: str) -> None:
        self._actor, self._envs, self._file, self._title = actor, envs, file, title
        self._scene: Scene | None = None

    def reset(self) -> NDArray[np.generic]:
        """First frame `[1, *frame_shape]` of episode 0."""
        frame = self._envs.reset()
        self._held = self._envs.pictures()
        self._episode, self._step, self._score = 0, 0, 0.0
        return frame

    def act(self, frame: NDArray[np.generic], first: NDArray[np.bool_], epsilon: float) -> NDArray[np.int64]:
        """The actor's action `[1]`."""
        action = self._actor.act(frame, first, epsilon)
        q = self._actor.values()[0]
        self._moment = Moment(self._episode, self._step, self._score, q, int(action[0]))
        self._show(self._held)
        return action

    def send(self, actions: NDArray[np.int64]) -> None:
        """Let the environment step."""
        self._envs.send(actions)

    def recv(self) -> StepResult:
        """Its step."""
        step = self._envs.recv()
        pictures = self._envs.pictures()
        self._step += 1
        self._score += float(step.reward[0])
        if step.first[0]:
            self._show(pictures)
            self._end_episode(pictures[-1])
        else:
            self._show(pictures[:-1])
            self._held = pictures[-1:]
        return step

    def _end_episode(self, last: Picture) -> None:
        """Let the whole score stand for a while."""
        self._moment = replace(self._moment, step=self._step, score=self._score, over=True)
        self._show([last] * round(LAST_PICTURE_S * self._envs.fps))
        self._episode, self._step, self._score, self._held = self._episode + 1, 0, 0.0, []

    def _show(self, pictures: list[Picture]) -> None:
        for picture in pictures:
            if self._scene is None:
                self._scene = Scene(picture, self._title, self._envs.action_names)
            self._file.write(self._scene.draw(picture, self._moment), self._envs.fps)


class Scene:
    """A game's picture with the panel beside it; the first picture says how large all of them are."""

    def __init__(self, picture: Picture, title: str, action_names: list[str]) -> None:
        self._shape = picture.shape
        height, width = picture.shape[:2]
        self._scale = max(1, min(round(HEIGHT / height), WIDEST // width))
        height, width = height * self._scale, width * self._scale
        rows = _even(max(height, PANEL_HEIGHT))
        self._canvas = np.empty((rows, _even(width) + PANEL_WIDTH, 3), np.uint8)
        self._canvas[:] = ImageColor.getrgb(BACKGROUND)
        top = (rows - height) // 2
        self._game = self._canvas[top : top + height, :width]
        self._side = self._canvas[:, -PANEL_WIDTH:]
        self._panel = Panel(title, action_names, rows)
        self._moment: Moment | None = None

    def draw(self, picture: Picture, moment: Moment) -> Picture:
        """`[height, width, 3]`, both even, valid until the next call. Raises `EnvironmentFault` for another size."""
        if picture.shape != self._shape:
            raise EnvironmentFault(f"the picture's shape changed from {self._shape} to {picture.shape}")
        self._game[:] = picture.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        if moment is not self._moment:
            self._moment = moment
            self._side[:] = self._panel.draw(moment)
        return self._canvas


def _even(number: int) -> int:
    """Colors at half the resolution, as in 4:2:0, need an even number of pixels."""
    return number + number % 2
