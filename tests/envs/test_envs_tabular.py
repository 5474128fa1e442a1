"""Exact values of the small worlds against published and hand-worked numbers, and the toy worlds against them."""

import gymnasium
import numpy as np
import pytest

import dqn_cli.envs.toy  # registers DqnChain-v0 and DqnBandit-v0
from dqn_cli.config import GymConfig
from dqn_cli.envs.lanes import describe
from dqn_cli.envs.tabular import Model, best_return, epsilon_greedy, expected_return, greedy, optimal_q
from dqn_cli.envs.vector import GymLanes


def model(env_id, **kwargs):
    world = gymnasium.make(env_id, **kwargs).unwrapped
    return Model.of(world.P, world.initial_state_distrib)


@pytest.fixture(scope="module")
def lake():
    return model("FrozenLake-v1")


def test_frozen_lake(lake):
    assert best_return(lake, 100) == pytest.approx(0.7442, abs=5e-5)
    best, hasty = greedy(optimal_q(lake, 0.99)), greedy(optimal_q(lake, 0.95))
    assert expected_return(lake, best, 100) == pytest.approx(0.7402, abs=5e-5)
    assert expected_return(lake, hasty, 100) == pytest.approx(0.7298, abs=5e-5)
    assert expected_return(lake, best, 100_000) == pytest.approx(0.8235, abs=5e-5)
    assert expected_return(lake, np.full((16, 4), 0.25), 100) == pytest.approx(0.0139, abs=5e-5)


def test_frozen_lake_with_epsilon(lake):
    q = optimal_q(lake, 0.99)
    assert expected_return(lake, epsilon_greedy(q, 0.05), 100) == pytest.approx(0.542, abs=5e-4)
    assert expected_return(lake, epsilon_greedy(q, 0.10), 100) == pytest.approx(0.406, abs=5e-4)


@pytest.mark.parametrize(("discount", "value"), [(0.9, 0.0689), (0.95, 0.1805), (0.99, 0.5420), (0.999, 0.7855)])
def test_frozen_lake_optimal_values(lake, discount, value):
    assert lake.start @ optimal_q(lake, discount).max(axis=1) == pytest.approx(value, abs=5e-5)


def test_frozen_lake_without_slipping():
    dry = model("FrozenLake-v1", is_slippery=False)
    assert optimal_q(dry, 0.99)[0].max() == pytest.approx(0.99**5)
    assert expected_return(dry, greedy(optimal_q(dry, 0.99)), 100) == 1.0
    assert expected_return(dry, greedy(optimal_q(dry, 0.99)), 5) == 0.0  # the goal is six steps away


def test_frozen_lake_8x8():
    large = model("FrozenLake8x8-v1")
    assert best_return(large, 200) == pytest.approx(0.9132, abs=5e-5)
    assert expected_return(large, greedy(optimal_q(large, 0.99)), 200) == pytest.approx(0.8630, abs=5e-5)


def test_cliff_walking():
    cliff = model("CliffWalking-v1")
    q = optimal_q(cliff, 0.99)
    assert cliff.start @ q.max(axis=1) == pytest.approx(-12.248, abs=5e-4)
    assert expected_return(cliff, greedy(q), 200) == pytest.approx(-13)
    assert best_return(cliff, 200) == pytest.approx(-13)
    # without a discount: -13 as well, every step costs 1
    assert cliff.start @ optimal_q(cliff, 1.0).max(axis=1) == pytest.approx(-13)


def test_taxi():
    taxi = model("Taxi-v4")
    q = optimal_q(taxi, 0.99)
    assert taxi.start @ q.max(axis=1) == pytest.approx(6.327, abs=5e-4)
    assert expected_return(taxi, greedy(q), 200) == pytest.approx(7.93, abs=5e-3)


def test_ties_go_to_the_first_action():
    assert greedy([[1, 1, 0], [0, 2, 2]]).tolist() == [[1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(epsilon_greedy([[1, 1, 0]], 0.3), [[0.8, 0.1, 0.1]])


def test_value_iteration_that_cannot_end_says_so():
    for_ever = Model.of({0: {0: [(1.0, 0, 1.0, False)]}}, [1.0])
    assert optimal_q(for_ever, 0.5) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"discount=1.0 did not converge"):
        optimal_q(for_ever, 1.0)


@pytest.mark.parametrize("states", [2, 3, 6])
@pytest.mark.parametrize("discount", [0.5, 0.9, 1.0])
def test_the_chain_knows_its_own_q(states, discount):
    chain = gymnasium.make("DqnChain-v0", states=states).unwrapped
    exact = optimal_q(Model.of(chain.P, chain.initial_state_distrib), discount)
    np.testing.assert_allclose(chain.q_star(discount), exact, atol=1e-12)


def test_the_chain_from_the_command_line():
    config = GymConfig(id="DqnChain-v0", module="dqn_cli.envs.toy", kwargs={"states": 3})
    assert describe(config).discrete
    lanes = GymLanes(config, 1, lambda lane, episode: None)
    assert lanes.reset().tolist() == [[1, 0, 0]]
    seen = []
    for action in (0, 1, 0, 1, 1):
        lanes.send(np.array([action]))
        step = lanes.recv()
        seen.append((int(step.next_frame.argmax()), step.reward.item(), step.terminated.item()))
    assert seen == [(0, 0, False), (1, 0, False), (0, 0, False), (1, 0, False), (2, 1, True)]
    with pytest.raises(ValueError, match="states=1 is not at least 2"):
        dqn_cli.envs.toy.Chain(states=1)


def test_the_bandit_pays_its_means_on_average():
    bandit = gymnasium.make("DqnBandit-v0", means=[0.0, 3.0], noise=0.5)
    assert bandit.unwrapped.q_star().tolist() == [[0.0, 3.0]]
    bandit.reset(seed=0)
    pulls = []
    for _ in range(1000):
        bandit.reset()
        _, reward, terminated, _, _ = bandit.step(1)
        assert terminated
        pulls.append(reward)
    assert np.mean(pulls) == pytest.approx(3.0, abs=0.06)
    assert np.std(pulls) == pytest.approx(0.5, abs=0.05)
