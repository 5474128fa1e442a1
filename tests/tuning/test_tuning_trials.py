"""Trials on a journal that processes share: none is lost, none is counted twice."""

import os
from contextlib import ExitStack, contextmanager
from itertools import chain

import pytest

pytest.importorskip("optuna")

from dqn_cli.errors import CheckpointError
from dqn_cli.tuning import results
from dqn_cli.tuning.settings import Pruner, TuneConfig
from dqn_cli.tuning.space import Choices, Numbers
from dqn_cli.tuning.trials import ATTEMPTS, ERROR, Lock, Pruned, Study

SPACE = {"a": Numbers(1e-3, 1.0, log=True), "b": Numbers(1, 9, whole=True), "c": Choices(("x", "[1,2]"))}


class Folders:
    """In the place of locks: which folders are held."""

    def __init__(self):
        self.of = set()

    @contextmanager
    def hold(self, folder):
        self.of.add(folder)
        yield
        self.of.remove(folder)

    def held(self, folder):
        return folder in self.of


@pytest.fixture
def folders():
    return Folders()


def open_(tmp_path, folders, trials=8, pruner=Pruner.none, startup=3, seed=0):
    settings = TuneConfig(trials=trials, pruner=pruner, startup=startup, seed=seed)
    return Study(tmp_path, SPACE, settings, folders.hold, folders.held, 100, 10)


def goodness(values):
    return -abs(values["a"] - 0.1) - values["b"] + (values["c"] == "x")


def run_all(study):
    tried = []
    while True:
        with ExitStack() as stack:
            taken = study.take(stack)
            if taken is None:
                return tried
            tried.append((taken.trial.number, dict(taken.values)))
            study.end(taken.trial, goodness(taken.values))


def test_one_process_is_deterministic(tmp_path, folders):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    first, second = (run_all(open_(tmp_path / name, folders, 12)) for name in "ab")
    assert first == second
    assert [number for number, _ in first] == [*range(12)]
    assert run_all(open_(tmp_path / "c", folders, 12, seed=1)) != first


def test_a_study_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path, folders):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = run_all(open_(tmp_path / "a", folders, 12))
    parts = [run_all(open_(tmp_path / "b", folders, trials)) for trials in (2, 7, 12)]
    assert [*chain(*parts)] == whole


def test_numbers_are_rounded_and_words_are_words(tmp_path, folders):
    for _, values in run_all(open_(tmp_path, folders)):
        assert float(f"{values['a']:.4g}") == values["a"]
        assert isinstance(values["b"], int)
        assert values["c"] in ("x", "[1,2]")


def test_two_processes_take_different_trials(tmp_path, folders):
    one, other = open_(tmp_path, folders, 3), open_(tmp_path, folders, 3)
    with ExitStack() as stack:
        taken = [study.take(stack) for study in (one, other, one)]
        assert [each.trial.number for each in taken] == [0, 1, 2]
        assert len({each.values["a"] for each in taken}) == 3
        assert other.take(stack) is None
        assert one.running() == 3
    # all of them let go without a word, as processes do that are killed
    assert other.running() == 3
    with ExitStack() as stack:
        again = other.take(stack)
        assert (again.trial.number, again.again) == (0, True)
        assert dict(again.values) == dict(taken[0].values)
        assert one.take(stack).trial.number == 1


def test_what_is_through_of_a_trial_is_not_run_again(tmp_path, folders):
    study = open_(tmp_path, folders, 1)
    with ExitStack() as stack:
        taken = study.take(stack)
        taken.through(4.0)
        taken.report(10, 2.0, prune=True)
    with ExitStack() as stack:
        again = open_(tmp_path, folders, 1).take(stack)
        assert again.returns == [4.0]
        again.report(10, 99.0, prune=True)  # told before; the first one counts
        again.report(20, 5.0, prune=True)
        study.end(again.trial, 4.5)
    (trial,) = study.trials()
    assert (trial.value, trial.intermediate_values) == (4.5, {10: 2.0, 20: 5.0})


def test_a_trial_that_ends_its_process_is_given_up(tmp_path, folders):
    study = open_(tmp_path, folders, 2)
    for _ in range(ATTEMPTS):
        with ExitStack() as stack:
            assert study.take(stack).trial.number == 0
    with ExitStack() as stack:
        assert study.take(stack).trial.number == 1
    failed = study.trials()[0]
    assert (failed.state.name, failed.user_attrs[ERROR]) == ("FAIL", "it ended its process 3 times without a word")
    assert study.ended() == 1


def test_the_first_trial_has_the_values_that_are_given(tmp_path, folders):
    study = open_(tmp_path, folders)
    study.first({"a": 0.25, "c": "[1,2]"})
    open_(tmp_path, folders).first({"a": 0.5})  # too late
    tried = run_all(study)
    assert (tried[0][1]["a"], tried[0][1]["c"]) == (0.25, "[1,2]")
    assert [number for number, _ in tried] == [*range(8)]


def test_median_pruning(tmp_path, folders):
    study = open_(tmp_path, folders, 6, Pruner.median, startup=3)
    for _ in range(3):
        with ExitStack() as stack:
            taken = study.take(stack)
            taken.report(20, 10.0, prune=True)
            taken.report(30, 10.0, prune=True)
            study.end(taken.trial, 10.0)
    with ExitStack() as stack:
        taken = study.take(stack)
        taken.report(20, 1.0, prune=True)  # the first quarter says nothing
        with pytest.raises(Pruned, match="at step 30 with 1"):
            taken.report(30, 1.0, prune=True)
        study.end(taken.trial, pruned=True)
    with ExitStack() as stack:
        taken = study.take(stack)
        taken.report(30, 1.0, prune=False)
        taken.report(40, 11.0, prune=True)
        study.end(taken.trial, 11.0)
    assert [trial.state.name for trial in study.trials()] == [*["COMPLETE"] * 3, "PRUNED", "COMPLETE"]
    assert (study.ended(), study.best().number) == (5, 4)


def test_halving_keeps_a_third(tmp_path, folders):
    study = open_(tmp_path, folders, 9, Pruner.halving)
    kept = []
    for number in range(9):
        with ExitStack() as stack:
            taken = study.take(stack)
            try:
                for step in (10, 20, 30):
                    taken.report(step, -float(number), prune=True)
                study.end(taken.trial, -float(number))
                kept.append(number)
            except Pruned:
                study.end(taken.trial, pruned=True)
    assert kept == [0]


def test_half_a_line_of_a_journal_is_cut_off(tmp_path, folders):
    study = open_(tmp_path, folders, 3)
    run_all(study)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "study')
    again = open_(tmp_path, folders, 4)
    assert journal.read_bytes().startswith(whole + b'{"op_code":0,')
    assert [number for number, _ in run_all(again)] == [3]
    assert open_(tmp_path, folders, 4).ended() == 4


@pytest.mark.parametrize("text", ["nonsense\n", '{"op_code": 4}\n', "[1]\n", '{"op_code": 99, "worker_id": ""}\n'])
def test_what_is_no_journal_is_refused_in_one_line(tmp_path, folders, text):
    (tmp_path / "journal.log").write_text(text)
    with pytest.raises(CheckpointError, match=r"is no journal of trials .*; write another tune\.dir"):
        open_(tmp_path, folders)


def test_the_lock_may_be_taken_twice_and_is_let_go_of_once(tmp_path):
    mine, others = Lock(tmp_path / "j.log"), os.open(tmp_path / "j.lock", os.O_RDWR | os.O_CREAT)
    import fcntl

    with mine.held():
        with mine.held():
            pass
        with pytest.raises(BlockingIOError):
            fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(others)


def test_tables_and_pictures(tmp_path, folders):
    pytest.importorskip("matplotlib")
    study = open_(tmp_path, folders, 12)
    run_all(study)
    results.write_table(study)
    rows = (tmp_path / "trials.csv").read_text().splitlines()
    assert rows[0] == "trial,state,return_mean,a,b,c,steps,returns,attempts,error,folder"
    assert len(rows) == 13
    assert results.counted(study) == "12 trials: 12 complete"
    names = [file.name for file in results.write_pictures(study)]
    assert names == ["history.svg", "importance.svg"]
    found = results.importances(study)
    assert {*found} == {*SPACE}
    assert next(iter(found)) == "b"  # up to 9, where the others are up to 1
    before = (tmp_path / "history.svg").read_bytes()
    results.write_pictures(study)
    assert (tmp_path / "history.svg").read_bytes() == before
