"""What is written of a study: a table of its trials, the history of the search, and what mattered."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from dqn_cli.study.texts import plural
from dqn_cli.tuning.space import word
from dqn_cli.tuning.trials import ATTEMPT, ERROR, RETURNS, Study

TABLE, HISTORY, IMPORTANCE = "trials.csv", "history.svg", "importance.svg"
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
MEANINGFUL = 4  # complete trials, from which on it is worth asking what mattered


def counted(study: Study) -> str:
    """How many trials there are of each kind, in words."""
    states = [trial.state for trial in study.trials()]
    kinds = [f"{states.count(state)} {name}" for state, name in STATES.items() if state in states]
    return f"{plural(len(states), 'trial')}: {', '.join(kinds)}" if kinds else "none"


def write_table(study: Study) -> None:
    """A row for each trial that was begun. Raises `OSError`."""
    file = study.folder / TABLE
    temporary = file.with_name(f".tmp-{TABLE}")
    with temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        others = ("steps", "returns", "attempts", "error", "folder")
        writer.writerow(["trial", "state", "return_mean", *study.space, *others])
        for trial in study.trials():
            values, attrs = study.values_of(trial), trial.user_attrs
            row = [trial.number, STATES[trial.state], trial.value, *(word(values.get(key, "")) for key in study.space)]
            returns = " ".join(f"{value:.6g}" for value in attrs.get(RETURNS, []))
            writer.writerow(
                [*row, trial.last_step, returns, attrs.get(ATTEMPT), attrs.get(ERROR), study.folder_of(trial.number)]
            )
    temporary.replace(file)


def write_pictures(study: Study) -> list[Path]:
    """The pictures that there is enough for. Raises `ImportError` without matplotlib, and `OSError`."""
    files = []
    for name, svg in _pictures(study):
        file = study.folder / name
        temporary = file.with_name(f".tmp-{name}")
        temporary.write_text(svg)
        temporary.replace(file)
        files.append(file)
    return files


def _pictures(study: Study) -> Iterator[tuple[str, str]]:
    whole = [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]
    if whole:
        yield HISTORY, _history(study, whole)
    if len(whole) >= MEANINGFUL and (found := importances(study)):
        yield IMPORTANCE, _importance(found, len(whole))


def importances(study: Study) -> dict[str, float]:
    """How much of what tells good trials from others is each setting's, the largest first; empty: cannot be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that all trials are equally good
            found = get_param_importances(study.study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):
        return {}
    return {key: value for key, value in found.items() if value == value}


def _history(study: Study, whole: list[FrozenTrial]) -> str:
    from dqn_cli.study.canvas import COLORS, MUTED, canvas, finish, picture

    pruned = [trial for trial in study.trials() if trial.state is TrialState.PRUNED and trial.value is not None]
    labels = ["best so far", "complete", "pruned (last evaluation)"]
    title = f"{plural(len(whole) + len(pruned), 'trial')} of {study.folder.name}"
    with canvas(title, labels) as (figure, axes):
        best: list[float] = []
        for trial in whole:
            best.append(max([*best[-1:], trial.value or 0.0]))
        numbers = [trial.number for trial in whole]
        end = study.trials()[-1].number
        axes.step([*numbers, end], [*best, best[-1]], where="post", color=COLORS[0], label=labels[0])
        axes.plot(
            numbers, [trial.value or 0.0 for trial in whole], "o", markersize=3.5, color=COLORS[1], label=labels[1]
        )
        if pruned:
            axes.plot(
                [trial.number for trial in pruned],
                [trial.value or 0.0 for trial in pruned],
                "x",
                markersize=3.5,
                color=MUTED,
                label=labels[2],
            )
        seeds = plural(study.settings.seeds, "seed")
        finish(figure, axes, "trial", "mean return of the final policy", f"each point a trial of {seeds}")
        return picture(figure, "history", title, "").svg


def _importance(found: dict[str, float], trials: int) -> str:
    from dqn_cli.study.canvas import BOTTOM, COLORS, TOP, WIDTH, panels, picture

    keys = [*reversed(found)]
    title = "What mattered (PED-ANOVA, shares of 1)"
    size = (WIDTH, TOP + BOTTOM + 0.28 * len(keys))
    with panels(title, size, left=0.075 * max(map(len, keys)) + 0.2) as (figure, (axes,)):
        axes.barh(keys, [found[key] for key in keys], height=0.6, color=COLORS[0])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"share, from {plural(trials, 'complete trial')}")
        return picture(figure, "importance", title, "").svg
