"""The tasks of `scripts/bench versus`: the same numbers for every system, with totals that the peer's rounds divide."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

MAX_GRAD_NORM, DISCOUNT, ADAM_EPS = 10.0, 0.99, 1e-8  # stable-baselines3's defaults; its loss is Huber's always


@dataclass(frozen=True, kw_only=True)
class Task:
    """One schedule of T-DQN with uniform replay and one-step returns. Steps are those of all environments together."""

    name: str
    text: str
    env: str  # what dqn-train calls it
    kind: str = "gym"  # or minatar, atari
    env_id: str
    network: str = "mlp"  # or minatar_cnn, nature_cnn
    hidden: tuple[int, ...] = ()
    total_steps: int
    starts: int  # no update up to here
    every: int  # steps between rounds of updates
    per_round: int = 1
    batch: int
    capacity: int
    target_every: int  # steps
    lr: float
    epsilon_end: float
    epsilon_over: int  # steps from 1 to there
    settle_updates: int = 1_000  # the steady phase begins after them
    num_envs: int = 1
    vec: str = "dummy"  # stable-baselines3's environments: one after the other, or in processes (subproc)
    threads: int = 1
    cores: int = 1
    device: str = "cpu"
    extra: tuple[str, ...] = ()  # more settings of dqn-train, which the peer has nothing like

    @property
    def updates(self) -> int:
        """What a run has to make: a round at every multiple of `every` beyond `starts`."""
        return self.per_round * (self.total_steps // self.every - self.starts // self.every)

    def rounds(self) -> tuple[int, int]:
        """The peer's (steps of each environment, updates) of a round. Raises `ValueError` where it has no such one."""
        if self.every % self.num_envs == 0:
            rounds = self.every // self.num_envs, self.per_round
        elif self.num_envs % self.every == 0:
            rounds = 1, self.per_round * self.num_envs // self.every
        else:
            raise ValueError(f"{self.name}: an update every {self.every} steps does not fit {self.num_envs} lanes")
        turn = rounds[0] * self.num_envs
        if self.total_steps % turn or self.starts % self.num_envs or self.target_every % self.num_envs:
            raise ValueError(f"{self.name}: {self.total_steps} steps are no multiple of the peer's rounds of {turn}")
        return rounds

    def numbers(self) -> dict[str, Any]:
        """All of it, for a peer's driver."""
        train_freq, gradient_steps = self.rounds()
        more = {"max_grad_norm": MAX_GRAD_NORM, "discount": DISCOUNT, "adam_eps": ADAM_EPS}
        return asdict(self) | more | {"train_freq": train_freq, "gradient_steps": gradient_steps}

    def overrides(self) -> list[str]:
        """All of it, in the words of dqn-train; logging as it is, evaluations and checkpoints at the end only."""
        words = {
            "env": self.env,
            "variant": "tdqn",
            "variant.target_every": self.target_every,
            "variant.target_unit": "steps",
            "variant.tau": 1.0,
            "value": "scalar",
            "loss": "huber",
            "network.head": "plain",
            "replay": "uniform",
            "replay.capacity": self.capacity,
            "replay.batch_size": self.batch,
            "replay.n_step": 1,
            "exploration": "epsilon",
            "exploration.schedule": "linear",
            "exploration.begin": 1.0,
            "exploration.end": self.epsilon_end,
            "exploration.over_steps": self.epsilon_over,
            "optimizer": "adam",
            "optimizer.lr": self.lr,
            "optimizer.lr_schedule": "constant",
            "optimizer.eps": ADAM_EPS,
            "optimizer.max_grad_norm": MAX_GRAD_NORM,
            "discount": DISCOUNT,
            "num_envs": self.num_envs,
            "device": self.device,
            "threads": self.threads,
            "run.total_steps": self.total_steps,
            "run.learning_starts_steps": self.starts,
            "run.update_every_steps": self.every,
            "run.updates_per_round": self.per_round,
            "run.eval_every_steps": "null",
            "run.eval_episodes": 1,
            "run.checkpoint_every_steps": "null",
            "run.checkpoint_replay": "false",
        }
        if self.hidden:
            words["network.hidden"] = f"[{','.join(map(str, self.hidden))}]"
        if self.kind == "atari":
            words |= {"env.sticky": 0.0, "env.noop_max": 30, "env.fire_reset": "true", "reward_clip": 1.0}
            words |= {"env.life_loss": "ignore", "env.frame_stack": 4, "env.frame_skip": 4}
        return [f"{key}={value}" for key, value in words.items()] + list(self.extra)


T1 = Task(
    name="T1",
    text="CartPole, CleanRL's schedule: 120-84, batch 128, an update per 10 steps",
    env="CartPole",
    env_id="CartPole-v1",
    hidden=(120, 84),
    total_steps=200_000,
    starts=10_000,
    every=10,
    batch=128,
    capacity=10_000,
    target_every=500,
    lr=2.5e-4,
    epsilon_end=0.05,
    epsilon_over=100_000,
)
T1B = replace(
    T1,
    name="T1b",
    text="CartPole, rl-zoo3's schedule: 256-256, batch 64, 128 updates per 256 steps",
    hidden=(256, 256),
    total_steps=50_176,  # 196 rounds: the first multiple of 256 beyond the zoo's 50,000, where its runs end too
    starts=1_000,
    every=256,
    per_round=128,
    batch=64,
    capacity=100_000,
    target_every=10,
    lr=2.3e-3,
    epsilon_end=0.04,
    epsilon_over=8_028,
)
T1C = replace(
    T1,
    name="T1c",
    text="Acrobot, which nobody tuned for: 80-72-64, batch 48, an update per 3 steps",
    env="Acrobot",
    env_id="Acrobot-v1",
    hidden=(80, 72, 64),
    total_steps=60_000,
    starts=3_000,
    every=3,
    batch=48,
    capacity=30_000,
    target_every=750,
    lr=1e-3,
    epsilon_over=20_000,
)
T2 = Task(
    name="T2",
    text="MinAtar's Space Invaders, 10x10x6: 16 3x3 + 128, batch 32, an update per step",
    env="minatar/SpaceInvaders",
    kind="minatar",
    env_id="MinAtar/SpaceInvaders",
    network="minatar_cnn",
    total_steps=20_000,
    starts=2_000,
    every=1,
    batch=32,
    capacity=20_000,
    target_every=1_000,
    lr=2.5e-4,
    epsilon_end=0.1,
    epsilon_over=10_000,
)
T3 = Task(
    name="T3",
    text="Pong, Nature network, batch 32, an update per 4 steps",
    env="Pong",
    kind="atari",
    env_id="ALE/Pong-v5",
    network="nature_cnn",
    total_steps=6_000,
    starts=1_000,
    every=4,
    batch=32,
    capacity=20_000,
    target_every=1_000,
    lr=1e-4,
    epsilon_end=0.05,
    epsilon_over=3_000,
    settle_updates=250,  # an update here takes so long that a thousand of them would be most of the run
    cores=2,
)
T3B = replace(T3, name="T3b", text=f"{T3.text}; ours in bf16", extra=("precision=bf16",))
T4 = replace(
    T3,
    name="T4",
    text=f"{T3.text}; on a GPU",
    device="cuda",
    total_steps=40_000,
    epsilon_over=20_000,
    settle_updates=1_000,
    capacity=50_000,
    cores=16,
)
TASKS = {task.name: task for task in (T1, T1B, T1C, T2, T3, T3B, T4)}


def ways(task: Task, envs: int | None, cores: int) -> list[Task]:
    """The ways to run a task of which each system shows its best; `envs` leaves those with so many environments.

    The peer has one more: its environments in processes of their own.
    """
    task = replace(task, cores=min(task.cores, cores))
    if task.kind != "atari":
        return [task]
    return [
        replace(task, num_envs=lanes, threads=threads)
        for lanes in (1, 8)
        if envs in (None, lanes)
        for threads in (1, 2)
        if threads <= task.cores
    ]


def peer_ways(task: Task, envs: int | None, cores: int) -> list[Task]:
    """The same for the peer, whose several environments may be in processes of their own."""
    own = [replace(way, extra=()) for way in ways(task, envs, cores)]
    return own + [replace(way, vec="subproc") for way in own if way.num_envs > 1]


def scouting(task: Task) -> Task:
    """A shorter run of it, to see which way is the best."""
    return replace(task, total_steps=task.starts + 1_600, settle_updates=100)


def label(task: Task) -> str:
    """In which way it is run."""
    lanes = f"{task.num_envs} env{'s' * (task.num_envs > 1)}{' in processes' * (task.vec == 'subproc')}"
    return f"{lanes}, {task.threads} thread{'s' * (task.threads > 1)}"
