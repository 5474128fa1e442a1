"""What `dqn-eval` leaves behind: a table on the terminal, `eval.json` and `episodes.csv`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_cli.cli import protocols
from dqn_cli.config import AtariConfig, Config, EnvConfig, EvalConfig
from dqn_cli.envs import atari_scores
from dqn_cli.errors import CheckpointError, writing
from dqn_cli.training.manifest import versions
from dqn_cli.validate import plain

if TYPE_CHECKING:
    from dqn_cli.training.evaluator import EvalResult


def result_folder(checkpoint: Path, settings: EvalConfig) -> Path:
    """`out=`, or a folder of the run named after what determines the result. Made now, before time is spent."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    protocol = "" if settings.protocol == "run" else f"{settings.protocol}_"
    lanes = "" if settings.num_envs == EvalConfig.num_envs else f"_envs-{settings.num_envs}"
    how = f"{protocol}seed-{settings.seed}_epsilon-{settings.epsilon:g}_episodes-{settings.episodes}{lanes}"
    folder = run / "eval" / f"{checkpoint.name}_{how}" if settings.out is None else Path(settings.out)
    if settings.out is None and (folder.is_symlink() or folder.parent.is_symlink()):
        raise CheckpointError(f"{folder} is a link; write out=<another folder>")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def facts(checkpoint: Path, step: int, config: Config, settings: EvalConfig, result: EvalResult) -> dict[str, Any]:
    """The content of `eval.json`; `config.env` is the environment that was played."""
    return {
        "return_mean": result.mean,
        "return_sd": result.sd,
        "return_median": result.median,
        "return_interval": list(result.interval),
        **_human_normalized(config.env.id, result.mean),
        "episodes": len(result.scores),
        "seed": settings.seed,
        "protocol": settings.protocol,
        "epsilon": settings.epsilon,
        "num_envs": settings.num_envs,
        "checkpoint": checkpoint.name,
        "step": step,
        "env": config.env.id,
        "env_rules": plain(config)["env"],
        "notes": [*protocols.differences(settings.protocol, config.env), *_unlike_the_human(config.env)],
        "versions": versions(),
    }


def _human_normalized(env_id: str, score: float) -> dict[str, Any]:
    """The mean in percent of a human's, with what it was compared with; empty for a game that has no such numbers."""
    reference = atari_scores.REFERENCES.get(env_id)
    if reference is None:
        return {}
    return {
        "human_normalized_percent": reference.normalized(score),
        "human_normalized_by": {
            "random": reference.random,
            "human": reference.human,
            "source": atari_scores.SOURCE,
        },
    }


def write_files(folder: Path, content: dict[str, Any], result: EvalResult) -> None:
    """Write `eval.json`, and `episodes.csv` in the order of the episodes' seeds. Raises `StorageError`."""
    rows = zip(result.scores, result.lengths, strict=True)
    lines = ["episode,score,length", *(f"{i},{float(score)!r},{length}" for i, (score, length) in enumerate(rows))]
    with writing(folder):
        _write(folder / "episodes.csv", "\n".join(lines) + "\n")
        _write(folder / "eval.json", json.dumps(content, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    """Never written through: it may be a link to anywhere."""
    path.unlink(missing_ok=True)
    with path.open("x") as file:
        file.write(text)


def table(content: dict[str, Any], result: EvalResult, checkpoint: Path, note: str, written: dict[str, str]) -> str:
    """The result for people; `written`: what was made, and where it lies."""
    low, high = result.interval
    digits = 3 if max(map(abs, result.scores)) < 10 else 2  # success rates need one more

    def number(value: float) -> str:
        return f"{value:,.{digits}f}"

    rows = {
        "checkpoint": f"{checkpoint}{note}",
        "step": f"{content['step']:,}",
        "environment": content["env"],
        "protocol": protocols.shown(content["protocol"], content["env_rules"]),
        "note": "; ".join(content["notes"]),
        "episodes": f"{content['episodes']} (seed {content['seed']}, epsilon {content['epsilon']:g})",
        "mean": number(result.mean),
        "sd": number(result.sd),
        "median": number(result.median),
        "95% interval": f"{number(low)} to {number(high)}",
        "min, max": f"{number(min(result.scores))}, {number(max(result.scores))}",
        "human-normalized": _percent(content),
        **written,
    }
    rows = {name: value for name, value in rows.items() if value}
    width = max(map(len, rows)) + 1
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows.items())


def _unlike_the_human(env: EnvConfig) -> list[str]:
    """A note where the games were shorter than those of the scores that they are compared with."""
    if (
        not isinstance(env, AtariConfig)
        or env.id not in atari_scores.REFERENCES
        or env.max_frames >= atari_scores.MAX_FRAMES
    ):
        return []
    return [f"the human's games lasted up to {atari_scores.MAX_FRAMES:,} frames, these at most {env.max_frames:,}"]


def _percent(content: dict[str, Any]) -> str:
    """The human-normalized score and what it means; empty for a game without one."""
    if "human_normalized_percent" not in content:
        return ""
    by = content["human_normalized_by"]
    meaning = f"random {by['random']:g}, human {by['human']:g}: {by['source']}"
    return f"{content['human_normalized_percent']:,.1f} % ({meaning})"
