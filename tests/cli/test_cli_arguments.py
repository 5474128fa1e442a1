import pytest

from dqn_cli.cli.arguments import check, clean, typed_keys
from dqn_cli.errors import ConfigError

COMPLETION = "install= or uninstall= and a shell (query is the shell's); write -sc install=bash"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("run.total_steps=1e6", "run.total_steps=1000000"),
        ("run.total_steps=1e5,2.5E+5", "run.total_steps=100000,250000"),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("optimizer.lr=1.5e0", "optimizer.lr=1.5e0"),
        ("run.stop_at_return=-1e2", "run.stop_at_return=-100"),
        ("env.id=My1e5-v0", "env.id=My1e5-v0"),
        ("+experiment=zoo_acrobot", "experiment=zoo_acrobot"),
        ("++seed=3", "seed=3"),
        ("env.kwargs.x=1", "++env.kwargs.x=1"),
        ("+env.kwargs.x=1e3", "++env.kwargs.x=1000"),
        ("env.kwargs={x:1}", "++env.kwargs={x:1}"),
        ("init_from=", "init_from="),
        ("+hydra.launcher.n_jobs=1e3", "+hydra.launcher.n_jobs=1e3"),
        ("--config-dir=+a", "--config-dir=+a"),
        ("~seed", "~seed"),
        ("init_from=nowhere/a=b", "init_from=nowhere/a=b"),
    ],
)
def test_what_users_write_becomes_what_hydra_reads(written, read):
    assert clean([written]) == [read]


def test_an_existing_path_may_hold_anything(tmp_path, monkeypatch):
    folder = tmp_path / 'a=1,b "c" \\d'
    folder.mkdir()
    (cleaned,) = clean([f"init_from={folder}"])
    assert check([cleaned]) == [cleaned]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert clean(["init_from=~"]) == [f'init_from="{tmp_path}"']


def test_flags_may_stand_anywhere():
    assert check(["seed=1", "-m", "loss=mse"]) == ["-m", "seed=1", "loss=mse"]
    assert check(["seed=1", "--cfg", "job", "loss=mse"]) == ["--cfg", "job", "seed=1", "loss=mse"]


def test_typed_keys_look_into_dictionaries():
    overrides = ["env=Taxi", "run={total_steps:5,eval_episodes:2}", "++env.kwargs.x=1", "seed=1"]
    assert typed_keys(overrides) == {"env", "run.total_steps", "run.eval_episodes", "env.kwargs.x", "seed"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("variannt=ddqn", "unknown setting variannt; did you mean variant?"),
        ("algo.lr=3", "unknown setting algo.lr; did you mean optimizer.lr?"),
        ("run={total_stps:3}", "unknown setting run.total_stps; did you mean run.total_steps?"),
        ("seed@foo=3", "unknown setting seed@foo; did you mean seed?"),
        ("foo=3", "unknown setting foo; see dqn-train --list settings"),
        ("seed", "seed has no value; write seed=<value>, without spaces"),
        ("env = CartPole", "env has no value; write env=<value>, without spaces"),
        ("env:CartPole", "'env:CartPole' is not understood; write settings as key=value, see dqn-train --help"),
        ("=3", "'=3' is not understood; write settings as key=value, see dqn-train --help"),
        ("steps=3", "unknown setting steps; see dqn-train --list settings"),
        ("timesteps=3", "unknown setting timesteps; see dqn-train --list settings"),
        ("seed=1 loss=mse seed=2", "seed is given twice, by seed=1 and seed=2; write one of them"),
        ("env.kwargs.x=1 +env.kwargs.x=2", "env.kwargs.x is given twice, by env.kwargs.x=1 and env.kwargs.x=2; write"),
        (
            "run={total_steps:5} run.total_steps=6",
            "run.total_steps is given twice, by run={total_steps:5} and run.total_steps=6; write one of them",
        ),
        (f"seed={'9' * 5000}", "seed=999999999999... has a number of 5000 digits; write a smaller one"),
        ("++env.kwargs.=1", "env.kwargs.=1 cannot be read"),
        ("hydra=3", "hydra=3: hydra takes one name"),
        ("hydra/launcher=null", "hydra/launcher=null: hydra/launcher takes one name"),
        ("cartpole", "cartpole is not a setting; write env=CartPole"),
        ("seed=", "seed= has no value; write seed=<value>, without spaces"),
        ("~optimizer.lr", "~optimizer.lr: settings cannot be deleted; write optimizer.lr=... or leave it out"),
        ("~seed=3", "~seed=3: settings cannot be deleted; write seed=... or leave it out"),
        ("seed=[1", "seed=[1 cannot be read; put a value with special characters in quotes: 'seed=\"...\"'"),
        ("seed=1,2", "seed=1,2 lists several values; write -m before it to run them all"),
        ("seed=range(3)", "seed=range(3) lists several values; write -m before it to run them all"),
        ("run=5", "run=5: run is a group of settings; write run.<setting>=..."),
        ("network.name=table", "network.name is not a setting; write network=..."),
        ("network=[mlp,table]", "network=[mlp,table]: network takes one name; write one of impala, minatar_cnn, "),
        ("network={hidden:[3]}", "network={hidden:[3]}: network takes one name; write one of impala, minatar_cnn, "),
        ("network=null", "network=null: network takes one name; write one of impala, minatar_cnn, "),
        ("--env CartPole", "--env is not a flag: settings have no dashes; write env=..."),
        ("--lr 0.1", "unknown flag --lr; did you mean optimizer.lr? Settings have no dashes"),
        ("--sed=3", "unknown flag --sed=3; did you mean seed? Settings have no dashes"),
        ("--seed=3", "--seed=3 is not a flag: settings have no dashes; write seed=3"),
        ("--multrun", "unknown flag --multrun; did you mean --multirun?"),
        ("--lst", "unknown flag --lst; did you mean --list?"),
        ("-x", "unknown flag -x; see dqn-train --help"),
        ("-m --cfg job", "--multirun and --cfg cannot be used together; write one of them"),
        ("-sc", f"-sc takes {COMPLETION}"),
        ("-sc seed=3", f"-sc takes {COMPLETION}"),
        ("-sc install=tcsh", f"-sc takes {COMPLETION}"),
        ("-sc query=bash", f"-sc takes {COMPLETION}"),
        ("--resolve", "--resolve does nothing without --cfg; write --cfg job --resolve"),
        ("--experimental-rerun x", "--experimental-rerun would unpickle a file; write the settings themselves"),
    ],
)
def test_what_needs_no_composing_is_refused_in_one_line(argv, message):
    with pytest.raises(ConfigError) as caught:
        check(argv.split())
    assert str(caught.value).startswith(message)


def test_an_empty_word_is_refused():
    with pytest.raises(ConfigError, match="'' is not understood"):
        check([""])


def test_hydras_own_refusals_become_ours():
    with pytest.raises(ConfigError, match=r"--cfg.*invalid choice: 'jab'.*; see dqn-train --help"):
        check(["--cfg", "jab"])


def test_a_sweep_may_list_values():
    for argv in (["-m", "seed=1,2"], ["hydra.mode=MULTIRUN", "seed=range(3)"]):
        assert check(argv) == argv


def test_what_is_being_completed_is_not_refused(monkeypatch):
    monkeypatch.setenv("COMP_LINE", "dqn-train foo")
    assert check(["-sc", "query=bash"]) == ["-sc", "query=bash"]
