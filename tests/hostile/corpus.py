"""Hostile files, made from a good run: what strangers could send, and how each command must answer.

An answer is an exit code, or what a command that succeeds has done. Whoever made these files can compute checksums: all
of them are right, unless the case is about that.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from stranger import CANARY_MODULE, CHECKPOINT, STEP, Json, Stranger, sealed

GOOD = "as the good one"  # exit code 0, with the same result
OTHER = "another result"  # exit code 0: data like any other
DONE = "nothing, it is finished"
USAGE, REFUSED, DIVERGED, STORAGE = 2, 3, 5, 6
EITHER = (USAGE, REFUSED)  # what is refused is no size or environment that a run could have
NOT_OUT = (GOOD, REFUSED, STORAGE)  # as long as nothing outside is changed, and nobody waits
Answer = int | str | tuple[int | str, ...]
MODEL, OPTIMIZER, LOOP, STATE, CONFIG = (
    "model.safetensors",
    "optimizer.safetensors",
    "loop.safetensors",
    "state.json",
    "config.json",
)
OUT = f"eval/step-{STEP:09d}_seed-0_epsilon-0_episodes-1"
Make = Callable[[Stranger], object]


@dataclass(frozen=True)
class Case:
    """A hostile run, and the answers of `dqn-eval checkpoint=` and `dqn-train resume=` to it or to its `target`.

    None: it is not asked.
    """

    name: str
    make: Make
    evaluate: Answer | None = REFUSED
    resume: Answer | None = REFUSED
    target: str = "run"


class Calls:
    """Pickled, this is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


# pickles that run something as soon as they are loaded; `touch CANARY` is cut to the place by the shell
SHELL = 'touch "$HOSTILE_CANARY"'
CODE = f"import os; os.system({SHELL!r})"


def by_hand(*opcodes: bytes) -> bytes:
    """A pickle without a pickler."""
    return b"".join(opcodes) + b"."


@cache
def pickles() -> dict[str, bytes]:
    """By what they do."""
    system = {f"reduce of protocol {n}": pickle.dumps(Calls(os.system, SHELL), protocol=n) for n in range(6)}
    shell = b"S" + repr(SHELL).encode() + b"\n"
    by_opcode = {
        "eval": pickle.dumps(Calls(eval, f"__import__('os').system({SHELL!r})")),
        "exec": pickle.dumps(Calls(exec, CODE)),
        "import": by_hand(f"c{CANARY_MODULE}\nanything\n".encode()),
        "inst": by_hand(b"(", shell, b"ios\nsystem\n"),
        "obj": by_hand(b"(cos\nsystem\n", shell, b"o"),
        "stack_global": by_hand(b"\x80\x04\x8c\x05posix\x8c\x06system\x93", shell, b"\x85R"),
        "build": by_hand(b"ccollections\nOrderedDict\n)R}", b"S'a'\nI1\ns", b"b"),
        "memo bomb": by_hand(b"]q\x00", *(b"(h%ch%ce" % (0, 0) for _ in range(2_000))).replace(b"h\x00", b"h\x00"),
        "deep": by_hand(b"]" * 200_000),
        "no stack": b"a.",
        "truncated": pickle.dumps(Calls(os.system, SHELL))[:-3],
    }
    assert all(any(pickletools.genops(data)) for data in system.values())
    return {**system, **by_opcode}


def zipped(**members: bytes) -> bytes:
    """A file of torch.save's form."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"data.pkl": pickles()["eval"], "version": b"3\n", "byteorder": b"little", **members}.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def tarred() -> bytes:
    """A file of the oldest torch.save's form."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "../../escaped"):
            data = pickles()["reduce of protocol 2"]
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def saved_by_numpy() -> bytes:
    """An array of objects."""
    file = io.BytesIO()
    np.save(file, np.array([Calls(os.system, SHELL)], object), allow_pickle=True)
    return file.getvalue()


def foreign() -> dict[str, bytes]:
    """Other formats that execute code, or are large."""
    torch_magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return {
        "torch zip": zipped(),
        "zip that escapes": zipped(**{"../../../escaped": b"x", "data/0": b"\x00" * 64}),
        "torch legacy": torch_magic + pickles()["reduce of protocol 2"],
        "tar": tarred(),
        "numpy objects": saved_by_numpy(),
        "python": CODE.encode(),
        "empty": b"",
        "one byte": b"\x80",
        "zeros": bytes(4096),
        "polyglot": (8).to_bytes(8, "little") + b"{}      " + zipped(),
    }


def pickle_cases() -> Iterator[Case]:
    components = {MODEL: REFUSED, STATE: REFUSED, CONFIG: REFUSED, OPTIMIZER: GOOD, LOOP: GOOD}
    every = pickles() | foreign()
    for name, data in every.items():
        yield Case(f"{MODEL} is {name}", lambda s, d=data: s.put(MODEL, d))
    for component, name in product(components, ("reduce of protocol 2", "torch zip", "numpy objects")):
        if component != MODEL:
            put = partial(Stranger.put, name=component, data=every[name])
            yield Case(f"{component} is {name}", put, components[component])
    for name in ("reduce of protocol 4", "torch zip", "python"):
        data = every[name]
        yield Case(f"MANIFEST.json is {name}", lambda s, d=data: (s.checkpoint / "MANIFEST.json").write_bytes(d))
        yield Case(f"a segment is {name}", lambda s, d=data: s.segment("rows", d), GOOD)
    for suffix in ("pt", "pth", "ckpt", "pkl", "zip", "bin", "npy", "npz", "joblib", "safetensors"):
        data = every["numpy objects" if suffix in ("npy", "npz") else "torch zip" if suffix == "pt" else "eval"]
        file = f"model.{suffix}"
        yield Case(f"the file {file}", lambda s, f=file, d=data: (s.folder / f).write_bytes(d), target=file)
    yield Case("pickles beside everything", pickles_beside, GOOD, GOOD)


def pickles_beside(s: Stranger) -> None:
    """Under every name that some program would load."""
    data = pickles()["reduce of protocol 2"]
    for folder, name in product((s.run, s.checkpoint), ("model.pt", "data.pkl", "model.pth", "state.pkl", ".hydra")):
        (folder / name).write_bytes(data)
    for name in ("sitecustomize.py", "conftest.py", "torch.py", "gymnasium.py", "numpy.py", "json.py"):
        (s.run / name).write_text(CODE)
        (s.folder / name).write_text(CODE)  # where the command is started


# --- files of tensors ---


def tensors_file(header: Any, payload: bytes = b"", size: int | None = None) -> bytes:
    """A file of safetensors with any header, and any claim about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + payload


def floats(begin: int, end: int, shape: list[Any], **changes: Any) -> Json:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end], **changes}


def many(count: int) -> bytes:
    """A header of so many empty tensors."""
    empty = json.dumps(floats(0, 0, [0]))
    return ("{" + ",".join(f'"{i:x}":{empty}' for i in range(count)) + "}").encode()


@cache
def headers() -> dict[str, bytes]:
    """Lies of safetensors."""
    deep = b"[" * 100_000 + b"]" * 100_000
    twice = b'{"a":' + json.dumps(floats(0, 4, [1])).encode() + b',"a":' + json.dumps(floats(0, 4, [1])).encode() + b"}"
    return {
        "header of length 0": tensors_file(b""),
        "header of 2^63 bytes": tensors_file({}, size=2**63),
        "header of 2^64 - 1 bytes": tensors_file({}, size=2**64 - 1),
        "header longer than the file": tensors_file({}, size=4096),
        "header that is not UTF-8": tensors_file(b'{"\xff\xfe":1}'),
        "deep header": tensors_file(b'{"a":' + deep + b"}"),
        "deep metadata": tensors_file(b'{"__metadata__":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"),
        "metadata of numbers": tensors_file({"__metadata__": {"format": 7}, "a": floats(0, 4, [1])}, bytes(4)),
        "the same key twice": tensors_file(twice, bytes(4)),
        "header that is a list": tensors_file([1, 2]),
        "header with NaN": tensors_file(b'{"a":NaN}'),
        "terabytes": tensors_file({"a": floats(0, 4 * 2**40, [2**40])}, bytes(4)),
        "more numbers than there can be": tensors_file({"a": floats(0, 4, [2**32, 2**32])}, bytes(4)),
        "2^64 in a shape": tensors_file({"a": floats(0, 0, [2**64, 0])}),
        "an empty tensor of enormous shape": tensors_file({"a": floats(0, 0, [2**62, 0])}),
        "negative shape": tensors_file({"a": floats(0, 4, [-1])}, bytes(4)),
        "fractional shape": tensors_file({"a": floats(0, 4, [1.5])}, bytes(4)),
        "shape of text": tensors_file({"a": floats(0, 4, ["1"])}, bytes(4)),
        "a thousand dimensions": tensors_file({"a": floats(0, 4, [1] * 1_000)}, bytes(4)),
        "offsets backwards": tensors_file({"a": floats(4, 0, [1])}, bytes(4)),
        "negative offsets": tensors_file({"a": floats(-4, 0, [1])}, bytes(4)),
        "offsets beyond the end": tensors_file({"a": floats(0, 400, [100])}, bytes(4)),
        "overlap": tensors_file({"a": floats(0, 4, [1]), "b": floats(0, 4, [1])}, bytes(4)),
        "a hole": tensors_file({"a": floats(0, 4, [1]), "b": floats(8, 12, [1])}, bytes(12)),
        "trailing bytes": tensors_file({"a": floats(0, 4, [1])}, bytes(4096)),
        "300,000 tensors": tensors_file(many(300_000)),
        "9,000 tensors": tensors_file(many(9_000)),
        **{
            f"dtype {dtype!r:.20}": tensors_file({"a": floats(0, 4, [1], dtype=dtype)}, bytes(4))
            for dtype in ("C64", "F8_E4M3", "object", "OBJ", "", None, 7, ["F32"], {"F32": 1})
        },
    }


def header_cases() -> Iterator[Case]:
    for name, data in headers().items():
        yield Case(f"{MODEL}: {name}", lambda s, d=data: s.put(MODEL, d))
    for component, name in product((OPTIMIZER, LOOP), ("300,000 tensors", "terabytes", "overlap", "deep header")):
        data = headers()[name]
        yield Case(f"{component}: {name}", lambda s, c=component, d=data: s.put(c, d), GOOD)


# --- JSON ---


HARMLESS = ("lone surrogates", "90,000 keys", "a fraction of a million digits")  # where nobody looks at the content


@cache
def texts() -> dict[str, bytes]:
    """What is no strict JSON object, or a large one."""
    return {
        "NaN": b'{"a":NaN}',
        "infinity": b'{"a":1e999}',
        "a number of a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
        "a fraction of a million digits": b'{"a":0.' + b"9" * 1_000_000 + b"}",
        "deep lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "forty levels": b'{"a":' * 40 + b"1" + b"}" * 40,
        "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a key twice": b'{"a":1,"a":2}',
        "a list": b"[1]",
        "null": b"null",
        "nothing": b"",
        "not UTF-8": b'{"a":"\xff"}',
        "UTF-16": '{"a":1}'.encode("utf-16"),
        "a byte order mark": b'\xef\xbb\xbf{"a":1}',
        "zeros": bytes(100),
        "lone surrogates": b'{"\\ud800":"\\udfff"}',
        "YAML": b"a: &a [1, 1]\nb: [*a, *a]\n",
        "a megabyte and more": b'{"a":"' + b"a" * (1 << 20) + b'"}',
        "90,000 keys": ("{" + ",".join(f'"{i:x}":0' for i in range(90_000)) + "}").encode(),
    }


def json_cases() -> Iterator[Case]:
    for (name, data), component in product(texts().items(), (STATE, CONFIG, "MANIFEST.json")):
        if component == "MANIFEST.json":
            yield Case(f"{component}: {name}", lambda s, d=data: (s.checkpoint / "MANIFEST.json").write_bytes(d))
        else:
            eval_reads = GOOD if component == STATE and name in HARMLESS else REFUSED
            yield Case(f"{component}: {name}", lambda s, c=component, d=data: s.put(c, d), eval_reads)


# --- configurations ---


def config_cases() -> Iterator[Case]:
    def case(name: str, evaluate: Answer = REFUSED, resume: Answer = REFUSED, **settings: Any) -> Case:
        return Case(f"config: {name}", lambda s: s.config(**settings), evaluate, resume)

    target = {"_target_": "os.system", "_args_": [SHELL]}
    yield case("_target_ at the top", **{"_target_": "os.system"})
    yield case("_target_ in env", env={"name": "gym", "id": "CartPole-v1", **target})
    yield case("_target_ as env", env=target)
    yield case("_target_ as a number", seed=target)
    yield case("_target_ as text", init_from=target)
    yield case("_target_ in a list", network__hidden=[target])
    yield case("_target_ in env.kwargs", USAGE, USAGE, env__kwargs=target)
    yield case("_target_ deep in env.kwargs", USAGE, USAGE, env__kwargs={"gravity": {"_target_": CANARY_MODULE}})
    yield case("hydra", hydra={"run": {"dir": "/tmp"}})
    yield case("defaults", defaults=["override hydra/launcher: joblib"])
    for key in ("env__id", "init_from", "device", "threads", "env__module", "logger", "loss"):
        yield case(f"a variable in {key}", **{key: "${oc.env:HOSTILE_SECRET}"})
    yield case("a variable in env.kwargs", env__kwargs={"a": {"b": ["${oc.env:HOSTILE_SECRET}"]}})
    yield case("a variable as a key", USAGE, USAGE, env__kwargs={"${oc.env:HOSTILE_SECRET}": 1})
    yield case("a node", device="${env.id}")
    yield case("a resolver", device="${oc.decode:${oc.env:HOSTILE_SECRET}}")
    yield case("a variable in a list", network__hidden=["${oc.env:HOSTILE_SECRET}"])
    yield case("a missing value", GOOD, GOOD, device="???")
    yield from environments(case)
    yield from mistyped(case)
    yield from enormous(case)


def environments(case: Callable[..., Case]) -> Iterator[Case]:
    """Names and arguments of environments."""
    yield case("env of a module", env__id=f"{CANARY_MODULE}:X-v0")
    yield case("env of a module, dotted", env__id=f"{CANARY_MODULE}.inner:X-v0")
    yield case("env.module", USAGE, USAGE, env__module=CANARY_MODULE)
    yield case("env.module of ours", USAGE, USAGE, env__module="dqn_cli.build")
    yield case("env.module relative", USAGE, USAGE, env__module="..evil")
    yield case("env.module with a line break", USAGE, USAGE, env__module="evil\nTraceback (most recent call last):")
    yield case("env unknown", USAGE, USAGE, env__id="Nothing-v0")
    yield case("env a path", USAGE, USAGE, env__id="../../x")
    yield case("env an absolute path", USAGE, USAGE, env__id="/etc/passwd")
    yield case("env with NUL", USAGE, USAGE, env__id="CartPole-v1\x00")
    yield case("env with line breaks", USAGE, USAGE, env__id="CartPole\n\r\nTraceback\u2028\x85-v1")
    yield case("env with escapes", USAGE, USAGE, env__id="\x1b]0;owned\x07\x1b[2J\u202e-v1")
    yield case("env like an option", USAGE, USAGE, env__id="-rf")
    yield case("env of enormous name", EITHER, EITHER, env__id="A" * 500_000)
    yield case("env of another library", USAGE, USAGE, env__id="GymV21Environment-v0", env__kwargs={"env_id": "a:b"})
    yield case("an argument that imports", USAGE, USAGE, env__kwargs={"entry_point": f"{CANARY_MODULE}:X"})
    yield case("an argument that shows a window", EITHER, EITHER, env__kwargs={"render_mode": "human"})
    yield case("arguments of gymnasium.make", USAGE, USAGE, env__kwargs={"max_episode_steps": 1, "id": "x"})


def mistyped(case: Callable[..., Case]) -> Iterator[Case]:
    """Values that no run has, or no run with these weights."""
    yield case("an unknown setting", nothing=1)
    yield case("an unknown group's choice", value={"name": "__class__"})
    yield case("a group that is text", network="mlp")
    yield case("a group that is a list", network=[1])
    yield case("a name that is an object", network={"name": {"name": "mlp"}})
    yield case("a number that is text", discount="high")
    yield case("a number that is a list", num_envs=[1])
    yield case("true for a number", env__kwargs=True)
    yield case("a number out of range", discount=1e300)
    yield case("a negative number", num_envs=-1)
    yield case("a number of 4,000 digits", seed=10**4000)
    yield case("a long list", network__hidden=[1] * 200_000)
    yield case("other weights from elsewhere", GOOD, GOOD, init_from="/etc/passwd")
    yield case("a device that is not here", GOOD, USAGE, device="cuda:99")
    yield case("threads that are not here", GOOD, USAGE, threads="99999")
    yield case("a network of another form", network__hidden=[5])
    yield case("a deeper network", network__hidden=[4, 4])
    yield case("another value", value={"name": "quantile", "quantiles": 3, "kappa": 1.0})
    yield case("another environment", env__id="Acrobot-v1")
    yield case("continuous actions", USAGE, USAGE, env__id="Pendulum-v1", env__time_limit_steps=20)


def enormous(case: Callable[..., Case]) -> Iterator[Case]:
    """Sizes that must be refused before they are memory."""
    both = {"evaluate": REFUSED, "resume": EITHER}
    forever = {"run__total_steps": 10**9}
    yield case("a layer of 10^9", **both, network__hidden=[10**9])
    yield case("a layer of 10^18", **both, network__hidden=[10**18])
    yield case("a layer of 10^7", **both, network__hidden=[10**7])
    yield case("two layers of 65,536", **both, network__hidden=[65_536, 65_536])
    yield case("a hundred layers of 4,096", **both, network__hidden=[4_096] * 100)
    yield case("10^4 layers", REFUSED, REFUSED, network__hidden=[1] * 10_000)
    for n in (10**9, 10**6):
        quantiles = {"name": "quantile", "quantiles": n, "kappa": 1.0}
        yield case(f"{n} quantiles", REFUSED, REFUSED, value=quantiles)
    atoms = {"name": "categorical", "atoms": 10**9, "v_min": 0.0, "v_max": 1.0}
    yield case("10^9 atoms", **both, value=atoms)
    implicit = {"name": "implicit", "quantiles": 10**9, "target_quantiles": 8, "acting_quantiles": 8}
    yield case("10^9 sampled quantiles", REFUSED, REFUSED, value=implicit)
    yield case("capacity 10^12", GOOD, USAGE, replay__capacity=10**12)
    yield case("capacity 10^18", GOOD, USAGE, replay__capacity=10**18)
    yield case("capacity 10^8", GOOD, EITHER, replay__capacity=10**8)
    yield case("n_step 10^12", REFUSED, REFUSED, replay__n_step=10**12)
    yield case("n_step 10^7", REFUSED, REFUSED, replay__n_step=10**7)
    yield case("batch_size 10^12", REFUSED, REFUSED, replay__batch_size=10**12)
    yield case("frame_stack 10^6", REFUSED, REFUSED, env__frame_stack=10**6)
    yield case("frame_stack 10^12", REFUSED, REFUSED, env__frame_stack=10**12)
    yield case("65,536 environments", GOOD, EITHER, **forever, num_envs=65_536)
    yield case("4,096 environments", GOOD, EITHER, **forever, num_envs=4_096)
    yield case("65,537 environments", REFUSED, REFUSED, num_envs=65_537)
    atari: Json = {"name": "atari", "id": "ALE/Pong-v5"}
    yield case("65,536 Atari games", REFUSED, EITHER, **forever, env=atari, num_envs=65_536)
    yield case("Atari for an MLP", REFUSED, REFUSED, env=atari)
    cnn = {"name": "nature_cnn"}
    for engine in ("native", "gymnasium"):
        several = {"env": {**atari, "engine": engine}, "network": cnn, "num_envs": 65_536}
        yield case(f"65,536 {engine} Atari games for a CNN", REFUSED, EITHER, **forever, **several)
    for name, pictures in {
        "10^12 pixels": {"resize": [10**6, 10**6]},
        "10^6 pixels, 64 at a time": {"resize": [1024, 1024], "frame_stack": 64},
        "10^9 at a time": {"frame_stack": 10**9},
    }.items():
        yield case(f"pictures of {name}", REFUSED, EITHER, env={**atari, **pictures}, network=cnn)
    wide = {"name": "impala", "units": 65_536}
    yield case("65,536 units on large pictures", **both, env={**atari, "resize": [1024, 1024]}, network=wide)
    yield case("10^9 units on pictures", **both, env=atari, network={**wide, "units": 10**9})
    for fields in (700_000, 50_000):
        rows = ["S" + "F" * 998 + "G"] * (fields // 1_000)
        lake: Json = {"name": "gym", "id": "FrozenLake-v1", "kwargs": {"desc": rows}}
        yield case(f"a lake of {fields:,} fields", REFUSED, EITHER, env=lake)


# --- weights and optimizers ---


def weight_cases() -> Iterator[Case]:
    def case(name: str, change: Callable[[Any], object]) -> Case:
        return Case(f"weights: {name}", lambda s: s.arrays(MODEL, change))

    w, b = "online.head.hidden.weight", "online.head.hidden.bias"
    yield case("NaN", lambda a: a[w].fill(np.nan))
    yield case("infinite", lambda a: a[w].fill(-np.inf))
    yield case("NaN in the target network", lambda a: a["target.head.output.bias"].fill(np.nan))
    yield case("NaN of 16 bits", lambda a: a.update({w: np.full((4, 4), np.nan, np.float16)}))
    yield case("NaN in a tensor that nobody needs", lambda a: a.update(other=np.full(1, np.nan, np.float32)))
    yield case("one is missing", lambda a: a.pop(b))
    yield case("one too many", lambda a: a.update({"online.other": a[b], "target.other": a[b]}))
    yield case("transposed", lambda a: a.update({"online.head.output.weight": np.zeros((4, 2), np.float32)}))
    yield case("a scalar", lambda a: a.update({b: np.float32(1)}))
    yield case("empty", lambda a: a.update({b: np.zeros((0, 4), np.float32)}))
    yield case("64 bits", lambda a: a.update({b: a[b].astype(np.float64)}))
    yield case("none", lambda a: a.clear())
    yield Case("weights: no online network", lambda s: s.arrays(MODEL, only("target")))
    yield Case("weights: no target network", lambda s: s.arrays(MODEL, only("online")), GOOD)
    yield Case("weights: 10^38", lambda s: s.arrays(MODEL, lambda a: a[w].fill(3e38)), OTHER, (OTHER, DIVERGED))
    whole = np.ones((4, 4), np.int64)
    yield Case("weights: whole numbers", lambda s: s.arrays(MODEL, lambda a: a.update({w: whole})), REFUSED, REFUSED)


def only(network: str) -> Callable[[Any], None]:
    def change(arrays: Any) -> None:
        for name in [name for name in arrays if not name.startswith(network)]:
            del arrays[name]

    return change


def optimizer_cases() -> Iterator[Case]:
    def case(name: str, change: Callable[[Any], object], resume: Answer = REFUSED) -> Case:
        return Case(f"optimizer: {name}", lambda s: s.arrays(OPTIMIZER, change), GOOD, resume)

    m, v, t = (f"head.hidden.weight.{name}" for name in ("exp_avg", "exp_avg_sq", "step"))
    yield case("one is missing", lambda a: a.pop(m))
    yield case("one too many", lambda a: a.update({"other.exp_avg": a[m]}))
    yield case("__class__", lambda a: a.update({"__class__": a[m], "head.hidden.weight.__reduce__": a[m]}))
    yield case("another shape", lambda a: a.update({m: np.zeros((5, 4), np.float32)}))
    yield case("a step of another shape", lambda a: a.update({t: np.zeros(3, np.float32)}))
    yield case("16 bits", lambda a: a.update({m: a[m].astype(np.float16)}))
    yield case("whole numbers", lambda a: a.update({m: a[m].astype(np.int64)}))
    yield case("NaN", lambda a: a[m].fill(np.nan))
    yield case("infinite", lambda a: a[v].fill(np.inf))
    yield case("negative squares", lambda a: a[v].fill(-1.0), (REFUSED, DIVERGED))
    yield case("a step of NaN", lambda a: a.update({t: np.float32(np.nan)}))
    yield case("a negative step", lambda a: a.update({t: np.float32(-1)}), (REFUSED, DIVERGED))
    yield Case("optimizer: gone", lambda s: without(s, OPTIMIZER), GOOD)
    yield Case("loop: gone", lambda s: without(s, LOOP), GOOD)


def without(s: Stranger, name: str) -> None:
    (s.checkpoint / name).unlink()
    s.manifest(lambda m: m["files"].pop(name))


# --- the state ---


def state_cases() -> Iterator[Case]:
    def case(name: str, change: Callable[[Json], object], resume: Answer = REFUSED) -> Case:
        return Case(f"state: {name}", lambda s: s.edit(STATE, change), GOOD, resume)

    for key in ("counters", "seen", "best", "last", "recent", "target_distance", "streams", "refilled_at"):
        yield case(f"no {key}", lambda state, k=key: state.pop(k))
        yield case(f"{key} is a list", lambda state, k=key: state.update({k: [1]}))
        yield case(f"{key} is text", lambda state, k=key: state.update({k: "${oc.env:HOSTILE_SECRET}"}))
    for name, value in {"negative": -1, "2^62": 2**62, "2^64": 2**64, "10^40": 10**40, "a fraction": 1.5}.items():
        for counter in ("steps", "updates", "episodes"):
            other = OTHER if value == 2**62 and counter != "steps" else REFUSED
            yield case(f"{counter} {name}", lambda state, c=counter, v=value: state["counters"].update({c: v}), other)
        yield case(f"seen {name}", lambda state, v=value: state.update(seen=v))
        yield case(f"refilled_at {name}", lambda state, v=value: state.update(refilled_at=v))
    yield case("an unknown counter", lambda state: state["counters"].update({"__class__": 1}), GOOD)
    yield case("a counter is missing", lambda state: state["counters"].pop("updates"))
    yield case("true for a counter", lambda state: state["counters"].update(updates=True))
    yield case("target_syncs negative", lambda state: state["counters"].update(target_syncs=-1))
    yield case("a best one without episodes", lambda s: s.update(best={"step": 1, "scores": [], "lengths": []}))
    yield case("a best one of text", lambda s: s.update(best={"step": 1, "scores": ["a"], "lengths": [1]}))
    yield case(
        "a best one yet to come",
        lambda s: s.update(best={"step": 10**9, "scores": [1.0], "lengths": [1]}),
        (GOOD, OTHER, REFUSED),
    )
    yield case("scores without lengths", lambda s: s["recent"].update(lengths=[]))
    yield case("scores of text", lambda s: s["recent"].update(scores=["a", "b"]))
    yield case("negative lengths", lambda s: s["recent"].update(lengths=[-1, -5]))
    yield case("finished at 40 of 60", lambda s: s.update(finished=True), DONE)
    yield from stream_cases(case)


def stream_cases(case: Callable[..., Case]) -> Iterator[Case]:
    """Streams of random numbers, of NumPy's and of torch's kind."""

    def numpy_case(name: str, **changes: Any) -> Case:
        return case(f"stream {name}", lambda state: state["streams"]["replay"].update(changes))

    def torch_case(name: str, text: Any) -> Case:
        return case(f"stream {name}", lambda state: state["streams"].update(update=text))

    yield case("streams of none", lambda state: state.update(streams={}))
    yield case("a stream is missing", lambda state: state["streams"].pop("update"))
    yield case("an unknown stream", lambda state: state["streams"].update(other="aaaa"))
    yield case("streams exchanged", lambda s: s["streams"].update(update=s["streams"]["replay"]))
    yield numpy_case("of another generator", bit_generator="MT19937")
    yield numpy_case("with 2^128", state={"state": 2**128, "inc": 1})
    yield numpy_case("with a negative number", state={"state": -1, "inc": 1})
    yield numpy_case("of text", state={"state": "1", "inc": "1"})
    yield numpy_case("of half a state", state={"state": 1})
    yield numpy_case("with a flag of 2^40", has_uint32=2**40)
    yield numpy_case("with more than it has", other=1)
    yield torch_case("of no base64", "!!!!")
    yield torch_case("of two bytes", "AAA=")
    yield torch_case("of nothing", "")
    yield torch_case("of 700,000 bytes", "AAAA" * 175_000)
    yield torch_case("of zeros", "AAAA" * 1685 + "AA==")
    yield torch_case("of ones", "////" * 1685 + "/w==")
    yield torch_case("of null", None)


# --- the loop ---


def loop_cases() -> Iterator[Case]:
    def case(name: str, resume: Answer = REFUSED, **changes: Any) -> Case:
        return Case(f"loop: {name}", lambda s: s.loop(**changes), GOOD, resume)

    def put(index: Any, value: Any) -> Callable[[Any], Any]:
        def change(array: Any) -> Any:
            array[index] = value
            return array

        return change

    yield case("an action that there is not", lanes__actions=put((3, 1), 2))
    yield case("actions of 64 bits", lanes__actions=lambda a: a.astype(np.int64))
    yield case("negative actions", lanes__actions=lambda a: a.astype(np.int32) - 1)
    yield case("a single row of actions", lanes__actions=lambda a: a[0])
    yield case("no actions", lanes__actions=lambda a: a[:0])
    yield case("10^7 + 1 steps to play again", lanes__actions=np.zeros((10_000_001, 2), np.uint8))
    yield case("3,000,000 steps to play again", lanes__actions=np.zeros((3_000_000, 2), np.uint8))
    yield case("steps of no environment", lanes__actions=np.zeros((10**9, 0), np.uint8))
    yield case("begun after the end", lanes__begun=put(1, 21))
    yield case("begun before the beginning", lanes__begun=put(1, -1))
    yield case("begun at 2^62", lanes__begun=put(1, 2**62))
    yield case("nothing begun at the first row", lanes__begun=put(slice(None), 3))
    yield case("a negative episode", lanes__episode=put(0, -1))
    yield case("episode 2^62", lanes__episode=put(0, 2**62), lanes__current=put(0, 2**62))
    yield case("episode 2^53", 4, lanes__episode=put(0, 2**53), lanes__current=put(0, 2**53))
    yield case("an episode before its own", lanes__current=put(0, -1))
    yield case("a length of 2^40", lanes__length=put(0, 2**40))
    yield case("a negative length", lanes__length=put(0, -1))
    yield case("other actions", 4, lanes__actions=put((0, 0), 0))
    yield case("other frames", 4, lanes__frame=put((0, 0), 7.0))
    yield case("NaN frames", 4, lanes__frame=put((0, 0), np.nan))
    yield case("other rewards", 4, lanes__reward=put(0, 1e300))
    yield case("NaN rewards", 4, lanes__reward=put(0, np.nan))
    yield case("another checksum", 4, lanes__checksum=put(0, -1))
    yield case("a frame of another shape", lanes__frame=np.zeros((2, 5), np.float32))
    yield case("a frame of 64 bits", lanes__frame=lambda a: a.astype(np.float64))
    yield case("more environments", lanes__first=np.zeros(3, np.bool_))
    yield case("a stack where there is none", actor__stack=np.zeros((2, 4, 4), np.float32))
    yield case("a result of another length", learner__result=np.zeros(1000, np.float32))
    yield case("a result of NaN", GOOD, learner__result=np.full(3, np.nan, np.float32))
    yield Case("loop: an array is missing", lambda s: s.arrays(LOOP, lambda a: a.pop("lanes.begun")), GOOD)
    more = np.zeros(1)
    yield Case(
        "loop: a strange name", lambda s: s.arrays(LOOP, lambda a: a.update({"lanes.../../x": more})), GOOD, GOOD
    )
    yield Case("loop: __class__", lambda s: s.arrays(LOOP, lambda a: a.update({"memory.__class__": more})), GOOD)
    yield from memory_cases(case, put)


def memory_cases(case: Callable[..., Case], put: Callable[[Any, Any], Any]) -> Iterator[Case]:
    """The small arrays of the replay memory."""
    for name, counters in {
        "negative": [-1, -1, -1],
        "2^62": [2**62, 2**62 - 10, 2**62 - 2],
        "more rows than its capacity": [500, 0, 400],
        "more rows than frames": [44, 0, 60],
        "rows backwards": [44, 39, 0],
        "other rows than the segments": [44, 0, 30],
        "other frames than the segments": [60, 0, 39],
        "no rows": [44, 39, 39],
        "of an empty memory": [0, 0, 0],
    }.items():
        yield case(f"counters {name}", memory__counters=np.array(counters))
    yield case("counters of 32 bits", memory__counters=np.zeros(3, np.int32))
    yield case("a fourth counter", memory__counters=np.zeros(4, np.int64))
    for name, frame in {"negative": -1, "yet to come": 44, "far away": 2**62}.items():
        yield case(f"stack {name}", memory__stacks=put((0, 0), frame))
        yield case(f"window {name}", memory__window__obs=put((1, 1), frame))
    yield case("window with an action that there is not", memory__window__action=put((1, 1), 2))
    yield case("window with a negative action", memory__window__action=put((1, 1), -1))
    yield case("window with a reward of NaN", memory__window__reward=put((1, 1), np.nan))
    yield case("window with an infinite reward", memory__window__reward=put((1, 1), np.inf))
    yield case("windows from before the beginning", memory__window__oldest=put(0, -5))
    yield case("more windows than there can be", memory__window__oldest=put(0, 0))
    yield case("windows yet to come", memory__window__oldest=put(0, 2**40))
    yield case("windows of step 2^62", memory__window__step=np.array(2**62))
    yield case("windows of a negative step", memory__window__step=np.array(-1))
    for name, value in {"NaN": np.nan, "negative": -1.0, "infinite": np.inf, "zero": 0.0, "1e300": 1e300}.items():
        yield case(f"a priority {name}", memory__priority__leaves=put(3, value))
    yield case("a priority of a row that is gone", memory__priority__leaves=put(90, 1.0))
    for name, value in {"NaN": np.nan, "infinite": np.inf, "negative": -1.0, "1e300": 1e300, "small": 1e-9}.items():
        yield case(f"the largest priority {name}", memory__priority__largest=np.array(value))
    yield case("more priorities than rows", memory__priority__leaves=np.ones(101))


# --- segments ---


def segment_cases() -> Iterator[Case]:
    def entries(name: str, change: Callable[[list[Json]], object]) -> Case:
        return Case(f"segments: {name}", lambda s: s.manifest(lambda m: change(m["segments"])), GOOD)

    for name in (
        "../../x",
        "/etc/passwd",
        "frames\x00",
        "frames\n",
        "rows/../../x",
        "",
        "FRAMES",
        None,
        7,
        ["rows"],
        {},
    ):
        yield entries(f"ring {name!r}", lambda found, n=name: found[0].update(ring=n))
    for key, values in {
        "begin": (-1, 44, 2**70, 1.0, "0", None, True, []),
        "end": (-1, 0, 16_385, 2**70, 44.0, "44", None),
        "bytes": (-1, 0, 10**12, 1.5, "704", None),
        "sha256": ("../../../../etc/passwd", "0" * 64, "A" * 64, "0" * 16, "", None, 7, "0" * 63 + "\n", "/" * 64),
    }.items():
        for value in values:
            yield entries(f"{key} {value!r:.80}", lambda found, k=key, v=value: found[0].update({k: v}))
    yield entries("a path", lambda found: found[0].update(file="../../x"))
    yield entries("a key is missing", lambda found: found[0].pop("bytes"))
    yield entries("text", lambda found: found.append("../../x"))
    yield entries("twice the same", lambda found: found.append(found[0]))
    yield entries("one is missing", lambda found: found.pop())
    yield entries("5,000 times the same", lambda found: found.extend([found[0]] * 5_000))
    yield entries("of another block", lambda found: found[0].update(begin=16_384, end=16_428))
    for name, value in {"an object": {}, "text": "../../x", "null": None, "a number": 7}.items():
        yield Case(f"segments are {name}", lambda s, v=value: s.manifest(lambda m: m.update(segments=v)))
    for ring in ("frames", "rows"):
        yield Case(f"{ring}: a bomb", lambda s, r=ring: s.segment(r, bomb(1 << 32)), GOOD)
        yield Case(f"{ring}: a byte too many", lambda s, r=ring: s.segment(r, resized(s, r, 1)), GOOD)
        yield Case(f"{ring}: a byte too few", lambda s, r=ring: s.segment(r, resized(s, r, -1)), GOOD)
    yield Case("rows: cut", lambda s: s.segment("rows", s.segment_file("rows").read_bytes()[:-9]), GOOD)
    yield Case("rows: more behind it", lambda s: s.segment("rows", s.segment_file("rows").read_bytes() + b"x"), GOOD)
    yield Case("rows: a dictionary wanted", lambda s: s.segment("rows", b"\x78\xbb\x00\x00\x00\x01\x00"), GOOD)
    yield Case("rows: no zlib", lambda s: s.segment("rows", bytes(range(200))), GOOD)
    yield Case("rows: gone", lambda s: s.segment_file("rows").unlink(), GOOD)
    yield Case("rows: another checksum", lambda s: s.segment_file("rows").write_bytes(b"x" * 212), GOOD)
    yield Case("rows: 1 GB that are not there", lambda s: sparse(s, 1), GOOD)
    yield Case("rows: 100 MB, 2,000 times", lambda s: sparse(s, 2_000, 100 << 20), GOOD)
    yield from record_cases()


def bomb(size: int) -> bytes:
    """Some megabytes that inflate to `size`."""
    stream, megabyte = zlib.compressobj(9), bytes(1 << 20)
    head = stream.compress(megabyte) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(megabyte) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size >> 20)


def resized(s: Stranger, ring: str, by: int) -> bytes:
    raw = zlib.decompress(s.segment_file(ring).read_bytes())
    return zlib.compress(raw + b"x" if by > 0 else raw[:by])


def sparse(s: Stranger, times: int, size: int = 1 << 30) -> None:
    """A segment that takes no room, but long to read; its checksum is right where it is small enough to compute."""
    digest = sha256(bytes(size)).hexdigest() if size < 1 << 28 else "0" * 64
    old = s.segment_file("rows")
    old.unlink()

    def change(manifest: Json) -> None:
        rows = next(segment for segment in manifest["segments"] if segment["ring"] == "rows")
        rows.update(bytes=size, sha256=digest)
        manifest["segments"] += [rows] * (times - 1)

    s.manifest(change)
    path = old.parent / f"rows-{0:012d}-{39:012d}-{digest[:16]}.z"
    with path.open("wb") as file:
        file.truncate(size)


def record_cases() -> Iterator[Case]:
    """What the memory's own records say."""

    def rows(name: str, field: str, index: Any, value: Any, resume: Answer = REFUSED) -> Case:
        def change(records: Any) -> None:
            records[field][index] = value

        return Case(f"rows: {name}", lambda s: s.records("rows", change), GOOD, resume)

    yield rows("a frame before the first", "ids", (3, 0, 0), -1)
    yield rows("a frame yet to come", "ids", (3, 1, 0), 44)
    yield rows("a frame 2^62", "ids", (3, 1, 0), 2**62)
    yield rows("a frame -2^62", "ids", (3, 0, 0), -(2**62))
    yield rows("from the future", "ids", (3, 0, 0), 43)
    yield rows("a negative action", "action", 3, -1)
    yield rows("an action that there is not", "action", 3, 2)
    yield rows("action 2^30", "action", 3, 2**30)
    yield rows("a reward of NaN", "reward", 3, np.nan)
    yield rows("an infinite reward", "reward", 3, -np.inf)
    yield rows("a discount of NaN", "discount", 3, np.nan)
    yield rows("a discount of 2", "discount", 3, 2.0)
    yield rows("a negative discount", "discount", 3, -0.5)
    yield rows("rewards of 10^30", "reward", slice(None), 1e30, OTHER)
    yield Case("frames: NaN", lambda s: s.records("frames", lambda frames: frames.fill(np.nan)), GOOD)
    yield Case("frames: infinite", lambda s: s.records("frames", lambda frames: frames.fill(np.inf)), GOOD)


# --- manifests and log files ---


def manifest_cases() -> Iterator[Case]:
    def case(name: str, change: Callable[[Json], object], evaluate: Answer = REFUSED, resume: Answer = REFUSED) -> Case:
        return Case(f"manifest: {name}", lambda s: s.manifest(change), evaluate, resume)

    for name in ("../../x", "/etc/passwd", "a\x00b", "a\nb", "model.pt", "MANIFEST.json", ".", ""):
        yield case(f"a file {name!r}", lambda m, n=name: m["files"].update({n: m["files"][MODEL]}))
    for value in (-1, 2**70, "896", None, 1.0, True, []):
        yield case(f"bytes {value!r:.20}", lambda m, v=value: m["files"][MODEL].update(bytes=v))
    for value in ("0" * 64, None, 7, ["0"], "../../x"):
        yield case(f"sha256 {value!r:.20}", lambda m, v=value: m["files"][MODEL].update(sha256=v))
    yield case("an entry is text", lambda m: m["files"].update({MODEL: "../../x"}))
    yield case("no weights", lambda m: m["files"].pop(MODEL))
    yield case("no files", lambda m: m.update(files=[]))
    for value in (0, 3, 10**30, -1, "2", None, 2.0, True, [2]):
        yield case(f"format {value!r:.20}", lambda m, v=value: m.update(format=v))
    for value in (-1, 2**63, 10**4000, "40", 40.0, None, True):
        yield case(f"step {value!r:.20}", lambda m, v=value: m.update(step=v))
    yield case("step 39", lambda m: m.update(step=39), GOOD)
    yield case("step 2^62", lambda m: m.update(step=2**62), GOOD)
    yield case("_target_", lambda m: m.update(_target_="os.system"))
    yield case("no segments", lambda m: m.pop("segments"))
    for value in ([], "x", None, 7):
        yield case(f"fingerprint {value!r}", lambda m, v=value: m.update(fingerprint=v))
    yield Case("manifest: unsealed", unsealed)
    yield Case("manifest: of format 1", of_format_1, GOOD)
    yield Case("manifest: empty", lambda s: (s.checkpoint / "MANIFEST.json").write_bytes(sealed({})))
    yield from fingerprint_cases()


def unsealed(s: Stranger) -> None:
    path = s.checkpoint / "MANIFEST.json"
    path.write_text(path.read_text().replace(f'"step": {STEP}', f'"step": {STEP + 1}'))


def of_format_1(s: Stranger) -> None:
    path = s.checkpoint / "MANIFEST.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"format": 1, "step": content["step"], "files": content["files"]}))


def fingerprint_cases() -> Iterator[Case]:
    """What a checkpoint says of the run's log files, its circumstances and its time."""

    def case(name: str, change: Callable[[Json], object], resume: Answer = REFUSED) -> Case:
        return Case(f"logs: {name}", lambda s: s.manifest(lambda m: change(m["fingerprint"])), GOOD, resume)

    event = "events.out.tfevents.0000000001.1"
    for name in ("../../x", "../secret.txt", "/etc/passwd", "manifest.json", "config.yaml", "a\x00", "a\nb", ""):
        yield case(f"a length of {name!r}", lambda f, n=name: f["logs"].update({n: 0}))
    yield case("events elsewhere", lambda f: f["logs"].update({f"{event}/../../secret.txt": 0}))
    for value in (-1, 10**6, 2**62, 2**70, 1.0, "0", None, True, 0, 1, 100):
        yield case(f"length {value!r:.20}", lambda f, v=value: f["logs"].update({"metrics.csv": v}))
    for value in (-1, 2**62, 10**40, 1.5, "40", None, True):
        yield case(f"steps {value!r:.20}", lambda f, v=value: f["logs"].update(steps=v))
    yield case("no steps", lambda f: f["logs"].pop("steps"))
    yield case("none", lambda f: f.pop("logs"))
    yield case("no metrics", lambda f: f["logs"].pop("metrics.csv"))
    for value in ([], "x", None, 7):
        yield case(f"are {value!r}", lambda f, v=value: f.update(logs=v))
    for key, value in product(("wall_seconds", "paused_seconds"), ("x", None, [], {}, 1e308, -1e308, 10**400)):
        limit = GOOD if isinstance(value, float) else REFUSED
        yield case(f"{key} {value!r:.20}", lambda f, k=key, v=value: f["clock"].update({k: v}), limit)
    yield case("no clock", lambda f: f.pop("clock"))
    yield case("a clock of text", lambda f: f.update(clock="${oc.env:HOSTILE_SECRET}"))
    escapes = "\x1b]0;owned\x07\x1b[2J\r\nTraceback (most recent call last):\u202e"
    yield case("escapes for a version", lambda f: f["versions"].update(torch=escapes), GOOD)
    yield case("escapes for a package", lambda f: f["versions"].update({escapes: "1"}), GOOD)
    yield case("enormous versions", lambda f: f["versions"].update(torch="9" * 500_000), GOOD)
    yield case("an enormous package", lambda f: f["versions"].update({"p" * 500_000: "1"}), GOOD)
    yield case("10^4 packages", lambda f: f.update(versions={str(i): "1" for i in range(10_000)}), GOOD)
    yield case("versions of objects", lambda f: f.update(versions=[[{}]], device={"a": [1]}), GOOD)


def about_cases() -> Iterator[Case]:
    """The run's own manifest.json, from which one without a checkpoint starts again."""

    def case(name: str, change: Callable[[Json], object], resume: Answer = REFUSED) -> Case:
        def make(s: Stranger) -> None:
            s.unfinished()
            s.about(change)

        return Case(f"manifest.json: {name}", make, REFUSED, resume)

    def setting(name: str, resume: Answer = REFUSED, **settings: Any) -> Case:
        def change(about: Json) -> None:
            for key, value in settings.items():
                *sections, last = key.split("__") if not key.startswith("_") else [key]
                place = about["config"]
                for section in sections:
                    place = place[section]
                place[last] = value

        return case(name, change, resume)

    yield setting("_target_", _target_="os.system")
    yield setting("_target_ in env.kwargs", USAGE, env__kwargs={"_target_": "os.system"})
    yield setting("a variable", device="${oc.env:HOSTILE_SECRET}")
    yield setting("a variable in env.id", env__id="${oc.env:HOSTILE_SECRET}")
    yield setting("env of a module", env__id=f"{CANARY_MODULE}:X-v0")
    yield setting("env.module", USAGE, env__module=CANARY_MODULE)
    yield setting("escapes", USAGE, env__id="\x1b[2J\n\rX-v0")
    yield setting("a layer of 10^9", network__hidden=[10**9])
    yield setting("two layers of 65,536", USAGE, network__hidden=[65_536, 65_536])
    yield setting("capacity 10^12", USAGE, replay__capacity=10**12)
    yield setting("weights from elsewhere", init_from="/etc/passwd")
    yield case("no configuration", lambda about: about.pop("config"))
    yield case("a configuration of text", lambda about: about.update(config="x"))
    yield case("a configuration that is a list", lambda about: about.update(config=[1]))
    yield case("an empty configuration", lambda about: about.update(config={}))

    def instead(name: str, make: Make) -> Case:
        return Case(f"manifest.json: {name}", lambda s: (s.unfinished(), make(s)))

    for name, data in {**texts(), "a pickle": pickles()["reduce of protocol 2"]}.items():
        yield instead(name, lambda s, d=data: (s.run / "manifest.json").write_bytes(d))
    yield instead("a link", lambda s: s.link("manifest.json"))
    yield instead("a link to the secret", lambda s: s.link("manifest.json", s.secret))
    yield instead("a pipe", lambda s: s.in_place_of("manifest.json", os.mkfifo))
    yield instead("a folder", lambda s: s.in_place_of("manifest.json", Path.mkdir))


# --- the file system ---


def place_cases() -> Iterator[Case]:
    files = {MODEL: REFUSED, CONFIG: REFUSED, STATE: REFUSED, "MANIFEST.json": REFUSED, OPTIMIZER: GOOD, LOOP: GOOD}
    for name, evaluate in files.items():
        below = f"{CHECKPOINT}/{name}"
        yield Case(f"{name} is a link", lambda s, b=below: s.link(b), evaluate)
        yield Case(f"{name} is a pipe", lambda s, b=below: s.in_place_of(b, os.mkfifo), evaluate)
        yield Case(f"{name} is a folder", lambda s, b=below: s.in_place_of(b, Path.mkdir), evaluate)
    weights = f"{CHECKPOINT}/{MODEL}"
    for name, to in {"/dev/zero": "/dev/zero", "itself": MODEL, "nothing": "nothing", "a folder": "/"}.items():
        yield Case(f"{MODEL} is a link to {name}", lambda s, t=to: s.link(weights, t))
    yield Case(f"{MODEL} is a socket", lambda s: s.in_place_of(weights, bound))
    yield Case(f"{MODEL} is of no size", lambda s: (s.checkpoint / MODEL).write_bytes(b""))
    yield Case(f"{MODEL} is gone", lambda s: (s.checkpoint / MODEL).unlink())
    yield Case(f"{MODEL} has 8 TB that are not there", lambda s: os.truncate(s.checkpoint / MODEL, 1 << 42))
    yield Case(
        "MANIFEST.json has 8 TB that are not there", lambda s: os.truncate(s.checkpoint / "MANIFEST.json", 1 << 42)
    )
    yield Case("the checkpoint is a link", lambda s: s.link(CHECKPOINT))
    yield Case("checkpoints is a link", lambda s: s.link("checkpoints"))
    yield Case(
        "checkpoints is a file",
        lambda s: (s.link("checkpoints"), s.in_place_of("checkpoints", Path.touch)),
        resume=None,
    )
    yield Case("the checkpoint is a file", lambda s: (s.unfinished(), s.checkpoint.write_bytes(b"x")), resume=None)
    yield Case("replay is a link", lambda s: s.link("replay"), GOOD)
    yield Case("replay is a file", lambda s: (s.link("replay"), s.in_place_of("replay", Path.touch)), GOOD)
    for name, make in {"a link": None, "a pipe": os.mkfifo, "a folder": Path.mkdir}.items():
        yield Case(f"a segment is {name}", partial(segment_as, make=make), GOOD)
    for log in ("metrics.csv", "episodes.csv", "timing.csv"):
        yield Case(f"{log} is a link", lambda s, n=log: s.link(n), GOOD)
        yield Case(f"{log} is a pipe", lambda s, n=log: s.in_place_of(n, os.mkfifo), GOOD)
    yield Case("metrics.csv is a folder", lambda s: s.in_place_of("metrics.csv", Path.mkdir), GOOD)
    for log in ("metrics.csv", "episodes.csv"):
        yield Case(f"{log} is also another file", partial(shared, name=log), GOOD)
    yield Case("metrics.csv is another table", lambda s: (s.run / "metrics.csv").write_text("a\n" * 1_000), GOOD)
    yield Case(
        "an event file is a link",
        lambda s: (s.run / event_of(s)).rename(s.folder / "e") and s.link(event_of(s), s.folder / "e"),
        GOOD,
    )
    for name in (
        "config.yaml",
        ".tmp-config.yaml",
        ".tmp-manifest.json",
        "traceback.txt",
        "stacks.txt",
        "run.lock",
        "eval",
    ):
        resume = REFUSED
        evaluate = REFUSED if name == "eval" else GOOD
        yield Case(
            f"{name} is a link", lambda s, n=name: s.link(n, s.secret if n != "eval" else s.folder), evaluate, resume
        )
    for name in (".tmp-config.yaml", ".tmp-manifest.json", "stacks.txt", "run.lock", "config.yaml"):
        also = partial(Stranger.in_place_of, name=name)
        harmless = (GOOD, REFUSED, STORAGE)  # as long as the secret is as it was
        yield Case(
            f"{name} is also the secret", lambda s, a=also: a(s, make=partial(os.link, s.secret)), GOOD, harmless
        )
        yield Case(f"{name} is a pipe", lambda s, a=also: a(s, make=os.mkfifo), GOOD, NOT_OUT)
    for name in (OUT, f"{OUT}/eval.json", f"{OUT}/episodes.csv"):
        lead = partial(led, name=name)
        yield Case(f"{name} is a link", partial(lead, make=lambda s, path: path.symlink_to(s.secret)), NOT_OUT, None)
        yield Case(f"{name} is a pipe", partial(lead, make=lambda s, path: os.mkfifo(path)), NOT_OUT, None)
        if name != OUT:
            yield Case(f"{name} is the secret", partial(lead, make=lambda s, p: os.link(s.secret, p)), NOT_OUT, None)
    yield Case("run.lock is a folder", lambda s: s.in_place_of("run.lock", Path.mkdir), GOOD, (REFUSED, STORAGE))
    yield Case("eval is a file", lambda s: (s.run / "eval").write_text("x"), STORAGE, GOOD)
    yield from name_cases()


def shared(s: Stranger, name: str) -> None:
    """A file that is outside too, under another name."""
    (s.run / name).rename(s.folder / name)
    os.link(s.folder / name, s.run / name)


def led(s: Stranger, name: str, make: Callable[[Stranger, Path], object]) -> None:
    """Something where `dqn-eval` would write."""
    path = s.run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make(s, path)


def event_of(s: Stranger) -> str:
    return next((path.name for path in s.run.iterdir() if path.name.startswith("events.")), "events")


def bound(path: Path) -> None:
    """A socket; its name may be too long for where the tests are."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            os.chdir(path.parent)
            server.bind(path.name)
        finally:
            os.chdir(here)


def segment_as(s: Stranger, make: Callable[[Path], object] | None) -> None:
    name = str(s.segment_file("frames").relative_to(s.run))
    if make is None:
        s.link(name)
    else:
        s.in_place_of(name, make)


def name_cases() -> Iterator[Case]:
    """Names of folders and files, and what is no folder at all."""

    def called(name: str, evaluate: Answer = REFUSED, resume: Answer = REFUSED) -> Case:
        def make(s: Stranger) -> None:
            s.put(MODEL, b"")
            s.run.rename(s.folder / name)

        return Case(f"a folder called {name[:30]!r}", make, evaluate, resume, target=name)

    for name in (
        "run\nTraceback (most recent call last):",
        "\x1b[2J\x07run",
        "-rf",
        "${oc.env:HOSTILE_SECRET}",
        "a=b",
        "~",
    ):
        yield called(name)
    yield called("n" * 255)
    for target in (
        "nothing",
        "secret.txt",
        "http://localhost/run",
        "/dev/zero",
        "/dev/null",
        "/",
        "../../../..",
    ):
        yield Case(f"the target {target!r}", lambda s: None, target=target)
    yield Case("a target of 5,000 letters", lambda s: None, target="x" * 5_000)
    yield Case("a pipe as the target", lambda s: os.mkfifo(s.folder / "pipe"), target="pipe")
    yield Case("a link to itself as the target", lambda s: (s.folder / "loop").symlink_to("loop"), target="loop")
    yield Case("the checkpoint's folder as the target", lambda s: s.put(MODEL, b""), target=f"run/{CHECKPOINT}")
    yield Case("an empty folder", lambda s: (s.folder / "empty").mkdir(), target="empty")
    yield Case("2,000 hollow checkpoints", hollow)
    yield Case("strange names", strange_names, GOOD, GOOD)


def hollow(s: Stranger) -> None:
    s.put(MODEL, b"")
    for step in range(2_000):
        (s.run / f"checkpoints/step-{999_000_000 + step}").mkdir()


def strange_names(s: Stranger) -> None:
    """Checkpoints and segments that are none."""
    for name in ("step-000000099\n", "step-..", "step-000000099.pt", "STEP-000000099", "-rf", "step-99", "\x1b[2J"):
        (s.run / "checkpoints" / name).mkdir()
        (s.run / "replay" / name).mkdir()
    (s.run / "checkpoints/best-000000099").write_bytes(b"x")


def cases() -> list[Case]:
    """All of them."""
    every = [
        *pickle_cases(),
        *header_cases(),
        *json_cases(),
        *config_cases(),
        *weight_cases(),
        *optimizer_cases(),
        *state_cases(),
        *loop_cases(),
        *segment_cases(),
        *manifest_cases(),
        *about_cases(),
        *place_cases(),
    ]
    names = [case.name for case in every]
    assert not (twice := {name for name in names if names.count(name) > 1}), twice
    return every
