"""A process that imports everything once, and forks a child for each command that is given a stranger's file.

Requests and answers are lines of JSON on stdin and stdout; the first answer, an empty object, says that it is ready.
A child has an audit hook that tells of whatever no good file makes the commands do, little memory and little time.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryFile
from typing import Any, BinaryIO

MORE_BYTES = 1 << 30  # of address space, than there were after everything was imported
FILE_BYTES = 1 << 28  # a file that grows beyond this ends the child
LIMIT_S = 20.0
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# what is judged by its kind and its subject: allowed where a good file leads to the same
KINDS = ("exec", "import", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
KIND_PREFIXES = ("socket.", "ctypes.", "pickle.", "marshal.", "code.__new__", "urllib.", "webbrowser.", "pty.")
# what is judged by its place: the positions of paths and of the folders' descriptors that they are relative to
PLACES: dict[str, list[tuple[int, int | None]]] = {
    "os.chmod": [(0, 2)],
    "os.chown": [(0, 3)],
    "os.link": [(0, 2), (1, 3)],
    "os.mkdir": [(0, 2)],
    "os.remove": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)],
    "os.rmdir": [(0, 1)],
    "os.symlink": [(1, 2)],
    "os.truncate": [(0, None)],
    "os.utime": [(0, 3)],
}


class Hook:
    """Learns what is usual while it is `learning`; after `judge`, tells at once of anything else."""

    def __init__(self) -> None:
        self.learning = True
        self._usual: set[tuple[str, str]] = set()
        self._inside: list[str] | None = None
        self._told = -1

    def judge(self, inside: list[str], told: int) -> None:
        """From now on write a line to the descriptor `told` for whatever is unusual, or written but not `inside`."""
        self._inside, self._told = [os.path.realpath(path) for path in inside], told

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self._open(*arguments)
        elif event in PLACES:
            for path, folder in PLACES[event]:
                at = -1 if folder is None else arguments[folder]
                self._written(event, arguments[path], at, follow=event == "os.truncate")
        elif event in KINDS or event.startswith(KIND_PREFIXES):
            self._done(event, subject(event, arguments))

    def _done(self, event: str, what: str) -> None:
        if self.learning:
            self._usual.add((event, what))
        elif self._inside is not None and (event, what) not in self._usual:
            self._tell(f"{event} {what[:200]}")

    def _open(self, path: Any, mode: Any, flags: Any) -> None:
        written = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING)
        if written and not isinstance(path, int):
            exclusive = isinstance(flags, int) and flags & (os.O_NOFOLLOW | os.O_EXCL)
            self._written("open", path, -1, follow=not exclusive)

    def _written(self, event: str, path: Any, at: int, follow: bool) -> None:
        if self._inside is None or isinstance(path, int):
            return
        try:
            name = os.fsdecode(path)
            if at >= 0:
                name = os.path.join(os.readlink(f"/proc/self/fd/{at}"), name)
            if follow:
                name = os.path.realpath(name)
            else:
                name = os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))
        except (OSError, ValueError):  # there is no such path
            return
        if name != os.devnull and not any(f"{name}/".startswith(f"{place}/") for place in self._inside):
            self._tell(f"{event} {name}")

    def _tell(self, line: str) -> None:
        os.write(self._told, ascii(line).encode() + b"\n")


def subject(event: str, arguments: tuple[Any, ...]) -> str:
    """What an event is about: a program's name, a module's, the text of code."""
    if event == "exec":
        code = arguments[0]
        return repr((code.co_name, code.co_names, code.co_consts) if hasattr(code, "co_name") else code)
    if event == "subprocess.Popen":
        return str(arguments[0])
    return repr(arguments[:2])


def main(good: list[str]) -> None:
    """Learn from commands that succeed or are refused as they should, then serve until the input ends."""
    hook = Hook()
    sys.addaudithook(hook)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    commands = imported()
    for line in good:
        code, (program, *words) = json.loads(line)
        if commands[program](words) != code:
            raise SystemExit(f"expected exit code {code} of {program} {words}")
    hook.learning = False
    gc.collect()
    gc.disable()  # a child that looks for garbage would copy all pages
    print("{}", file=answers)
    for line in sys.stdin:
        print(json.dumps(served(hook, commands, json.loads(line))), file=answers)


def imported() -> dict[str, Any]:
    """The commands by name, with all that they import late."""
    import gymnasium.envs.classic_control
    import gymnasium.envs.toy_text  # noqa: F401
    from omegaconf import OmegaConf

    import dqn_cli
    from dqn_cli.cli import main
    from dqn_cli.config import CHOICES

    for module in walk_packages(dqn_cli.__path__, "dqn_cli."):
        import_module(module.name)
    for choices in CHOICES.values():
        for choice in choices.values():
            OmegaConf.structured(choice)  # which evaluates its annotations
    ctypes.CDLL(None)
    return {"dqn-train": main.train, "dqn-eval": main.evaluate, "play": play}


def play(words: list[str]) -> int:
    """What no command must do, so that the tests of the hook see it fail: the words are a program."""
    exec(" ".join(words))
    return 0


def served(hook: Hook, commands: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a child; how it ended."""
    with TemporaryFile() as out, TemporaryFile() as err, TemporaryFile() as told:
        begin, child = time.monotonic(), os.fork()
        if child == 0:
            os._exit(obey(hook, commands, request, out, err, told))
        status, usage = waited(child, begin + LIMIT_S)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - begin,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "stdout": text(out),
            "stderr": text(err),
            "seen": text(told).splitlines(),
        }


def obey(
    hook: Hook, commands: dict[str, Any], request: dict[str, Any], out: BinaryIO, err: BinaryIO, told: BinaryIO
) -> int:
    """In the child: its exit code. Python's own handling of what escapes is that of a program's end."""
    try:
        os.chdir(request["cwd"])
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hook.judge(request["inside"], told.fileno())
        code = commands[request["program"]](request["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"escaped: {error!r}\n".encode())
        return 1
    return int(code)


def waited(child: int, until: float) -> tuple[int, Any]:
    """The child's status and usage; it is killed when its time is up."""
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage
        time.sleep(0.003)


def text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(1 << 20).decode("utf-8", "backslashreplace")


if __name__ == "__main__":
    main(sys.argv[1:])
