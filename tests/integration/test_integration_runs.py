"""Whole runs in this process: determinism, overlap, dead knobs, Q-learning against a naive twin, weights handed on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import CELLS, RAINBOW, VARIETY, brief, fingerprint, frozen_lake, small

from dqn_cli import build, seeding
from dqn_cli import config as configs
from dqn_cli.agent.actor import Actor
from dqn_cli.config import (
    AdamConfig,
    AtariConfig,
    Config,
    EpsilonConfig,
    EvalConfig,
    GymConfig,
    ImpalaConfig,
    MinatarCnnConfig,
    MlpConfig,
    MunchausenConfig,
    NatureCnnConfig,
    NipsCnnConfig,
    OnlineConfig,
    PerEnvConfig,
    RmspropConfig,
    RmspropNatureConfig,
    ScalarConfig,
    SgdConfig,
    TdqnConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.envs.vector import GymLanes
from dqn_cli.errors import CheckpointError, Interrupted, NumericalError
from dqn_cli.seeding import Purpose
from dqn_cli.training import checkpoint as checkpoints
from dqn_cli.training import plan as plans
from dqn_cli.training.evaluator import EvalResult, play
from dqn_cli.training.snapshot import position
from dqn_cli.validate import PLAIN_SECTIONS


@pytest.mark.parametrize("config", VARIETY.values(), ids=VARIETY.keys())
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(config: Config, tmp_path: Path) -> None:
    first, again = fingerprint(config, tmp_path / "a"), fingerprint(config, tmp_path / "b")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []
    other = fingerprint(dataclasses.replace(config, seed=1), tmp_path / "c")
    assert other["model.online." + _first_weight(other)] != first["model.online." + _first_weight(first)]
    assert other["episodes.csv"] != first["episodes.csv"]


def _first_weight(found: dict[str, bytes]) -> str:
    return next(name for name in found if name.startswith("model.online.")).removeprefix("model.online.")


class Overlapped(GymLanes):
    """Environments that step in a thread of their own, from `send` on."""

    def send(self, actions: np.ndarray) -> None:
        super().send(actions)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        self._step_result = super().recv()

    def recv(self) -> Any:
        self._thread.join()
        return self._step_result


@pytest.mark.parametrize("config", [small(), small(num_envs=3), RAINBOW], ids=["1 env", "3 envs", "rainbow"])
def test_learning_while_the_environments_step_changes_no_bit(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequential = fingerprint(config, tmp_path / "sequential")
    made: list[Overlapped] = []

    def make_lanes(*arguments: Any) -> Overlapped:
        made.append(Overlapped(*arguments))
        return made[-1]

    monkeypatch.setattr(build, "make_lanes", make_lanes)
    overlapped = fingerprint(config, tmp_path / "overlapped")
    assert len(made) == 2  # to train and to evaluate
    assert sequential == overlapped


@contextmanager
def recording_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[tuple[str, str]]]:
    """Which settings the package reads to act on them; copying and checking a configuration does not count."""
    reads: set[tuple[str, str]] = set()

    def watched(cls: type) -> Callable[[Any, str], Any]:
        def read(self: Any, name: str) -> Any:
            module = sys._getframe(1).f_globals["__name__"]
            if module.startswith("dqn_cli.") and module not in {"dqn_cli.config", "dqn_cli.validate"}:
                reads.add((cls.__name__, name))
            return object.__getattribute__(self, name)

        return read

    for cls in vars(configs).values():
        if dataclasses.is_dataclass(cls) and isinstance(cls, type):
            monkeypatch.setattr(cls, "__getattribute__", watched(cls), raising=False)
    yield reads


PONG = AtariConfig(id="ALE/Pong-v5")
LINEAR = configs.LrSchedule.linear
# beside VARIETY: runs in which all that a choice can say has something to say it to
KNOBS = [
    small(optimizer=RmspropConfig(lr_schedule=LINEAR)),
    small(exploration=EpsilonConfig(schedule=configs.EpsilonSchedule.exponential)),
    small(optimizer=RmspropNatureConfig(lr_schedule=LINEAR)),
    small(optimizer=SgdConfig(lr_schedule=LINEAR)),
    small(optimizer=AdamConfig(lr_schedule=LINEAR)),
    small(exploration=PerEnvConfig(), num_envs=2),
    small(munchausen=MunchausenConfig(enabled=True), value=ScalarConfig()),
    small(network=MlpConfig(hidden=[8], noisy=True)),
    small(env=PONG, network=NatureCnnConfig(noisy=True), threads="1"),
    small(env=PONG, network=NipsCnnConfig(noisy=True), threads="1"),
    small(env=CELLS, network=MinatarCnnConfig(noisy=True)),
    small(env=CELLS, network=ImpalaConfig(noisy=True), threads="1"),
    *(brief(value=cls()) for cls in configs.CHOICES["value"].values()),
]


def test_every_knob_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recording_reads(monkeypatch) as reads:
        for number, config in enumerate([*VARIETY.values(), *KNOBS]):
            folder = tmp_path / str(number)
            folder.mkdir()
            with ExitStack() as stack:
                run = build.assemble(config, folder, stack)
                if not isinstance(config.value, ScalarConfig) and config in KNOBS:
                    run.trainer.run()  # how many quantiles to draw is only read when they are drawn
    chosen = {cls for group in configs.CHOICES.values() for cls in group.values()}
    missed = {
        f"{cls.__name__}.{f.name}"
        for cls in chosen | {Config, *PLAIN_SECTIONS.values()}
        for f in dataclasses.fields(cls)
        if (cls.__name__, f.name) not in reads and (f.name != "name" or cls in configs.CHOICES["variant"].values())
    }
    assert missed == {"Config.plugin"}  # which is imported before there is a configuration


@pytest.mark.parametrize(("num_envs", "n_step"), [(1, 1), (3, 1), (1, 3)])
def test_q_learning_equals_its_naive_twin(
    num_envs: int, n_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = frozen_lake(num_envs=num_envs, replay=OnlineConfig(n_step=n_step), discount=0.97)
    steps: list[tuple[np.ndarray, np.ndarray, Any]] = []
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        append, start = run.memory.append, run.memory.start
        seen: list[np.ndarray] = []

        def spying_start(frame: np.ndarray) -> None:
            seen.append(frame.argmax(1))
            start(frame)

        def spying_append(action: np.ndarray, step: Any) -> int:
            successor = step.next_frame.argmax(1)
            steps.append(
                (seen[-1], action.copy(), (step.reward.copy(), successor, step.terminated.copy(), step.first.copy()))
            )
            seen.append(step.frame.argmax(1))
            return append(action, step)

        monkeypatch.setattr(run.memory, "append", spying_append)
        monkeypatch.setattr(run.memory, "start", spying_start)
        run.trainer.run()
        table = dict(run.learner.online.named_parameters())
    q = np.zeros((16, 4))
    windows: list[list[tuple[int, int, float]]] = [[] for _ in range(num_envs)]
    for state, action, (reward, successor, terminated, first) in steps:
        for lane in range(num_envs):
            window = windows[lane]
            window.append((state[lane], action[lane], reward[lane]))
            over = terminated[lane] or first[lane]
            while window and (over or len(window) == n_step):
                s, a, _ = window[0]
                gain = sum(0.97**i * r for i, (_, _, r) in enumerate(window))
                bootstrap = 0.0 if terminated[lane] else 0.97 ** len(window) * q[successor[lane]].max()
                q[s, a] += 0.1 * (gain + bootstrap - q[s, a])
                window.pop(0)
    (weight,) = table.values()
    assert np.count_nonzero(q) > 10
    np.testing.assert_allclose(
        weight.detach().numpy().T if weight.shape[0] == 4 else weight.detach().numpy(), q, atol=1e-6
    )


def test_weights_are_handed_on(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    summary = build.train_run(small(), first, [], ["dqn-train"])
    begun = small(init_from=str(first), variant=VdqnConfig())
    (tmp_path / "second").mkdir()
    with ExitStack() as stack:
        run = build.assemble(begun, tmp_path / "second", stack)
        given = checkpoints.read(checkpoints.find(first, "best")).model
        for name, weight in run.learner.online.state_dict().items():
            assert torch.equal(weight, given[f"online.{name}"])
    assert summary.metric == summary.final.result.mean
    (tmp_path / "third").mkdir()
    with ExitStack() as stack, pytest.raises(CheckpointError, match=r"init_from=.*is not of the network configured"):
        build.assemble(small(init_from=str(first), network=MlpConfig(hidden=[8])), tmp_path / "third", stack)


@pytest.mark.parametrize(
    ("had", "wanted", "why"),
    [
        (configs.CategoricalConfig(atoms=5), configs.QuantileConfig(quantiles=5), "it has value=categorical, this run"),
        (configs.CategoricalConfig(), configs.CategoricalConfig(v_max=500), "v_min or v_max are others"),
    ],
)
def test_weights_that_mean_something_else_are_not_handed_on(had: Any, wanted: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    build.train_run(small(value=had), tmp_path / "first", [], ["dqn-train"])
    (tmp_path / "second").mkdir()
    with ExitStack() as stack, pytest.raises(CheckpointError, match=why):
        build.assemble(small(value=wanted, init_from=str(tmp_path / "first")), tmp_path / "second", stack)


def test_a_target_network_begins_as_a_copy_of_the_weights_handed_on(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    build.train_run(small(), tmp_path / "first", [], ["dqn-train"])
    (tmp_path / "second").mkdir()
    with ExitStack() as stack:
        learner = build.assemble(small(init_from=str(tmp_path / "first")), tmp_path / "second", stack).learner
        assert learner.target is not None
        for online, target in zip(learner.online.parameters(), learner.target.parameters(), strict=True):
            assert torch.equal(online, target)


def test_a_checkpoint_plays_as_it_did_in_the_run(tmp_path: Path) -> None:
    config = small(seed=5)
    summary = build.train_run(config, tmp_path, [], ["dqn-train"])
    checkpoint = checkpoints.read(checkpoints.find(tmp_path, "final"))

    def the_runs_own(lane: int, episode: int) -> int:
        return seeding.integer(config.seed, Purpose.EVAL_ENV, 0, lane + episode * 3)

    with closing(GymLanes(config.env, 3, the_runs_own)) as envs:
        network = build.load_policy(checkpoint, config, envs.spec, envs.num_actions)
        actor = build.evaluating_actor(config, network, envs, 3, seed=0)
        assert play(actor, envs, 3, 0.0, lambda done: None) == summary.final.result
    assert summary.final.step == 400


def test_an_evaluation_depends_on_its_seed_alone(tmp_path: Path) -> None:
    build.train_run(small(), tmp_path, [], ["dqn-train"])
    checkpoint = checkpoints.read(checkpoints.find(tmp_path, "final"))

    def played(**options: Any) -> EvalResult:
        return build.evaluate_checkpoint(checkpoint, small(), EvalConfig(checkpoint="", episodes=9, **options))

    assert played(seed=3) == played(seed=3) == played(seed=3, num_envs=2)
    assert played(seed=3).scores != played(seed=4).scores
    assert played(seed=3, epsilon=0.9).scores != played(seed=3).scores


@pytest.mark.parametrize("act_with", configs.ActWith)
def test_an_evaluation_plays_the_network_that_acted(act_with: configs.ActWith, tmp_path: Path) -> None:
    config = small(variant=TdqnConfig(target_every=1000, act_with=act_with))
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        with torch.no_grad():
            list(run.learner.online.parameters())[-1].add_(7.0)
        model = run.learner.model_state()
        checkpoint = checkpoints.Checkpoint(0, {}, model, None, {}, None, [], {})
        spec, num_actions = run.trainer._envs.spec, 2  # type: ignore[attr-defined]
        played = build.load_policy(checkpoint, config, spec, num_actions).state_dict()
    for name, weight in played.items():
        assert torch.equal(weight, model[f"{act_with}.{name}"])


def test_updates_may_begin_with_the_first_row(tmp_path: Path) -> None:
    config = small(num_envs=2, replay=UniformConfig(capacity=300, batch_size=8, n_step=3))
    config.run.learning_starts_steps, config.run.update_every_steps = 0, 1
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        run.trainer.run()
    assert run.trainer.counters.updates == 2 * (400 - 2 * 4 + 1)


def test_schedules_reach_from_begin_to_end() -> None:
    epsilon = EpsilonConfig(begin=0.9, end=0.1, over_steps=10)
    assert [plans.make_exploration(epsilon)(t) for t in (0, 10, 99)] == [0.9, 0.1, 0.1]
    assert plans.make_exploration(dataclasses.replace(epsilon, schedule=configs.EpsilonSchedule.constant))(0) == 0.1
    lr = AdamConfig(lr=0.5, lr_end=0.25, lr_schedule=configs.LrSchedule.linear)
    assert [build.make_lr(lr, 100)(t) for t in (0, 50, 100)] == [0.5, 0.375, 0.25]


def test_the_learner_follows_the_schedule_of_its_learning_rate(tmp_path: Path) -> None:
    config = small(optimizer=AdamConfig(lr=0.4, lr_schedule=configs.LrSchedule.linear))
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        run.trainer.run()
    # the last update comes with the decision 399, in flight after 398
    assert run.learner._descent.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.4 * 2 / 400)


def test_every_stream_is_its_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        streams = build.assemble(small(), tmp_path, stack).streams.values()
        assert len({repr(position(stream)) for stream in streams}) == len(streams) == 4


@pytest.mark.parametrize(
    ("config", "draws"),
    [(brief(), {"exploration", "replay"}), (RAINBOW, {"exploration", "replay", "update", "acting"})],
    ids=["dqn", "rainbow"],
)
def test_a_checkpoint_knows_where_every_stream_stands(config: Config, draws: set[str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        positions = [{name: position(stream) for name, stream in run.streams.items()}]
        run.trainer.run()
        run.watcher.finish(run.trainer.result)
        ended = {name: position(stream) for name, stream in run.streams.items()}
    saved = [checkpoints.read(checkpoints.find(tmp_path, step)).state for step in ("50", "100", "final")]
    positions += [state["streams"] for state in saved]
    assert positions[-1] == ended
    for before, after in pairwise(positions):
        assert {name for name in ended if after[name] != before[name]} == draws


def test_the_weights_handed_on_are_those_that_acted(tmp_path: Path) -> None:
    acting = small(variant=TdqnConfig(act_with=configs.ActWith.target, target_every=90))
    (tmp_path / "first").mkdir()
    build.train_run(acting, tmp_path / "first", [], ["dqn-train"])
    given = checkpoints.read(checkpoints.find(tmp_path / "first", "best")).model
    (tmp_path / "second").mkdir()
    with ExitStack() as stack:
        learner = build.assemble(small(init_from=str(tmp_path / "first")), tmp_path / "second", stack).learner
    (name, weight), *_ = learner.online.state_dict().items()
    assert torch.equal(weight, given[f"target.{name}"])
    assert not torch.equal(weight, given[f"online.{name}"])


def test_v_dqn_has_no_second_network(tmp_path: Path) -> None:
    with ExitStack() as stack:
        learner = build.assemble(small(variant=VdqnConfig()), tmp_path, stack).learner
        assert learner.target is None
        assert all(name.startswith("online.") for name in learner.model_state())


def test_the_acting_network_is_the_one_asked_for(tmp_path: Path) -> None:
    config = small(variant=TdqnConfig(act_with=configs.ActWith.target, target_every=1000))
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        assert run.learner.target is not None
        with torch.no_grad():  # the target network always says 1, the online network always 0
            for network, bias in ((run.learner.online, [9.0, 0.0]), (run.learner.target, [0.0, 9.0])):
                last = list(network.parameters())
                last[-2].zero_()
                last[-1].copy_(torch.tensor(bias))
        assert build.acting_network(config) == "target"
        first = np.ones(1, np.bool_)
        action = run.trainer._actor.act(np.zeros((1, 4), np.float32), first, 0.0)
        assert action.tolist() == [1]


def test_a_reward_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    step = CartPoleEnv.step
    calls = 0

    def broken(self: CartPoleEnv, action: int) -> Any:
        nonlocal calls
        calls += 1
        frame, _, terminated, truncated, info = step(self, action)
        return frame, 1.0 if calls < 250 else float("nan"), terminated, truncated, info

    monkeypatch.setattr(CartPoleEnv, "step", broken)
    config = small()
    config.run.eval_every_steps = None
    with pytest.raises(NumericalError, match=r"CartPole-v1: reward is nan"):
        build.train_run(config, tmp_path, [], ["dqn-train"])
    kept = checkpoints.find(tmp_path, "last")
    assert checkpoints.read(kept).step == 240


def test_ctrl_c_leaves_a_checkpoint_of_the_step_it_came_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act = Actor.act
    calls = 0

    def pressing(self: Actor, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 77:
            os.kill(os.getpid(), signal.SIGINT)
        return act(self, *arguments)

    monkeypatch.setattr(Actor, "act", pressing)
    shells = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored, and stays so
    with pytest.raises(Interrupted, match=r"stopped by Ctrl-C at step 77; saved, continue with dqn-train resume="):
        build.train_run(small(), tmp_path, [], ["dqn-train"])
    signal.signal(signal.SIGINT, shells)
    assert checkpoints.read(checkpoints.find(tmp_path, "last")).step == 77


def test_rewards_are_clipped_for_learning_only(tmp_path: Path) -> None:
    config = frozen_lake(env=GymConfig(id="CliffWalking-v1", time_limit_steps=50), reward_clip=0.5)
    config.run.total_steps = 500
    with ExitStack() as stack:
        run = build.assemble(config, tmp_path, stack)
        run.trainer.run()
    assert run.memory.state_dict()["row.reward"].tolist() == [-0.5]
    scores = [float(line.split(",")[4]) for line in (tmp_path / "episodes.csv").read_text().splitlines()[1:]]
    assert min(scores) <= -50


@pytest.mark.parametrize("limit", [None, 0.5])
def test_gradients_are_clipped_where_asked_for(limit: float | None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        run = build.assemble(small(optimizer=AdamConfig(max_grad_norm=limit)), tmp_path, stack)
        run.trainer.run()
    assert run.trainer.result is not None
    assert (run.trainer.result.grad_norm is None) == (limit is None)


def test_state_of_a_checkpoint(tmp_path: Path) -> None:
    build.train_run(small(), tmp_path, ["seed=0"], ["dqn-train", "seed=0"])
    checkpoint = checkpoints.read(checkpoints.find(tmp_path, "final"))
    state = checkpoint.state
    assert checkpoint.optimizer
    assert checkpoints.read(checkpoints.find(tmp_path, "last")).optimizer
    assert checkpoints.read(checkpoints.find(tmp_path, "best")).optimizer is None
    assert state["counters"] == {
        "steps": 400,
        "updates": 234,
        "episodes": state["counters"]["episodes"],
        "target_syncs": 20,
    }
    assert set(state["streams"]) == {"exploration", "replay", "update", "acting"}
    json.dumps(state)
