"""The compiled loops: equal to a naive Python twin bit for bit, and to the formulas in ``maths``."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_mirl import maths
from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMIRL, kernels, loops
from sb3_mirl.tabular.mutual_information import mutual_information

AGENTS = {
    "ql": lambda env, **kw: QLearning(env, **kw),
    "sql": lambda env, **kw: SoftQLearning(env, **kw),
    "sql_m": lambda env, **kw: SoftQLearning(env, exploration="marginal", **kw),
    "mirl": lambda env, **kw: TabularMIRL(env, prior_lr=0.05, **kw),
    "mirl, decaying": lambda env, **kw: TabularMIRL(
        env, prior_lr=0.5, prior_decay=0.8, beta_schedule="constant", beta_init=2.0, **kw
    ),
}
ENVS = {
    "corridor": lambda: GridWorldEnv("corridor"),
    "two goals": lambda: GridWorldEnv(["G..G", "...."]),
    "slippery, 100 steps": lambda: gym.make("FrozenLake-v1"),
    "no table": lambda: gym.wrappers.TransformReward(GridWorldEnv("square"), lambda r: 2 * r),
}


class Twin:
    """The agents by the book: dictionaries, loops and ``if`` only. Takes random numbers in the order they are needed."""

    def __init__(self, name, n_states, n_actions, rng):
        self.name, self.rng, self.n_actions = name, rng, n_actions
        self.q = {(s, a): 0.0 for s in range(n_states) for a in range(n_actions)}
        self.n = dict.fromkeys(self.q, 0)
        self.prior = [1 / n_actions] * n_actions
        self.counts = [0.0] * n_actions
        self.i = 0

    def beta(self):
        return {"ql": math.inf, "mirl, decaying": 2.0}.get(self.name, 1e-3 * max(self.i, 1))

    def weights(self, s):
        """rho(a) exp(beta (Q - max Q))."""
        q = [self.q[s, a] for a in range(self.n_actions)]
        return [
            rho if x == max(q) else rho * math.exp(self.beta() * (x - max(q))) for rho, x in zip(self.prior, q, strict=True)
        ]

    def value(self, s):
        top = max(self.q[s, a] for a in range(self.n_actions))
        return top if self.name == "ql" else top + math.log(add(self.weights(s))) / self.beta()

    def draw(self, weights):
        total = add(weights)
        u = self.rng.random()
        if total == 0:
            return int(u * self.n_actions)
        u *= total
        for a, weight in enumerate(weights):
            u -= weight
            if weight > 0 and u < 0:
                return a
        return max(a for a, weight in enumerate(weights) if weight > 0)

    def choose(self, s, epsilon):
        weights = self.weights(s)
        if self.rng.random() > epsilon:
            best = [a for a in range(self.n_actions) if weights[a] == max(weights)]
            return best[int(self.rng.random() * len(best))] if len(best) > 1 else best[0]
        if self.name in ("ql", "sql"):
            return int(self.rng.random() * self.n_actions)
        return self.draw(self.counts if self.name == "sql_m" else self.prior)

    def learn(self, s, a, r, t, terminated):
        if self.name.startswith("mirl"):
            weights = self.weights(s)
            total = add(weights)
            lr = 0.05 if self.name == "mirl" else 0.5 / (1 + 0.5 * self.i) ** 0.8
            self.prior = [(1 - lr) * rho + lr * (w / total) for rho, w in zip(self.prior, weights, strict=True)]
        self.counts[a] += 1
        self.n[s, a] += 1
        target = r if terminated else r + 0.99 * self.value(t)
        self.q[s, a] += float(self.n[s, a]) ** -0.8 * (target - self.q[s, a])


def add(numbers):
    """Left to right: Python's sum compensates for rounding since 3.12."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def start(env, rng):
    u, cumulative = rng.random(), np.cumsum(env.unwrapped.initial_state_distrib)
    return int(np.flatnonzero(cumulative / cumulative[-1] > u)[0])


def follow(env, s, a, rng):
    """An outcome of the table: a certain one takes no random number."""
    outcomes = env.unwrapped.P[s][a]
    if len(outcomes) == 1:
        return outcomes[0][1:]
    u, total = rng.random(), 0.0
    for probability, *outcome in outcomes[:-1]:
        total += probability
        if u < total:
            return outcome
    return outcomes[-1][1:]


def run_twin(twin, env, steps, limit, every, evaluation_rng):
    """Training episodes and evaluations as the agent records them."""
    s, length, score, episodes, trace, snapshots = start(env, twin.rng), 0, 0.0, [], [], []
    for _ in range(steps):
        a = twin.choose(s, 0.1)
        t, r, terminated = follow(env, s, a, twin.rng)
        twin.learn(s, a, r, t, terminated)
        trace.append((s, a))
        s, length, score = t, length + 1, score + r
        twin.i += 1
        if terminated or length == limit:
            episodes.append((score, length, twin.i))
            s, length, score = start(env, twin.rng), 0, 0.0
        if twin.i % every == 0:
            learning_rng, twin.rng = twin.rng, evaluation_rng
            snapshots.append([evaluate_twin(twin, env) for _ in range(4)])
            twin.rng = learning_rng
    return episodes, trace, snapshots


def evaluate_twin(twin, env):
    s, score, length, over = start(env, twin.rng), 0.0, 0, False
    while not over and length < 20:
        s, r, over = follow(env, s, twin.choose(s, 0.05), twin.rng)
        score, length = score + r, length + 1
    return score, length


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize(("world", "limit"), [("corridor", 0), ("two goals", 0), ("slippery, 100 steps", 100)])
def test_the_kernel_is_its_naive_twin_bit_for_bit(name, world, limit):
    env = ENVS[world]()
    streams = np.random.SeedSequence(5).spawn(3)
    twin = Twin(name, env.observation_space.n, env.action_space.n, np.random.default_rng(streams[0]))
    episodes, trace, snapshots = run_twin(twin, env, 6000, limit, 1500, np.random.default_rng(streams[1]))

    agent = AGENTS[name](env, seed=5)
    agent.learn(6000, eval_freq=1500, n_eval_episodes=4, max_eval_steps=20, record_actions=True)
    assert agent.tables.q.tolist() == [[twin.q[s, a] for a in range(twin.n_actions)] for s in range(len(agent.q))]
    assert agent.tables.visits.tolist() == [[twin.n[s, a] for a in range(twin.n_actions)] for s in range(len(agent.q))]
    assert agent.tables.prior.tolist() == twin.prior and agent.tables.action_counts.tolist() == twin.counts
    record = agent.records
    found = zip(record.episode_returns.tolist(), record.episode_lengths.tolist(), record.episode_ends.tolist(), strict=True)
    assert list(found) == episodes
    assert list(zip(record.states.tolist(), record.actions.tolist(), strict=True)) == trace
    assert record.evaluation_timesteps.tolist() == [1500, 3000, 4500, 6000]
    assert record.evaluation_returns.tolist() == [[score for score, _ in row] for row in snapshots]
    assert record.evaluation_lengths.tolist() == [[length for _, length in row] for row in snapshots]


# float32: values closer than 1e-100 are ties to `maths`, which knows no larger beta
rows = st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6)


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(0, 2**31), st.one_of(st.floats(-6, 5).map(lambda x: 10.0**x), st.just(math.inf)))
def test_soft_value_and_policy_are_the_definitions(q, seed, beta):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.full(len(q), 0.5))
    prior[rng.random(len(q)) < 0.2] = 0.0  # an action without prior, sometimes
    if prior.sum() == 0:
        prior[0] = 1.0
    prior /= prior.sum()
    table, scratch = np.array([q]), np.empty(len(q))
    values, log_prior = th.tensor(q, dtype=th.float64), th.tensor(prior).log()
    expected = maths.soft_value(values, log_prior, beta).item()
    assert kernels.soft_value(table, 0, prior, beta, scratch) == pytest.approx(expected, rel=1e-12, abs=1e-12 + 4e-16 / beta)
    top = kernels.highest(table, 0, prior)
    total = kernels.boltzmann_weights(table, 0, prior, beta, top, scratch)
    policy = maths.boltzmann_log_probs(values, log_prior, beta).exp().numpy()
    assert scratch / total == pytest.approx(policy, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.floats(-6, 5).map(lambda x: 10.0**x))
def test_the_planners_soft_values_are_the_definitions(seed, n_actions, beta):
    rng = np.random.default_rng(seed)
    q, prior = rng.normal(scale=20, size=(30, n_actions)), rng.dirichlet(np.full(n_actions, 0.3))
    prior[rng.random(n_actions) < 0.3] = 0.0
    prior = prior / prior.sum() if prior.any() else np.full(n_actions, 1 / n_actions)
    values, policy = kernels.soft_values(q, prior, beta)
    log_prior = th.tensor(prior).log()
    expected = maths.soft_value(th.tensor(q), log_prior, beta).numpy()
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12 + 1e-15 / beta)
    assert policy == pytest.approx(maths.boltzmann_log_probs(th.tensor(q), log_prior, beta).exp().numpy(), abs=1e-12)
    assert (policy[:, prior == 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_the_solvers_mutual_information_is_the_definition(seed, n_actions):
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.full(n_actions, 0.3), size=8)
    policy[0] = np.eye(n_actions)[0]
    expected = maths.mutual_information(th.tensor(policy).log()).item()
    assert mutual_information(policy, np.full(8, 1 / 8)) == pytest.approx(expected, abs=1e-12)
    # a weight is as many states
    times = rng.integers(0, 5, size=8)
    times[1] += 1
    repeated = th.tensor(policy.repeat(times, axis=0)).log()
    assert mutual_information(policy, times / times.sum()) == pytest.approx(
        maths.mutual_information(repeated).item(), abs=1e-12
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_the_prior_update_is_the_definition(seed, lr):
    rng = np.random.default_rng(seed)
    prior, policy = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    expected = maths.update_prior(th.tensor(prior), th.tensor(policy)[None], lr).numpy()
    kernels.update_prior(prior, policy * 3.0, 3.0, lr)
    assert prior == pytest.approx(expected, rel=1e-12)
    assert prior.sum() == pytest.approx(1)


@pytest.mark.parametrize("step", [0, 1, 2, 1000, 10**8])
def test_beta_is_the_definition(step):
    assert kernels.beta_at(step, 0.0, 1e-3) == maths.linear_beta(step, 1e-3)
    assert kernels.beta_at(step, 7.0, 0.0) == 7.0


@pytest.mark.parametrize("beta", [60.0, 250.0, 1e5, 1e8])
def test_log_sum_exp_at_any_scale(beta):
    """The public reproduction overflowed at beta = 60 and clipped after that; 1e5 is beta after 1e8 steps."""
    table, prior, scratch = np.array([[-40.0, -40.5, -90.0, 9.0]]), np.array([0.5, 0.25, 0.2, 0.05]), np.empty(4)
    assert kernels.soft_value(table, 0, prior, beta, scratch) == pytest.approx(9.0 + math.log(0.05) / beta, rel=1e-14)
    assert kernels.soft_value(-table, 0, prior, beta, scratch) == pytest.approx(90.0 + math.log(0.2) / beta, rel=1e-14)


@pytest.mark.parametrize("weights", [[1.0, 3.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1e-300, 0.0, 0.0]])
def test_samples_follow_their_weights(weights):
    rng, weights = np.random.default_rng(0), np.array(weights)
    drawn = np.bincount([kernels.sample(weights, rng) for _ in range(20_000)], minlength=4) / 20_000
    expected = weights / weights.sum() if weights.any() else np.full(4, 0.25)
    assert drawn == pytest.approx(expected, abs=0.015)
    assert (drawn[expected == 0] == 0).all()


def test_ties_are_broken_evenly():
    rng, weights = np.random.default_rng(0), np.array([0.3, 0.1, 0.3, 0.3])
    drawn = np.bincount([kernels.sample_argmax(weights, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert drawn == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.015)


def test_the_prior_never_reaches_zero():
    prior = np.array([0.5, 0.5])
    for _ in range(5000):
        kernels.update_prior(prior, np.array([1.0, 0.0]), 1.0, 0.5)
    assert prior[1] == kernels.PRIOR_FLOOR and prior[0] == 1.0


class Simulated:
    """A table behind the interface of a stepped environment, with the compiled loop's random numbers."""

    def __init__(self, dynamics, rng):
        self.dynamics, self.rng = dynamics, rng

    def reset(self):
        self.state, self.length = kernels.start_state(self.dynamics, self.rng), 0
        return self.state

    def step(self, action):
        k = kernels.outcome(self.dynamics, self.state, action, self.rng)
        result = kernels.transition(self.dynamics, self.state, action, k, self.length)
        self.state, self.length = result[0], self.length + 1
        return result


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("world", ["corridor", "slippery, 100 steps"])
def test_the_loop_in_environments_is_the_compiled_one_bit_for_bit(name, world):
    """One source, run twice: on the table, and on the same table stepped."""
    agents = [AGENTS[name](ENVS[world](), seed=3) for _ in range(2)]
    dynamics, logs, ends = agents[0].loop.dynamics, [], []
    for stepped, agent in enumerate(agents):
        rng, evaluation_rng = np.random.default_rng(1), np.random.default_rng(2)
        models, run = [dynamics, dynamics], kernels.run
        if stepped:
            models, run = [Simulated(dynamics, rng), Simulated(dynamics, evaluation_rng)], loops.run_in_env
        start = kernels.start_state(dynamics, rng)
        if stepped:
            models[0].state, models[0].length = start, 0
        log = kernels.empty_log(2500, True, 5, 3)
        cursor = kernels.Cursor(0, start, 0, 0.0)
        evaluation = kernels.Evaluation(500, 30, 0.05, agent.rule.exploration)
        ends.append(run(*models, agent.tables, agent.rule, cursor, 2500, rng, log, evaluation, evaluation_rng))
        logs.append(log)
    assert ends[0] == ends[1] and ends[0][1] > 10
    for one, other in zip((*agents[0].tables, *logs[0]), (*agents[1].tables, *logs[1]), strict=True):
        assert np.array_equal(one, other)
    assert logs[0].evaluation_timesteps.tolist() == [500, 1000, 1500, 2000, 2500]


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_the_priors_first_step(decay):
    """At step 0 the policy is uniform over equal values, at step 1 it is not: rho moves by alpha(i) of the difference."""
    agent = TabularMIRL(GridWorldEnv(["..G"]), prior_lr=0.5, prior_decay=decay, epsilon=0.0, seed=0)
    agent.q[:] = np.log([4.0, 3.0, 2.0, 1.0]) / 1e-3  # pi at beta = 1e-3, whatever the state
    pi = np.array([0.4, 0.3, 0.2, 0.1])
    agent.learn(1)
    assert agent.prior == pytest.approx(0.5 * 0.25 + 0.5 * pi, rel=1e-12)
    q, first = agent.q.copy(), agent.prior
    state = agent._cursor.state
    agent.learn(1, reset_num_timesteps=False)
    weights = first * np.exp(1e-3 * (q[state] - q[state].max()))
    lr = 0.5 / (1 + 0.5) ** decay
    assert agent.prior == pytest.approx((1 - lr) * first + lr * weights / weights.sum(), rel=1e-12)
