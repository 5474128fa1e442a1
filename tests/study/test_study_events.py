"""Event files of stable-baselines3 and CleanRL, written by TensorBoard's own record writer."""

import time

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.summary.writer.record_writer import RecordWriter

from dqn_cli.study import runs

NAME = "events.out.tfevents.1700000000.host.1.0"


def write(folder, scalars, table=None, name=NAME):
    """Scalars as (tag, step, value), a second between two steps; `table` as CleanRL's hyperparameters."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    with (folder / name).open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        if table is not None:
            lines = "\n".join(f"|{key}|{value}|" for key, value in table.items())
            tensor = TensorProto(string_val=[f"|param|value|\n|-|-|\n{lines}".encode()])
            value = Summary.Value(tag="hyperparameters/text_summary", tensor=tensor)
            writer.write(Event(summary=Summary(value=[value])).SerializeToString())
        for tag, step, number in scalars:
            value = Summary.Value(tag=tag, simple_value=number)
            event = Event(wall_time=begin + step, step=step, summary=Summary(value=[value]))
            writer.write(event.SerializeToString())
        writer.flush()
    return folder / name


def test_cleanrl(tmp_path):
    episodes = [("charts/episodic_return", step, float(step)) for step in (10, 30, 30, 60)]
    folder = tmp_path / "runs" / "CartPole-v1__dqn__3__1700000000"
    table = {"env_id": "CartPole-v1", "exp_name": "dqn", "seed": "3", "total_timesteps": "60", "gamma": "0.99"}
    write(folder, [*episodes, ("losses/td_loss", 60, 1.0)], table)
    (run,) = runs.load([tmp_path])
    assert (run.runner, run.env, run.seed, run.status) == ("CleanRL", "CartPole-v1", 3, "finished")
    assert run.words == {"": "CleanRL dqn"}
    assert run.settings["gamma"] == "0.99"
    series = run.series["return_mean"]  # running mean of the last 100 episodes, the newest at a step
    assert series.steps.tolist() == [10, 30, 60]
    assert series.values.tolist() == pytest.approx([10, 70 / 3, 130 / 4])
    assert run.series["seconds"].values.tolist() == pytest.approx([0, 20, 50], abs=1e-3)


def test_a_training_return_is_of_the_last_hundred_episodes(tmp_path):
    write(tmp_path / "X__y__1__2", [("charts/episodic_return", i, float(i >= 100)) for i in range(200)])
    values = runs.load([tmp_path])[0].series["return_mean"].values
    assert (values[99], values[149], values[199]) == pytest.approx((0, 0.5, 1))


def test_a_run_of_cleanrl_that_was_stopped(tmp_path):
    write(tmp_path / "X__y__1__2", [("charts/episodic_return", 5, 1.0)], {"total_timesteps": "100"})
    (run,) = runs.load([tmp_path])
    assert (run.status, run.reason) == ("unfinished", "at 5 of 100 steps")


@pytest.mark.parametrize(
    ("path", "env", "seed", "label"),
    [
        ("CartPole-v1/DQN_2", "CartPole-v1", 2, "stable-baselines3 DQN"),
        ("dqn/CartPole-v1_4", "CartPole-v1", 4, "stable-baselines3 dqn"),
        ("logs/DQN_1", "", 1, "stable-baselines3 DQN"),
    ],
)
def test_stable_baselines3(tmp_path, path, env, seed, label):
    scalars = [("rollout/ep_rew_mean", 100, 5.0), ("eval/mean_reward", 100, 7.0), ("rollout/ep_rew_mean", 200, 6.0)]
    write(tmp_path / path, scalars)
    (run,) = runs.load([tmp_path])
    assert (run.env, run.seed, run.words, run.status) == (env, seed, {"": label}, "finished")
    assert run.series["return_mean"].values.tolist() == [5, 6]
    assert run.series["eval_return_mean"].values.tolist() == [7]
    assert runs.load([tmp_path], env="Y-v0")[0].env == (env or "Y-v0")


def test_files_that_follow_each_other_are_one_run(tmp_path):
    write(tmp_path / "DQN_1", [("rollout/ep_rew_mean", 100, 5.0)])
    write(tmp_path / "DQN_1", [("rollout/ep_rew_mean", 200, 6.0)], name=NAME.replace("17", "18", 1))
    assert runs.load([tmp_path])[0].series["return_mean"].steps.tolist() == [100, 200]


def test_a_file_that_is_being_written(tmp_path):
    path = write(tmp_path / "DQN_1", [("rollout/ep_rew_mean", 100, 5.0), ("rollout/ep_rew_mean", 200, 6.0)])
    whole = path.read_bytes()
    for cut in (1, 5, 20):
        path.write_bytes(whole[:-cut])
        (run,) = runs.load([tmp_path])
        assert run.series["return_mean"].steps.tolist() == [100]
        assert run.notes == []


def test_damage_is_told_and_ends_the_file(tmp_path):
    path = write(tmp_path / "DQN_1", [("rollout/ep_rew_mean", 100, 5.0), ("rollout/ep_rew_mean", 200, 6.0)])
    whole = path.read_bytes()
    for at in range(24, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        (run,) = runs.load([tmp_path])
        assert len(run.notes) == 1, at
        assert "damaged" in run.notes[0]
        assert run.series.get("return_mean") is None or run.series["return_mean"].values.tolist() == [5]


def test_other_tags_are_no_scores(tmp_path):
    write(tmp_path / "a", [("loss", 1, 2.0)])
    (run,) = runs.load([tmp_path])
    assert run.series == {}
    assert "none of the tags" in run.reason


def test_numbers_that_are_none(tmp_path):
    nan, inf = float("nan"), float("inf")
    scalars = [("rollout/ep_rew_mean", step, value) for step, value in ((1, nan), (2, inf), (-5, 1.0), (3, 4.0))]
    write(tmp_path / "DQN_1", scalars)
    assert runs.load([tmp_path])[0].series["return_mean"].steps.tolist() == [3]
    write(tmp_path / "DQN_1", [("rollout/ep_rew_mean", 1, nan)])
    assert runs.load([tmp_path])[0].series.keys() <= {"seconds"}
