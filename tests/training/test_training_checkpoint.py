import errno
import json
import os
import shutil
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dqn_cli.errors import CheckpointError, NumericalError, StorageError
from dqn_cli.training import checkpoint
from dqn_cli.training.checkpoint import CheckpointStore, find, read, write

CONFIG = {"env": {"id": "CartPole-v1", "kwargs": {}}, "discount": 0.99}
STATE = {"stream": 2**127 + 1, "best": None, "returns": [1.0, 2.5]}
FILES = ["MANIFEST.json", "config.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def model(value: float = 1.5) -> dict[str, torch.Tensor]:
    return {"online.w": torch.full((2, 3), value), "online.n": torch.tensor(7), "online.empty": torch.zeros(0, 4)}


def contents(value: float = 1.5) -> dict:
    return {"config": CONFIG, "model": model(value), "state": STATE, "optimizer": {"0.exp_avg": torch.ones(2, 3)}}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoints" / "step-000000010"
    write(path, step=10, **contents())
    return path


def reseal(folder: Path, **changes: bytes) -> None:
    """Put other files in, with a manifest that vouches for them: what an attacker can do, an accident cannot."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for key, data in changes.items():
        name = {"model": "model.safetensors", "optimizer": "optimizer.safetensors"}.get(key, f"{key}.json")
        (folder / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(folder))
    return message


def test_round_trip(folder):
    found = read(folder)
    assert (found.step, found.config, found.state) == (10, CONFIG, STATE)
    assert found.model.keys() == model().keys()
    assert all(torch.equal(found.model[name], tensor) for name, tensor in model().items())
    assert found.optimizer is not None
    assert torch.equal(found.optimizer["0.exp_avg"], torch.ones(2, 3))
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


def test_weights_only(tmp_path):
    write(tmp_path / "c", step=3, **{**contents(), "optimizer": None})
    assert read(tmp_path / "c").optimizer is None
    assert not (tmp_path / "c" / "optimizer.safetensors").exists()


def test_optimizer_is_not_even_looked_at_when_it_is_not_wanted(folder):
    (folder / "optimizer.safetensors").write_bytes(b"broken")
    assert read(folder, optimizer=False).optimizer is None
    refusal(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    with pytest.raises(NumericalError, match=r"online\.w"):
        write(tmp_path / "c", step=1, **contents(bad))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("key", "value"), [("state", {"x": float("nan")}), ("config", {"x": "y" * (1 << 20)})])
def test_what_could_not_be_read_back_is_not_written(tmp_path, key, value):
    with pytest.raises(CheckpointError, match=rf"{key}\.json"):
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


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "config.json"])
def test_every_bit_counts(folder, name):
    data = (folder / name).read_bytes()
    for position in range(0, 8 * len(data), 37):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        (folder / name).write_bytes(flipped)
        refusal(folder)
    (folder / name).write_bytes(data)
    read(folder)


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
        {"format": 2},
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
    ],
    ids=str,
)
def test_manifest_is_strict(folder, change):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(json.dumps(manifest | change))
    assert "MANIFEST.json" in refusal(folder)


@pytest.mark.parametrize("extra", ["../config.json", "/etc/passwd", "replay", "a\0b"])
def test_manifest_names_no_other_files(folder, extra):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][extra] = manifest["files"]["config.json"]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    assert "MANIFEST.json" in refusal(folder)


@pytest.mark.parametrize("entry", [None, [], {}, {"bytes": "9"}, {"bytes": -1}, {"bytes": True}, {"bytes": 1e3}])
def test_manifest_entries_are_strict(folder, entry):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["config.json"] = entry
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    assert "config.json" in refusal(folder)


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
    assert "model.safetensors" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_dtypes_of_networks_are_read(folder, dtype):
    reseal(folder, model=safetensors.torch.save({"x": torch.ones(3, dtype=dtype)}))
    assert read(folder).model["x"].dtype is dtype


def test_random_bytes_never_cause_another_error(folder):
    generator = torch.Generator().manual_seed(0)
    good = {key: (folder / name).read_bytes() for key, name in [("model", FILES[2]), ("state", FILES[4])]}
    for _ in range(80):
        for key, data in good.items():
            position = int(torch.randint(len(data), (1,), generator=generator))
            byte = int(torch.randint(256, (1,), generator=generator))
            reseal(folder, **{key: data[:position] + bytes([byte]) + data[position + 1 :]})
            with suppress(CheckpointError):
                read(folder)
            reseal(folder, **{key: data})


def failing(monkeypatch, target: object, name: str, at: int) -> None:
    """Let the `at`-th call from now on, and all later ones, raise as on a full disk."""
    original, calls = getattr(target, name), [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, call)


@pytest.mark.parametrize(
    ("target", "name", "at"),
    [(Path, "mkdir", 1), (Path, "mkdir", 2), (Path, "open", 1), (Path, "open", 4), (Path, "rename", 1)]
    + [(checkpoint.os, "fsync", n) for n in range(1, 7)],
)
@pytest.mark.parametrize("same_name", [False, True])
def test_full_disk_leaves_what_was_there(folder, monkeypatch, target, name, at, same_name):
    new = folder if same_name else folder.with_name("step-000000020")
    with monkeypatch.context() as patch:
        failing(patch, target, name, at)
        with pytest.raises(StorageError, match=rf"{new.name}.*No space left.*errno {errno.ENOSPC}"):
            write(new, step=20, **contents(2.5))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read(folder).step == 10


def test_old_one_is_kept_until_the_new_name_is_on_disk(folder, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, checkpoint.os, "fsync", 7)
        with pytest.raises(StorageError):
            write(folder, step=20, **contents())
    assert read(folder).step == 20
    assert read(folder.with_name(f".old-{folder.name}")).step == 10


def test_second_rename_fails_while_one_of_this_name_is_set_aside(folder, monkeypatch):
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
    assert sorted(events[:5]) == FILES
    assert events[4] == "MANIFEST.json"
    assert events[5:] == [".tmp-best-000000020", ".tmp-best-000000020 -> best-000000020", "checkpoints"]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def weights_only() -> dict:
    return {key: value for key, value in contents().items() if key != "optimizer"}


def test_store_keeps_the_last_best_and_final(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (5, 10, 1000, 50_000):
        assert store.save_step(step, **contents()).name == f"step-{step:09d}"
    store.save_best(10, **weights_only())
    best = store.save_best(1000, **weights_only())
    store.save_final(50_000, **contents())
    assert names(tmp_path) == ["best-000001000", "final-000050000", "step-000001000", "step-000050000"]
    assert read(best).optimizer is None
    assert read(tmp_path / "checkpoints" / "final-000050000").optimizer is not None


def test_there_is_always_a_best_one(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save_best(10, **weights_only())
    seen, original = [], Path.rename

    def rename(self, target):
        original(self, target)
        seen.append([name for name in names(tmp_path) if name.startswith("best-")])

    monkeypatch.setattr(Path, "rename", rename)
    store.save_best(20, **weights_only())
    assert seen == [["best-000000010", "best-000000020"], ["best-000000020"]]
    assert names(tmp_path) == ["best-000000020"]


def test_store_undoes_what_a_killed_run_left(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    store.save_step(10, **contents())
    store.save_step(20, **contents())
    saved = tmp_path / "checkpoints"
    shutil.copytree(saved / "step-000000010", saved / ".tmp-step-000000030")
    shutil.copytree(saved / "step-000000010", saved / ".old-step-000000010")
    (saved / "step-000000020").rename(saved / ".old-step-000000020")
    assert find(tmp_path, "last").name == ".old-step-000000020"
    assert find(tmp_path, "10").name == "step-000000010"
    CheckpointStore(tmp_path, keep=2)
    assert names(tmp_path) == ["step-000000010", "step-000000020"]


def test_store_in_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(StorageError, match="checkpoints"):
        CheckpointStore(tmp_path, keep=1)


@pytest.fixture
def run(tmp_path):
    store = CheckpointStore(tmp_path / "run", keep=3)
    for step in (10, 20, 30):
        store.save_step(step, **contents())
    store.save_best(20, **weights_only())
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
