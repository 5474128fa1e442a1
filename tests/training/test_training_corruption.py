"""Checkpoints that are not as they were written.

Damaged by accident they load equal or not at all; made by somebody who can compute checksums, as data or not at all.
"""

import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from checkpoint_maker import FILES, contents, everything, plain, reseal, sealed, segment

from dqn_cli.errors import CheckpointError
from dqn_cli.replay.segments import parse
from dqn_cli.training.checkpoint import CheckpointStore, newest, read


class Run:
    """A run with checkpoints of the steps 10 and 20; that of step 20 is the one to damage."""

    def __init__(self, folder: Path):
        self.folder = folder
        store = CheckpointStore(folder, keep=2)
        self.before = store.save_step(10, **contents(1.5))
        self.last = store.save_step(20, **contents(2.5, [segment(), segment("frames", 7)]))
        self.good = {name: (self.last / name).read_bytes() for name in FILES}
        self.read = everything(self.last)

    def with_file(self, name: str, data: bytes | None) -> bool:
        """Whether the damage is seen, by a run that is resumed too; if not it must have made no difference."""
        path = self.last / name
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        try:
            seen = self.is_refused()
        finally:
            path.unlink(missing_ok=True)
            path.write_bytes(self.good[name])
        return seen

    def is_refused(self) -> bool:
        try:
            found = read(self.last, loop=True)
        except CheckpointError as error:
            self.require_fallback(str(error))
            return True
        assert plain(found) == self.read
        return False

    def require_fallback(self, message: str) -> None:
        assert message.isprintable()
        found = newest(self.folder, lambda checkpoint: None)
        assert found is not None
        checkpoint, notices = found
        assert (checkpoint.step, len(notices)) == (10, 1)
        assert notices[0].startswith("checkpoints/step-000000020 is damaged (")
        assert notices[0].endswith("), going on from step-000000010")


@pytest.fixture(scope="module")
def run():
    """In memory, where there is such a folder: thousands of files are written."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Run(Path(name))


@pytest.fixture(autouse=True)
def intact(run):
    yield
    assert {name: (run.last / name).read_bytes() for name in FILES} == run.good
    assert everything(run.last) == run.read


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(run, name):
    """At least 80 bits of each file: its first and last bytes, and everywhere between."""
    data = run.good[name]
    bits = {*range(24), *range(8 * len(data) - 24, 8 * len(data)), *range(0, 8 * len(data), len(data) // 5)}
    assert len(bits) >= 80
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert run.with_file(name, bytes(flipped))


def test_flipped_digits_of_the_manifest(run):
    """What no checksum of another file covers."""
    text = run.good["MANIFEST.json"]
    for was, now in [
        (b'"step": 20', b'"step": 21'),
        (b'"begin": 7', b'"begin": 6'),
        (b'"end": 16384', b'"end": 16383'),
        (b'"bytes": 1234', b'"bytes": 1235'),
        (b'"threads": 1', b'"threads": 2'),
        (b'"ring": "frames"', b'"ring": "rows"'),
        (b'"format": 2', b'"format": 1'),
        (b'"note"', b'"nota"'),
    ]:
        assert was in text
        assert run.with_file("MANIFEST.json", text.replace(was, now, 1))


@pytest.mark.parametrize("name", FILES)
def test_truncated_emptied_and_removed(run, name):
    data = run.good[name]
    for length in {0, 1, 7, 8, 9, len(data) - 1, *range(0, len(data), len(data) // 12)}:
        assert run.with_file(name, data[:length])
    assert run.with_file(name, None)


@pytest.mark.parametrize("name", FILES)
def test_blocks_that_were_never_written(run, name):
    """What a file system leaves where the size was stored and the data was not."""
    data = run.good[name]
    for begin in range(0, len(data), len(data) // 6):
        zeroed = data[:begin] + bytes(len(data[begin : begin + 64])) + data[begin + 64 :]
        assert run.with_file(name, zeroed) == (zeroed != data)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tail", [b"\0", b"x", b"{}", b"\0" * 4096])
def test_trailing_bytes(run, name, tail):
    assert run.with_file(name, run.good[name] + tail)
    assert run.with_file(name, run.good[name] * 2)


def test_space_after_the_manifest_changes_nothing(run):
    assert not run.with_file("MANIFEST.json", run.good["MANIFEST.json"] + b"\n")


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_checkpoint(run, name):
    """Each is whole, but not of this step; only the configuration is the same."""
    assert run.with_file(name, (run.before / name).read_bytes()) == (name not in ("config.json", "state.json"))


def test_folders_under_another_name(run):
    """The older one in the place of the newer one is no newer one."""
    aside = run.folder / "aside"
    run.last.rename(aside)
    shutil.copytree(run.before, run.last)
    found, notices = newest(run.folder, lambda checkpoint: None)
    assert found.step == 10
    assert "is of step 10" in notices[0]
    shutil.rmtree(run.last)
    aside.rename(run.last)


def test_other_files_do_not_matter(run):
    (run.last / "notes.txt").write_text("mine")
    assert not run.is_refused()
    (run.last / "notes.txt").unlink()


TEXTS = [
    *("null", "true", "[]", "{}", '""', "0", "-1", "-0", "1.0", "1e3", "1e999", "NaN", "-Infinity"),
    *("9" * 30, "9" * 5000, str(2**31), str(2**62), str(2**63), str(2**64), f"[{2**62}, 4]", f"[0, {2**63}]"),
    *("[" * depth + "]" * depth for depth in (30, 40, 500, 3000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (30, 40, 500, 3000)),
    *('"\\ud800"', '"\\u0000"', '"\\u202e\\u001b[2J"', '"\U0001f600"', '"F64"', '"BOOL"', '"I64"', '"../../x"'),
    '"' + "x" * 100_000 + '"',
    "[" + "0," * 50_000 + "0]",
]
KEYS = ["", "__metadata__", "format", "\ud800", "\x00", "../x", "sha256", "x" * 5000, "loop.safetensors", "a\nb"]


def slots(value: Any) -> list[tuple[Any, Any]]:
    """Every place in nested data, as a container and a key."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [found for key in keys for found in [(value, key), *slots(value[key])]]


def mutant(source: random.Random, good: Any) -> bytes:
    """JSON of `good` with one thing changed, which may make it no JSON at all."""
    value = deepcopy(good)
    container, key = source.choice(slots(value))
    texts: dict[str, str] = {}
    match source.choice(["delete", "replace", "replace", "exchange", "rename", "add", "twice", "cut", "insert"]):
        case "delete":
            del container[key]
        case "replace":
            container[key], texts['"@"'] = "@", source.choice(TEXTS)
        case "exchange":
            other, place = source.choice(slots(good))
            container[key] = deepcopy(other[place])
        case "rename" if isinstance(container, dict):
            container[source.choice(KEYS)] = container.pop(key)
        case "add" if isinstance(container, dict):
            container[source.choice(KEYS)], texts['"@"'] = "@", source.choice(TEXTS)
        case "twice" if isinstance(container, dict):
            container["@"], texts['"@"'] = container[key], json.dumps(key)
        case "cut":
            text = json.dumps(value)
            return text[: source.randrange(len(text))].encode()
        case "insert":
            text, word = json.dumps(value), source.choice([*KEYS, *TEXTS])
            place = source.randrange(len(text))
            return (text[:place] + word + text[place:]).encode("utf-8", "surrogatepass")
    text = json.dumps(value)
    for was, now in texts.items():
        text = text.replace(was, now)
    return text.encode()


def mutants(run: Run, name: str) -> Callable[[random.Random], bytes]:
    """What makes mutants of a file: of its header, if it is one of tensors."""
    data = run.good[name]
    if name.endswith(".json"):
        return lambda source: mutant(source, json.loads(data))
    end = 8 + int.from_bytes(data[:8], "little")

    def with_header(source: random.Random) -> bytes:
        text = mutant(source, json.loads(data[8:end]))
        size = len(text) if source.random() < 0.95 else source.choice([0, 1, len(text) - 1, 2**40, 2**63, 2**64 - 1])
        return size.to_bytes(8, "little") + text + data[end:]

    return with_header


def vouched(data: bytes) -> bytes:
    """A manifest with its checksum, where it can have one."""
    with suppress(ValueError, RecursionError):
        manifest = json.loads(data)
        if isinstance(manifest, dict):
            return sealed(manifest)
    return data


def attack(run: Run, name: str, data: bytes) -> bool:
    """The same with checksums that fit: refused, or plain data for its owners to judge."""
    try:
        if name == "MANIFEST.json":
            (run.last / name).write_bytes(vouched(data))
        else:
            reseal(run.last, **{name.partition(".")[0]: data})
        try:
            found = read(run.last, loop=True)
            parse(found.segments)
            return not 0 <= found.step < 2**63
        except CheckpointError as error:
            message = str(error)
        assert message.isprintable()
        assert len(message) < 500 + len(str(run.last))
        return True
    finally:
        (run.last / name).write_bytes(run.good[name])
        (run.last / "MANIFEST.json").write_bytes(run.good["MANIFEST.json"])


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutants(run, count):
    """Half of them as accidents, half as attacks; of every file as many. Nothing but a refusal, and little memory."""
    source = random.Random(5)
    made = {name: mutants(run, name) for name in FILES}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = {"by accident": 0, "by intent": 0}
    for at in range(count // 2):
        name = FILES[at % len(FILES)]
        refused["by accident"] += run.with_file(name, made[name](source))
        refused["by intent"] += attack(run, name, made[name](source))
    assert refused["by accident"] > 0.9 * count / 2  # the others differ in nothing but their spaces
    assert 0.4 * count / 2 < refused["by intent"] < 0.95 * count / 2  # both ways out are tried
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 64 << 20
