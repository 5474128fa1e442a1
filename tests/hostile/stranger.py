"""A run folder in the hands of somebody who means harm: everything can be changed, and every checksum is right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from dqn_cli.replay.frames import Ring
from dqn_cli.replay.segments import SegmentStore, parse
from dqn_cli.replay.size import row_dtype

Json = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

STEP = 40
CHECKPOINT = f"checkpoints/step-{STEP:09d}"
LANES, STACK, CAPACITY = 2, 1, 100
CANARY_MODULE = "hostile_canary"


class Stranger:
    """The place `folder` with the run folder `run` in it, and beside it what nobody may read or write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.checkpoint = self.run / CHECKPOINT
        self.secret = folder / "secret.txt"

    def put(self, name: str, data: bytes) -> None:
        """Another component of the checkpoint, which the manifest vouches for."""
        (self.checkpoint / name).write_bytes(data)
        self.manifest(lambda m: m["files"].update({name: entry(data)}))

    def edit(self, name: str, change: Callable[[Json], object]) -> None:
        """Change a JSON component."""
        content = json.loads((self.checkpoint / name).read_text())
        change(content)
        self.put(name, json.dumps(content).encode())

    def config(self, **changes: Any) -> None:
        """Change dotted settings, written with `__`, of the checkpoint's configuration and of the run's."""
        self.edit("config.json", lambda config: change_settings(config, changes))
        self.about(lambda about: change_settings(about["config"], changes))

    def about(self, change: Callable[[Json], object]) -> None:
        """Change the run's own manifest.json."""
        path = self.run / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def manifest(self, change: Callable[[Json], object]) -> None:
        """Change the checkpoint's MANIFEST.json and seal it again."""
        path = self.checkpoint / "MANIFEST.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_bytes(sealed(content))

    def arrays(self, name: str, change: Callable[[Arrays], object]) -> None:
        """Change tensors of a component."""
        found = safetensors.numpy.load_file(self.checkpoint / name)
        change(found)
        self.put(name, safetensors.numpy.save({key: np.asarray(a, order="C") for key, a in found.items()}))

    def loop(self, **changes: Any) -> None:
        """Change arrays of the loop, dots written as `__`: a function of the old array, or a new one."""

        def change(found: Arrays) -> None:
            for name, new in changes.items():
                key = name.replace("__", ".")
                assert key in found
                found[key] = new(found[key]) if callable(new) else new

        self.arrays("loop.safetensors", change)

    def segments(self) -> list[Json]:
        """The entries of the manifest."""
        found: list[Json] = json.loads((self.checkpoint / "MANIFEST.json").read_text())["segments"]
        return found

    def segment_file(self, ring: str) -> Path:
        """The segment that holds a ring."""
        (found,) = (segment for segment in parse(self.segments()) if segment.ring == ring)
        return self.run / "replay" / found.file

    def segment(self, ring: str, data: bytes, **changes: Any) -> None:
        """Another content of the segment of a ring, under the name and the checksum that it should have then."""
        old = self.segment_file(ring)

        def change(manifest: Json) -> None:
            for segment in manifest["segments"]:
                if segment["ring"] == ring:
                    segment.update({**entry(data), **changes})

        self.manifest(change)
        old.unlink()
        self.segment_file(ring).write_bytes(data)

    def records(self, ring: str, change: Callable[[NDArray[Any]], object]) -> None:
        """Change what is stored in a ring, by way of the store's own code."""
        store = SegmentStore(self.run / "replay")
        segments = [segment for segment in parse(self.segments()) if segment.ring == ring]
        dtype, shape = (row_dtype(STACK), ()) if ring == "rows" else (np.dtype(np.float32), (4,))
        storage = np.zeros((max(CAPACITY, segments[0].end), *shape), dtype)
        rings = {ring: Ring(storage, segments[0].begin, segments[0].end, LANES)}
        store.load(segments, rings)
        change(storage[: segments[0].end])
        (new,) = SegmentStore(self.run / "replay").save(rings)
        self.segment(ring, (self.run / "replay" / new.file).read_bytes())

    def link(self, name: str, to: str | Path | None = None) -> None:
        """Put a link in the place of something: to the same content outside of the run, unless `to` says where."""
        path = self.run / name
        if to is None:
            to = self.folder / f"moved-{path.name}"
            path.rename(to)
        elif path.is_dir() and not path.is_symlink():
            path.rename(self.folder / f"away-{path.name}")
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(to)

    def in_place_of(self, name: str, make: Callable[[Path], object]) -> None:
        """Put something else in the place of a file."""
        path = self.run / name
        path.unlink(missing_ok=True)
        make(path)

    def unfinished(self) -> None:
        """Let the run be one that was killed before its first checkpoint."""
        for path in self.checkpoint.iterdir():
            path.unlink()
        self.checkpoint.rmdir()


def change_settings(config: Json, changes: Mapping[str, Any]) -> None:
    """Set `a__b=1` as config["a"]["b"] = 1."""
    for key, value in changes.items():
        *sections, name = key.split("__") if not key.startswith("_") else [key]
        place = config
        for section in sections:
            place = place[section]
        place[name] = value


def entry(data: bytes) -> Json:
    """Size and checksum, as a manifest has them."""
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


def sealed(manifest: Json) -> bytes:
    """A manifest with the checksum that it should have."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, indent=1, sort_keys=True)
    return json.dumps({**rest, "sha256": sha256(text.encode()).hexdigest()}).encode()


def tree(folder: Path) -> dict[str, str]:
    """What everything below a folder is, links not followed. A lock that nobody has is nothing."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            if name == "run.lock" and path.is_file() and path.stat().st_size == 0:
                continue
            if path.is_symlink():
                what = f"link {os.readlink(path)}"
            elif path.is_file():
                with path.open("rb") as file:  # the beginning of those that are enormous
                    what = f"{path.stat().st_size} {sha256(file.read(1 << 20)).hexdigest()}"
            else:
                what = "folder" if path.is_dir() else "special"
            found[str(path.relative_to(folder))] = what
    return found
