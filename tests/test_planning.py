"""Soft values and occupancies: the identities of the theory, on random MDPs and on gymnasium's."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.special import logsumexp

import sb3_mirl.envs  # noqa: F401  registers the gridworlds
from sb3_mirl.tabular import (
    TabularMDP,
    behaviour_policy,
    occupancy,
    soft_backward_induction,
    soft_value_iteration,
    stationary_distribution,
)

TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
CLIFF = "CliffWalking-v1" if "CliffWalking-v1" in gym.registry else "CliffWalking-v0"


def random_mdp(seed, n_states=7, n_actions=3, discount=0.9, ends=True):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.full(n_states, 0.3), size=(n_states, n_actions))
    if ends:
        transition *= rng.uniform(0.5, 1, size=(n_states, n_actions, 1))
    return TabularMDP(transition, rng.normal(size=(n_states, n_actions)), rng.dirichlet(np.ones(n_states)), discount)


def naive_soft_values(mdp, beta, prior, sweeps=3000):
    """Value iteration by the book: loops, no Newton."""
    v, transition = np.zeros(mdp.n_states), mdp.transition
    for _ in range(sweeps):
        q = mdp.reward + mdp.discount * np.einsum("sat,t->sa", transition, v)
        v = np.array([logsumexp(beta * row, b=prior) / beta for row in q])
    return q, v


def hard_values(mdp, sweeps=20_000):
    v = np.zeros(mdp.n_states)
    for _ in range(sweeps):
        v = (mdp.reward + mdp.discount * (mdp.matrix @ v).reshape(mdp.reward.shape)).max(axis=1)
    return v


seeds, betas = st.integers(0, 10_000), st.floats(-3, 3).map(lambda x: 10.0**x)


@settings(max_examples=40, deadline=None)
@given(seeds, betas)
def test_the_fixed_point_and_its_identities(seed, beta):
    mdp = random_mdp(seed)
    prior = np.random.default_rng(seed + 1).dirichlet(np.ones(3))
    soft = soft_value_iteration(mdp, beta, prior)
    backed_up = mdp.reward + mdp.discount * np.einsum("sat,t->sa", mdp.transition, soft.v)
    tight = {"rel": 1e-9, "abs": 1e-9 + 1e-13 / beta}  # beta V is what floating point resolves
    assert soft.q == pytest.approx(backed_up, **tight)
    assert soft.policy.sum(axis=1) == pytest.approx(1)
    divergence = (soft.policy * (np.log(np.maximum(soft.policy, 1e-300)) - np.log(prior))).sum(axis=1)
    assert soft.v == pytest.approx((soft.policy * soft.q).sum(axis=1) - divergence / beta, **tight)
    slack = 1e-9 + 1e-13 / beta
    assert (soft.v <= soft.q.max(axis=1) + slack).all()
    assert (soft.v >= (soft.q + np.log(prior) / beta).max(axis=1) - slack).all()


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([0.01, 0.3, 1.0, 30.0]))
def test_newton_finds_what_plain_sweeps_find(seed, beta):
    mdp = random_mdp(seed, discount=0.8)
    prior = np.random.default_rng(seed + 1).dirichlet(np.ones(3))
    q, v = naive_soft_values(mdp, beta, prior, sweeps=200)
    soft = soft_value_iteration(mdp, beta, prior)
    assert soft.q == pytest.approx(q, rel=1e-9, abs=1e-9)
    assert soft.v == pytest.approx(v, rel=1e-9, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_limits_of_beta(seed):
    mdp = random_mdp(seed)
    prior = np.random.default_rng(seed).dirichlet(np.ones(3))
    assert soft_value_iteration(mdp, 1e8, prior).v == pytest.approx(hard_values(mdp, 300), abs=1e-6)
    cold = soft_value_iteration(mdp, 1e-7, prior)
    chain = np.einsum("a,sat->st", prior, mdp.transition)
    evaluated = np.linalg.solve(np.eye(mdp.n_states) - mdp.discount * chain, mdp.reward @ prior)
    assert cold.v == pytest.approx(evaluated, abs=1e-5)
    assert cold.policy == pytest.approx(np.tile(prior, (mdp.n_states, 1)), abs=1e-5)


def test_a_permutation_of_the_actions_permutes_the_policy():
    mdp, prior, order = random_mdp(3), np.array([0.2, 0.5, 0.3]), np.array([2, 0, 1])
    moved = TabularMDP(mdp.transition[:, order], mdp.reward[:, order], mdp.initial, mdp.discount)
    plain, permuted = soft_value_iteration(mdp, 2.0, prior), soft_value_iteration(moved, 2.0, prior[order])
    assert permuted.policy == pytest.approx(plain.policy[:, order])
    assert permuted.v == pytest.approx(plain.v)


def test_an_action_without_prior_is_never_taken_and_its_value_is_known():
    mdp = random_mdp(5)
    soft = soft_value_iteration(mdp, 3.0, [0.5, 0.0, 0.5])
    two = TabularMDP(mdp.transition[:, [0, 2]], mdp.reward[:, [0, 2]], mdp.initial, mdp.discount)
    assert (soft.policy[:, 1] == 0).all()
    assert soft.v == pytest.approx(soft_value_iteration(two, 3.0).v)
    assert soft.q[:, 1] == pytest.approx(mdp.reward[:, 1] + mdp.discount * mdp.transition[:, 1] @ soft.v)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", TAXI, CLIFF])
@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_gymnasiums_own_worlds(env_id, beta):
    mdp = TabularMDP.from_env(gym.make(env_id), discount=0.95)
    soft = soft_value_iteration(mdp, beta)
    prior = np.full(mdp.n_actions, 1 / mdp.n_actions)
    v = np.zeros(mdp.n_states)
    for _ in range(600):
        q = mdp.reward + mdp.discount * (mdp.matrix @ v).reshape(mdp.reward.shape)
        v = logsumexp(beta * q, b=prior, axis=1) / beta
    assert soft.v == pytest.approx(v, abs=1e-8)


@pytest.mark.parametrize(("env_id", "optimum"), [("FrozenLake-v1", 0.8235), (CLIFF, -13.0), (TAXI, 7.93)])
def test_known_optima_of_gymnasium(env_id, optimum):
    # FrozenLake: 14/17 without the time limit; CliffWalking: 13 steps; Taxi: the literature's mean of the best returns
    mdp = TabularMDP.from_env(gym.make(env_id), discount=1 - 1e-9)
    assert mdp.initial @ soft_value_iteration(mdp, beta=1e5, tolerance=1e-10).v == pytest.approx(optimum, abs=6e-3)


def absorbing_square():
    """The 8x8 world whose goal is stayed in for ever, at no cost: the entropy is then counted at every step."""
    env = gym.make("MirlSquare-v0").unwrapped
    transition, reward = np.zeros((64, 4, 64)), np.zeros((64, 4))
    for state in range(64):
        for action in range(4):
            ((_, next_state, reward[state, action], _),) = env.P[state][action]
            transition[state, action, next_state] = 1.0
    return TabularMDP(transition, reward, env.initial_state_distrib, 0.99)


@pytest.mark.parametrize("horizon", [1, 4, 30])
@pytest.mark.parametrize("mdp", [absorbing_square(), random_mdp(8, ends=False)], ids=["square", "random"])
def test_finite_horizon_against_maximum_causal_entropy(mdp, horizon):
    """beta = 1, uniform prior, gamma = 1: V = V_mce - (H - t) log|A| and the same policy (Ziebart 2010, Eqs. 9.1 to 9.3)."""
    soft = soft_backward_induction(mdp, beta=1.0, horizon=horizon, discount=1.0)
    v, transition = np.zeros(mdp.n_states), mdp.transition  # v: of the maximum causal entropy problem
    for t in reversed(range(horizon)):
        q = mdp.reward + transition @ v
        v = np.log(np.exp(q - q.max(axis=1, keepdims=True)).sum(axis=1)) + q.max(axis=1)
        assert soft.v[t] == pytest.approx(v - (horizon - t) * np.log(mdp.n_actions), abs=1e-8)
        assert soft.policy[t] == pytest.approx(np.exp(q - v[:, None]), abs=1e-10)


def test_a_long_horizon_is_the_infinite_one():
    mdp = random_mdp(11)
    long = soft_backward_induction(mdp, 2.0, horizon=400)
    assert long.v[0] == pytest.approx(soft_value_iteration(mdp, 2.0).v, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seeds, st.booleans())
def test_occupancy_is_the_series_it_stands_for(seed, ends):
    mdp = random_mdp(seed, discount=0.8, ends=ends)
    policy = np.random.default_rng(seed).dirichlet(np.ones(3), size=mdp.n_states)
    chain, visits, total = np.einsum("sa,sat->st", policy, mdp.transition), mdp.initial, np.zeros(mdp.n_states)
    for t in range(200):
        total += mdp.discount**t * visits
        visits = visits @ chain
    if not ends:
        assert total.sum() == pytest.approx((1 - mdp.discount**200) / (1 - mdp.discount))
    assert occupancy(mdp, policy) == pytest.approx(total / total.sum(), abs=1e-12)


def test_values_and_occupancy_are_dual():
    mdp = random_mdp(2)
    soft = soft_value_iteration(mdp, 1.5)
    reward = (soft.policy * (mdp.reward - np.log(soft.policy * mdp.n_actions) / 1.5)).sum(axis=1)
    chain = np.einsum("sa,sat->st", soft.policy, mdp.transition)
    total = np.linalg.solve((np.eye(mdp.n_states) - mdp.discount * chain).T, mdp.initial).sum()
    assert mdp.initial @ soft.v == pytest.approx(total * occupancy(mdp, soft.policy) @ reward)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_stationary_distribution_restarts_ended_episodes(seed):
    mdp = random_mdp(seed)
    policy = np.random.default_rng(seed).dirichlet(np.ones(3), size=mdp.n_states)
    chain = np.einsum("sa,sat->st", policy, mdp.transition)
    restarted = chain + np.outer(1 - chain.sum(axis=1), mdp.initial)
    stationary = stationary_distribution(mdp, policy)
    assert stationary.sum() == pytest.approx(1)
    assert stationary @ restarted == pytest.approx(stationary, abs=1e-8)


def test_stationary_distribution_of_periodic_and_of_reducible_chains():
    cycle = np.array([[[0, 1.0, 0]], [[0, 0, 1.0]], [[1.0, 0, 0]]])
    mdp = TabularMDP(cycle, np.zeros((3, 1)), [1, 0, 0], 0.9)
    assert stationary_distribution(mdp, np.ones((3, 1))) == pytest.approx(np.ones(3) / 3, abs=1e-6)
    traps = np.array([[[0, 0.3, 0.7]], [[0, 1.0, 0]], [[0, 0, 1.0]]])
    mdp = TabularMDP(traps, np.zeros((3, 1)), [1, 0, 0], 0.9)
    assert stationary_distribution(mdp, np.ones((3, 1))) == pytest.approx([0, 0.3, 0.7], abs=1e-6)


def test_behaviour_shares_ties():
    policy, prior = np.array([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]), np.array([0.5, 0.25, 0.25])
    expected = [[0.45 + 0.05, 0.45 + 0.025, 0.025], [0.05, 0.025, 0.9 + 0.025]]
    assert behaviour_policy(policy, prior, 0.1) == pytest.approx(np.array(expected))


def sparse_grid(side, discount=0.99):
    """A torus of side * side cells with four slippery moves, random costs, and a few cells that end the episode."""
    rng = np.random.default_rng(side)
    cells = np.arange(side * side).reshape(side, side)
    neighbours = np.stack(
        [np.roll(cells, shift, axis) for shift, axis in ((1, 0), (-1, 1), (-1, 0), (1, 1))], axis=-1
    ).reshape(-1, 4)
    rows = np.repeat(np.arange(side * side * 4), 2)
    columns = np.stack([neighbours, np.roll(neighbours, 1, axis=1)], axis=-1).ravel()
    on = np.tile([0.8, 0.2], side * side * 4) * ~np.isin(columns, rng.choice(side * side, 5, replace=False))
    matrix = csr_array((on, (rows, columns)), shape=(side * side * 4, side * side))
    return TabularMDP(matrix, rng.normal(size=(side * side, 4)) - 0.5, np.full(side * side, side**-2.0), discount)


def test_the_iterative_solver_finds_what_the_dense_one_finds():
    mdp = sparse_grid(50)  # 2500 states: above the size where the sparse solver becomes iterative
    assert not isinstance(mdp.matrix, np.ndarray)
    soft = soft_value_iteration(mdp, 2.0)
    assert soft.residual <= 1e-12 * max(1, np.abs(soft.v).max())
    dense = np.einsum("sa,sat->st", soft.policy, mdp.transition)
    right = (soft.policy * (mdp.reward - np.log(4 * soft.policy) / 2.0)).sum(axis=1)
    assert soft.v == pytest.approx(np.linalg.solve(np.eye(2500) - mdp.discount * dense, right), abs=1e-9)
    visits = np.linalg.solve((np.eye(2500) - mdp.discount * dense).T, mdp.initial)
    assert occupancy(mdp, soft.policy) == pytest.approx(visits / visits.sum(), abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=f"beta must be positive and finite, got {beta}"):
        soft_value_iteration(random_mdp(0), beta)


def test_bad_arguments_are_named():
    mdp = random_mdp(0)
    for prior in ([0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match="prior must hold 3 probabilities"):
            soft_value_iteration(mdp, 1.0, prior)
    with pytest.raises(ValueError, match=r"policy must have the shape \(7, 3\), got \(3, 7\)"):
        occupancy(mdp, np.ones((3, 7)) / 7)
    with pytest.raises(ValueError, match=r"policy\[4\] must be a distribution"):
        policy = np.ones((7, 3)) / 3
        policy[4] = [1, 1, -1.5]
        occupancy(mdp, policy)
    with pytest.raises(ValueError, match="horizon must be at least 1 action, got 0"):
        soft_backward_induction(mdp, 1.0, 0)
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\], got 1.5"):
        soft_backward_induction(mdp, 1.0, 3, discount=1.5)
    with pytest.raises(RuntimeError, match="raise tolerance"):
        soft_value_iteration(mdp, 1.0, max_iterations=1)
