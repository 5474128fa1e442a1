"""What a finished run has to say."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from dqn_cli.config import Config
from dqn_cli.envs.lanes import frame_skip_of
from dqn_cli.training.evaluator import EvalResult
from dqn_cli.training.watcher import Evaluation


@dataclass(frozen=True)
class RunSummary:
    """What a finished run has to say."""

    run_dir: Path
    config: Config
    final: Evaluation
    best: Evaluation
    seconds: float
    reached_goal: bool

    @property
    def metric(self) -> float:
        """What a sweeper optimises: the final policy's mean return."""
        return self.final.result.mean

    def lines(self) -> list[str]:
        """For the terminal: the result and the next useful commands."""
        goal = ", run.stop_at_return reached" if self.reached_goal else ""
        frame_skip, epsilon = frame_skip_of(self.config.env), self.config.run.eval_epsilon
        frames = f" ({self.final.step * frame_skip:,} frames)" if frame_skip is not None else ""
        folder = shown(self.run_dir)
        episodes = len(self.final.result.scores)
        plural = "s" * (episodes != 1)
        how = f"greedy episode{plural}" if epsilon == 0 else f"episode{plural} with epsilon {epsilon:g}"
        return [
            f"finished   {self.final.step:,} steps{frames} in {self.seconds:.0f} s{goal}",
            f"final      return {_score(self.final.result)} over {episodes} {how}",
            f"best       return {_score(self.best.result)} on fresh seeds, from step {self.best.step:,}",
            f"evaluate   dqn-eval checkpoint={folder}",
            f"curves     tensorboard --logdir {folder}",
        ]


def _score(result: EvalResult) -> str:
    digits = 3 if max(map(abs, result.scores)) < 10 else 1  # success rates need more than scores of hundreds
    return f"{result.mean:.{digits}f} +- {result.sd:.{digits}f}"


def shown(folder: Path) -> str:
    """A folder as it is shortest to type from here, quoted where a shell needs it."""
    return shlex.quote(str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder))
