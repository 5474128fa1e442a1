from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from dqn_cli.training.signals import StopSignals

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """As a process has it that was started in the foreground; a background job of a shell ignores SIGINT."""
    previous = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def child(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    head = "import os, signal\nfrom dqn_cli.training.signals import StopSignals\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_is_noted_and_no_more(number: signal.Signals) -> None:
    before = [signal.getsignal(other) for other in STOPPING]
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received is number
    assert [signal.getsignal(other) for other in STOPPING] == before
    assert stop.exit_code == (130 if number is signal.SIGINT else 75)
    assert stop.name == ("Ctrl-C" if number is signal.SIGINT else number.name)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGUSR1])
def test_ctrl_c_as_the_second_signal_ends_at_once(first: signal.Signals) -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is first


def test_any_other_second_signal_kills() -> None:
    done = child("""
        for first in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            for second in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                pid = os.fork()
                if not pid:
                    with StopSignals():
                        os.kill(os.getpid(), first)
                        os.kill(os.getpid(), second)
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -second, (first, second)
        print("all of them")
    """)
    assert (done.stdout, done.stderr) == ("all of them\n", "")


def test_signals_that_were_ignored_stay_ignored() -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    with StopSignals() as stop:
        for number in STOPPING:
            os.kill(os.getpid(), number)
        assert stop.received is None
    assert {signal.getsignal(number) for number in STOPPING} == {signal.SIG_IGN}


def test_nohup() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    code = """
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            print(stop.received)
            os.kill(os.getpid(), signal.SIGTERM)
            print(stop.name, stop.exit_code)
    """
    done = child(code, preexec_fn=ignore)
    assert (done.stdout, done.stderr, done.returncode) == ("None\nSIGTERM 75\n", "", 0)


def test_handlers_come_back_after_an_error_too() -> None:
    def mine(number: int, frame: object) -> None: ...

    def fails() -> None:
        with StopSignals():
            assert signal.getsignal(signal.SIGTERM) is not mine
            raise RuntimeError

    signal.signal(signal.SIGTERM, mine)
    with pytest.raises(RuntimeError):
        fails()
    assert signal.getsignal(signal.SIGTERM) is mine


def test_handlers_come_back_after_a_second_signal() -> None:
    def insists() -> None:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        insists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_within_another() -> None:
    with StopSignals() as outer:
        with StopSignals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.received is signal.SIGTERM
        assert outer.received is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert outer.received is signal.SIGUSR1


def test_other_threads_leave_signals_alone() -> None:
    before, within = [signal.getsignal(number) for number in STOPPING], []

    def run() -> None:
        with StopSignals() as stop:
            within.extend(signal.getsignal(number) for number in STOPPING)
            assert stop.received is None

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert within == before
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_a_platform_with_fewer_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqn_cli.training.signals._CAUGHT", [signal.SIGINT, signal.SIGTERM])
    with StopSignals():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
