"""Run folders as a report finds them, made without training."""

import json

import numpy as np

from dqn_cli.study.runs import Run
from dqn_cli.study.series import Series
from dqn_cli.training.metrics import DETERMINISTIC, X_AXIS

COLUMNS = [*X_AXIS, *map(str, DETERMINISTIC)]


def leave(folder, values=(1.0, 2.0, 3.0), env="CartPole-v1", seed=0, *, every=100, finished=True, words=(), **settings):
    """A run whose evaluations gave `values`, one per `every` steps; `settings` as `variant__name="ddqn"`."""
    folder.mkdir(parents=True)
    config = {"env": {"id": env, "name": "gym"}, "seed": seed, "run": {"total_steps": every * len(values)}}
    for key, value in settings.items():
        section, _, name = key.partition("__")
        if name:
            config.setdefault(section, {})[name] = value
        else:
            config[key] = value
    overrides = [f"env={env}", f"seed={seed}", *words]
    manifest = {
        "command": ["dqn-train", *overrides],
        "overrides": overrides,
        "versions": {"dqn-cli": "0.1.0", "torch": "2.13.0"},
        "hardware": {"cpu": "a processor", "cores": 2, "device": "cpu"},
        "config": config,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    columns = {"eval_return_mean": values, "return_mean": values, "value_estimate": values, "value_return": values}
    write_csv(folder, columns, every)
    seconds = [f"{(i + 1) * every},,{(i + 1) * 2.5},40.0,10.0\n" for i in range(len(values))]
    (folder / "timing.csv").write_text("steps,frames,seconds,steps_per_second,updates_per_second\n" + "".join(seconds))
    if finished:
        (folder / "checkpoints" / f"final-{every * len(values):09d}").mkdir(parents=True)
    return folder


def write_csv(folder, columns, every=100):
    """A metrics.csv with these columns, the others empty."""
    lines = [",".join(COLUMNS)]
    for i in range(len(next(iter(columns.values())))):
        row = {"steps": str((i + 1) * every)} | {name: repr(float(values[i])) for name, values in columns.items()}
        lines.append(",".join(row.get(name, "") for name in COLUMNS))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def run(tmp, values=(1.0, 2.0, 3.0), env="CartPole-v1", seed=0, status="finished", words=None, **settings):
    """A run as if it had been read."""
    steps = 100.0 * np.arange(1, len(values) + 1)
    series = {"eval_return_mean": Series(steps, np.array(values, float))}
    plain = {key.replace("__", "."): str(value) for key, value in settings.items()}
    return Run(tmp, env=env, seed=seed, status=status, settings=plain, words=dict(words or {}), series=series)
