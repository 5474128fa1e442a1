"""What could execute a file's content, or write where a file says, is nowhere in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "dqn_cli").rglob("*.py"))

# modules that nothing is imported from
MODULES = {
    *("_pickle", "cPickle", "cloudpickle", "code", "codeop", "copyreg", "dill", "imp", "joblib", "jsonpickle"),
    *("marshal", "pickle", "pickletools", "runpy", "shelve", "tarfile", "xmlrpc", "yaml", "zipfile", "zipimport"),
    *("hydra.utils", "hydra._internal.instantiate", "numpy.lib.npyio", "pandas", "torch.hub", "torch.jit"),
    *("torch.package", "torch.serialization", "torch.utils.cpp_extension", "numpy.ctypeslib"),
}
# names that nothing is called by, whatever they belong to; with the module where others are called so too
CALLS = {
    *("eval", "exec", "execfile", "compile", "__import__", "breakpoint", "input", "instantiate", "get_class"),
    *("get_method", "get_object", "call", "unsafe_load", "full_load", "load_module", "exec_module", "run_path"),
    *("run_module", "system", "popen", "getoutput", "getstatusoutput", "spawnl", "spawnv", "execv", "execve", "execvp"),
    *("fromfile", "memmap", "genfromtxt", "loadtxt", "extractall", "mktemp", "open_memmap", "read_pickle"),
    *("torch.load", "torch.save", "numpy.load", "np.load", "numpy.save", "np.save", "numpy.savez", "np.savez"),
    *("OmegaConf.load", "OmegaConf.register_new_resolver", "OmegaConf.resolve", "safetensors.torch.load_file"),
    *("safetensors.numpy.load_file", "safe_open", "ctypes.CDLL", "torch.ops.load_library", "shutil.unpack_archive"),
}
HARMLESS = {"re.compile", "torch.compile", "platform.system"}
NAMES = {"__reduce__", "__reduce_ex__", "__setstate__", "_target_"}
KEYWORDS = {"shell", "allow_pickle", "weights_only", "pickle_module", "preexec_fn"}
EXCEPTIONS = {
    "envs/make.py": {"import_module"},  # whose name the user has written
    "plugins.py": {"import_module"},  # the same
    "study/runs.py": {"yaml"},  # its safe loader, and no file is trusted to be small
    "tuning/space.py": {"yaml.YAMLError", "OmegaConf.load"},  # a file that the user has named
    "cli/tune_preset.py": {"yaml"},  # to write
    "envs/minatar.py": {"exec_module"},  # of a file that a table names
    "cli/composition.py": {"_target_"},  # looked at, of Hydra's own
    "cli/hydra_app.py": {"register_new_resolver"},  # for our own conf/
}


def faults(source: str, allowed: frozenset[str] | set[str] = frozenset()) -> Iterator[str]:
    """What must not be there, each with its line."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names=names):
                yield from (f"{line}: import {n.name}" for n in names if banned(n.name) and n.name not in allowed)
            case ast.ImportFrom(module=str(module), names=names):
                every = [f"{module}.{n.name}" for n in names]
                yield from (f"{line}: import {name}" for name in every if banned(name) and name not in allowed)
            case ast.Call(func=function, keywords=keywords):
                name = dotted(function)
                last = name.rpartition(".")[2]
                executes = name in CALLS or last in CALLS or last == "import_module"
                if executes and name not in HARMLESS | allowed and last not in allowed:
                    yield f"{line}: {name}()"
                yield from (f"{line}: {k.arg}=" for k in keywords if k.arg in KEYWORDS)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES - allowed:
                yield f"{line}: {name}"
            case ast.FunctionDef(name="__reduce__" | "__reduce_ex__" | "__setstate__" | "__getstate__" as name):
                yield f"{line}: {name}"


def banned(name: str) -> bool:
    """Whether it is one of the modules, or below one; or a call of them under its own name."""
    parts = name.split(".")
    return name in CALLS or any(".".join(parts[: n + 1]) in MODULES for n in range(len(parts)))


def dotted(function: ast.expr) -> str:
    """A called expression as it is written: `a.b.c`, with `?` for what is no name."""
    match function:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{dotted(value)}.{attribute}"
        case _:
            return "?"


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT / "dqn_cli")))
def test_nothing_in_the_package_executes_data(path: Path) -> None:
    name = path.relative_to(ROOT / "dqn_cli").as_posix()
    assert list(faults(path.read_text(), EXCEPTIONS.get(name, set()))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "import os, marshal",
        "import joblib.numpy_pickle",
        "from pickle import loads",
        "from hydra.utils import instantiate",
        "from hydra import utils",
        "from torch import load; from numpy import load",
        "import yaml",
        "import torch; torch.load(file)",
        "import torch; torch.load(file, weights_only=True)",
        "import numpy as np; np.load(file)",
        "import numpy as np; f(file, allow_pickle=False)",
        "hydra.utils.instantiate(config)",
        "instantiate(config)",
        "eval('1')",
        "builtins.exec(text)",
        "(lambda: compile)()(1); compile(text, '', 'exec')",
        "__import__(name)",
        "importlib.import_module(name)",
        "import_module(name)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "os.popen(command)",
        "yaml.unsafe_load(text)",
        "OmegaConf.load(path)",
        "OmegaConf.register_new_resolver('x', f)",
        "np.memmap(path)",
        "np.fromfile(path)",
        "shutil.unpack_archive(path)",
        "class A:\n    def __reduce__(self): ...",
        "class A:\n    def __setstate__(self, state): ...",
        "f(x.__reduce__)",
    ],
)
def test_the_rules_see(line: str) -> None:
    assert list(faults(line)) != []


@pytest.mark.parametrize(
    "line",
    [
        "import json; json.loads(text)",
        "import safetensors.numpy; safetensors.numpy.load(data)",
        "import subprocess; subprocess.run(command)",
        "import re; re.compile('x').match(text)",
        "store.load(segments, rings)",
        "self.memory.load(small, fill)",
        "import zlib; zlib.decompressobj()",
    ],
)
def test_the_rules_let_pass(line: str) -> None:
    assert list(faults(line)) == []


@pytest.mark.parametrize(("name", "allowed"), EXCEPTIONS.items())
def test_an_exception_is_needed(name: str, allowed: set[str]) -> None:
    seen = "\n".join(faults((ROOT / "dqn_cli" / name).read_text()))
    assert all(word in seen for word in allowed)
