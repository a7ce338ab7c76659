"""The learners converge to what the planner computes: the tabular ones, and the deep ones on one-hot observations."""

import numpy as np
import pytest
import torch as th
from scipy.special import logsumexp
from stable_baselines3.common.env_util import make_vec_env

import sb3_mirl
from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.tabular import SoftQLearning, TabularMDP, TabularMIRL, soft_value_iteration, solve_mutual_information

WORLDS = [("square", 0.9), ("corridor", 0.9), ("square", 0.99)]
BETA = 1.0


def total_variation(p, q):
    return 0.5 * np.abs(np.asarray(p) - np.asarray(q)).sum()


def soft_values(q, prior, beta=BETA):
    return logsumexp(beta * q, b=prior, axis=1) / beta


@pytest.mark.parametrize(("world", "gamma"), WORLDS)
def test_tabular_mirl_converges_to_the_behaviour_oracle(world, gamma):
    """To 0.005 in total variation and 0.03 in value, of 15 or so, after 5e6 steps (found: 0.003 and 0.02)."""
    env = GridWorldEnv(world)
    oracle = solve_mutual_information(TabularMDP.from_env(env, gamma), BETA, state_distribution="behaviour", epsilon=0.1)
    agent = TabularMIRL(
        env, gamma=gamma, omega=0.6, prior_lr=0.01, prior_decay=0.6, beta_schedule="constant", beta_init=BETA, seed=0
    ).learn(5_000_000)
    assert oracle.converged
    assert total_variation(agent.prior, oracle.prior) < 0.005
    visited = oracle.weights > 1e-4
    assert soft_values(agent.q, agent.prior)[visited] == pytest.approx(oracle.v[visited], abs=0.03)
    # and not to the other two, where they differ by more than the tolerance
    for kind in ("discounted", "stationary"):
        other = solve_mutual_information(TabularMDP.from_env(env, gamma), BETA, state_distribution=kind)
        assert total_variation(agent.prior, other.prior) > 0.02


@pytest.mark.parametrize(("world", "gamma"), WORLDS)
def test_soft_q_learning_converges_to_the_soft_values(world, gamma):
    """To 0.03, of 10 or so, wherever an action was taken 1000 times."""
    env = GridWorldEnv(world)
    exact = soft_value_iteration(TabularMDP.from_env(env, gamma), BETA)
    agent = SoftQLearning(env, gamma=gamma, omega=0.6, epsilon=0.3, beta_schedule="constant", beta_init=BETA, seed=0).learn(
        5_000_000
    )
    often = agent.tables.visits > 1000
    assert often.sum() >= 100
    assert agent.q[often] == pytest.approx(exact.q[often], abs=0.03)


DEEP = dict(
    learning_rate=lambda remaining: 1e-4 + 1e-2 * remaining**2,
    buffer_size=50_000,
    learning_starts=1000,
    batch_size=256,
    gamma=0.99,
    train_freq=1,
    gradient_steps=2,
    target_update_interval=200,
    exploration_fraction=1e-6,
    beta_schedule="constant",
    beta_init=BETA,
    policy_kwargs=dict(net_arch=[]),  # one weight per state and action: what is left is the algorithm
    seed=0,
    device="cpu",
)


def network_values(model):
    """(60, 4): Q(s, .) of the network at every cell."""
    with th.no_grad():
        observations, _ = model.policy.obs_to_tensor(np.arange(60))
        return model.q_net(observations).double().numpy()


@pytest.mark.slow
def test_soft_dqn_finds_the_exact_soft_values():
    """Within 2 % of the largest value, at every state."""
    exact = soft_value_iteration(TabularMDP.from_env(GridWorldEnv("corridor")), BETA)
    env = make_vec_env("MirlCorridor-v0", n_envs=8, seed=0)
    model = sb3_mirl.SoftDQN("MlpPolicy", env, exploration_final_eps=0.3, **DEEP).learn(60_000)
    free = GridWorldEnv("corridor").initial_state_distrib > 0
    found = soft_values(network_values(model), np.full(4, 0.25))
    assert np.abs(found - exact.v)[free].max() < 0.02 * np.abs(exact.v).max()


@pytest.mark.slow
def test_mirl_finds_the_behaviour_oracle():
    """The prior within 0.05 in total variation, the values within 2 % where the behaviour goes."""
    mdp = TabularMDP.from_env(GridWorldEnv("corridor"))
    oracle = solve_mutual_information(mdp, BETA, state_distribution="behaviour", epsilon=0.1)
    env = make_vec_env("MirlCorridor-v0", n_envs=8, seed=0)
    model = sb3_mirl.MIRL("MlpPolicy", env, exploration_final_eps=0.1, prior_lr=3e-4, **DEEP).learn(100_000)
    assert oracle.converged
    assert total_variation(model.prior, oracle.prior) < 0.05
    assert total_variation(model.prior, np.full(4, 0.25)) > 0.5  # it had to learn
    visited = oracle.weights > 1e-3
    assert visited.sum() > 50
    found = soft_values(network_values(model), model.prior)
    assert np.abs(found - oracle.v)[visited].max() < 0.02 * np.abs(oracle.v).max()
