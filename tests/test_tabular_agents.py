"""The tabular agents as SB3 users meet them: learn, predict, save, load, and the files they leave."""

import inspect
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.taxi import TaxiEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.results_plotter import ts2xy

import sb3_mirl
from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMIRL, train_in_parallel
from sb3_mirl.tabular.loops import EnvLoop, TableLoop

AGENTS = [QLearning, SoftQLearning, TabularMIRL]


def same_tables(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.tables, other.tables, strict=True))


class Shifted(gym.Wrapper):
    """Observations counted from 5, actions from 2, and no table: a toy that only ``step`` knows."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Discrete(int(env.observation_space.n), start=5)
        self.action_space = gym.spaces.Discrete(4, start=2)

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return observation + 5, info

    def step(self, action):
        assert 2 <= action < 6
        observation, *rest = self.env.step(action - 2)
        return observation + 5, *rest


@pytest.mark.parametrize("agent_class", AGENTS)
def test_it_learns_the_square(agent_class):
    agent = agent_class("MirlSquare-v0", seed=0).learn(30_000)
    mean, _ = evaluate_policy(
        agent, Monitor(gym.make("MirlSquare-v0", max_episode_steps=100)), n_eval_episodes=300, deterministic=True
    )
    assert mean > 3.0  # optimum 3.833, standard error of the mean below 0.2
    assert agent.num_timesteps == 30_000


@pytest.mark.parametrize("agent_class", AGENTS)
def test_same_seed_same_run_other_seed_other_run(agent_class):
    one, same, other = (agent_class("MirlCorridor-v0", seed=seed).learn(3000) for seed in (1, 1, 2))
    assert same_tables(one, same) and not same_tables(one, other)


@pytest.mark.parametrize("env", ["MirlCorridor-v0", Shifted(GridWorldEnv("square"))], ids=["table", "stepped"])
def test_evaluating_does_not_change_what_is_learned(env):
    kwargs = {} if isinstance(env, str) else {"eval_env": Shifted(GridWorldEnv("square"))}
    plain = TabularMIRL(env, seed=3, **kwargs).learn(2000)
    evaluated = TabularMIRL(env, seed=3, **kwargs).learn(2000, eval_freq=500, n_eval_episodes=2)
    assert same_tables(plain, evaluated) and len(evaluated.records.evaluation_returns) == 4


def test_learning_side_by_side_is_learning_one_by_one():
    together = [TabularMIRL("MirlCorridor-v0", seed=seed) for seed in range(4)]
    train_in_parallel(together, 4000, n_jobs=3, eval_freq=1000)
    for seed, agent in enumerate(together):
        alone = TabularMIRL("MirlCorridor-v0", seed=seed).learn(4000, eval_freq=1000)
        assert same_tables(agent, alone)
        assert np.array_equal(agent.records.evaluation_returns, alone.records.evaluation_returns)


def test_chunks_leave_no_trace():
    whole = TabularMIRL("MirlCorridor-v0", seed=4).learn(120_000, eval_freq=40_000)  # several chunks
    parts = TabularMIRL("MirlCorridor-v0", seed=4).learn(70_001, eval_freq=40_000)
    parts.learn(49_999, eval_freq=40_000, reset_num_timesteps=False)
    assert same_tables(whole, parts)
    for name in ("evaluation_timesteps", "evaluation_returns", "episode_ends", "episode_returns"):
        assert np.array_equal(getattr(whole.records, name), getattr(parts.records, name))
    assert parts.beta == pytest.approx(120.0)


@pytest.mark.parametrize("agent_class", AGENTS)
def test_save_and_load_go_on_as_if_nothing_had_happened(agent_class, tmp_path):
    agent = agent_class("MirlCorridor-v0", seed=5).learn(3000)
    agent.save(tmp_path / "agent")
    loaded = agent_class.load(tmp_path / "agent.zip", env="MirlCorridor-v0")
    assert loaded.num_timesteps == 3000 and loaded.beta == agent.beta and loaded.rule == agent.rule
    for one in (agent, loaded):
        one.learn(3000, reset_num_timesteps=False)
    assert same_tables(agent, loaded)
    observations = np.arange(60)
    assert np.array_equal(agent.predict(observations)[0], loaded.predict(observations)[0])


def test_a_loaded_agent_predicts_without_an_environment(tmp_path):
    agent = TabularMIRL(Shifted(GridWorldEnv("square")), seed=0).learn(3000)
    agent.save(tmp_path / "agent")
    loaded = TabularMIRL.load(tmp_path / "agent")
    observations = np.arange(5, 69)
    expected, actions = (one.predict(observations, deterministic=True)[0] for one in (agent, loaded))
    assert np.array_equal(actions, expected) and set(actions) <= {2, 3, 4, 5}
    with pytest.raises(ValueError, match="set_env"):
        loaded.learn(10)
    with pytest.raises(ValueError, match=r"\(64, 4\).*\(16, 4\)"):
        loaded.set_env(gym.make("FrozenLake-v1"))


def test_predict_has_sb3s_shapes():
    agent = QLearning("MirlCorridor-v0", seed=0).learn(1000)
    action, state = agent.predict(7)
    assert action.shape == () and state is None
    actions, _ = agent.predict(np.array([1, 2, 3]), deterministic=True)
    assert actions.shape == (3,) and np.array_equal(actions, agent.q[[1, 2, 3]].argmax(axis=1))


def test_prediction_explores_from_the_prior():
    agent = TabularMIRL("MirlCorridor-v0", eval_epsilon=1.0, seed=0).learn(50_000)
    drawn = np.bincount(agent.predict(np.zeros(20_000))[0], minlength=4) / 20_000
    assert drawn == pytest.approx(agent.prior, abs=0.015)
    assert agent.prior[1] > 0.6  # which is not uniform


def test_evaluation_uses_the_learned_prior_and_temperature():
    """The public reproduction evaluated MIRL with a uniform prior and beta = 1e-3."""
    agent = TabularMIRL("MirlCorridor-v0", eval_epsilon=1.0, seed=0).learn(100_000, eval_freq=10_000)
    own, uniform = agent.records.evaluation_lengths[-1].mean(), None
    agent = TabularMIRL("MirlCorridor-v0", eval_epsilon=1.0, seed=0)
    agent.learn(100_000, eval_freq=10_000, eval_exploration="uniform")
    uniform = agent.records.evaluation_lengths[-1].mean()
    assert own < 0.5 * uniform  # always exploring: the prior walks right, a coin does not get there
    agent = TabularMIRL("MirlCorridor-v0", eval_epsilon=1.0, seed=0)
    agent.learn(100_000, eval_freq=10_000, eval_exploration="none")
    assert agent.records.evaluation_lengths[-1].mean() < own


def test_sb3_reads_the_files(tmp_path):
    log_path = str(tmp_path / "run")
    agent = TabularMIRL("MirlSquare-v0", seed=0).learn(20_000, eval_freq=5000, n_eval_episodes=7, log_path=log_path)
    monitor = load_results(log_path)
    assert len(monitor) == len(agent.records.episode_returns)
    assert monitor["r"].to_numpy() == pytest.approx(agent.records.episode_returns)
    assert monitor["l"].to_numpy() == pytest.approx(agent.records.episode_lengths)
    assert (monitor["t"].diff().dropna() >= 0).all()
    x, _ = ts2xy(monitor, "timesteps")
    assert np.array_equal(x, agent.records.episode_ends)
    evaluations = np.load(f"{log_path}/evaluations.npz")
    assert evaluations["timesteps"].tolist() == [5000, 10_000, 15_000, 20_000]
    assert evaluations["results"].shape == evaluations["ep_lengths"].shape == (4, 7)
    agent.learn(10_000, eval_freq=5000, n_eval_episodes=7, log_path=log_path, reset_num_timesteps=False)
    assert np.load(f"{log_path}/evaluations.npz")["timesteps"][-1] == 30_000
    assert len(load_results(log_path)) == len(agent.records.episode_returns) > len(monitor)


def test_training_episodes_add_up():
    agent = QLearning("FrozenLake-v1", seed=0).learn(5000)
    records = agent.records
    assert np.array_equal(np.cumsum(records.episode_lengths), records.episode_ends)
    assert records.episode_lengths.max() <= 100  # FrozenLake's time limit
    assert set(records.episode_returns) <= {0.0, 1.0}
    assert agent.tables.visits.sum() == agent.tables.action_counts.sum() == 5000


def test_any_discrete_environment_works_through_the_plain_loop():
    env = Shifted(GridWorldEnv("square"))
    agent = SoftQLearning(env, seed=0, eval_env=Shifted(GridWorldEnv("square")))
    assert isinstance(agent.loop, EnvLoop)
    agent.learn(20_000, eval_freq=20_000, n_eval_episodes=100, record_actions=True)
    assert agent.records.evaluation_returns.mean() > 2.5
    assert agent.records.actions.min() >= 0 and agent.records.actions.max() <= 3


def test_the_plain_loop_learns_what_the_compiled_one_learns():
    """Other random numbers, the same distribution: both near the same values."""
    env = gym.make("MirlSquare-v0")
    stepped = QLearning(env, seed=0, eval_env=gym.make("MirlSquare-v0")).learn(40_000)
    table = QLearning(env, seed=0).learn(40_000)
    assert isinstance(stepped.loop, EnvLoop) and isinstance(table.loop, TableLoop)
    often = (stepped.tables.visits > 400) & (table.tables.visits > 400)
    assert often.sum() >= 10
    assert stepped.q[often] == pytest.approx(table.q[often], abs=0.1)


def test_only_environments_that_do_what_their_table_says_are_compiled():
    assert isinstance(QLearning("FrozenLake-v1").loop, TableLoop)
    assert isinstance(QLearning(Monitor(gym.make("MirlCorridor-v0", max_episode_steps=100))).loop, TableLoop)
    assert isinstance(QLearning(gym.wrappers.TransformReward(gym.make("FrozenLake-v1"), abs)).loop, EnvLoop)
    taxi = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
    assert isinstance(QLearning(taxi).loop, TableLoop)
    if "fickle_passenger" in inspect.signature(TaxiEnv).parameters:  # since gymnasium 1.2
        assert isinstance(QLearning(gym.make(taxi, fickle_passenger=True)).loop, EnvLoop)


def test_evaluation_without_an_environment_to_evaluate_in_is_explained():
    agent = QLearning(Shifted(GridWorldEnv("square")), seed=0)
    with pytest.raises(ValueError, match="give an eval_env"):
        agent.learn(100, eval_freq=50)


def test_prior_and_policy_are_distributions():
    agent = TabularMIRL("MirlCorridor-v0", seed=0)
    assert agent.prior == pytest.approx(0.25) and agent.num_timesteps == 0 and agent.beta == 1e-3
    agent.learn(20_000)
    assert agent.prior.sum() == pytest.approx(1) and agent.policy.sum(axis=1) == pytest.approx(1)
    assert agent.beta == pytest.approx(20.0)
    assert QLearning("MirlCorridor-v0").beta == np.inf


def test_a_collapsed_prior_is_told_and_the_rates_advised_learn():
    """FrozenLake, whose rewards are rare and at most 1: the paper's rates suit rewards of about 10."""
    with pytest.warns(UserWarning, match="The prior has collapsed onto action .: .* prior_lr=2e-5, beta_slope=1e-2"):
        collapsed = TabularMIRL("FrozenLake-v1", seed=0).learn(100_000)
    assert collapsed.prior.max() > 1 - 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advised = TabularMIRL("FrozenLake-v1", prior_lr=2e-5, beta_slope=1e-2, seed=0)
        advised.learn(250_000, eval_freq=250_000, n_eval_episodes=300, eval_exploration="none")
        TabularMIRL("MirlCorridor-v0", seed=0).learn(100_000)
        SoftQLearning("FrozenLake-v1", seed=0).learn(1_000)
    assert advised.records.evaluation_returns.mean() > 0.3, "the collapsed one reaches 0.05, the best policy 0.74"


def test_frozen_uniform_mirl_is_soft_q_learning():
    frozen = TabularMIRL("MirlCorridor-v0", prior_lr=0.0, seed=6).learn(5000)
    soft = SoftQLearning("MirlCorridor-v0", seed=6).learn(5000)
    assert frozen.prior == pytest.approx(0.25)
    # equal values need equal draws, and a uniform prior is drawn from differently than a uniform action
    assert frozen.rule._replace(exploration=0) == soft.rule


def test_soft_q_learning_at_a_high_beta_is_q_learning():
    soft = SoftQLearning("MirlSquare-v0", beta_schedule="constant", beta_init=1e9, seed=7)
    hard = QLearning("MirlSquare-v0", seed=7)
    for agent in (soft, hard):  # no ties: between equal values the two would draw differently
        agent.q[:] = np.random.default_rng(0).normal(size=agent.q.shape)
        agent.learn(3000)
    assert soft.q == pytest.approx(hard.q, abs=1e-6)
    assert np.array_equal(soft.tables.visits, hard.tables.visits)


def test_the_zoos_time_limit_does_not_slow_the_agents_down():
    patches = pytest.importorskip("rl_zoo3.gym_patches")
    limited = patches.PatchedTimeLimit(gym.make("MirlCorridor-v0").unwrapped, 100)
    world = QLearning(limited).loop
    assert isinstance(world, TableLoop) and world.dynamics.max_episode_steps == 100


def evaluated(agent, n_eval_episodes):
    env = Monitor(gym.make("MirlCorridor-v0", max_episode_steps=100))
    env.reset(seed=0)  # the same starts every time: one cell from which the greedy policy loops costs 1.7
    return evaluate_policy(agent, env, n_eval_episodes=n_eval_episodes, deterministic=True)[0]


def test_at_beta_1e5_after_1e8_steps_nothing_overflows():
    agent = TabularMIRL("MirlCorridor-v0", seed=0).learn(50_000)
    agent._cursor = agent._cursor._replace(step=10**8)
    agent.learn(50_000, reset_num_timesteps=False)
    assert agent.beta == pytest.approx(1e5, rel=1e-3)
    assert np.isfinite(agent.q).all() and agent.prior.sum() == pytest.approx(1) and (agent.tables.prior > 0).all()
    assert evaluated(agent, n_eval_episodes=200) > -2.5


@pytest.mark.slow
def test_1e8_steps():
    agent = TabularMIRL("MirlCorridor-v0", seed=0).learn(100_000_000)
    assert np.isfinite(agent.q).all() and agent.beta == pytest.approx(1e5)
    assert evaluated(agent, n_eval_episodes=500) == pytest.approx(-20 / 59, abs=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QLearning("MirlSquare-v0", gamma=1.5), r"gamma=1.5 must be a number in \[0, 1\]"),
        (lambda: QLearning("MirlSquare-v0", epsilon=-1), "epsilon=-1 must be"),
        (lambda: QLearning("MirlSquare-v0", eval_epsilon=2), "eval_epsilon=2 must be"),
        (lambda: TabularMIRL("MirlSquare-v0", prior_lr=2), r"prior_lr=2 must be"),
        (lambda: TabularMIRL("MirlSquare-v0", prior_decay=-1), "prior_decay=-1 must be"),
        (
            lambda: SoftQLearning("MirlSquare-v0", exploration="prior"),
            "exploration='prior' is not known, choose from 'uniform', 'marginal'",
        ),
        (
            lambda: SoftQLearning("MirlSquare-v0", beta_schedule="cosine"),
            "beta_schedule='cosine' is not known, choose from 'linear', 'constant'",
        ),
        (lambda: SoftQLearning("MirlSquare-v0", beta_slope=0), r"beta_slope=0 must be a number in \(0, inf\)"),
        (lambda: TabularMIRL("MirlSquare-v0", beta_schedule="constant", beta_init=-1), "beta_init=-1 must be"),
        (lambda: QLearning("CartPole-v1"), "Discrete observation space, got Box"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_progress_bar_is_shown(capsys):
    QLearning("MirlSquare-v0", seed=0).learn(1000, progress_bar=True)
    out = capsys.readouterr()
    assert "1,000" in out.out + out.err


def test_planning_needs_no_torch_and_numba_only_to_plan():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('sb3_mirl')\n"  # the package itself imports torch, for the deep agents
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['sb3_mirl'] = package\n"
        "from sb3_mirl.tabular import TabularMDP, soft_value_iteration\n"
        "from sb3_mirl.envs.gridworld import GridWorldEnv\n"
        "mdp = TabularMDP.from_env(GridWorldEnv(['..G']))\n"
        "assert not {'torch', 'numba', 'matplotlib'} & set(sys.modules), 'mdp or gridworld'\n"
        "from sb3_mirl.tabular import solve_mutual_information\n"
        "assert not {'torch', 'numba', 'matplotlib'} & set(sys.modules), 'planning'\n"
        "assert soft_value_iteration(mdp, 1.0).v[1] < solve_mutual_information(mdp, 1.0).v[1] == 9\n"
        "import sb3_mirl.tabular.kernels\n"
        "assert 'torch' not in sys.modules, 'kernels'\n"
    )
    subprocess.run([sys.executable, "-c", code, sb3_mirl.__path__[0]], check=True, timeout=120)
