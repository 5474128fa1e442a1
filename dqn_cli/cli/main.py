"""The entry points: what needs no Hydra is answered at once, and whatever goes wrong becomes one line and a code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from dqn_cli.errors import Interrupted, UserError, unwritable

LINE = 2_000  # letters


def train(argv: Sequence[str] | None = None) -> int:
    """`dqn-train`: the exit code."""
    return _guarded("dqn-train", _train, sys.argv[1:] if argv is None else [*argv])


def evaluate(argv: Sequence[str] | None = None) -> int:
    """`dqn-eval`: the exit code."""
    return _guarded("dqn-eval", _evaluate, sys.argv[1:] if argv is None else [*argv])


def plan(argv: Sequence[str] | None = None) -> int:
    """`dqn-plan`: the exit code."""
    return _guarded("dqn-plan", _plan, sys.argv[1:] if argv is None else [*argv])


def report(argv: Sequence[str] | None = None) -> int:
    """`dqn-report`: the exit code."""
    return _guarded("dqn-report", _report, sys.argv[1:] if argv is None else [*argv])


def compare(argv: Sequence[str] | None = None) -> int:
    """`dqn-compare`: the exit code."""
    return _guarded("dqn-compare", _compare, sys.argv[1:] if argv is None else [*argv])


def tune(argv: Sequence[str] | None = None) -> int:
    """`dqn-tune`: the exit code."""
    return _guarded("dqn-tune", _tune, sys.argv[1:] if argv is None else [*argv])


def _train(argv: list[str]) -> int:
    from dqn_cli import plugins
    from dqn_cli.cli import help as texts
    from dqn_cli.cli.paths import take_folders

    argv = take_folders(argv)
    plugins.begin(argv)
    if _answered(argv, "dqn-train", texts.overview):
        return 0
    from dqn_cli.cli import rerun, resume
    from dqn_cli.cli.hydra_app import launch

    words, asked = resume.take(argv)
    words, again = rerun.take(words, asked)
    if again is not None:
        return rerun.run(again, words)
    if asked is not None and asked.folder != resume.AUTO:
        return resume.run(asked, words)
    return launch(words, asked)


def _plan(argv: list[str]) -> int:
    from dqn_cli import plugins
    from dqn_cli.cli import help as texts
    from dqn_cli.cli.paths import take_folders

    argv = take_folders(argv)
    plugins.begin(argv)
    if _answered(argv, "dqn-plan", lambda: texts.PLAN_OVERVIEW):
        return 0
    from dqn_cli.cli.plan import main

    return main(argv)


def _answered(argv: list[str], program: str, overview: Callable[[], str]) -> bool:
    """Answer what needs no Hydra; whether there was such a question."""
    from dqn_cli.cli import help as texts

    if "--version" in argv:
        print(texts.version(program))
    elif topic := _after(argv, "--help", "-h"):
        print(overview() if topic == [""] else texts.setting(topic[0]))
    elif topic := _after(argv, "--list"):
        print(texts.listing(topic[0]))
    else:
        return False
    return True


def _after(argv: list[str], *flags: str) -> list[str]:
    """The word after the first of `flags`: [""] where none follows, [] where there is no flag."""
    for i, arg in enumerate(argv):
        flag, eq, word = arg.partition("=")
        if flag in flags:
            following = next(iter(argv[i + 1 :]), "")
            return [word if eq else "" if "=" in following or following.startswith("-") else following]
    return []


def _evaluate(argv: list[str]) -> int:
    from dqn_cli.cli.evaluate import main

    return main(argv)


def _report(argv: list[str]) -> int:
    from dqn_cli.cli.report import main

    return main(argv)


def _compare(argv: list[str]) -> int:
    from dqn_cli.cli.compare_runs import main

    return main(argv)


def _tune(argv: list[str]) -> int:
    from dqn_cli.cli.tune import main

    return main(argv)


def _guarded(program: str, command: Callable[[list[str]], int], argv: list[str]) -> int:
    """The exit code; whatever is still buffered and cannot be written does not change it."""
    # NumPy reads this when it is imported: the products that acting takes are too small to be shared out among threads,
    # and the threads of a sweep's jobs would get in each other's way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _exit_code(program, command, argv)
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _exit_code(program: str, command: Callable[[list[str]], int], argv: list[str]) -> int:
    try:
        code = command(argv)
        _flush()  # while a full disk can still be told
        return code
    except Interrupted as stop:
        print(f"{program}: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print(f"{program}: stopped by Ctrl-C", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return 0
    except OSError as error:
        print(f"{program}: error: {unwritable(error)}", file=sys.stderr)
        return unwritable(error).exit_code
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        print(f"{program}: error: {_line(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1


def _flush() -> None:
    if sys.stdout is not None:  # it is where the caller has closed it
        sys.stdout.flush()


def _line(error: Exception) -> str:
    # what a file or an environment says is shown, and not obeyed by the terminal
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(error).split()))
    text = text if len(text) <= LINE else f"{text[:LINE]}..."  # what a file says may be enormous
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}, which is a bug of dqn-cli; set HYDRA_FULL_ERROR=1 to see its traceback"
