"""TabularMDP: reading tables, dense and sparse alike, and refusing what is no MDP."""

import gymnasium as gym
import numpy as np
import pytest
from scipy.sparse import csr_array

from sb3_mirl.tabular import TabularMDP

TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
CLIFF = "CliffWalking-v1" if "CliffWalking-v1" in gym.registry else "CliffWalking-v0"


def arrays(n_states=3, n_actions=2):
    """Arguments of a valid MDP: each action goes on to any state with 0.9 in all."""
    transition = np.full((n_states, n_actions, n_states), 0.9 / n_states)
    return (
        transition,
        np.arange(n_states * n_actions, dtype=float).reshape(n_states, n_actions),
        np.ones(n_states) / n_states,
        0.9,
    )


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", TAXI, CLIFF, "MirlCorridor-v0", "MirlSquare-v0"])
def test_from_env_adds_up_the_table(env_id):
    env = gym.make(env_id).unwrapped
    mdp = TabularMDP.from_env(env, discount=0.95)
    transition, termination = mdp.transition, mdp.termination
    assert mdp.discount == 0.95 and np.array_equal(mdp.initial, env.initial_state_distrib)
    for state in range(mdp.n_states):
        for action in range(mdp.n_actions):
            row, ends, reward = np.zeros(mdp.n_states), 0.0, 0.0
            for probability, next_state, r, terminated in env.P[state][action]:
                reward += probability * r
                if terminated:
                    ends += probability
                else:
                    row[next_state] += probability
            assert np.allclose(transition[state, action], row, rtol=0, atol=1e-15)
            assert abs(termination[state, action] - ends) < 1e-15
            assert abs(mdp.reward[state, action] - reward) < 1e-12


def test_large_sparse_tables_stay_sparse():
    n_states = 2000
    onwards = csr_array((np.ones(2 * n_states), (np.arange(2 * n_states), np.arange(2 * n_states) // 2)))
    mdp = TabularMDP(onwards, np.zeros((n_states, 2)), np.ones(n_states) / n_states, 0.9)
    assert not isinstance(mdp.matrix, np.ndarray) and mdp.matrix.nnz == 2 * n_states
    dense = onwards.toarray().reshape(n_states, 2, n_states)
    again = TabularMDP(dense, np.zeros((n_states, 2)), np.ones(n_states) / n_states, 0.9)
    assert not isinstance(again.matrix, np.ndarray) and (again.matrix != mdp.matrix).nnz == 0


def test_the_arrays_are_copies_that_cannot_be_written():
    transition, reward, initial, discount = arrays()
    mdp = TabularMDP(transition, reward, initial, discount)
    reward[0, 0] = 99
    assert mdp.reward[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        mdp.reward[0, 0] = 1


def spoilt(name, index, value):
    names = ("transition", "reward", "initial", "discount")
    arguments = dict(zip(names, arrays(), strict=True))
    if index is None:
        arguments[name] = value
    else:
        arguments[name][index] = value
    return arguments


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("transition", (2, 1), 0.5, "state 2, action 1 sum to 1.5"),
        ("transition", (1, 0, 2), np.nan, "got nan at state 1, action 0"),
        ("transition", (1, 1, 0), -0.1, "got -0.1 at state 1, action 1"),
        ("transition", (0, 1, 0), np.inf, "got inf at state 0, action 1"),
        ("reward", (2, 0), np.nan, "rewards must be finite, got nan at state 2, action 0"),
        ("reward", None, np.zeros(3), r"\(states, actions\), got \(3,\)"),
        ("transition", None, np.zeros((3, 3)), r"\(3, 2, 3\), got \(3, 3\)"),
        ("transition", None, csr_array(np.zeros((3, 3))), r"\(6, 3\), got \(3, 3\)"),
        ("initial", None, np.ones(3), r"initial must hold 3 probabilities that sum to 1, got .* \(sum 3\)"),
        ("initial", 1, -1.0, r"initial must hold 3 probabilities.* -1\. "),
        ("initial", 0, np.nan, "initial must hold 3 probabilities.*nan"),
        ("initial", None, np.ones(2) / 2, r"initial must hold 3 probabilities.*got \[0.5 0.5\]"),
        ("discount", None, 1.0, r"in \[0, 1\), got 1.0"),
        ("discount", None, -0.1, r"in \[0, 1\), got -0.1"),
        ("discount", None, np.nan, "got nan"),
    ],
)
def test_bad_input_is_named(name, index, value, message):
    with pytest.raises(ValueError, match=message):
        TabularMDP(**spoilt(name, index, value))


def test_bad_sparse_input_is_named():
    transition, reward, initial, discount = arrays()
    transition[1, 1, 2] = -0.2
    with pytest.raises(ValueError, match=r"got -0.2 at state 1, action 1"):
        TabularMDP(csr_array(transition.reshape(6, 3)), reward, initial, discount)


def test_an_environment_without_a_table_is_refused():
    with pytest.raises(ValueError, match="no transition table"):
        TabularMDP.from_env(gym.make("CartPole-v1"))
    env = gym.make("FrozenLake-v1").unwrapped
    del env.initial_state_distrib
    with pytest.raises(ValueError, match="pass initial="):
        TabularMDP.from_env(env)
    assert TabularMDP.from_env(env, initial=np.eye(16)[0]).initial[0] == 1
