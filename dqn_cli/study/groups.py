"""Which runs are seeds of one configuration, and what a configuration is called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dqn_cli.errors import ConfigError
from dqn_cli.study.runs import Run
from dqn_cli.study.settings import Score
from dqn_cli.study.texts import clean
from dqn_cli.training.metrics import Metric
from dqn_cli.validate import suggestion

# no part of a configuration: how long and where it ran, what it logged
APART = (
    "run.total_steps",
    "run.log_every_steps",
    "run.checkpoint_every_steps",
    "run.keep_checkpoints",
    "run.checkpoint_replay",
    "run.stall_s",
    "run.stop_at_return",
    "logger",
    "device",
    "threads",
    "init_from",
    "track",  # CleanRL's
    "capture_video",
)
_EVALUATED = ("run.eval_every_steps", "run.eval_episodes", "run.eval_epsilon")  # how it was measured
_UNTOLD = ("env", "env.id", "seed", "resume", "rerun", *_EVALUATED, *APART)  # words that no label needs
UNKNOWN = "unknown environment"
MIN_EVALUATIONS = 3
LABEL = 60  # letters
K = TypeVar("K")


@dataclass
class Group:
    """Runs of one configuration in one environment, that count; `so_far`: none of them has finished."""

    env: str
    label: str
    metric: str
    runs: list[Run]
    so_far: bool = False

    @property
    def n(self) -> int:
        """How many runs count."""
        return len(self.runs)


@dataclass
class Study:
    """All runs in order: by environment the configurations; runs that do not count, each with the reason."""

    runs: list[Run]
    envs: dict[str, list[Group]]
    left_out: list[tuple[Run, str]]
    labels: list[str]
    differing: dict[str, list[str]] = field(default_factory=dict)  # by environment: settings


def study(runs: Sequence[Run], metric: Score = Score.auto, by: str | None = None, unfinished: bool = False) -> Study:
    """Group `runs`. Raises `ConfigError` for a setting in `by` that no run has."""
    scored = [run for run in runs if any(score in run.series for score in _scores(metric))]
    having_scores = {id(run) for run in scored}
    left_out = [(run, _without_scores(run, metric)) for run in runs if id(run) not in having_scores]
    differing = {key: _differing(members) for key, members in _by(scored, _place).items()}
    labels = _labels(scored, differing) if by is None else _labels_by(scored, by)
    envs: dict[str, list[Group]] = {}
    for env, members in sorted(_by(scored, _env).items(), key=lambda item: natural(item[0])):
        column = column_of(members, metric)
        groups = []
        for label, all_of_it in sorted(_by(members, lambda run: labels[id(run)]).items(), key=lambda x: natural(x[0])):
            having = [run for run in all_of_it if column in run.series]
            left_out += [(run, f"no {column}") for run in all_of_it if column not in run.series]
            counted = having if unfinished else [run for run in having if run.finished]
            left_out += [(run, told(run)) for run in having if counted and not run.finished and not unfinished]
            if having:
                groups.append(Group(env, label, column, counted or having, so_far=not counted))
        if groups:
            envs[env] = groups
    found = {group.label: None for groups in envs.values() for group in groups}
    per_env: dict[str, list[str]] = {}
    for (env, _), keys in differing.items():
        per_env[env] = list(dict.fromkeys([*per_env.get(env, []), *keys]))
    order = {id(run): position for position, run in enumerate(runs)}
    left_out.sort(key=lambda item: order[id(item[0])])
    return Study(list(runs), envs, left_out, sorted(found, key=natural), per_env)


def told(run: Run) -> str:
    """Status and reason of a run in a line."""
    return f"{run.status}: {run.reason}" if run.reason else run.status


def natural(text: str) -> list[tuple[int, float, str]]:
    """For sorting: numbers in a text by their size."""
    parts = re.findall(r"(\d+\.?\d*(?:e[-+]?\d{1,2})?)|(\D+|\d)", text.casefold())
    return [(0, float(digits), "") if digits else (1, 0.0, other) for digits, other in parts]


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Settings that are not the same in both, in the order of their names; a dash where there is none."""
    keys = sorted({*first, *second} - {*APART})
    return {
        key: (first.get(key, "-"), second.get(key, "-")) for key in keys if first.get(key, "-") != second.get(key, "-")
    }


def _scores(metric: Score) -> list[str]:
    both = [str(Metric.EVAL_RETURN_MEAN), str(Metric.RETURN_MEAN)]
    return both if metric is Score.auto else [str(metric)]


def _without_scores(run: Run, metric: Score) -> str:
    what = "no scores" if metric is Score.auto or not run.series else f"no {metric}"
    return "; ".join([told(run), *([what] if run.finished else []), *run.notes[:1]])


def _env(run: Run) -> str:
    return run.env or UNKNOWN


def _place(run: Run) -> tuple[str, str]:
    return _env(run), run.runner


def _by(runs: Iterable[Run], key: Callable[[Run], K]) -> dict[K, list[Run]]:
    found: dict[K, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def column_of(runs: Sequence[Run], metric: Score) -> str:
    """The column that an environment's runs are compared by."""
    if metric is not Score.auto:
        return str(metric)
    trained = any(Metric.RETURN_MEAN in run.series for run in runs)
    counting = [run for run in runs if run.finished] or runs
    evaluated = all(_points(run, Metric.EVAL_RETURN_MEAN) >= MIN_EVALUATIONS for run in counting)
    return str(Metric.EVAL_RETURN_MEAN if evaluated or not trained else Metric.RETURN_MEAN)


def _points(run: Run, metric: Metric) -> int:
    return len(run.series[metric].steps) if metric in run.series else 0


def _differing(runs: Sequence[Run]) -> list[str]:
    keys = {key for run in runs for key in run.settings} - {*APART}
    return sorted(key for key in keys if len({run.settings.get(key) for run in runs}) > 1)


def _labels(runs: Sequence[Run], differing: Mapping[tuple[str, str], list[str]]) -> dict[int, str]:
    """A label for each run, the same for those whose settings are the same."""
    cells = list(
        _by(runs, lambda run: (_place(run), *(run.settings.get(key, "-") for key in differing[_place(run)]))).values()
    )
    names = _typed_names(cells) or _key_names(cells, differing)
    return {id(run): clean(name, LABEL) for cell, name in zip(cells, names, strict=True) for run in cell}


def _typed_names(cells: Sequence[Sequence[Run]]) -> list[str]:
    """What was typed for all runs of a cell and not for those of every other; nothing where that names them badly."""
    typed = [set.intersection(*({*_telling(run).items()} for run in cell)) for cell in cells]
    own = [words - _said_by_all(cell[0].runner, cells, typed) for cell, words in zip(cells, typed, strict=True)]
    names = [" ".join(f"{key}={value}".lstrip("=") for key, value in sorted(words)) for words in own]
    return names if _tell_apart(cells, names) else []


def _said_by_all(
    runner: str, cells: Sequence[Sequence[Run]], typed: Sequence[set[tuple[str, str]]]
) -> set[tuple[str, str]]:
    """The words that all cells of a runner have in common; none where it has one cell in each environment."""
    envs = [_env(cell[0]) for cell in cells if cell[0].runner == runner]
    if len({*envs}) == len(envs):
        return set()
    return set.intersection(*(words for cell, words in zip(cells, typed, strict=True) if cell[0].runner == runner))


def _telling(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.words.items() if key not in _UNTOLD and not key.startswith("hydra")}


def _tell_apart(cells: Sequence[Sequence[Run]], names: Sequence[str]) -> bool:
    places = {(_env(cell[0]), name[:LABEL]) for cell, name in zip(cells, names, strict=True)}
    return all(names) and len(places) == len(cells)


def _key_names(cells: Sequence[Sequence[Run]], differing: Mapping[tuple[str, str], list[str]]) -> list[str]:
    """As few settings as tell all cells of an environment apart: those typed first, then choices, then the others."""
    firsts = [cell[0] for cell in cells]
    typed = {key for run in firsts for key in run.words}
    keys = {key for keys in differing.values() for key in keys}
    ordered = sorted(keys, key=lambda key: (_short(key) not in typed, not key.endswith(".name"), key))
    chosen: list[str] = []

    def apart(names: Sequence[str]) -> int:
        return len({(_place(run), *(run.settings.get(key, "-") for key in names)) for run in firsts})

    while apart(chosen) < len(cells) and (left := [key for key in ordered if key not in chosen]):
        chosen.append(max(left, key=lambda key: apart([*chosen, key])))
    ways = len({run.runner for run in firsts})
    names = []
    for run in firsts:
        parts = [f"{_short(key)}={run.settings[key]}" for key in chosen if key in run.settings]
        who = run.words.get("", run.runner) if ways > 1 or run.words.get("") else ""
        names.append(" ".join(filter(None, [who, *parts])) or _plain_name(run))
    counts: dict[tuple[str, str], int] = {}
    for i, run in enumerate(firsts):
        place = (_env(run), names[i][:LABEL])
        counts[place] = counts.get(place, 0) + 1
        if counts[place] > 1:
            names[i] = f"{names[i][: LABEL - 6]} ({counts[place]})"
    return names


def _short(key: str) -> str:
    return key.removesuffix(".name")


def _plain_name(run: Run) -> str:
    words = [f"{key}={value}" for key, value in _telling(run).items()]
    variant = run.settings.get("variant.name")
    return " ".join(words) or (f"variant={variant}" if variant else run.runner)


def _labels_by(runs: Sequence[Run], by: str) -> dict[int, str]:
    keys = [key.strip() for key in by.split(",") if key.strip()]
    known = {_short(key) for run in runs for key in run.settings} | {key for run in runs for key in run.words if key}
    for key in keys:
        if key not in known and f"{key}.name" not in known:
            raise ConfigError(f"by={clean(key)} is no setting of these runs{suggestion(key, sorted(known))}")

    def name(run: Run) -> str:
        return " ".join(
            f"{key}={run.settings.get(key, run.settings.get(f'{key}.name', run.words.get(key, '-')))}" for key in keys
        )

    return {id(run): clean(name(run), LABEL) for run in runs}
