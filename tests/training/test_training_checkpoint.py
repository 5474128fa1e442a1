import errno
import json
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from checkpoint_maker import (
    CONFIG,
    FILES,
    FINGERPRINT,
    STATE,
    arrays,
    contents,
    file_of,
    model,
    reseal,
    sealed,
    segment,
    weights,
)

from dqn_cli.errors import CheckpointError, NumericalError, StorageError
from dqn_cli.training import checkpoint
from dqn_cli.training.checkpoint import CheckpointStore, find, newest, read, write


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoints" / "step-000000010"
    write(path, step=10, **contents())
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, loop=True)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(folder))
    return message


def test_round_trip(folder):
    found = read(folder, loop=True)
    assert (found.step, found.config, found.state) == (10, CONFIG, STATE)
    assert (found.segments, found.fingerprint) == ([segment(), segment("frames")], FINGERPRINT)
    assert list(found.model) == sorted(model())
    assert all(torch.equal(found.model[name], tensor) for name, tensor in model().items())
    assert found.optimizer is not None
    assert torch.equal(found.optimizer["0.exp_avg"], torch.full((2, 3), 1.5))
    assert found.arrays is not None
    assert list(found.arrays) == sorted(arrays())
    for name, array in arrays().items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        assert found.arrays[name].tobytes() == array.tobytes()
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_equal_contents_give_equal_bytes(folder):
    other = folder.with_name("step-000000011")
    write(other, step=10, **contents())
    assert [(other / name).read_bytes() for name in FILES] == [(folder / name).read_bytes() for name in FILES]


def test_tensors_that_share_memory_or_are_transposed_are_saved(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    write(tmp_path / "c", step=0, config={}, model={"a": base, "b": base, "t": base.T}, state={}, optimizer=None)
    found = read(tmp_path / "c").model
    assert torch.equal(found["a"], base)
    assert torch.equal(found["t"], base.T)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12, dtype=np.int32)[::-3],
        np.arange(4, dtype=">i8"),
        np.broadcast_to(np.float32(2.5), (3, 2)),
        np.zeros((0, 3), bool),
        np.array(2.5),
    ],
    ids=["transposed", "Fortran", "backwards", "big-endian", "broadcast", "empty", "scalar"],
)
def test_arrays_are_saved_however_they_lie_in_memory(tmp_path, array):
    write(tmp_path / "c", step=0, **{**contents(), "arrays": {"x": array}})
    found = read(tmp_path / "c", loop=True).arrays
    assert found is not None
    assert found["x"].dtype == array.dtype.newbyteorder("=")
    assert found["x"].shape == array.shape
    assert np.array_equal(found["x"], array)


def test_weights_only(tmp_path):
    write(tmp_path / "c", step=3, **weights(), optimizer=None)
    found = read(tmp_path / "c", loop=True)
    assert (found.optimizer, found.arrays, found.segments) == (None, None, [])
    assert found.fingerprint == FINGERPRINT
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        name for name in FILES if not name.startswith(("optimizer", "loop"))
    ]


@pytest.mark.parametrize(
    ("name", "wanted"), [("optimizer", {"optimizer": False, "loop": True}), ("loop", {"optimizer": True})]
)
def test_what_is_not_wanted_is_not_even_looked_at(folder, name, wanted):
    (folder / f"{name}.safetensors").unlink()
    found = read(folder, **wanted)
    assert (found.arrays if name == "loop" else found.optimizer) is None
    assert (found.optimizer if name == "loop" else found.arrays) is not None
    assert f"{name}.safetensors" in refusal(folder)


def before_resume(folder: Path, value: float = 1.5) -> None:
    """Make it a checkpoint as versions wrote it that could not resume."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "loop.safetensors").unlink()
    del manifest["files"]["loop.safetensors"]
    old = {"format": 1, "step": manifest["step"], "files": manifest["files"]}
    (folder / "MANIFEST.json").write_text(json.dumps(old))


def test_older_checkpoints_are_read_but_not_resumed(folder):
    before_resume(folder)
    found = read(folder, optimizer=False)
    assert torch.equal(found.model["online.w"], model()["online.w"])
    assert (found.step, found.state, found.segments, found.fingerprint) == (10, STATE, [], {})
    with pytest.raises(CheckpointError, match=r"step-000000010 .*holds no whole run; dqn-eval can play"):
        newest(folder.parent.parent, lambda found: None)


@pytest.mark.parametrize("keys", [{"sha256": "0" * 64}, {"segments": []}, {"fingerprint": {}}])
def test_older_manifests_have_no_newer_keys(folder, keys):
    """Else a damaged format number would turn the checksum off."""
    before_resume(folder)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(json.dumps(manifest | keys))
    assert "has the keys" in refusal(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    with pytest.raises(NumericalError, match=r"online\.w"):
        write(tmp_path / "c", step=1, **contents(bad))
    assert list(tmp_path.iterdir()) == []


def nested(levels: int) -> dict:
    return {"x": nested(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("state", {"x": float("nan")}, "state.json"),
        ("state", nested(33), "state.json"),
        ("config", {"x": "y" * (1 << 20)}, "config.json"),
        ("fingerprint", {"x": float("inf")}, "MANIFEST.json"),
        ("segments", [segment()] * 10_000, "MANIFEST.json"),
        ("arrays", {"x": np.zeros(2, np.int16)}, "loop.safetensors"),
        ("arrays", {"x" * (1 << 20): np.zeros(2)}, "loop.safetensors"),
        ("optimizer", {"x": torch.zeros(2, dtype=torch.float64)}, "optimizer.safetensors"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, key, value, name):
    with pytest.raises(CheckpointError, match=rf"^{name}"):
        write(tmp_path / "c", step=1, **{**contents(), key: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "longer", "empty", "missing", "folder", "link", "fifo"])
def test_damage_is_told_in_one_line_that_names_the_file(folder, name, damage):
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x80]) + data[middle + 1 :])
        case "longer":
            path.write_bytes(data + b"x")
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "link":
            (folder.parent / "elsewhere").write_bytes(data)
            path.symlink_to(folder.parent / "elsewhere")
        case "fifo":
            os.mkfifo(path)
    assert name in refusal(folder)


def test_keys_that_json_turns_into_text_do_not_break_the_checksum(tmp_path):
    write(tmp_path / "c", step=1, **{**contents(), "fingerprint": {10: "a", 9: {"b": (1, 2)}}})
    assert read(tmp_path / "c").fingerprint == {"10": "a", "9": {"b": [1, 2]}}


@pytest.mark.parametrize("name", FILES)
def test_every_bit_counts(folder, name):
    data = (folder / name).read_bytes()
    for position in range(0, 8 * len(data), 37):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        (folder / name).write_bytes(flipped)
        refusal(folder)
    (folder / name).write_bytes(data)
    read(folder, loop=True)


@pytest.mark.parametrize(
    "text",
    [
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b'{"x": 1e999}',
        b'{"x": 1, "x": 2}',
        b'{"x": ' + b"9" * 100_000 + b"}",
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[1, 2]",
        b"null",
        b"",
        b'{"x": 1} {}',
        b'{"x": "\xff"}',
        b"{'x': 1}",
        b'{"x": "' + b"y" * (1 << 20) + b'"}',
    ],
    ids=lambda text: repr(text[:20]),
)
@pytest.mark.parametrize("key", ["state", "config"])
def test_json_is_strict(folder, key, text):
    reseal(folder, **{key: text})
    assert f"{key}.json" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 3},
        {"format": True},
        {"format": None},
        {"step": -1},
        {"step": 1.0},
        {"step": True},
        {"step": "10"},
        {"step": 2**63},
        {"files": None},
        {"files": 5},
        {"files": []},
        {"files": {}},
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"segments": {}},
        {"segments": None},
        {"fingerprint": []},
        {"more": 1},
        {"\x1b[2J\nmore": 1},
    ],
    ids=str,
)
def test_manifest_is_strict(folder, change):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_bytes(sealed(manifest | change))
    assert "MANIFEST.json" in refusal(folder)


@pytest.mark.parametrize("extra", ["../config.json", "/etc/passwd", "replay", "a\0b"])
def test_manifest_names_no_other_files(folder, extra):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][extra] = manifest["files"]["config.json"]
    (folder / "MANIFEST.json").write_bytes(sealed(manifest))
    assert "MANIFEST.json" in refusal(folder)


@pytest.mark.parametrize("entry", [None, [], {}, {"bytes": "9"}, {"bytes": -1}, {"bytes": True}, {"bytes": 1e3}])
def test_manifest_entries_are_strict(folder, entry):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["config.json"] = entry
    (folder / "MANIFEST.json").write_bytes(sealed(manifest))
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("checksum", ["", "0" * 64, None, 5, ["0" * 64]])
def test_manifest_without_its_checksum(folder, checksum):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(json.dumps(manifest | {"sha256": checksum}))
    assert "MANIFEST.json: damaged" in refusal(folder)


def test_manifest_has_no_path_in_it(folder):
    """Whatever the operating system: what is in the checkpoint is of use elsewhere too."""
    assert str(folder.parent.parent) not in (folder / "MANIFEST.json").read_text()


def tensor_file(header: dict | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        tensor_file({}, size=1 << 63),
        tensor_file({}, size=3),
        tensor_file(b" " * ((1 << 20) + 1)),
        tensor_file(b'{"a": 1, "a": 2}'),
        tensor_file(b"[]"),
        tensor_file({"a": 1}),
        tensor_file({"a": entry("F64", (1,), (0, 8))}, bytes(8)),
        tensor_file({"a": entry("BOOL", (4,))}, bytes(4)),
        tensor_file({"a": entry(["F32"])}, bytes(4)),
        tensor_file({"a": entry(shape=(2,))}, bytes(4)),
        tensor_file({"a": entry(shape=(-1,))}, bytes(4)),
        tensor_file({"a": entry(shape=(2**62, 4))}, bytes(4)),
        tensor_file({"a": entry(shape="4")}, bytes(4)),
        tensor_file({"a": entry(shape=(0, 2**63), offsets=(0, 0))}),
        tensor_file({"a": entry(shape=(0, 2**31, 2**31, 2**31), offsets=(0, 0))}),
        tensor_file({"a": entry(shape=("\x1b[2J\n",))}, bytes(4)),
        tensor_file({"a": entry(offsets=(0, 8))}, bytes(4)),
        tensor_file({"a": entry(offsets=(4, 0))}, bytes(4)),
        tensor_file({"a": entry()}, bytes(5)),
        tensor_file({"a": entry(), "b": entry()}, bytes(4)),
        tensor_file({"a": entry()}, b"\x00\x00\xc0\x7f"),
        tensor_file({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(4097)}),
        tensor_file({"__metadata__": {"x": 1}}),
        b"\x80\x04cos\nsystem\n.",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_tensor_files_are_judged_before_they_are_loaded(folder, data):
    reseal(folder, model=data)
    message = refusal(folder)
    assert "model.safetensors" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "data",
    [
        tensor_file({"a": entry("F16", (2,))}, bytes(4)),
        tensor_file({"a": entry("U64", (1,), (0, 8))}, bytes(8)),
        tensor_file({"a": entry("BOOL", (4,))}, b"\0\1\2\1"),
        tensor_file({"a": entry(shape=(2,))}, bytes(4)),
        tensor_file({"a": entry(shape=[1] * 70)}, bytes(4)),
        tensor_file({"a": entry(shape=(0, 2**63), offsets=(0, 0))}),
        tensor_file({"a": entry(shape=(0, 2**62), offsets=(0, 0))}),
        b"\x93NUMPY\x01\x00",
    ],
    ids=lambda data: repr(data[8:90]),
)
def test_arrays_are_judged_before_they_are_loaded(folder, data):
    reseal(folder, loop=data)
    assert "loop.safetensors" in refusal(folder)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64"])
def test_dtypes_of_arrays_are_read(folder, dtype):
    reseal(folder, loop=safetensors.numpy.save({"x": np.ones(3, dtype)}))
    found = read(folder, loop=True).arrays
    assert found is not None
    assert found["x"].dtype == dtype


@pytest.mark.parametrize("name", ["model", "loop"])
def test_sizes_that_only_the_manifest_has_cost_nothing(folder, name):
    """A reader that trusts them would ask for gigabytes before it looks at the file."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][f"{name}.safetensors"]["bytes"] = 2**62
    (folder / "MANIFEST.json").write_bytes(sealed(manifest))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), limits[1]))
    try:
        assert "damaged" in refusal(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_dtypes_of_networks_are_read(folder, dtype):
    reseal(folder, model=safetensors.torch.save({"x": torch.ones(3, dtype=dtype)}))
    assert read(folder).model["x"].dtype is dtype


def test_random_bytes_never_cause_another_error(folder):
    generator = torch.Generator().manual_seed(0)
    good = {name.partition(".")[0]: (folder / name).read_bytes() for name in (FILES[2], FILES[3], FILES[5])}
    for _ in range(80):
        for key, data in good.items():
            position = int(torch.randint(len(data), (1,), generator=generator))
            byte = int(torch.randint(256, (1,), generator=generator))
            reseal(folder, **{key: data[:position] + bytes([byte]) + data[position + 1 :]})
            with suppress(CheckpointError):
                read(folder, loop=True)
            reseal(folder, **{key: data})


def test_full_disk_leaves_what_was_there(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(StorageError, match=rf"step-000000020.*No space left.*errno {errno.ENOSPC}\); make room"):
            write(folder.with_name("step-000000020"), step=20, **contents(2.5))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read(folder).step == 10


def test_old_one_is_kept_until_the_new_name_is_on_disk(folder, monkeypatch):
    original = os.fsync

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("checkpoints"):
            raise OSError(errno.EIO, "Input/output error")
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", fsync)
        with pytest.raises(StorageError):
            write(folder, step=20, **contents())
    assert read(folder).step == 20
    assert read(folder.with_name(f".old-{folder.name}")).step == 10


def test_the_one_that_was_set_aside_is_put_back_where_its_successor_cannot_be_named(folder, monkeypatch):
    original = Path.rename

    def rename(self, target):
        if self.name.startswith(".tmp-"):
            raise OSError(errno.EIO, "Input/output error")
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(StorageError):
            write(folder, step=20, **contents(2.5))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read(folder).step == 10


def test_folder_of_a_run_that_was_deleted_is_not_made_again(tmp_path):
    store = CheckpointStore(tmp_path / "run", keep=1)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StorageError, match="No such file"):
        store.save_step(10, **contents())
    assert list(tmp_path.iterdir()) == []


def test_folder_of_checkpoints_that_was_deleted_is_made_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    shutil.rmtree(tmp_path / "checkpoints")
    store.save_step(10, **contents())
    assert names(tmp_path) == ["step-000000010"]


def test_interrupt_while_saving_leaves_nothing(folder, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(folder.with_name("step-000000020"), step=20, **contents())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_overwriting_replaces_all(folder):
    write(folder, step=10, **{**contents(2.5), "optimizer": None})
    assert read(folder).model["online.w"][0, 0] == 2.5
    assert read(folder).optimizer is None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_order_is_write_sync_rename_sync(folder, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        checkpoint.os, "fsync", lambda fd: (events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append(f"{self.name} -> {to.name}"), rename(self, to)))
    write(folder.with_name("best-000000020"), step=20, **contents())
    assert sorted(events[:6]) == FILES
    assert events[5] == "MANIFEST.json"
    assert events[6:] == [".tmp-best-000000020", ".tmp-best-000000020 -> best-000000020", "checkpoints"]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_store_keeps_the_last_best_and_final(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (5, 10, 1000, 50_000):
        assert store.save_step(step, **contents()).name == f"step-{step:09d}"
    store.save_best(10, **weights())
    best = store.save_best(1000, **weights())
    store.save_final(50_000, **contents())
    assert names(tmp_path) == ["best-000001000", "final-000050000", "step-000001000", "step-000050000"]
    assert read(best).optimizer is None
    assert read(tmp_path / "checkpoints" / "final-000050000").optimizer is not None


def test_there_is_always_a_best_one(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save_best(10, **weights())
    seen, original = [], Path.rename

    def rename(self, target):
        original(self, target)
        seen.append([name for name in names(tmp_path) if name.startswith("best-")])

    monkeypatch.setattr(Path, "rename", rename)
    store.save_best(20, **weights())
    assert seen == [["best-000000010", "best-000000020"], ["best-000000020"]]
    assert names(tmp_path) == ["best-000000020"]


def test_store_undoes_what_a_killed_run_left(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    store.save_step(10, **contents())
    store.save_step(20, **contents())
    saved = tmp_path / "checkpoints"
    shutil.copytree(saved / "step-000000010", saved / ".tmp-step-000000030")
    (saved / "step-000000020").rename(saved / ".old-step-000000020")
    assert find(tmp_path, "last").name == ".old-step-000000020"
    assert find(tmp_path, "10").name == "step-000000010"
    CheckpointStore(tmp_path, keep=2)
    assert names(tmp_path) == ["step-000000010", "step-000000020"]


def test_one_that_was_set_aside_stays_until_the_next_was_saved(tmp_path):
    """The one in its place may turn out to be damaged."""
    store = CheckpointStore(tmp_path, keep=2)
    store.save_step(10, **contents())
    saved = tmp_path / "checkpoints"
    shutil.copytree(saved / "step-000000010", saved / ".old-step-000000010")
    (saved / "step-000000010" / "state.json").unlink()
    store = CheckpointStore(tmp_path, keep=2)
    found, notices = newest(tmp_path, lambda found: None)
    assert found.step == 10
    assert notices == [
        "checkpoints/step-000000010 is damaged (state.json: no such file or directory), "
        "going on from .old-step-000000010"
    ]
    store.save_best(10, **weights())
    assert newest(tmp_path, lambda found: None)[1] == notices
    store.save_step(20, **contents())
    assert names(tmp_path) == ["best-000000010", "step-000000010", "step-000000020"]


def test_store_leaves_alone_what_it_did_not_make(tmp_path):
    saved = tmp_path / "run" / "checkpoints"
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, saved / ".tmp-mine", saved / ".old-mine", saved / "notes"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (saved / "step-000000099").symlink_to(elsewhere)
    before = names(tmp_path / "run")
    CheckpointStore(tmp_path / "run", keep=1).save_step(10, **contents())
    assert names(tmp_path / "run") == sorted([*before, "step-000000010"])
    assert (elsewhere / "file").exists()


def test_links_lead_nowhere(tmp_path):
    """A run folder from a stranger must not make us read, rename or delete elsewhere."""
    CheckpointStore(tmp_path / "mine", keep=1).save_step(10, **contents())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "mine" / "checkpoints")
    for use in (lambda run: CheckpointStore(run, keep=1), lambda run: find(run, "last"), lambda run: newest(run, id)):
        with pytest.raises(CheckpointError, match="checkpoints is a link"):
            use(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").unlink()
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "step-000000010").symlink_to(tmp_path / "mine" / "checkpoints/step-000000010")
    assert newest(tmp_path / "run", id) is None


def test_later_checkpoints_of_a_run_that_went_back_are_discarded(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30):
        store.save_step(step, **contents())
    store.save_best(25, **weights())
    store.save_final(30, **contents())
    store.save_step(15, **contents())
    assert names(tmp_path) == ["best-000000025", "step-000000015"]
    store.save_best(12, **weights())
    assert names(tmp_path) == ["best-000000012", "step-000000015"]
    store.save_step(20, **contents())
    store.save_step(30, **contents())
    store.save_final(25, **contents())
    assert names(tmp_path) == ["best-000000012", "final-000000025", "step-000000020"]


def test_final_one_of_a_run_that_goes_on_stays_until_the_next(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save_final(30, **contents())
    store.save_step(40, **contents())
    assert names(tmp_path) == ["final-000000030", "step-000000040"]
    store.save_final(50, **contents())
    assert names(tmp_path) == ["final-000000050", "step-000000040"]


def test_segments_that_no_checkpoint_names_are_pruned(tmp_path):
    told: list[set[str]] = []
    a, b, c, d = (segment("rows", begin, begin + 5) for begin in (0, 5, 10, 15))
    A, B, C, D = map(file_of, (a, b, c, d))
    store = CheckpointStore(tmp_path, keep=2, prune=told.append)
    assert told == []
    store.save_step(10, **contents(segments=[a]))
    store.save_step(20, **contents(segments=[a, b]))
    store.save_step(30, **contents(segments=[c]))
    store.save_best(30, **weights())
    store.save_final(30, **contents(segments=[d]))
    assert told == [{A}, {A, B}, {A, B, C}, {A, B, C}, {A, B, C, D}]
    store.save_step(40, **contents(segments=[d]))
    assert told[-1] == {C, D}


@pytest.mark.parametrize("damage", ["flipped", "not a segment", "missing"])
def test_nothing_is_pruned_while_it_is_unknown_what_a_checkpoint_names(tmp_path, damage):
    told: list[set[str]] = []
    store = CheckpointStore(tmp_path, keep=2, prune=told.append)
    manifest = store.save_step(10, **contents()) / "MANIFEST.json"
    text = manifest.read_bytes()
    match damage:
        case "flipped":
            manifest.write_bytes(text.replace(b"16384", b"16385"))
        case "not a segment":
            manifest.write_bytes(sealed(json.loads(text) | {"segments": [{"ring": "../x"}]}))
        case "missing":
            manifest.unlink()
    assert len(told) == 1
    store.save_step(20, **contents())
    assert len(told) == 1
    store.save_step(30, **contents())
    assert len(told) == 2


def test_prune_comes_after_the_deletion_is_on_disk(tmp_path, monkeypatch):
    events: list[object] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        checkpoint.os, "fsync", lambda fd: (events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append(f"{self.name} -> {to.name}"), rename(self, to)))
    store = CheckpointStore(tmp_path, keep=1, prune=lambda keep: events.append("prune"))
    store.save_step(10, **contents())
    store.save_step(20, **contents())
    assert events[-4:] == ["checkpoints", "step-000000010 -> .tmp-step-000000010", "checkpoints", "prune"]


def test_store_in_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(StorageError, match="checkpoints"):
        CheckpointStore(tmp_path, keep=1)


@pytest.fixture
def run(tmp_path):
    store = CheckpointStore(tmp_path / "run", keep=3)
    for step in (10, 20, 30):
        store.save_step(step, **contents())
    store.save_best(20, **weights())
    store.save_final(30, **contents())
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("select", "name"),
    [
        ("best", "best-000000020"),
        ("last", "final-000000030"),
        ("final", "final-000000030"),
        ("10", "step-000000010"),
        ("20", "step-000000020"),
        ("30", "final-000000030"),
        ("000030", "final-000000030"),
    ],
)
def test_find(run, select, name):
    assert find(run, select) == run / "checkpoints" / name


def test_find_takes_a_checkpoint_as_it_is(run):
    chosen = run / "checkpoints" / "step-000000010"
    assert find(chosen, "best") == chosen


def test_find_tells_run_and_checkpoint_apart_where_the_case_of_names_does_not_count(run, monkeypatch):
    def exists(path):  # as on macOS and Windows
        return os.path.lexists(path) or path.name.lower() in [name.lower() for name in os.listdir(path.parent)]

    (run / "manifest.json").touch()
    monkeypatch.setattr(Path, "exists", exists)
    assert (run / "MANIFEST.json").exists()
    assert find(run, "best") == run / "checkpoints" / "best-000000020"


def test_find_goes_on_without_evaluation_or_end(run):
    shutil.rmtree(run / "checkpoints" / "best-000000020")
    assert find(run, "best").name == "final-000000030"
    shutil.rmtree(run / "checkpoints" / "final-000000030")
    assert find(run, "best").name == find(run, "last").name == "step-000000030"


@pytest.mark.parametrize("select", ["40", "final", "²", "9" * 5000, "-10", "1_0"])
def test_find_tells_what_there_is(run, select):
    shutil.rmtree(run / "checkpoints" / "final-000000030")
    with pytest.raises(CheckpointError, match=r"best-000000020, step-000000010, step-000000020, step-000000030"):
        find(run, select)


def test_find_refuses_what_is_neither(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        find(tmp_path / "nowhere", "best")
    with pytest.raises(CheckpointError, match="holds nothing"):
        find(tmp_path, "best")
    for name in ("model.pt", "agent.zip"):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(CheckpointError, match=r"pickled weights can run code"):
            find(tmp_path / name, "best")
    (tmp_path / "notes").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        find(tmp_path / "notes", "best")
    with pytest.raises(CheckpointError, match=r"holds agent\.zip, model\.pt, notes; write a run folder"):
        find(tmp_path, "best")
    with pytest.raises(CheckpointError, match="cannot be read"):
        find(tmp_path / ("x" * 300), "best")


def test_folders_with_other_names_are_no_checkpoints(run):
    for name in ("step-10", "best", "step-000000099.bak", ".tmp-step-000000099"):
        (run / "checkpoints" / name).mkdir()
    assert find(run, "last").name == "final-000000030"
    with pytest.raises(CheckpointError, match="select=99"):
        find(run, "99")


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def test_newest_is_the_last_that_is_whole(run):
    found, notices = newest(run, lambda found: None)
    assert (found.step, notices) == (30, [])
    assert found.optimizer is not None
    assert found.arrays is not None
    saved = run / "checkpoints"
    for name in ("final-000000030", "step-000000030", "step-000000020"):
        damaged(saved / name)
    found, notices = newest(run, lambda found: None)
    assert found.step == 10
    assert notices == [
        f"checkpoints/{name} is damaged (model.safetensors: damaged, its checksum is not the manifest's), "
        "going on from step-000000010"
        for name in ("final-000000030", "step-000000030", "step-000000020")
    ]
    damaged(saved / "step-000000010")
    with pytest.raises(CheckpointError, match=r"cannot be resumed: checkpoints/final-000000030 is damaged \(model"):
        newest(run, lambda found: None)


def test_newest_asks_whether_the_rest_is_whole(run):
    asked = []

    def check(found):
        asked.append(found.step)
        if found.step > 20:
            raise CheckpointError("replay/rows-0.z: missing")

    found, notices = newest(run, check)
    assert (found.step, asked) == (20, [30, 30, 20])
    assert notices[0] == (
        "checkpoints/final-000000030 is damaged (replay/rows-0.z: missing), going on from step-000000020"
    )
    assert len(notices) == 2


def test_newest_tells_a_run_without_checkpoints_from_a_damaged_one(tmp_path):
    assert newest(tmp_path, lambda found: None) is None
    store = CheckpointStore(tmp_path, keep=1)
    assert newest(tmp_path, lambda found: None) is None
    store.save_best(10, **weights())
    assert newest(tmp_path, lambda found: None) is None
    (tmp_path / "checkpoints" / ".tmp-step-000000020").mkdir()
    assert newest(tmp_path, lambda found: None) is None


def test_newest_does_not_take_one_step_for_another(run):
    saved = run / "checkpoints"
    (saved / "step-000000020").rename(saved / "step-000000099")
    found, notices = newest(run, lambda found: None)
    assert found.step == 30
    assert "checkpoints/step-000000099 is damaged (MANIFEST.json: is of step 20" in notices[0]


def test_newest_does_not_take_weights_for_a_run(run):
    saved = run / "checkpoints"
    shutil.rmtree(saved / "final-000000030")
    shutil.copytree(saved / "best-000000020", saved / "final-000000020")
    shutil.rmtree(saved / "step-000000030")
    shutil.rmtree(saved / "step-000000020")
    found, notices = newest(run, lambda found: None)
    assert found.step == 10
    assert "holds no whole run" in notices[0]
