import logging
import sys
from dataclasses import dataclass, field
from types import ModuleType

import pytest
from fake_runs import find, leave

from dqn_cli.training import resuming


@dataclass
class Summary:
    metric: float

    def lines(self):
        return [f"final {self.metric}"]


@dataclass
class Trainer:
    """In the place of dqn_cli.build: remembers what it was asked to train, and `act` says what comes of it."""

    runs: list = field(default_factory=list)

    def act(self, config, run_dir):
        return 10.0 + config.seed

    def prepare(self, network, config):
        return 1, "cpu"

    def train_run(self, config, run_dir, **rest):
        self.runs.append((config, run_dir, rest))
        metric = self.act(config, run_dir)
        leave(run_dir, config, config.run.total_steps, finished=True)
        return Summary(metric)


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """Run `dqn-train` in an empty folder without training: everything up to it is real."""
    fake = Trainer()
    module = ModuleType("dqn_cli.build")
    module.train_run, module.prepare = fake.train_run, fake.prepare
    monkeypatch.setitem(sys.modules, "dqn_cli.build", module)
    monkeypatch.setattr(resuming, "find", find)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    handlers, level = list(logging.root.handlers), logging.root.level
    yield fake
    logging.root.handlers[:], logging.root.level = handlers, level  # Hydra's --info leaves some behind
