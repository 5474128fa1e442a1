"""What `dqn-eval` leaves behind: a table on the terminal, `eval.json` and `episodes.csv`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_cli.config import EvalConfig
from dqn_cli.errors import writing
from dqn_cli.training.manifest import versions

if TYPE_CHECKING:
    from dqn_cli.training.evaluator import EvalResult


def result_folder(checkpoint: Path, settings: EvalConfig) -> Path:
    """`out=`, or a folder of the run named after what determines the result. Made now, before time is spent."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    how = f"seed-{settings.seed}_epsilon-{settings.epsilon:g}_episodes-{settings.episodes}"
    folder = run / "eval" / f"{checkpoint.name}_{how}" if settings.out is None else Path(settings.out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def facts(checkpoint: Path, step: int, env_id: str, settings: EvalConfig, result: EvalResult) -> dict[str, Any]:
    """The content of `eval.json`."""
    return {
        "return_mean": result.mean,
        "return_sd": result.sd,
        "return_median": result.median,
        "return_interval": list(result.interval),
        "episodes": len(result.scores),
        "seed": settings.seed,
        "epsilon": settings.epsilon,
        "num_envs": settings.num_envs,
        "checkpoint": checkpoint.name,
        "step": step,
        "env": env_id,
        "versions": versions(),
    }


def write_files(folder: Path, content: dict[str, Any], result: EvalResult) -> None:
    """Write `eval.json`, and `episodes.csv` in the order of the episodes' seeds. Raises `StorageError`."""
    rows = zip(result.scores, result.lengths, strict=True)
    lines = ["episode,score,length", *(f"{i},{float(score)!r},{length}" for i, (score, length) in enumerate(rows))]
    with writing(folder):
        (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
        (folder / "eval.json").write_text(json.dumps(content, indent=1) + "\n")


def table(content: dict[str, Any], result: EvalResult, checkpoint: Path, note: str, folder: Path) -> str:
    """The result for people."""
    low, high = result.interval
    digits = 3 if max(map(abs, result.scores)) < 10 else 2  # success rates need one more

    def number(value: float) -> str:
        return f"{value:,.{digits}f}"

    rows = {
        "checkpoint": f"{checkpoint}{note}",
        "step": f"{content['step']:,}",
        "environment": content["env"],
        "episodes": f"{content['episodes']} (seed {content['seed']}, epsilon {content['epsilon']:g})",
        "mean": number(result.mean),
        "sd": number(result.sd),
        "median": number(result.median),
        "95% interval": f"{number(low)} to {number(high)}",
        "min, max": f"{number(min(result.scores))}, {number(max(result.scores))}",
        "written": f"{folder}/eval.json",
    }
    return "\n".join(f"{name:<13}{value}" for name, value in rows.items())
