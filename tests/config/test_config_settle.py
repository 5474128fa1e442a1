import pytest

from dqn_cli.config import (
    AtariConfig,
    CategoricalConfig,
    Config,
    EpsilonConfig,
    EpsilonSchedule,
    FqfConfig,
    GymConfig,
    ImpalaConfig,
    ImplicitConfig,
    LrSchedule,
    MinatarCnnConfig,
    MinatarConfig,
    MlpConfig,
    MunchausenConfig,
    NatureCnnConfig,
    NoisyExplorationConfig,
    OnlineConfig,
    PerEnvConfig,
    Precision,
    PrioritizedConfig,
    QlearningConfig,
    QuantileConfig,
    RunConfig,
    ScalarConfig,
    SgdConfig,
    TableConfig,
    TargetUnit,
    TdqnConfig,
    UniformConfig,
    VdqnConfig,
)
from dqn_cli.errors import ConfigError
from dqn_cli.settle import planned_updates, settle
from dqn_cli.training.plan import Updates


def config(**parts):
    run = {"total_steps": 1000, "learning_starts_steps": 100, "update_every_steps": 4} | parts.pop("run", {})
    defaults = {
        "env": GymConfig(id="CartPole-v1"),
        "network": MlpConfig(),
        "variant": TdqnConfig(target_every=10),
        "value": ScalarConfig(),
        "replay": UniformConfig(capacity=500),
        "exploration": EpsilonConfig(over_steps=500),
        "optimizer": SgdConfig(),
    }
    return Config(**defaults | parts, run=RunConfig(**run))


def atari(**settings):
    return config(env=AtariConfig(id="ALE/Pong-v5", **settings))


def tabular(**parts):
    return config(
        **{"network": TableConfig(), "variant": QlearningConfig(), "replay": OnlineConfig()} | parts,
    )


def minatar(game, **parts):
    return config(env=MinatarConfig(id=f"MinAtar/{game}"), **{"network": MinatarCnnConfig()} | parts)


def munchausen(value, **settings):
    return config(value=value, munchausen=MunchausenConfig(enabled=True, **settings))


def test_what_fits_is_left_alone_in_silence():
    before, after = config(), config()
    assert settle(after, ()) == []
    assert after == before
    assert settle(tabular(), ()) == []


@pytest.mark.parametrize(
    "made",
    [
        config(compile=True),
        config(compile=True, value=FqfConfig()),
        config(fast_paths=False),
        config(precision=Precision.bf16, network=NatureCnnConfig(spectral_norm=True)),
        config(precision=Precision.bf16, compile=True, network=ImpalaConfig()),
        minatar("Breakout", compile=True, network=MinatarCnnConfig(spectral_norm=True)),
    ],
)
def test_every_way_of_computing_fits_where_there_is_something_to_compute(made):
    assert settle(made, ()) == []


@pytest.mark.parametrize(
    ("made", "typed_keys", "message"),
    [
        (config(discount=2), (), "discount=2 is not in"),
        (config(device="gpu"), (), "device=gpu is not a device; write auto, cpu, cuda, cuda:N or mps"),
        (config(device="cuda:x"), (), "device=cuda:x is not a device"),
        (config(threads="0"), (), "threads=0 is not a number of threads"),
        (config(threads="two"), (), "threads=two is not a number of threads"),
        (config(precision=Precision.bf16), (), "precision=bf16 is for convolutions, network=mlp has none; remove it"),
        (tabular(precision=Precision.bf16), (), "precision=bf16 is for convolutions, network=table has none"),
        (config(compile=True, fast_paths=False), (), "compile=true contradicts fast_paths=false"),
        (config(compile=True, value=ImplicitConfig()), (), "compile=true does not fit value=implicit"),
        (
            config(compile=True, network=NatureCnnConfig(spectral_norm=True)),
            (),
            "compile=true does not fit network.spectral_norm=true",
        ),
        (config(num_envs=1001), (), "run.total_steps=1000 is less than one step of num_envs=1001"),
        (tabular(network=MlpConfig()), (), "network=mlp does not fit variant=qlearning.*; write network=table"),
        (tabular(replay=UniformConfig()), (), "replay=uniform does not fit variant=qlearning.*; write replay=online"),
        (tabular(), ("run.update_every_steps",), "run.update_every_steps does nothing with replay=online; remove it"),
        (tabular(), ("run.updates_per_round",), "run.updates_per_round does nothing with replay=online"),
        (tabular(), ("run.learning_starts_steps",), "run.learning_starts_steps does nothing with replay=online"),
        (
            config(exploration=EpsilonConfig(schedule=EpsilonSchedule.constant)),
            ("exploration.begin",),
            "exploration.begin does nothing with exploration.schedule=constant",
        ),
        (
            config(exploration=EpsilonConfig(schedule=EpsilonSchedule.constant)),
            ("exploration.over_steps",),
            "exploration.over_steps does nothing with exploration.schedule=constant",
        ),
        (
            config(exploration=EpsilonConfig(schedule=EpsilonSchedule.exponential, end=0)),
            (),
            "exploration.end=0: exploration.schedule=exponential needs both above 0",
        ),
        (
            config(exploration=EpsilonConfig(schedule=EpsilonSchedule.exponential, begin=0)),
            (),
            "exploration.begin=0 .*needs both above 0",
        ),
        (
            config(exploration=EpsilonConfig(schedule=EpsilonSchedule.constant)),
            ("exploration.delay_steps",),
            "exploration.delay_steps does nothing with exploration.schedule=constant",
        ),
        (
            config(exploration=EpsilonConfig(delay_steps=1000)),
            ("exploration.delay_steps",),
            "exploration.delay_steps=1000 leaves no step for the schedule: run.total_steps=1000",
        ),
        (
            atari(resize=[84, 84]),
            ("env.preprocess", "env.resize"),
            r"env.preprocess does nothing with env.resize=\[84, 84\]; remove it or leave out env.resize",
        ),
        (atari(frame_skip=1), ("env.max_pool",), "env.max_pool does nothing with env.frame_skip=1"),
        (atari(max_frames=3), (), "env.max_frames=3 is less than one step of env.frame_skip=4"),
        (atari(sticky=1.0), (), r"env.sticky=1.0 is not in \[0, 1\)"),
        (atari(resize=[84, 2000]), (), r"env.resize=2000 is not in \[1, 1024\]"),
        (config(), ("optimizer.lr_end",), "optimizer.lr_end does nothing with optimizer.lr_schedule=constant"),
        (
            config(run={"stop_at_return": 5.0, "eval_every_steps": None}),
            (),
            "run.stop_at_return=5 does nothing with run.eval_every_steps=null",
        ),
        (
            config(run={"stop_at_return": 0.0, "eval_every_steps": 5000}),
            (),
            "run.stop_at_return=0 does nothing with run.eval_every_steps=5000: the run of 1000 steps is only evaluated",
        ),
        (
            config(run={"checkpoint_every_steps": None}),
            ("run.keep_checkpoints",),
            "run.keep_checkpoints does nothing with run.checkpoint_every_steps=null",
        ),
        (
            config(run={"learning_starts_steps": 1000}),
            ("run.learning_starts_steps",),
            "run.learning_starts_steps=1000 leaves nothing to learn: run.total_steps=1000",
        ),
        (
            config(replay=UniformConfig(capacity=10, batch_size=11)),
            (),
            "replay.batch_size=11 is larger than replay.capacity=10",
        ),
        (config(run={"update_every_steps": 1001}), (), "run.total_steps=1000 ends before the first update"),
        (
            config(run={"learning_starts_steps": 900, "update_every_steps": 300}),
            ("run.learning_starts_steps",),
            "ends before the first update",
        ),
        (config(replay=UniformConfig(n_step=1000)), (), "ends before the first update"),
        (
            config(variant=TdqnConfig(target_every=1000)),
            ("variant.target_every",),
            "variant.target_every=1000 is never reached: the run has at most 1000 steps",
        ),
        (
            config(variant=TdqnConfig(target_every=225, target_unit=TargetUnit.updates)),
            ("variant.target_every",),
            "variant.target_every=225 is never reached: the run has at most 225 updates",
        ),
        (
            config(variant=TdqnConfig(target_every=1000, target_unit=TargetUnit.episodes)),
            ("variant.target_every", "variant.target_unit"),
            "variant.target_every=1000 is never reached: the run has at most 1000 episodes",
        ),
        (
            config(variant=TdqnConfig(target_every=50, target_unit=TargetUnit.episodes)),
            ("variant.target_unit",),
            "variant.target_unit=episodes needs a period of its own: variant.target_every=50 was meant in steps",
        ),
        (
            tabular(init_from="runs/a"),
            ("network.initial_q", "init_from"),
            "network.initial_q does nothing with init_from=runs/a; remove it or leave out init_from",
        ),
        *(
            (config(run={name: 1001}), (f"run.{name}",), f"run.{name}=1001 is never reached: run.total_steps=1000")
            for name in ("eval_every_steps", "checkpoint_every_steps", "log_every_steps")
        ),
        (
            config(value=CategoricalConfig(v_min=5, v_max=5)),
            (),
            r"value.v_min=5 is not below value.v_max=5; write a range",
        ),
        (config(value=CategoricalConfig(v_min=1, v_max=-0.5)), (), r"value.v_min=1 is not below value.v_max=-0.5"),
        (config(value=CategoricalConfig(atoms=1)), (), r"value.atoms=1 is not in \[2, 1001\]"),
        *(
            (config(value=value), ("loss",), f"loss does nothing with value={value.name}, .*or write value=scalar")
            for value in (CategoricalConfig(), QuantileConfig(), ImplicitConfig(), FqfConfig())
        ),
        (
            config(network=TableConfig(), value=CategoricalConfig()),
            ("network.initial_q",),
            "network.initial_q does nothing with value=categorical, .*; remove it or write value=scalar",
        ),
        *(
            (
                config(network=TableConfig(), value=value),
                (),
                f"value={value.name} does not fit network=table: .*; write value=quantile, or network=mlp",
            )
            for value in (ImplicitConfig(), FqfConfig())
        ),
        *(
            (
                tabular(value=value),
                (),
                f"value={value.name} does not fit variant=qlearning.*; write value=scalar, or variant=vdqn",
            )
            for value in (CategoricalConfig(), QuantileConfig(), ImplicitConfig(), FqfConfig())
        ),
        *(
            (
                config(),
                (f"munchausen.{key}",),
                f"munchausen.{key} does nothing with munchausen.enabled=false; remove it or write munch",
            )
            for key in ("alpha", "tau", "clip")
        ),
        (
            munchausen(CategoricalConfig()),
            ("munchausen.enabled",),
            "munchausen.enabled=true does not fit value=categorical: .*; write value=quantile, or munchausen.enabled=f",
        ),
        (munchausen(FqfConfig()), (), "munchausen.enabled=true is not defined for value=fqf; write value=implicit or"),
        (munchausen(ScalarConfig(), clip=0.5), (), r"munchausen.clip=0.5 is not in \[-1000000, 0\]"),
        (munchausen(ScalarConfig(), tau=0), (), r"munchausen.tau=0 is not in \(0, 1000\]"),
        (
            config(),
            ("network.noisy_sigma",),
            "network.noisy_sigma does nothing with network.noisy=false; remove it or write network.noisy=true",
        ),
        (
            config(network=MlpConfig(hidden=[], layer_norm=True)),
            ("network.layer_norm",),
            r"network.layer_norm does nothing with network.hidden=\[\]: there is no hidden layer; .*write network.hid",
        ),
        (
            minatar("Asterix", network=MinatarCnnConfig(spectral_norm=True)),
            ("network.spectral_norm",),
            "network.spectral_norm does nothing with network=minatar_cnn, which has one convolution .*write another ne",
        ),
        (
            config(exploration=NoisyExplorationConfig()),
            (),
            "exploration=noisy needs a noisy network, network=mlp is none; write exploration=epsilon, or network.noisy",
        ),
        (
            config(network=TableConfig(), exploration=NoisyExplorationConfig()),
            (),
            "exploration=noisy needs a noisy network, network=table is none; write exploration=epsilon$",
        ),
        (
            config(exploration=PerEnvConfig()),
            (),
            "exploration=per_env needs several environments, num_envs=1; write num_envs=8 or exploration=epsilon",
        ),
        *(
            (
                minatar(game),
                ("env.ramping",),
                f"env.ramping does nothing with env.id=MinAtar/{game}, which never becomes harder; remove it or write",
            )
            for game in ("Breakout", "Freeway")
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(made, typed_keys, message):
    with pytest.raises(ConfigError, match=message) as caught:
        settle(made, typed_keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "made",
    [
        tabular(run={"update_every_steps": 7, "updates_per_round": 3, "learning_starts_steps": 10**6}),
        config(exploration=EpsilonConfig(schedule=EpsilonSchedule.constant, end=0, over_steps=10**6)),
        config(run={"eval_every_steps": 5000, "checkpoint_every_steps": None}),
        config(variant=VdqnConfig()),
        config(device="cuda:1", threads="2"),
        config(value=QuantileConfig(), loss="mse"),
        config(network=TableConfig(initial_q=1.0), value=CategoricalConfig()),
        config(network=TableConfig(), value=QuantileConfig()),
        config(munchausen=MunchausenConfig(alpha=0.5, tau=0.1, clip=-2.0)),
        config(network=MlpConfig(noisy_sigma=0.1)),
        minatar("Breakout", network=MinatarCnnConfig(spectral_norm=True)),
    ],
)
def test_a_familys_value_that_does_not_apply_is_left_out_in_silence(made):
    assert settle(made, ()) == []


@pytest.mark.parametrize(
    ("made", "typed_keys"),
    [
        (config(), ("loss",)),
        (config(value=CategoricalConfig(v_min=-1, v_max=0)), ("value.v_min", "value.v_max")),
        *((munchausen(value), ("munchausen.tau",)) for value in (ScalarConfig(), QuantileConfig(), ImplicitConfig())),
        (config(network=MlpConfig(noisy=True)), ("network.noisy_sigma",)),
        (config(network=MlpConfig(noisy=True), exploration=NoisyExplorationConfig()), ()),
        (config(exploration=PerEnvConfig(), num_envs=2), ()),
        (minatar("Asterix", network=ImpalaConfig(spectral_norm=True)), ("network.spectral_norm", "env.ramping")),
        (config(network=TableConfig(), value=QuantileConfig()), ("network.initial_q",)),
    ],
)
def test_what_was_typed_where_it_means_something_is_accepted(made, typed_keys):
    assert settle(made, typed_keys) == []


def test_the_schedule_of_beta_is_clipped_to_a_short_run_unless_typed():
    made = config(replay=PrioritizedConfig(capacity=500, beta_over_steps=1001))
    assert settle(made, ()) == ["replay.beta_over_steps=1000 instead of 1001: the run has only 1000 steps"]
    assert made.replay.beta_over_steps == 1000
    typed = config(replay=PrioritizedConfig(capacity=500, beta_over_steps=1001))
    assert settle(typed, ("replay.beta_over_steps",)) == []
    assert typed.replay.beta_over_steps == 1001
    for kept in (None, 1, 1000):
        whole = config(replay=PrioritizedConfig(capacity=500, beta_over_steps=kept))
        assert settle(whole, ()) == []
        assert whole.replay.beta_over_steps == kept


def test_what_a_family_brought_is_clipped_to_a_short_run():
    made = config(
        run={"learning_starts_steps": 1000},
        replay=UniformConfig(capacity=5000),
        exploration=EpsilonConfig(over_steps=5000),
        variant=TdqnConfig(target_every=1000),
    )
    assert settle(made, ()) == [
        "run.learning_starts_steps=100 instead of 1000: the run has only 1000 steps",
        "replay.capacity=1000 instead of 5000: the run has only 1000 steps",
        "exploration.over_steps=1000 instead of 5000: the run has only 1000 steps",
        "variant.target_every=100 instead of 1000: the run has at most 1000 steps",
    ]
    assert (made.run.learning_starts_steps, made.replay.capacity) == (100, 1000)
    assert (made.exploration.over_steps, made.variant.target_every) == (1000, 100)


@pytest.mark.parametrize(("starts", "kept"), [(500, 500), (501, 100), (999, 100), (1000, 100), (9999, 100)])
def test_a_run_of_any_length_spends_half_of_it_learning(starts, kept):
    made = config(run={"learning_starts_steps": starts})
    settle(made, ())
    assert made.run.learning_starts_steps == kept


def test_what_was_typed_is_kept():
    made = config(replay=UniformConfig(capacity=5000), exploration=EpsilonConfig(over_steps=5000))
    assert settle(made, {"replay.capacity", "exploration.over_steps"}) == []
    assert (made.replay.capacity, made.exploration.over_steps) == (5000, 5000)


def test_the_capacity_is_not_clipped_below_a_batch():
    made = config(run={"total_steps": 50, "learning_starts_steps": 5}, exploration=EpsilonConfig(over_steps=50))
    settle(made, ())
    assert made.replay.capacity == made.replay.batch_size == 64


def test_a_schedule_makes_its_end_mean_something():
    made = config(optimizer=SgdConfig(lr_schedule=LrSchedule.linear, lr_end=0.1))
    assert settle(made, {"optimizer.lr_end"}) == []


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("n_step", [1, 5])
@pytest.mark.parametrize(("starts", "every", "per_round"), [(0, 1, 1), (0, 7, 2), (99, 10, 1), (100, 10, 3)])
def test_the_planned_updates_are_those_of_the_loop(lanes, n_step, starts, every, per_round):
    run = {"learning_starts_steps": starts, "update_every_steps": every, "updates_per_round": per_round}
    made = config(run=run, replay=UniformConfig(n_step=n_step), num_envs=lanes)
    plan = Updates(every_steps=every, per_round=per_round, starts_steps=starts, first_row_steps=(n_step + 1) * lanes)
    assert planned_updates(made) == sum(plan.due(at, at + lanes) for at in range(0, 1000, lanes))


def test_no_pooling_is_no_contradiction_where_there_is_nothing_to_pool():
    assert settle(atari(frame_skip=1, max_pool=False), ("env.max_pool",)) == []


def test_a_delay_that_is_too_long_for_the_run_is_clipped_and_the_decay_fits_in_the_rest():
    short = config(exploration=EpsilonConfig(delay_steps=501, over_steps=5000))
    assert settle(short, ()) == [
        "exploration.delay_steps=100 instead of 501: the run has only 1000 steps",
        "exploration.over_steps=900 instead of 5000: the run has only 1000 steps",
    ]
    kept = config(exploration=EpsilonConfig(delay_steps=500, over_steps=501))
    assert settle(kept, ()) == ["exploration.over_steps=500 instead of 501: the run has only 1000 steps"]
    assert settle(config(exploration=EpsilonConfig(delay_steps=500, over_steps=500)), ()) == []
