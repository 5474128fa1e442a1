"""`dqn-report` and `dqn-compare` from the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))
from study_runs import leave

from dqn_cli.cli import compare_runs, report
from dqn_cli.cli.main import _guarded

pytest.importorskip("matplotlib")


def call(command, *words):
    return _guarded(command.__name__, command.main, list(words))


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, base in (("ddqn", 100.0), ("tdqn", 0.0)):
        for seed in range(6):
            values = [base + seed, base + seed + 1, base + seed + 2]
            leave(
                tmp_path / "runs" / f"{name}={seed}", values, seed=seed, words=[f"variant={name}"], variant__name=name
            )
    return tmp_path


def narrow(text):
    return all(len(line) <= 80 for line in text.splitlines())


def test_a_report(sweep, capsys):
    assert call(report, "runs", "reps=200") == 0
    shown = capsys.readouterr().out
    assert "12 runs found, 12 counted" in shown
    assert "variant=ddqn                       6     104.5" in shown
    assert narrow(shown)
    assert (sweep / "report" / "index.html").exists()


def test_a_comparison(sweep, capsys):
    assert call(compare_runs, "runs", "a=variant=tdqn", "b=variant=ddqn", "plot=c.svg", "reps=200") == 0
    shown = capsys.readouterr().out
    assert "variant.name  tdqn -> ddqn" in shown
    assert "n = 6, seeds 0, 1, 2, 3, 4, 5" in shown
    assert "B ends above A on 6 of 6 common seeds" in shown
    assert "B is above A by 100.0, more than noise: p = 0.031" in " ".join(shown.split())
    assert narrow(shown)
    assert (sweep / "c.svg").read_text().startswith("<?xml")


def test_single_runs_are_too_few_to_tell(sweep, capsys):
    assert call(compare_runs, "runs/ddqn=0", "runs/tdqn=0") == 0
    assert "too few to tell" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("command", "words", "code", "told"),
    [
        (report, [], 2, "no folder is given"),
        (report, ["nothing"], 3, "nothing does not exist"),
        (report, ["runs/ddqn=0/metrics.csv"], 3, "is not a folder"),
        (report, ["empty"], 3, "no run in or below"),
        (report, ["runs", "metrik=x"], 2, "did you mean metric?"),
        (report, ["runs", "metric=loss"], 2, "write one of auto, eval_return_mean, return_mean"),
        (report, ["runs", "out="], 2, "out= has no value"),
        (report, ["runs", "reps=x"], 2, "reps=x is not a whole number"),
        (report, ["runs", "reps=5"], 2, "reps=5 is not in [100, 100000]"),
        (report, ["runs", "unfinished=yes"], 2, "is not true or false"),
        (report, ["runs", "by=a", "by=b"], 2, "by is given twice"),
        (report, ["runs", "--fast"], 2, "unknown option --fast"),
        (report, ["runs", "threshold=high"], 2, "threshold=high is not a number"),
        (report, ["runs", "out=runs/ddqn=0/metrics.csv"], 6, "cannot write"),
        (compare_runs, ["runs"], 2, "1 folders are given; write two"),
        (compare_runs, ["runs", "./runs"], 2, "is compared with itself"),
        (compare_runs, ["runs", "runs/tdqn=0"], 2, "A holds 2 configurations"),
        (compare_runs, ["runs/ddqn=0", "runs/tdqn=0", "plot=c.pdf"], 2, "ends in .png or .svg"),
    ],
)
def test_mistakes_are_one_line(sweep, capsys, command, words, code, told):
    (sweep / "empty").mkdir(exist_ok=True)
    assert call(command, *words) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert not (sweep / "report" / "index.html").exists()


@pytest.mark.parametrize("command", [report, compare_runs])
def test_help_fits_a_screen_and_names_every_setting(command, capsys):
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert narrow(shown)
    assert len(shown.splitlines()) <= 40
    settings = report.ReportConfig if command is report else report.CompareConfig
    assert all(f"\n  {name}=" in shown for name in settings.__dataclass_fields__)
    assert call(command, "--version") == 0


def test_neither_torch_nor_hydra_is_waited_for(sweep):
    code = (
        "import sys; from dqn_cli.cli.report import main; main(['runs', 'reps=100']);"
        "from dqn_cli.cli.compare_runs import main; main(['runs/ddqn=0', 'runs/tdqn=0']);"
        "assert {'torch', 'hydra', 'scipy', 'pandas'}.isdisjoint(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_matplotlib_the_remedy_is_told(sweep):
    code = (
        "import sys; sys.modules['matplotlib'] = None; from dqn_cli.cli import main, report;"
        "sys.exit(main._guarded('dqn-report', report.main, ['runs']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'dqn-cli[report]'" in done.stderr
    assert not (sweep / "report").exists()
