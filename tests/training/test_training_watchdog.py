"""Mostly in child processes, that the watchdog may end."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import timeit
from pathlib import Path

import pytest

from dqn_cli.training.watchdog import LAST_RESORT, STACKS, Watchdog

HEAD = """
import ctypes, os, re, signal, sys, threading, time
from pathlib import Path
from dqn_cli.training.watchdog import Watchdog

dog = Watchdog(float(sys.argv[1]), Path(sys.argv[2]), lambda: "the last checkpoint is step 7")
"""
ADVICE = "the last checkpoint is step 7"


def child(folder: Path, code: str, stall_s: float = 0.4) -> tuple[int, str, float]:
    """Exit code, stderr, and the seconds since the child said that it begins."""
    command = [sys.executable, "-c", HEAD + "print(flush=True)\n" + textwrap.dedent(code), str(stall_s), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begin = time.monotonic()
        try:
            errors = process.communicate(timeout=25)[1]
        finally:
            process.kill()
        return process.returncode, errors, time.monotonic() - begin


def test_a_call_that_does_not_return(tmp_path: Path) -> None:
    code, errors, seconds = child(
        tmp_path,
        """
        def stuck_step():
            time.sleep(30)
        with dog:
            dog.beat()
            stuck_step()
        """,
    )
    assert code == 4
    assert errors == f"dqn-train: error: no step for 0.4 s; the stacks are in {tmp_path / STACKS}; {ADVICE}\n"
    stacks = (tmp_path / STACKS).read_text()
    assert "in stuck_step" in stacks
    assert "in _watch" in stacks  # all threads
    assert 0.35 < seconds < 20


def test_a_native_call_that_never_looks_at_signals_but_lets_threads_run(tmp_path: Path) -> None:
    code, errors, _ = child(
        tmp_path,
        """
        def stuck_step():
            while True:
                ctypes.CDLL(None).usleep(100_000)
        signal.signal(signal.SIGTERM, lambda *_: time.sleep(30))  # a handler that never ends is one, too
        with dog:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            stuck_step()
        """,
    )
    assert code == 4
    assert ADVICE in errors
    assert "in stuck_step" in (tmp_path / STACKS).read_text()


@pytest.mark.parametrize(
    "call",
    [
        "re.match(r'(a+)+$', 'a' * 64 + 'b')",
        "ctypes.PyDLL(None).sleep(30)",
    ],
)
def test_a_native_call_that_keeps_the_interpreter_locked(tmp_path: Path, call: str) -> None:
    code, errors, seconds = child(tmp_path, f"with dog:\n    {call}", stall_s=0.2)
    assert code == 1
    assert "<module>" in errors
    assert errors.startswith("Timeout")
    assert os.listdir(tmp_path) == []
    assert 0.9 * LAST_RESORT * 0.2 < seconds < 20


def test_a_healthy_run_outlives_it_and_nothing_is_left_behind(tmp_path: Path) -> None:
    code, errors, seconds = child(
        tmp_path,
        """
        with dog:
            for _ in range(35):
                time.sleep(0.05)
                dog.beat()
        assert threading.active_count() == 1
        time.sleep(1.55)
        """,
        stall_s=0.25,
    )
    assert (code, errors) == (0, "")
    assert seconds > 3.2  # twice as long as the last resort
    assert os.listdir(tmp_path) == []


def test_long_work_of_our_own(tmp_path: Path) -> None:
    code, errors, _ = child(
        tmp_path,
        """
        with dog:
            with dog.pausing():
                time.sleep(0.8)
                with dog.pausing():
                    time.sleep(0.1)
                time.sleep(0.8)
            time.sleep(0.15)
            try:
                with dog.pausing():
                    raise OSError
            except OSError:
                print("after the pause", file=sys.stderr)
            time.sleep(30)
        """,
        stall_s=0.4,
    )
    assert code == 4
    assert re.fullmatch(r"after the pause\ndqn-train: error: no step .*\n", errors)


def test_a_process_that_was_stopped_for_longer_is_not_stuck(tmp_path: Path) -> None:
    script = HEAD + textwrap.dedent(
        """
        with dog:
            print(flush=True)
            begin = time.monotonic()
            while time.monotonic() - begin < 1.8:
                time.sleep(0.01)
                dog.beat()
        """
    )
    command = [sys.executable, "-c", script, "0.4", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        errors = process.communicate(timeout=25)[1]
    assert (process.returncode, errors) == (0, "")


def test_stacks_are_added_and_never_through_a_link(tmp_path: Path) -> None:
    (tmp_path / STACKS).write_text("older ones\n")
    assert child(tmp_path, "with dog: time.sleep(30)", stall_s=0.2)[0] == 4
    assert re.match(r"older ones\n(Current t|T)hread 0x", (tmp_path / STACKS).read_text())
    (tmp_path / STACKS).rename(tmp_path / "victim")
    before = (tmp_path / "victim").read_bytes()
    for make in (lambda path: path.symlink_to(tmp_path / "victim"), os.mkfifo, os.mkdir):
        make(tmp_path / STACKS)
        code, errors, _ = child(tmp_path, "with dog: time.sleep(30)", stall_s=0.2)
        assert code == 4
        assert re.fullmatch(
            r"(Current t|T)hread 0x[^$]+\ndqn-train: error: no step for 0.2 s; the stacks are above; .*\n", errors
        )
        (tmp_path / STACKS).rmdir() if make is os.mkdir else (tmp_path / STACKS).unlink()
    assert (tmp_path / "victim").read_bytes() == before


@pytest.mark.parametrize("failure", ["os.close(2)", "dog._advice = None", "dog._path = None"])
def test_it_ends_the_run_whatever_fails(tmp_path: Path, failure: str) -> None:
    assert child(tmp_path, f"{failure}\nwith dog: time.sleep(30)", stall_s=0.2)[0] == 4


@pytest.mark.parametrize("stall_s", [1e-3 * 2**60, float("inf")])
def test_a_watchdog_that_waits_for_ever(tmp_path: Path, stall_s: float) -> None:
    with Watchdog(stall_s, tmp_path, str) as dog:
        time.sleep(0.05)
        assert dog._thread.is_alive()
    assert not dog._thread.is_alive()


def test_it_ends_with_an_error_too(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError), Watchdog(600.0, tmp_path, str):
        raise RuntimeError
    assert threading.active_count() == before
    faulthandler.cancel_dump_traceback_later()  # nothing to cancel is no error


def test_a_beat_costs_less_than_a_microsecond(tmp_path: Path) -> None:
    dog = Watchdog(600.0, tmp_path, str)
    assert min(timeit.repeat(dog.beat, number=10_000, repeat=20)) / 10_000 < 1e-6


@pytest.mark.parametrize("beats", [(), (0,), (2, 9), range(20)])
def test_it_waits_for_stall_s_after_the_last_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: tuple[int, ...]
) -> None:
    dog, looks, ended = Watchdog(600.0, tmp_path, str), [], []

    def wait(seconds: float) -> bool:
        if len(looks) in beats:
            dog.beat()
        looks.append(seconds)
        return False

    monkeypatch.setattr(dog._over, "wait", wait)
    monkeypatch.setattr(dog, "_end", lambda: ended.append(len(looks)))
    dog._watch()
    faulthandler.cancel_dump_traceback_later()
    assert ended == [len(looks)]
    assert sum(looks[max(beats, default=-1) + 1 :]) == 600.0
