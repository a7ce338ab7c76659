"""Rewards of agents in MDPs: derivatives, recovery, and what is collected from environments."""

import gymnasium as gym
import numpy as np
import pytest
from scipy.special import logsumexp
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_mirl.envs  # noqa: F401  registers the gridworlds
from sb3_mirl.irl import MaxEntIRL, collect_trajectories, features_from_env
from sb3_mirl.irl.trajectories import count_actions, read_occupancy
from sb3_mirl.tabular import QLearning, TabularMDP, occupancy, soft_value_iteration


def random_mdp(seed, n_states=7, n_actions=3, ends=True, discount=0.9):
    generator = np.random.default_rng(seed)
    transition = generator.dirichlet(np.full(n_states, 0.3), size=(n_states, n_actions))
    if ends:
        transition *= generator.uniform(0.5, 1, size=(n_states, n_actions, 1))
    return TabularMDP(transition, np.zeros((n_states, n_actions)), generator.dirichlet(np.ones(n_states)), discount)


def rollouts(mdp, policy, n, seed, horizon=None):
    """Sampled trajectories; policy (S, A) or (H, S, A)."""
    generator, transition, found = np.random.default_rng(seed), mdp.transition, []
    for _ in range(n):
        states, actions = [int(generator.choice(mdp.n_states, p=mdp.initial))], []
        while horizon is None or len(actions) < horizon:
            pi = policy[len(actions)] if policy.ndim == 3 else policy
            actions.append(int(generator.choice(mdp.n_actions, p=pi[states[-1]])))
            after = transition[states[-1], actions[-1]]
            following = int(generator.choice(mdp.n_states + 1, p=np.append(after, 1 - after.sum())))
            if following == mdp.n_states or (horizon is not None and len(actions) == horizon):
                break
            states.append(following)
        found.append((np.array(states), np.array(actions)))
    return found


class Captured(Exception):
    pass


def objective_of(model, fit, argument, monkeypatch):
    """The function that a fit minimises, without the fit."""
    found = {}

    def capture(function, start, curvature, *_):
        found.update(function=function, curvature=curvature)
        raise Captured

    with monkeypatch.context() as patched:
        patched.setattr("sb3_mirl.irl.mdp.minimise", capture)
        with pytest.raises(Captured):
            getattr(model, fit)(argument)
    return found["function"], found["curvature"]


@pytest.mark.parametrize("horizon", [None, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_likelihoods_gradient(seed, horizon, monkeypatch):
    mdp, generator = random_mdp(seed), np.random.default_rng(seed)
    features, theta, prior = generator.normal(size=(7, 3, 4)), generator.normal(size=4), generator.dirichlet(np.ones(3))
    model = MaxEntIRL.from_weights(mdp, features, theta, beta=1.7, prior=prior, horizon=horizon)
    paths = rollouts(mdp, model.policy_, 12, seed, horizon)
    function, _ = objective_of(
        MaxEntIRL(mdp, features, beta=1.7, prior=prior, horizon=horizon, l2=0.1), "fit", paths, monkeypatch
    )
    value, gradient = function(theta)
    log_policy, total = np.log(model.policy_), 0.0
    for states, actions in paths:
        for t, (s, a) in enumerate(zip(states, actions, strict=False)):
            total += log_policy[s, a] if horizon is None else log_policy[t, s, a]
    assert value == pytest.approx(0.05 * theta @ theta - total / 12, abs=1e-10)
    for k, step in enumerate(1e-5 * np.eye(4)):
        assert gradient[k] == pytest.approx((function(theta + step)[0] - function(theta - step)[0]) / 2e-5, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dynamics", ["causal", "path"])
@pytest.mark.parametrize("horizon", [None, 5])
def test_the_duals_gradient_and_hessian(dynamics, horizon, monkeypatch):
    mdp, generator = random_mdp(1), np.random.default_rng(1)
    features, theta = generator.normal(size=(7, 3, 3)), generator.normal(size=3)
    arguments = {"beta": 1.3, "horizon": horizon, "dynamics": dynamics}
    occupied = generator.uniform(size=(7, 3))
    function, curvature = objective_of(MaxEntIRL(mdp, features, l2=1e-3, **arguments), "fit_occupancy", occupied, monkeypatch)
    _, gradient = function(theta)
    hessian = curvature(theta)
    for k, step in enumerate(1e-5 * np.eye(3)):
        (up, g_up), (down, g_down) = function(theta + step), function(theta - step)
        assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-7)
        assert hessian[k] == pytest.approx((g_up - g_down) / 2e-5, rel=1e-5, abs=1e-6)


def test_the_path_model_is_eq_4_path_by_path():
    """Every path of a stochastic MDP, enumerated: P(path) proportional to exp(reward) times its transitions' probabilities."""
    mdp, generator, horizon = random_mdp(3, n_states=3, n_actions=2, ends=False), np.random.default_rng(3), 4
    reward = generator.normal(size=(3, 2))
    model = MaxEntIRL.from_weights(
        mdp, np.eye(6).reshape(3, 2, 6), reward.ravel(), horizon=horizon, discount=1.0, dynamics="path"
    )
    causal = MaxEntIRL.from_weights(mdp, np.eye(6).reshape(3, 2, 6), reward.ravel(), horizon=horizon, discount=1.0)

    def weigh(state, left):
        """Pairs of first action and log weight, of all paths."""
        if left == 0:
            return [(None, 0.0)]
        found = []
        for action in range(2):
            for after in range(3):
                for _, rest in weigh(after, left - 1):
                    found.append((action, reward[state, action] + np.log(mdp.transition[state, action, after]) + rest))
        return found

    for state in range(3):
        paths = weigh(state, horizon)
        total = logsumexp([w for _, w in paths])
        first = np.exp([logsumexp([w for a, w in paths if a == action]) - total for action in range(2)])
        assert model.policy_[0, state] == pytest.approx(first, abs=1e-12)
        assert model.v_[0, state] == pytest.approx(total - horizon * np.log(2), abs=1e-12)
    assert np.abs(model.policy_ - causal.policy_).max() > 0.01


def test_values_are_those_of_soft_value_iteration():
    mdp, generator = random_mdp(2), np.random.default_rng(2)
    features, theta = generator.normal(size=(7, 2)), np.array([1.0, -2.0])
    model = MaxEntIRL.from_weights(mdp, features, theta, beta=3.0)
    assert model.reward_ == pytest.approx(np.repeat((features @ theta)[:, None], 3, axis=1))
    soft = soft_value_iteration(TabularMDP(mdp.transition, model.reward_, mdp.initial, mdp.discount), 3.0)
    assert (
        model.q_ == pytest.approx(soft.q) and model.v_ == pytest.approx(soft.v) and model.policy_ == pytest.approx(soft.policy)
    )
    shorter = MaxEntIRL.from_weights(mdp, features, theta, beta=3.0, discount=0.5)
    soft = soft_value_iteration(TabularMDP(mdp.transition, model.reward_, mdp.initial, 0.5), 3.0)
    assert shorter.v_ == pytest.approx(soft.v)


def test_a_long_path_model_is_the_endless_one():
    mdp, generator = random_mdp(4), np.random.default_rng(4)
    features, theta = generator.normal(size=(7, 3, 2)), np.array([0.5, -1.0])
    endless, long = (MaxEntIRL.from_weights(mdp, features, theta, dynamics="path", horizon=h) for h in (None, 250))
    assert long.policy_[0] == pytest.approx(endless.policy_, abs=1e-9) and long.v_[0] == pytest.approx(endless.v_, abs=1e-8)


@pytest.mark.parametrize("horizon", [None, 8])
def test_weights_are_recovered_from_samples_with_their_errors(horizon):
    mdp, generator = random_mdp(5), np.random.default_rng(5)
    features, theta = generator.normal(size=(7, 3, 2)), np.array([1.0, -0.7])
    truth = MaxEntIRL.from_weights(mdp, features, theta, horizon=horizon)
    distances = []
    for seed in range(8):
        model = MaxEntIRL(mdp, features, horizon=horizon).fit(rollouts(mdp, truth.policy_, 150, seed, horizon))
        error = model.weights_ - theta
        assert model.converged_
        distances.append(error @ np.linalg.solve(model.covariance_, error) / 2)
    assert 0.3 < np.mean(distances) < 2.2


def test_weights_are_recovered_from_exact_occupancies():
    mdp, generator = random_mdp(6), np.random.default_rng(6)
    features, theta = generator.normal(size=(7, 3, 3)), np.array([1.0, -0.7, 0.3])
    truth = MaxEntIRL.from_weights(mdp, features, theta, beta=2.0)
    seen = occupancy(mdp, truth.policy_)[:, None] * truth.policy_
    model = MaxEntIRL(mdp, features, beta=2.0).fit_occupancy(17 * seen)  # whatever its scale
    assert model.converged_ and model.weights_ == pytest.approx(theta, abs=1e-7)
    timed = MaxEntIRL.from_weights(mdp, features, theta, horizon=6)
    d, counts = mdp.initial, np.zeros((7, 3))
    for t in range(6):
        acted = d[:, None] * timed.policy_[t]
        counts += mdp.discount**t * acted
        d = np.einsum("sa,sat->t", acted, mdp.transition)
    again = MaxEntIRL(mdp, features, horizon=6).fit_occupancy(counts)
    assert again.converged_ and again.weights_ == pytest.approx(theta, abs=1e-6)


def test_the_path_model_is_fitted_to_its_own_paths():
    """With deterministic transitions both models are one, by either objective."""
    generator = np.random.default_rng(0)
    transition = np.zeros((5, 2, 5))
    np.put_along_axis(transition, generator.integers(5, size=(5, 2))[:, :, None], 1.0, axis=2)
    mdp = TabularMDP(transition, np.zeros((5, 2)), np.full(5, 0.2), 0.9)
    features, theta = generator.normal(size=(5, 2, 2)), np.array([0.8, -0.5])
    truth = MaxEntIRL.from_weights(mdp, features, theta, horizon=5, discount=1.0)
    paths = rollouts(mdp, truth.policy_, 200, 1, horizon=5)
    by_likelihood = MaxEntIRL(mdp, features, horizon=5, discount=1.0).fit(paths)
    by_paths = MaxEntIRL(mdp, features, horizon=5, discount=1.0, dynamics="path").fit(paths)
    assert by_paths.weights_ == pytest.approx(by_likelihood.weights_, abs=1e-6)


def frozen_lake():
    env = gym.make("FrozenLake-v1", is_slippery=True)
    cells = env.unwrapped.desc.ravel()
    mdp = TabularMDP.from_env(env, discount=0.99)
    return env, mdp, features_from_env(env, np.stack([cells == b"G", cells == b"H", np.ones(16)], axis=1))


def test_the_reward_of_a_thousand_episodes_on_frozen_lake():
    env, mdp, features = frozen_lake()
    expert = soft_value_iteration(mdp, 20.0)
    episodes = collect_trajectories(expert.policy, env.unwrapped, 1000, seed=0)
    with pytest.warns(UserWarning, match="collinear"):  # goal, hole and step sum up: only goal - hole is identified
        model = MaxEntIRL(mdp, features, beta=20.0).fit(episodes)
    acting = mdp.termination.min(axis=1) < 1
    assert np.abs(model.policy_ - expert.policy)[acting].max() <= 0.05
    assert model.weights_[0] - model.weights_[1] == pytest.approx(1, abs=0.1)
    # the dual on the same data: refused; on the mean counts themselves it is unbounded and runs away
    counts = np.zeros((16, 4))
    for states, actions in episodes:
        np.add.at(counts, (states, actions), 0.99 ** np.arange(len(actions)))
    with pytest.raises(ValueError, match=r"use fit\(trajectories\)"):
        MaxEntIRL(mdp, features, beta=20.0).fit_occupancy(counts)
    dual = MaxEntIRL(mdp, features, beta=20.0, max_iterations=60)
    checked, _, _, solver = dual._problem()
    with pytest.warns(UserWarning, match="no maximum"):
        dual._fit_dual(checked, solver, counts / 1000, mdp.initial)
    assert np.abs(dual.weights_).max() > 100
    # scaled to what an episode can be, and with a penalty, it is bounded and worse than the likelihood
    scaled = MaxEntIRL(mdp, features, beta=20.0, l2=1e-8).fit_occupancy(counts)
    worse = np.abs(scaled.policy_ - expert.policy)[acting].max()
    assert scaled.converged_ and worse > np.abs(model.policy_ - expert.policy)[acting].max()


def test_counts_are_by_time_where_there_is_a_horizon():
    mdp = random_mdp(0, ends=False)
    paths = [([0, 1, 0], [2, 1, 2]), ([0, 4], [2])]
    counts, starts = count_actions(mdp, np.full(3, 1 / 3), paths, None)
    assert (
        starts.tolist() == [2, 0, 0, 0, 0, 0, 0] and counts.shape == (1, 7, 3) and counts[0, 0, 2] == 3 and counts.sum() == 4
    )
    discounted, _ = count_actions(mdp, np.full(3, 1 / 3), paths, None, 0.5)
    assert discounted[0, 0, 2] == 2.25 and discounted[0, 1, 1] == 0.5
    timed, _ = count_actions(mdp, np.full(3, 1 / 3), paths, 4)
    assert timed.shape == (4, 7, 3) and timed[0, 0, 2] == 2 and timed[2, 0, 2] == 1


def test_an_occupancy_gets_the_scale_of_an_episode():
    mdp = random_mdp(0)
    policy = np.full((7, 3), 1 / 3)
    normalised = occupancy(mdp, policy)[:, None] * policy
    chain = np.einsum("sa,sat->st", policy, mdp.transition)
    visits = np.linalg.solve(np.eye(7) - 0.9 * chain.T, mdp.initial)
    assert read_occupancy(mdp, normalised, None, 0.9, exact=True).sum(axis=1) == pytest.approx(visits)


class Counter(gym.Env):
    """Counts up by the action, from -3 on; actions are 5 and 6; ends at 2, where a step of 2 may jump over it."""

    observation_space = gym.spaces.Discrete(8, start=-3)
    action_space = gym.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = -3 + int(self.np_random.integers(2))
        return self.state, {}

    def step(self, action):
        assert action in (5, 6)
        self.state = min(self.state + action - 4, 4)
        return self.state, 0.0, self.state >= 2, False, {}


def test_trajectories_are_counted_from_zero_and_seeded():
    policy = np.full((8, 2), 0.5)
    paths = collect_trajectories(policy, Counter(), 40, seed=3)
    assert len(paths) == 40
    for states, actions in paths:
        assert states[0] in (0, 1) and len(states) == len(actions) and states.max() <= 4
        assert (np.diff(states) == actions[:-1] + 1).all() and states[-1] + actions[-1] + 1 >= 5
    again, other = (collect_trajectories(policy, Counter(), 40, seed=s) for s in (3, 4))
    assert all(np.array_equal(a[1], b[1]) and np.array_equal(a[0], b[0]) for a, b in zip(paths, again, strict=True))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(paths, other, strict=True))
    greedy = collect_trajectories(np.array([[0.4, 0.6]] * 8), Counter(), 3, seed=0, deterministic=True)
    assert all((actions == 1).all() for _, actions in greedy)


def test_each_sub_environment_gives_its_part():
    class Timed(Counter):
        def __init__(self, length):
            self.length = length

        def reset(self, *, seed=None, options=None):
            self.left = self.length
            return super().reset(seed=seed)

        def step(self, action):
            self.left -= 1
            return -3, 0.0, self.left == 0, False, {}

    vec_env = DummyVecEnv([lambda n=n: Timed(n) for n in (1, 2, 9)])
    lengths = sorted(len(actions) for _, actions in collect_trajectories(np.full((8, 2), 0.5), vec_env, 7, seed=0))
    assert lengths == [1, 1, 2, 2, 9, 9, 9]


@pytest.mark.parametrize("make", [A2C, DQN, QLearning])
def test_agents_of_all_kinds_are_recorded(make):
    env = gym.make("FrozenLake-v1")
    model = make("MlpPolicy", env, seed=0) if make is not QLearning else QLearning(env, seed=0)
    model.learn(30)
    mdp = TabularMDP.from_env(env)
    first, second = (collect_trajectories(model, env, 5, seed=1) for _ in range(2))
    count_actions(mdp, np.full(4, 0.25), first, None)  # each step is possible
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    best = collect_trajectories(model, env, 3, seed=1, deterministic=True)
    by_state = {}
    for states, actions in best:
        for s, a in zip(states, actions, strict=True):
            assert by_state.setdefault(int(s), int(a)) == a


def test_features_are_those_expected_of_the_state_entered():
    env = gym.make("FrozenLake-v1", is_slippery=True)
    cells = env.unwrapped.desc.ravel()
    found = features_from_env(env, np.stack([cells == b"G", cells == b"H", np.ones(16)], axis=1))
    assert found[14, 2] == pytest.approx([1 / 3, 0, 1])  # right of state 14 is the goal, a slip goes up or down
    assert found[14, 1] == pytest.approx([1 / 3, 0, 1]) and found[14, 0] == pytest.approx([0, 0, 1])
    assert (found[np.isin(cells, [b"G", b"H"])] == 0).all()  # what is entered ends, and nothing is done there
    assert found[4, 2] == pytest.approx([0, 1 / 3, 1])
