"""Segments on disk: what is written, what is written once, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import random
import zlib
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn_cli.errors import CheckpointError, StorageError
from dqn_cli.replay import segments
from dqn_cli.replay.frames import Ring
from dqn_cli.replay.segments import Segment, SegmentStore, parse, plain
from dqn_cli.replay.size import SEGMENT, row_dtype

BLOCK = 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", BLOCK)
    monkeypatch.setattr(segments, "PIECE_BYTES", 40)


def record(number):
    """A frame [2, 3] that tells its id."""
    return np.full((2, 3), number, np.uint16) + np.arange(6, dtype=np.uint16).reshape(2, 3) * 257


def ring_of(end, size, lanes=2, begin=None):
    storage = np.zeros((size, 2, 3), np.uint16)
    begin = max(0, end - size) if begin is None else begin
    for number in range(begin, end):
        storage[number % size] = record(number)
    return Ring(storage, begin, end, lanes)


def rings_of(frames, rows=0, size=50):
    return {"frames": ring_of(frames, size), "rows": ring_of(rows, 30, lanes=3)}


def empty(rings):
    return {name: ring._replace(storage=np.zeros_like(ring.storage)) for name, ring in rings.items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ids(found):
    return [(segment.ring, segment.begin, segment.end) for segment in found]


def assert_loads(folder, found, rings):
    loaded = empty(rings)
    SegmentStore(folder).verify(found)
    SegmentStore(folder).load(found, loaded)
    for name, ring in rings.items():
        assert loaded[name].storage.tobytes() == ring.storage.tobytes()


def test_a_segment_by_hand(tmp_path):
    """Two lanes: the first two records as they are, then differences from the one two before."""
    storage = np.array([[1, 2], [7, 7], [1, 3], [6, 7], [1, 3]], np.uint8)
    (segment,) = SegmentStore(tmp_path).save({"frames": Ring(storage, 0, 5, 2)})
    data = (tmp_path / segment.file).read_bytes()
    assert list(zlib.decompress(data)) == [1, 2, 7, 7, 0, 1, 1, 0, 0, 0]
    assert segment == Segment("frames", 0, 5, len(data), sha256(data).hexdigest())
    assert segment.file == f"frames-000000000000-000000000005-{sha256(data).hexdigest()[:16]}.z"


def test_blocks_are_of_16_384_records():
    assert SEGMENT == 16_384


@pytest.mark.parametrize("end", [1, 15, 16, 17, 31, 33, 50, 51, 64, 99, 128])
@pytest.mark.parametrize("lanes", [1, 2, 3, 16, 60])
def test_what_was_saved_is_loaded(tmp_path, end, lanes):
    rings = {"frames": ring_of(end, 50, lanes), "rows": ring_of(end // 2, 7, lanes)}
    found = SegmentStore(tmp_path).save(rings)
    assert_loads(tmp_path, found, rings)
    assert names(tmp_path) == sorted(segment.file for segment in found)
    for segment in found:
        assert segment.begin // BLOCK == (segment.end - 1) // BLOCK


def test_rows_of_many_fields_come_back_with_what_is_between_them(tmp_path):
    rows = np.zeros(20, row_dtype(1))
    rows["ids"], rows["action"], rows["reward"] = np.arange(40).reshape(20, 2, 1), 3, 0.1
    rings = {"rows": Ring(rows, 0, 20, 1)}
    assert_loads(tmp_path, SegmentStore(tmp_path).save(rings), rings)


def test_full_blocks_are_written_once_and_the_open_one_each_time(tmp_path):
    store = SegmentStore(tmp_path)
    written = set()
    expected = [
        (10, {"0-10"}),
        (10, set()),
        (20, {"0-16", "16-20"}),
        (40, {"16-32", "32-40"}),
        (48, {"32-48"}),
        (49, {"48-49"}),
        (70, {"48-64", "64-70"}),
    ]
    for end, new in expected:
        found = store.save(rings_of(end))
        spans = {f"{s.begin}-{s.end}" for s in found if s.file not in written}
        assert spans == new
        written |= {s.file for s in found}
        assert_loads(tmp_path, found, rings_of(end))
    assert ids(found) == [("frames", begin, min(begin + 16, 70)) for begin in (16, 32, 48, 64)]  # 0-16 left the ring


def test_a_save_writes_only_what_is_new(tmp_path, monkeypatch):
    written = []
    write = segments._write
    monkeypatch.setattr(segments, "_write", lambda *a: written.append(a[1:2] + a[3:]) or write(*a))
    store = SegmentStore(tmp_path)
    store.save(rings_of(40, 17))
    written.clear()
    store.save(rings_of(47, 20))
    assert written == [("frames", 32, 47), ("rows", 16, 20)]
    loaded = SegmentStore(tmp_path)
    loaded.load(store.save(rings_of(47, 20)), empty(rings_of(47, 20)))
    written.clear()
    loaded.save(rings_of(49, 20))  # a store that has loaded them knows them too
    assert written == [("frames", 32, 48), ("frames", 48, 49), ("rows", 16, 20)]


def test_a_full_block_whose_head_was_overwritten_is_still_named(tmp_path):
    store = SegmentStore(tmp_path)
    store.save(rings_of(16))
    found = store.save(rings_of(60))
    assert ids(found)[0] == ("frames", 0, 16)  # of which the ring has 10 to 16
    assert_loads(tmp_path, found, rings_of(60))
    loaded = SegmentStore(tmp_path)
    loaded.load(found, empty(rings_of(60)))
    later = loaded.save(rings_of(64))
    assert later[0] == found[0]
    assert_loads(tmp_path, later, rings_of(64))


def test_a_ring_smaller_than_a_block_whose_first_segment_is_longer_than_it(tmp_path):
    store, rings = SegmentStore(tmp_path), {"rows": ring_of(16, 16)}
    store.save(rings)
    rings = {"rows": ring_of(31, 16)}
    found = store.save(rings)
    assert ids(found) == [("rows", 0, 16), ("rows", 16, 31)]
    assert_loads(tmp_path, found, rings)


def test_the_first_segment_begins_at_the_oldest_record(tmp_path):
    found = SegmentStore(tmp_path).save(rings_of(60))
    assert ids(found)[0] == ("frames", 10, 16)


def test_another_time_line_has_other_files(tmp_path):
    """A run that went back to an earlier checkpoint stores other records under the same ids."""
    store = SegmentStore(tmp_path)
    first = store.save(rings_of(10))
    dead = store.save(rings_of(20))
    again = SegmentStore(tmp_path)
    again.load(first, empty(rings_of(10)))
    rings = rings_of(20)
    rings["frames"].storage[12] += 1
    found = again.save(rings)
    assert found[0].file != dead[0].file
    assert_loads(tmp_path, found, rings)
    assert_loads(tmp_path, dead, rings_of(20))


def test_a_file_that_somebody_took_away_is_written_again(tmp_path):
    store = SegmentStore(tmp_path / "replay")
    first, *_ = store.save(rings_of(40))
    (tmp_path / "replay" / first.file).unlink()
    assert_loads(tmp_path / "replay", store.save(rings_of(40)), rings_of(40))
    (tmp_path / "replay" / first.file).write_bytes(b"short")
    assert_loads(tmp_path / "replay", store.save(rings_of(40)), rings_of(40))
    for name in names(tmp_path / "replay"):
        (tmp_path / "replay" / name).unlink()
    (tmp_path / "replay").rmdir()
    found = store.save(rings_of(60))
    assert ids(found)[0] == ("frames", 10, 16)  # all that there still is of it
    assert_loads(tmp_path / "replay", found, rings_of(60))


def test_prune_deletes_what_no_checkpoint_names_and_nothing_else(tmp_path):
    store = SegmentStore(tmp_path)
    store.prune(set())
    kept, gone = store.save(rings_of(10)), store.save(rings_of(12, 3))
    others = ["notes.txt", "frames-1-2.z", ".tmp-else", "frames-000000000000-000000000012.z", gone[0].file + ".bak"]
    for name in [*others, ".tmp-frames-000000000000"]:
        (tmp_path / name).write_bytes(b"x")
    store.prune({segment.file for segment in kept})
    assert names(tmp_path) == sorted([*others, *(segment.file for segment in kept)])
    assert_loads(tmp_path, kept, rings_of(10))
    assert_loads(tmp_path, store.save(rings_of(12, 3)), rings_of(12, 3))
    SegmentStore(tmp_path / "none").prune(set())


def test_names_are_plain_data_and_back(tmp_path):
    found = SegmentStore(tmp_path).save(rings_of(40, 20))
    assert parse(json.loads(json.dumps(plain(found)))) == found
    assert parse([]) == []


GOOD = {"ring": "rows", "begin": 16, "end": 32, "bytes": 9, "sha256": "0f" * 32}
BAD_FIELDS = {
    "ring": ["row", "../rows", "", None, 1, ["rows"], {}],
    "begin": [-1, 32, 33, 2**63, "16", 16.0, True, None, 15],
    "end": [16, 0, -5, 33, 2**64, "32", 32.0, None],
    "bytes": [0, -1, 2**40, "9", 9.0, True, None],
    "sha256": ["", "0f" * 31, "0f" * 33, "0F" * 32, "0f" * 31 + "0\n", "../" * 20 + "0f0f", None, 15, "g" * 64],
}


@pytest.mark.parametrize(
    "entries",
    [
        None,
        {},
        "rows",
        [None],
        [[]],
        ["rows"],
        [{}],
        [{**GOOD, "path": "/etc"}],
        *([{key: value for key, value in GOOD.items() if key != name}] for name in GOOD),
        *([GOOD, {**GOOD, name: value}] for name, values in BAD_FIELDS.items() for value in values),
        [{**GOOD, "begin": 2**60, "end": 2**60 + 1}],
    ],
    ids=repr,
)
def test_entries_that_are_no_segments_are_refused(entries):
    assert parse([GOOD])[0].file == "rows-000000000016-000000000032-" + "0f" * 8 + ".z"
    with pytest.raises(CheckpointError) as error:
        parse(entries)
    assert "\n" not in str(error.value)


def refused(folder, found, rings, match=None):
    """A load that ends in one line."""
    with pytest.raises(CheckpointError, match=match) as error:
        SegmentStore(folder).load(found, empty(rings))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_byte_matters(tmp_path):
    rings, rng = rings_of(40, 20), random.Random(0)
    found = SegmentStore(tmp_path).save(rings)
    for segment in found:
        path = tmp_path / segment.file
        data = path.read_bytes()
        for position in {0, 1, len(data) - 1, *(rng.randrange(len(data)) for _ in range(25))}:
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :])
            assert str(path) in refused(tmp_path, found, rings, "damaged, its checksum")
            with pytest.raises(CheckpointError, match="damaged"):
                SegmentStore(tmp_path).verify(found)
        for other in (data[:-1], b"", data[: len(data) // 2], data + b"\0", data * 2):
            path.write_bytes(other)
            assert str(path) in refused(tmp_path, found, rings, "damaged|expected at most")
            with pytest.raises(CheckpointError, match=r"damaged|expected at most"):
                SegmentStore(tmp_path).verify(found)
        path.unlink()
        assert str(path) in refused(tmp_path, found, rings, "no such file")
        with pytest.raises(CheckpointError, match="no such file"):
            SegmentStore(tmp_path).verify(found)
        path.write_bytes(data)
    one, two = (tmp_path / found[index].file for index in (0, 1))
    swapped = two.read_bytes(), one.read_bytes()
    one.write_bytes(swapped[0])
    two.write_bytes(swapped[1])
    refused(tmp_path, found, rings)


def test_a_wrong_size_under_the_right_checksum_is_noticed(tmp_path):
    (segment,) = SegmentStore(tmp_path).save(rings_of(10))
    longer = replace(segment, bytes=segment.bytes + 1)
    with pytest.raises(CheckpointError, match="damaged"):
        SegmentStore(tmp_path).verify([longer])
    refused(tmp_path, [longer], rings_of(10), "damaged")


def claiming(segment, folder, data):
    """The segment with other data, under a checksum that is right."""
    claimed = replace(segment, bytes=len(data), sha256=sha256(data).hexdigest())
    (folder / claimed.file).write_bytes(data)
    return claimed


def test_data_under_a_checksum_that_is_right_is_not_believed(tmp_path):
    rings = rings_of(10)
    (segment,) = SegmentStore(tmp_path).save(rings)
    good = (tmp_path / segment.file).read_bytes()
    raw = zlib.decompress(good)
    assert len(raw) == 120
    cases = {
        "less": zlib.compress(raw[:-1]),
        "more": zlib.compress(raw + b"\0"),
        "nothing": zlib.compress(b""),
        "empty": b"",
        "no zlib": raw,
        "cut": good[:-1],
        "without the end": good[:-4],
        "wrong end": good[:-1] + bytes([good[-1] ^ 1]),
        "trailing": good + b"\0",
        "much trailing": good + bytes(500),
        "two streams": good + good,
        "short and trailing": zlib.compress(raw[:60]) + zlib.compress(raw[60:]),
        "with a dictionary": b"\x78\xbb\0\0\0\0" + good[2:],
    }
    for name, data in cases.items():
        refused(tmp_path, [claiming(segment, tmp_path, data)], rings, "should hold|not a segment|bytes for")
        assert name
    assert_loads(tmp_path, [claiming(segment, tmp_path, zlib.compress(raw, 9))], rings)


def test_a_bomb_is_not_inflated(tmp_path):
    rings = rings_of(10)
    (segment,) = SegmentStore(tmp_path).save(rings)
    bomb = zlib.compress(bytes(2**20), 9)
    assert len(bomb) < 1150  # as small as ten records may be at most
    inflated = []

    class Watched:
        def __init__(self):
            self._stream = zlib_decompressobj()

        def __getattr__(self, name):
            return getattr(self._stream, name)

        def decompress(self, *arguments):
            inflated.append(self._stream.decompress(*arguments))
            return inflated[-1]

    zlib_decompressobj = zlib.decompressobj
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments.zlib, "decompressobj", Watched)
        refused(tmp_path, [claiming(segment, tmp_path, bomb)], rings, "too many")
    assert sum(map(len, inflated)) == 121


def test_files_larger_than_their_records_could_be_are_not_read(tmp_path, monkeypatch):
    rings = rings_of(10)
    (segment,) = SegmentStore(tmp_path).save(rings)
    huge = replace(segment, bytes=2**32)
    with (tmp_path / huge.file).open("wb") as file:
        file.truncate(2**32)  # takes no room
    monkeypatch.setattr(segments, "read_bytes", lambda *a: pytest.fail("was read"))
    assert "4,294,967,296 bytes for 120" in refused(tmp_path, [huge], rings)


def test_noise_grows_less_than_is_allowed(tmp_path):
    for size in (1, 100, 10_000):
        noise = np.frombuffer(random.Random(0).randbytes(16 * size), np.uint8).reshape(16, size)
        rings = {"frames": Ring(noise, 0, 16, 1)}
        assert_loads(tmp_path, SegmentStore(tmp_path).save(rings), rings)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: [],
        lambda s: s[1:],
        lambda s: s[:-1],
        lambda s: [s[0], *s[2:]],
        lambda s: [s[0], s[0], *s[1:]],
        lambda s: [*s, s[-1]],
        lambda s: [*s[:-1], replace(s[-1], end=s[-1].end + 1)],
        lambda s: [*s[:-1], replace(s[-1], end=s[-1].end - 1)],
        lambda s: [replace(s[0], begin=s[0].begin + 1), *s[1:]],
        lambda s: [s[0], replace(s[1], begin=s[1].begin + 1), *s[2:]],
        lambda s: [s[0], replace(s[1], begin=s[1].begin - 1), *s[2:]],
        lambda s: [replace(s[0], end=14), replace(s[0], begin=14), *s[1:]],
        lambda s: [replace(s[0], begin=0, end=10), *s],
        lambda s: [replace(segment, ring="rows") for segment in s],
    ],
)
def test_segments_that_do_not_cover_the_ring_are_refused(tmp_path, wrong):
    rings = {"frames": ring_of(60, 50)}
    found = SegmentStore(tmp_path).save(rings)
    assert ids(found) == [("frames", 10, 16), ("frames", 16, 32), ("frames", 32, 48), ("frames", 48, 60)]
    assert_loads(tmp_path, found[::-1], rings)
    spoilt = wrong(list(found))
    for segment in spoilt:  # files are there for whatever is claimed
        (tmp_path / segment.file).write_bytes(b"\0" * segment.bytes)
    assert "frames 10-60 wanted" in refused(tmp_path, spoilt, rings)


def test_a_segment_that_has_left_the_ring_is_not_wanted(tmp_path):
    store = SegmentStore(tmp_path)
    old, _, found = (store.save(rings_of(end)) for end in (16, 32, 70))
    assert ids(found)[0] == ("frames", 16, 32)
    assert "frames 20-70 wanted, the segments hold 0-16, 16-32" in refused(tmp_path, [*old, *found], rings_of(70))


def test_an_empty_ring_has_no_segments(tmp_path):
    found = SegmentStore(tmp_path).save(rings_of(10))
    assert_loads(tmp_path, found, rings_of(10, 0))
    rings = rings_of(10, 5)
    rows = SegmentStore(tmp_path).save({"rows": rings["rows"]})
    assert "rows 0-0 wanted" in refused(tmp_path, [*found, *rows], rings_of(10, 0))


def test_links_and_devices_are_not_read(tmp_path):
    folder, elsewhere = tmp_path / "replay", tmp_path / "else"
    rings = rings_of(10)
    (segment,) = SegmentStore(folder).save(rings)
    (folder / segment.file).rename(elsewhere)
    (folder / segment.file).symlink_to(elsewhere)
    refused(folder, [segment], rings, "is a link")
    (folder / segment.file).unlink()
    (folder / segment.file).mkdir()
    refused(folder, [segment], rings, "directory")
    (folder / segment.file).rmdir()
    os.mkfifo(folder / segment.file)
    refused(folder, [segment], rings, "not a regular file")


def test_nothing_is_written_through_a_link(tmp_path):
    folder, precious = tmp_path / "replay", tmp_path / "precious"
    precious.write_bytes(b"mine")
    folder.mkdir()
    (folder / ".tmp-frames-000000000000").symlink_to(precious)
    (segment,) = SegmentStore(folder).save(rings_of(10))
    (folder / segment.file).unlink()
    (folder / segment.file).symlink_to(precious)
    (segment,) = SegmentStore(folder).save(rings_of(10))
    assert precious.read_bytes() == b"mine"
    assert_loads(folder, [segment], rings_of(10))
    (tmp_path / "other").symlink_to(folder)
    with pytest.raises(CheckpointError, match="other: is a link"):
        SegmentStore(tmp_path / "other")


class Dies(BaseException):
    """The process ends here: nobody catches it."""


def failing(patch, at, error):
    """Let the file operation number `at` fail; how many there were is the list's length."""
    done = []

    def wrapped(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            done.append(name)
            if len(done) == at:
                raise error
            return original(*arguments, **options)

        patch.setattr(owner, name, call)

    for owner, name in ((segments.Path, "open"), (segments.Path, "replace"), (segments.Path, "mkdir"), (os, "fsync")):
        wrapped(owner, name)
    return done


def operations(folder, ends):
    """A history of saves; what each returned."""
    store = SegmentStore(folder)
    return store, [store.save(rings_of(end, end // 2)) for end in ends]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O"), Dies()])
def test_any_operation_of_a_save_may_fail(tmp_path, error):
    with pytest.MonkeyPatch.context() as patch:
        store, _ = operations(tmp_path / "dry", [20])
        count = failing(patch, -1, error)
        store.save(rings_of(40, 20))
    assert count.count("open") == count.count("replace") == 4
    assert count.count("fsync") == 6  # each file, then the folder and the one above
    for at in range(1, len(count) + 1):
        folder = tmp_path / str(at)
        store, (before,) = operations(folder, [20])
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, at, error)
            with pytest.raises((StorageError, Dies)) as caught:
                store.save(rings_of(40, 20))
        if not isinstance(error, Dies):
            assert str(caught.value).startswith(f"cannot write {folder}: ")
        assert_loads(folder, before, rings_of(20, 10))
        assert not [name for name in names(folder) if name.startswith(".tmp")]
        found = store.save(rings_of(40, 20))
        assert_loads(folder, found, rings_of(40, 20))
        store.prune({segment.file for segment in found})
        assert names(folder) == sorted(segment.file for segment in found)


def test_a_name_that_was_never_synced_is_not_relied_upon(tmp_path, monkeypatch):
    def broken(folder):
        raise OSError(errno.EIO, "I/O")

    store = SegmentStore(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "sync_folder", broken)
        with pytest.raises(StorageError):
            store.save(rings_of(16))
    written = []
    write = segments._write
    monkeypatch.setattr(segments, "_write", lambda *a: written.append(a[3:]) or write(*a))
    store.save(rings_of(16))
    assert written == [(0, 16)]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_history_of_saves_loads_and_prunes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    size, lanes, end = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 5)), 0
    store, saves = SegmentStore(folder), []
    for _ in range(data.draw(st.integers(1, 8))):
        end += data.draw(st.integers(0, 40))
        rings = {"frames": ring_of(end, size, lanes)}
        saves = [*saves[-1:], (store.save(rings), rings)]
        if data.draw(st.booleans()):
            store = SegmentStore(folder)
            store.load(saves[-1][0], empty(rings))
        store.prune({segment.file for found, _ in saves for segment in found})
        for found, held in saves:
            assert_loads(folder, found, held)
        assert len(names(folder)) <= 2 * (size // BLOCK + 3)
