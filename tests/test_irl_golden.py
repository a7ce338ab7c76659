"""Numbers that do not depend on us: worked examples, closed forms, and other people's recurrences."""

import gymnasium as gym
import numpy as np
import pytest
from scipy.special import logsumexp

import sb3_mirl.envs  # noqa: F401  registers the gridworlds
from sb3_mirl.irl import ActionBased, MaxEntIRL, MaxEntRouteChoice, features_from_env
from sb3_mirl.irl.soft_control import causal_solver, path_solver
from sb3_mirl.tabular import TabularMDP, occupancy, soft_backward_induction, soft_value_iteration, solve_mutual_information
from tests.irl_oracles import all_paths, dense, identity_network, path_rewards, random_cyclic, random_dag, weight_matrix


def visits_of(mdp, policy):
    """(S, A): the normalised discounted occupancy of state and action."""
    return occupancy(mdp, policy)[:, None] * policy


def test_1_label_bias_of_figure_2():
    """Three equal paths from A to B, two of which branch later."""
    a, c, first, second, third, b = range(6)
    edges = [(a, c), (c, first), (c, second), (first, b), (second, b), (a, third), (third, b)]
    network, rewards = identity_network(edges), np.array([-1, -1, -1, -1, -1, -1.5, -1.5])
    paths = [[a, c, first, b], [a, c, second, b], [a, third, b]]
    uniform = MaxEntRouteChoice.from_weights(network, rewards).log_probability(paths)
    assert np.exp(uniform) == pytest.approx([1 / 3] * 3, abs=1e-14)
    biased = ActionBased.from_weights(network, rewards).log_probability(paths)
    assert np.exp(biased) == pytest.approx([1 / 4, 1 / 4, 1 / 2], abs=1e-14)


def test_2_a_loop_of_two_states():
    network, rewards = identity_network([(0, 1), (1, 0), (1, 2)]), np.array([-0.3, -0.9, -0.4])
    a, c, b = np.exp(rewards)
    model = MaxEntRouteChoice.from_weights(network, rewards)
    assert model.log_partition(2)[0] == pytest.approx(-0.3416175821, abs=1e-10)
    assert model.log_partition(2)[0] == pytest.approx(np.log(a * b / (1 - a * c)), abs=1e-12)
    assert model.edge_flows(0, 2)[0] == pytest.approx(1.4310127607, abs=1e-10)
    assert model.visit_probability(0, 2, 0) == 1
    assert model.visit_probability(1, 2, 0) == pytest.approx(a * c, abs=1e-12)  # the probability of going back at all


@pytest.mark.parametrize("seed", range(5))
def test_3_enumeration_and_dense_algebra(seed):
    network, rewards = random_dag(seed)
    model, last = MaxEntRouteChoice.from_weights(network, rewards), network.n_states - 1
    for origin in range(last):
        paths = all_paths(network, origin, last, 20)
        scores = path_rewards(network, rewards, paths)
        assert model.log_partition(last)[origin] == pytest.approx(logsumexp(scores), rel=5e-14, abs=5e-14)
        assert model.log_probability(paths) == pytest.approx(scores - logsumexp(scores), abs=1e-13)
    # cyclic: what is longer than 14 edges is a geometric tail
    network, rewards = random_cyclic(seed, n_states=5, radius=0.5)
    model, exact = MaxEntRouteChoice.from_weights(network, rewards), dense(network, rewards, 0)
    short = [logsumexp(path_rewards(network, rewards, all_paths(network, 2, 0, n))) for n in (10, 12, 14)]
    assert model.log_partition(0)[1:] == pytest.approx(exact.log_z[1:], rel=1e-12)
    errors = exact.log_z[2] - np.array(short)
    assert (errors > -1e-14).all() and (errors[1:] < 0.7 * errors[:-1] + 1e-14).all() and errors[2] < 1e-3


def test_4_a_chain_of_choices():
    """exp(1422) effective paths: even relative to the best path, z is no float."""
    n_choices = 3000
    edges, rewards = [], []
    for i in range(n_choices):
        for branch, cost in ((1, 4.0), (2, 4.5)):
            edges += [(3 * i, 3 * i + branch), (3 * i + branch, 3 * i + 3)]
            rewards += [-cost / 2, -cost / 2]
    network = identity_network(edges[:4])  # the features of 12 000 edges as columns of their own would be 1 GB
    network = type(network)(*zip(*edges, strict=True), np.array(rewards)[:, None])
    model = MaxEntRouteChoice.from_weights(network, [1.0])
    expected = n_choices * np.logaddexp(-4, -4.5)
    assert model.log_partition(3 * n_choices)[0] == pytest.approx(expected, rel=1e-13)
    flows = model.edge_flows(0, 3 * n_choices)
    assert flows[0::4] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-9)


def deterministic_mdp(seed, n_states=6, n_actions=3):
    generator = np.random.default_rng(seed)
    transition = np.zeros((n_states, n_actions, n_states))
    after = generator.integers(n_states, size=(n_states, n_actions))
    np.put_along_axis(transition, after[:, :, None], 1.0, axis=2)
    return TabularMDP(transition, np.zeros((n_states, n_actions)), np.full(n_states, 1 / n_states), 0.9)


@pytest.mark.parametrize("seed", range(3))
def test_5_algorithm_1_is_imitations_recurrence_is_soft_backward_induction(seed):
    mdp, horizon = deterministic_mdp(seed), 9
    generator, n_states, n_actions = np.random.default_rng(seed), mdp.n_states, mdp.n_actions
    reward = generator.normal(size=n_states)
    # Algorithm 1, steps 1 to 3, with time, ending anywhere: Z_{s,0} = 1
    z, policies = np.ones(n_states), []
    for _ in range(horizon):
        z_actions = np.einsum("sat,t->sa", mdp.transition, z) * np.exp(reward)[:, None]
        z = z_actions.sum(axis=1)
        policies.insert(0, z_actions / z[:, None])
    # imitation's mce_partition_fh: V[H] = -inf but for what follows the last action
    broad = reward[:, None]
    v_next = np.zeros(n_states)
    values, imitated = [], []
    for _ in range(horizon):
        q = broad + np.einsum("sat,t->sa", mdp.transition, v_next)
        v_next = logsumexp(q, axis=1)
        values.insert(0, v_next)
        imitated.insert(0, np.exp(q - v_next[:, None]))
    rewarded = TabularMDP(mdp.transition, np.repeat(broad, n_actions, axis=1), mdp.initial, mdp.discount)
    ours = soft_backward_induction(rewarded, 1.0, horizon, discount=1.0)
    model = MaxEntIRL.from_weights(mdp, np.eye(n_states), reward, horizon=horizon, discount=1.0)
    assert np.log(z) == pytest.approx(values[0], abs=1e-13)
    left = horizon - np.arange(horizon)[:, None]
    assert model.v_ == pytest.approx(np.array(values) - left * np.log(n_actions), abs=1e-13)
    assert model.v_ == pytest.approx(ours.v[:-1], abs=1e-14)
    for policy in (np.array(policies), np.array(imitated), ours.policy):
        assert model.policy_ == pytest.approx(policy, abs=1e-14)
    # and Eq. 4's model is the same where nothing is random
    paths = path_solver(mdp, 1.0, np.full(n_actions, 1 / n_actions), horizon, 1.0)(rewarded.reward)
    assert paths.policy == pytest.approx(ours.policy, abs=1e-13) and paths.v == pytest.approx(ours.v[:-1], abs=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_6_all_destinations_from_one_inverse(seed):
    network, rewards = random_cyclic(seed, n_states=8, radius=0.9)
    inverse = np.linalg.inv(np.eye(8) - weight_matrix(network, rewards))
    model = MaxEntRouteChoice.from_weights(network, rewards)
    for destination in range(8):
        expected = np.log(inverse[:, destination] / inverse[destination, destination])
        assert model.log_partition(destination) == pytest.approx(expected, rel=1e-10, abs=1e-10)


def frozen_lake():
    env = gym.make("FrozenLake-v1", is_slippery=True).unwrapped
    mdp = TabularMDP.from_env(env, discount=0.99)
    cells = env.desc.ravel()
    features = features_from_env(env, np.stack([cells == b"G", cells == b"H", np.ones(16)], axis=1))
    return env, mdp, features


def test_7_frozen_lake_from_its_exact_occupancy():
    _, mdp, features = frozen_lake()
    expert = soft_value_iteration(mdp, 20.0)  # the reward is 1 at the goal
    model = MaxEntIRL(mdp, features, beta=20.0, l2=1e-9).fit_occupancy(visits_of(mdp, expert.policy))
    assert model.converged_
    assert model.weights_ == pytest.approx([0.500, -0.500, -0.0051], abs=2e-3)
    assert model.weights_[0] - model.weights_[1] == pytest.approx(1, abs=1e-3)
    acting = mdp.termination.min(axis=1) < 1  # nothing is done in a terminal state
    assert np.abs(model.policy_ - expert.policy)[acting].max() < 1e-6


def corridor():
    env = gym.make("MirlCorridor-v0").unwrapped
    mdp = TabularMDP.from_env(env, discount=0.99)
    entered_goal = np.zeros(mdp.n_states)
    goals = {entry[1] for actions in env.P.values() for rows in actions.values() for entry in rows if entry[2] > 0}
    entered_goal[list(goals)] = 1
    features = features_from_env(env, np.stack([entered_goal, np.ones(mdp.n_states)], axis=1))
    return mdp, features


def test_8_the_reward_of_mirls_solution():
    mdp, features = corridor()
    solution = solve_mutual_information(mdp, 1.0)
    assert solution.prior == pytest.approx([0.0373, 0.9254, 0.0373, 0], abs=1e-4)
    seen = visits_of(mdp, solution.policy)
    acting = occupancy(mdp, solution.policy) > 0
    with_prior = MaxEntIRL(mdp, features, beta=1.0, prior=solution.prior, l2=1e-10).fit_occupancy(seen)
    assert np.abs(with_prior.policy_ - solution.policy)[acting].max() < 1e-5
    goal, step = with_prior.weights_
    assert goal - step * 0.99 / 0.01 == pytest.approx(109, abs=0.05)  # 10 and 99: only their sum is identified
    without = MaxEntIRL(mdp, features, beta=1.0, l2=1e-10).fit_occupancy(seen)
    errors = np.abs(without.policy_ - solution.policy)
    assert errors.max() == pytest.approx(0.675, abs=1e-3)  # at the goal, where nothing is done and the prior remains
    assert errors[acting].max() == pytest.approx(0.305, abs=1e-3)
    # what the prior explains, the rewards of actions otherwise absorb
    chosen = np.zeros((mdp.n_states, 4, 3))
    for k, action in enumerate((0, 1, 2)):
        chosen[acting, action, k] = 1
    repaired = MaxEntIRL(mdp, np.concatenate([features, chosen], axis=2), beta=1.0, l2=1e-10)
    repaired.fit_occupancy(seen)
    assert repaired.weights_[3] - repaired.weights_[2] == pytest.approx(3.211, abs=2e-3)


def test_9_a_bandit_with_a_prior():
    """The reward under the uniform prior is the reward plus log rho / beta, and a constant."""
    rho, reward, beta = np.array([0.6, 0.3, 0.1]), np.array([0.2, -0.5, 1.0]), 2.0
    bandit = TabularMDP(np.zeros((1, 3, 1)), reward[None], [1.0], 0.0)
    expert = soft_value_iteration(bandit, beta, rho)
    seen = expert.policy
    informed = MaxEntIRL(bandit, np.eye(3)[None], beta=beta, prior=rho, l2=1e-12).fit_occupancy(seen)
    uniform = MaxEntIRL(bandit, np.eye(3)[None], beta=beta, l2=1e-12).fit_occupancy(seen)
    assert np.ptp(informed.reward_[0] - reward) < 1e-6
    assert np.ptp(uniform.reward_[0] - informed.reward_[0] - np.log(rho) / beta) < 1e-6


def test_eq_4_plays_the_lottery():
    """Algorithm 1 takes the environment's luck for the agent's choice: 0.9993 against 0.0002."""
    # state 0: a sure 0.5, or state 1; state 1: +10 with probability 0.1, else -10, which the rewards of states 2 and 3 pay
    transition = np.zeros((4, 2, 4))
    transition[0, 1] = [0, 0, 0.1, 0.9]
    reward = np.array([[0.5, 0.0], [0, 0], [10, 10], [-10, -10]])
    mdp = TabularMDP(transition, reward, [1.0, 0, 0, 0], 0.9)
    half = np.full(2, 0.5)
    risky = path_solver(mdp, 1.0, half, 2, 1.0)(reward).policy[0, 0, 1]
    causal = causal_solver(mdp, 1.0, half, 2, 1.0)(reward).policy[0, 0, 1]
    assert risky == pytest.approx(0.9993, abs=1e-4) and causal == pytest.approx(0.0002, abs=1e-4)
