"""The rings of a replay memory on disk: a log of compressed segments, named by the checkpoints that need them.

A segment holds consecutive records of one ring, all of one block: the ids `[k * SEGMENT, (k + 1) * SEGMENT)`. One that
ends with its block is never written again, so that a checkpoint costs what is new since the last one, and at most a
block more. The first one begins at the oldest record that was in the ring when it was written.

A record is stored as its difference (exclusive or) from the one before it of the same environment: screens hardly
change. A segment is one zlib stream of these. Its file is named by what it holds: the ids and its checksum.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_cli.errors import CheckpointError, writing
from dqn_cli.files import read_bytes, reading, sync_folder
from dqn_cli.replay.frames import Ring, ring_slots
from dqn_cli.replay.size import SEGMENT

RINGS = ("frames", "rows")
MOST_ID, MOST_BYTES = 1 << 60, 1 << 32  # no segment comes near either
LEVEL = 1  # of zlib: screens shrink to a fiftieth and less, and higher levels take several times as long
PIECE_BYTES = 1 << 20  # records handled at once: they stay in the cache
FED_BYTES = 1 << 16  # compressed bytes handled at once
_OURS = re.compile(r"\.tmp-(frames|rows)-[0-9]{12,}|(frames|rows)-[0-9]{12,}-[0-9]{12,}-[0-9a-f]{16}\.z")


@dataclass(frozen=True)
class Segment:
    """Records [begin, end) of a ring, in a file of so many bytes with this checksum."""

    ring: str
    begin: int
    end: int
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.ring}-{self.begin:012d}-{self.end:012d}-{self.sha256[:16]}.z"


class SegmentStore:
    """The segments in a folder, of one memory. Raises `CheckpointError` where the folder is a link to another one."""

    def __init__(self, folder: Path) -> None:
        if folder.is_symlink():
            raise CheckpointError(f"{folder}: is a link, not a folder")
        self._folder = folder
        self._full: dict[tuple[str, int], Segment] = {}  # by ring and block: those that need no writing

    def save(self, rings: Mapping[str, Ring]) -> list[Segment]:
        """Write what is new, to the disk itself; the segments that hold the rings now.

        Raises `StorageError`. Then all segments of before are still there, and what was written is named by nobody.
        """
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)  # but not the run's: somebody who deleted that does not want it back
            segments = [
                self._kept(name, *block) or _write(self._folder, name, ring, *block)
                for name, ring in rings.items()
                for block in _blocks(ring)
            ]
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        self._full = _full(segments)
        return segments

    def verify(self, segments: Sequence[Segment]) -> None:
        """Raise `CheckpointError` where one is not there, or has other bytes than it had."""
        for segment in segments:
            path = self._folder / segment.file
            with reading(path, segment.bytes) as file:
                found = file_digest(file, "sha256").hexdigest(), file.tell()
            if found != (segment.sha256, segment.bytes):
                raise _damaged(path)

    def load(self, segments: Sequence[Segment], rings: Mapping[str, Ring]) -> None:
        """Write the records of the segments into the rings' storages.

        Raises `CheckpointError` where they are not all there, whole, or more than the rings should hold. Nothing is
        allocated by what a file claims.
        """
        chosen = {name: self._chosen(segments, name, ring) for name, ring in rings.items()}
        for name, ring in rings.items():
            for segment in chosen[name]:
                data = self._read(segment)
                try:
                    _fill(ring, segment, data)
                except (ValueError, zlib.error) as error:
                    raise CheckpointError(
                        f"{self._folder / segment.file}: not the records it should hold: {error}"
                    ) from error
        self._full = _full(segments)

    def prune(self, keep: Collection[str]) -> None:
        """Delete segments whose file's name is not in `keep`, and what broken writes left. Raises `StorageError`."""
        with writing(self._folder):
            for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
                if _OURS.fullmatch(path.name) and path.name not in keep and not path.is_dir():
                    path.unlink()

    def _kept(self, name: str, begin: int, end: int) -> Segment | None:
        """The segment that holds these records already, unless somebody took its file away."""
        segment = self._full.get((name, begin // SEGMENT))
        if segment is None or not (segment.begin <= begin and segment.end == end):
            return None
        path = self._folder / segment.file
        return segment if path.is_file() and path.stat().st_size == segment.bytes else None

    def _chosen(self, segments: Sequence[Segment], name: str, ring: Ring) -> list[Segment]:
        """Those of a ring, in order: whether they cover it without a hole, and could have been written by `save`."""
        own = sorted((segment for segment in segments if segment.ring == name), key=lambda segment: segment.begin)
        whole = not own and ring.begin == ring.end
        if own:
            joined = all(a.end == b.begin and b.begin % SEGMENT == 0 for a, b in pairwise(own))
            whole = joined and own[0].begin <= ring.begin < own[0].end and own[-1].end == ring.end
        if not whole:
            held = ", ".join(f"{segment.begin}-{segment.end}" for segment in own[:4]) or "nothing"
            raise CheckpointError(
                f"{self._folder}: {name} {ring.begin}-{ring.end} wanted, the segments hold {held:.80}"
            )
        for segment in own:
            raw = (segment.end - segment.begin) * ring.record_bytes
            if segment.bytes > raw + raw // 1000 + 1024:  # zlib adds less to what it cannot compress
                raise CheckpointError(f"{self._folder / segment.file}: {segment.bytes:,} bytes for {raw:,}")
        return own

    def _read(self, segment: Segment) -> bytes:
        path = self._folder / segment.file
        data = read_bytes(path, segment.bytes)
        if len(data) != segment.bytes or sha256(data).hexdigest() != segment.sha256:
            raise _damaged(path)
        return data


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, its checksum is not the manifest's; use another checkpoint")


def plain(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """Segments as plain data of JSON, their fields by name."""
    return [asdict(segment) for segment in segments]


def parse(entries: Any) -> list[Segment]:
    """The inverse of `plain`, for data that nobody vouches for. Raises `CheckpointError`."""
    if not isinstance(entries, list):
        raise CheckpointError(f"segments {entries!r:.60} are not a list")
    segments = []
    for entry in entries:
        if not _is_segment(entry):
            raise CheckpointError(f"{entry!r:.160} is not a segment of the replay memory")
        segments.append(Segment(**entry))
    if len({(segment.ring, segment.begin) for segment in segments}) < len(segments):
        raise CheckpointError("a segment of the replay memory is named twice")
    return segments


def _is_segment(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != Segment.__dataclass_fields__.keys():
        return False
    ring, begin, end, size, digest = (entry[name] for name in Segment.__dataclass_fields__)
    return (
        ring in RINGS
        and all(type(number) is int for number in (begin, end, size))
        and 0 <= begin < end <= (begin // SEGMENT + 1) * SEGMENT <= MOST_ID
        and 0 < size <= MOST_BYTES
        and isinstance(digest, str)
        and re.fullmatch("[0-9a-f]{64}", digest) is not None
    )


def _full(segments: Iterable[Segment]) -> dict[tuple[str, int], Segment]:
    return {(s.ring, s.begin // SEGMENT): s for s in segments if s.end % SEGMENT == 0}


def _blocks(ring: Ring) -> Iterator[tuple[int, int]]:
    """The ids of a ring, block by block: the first and the last one in part."""
    begin = ring.begin
    while begin < ring.end:
        end = min((begin // SEGMENT + 1) * SEGMENT, ring.end)
        yield begin, end
        begin = end


def _write(folder: Path, name: str, ring: Ring, begin: int, end: int) -> Segment:
    temporary = folder / f".tmp-{name}-{begin:012d}"
    temporary.unlink(missing_ok=True)
    checksum, size = sha256(), 0
    try:
        with temporary.open("xb") as file:  # x: never through a link
            for data in _deflated(_differences(ring, begin, end)):
                checksum.update(data)
                size += len(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        segment = Segment(name, begin, end, size, checksum.hexdigest())
        temporary.replace(folder / segment.file)
    finally:
        temporary.unlink(missing_ok=True)
    return segment


def _deflated(pieces: Iterable[NDArray[np.uint8]]) -> Iterator[bytes]:
    stream = zlib.compressobj(LEVEL)
    for piece in pieces:
        yield stream.compress(piece.data)
    yield stream.flush()


def _differences(ring: Ring, begin: int, end: int) -> Iterator[NDArray[np.uint8]]:
    """Each record `[bytes]` as its difference from the one `lanes` before it; the first ones as they are."""
    records, lanes = _bytes_of(ring), ring.lanes
    before = np.zeros((lanes, ring.record_bytes), np.uint8)
    for first, count in _pieces(ring, begin, end):
        piece = records[ring_slots(first, count, len(records))]
        difference = np.empty_like(piece)
        np.bitwise_xor(piece[:lanes], before[: len(piece)], out=difference[:lanes])
        np.bitwise_xor(piece[lanes:], piece[:-lanes], out=difference[lanes:])
        before = piece[-lanes:]
        yield difference


def _fill(ring: Ring, segment: Segment, data: bytes) -> None:
    """The way back. Raises `ValueError` or `zlib.error`."""
    records, lanes = _bytes_of(ring), ring.lanes
    pieces = list(_pieces(ring, segment.begin, segment.end))
    before = np.zeros((lanes, ring.record_bytes), np.uint8)
    sizes = [count * ring.record_bytes for _, count in pieces]
    for inflated, (first, count) in zip(_inflated(data, sizes), pieces, strict=True):
        piece = np.frombuffer(inflated, np.uint8).reshape(count, -1)
        for line in range(0, count, lanes):
            now = piece[line : line + lanes]
            now ^= before[: len(now)]
            before = now
        # a first segment may begin with records that left the ring: those that took their slots come after them
        records[ring_slots(first, count, len(records))] = piece


def _bytes_of(ring: Ring) -> NDArray[np.uint8]:
    """The storage `[records, bytes of one]`, a view."""
    return ring.storage.reshape(len(ring.storage), -1).view(np.uint8)


def _pieces(ring: Ring, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """First id and number of records, of pieces in which each environment has as many, but for the last one."""
    at_once = ring.lanes * max(1, PIECE_BYTES // (ring.lanes * ring.record_bytes))
    for first in range(begin, end, at_once):
        yield first, min(at_once, end - first)


def _inflated(data: bytes, sizes: Sequence[int]) -> Iterator[bytearray]:
    """A zlib stream in pieces of these sizes. Raises `ValueError` where it holds less or more, and inflates no more."""
    stream, rest = zlib.decompressobj(), memoryview(data)
    for size in sizes:
        piece = bytearray()
        while len(piece) < size:
            if stream.eof:
                raise ValueError("too few")
            fed: bytes | memoryview = stream.unconsumed_tail
            if not fed:
                fed, rest = rest[:FED_BYTES], rest[FED_BYTES:]
            inflated = stream.decompress(fed, size - len(piece))
            if not fed and not inflated:
                raise ValueError("too few")
            piece += inflated
        yield piece
    beyond = stream.decompress(stream.unconsumed_tail + rest, 1)
    if beyond or not stream.eof or stream.unused_data:
        raise ValueError("too many")
