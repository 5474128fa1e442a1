import io
import shlex
import subprocess
import sys
from functools import partial

import pytest
from rich.console import Console
from rich.text import Text

from dqn_cli.training.progress import LABELS, Progress

VIEW = {"return_mean": 187.31, "eval_return_mean": 12345.678, "epsilon": 0.0412, "loss": 0.01234}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, height=10, color_system=None, legacy_windows=False, _environ={}
    )
    return console, file


def pipe(width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=False, width=width), file


def drawn_lines(text: str) -> list[str]:
    """What stood on the terminal at one time or another, control sequences taken out."""
    plain = Text.from_ansi(text.replace("\r", "\n")).plain
    return [line for line in plain.split("\n") if line.strip()]


@pytest.mark.parametrize("width", [12, 24, 40, 60, 61, 80, 120, 200])
def test_bar_never_exceeds_the_terminal(width):
    console, file = terminal(width)
    clock = Clock()
    progress = Progress(50_000, console=console, clock=clock)
    for steps in range(0, 50_001, 2_500):
        clock.now += 1
        progress.update(steps, **(VIEW if steps > 10_000 else {"epsilon": 1.0}))
    progress.close()
    lines = drawn_lines(file.getvalue())
    assert len(lines) > 20
    assert max(map(len, lines)) <= width
    assert "100%" in lines[-1]


@pytest.mark.parametrize(
    ("width", "labels"), [(60, ["return"]), (80, ["return", "eval"]), (200, ["return", "eval", "epsilon", "loss"])]
)
def test_narrow_terminals_leave_the_last_fields_out_whole(width, labels):
    console, file = terminal(width)
    clock = Clock()
    progress = Progress(50_000, console=console, clock=clock)
    clock.now += 10
    progress.update(25_000, **VIEW)
    progress.close()
    line = drawn_lines(file.getvalue())[-1]
    assert "50% | 2,500 steps/s | eta 0:00:10 | return 187.3" in line
    assert [label for label, _ in LABELS.values() if f"| {label} " in line] == labels


def test_wide_terminals_show_all():
    console, file = terminal(200)
    clock = Clock()
    progress = Progress(50_000, console=console, clock=clock)
    clock.now += 10
    progress.update(25_000, **VIEW)
    progress.close()
    line = drawn_lines(file.getvalue())[-1]
    assert line.endswith("| return 187.3 | eval 12,345.7 | epsilon 0.0412 | loss 0.0123")


def test_it_draws_at_most_five_times_a_second():
    console, file = terminal(80)
    clock = Clock()
    progress = Progress(10_000, console=console, clock=clock)
    before = len(file.getvalue())
    for steps in range(1000):
        clock.now += 0.0001
        progress.update(steps)
    assert len(file.getvalue()) == before
    clock.now += 0.2
    progress.update(1001)
    assert len(file.getvalue()) > before
    progress.close()


def test_the_cursor_comes_back():
    console, file = terminal(80)
    progress = Progress(100, console=console, clock=Clock())
    assert "\x1b[?25l" in file.getvalue()
    progress.close()
    progress.close()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_plain_lines_every_tenth_of_the_run():
    console, file = pipe()
    clock = Clock()
    progress = Progress(50_000, console=console, clock=clock)
    for steps in range(100, 50_001, 100):
        clock.now += 1 / 128
        progress.update(steps, **VIEW)
    progress.close()
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[4] == (
        "step 25,000/50,000 50% | 12,800 steps/s | return 187.3 | eval 12,345.7 | epsilon 0.0412 | loss 0.0123"
        " | eta 0:00:02"
    )
    assert "\x1b" not in file.getvalue()


def test_plain_lines_every_half_minute_of_a_slow_run():
    console, file = pipe()
    clock = Clock()
    progress = Progress(1_000_000, console=console, clock=clock)
    for steps in range(1, 101):
        clock.now += 1
        progress.update(steps)
    assert len(file.getvalue().splitlines()) == 3


def test_close_shows_where_a_run_was_stopped():
    console, file = pipe()
    progress = Progress(50_000, console=console, clock=Clock())
    progress.update(6_000)
    progress.update(7_777)
    progress.close()
    assert [line.split("/")[0] for line in file.getvalue().splitlines()] == ["step 6,000", "step 7,777"]
    assert "eta -:--:--" in file.getvalue()


def test_speed_is_that_of_the_last_seconds():
    console, file = pipe()
    clock = Clock()
    progress = Progress(10_000, console=console, clock=clock)
    for steps, seconds in [(1000, 1.0), (2000, 100.0), (3000, 20.0)]:
        clock.now += seconds
        progress.update(steps)
    assert "| 50 steps/s |" in file.getvalue().splitlines()[-1]


def test_more_steps_than_announced_are_still_all():
    console, file = pipe()
    clock = Clock()
    progress = Progress(1000, console=console, clock=clock)
    clock.now += 1
    progress.update(1024)
    assert "100%" in file.getvalue()
    assert "eta 0:00:00" in file.getvalue()


def test_unknown_numbers_are_our_bug():
    console, _ = pipe()
    progress = Progress(1000, console=console, clock=Clock())
    with pytest.raises(KeyError):
        progress.update(100, los=1.0)


def test_the_run_goes_on_when_nobody_reads_its_lines_any_more(tmp_path):
    script = """if True:
        import time
        from pathlib import Path
        from dqn_cli.training.progress import Progress
        progress = Progress(10)
        for step in range(1, 11):
            progress.update(step)
            time.sleep(0.02)
        progress.close()
        Path("done").touch()"""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} | head -n 1"
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "done").exists()


def test_frames_stand_beside_the_steps():
    console, file = pipe()
    progress = Progress(1000, 4, console=console, clock=Clock())
    progress.update(500)
    assert file.getvalue().startswith("step 500/1,000 (2,000 frames) 50% | ")
    console, file = terminal(200)
    clock = Clock()
    progress = Progress(1000, 4, console=console, clock=clock)
    clock.now += 1
    progress.update(500, loss=1.0)
    assert drawn_lines(file.getvalue())[-1].rstrip().endswith("| loss 1 | 2,000 frames")
    progress.close()


@pytest.mark.parametrize("make", [pipe, partial(terminal, 200)])
def test_an_evaluation_is_shown_and_is_no_part_of_the_speed(make):
    console, file = make()
    clock = Clock()
    progress = Progress(1000, console=console, clock=clock)
    clock.now += 5
    progress.update(500)
    with progress.evaluating():
        clock.now += 0.1
        progress.tick(3)  # not due
        seen = file.getvalue()
        assert "evaluating" not in seen
        clock.now += 39.9
        progress.tick(3)
    assert "| evaluating for 40 s, 3 episodes" in file.getvalue()[len(seen) :]
    assert "eta" not in file.getvalue()[len(seen) :]
    clock.now += 5
    progress.update(1000)
    assert "| 100 steps/s" in drawn_lines(file.getvalue())[-1]
    assert "evaluating" not in drawn_lines(file.getvalue())[-1]
    progress.close()


@pytest.mark.parametrize("make", [pipe, partial(terminal, 200)])
def test_what_a_resumed_run_had_done_before_is_no_part_of_the_speed(make):
    console, file = make()
    clock = Clock()
    progress = Progress(1000, console=console, clock=clock)
    clock.now += 3
    progress.go_on_from(600)
    clock.now += 4
    progress.update(1000)
    assert "| 100 steps/s" in drawn_lines(file.getvalue())[-1]
    progress.close()


def test_a_note_is_a_line_of_its_own_whatever_it_holds():
    console, file = pipe()
    Progress(1000, console=console, clock=Clock()).note("warning: no [bold]checkpoint[/bold]")
    assert file.getvalue() == "warning: no [bold]checkpoint[/bold]\n"
