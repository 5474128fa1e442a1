"""Every knob on one page: a dataclass per Hydra group, with its range and its meaning beside it.

Units are in the names: `_steps` are agent decisions summed over all environments, `_updates` gradient updates,
`_episodes` finished episodes. Ranges are checked by `check_ranges`, rules between groups by `settle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from math import inf
from typing import Any, ClassVar

from omegaconf import MISSING

from dqn_cli.errors import ConfigError


class Loss(StrEnum):
    """Error per transition; both are half the square near 0."""

    mse = "mse"
    huber = "huber"


class Logger(StrEnum):
    """Where scalars go beside the CSV files."""

    tensorboard = "tensorboard"
    csv = "csv"


class Activation(StrEnum):
    """Between the layers of an MLP."""

    relu = "relu"
    tanh = "tanh"
    elu = "elu"
    silu = "silu"
    gelu = "gelu"


class TargetUnit(StrEnum):
    """What `target_every` counts."""

    steps = "steps"
    updates = "updates"
    episodes = "episodes"


class ActWith(StrEnum):
    """The network that chooses actions."""

    online = "online"
    target = "target"


class Engine(StrEnum):
    """What runs the Atari games."""

    native = "native"
    gymnasium = "gymnasium"


class Head(StrEnum):
    """From features to values; dueling: a stream for the state's value, and one for each action's advantage."""

    plain = "plain"
    dueling = "dueling"


class LifeLoss(StrEnum):
    """What the loss of a life means in training; evaluations always play whole games."""

    ignore = "ignore"
    terminal = "terminal"
    reset = "reset"


class Preprocess(StrEnum):
    """How the papers scale and cut the screen."""

    nature = "nature"
    nips2013 = "nips2013"


class Padding(StrEnum):
    """Zeros around the picture that a convolution reads."""

    valid = "valid"
    same = "same"


class Init(StrEnum):
    """Weights at the start: fan_in draws them as PyTorch does, within 1 / sqrt(fan_in); or Glorot & Bengio 2010."""

    fan_in = "fan_in"
    glorot = "glorot"


class Precision(StrEnum):
    """Numbers that convolutions compute with; everything else is float32 throughout."""

    fp32 = "fp32"
    bf16 = "bf16"


class EpsilonSchedule(StrEnum):
    """How epsilon goes from begin to end."""

    linear = "linear"
    exponential = "exponential"
    constant = "constant"


class LrSchedule(StrEnum):
    """How the learning rate changes over the run."""

    constant = "constant"
    linear = "linear"


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have; NaN and infinity lie outside every range."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            abs(number) < inf
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def __str__(self) -> str:
        low = f"({self.gt}" if self.gt is not None else f"[{self.ge}" if self.ge is not None else "(-inf"
        high = f"{self.lt})" if self.lt is not None else f"{self.le}]" if self.le is not None else "inf)"
        return f"{low}, {high}"


def knob(default: Any, text: str, **bounds: float) -> Any:
    """A setting: its default (`MISSING` for none), what it means, and the bounds of its `Range`."""
    meta = {"text": text, "range": Range(**bounds)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


# what device= and threads= may look like; whether this machine has them is device.py's to say
DEVICE_FORM = r"auto|cpu|cuda(:[0-9]+)?|mps"
THREADS_FORM = r"auto|0*[1-9][0-9]*"


@dataclass(kw_only=True)
class EnvConfig:
    """What is played."""

    name: str = MISSING
    id: str = knob(MISSING, "Gymnasium id")
    frame_stack: int = knob(1, "consecutive frames in one observation", ge=1, le=64)


@dataclass(kw_only=True)
class GymConfig(EnvConfig):
    """An environment of Gymnasium's registry."""

    name: str = "gym"
    module: str | None = knob(None, "Python module to import first, one that registers the id")
    kwargs: dict[str, Any] = knob({}, "arguments of the environment's constructor")
    time_limit_steps: int | None = knob(None, "truncate episodes after this many steps; null: as registered", ge=1)


@dataclass(kw_only=True)
class AtariConfig(EnvConfig):
    """A game of the Atari 2600 (Bellemare et al. 2013), seen as the papers show it to the agent."""

    name: str = "atari"
    frame_stack: int = knob(4, "consecutive frames in one observation", ge=1, le=64)
    engine: Engine = knob(Engine.native, "native: in C++ threads; gymnasium: one game after the other, in Python")
    sticky: float = knob(0.25, "probability that the emulator repeats its last action, at every frame", ge=0, lt=1)
    noop_max: int = knob(0, "a game begins with 0 to this many frames without action", ge=0, le=10_000)
    fire_reset: bool = knob(False, "press FIRE at a game's start, where the game has that button")
    life_loss: LifeLoss = knob(LifeLoss.ignore, "in training: nothing, a terminal for learning only, or a new game")
    full_actions: bool = knob(False, "all 18 actions instead of those that do something in the game")
    frame_skip: int = knob(4, "emulator frames per step", ge=1, le=1000)
    max_pool: bool = knob(True, "brightest of the last two frames: some sprites are drawn on every other frame only")
    max_frames: int = knob(108_000, "truncate games after this many frames, those at the start not counted", ge=1)
    preprocess: Preprocess = knob(Preprocess.nature, "nature: 84x84; nips2013: 110x84, of which 84x84 are cut out")
    resize: list[int] | None = knob(None, "[height, width] to scale to; null: as preprocess has it", ge=1, le=1024)
    crop: list[int] | None = knob(None, "[top, left, height, width] to keep; null: as preprocess has it", ge=0, le=1024)
    color: bool = knob(False, "red, green and blue instead of grey")


@dataclass(kw_only=True)
class MinatarConfig(EnvConfig):
    """A game of MinAtar (Young & Tian 2019): 10x10 cells, a channel for each kind of object."""

    name: str = "minatar"
    sticky: float = knob(0.1, "probability that the last action is repeated", ge=0, lt=1)
    ramping: bool = knob(True, "the game becomes harder as it is played")
    full_actions: bool = knob(False, "all 6 actions instead of those that do something in the game")
    time_limit_steps: int = knob(10_000, "truncate games after this many steps; MinAtar itself has no limit", ge=1)


@dataclass(kw_only=True)
class NetworkConfig:
    """What maps an observation to the values of its actions."""

    name: str = MISSING


@dataclass(kw_only=True)
class LayeredConfig(NetworkConfig):
    """Layers; the last hidden one and the outputs are the head."""

    head: Head = knob(Head.plain, "dueling: values and advantages apart (Wang et al. 2016)")
    noisy: bool = knob(False, "fully connected layers with learnt noise (Fortunato et al. 2018)")
    noisy_sigma: float = knob(0.5, "how strong that noise is at the start: sigma_0", gt=0, le=10)
    layer_norm: bool = knob(False, "normalise each hidden layer before its activation (Ba et al. 2016)")


@dataclass(kw_only=True)
class MlpConfig(LayeredConfig):
    """Fully connected layers, linear outputs."""

    name: str = "mlp"
    hidden: list[int] = knob([256, 256], "units of each hidden layer", ge=1, le=65536)
    activation: Activation = knob(Activation.relu, "between layers")


@dataclass(kw_only=True)
class ImageConfig(LayeredConfig):
    """Convolutions over pictures, then a fully connected layer of `units`."""

    init: Init = knob(Init.fan_in, "how weights begin")
    spectral_norm: bool = knob(
        False, "divide convolutions, all but the first (of each sequence), by their largest singular value"
    )


@dataclass(kw_only=True)
class CnnConfig(ImageConfig):
    """Convolutions as (channels, kernel, stride)."""

    convolutions: ClassVar[tuple[tuple[int, int, int], ...]]
    units: ClassVar[int]
    padding: Padding = knob(Padding.valid, "zeros around a picture; same: as many as keep ceil(side / stride)")


@dataclass(kw_only=True)
class NatureCnnConfig(CnnConfig):
    """Three convolutions and a layer of 512, for images (Mnih et al. 2015)."""

    name: str = "nature_cnn"
    convolutions = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    units = 512


@dataclass(kw_only=True)
class NipsCnnConfig(CnnConfig):
    """Two convolutions and a layer of 256, for images (Mnih et al. 2013)."""

    name: str = "nips_cnn"
    convolutions = ((16, 8, 4), (32, 4, 2))
    units = 256


@dataclass(kw_only=True)
class MinatarCnnConfig(CnnConfig):
    """A small convolution and a layer of 128, for MinAtar (Young & Tian 2019)."""

    name: str = "minatar_cnn"
    convolutions = ((16, 3, 1),)
    units = 128


@dataclass(kw_only=True)
class ImpalaConfig(ImageConfig):
    """Fifteen convolutions in residual blocks and a fully connected layer (Espeholt et al. 2018)."""

    name: str = "impala"
    channels: ClassVar[tuple[int, ...]] = (16, 32, 32)  # of each sequence, times `width`
    units: int = knob(256, "of the fully connected layer", ge=1, le=65536)
    width: int = knob(1, "factor of all channels", ge=1, le=16)
    pool: int | None = knob(None, "side of the picture after adaptive max-pooling; null: no pooling", ge=1, le=64)


@dataclass(kw_only=True)
class TorsoConfig(LayeredConfig):
    """What networks have whose torso a module of the user's own makes (`plugins.py`)."""

    units: int | None = knob(256, "of the fully connected layer; null: there is none", ge=1, le=65536)


@dataclass(kw_only=True)
class TableConfig(NetworkConfig):
    """A look-up table: one entry per state and action, for environments with discrete observations."""

    name: str = "table"
    initial_q: float = knob(0.0, "value of every entry at the start", ge=-1_000_000_000, le=1_000_000_000)


@dataclass(kw_only=True)
class VariantConfig:
    """Which network selects the next action and which evaluates it."""

    name: str = MISSING


@dataclass(kw_only=True)
class VdqnConfig(VariantConfig):
    """V-DQN: the network that learns gives its own targets (Mnih et al. 2013)."""

    name: str = "vdqn"


@dataclass(kw_only=True)
class QlearningConfig(VariantConfig):
    """Tabular Q-learning (Watkins 1989): V-DQN's rule on a table, each transition learnt once."""

    name: str = "qlearning"


@dataclass(kw_only=True)
class TdqnConfig(VariantConfig):
    """T-DQN: a fixed target network selects and evaluates (Mnih et al. 2015)."""

    name: str = "tdqn"
    target_every: int = knob(500, "the target network is updated every so many target_unit", ge=1)
    target_unit: TargetUnit = knob(TargetUnit.steps, "what target_every counts")
    tau: float = knob(1.0, "target <- tau online + (1 - tau) target; 1: a copy", gt=0, le=1)
    act_with: ActWith = knob(ActWith.online, "the network that acts, in training and evaluation")


@dataclass(kw_only=True)
class DdqnConfig(TdqnConfig):
    """DDQN: the online network selects, the target network evaluates (van Hasselt et al. 2016)."""

    name: str = "ddqn"


@dataclass(kw_only=True)
class ValueConfig:
    """What is known of the return of an action."""

    name: str = MISSING


@dataclass(kw_only=True)
class ScalarConfig(ValueConfig):
    """Its mean (Watkins 1989)."""

    name: str = "scalar"


@dataclass(kw_only=True)
class CategoricalConfig(ValueConfig):
    """C51: probabilities of fixed returns, evenly spaced (Bellemare et al. 2017)."""

    name: str = "categorical"
    atoms: int = knob(51, "returns that have a probability", ge=2, le=1_001)
    v_min: float = knob(-10.0, "the smallest of them", ge=-1_000_000, le=1_000_000)
    v_max: float = knob(10.0, "the largest of them", ge=-1_000_000, le=1_000_000)


@dataclass(kw_only=True)
class QuantileConfig(ValueConfig):
    """QR-DQN: returns at fixed, evenly spaced quantiles (Dabney et al. 2018)."""

    name: str = "quantile"
    quantiles: int = knob(200, "number of them", ge=1, le=1_001)
    kappa: float = knob(1.0, "error up to which the quantile Huber loss is quadratic", gt=0, le=1_000_000)


@dataclass(kw_only=True)
class ImplicitConfig(ValueConfig):
    """IQN: the return at any quantile that is asked for (Dabney et al. 2018)."""

    name: str = "implicit"
    quantiles: int = knob(64, "N: quantiles drawn of a prediction", ge=1, le=1024)
    target_quantiles: int = knob(64, "N': quantiles drawn of a target", ge=1, le=1024)
    acting_quantiles: int = knob(32, "K: quantiles drawn to choose an action", ge=1, le=1024)
    embedding: int = knob(64, "cosines that a quantile is seen as", ge=1, le=1024)
    kappa: float = knob(1.0, "error up to which the quantile Huber loss is quadratic", gt=0, le=1_000_000)


@dataclass(kw_only=True)
class FqfConfig(ValueConfig):
    """FQF: returns at quantiles that are learnt, for each state (Yang et al. 2019)."""

    name: str = "fqf"
    quantiles: int = knob(32, "N: quantiles proposed for a state", ge=2, le=1024)
    embedding: int = knob(64, "cosines that a quantile is seen as", ge=1, le=1024)
    kappa: float = knob(1.0, "error up to which the quantile Huber loss is quadratic", gt=0, le=1_000_000)
    fraction_lr: float = knob(2.5e-9, "step size of the proposals, RMSProp's own", gt=0, le=10)
    entropy: float = knob(0.0, "weight of the proposals' entropy, which keeps them apart", ge=0, le=1_000)


@dataclass(kw_only=True)
class MunchausenConfig:
    """Rewards with the policy's own scaled log-probability added, and a soft bootstrap (Vieillard et al. 2020)."""

    enabled: bool = knob(False, "whether to add it")
    alpha: float = knob(0.9, "weight of the log-probability", ge=0, le=1)
    tau: float = knob(0.03, "temperature of the policy, in units of discounted reward", gt=0, le=1_000)
    clip: float = knob(-1.0, "the least that tau times a log-probability counts: l_0", ge=-1_000_000, le=0)


@dataclass(kw_only=True)
class ReplayConfig:
    """Which transitions are learnt from."""

    name: str = MISSING
    n_step: int = knob(1, "steps of reward before the bootstrap", ge=1, le=1000)


@dataclass(kw_only=True)
class UniformConfig(ReplayConfig):
    """Experience replay, uniform with replacement (Lin 1992, Mnih et al. 2013)."""

    name: str = "uniform"
    capacity: int = knob(100_000, "transitions kept", ge=1)
    batch_size: int = knob(64, "transitions per update", ge=1, le=1_000_000)


@dataclass(kw_only=True)
class PrioritizedConfig(UniformConfig):
    """PER: prioritized replay, in proportion to the size of errors (Schaul et al. 2016)."""

    name: str = "prioritized"
    alpha: float = knob(0.6, "0: uniform; 1: proportional to the error", ge=0, le=2)
    beta_begin: float = knob(0.4, "how much of the bias is corrected at step 0", ge=0, le=1)
    beta_end: float = knob(1.0, "how much of it from beta_over_steps on", ge=0, le=1)
    beta_over_steps: int | None = knob(None, "steps from beta_begin to beta_end; null: the whole run", ge=1)
    eps: float = knob(1e-6, "added to the error, so that no transition is lost", ge=1e-30, le=1_000)


@dataclass(kw_only=True)
class OnlineConfig(ReplayConfig):
    """No replay: each transition is learnt once, right after it is stored."""

    name: str = "online"


@dataclass(kw_only=True)
class ExplorationConfig:
    """How actions deviate from the greedy one."""

    name: str = MISSING


@dataclass(kw_only=True)
class EpsilonConfig(ExplorationConfig):
    """Epsilon-greedy: with probability epsilon a random action, one coin per environment."""

    name: str = "epsilon"
    schedule: EpsilonSchedule = knob(EpsilonSchedule.linear, "from begin to end; constant: end throughout")
    begin: float = knob(1.0, "epsilon at step 0", ge=0, le=1)
    end: float = knob(0.05, "epsilon from over_steps on", ge=0, le=1)
    over_steps: int = knob(10_000, "steps from begin to end", ge=1)
    delay_steps: int = knob(0, "steps at begin before the schedule starts", ge=0)


@dataclass(kw_only=True)
class NoisyExplorationConfig(ExplorationConfig):
    """The greedy action of a noisy network, with fresh noise at every step (Fortunato et al. 2018)."""

    name: str = "noisy"


@dataclass(kw_only=True)
class BoltzmannConfig(ExplorationConfig):
    """Actions with probability proportional to exp(Q / temperature)."""

    name: str = "boltzmann"
    temperature: float = knob(1.0, "in units of discounted reward", gt=0, le=1_000_000)


@dataclass(kw_only=True)
class PerEnvConfig(ExplorationConfig):
    """Ape-X: environment i of E explores with epsilon^(1 + alpha i / (E - 1)), for good (Horgan et al. 2018)."""

    name: str = "per_env"
    epsilon: float = knob(0.4, "of environment 0, the one that explores most", gt=0, lt=1)
    alpha: float = knob(7.0, "the last environment explores with epsilon^(1 + alpha)", ge=0, le=100)


@dataclass(kw_only=True)
class OwnExplorationConfig(ExplorationConfig):
    """What explorations have that a module of the user's own registered (`plugins.py`)."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """How gradients change the weights."""

    name: str = MISSING
    lr: float = knob(1e-3, "learning rate", gt=0, le=10)
    lr_schedule: LrSchedule = knob(LrSchedule.constant, "linear: from lr at step 0 to lr_end at total_steps")
    lr_end: float = knob(0.0, "learning rate at the end of lr_schedule=linear", ge=0, le=10)
    max_grad_norm: float | None = knob(None, "rescale gradients whose norm is larger; null: never", gt=0)


@dataclass(kw_only=True)
class AdamConfig(OptimizerConfig):
    """Adam (Kingma & Ba 2015)."""

    name: str = "adam"
    eps: float = knob(1e-8, "added to the root", gt=0, le=1)


@dataclass(kw_only=True)
class RmspropConfig(OptimizerConfig):
    """RMSProp as PyTorch has it: epsilon outside the root."""

    name: str = "rmsprop"
    decay: float = knob(0.95, "of the squared gradient's average", ge=0, lt=1)
    eps: float = knob(1e-5, "added to the root", gt=0, le=1)
    centered: bool = knob(False, "subtract the squared average gradient")
    momentum: float = knob(0.0, "of the update", ge=0, lt=1)


@dataclass(kw_only=True)
class RmspropNatureConfig(OptimizerConfig):
    """RMSProp of Mnih et al. 2015: centered, epsilon inside the root.

    Their epsilon of .01 is for a gradient summed over 32 rows; for our mean that is .01 / 32^2.
    """

    name: str = "rmsprop_nature"
    decay: float = knob(0.95, "of both averages", ge=0, lt=1)
    eps: float = knob(1e-5, "added inside the root", gt=0, le=1)


@dataclass(kw_only=True)
class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent."""

    name: str = "sgd"
    momentum: float = knob(0.0, "of the update", ge=0, lt=1)


@dataclass(kw_only=True)
class RunConfig:
    """How long, and what happens periodically."""

    total_steps: int = knob(50_000, "length of the run", ge=1, le=10**12)
    learning_starts_steps: int = knob(1_000, "no update before this many steps", ge=0)
    update_every_steps: int = knob(1, "steps between update rounds", ge=1)
    updates_per_round: int = knob(1, "updates in a round", ge=1)
    eval_every_steps: int | None = knob(5_000, "steps between evaluations; null: only at the end", ge=1)
    eval_episodes: int = knob(20, "episodes of an evaluation", ge=1)
    eval_epsilon: float = knob(0.0, "probability of a random action in an evaluation", ge=0, le=1)
    log_every_steps: int = knob(500, "steps between rows of metrics.csv", ge=1)
    checkpoint_every_steps: int | None = knob(10_000, "steps between checkpoints; null: best and final only", ge=1)
    keep_checkpoints: int = knob(2, "periodic checkpoints kept", ge=1)
    checkpoint_replay: bool = knob(True, "keep the replay memory on disk too; false: a resumed run fills a new one")
    stall_s: float = knob(600.0, "seconds without a step after which the run ends itself", gt=0)
    stop_at_return: float | None = knob(None, "end the run when an evaluation reaches this mean return")


@dataclass(kw_only=True)
class Config:
    """A training run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    variant: VariantConfig = field(default_factory=VariantConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    munchausen: MunchausenConfig = field(default_factory=MunchausenConfig)
    run: RunConfig = field(default_factory=RunConfig)
    loss: Loss = knob(Loss.huber, "error per transition, with value=scalar")
    logger: Logger = knob(Logger.tensorboard, "where scalars go beside the CSV files")
    seed: int = knob(0, "of all randomness", ge=0, le=2**63 - 1)
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    threads: str = knob("auto", "CPU threads of torch, auto or a number")
    precision: Precision = knob(Precision.fp32, "bf16: convolutions in bfloat16, faster on a CPU that has it, coarser")
    compile: bool = knob(False, "updates as C++ that torch.compile makes: a minute or so at the start, then faster")
    fast_paths: bool = knob(True, "hand-derived updates and NumPy acting where they apply; false: modules and autograd")
    discount: float = knob(0.99, "gamma", ge=0, le=1)
    reward_clip: float | None = knob(None, "learn from rewards clipped to [-c, c]; scores stay raw", gt=0)
    num_envs: int = knob(1, "parallel environments", ge=1, le=65_536)
    init_from: str | None = knob(None, "run or checkpoint whose weights to begin with")
    plugin: str | None = knob(None, "Python module to import first, one that registers networks or explorations")


@dataclass(kw_only=True)
class EvalConfig:
    """An evaluation of a checkpoint (`dqn-eval`)."""

    checkpoint: str = knob(MISSING, "run folder or checkpoint folder")
    select: str = knob("best", "best, last, final or a step; of a run folder")
    protocol: str = knob("run", "the rules of play, one of")
    episodes: int = knob(100, "episodes to play; where it is not written, 30 with protocol=nature, 1 with video=", ge=1)
    seed: int = knob(0, "of the episodes", ge=0, le=2**63 - 1)
    epsilon: float | None = knob(None, "probability of a random action; null: the protocol's", ge=0, le=1)
    num_envs: int = knob(8, "episodes played side by side", ge=1, le=65_536)
    render: str | None = knob(None, "human: watch in a window")
    video: str | None = knob(None, "FILE.mp4, .webm or .gif: film the episodes, with their Q-values; replaces the file")
    module: str | None = knob(None, "Python module that registers the environment; never imported unless written here")
    plugin: str | None = knob(None, "Python module that registers the network or the exploration; the same")
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps")
    threads: str = knob("auto", "CPU threads of torch, auto or a number")
    out: str | None = knob(None, "folder for eval.json and episodes.csv; null: below the run folder")


# the choices of every group, by what stands in `name`; on the command line too, but for env, whose files are many
CHOICES: dict[str, dict[str, type]] = {
    "env": {"gym": GymConfig, "atari": AtariConfig, "minatar": MinatarConfig},
    "network": {
        "mlp": MlpConfig,
        "nature_cnn": NatureCnnConfig,
        "nips_cnn": NipsCnnConfig,
        "minatar_cnn": MinatarCnnConfig,
        "impala": ImpalaConfig,
        "table": TableConfig,
    },
    "variant": {"vdqn": VdqnConfig, "tdqn": TdqnConfig, "ddqn": DdqnConfig, "qlearning": QlearningConfig},
    "value": {
        "scalar": ScalarConfig,
        "categorical": CategoricalConfig,
        "quantile": QuantileConfig,
        "implicit": ImplicitConfig,
        "fqf": FqfConfig,
    },
    "replay": {"uniform": UniformConfig, "prioritized": PrioritizedConfig, "online": OnlineConfig},
    "exploration": {
        "epsilon": EpsilonConfig,
        "noisy": NoisyExplorationConfig,
        "boltzmann": BoltzmannConfig,
        "per_env": PerEnvConfig,
    },
    "optimizer": {
        "adam": AdamConfig,
        "rmsprop": RmspropConfig,
        "rmsprop_nature": RmspropNatureConfig,
        "sgd": SgdConfig,
    },
}


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise `ConfigError` at the first value outside its range; NaN lies outside every range."""
    for f in fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        if is_dataclass(value):
            check_ranges(value, name + ".")
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool) or not isinstance(item, (int, float)):
                continue
            if item not in (allowed := f.metadata["range"]):
                raise ConfigError(f"{name}={item} is not in {allowed}")
