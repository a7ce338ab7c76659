"""What a tabular agent does with the environments that it is given, and with what is no environment."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMDP, TabularMIRL, train_in_parallel
from sb3_mirl.tabular.loops import EnvLoop


class Tired(gym.Wrapper):
    """Most users' wrappers are of this sort: gymnasium cannot make them a second time."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward - 0.01, terminated, truncated, info


class Chain(gym.Env):
    """Ten cells in a row, without a table and without a spec; says where it is, which must be where the agent is."""

    def __init__(self, fail_at=None, start=0):
        self.observation_space, self.action_space = spaces.Discrete(10, start=start), spaces.Discrete(2)
        self.first, self.fail_at, self.total, self.resets = start, fail_at, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.resets = 0, self.resets + 1
        return self.cell + self.first, {}

    def step(self, action):
        self.total += 1
        self.cell = max(self.cell + (1 if action else -1), 0)
        if self.total == self.fail_at:
            raise KeyboardInterrupt
        # the reward tells cell and action apart
        return self.cell + self.first, 10.0 * self.cell + action, self.cell == 9, False, {}


def lake(wrapper=None):
    env = gym.make("FrozenLake-v1")
    return env if wrapper is None else wrapper(env)


WITHOUT_A_SECOND_ONE = {
    "wrapper": lambda: Tired(lake()),
    "wrapper on the base": lambda: Tired(lake().unwrapped),
    "monitored wrapper": lambda: Monitor(Tired(lake())),
    "wrapper within": lambda: gym.wrappers.TransformReward(Tired(lake()), abs),
    "no spec": Chain,
    "not from 0": lambda: Chain(start=3),
}


@pytest.mark.parametrize("cls", [QLearning, SoftQLearning, TabularMIRL])
@pytest.mark.parametrize("name", WITHOUT_A_SECOND_ONE)
def test_an_environment_that_cannot_be_made_again_is_learned_in(cls, name, tmp_path):
    make = WITHOUT_A_SECOND_ONE[name]
    agent = cls(make(), seed=0).learn(300, log_path=tmp_path)
    assert agent.tables.visits.sum() == agent.num_timesteps == 300
    with pytest.raises(ValueError, match="cannot be made a second time.*give an eval_env"):
        agent.learn(100, eval_freq=50)
    assert agent.tables.visits.sum() == 300
    agent.set_env(make(), eval_env=make())
    agent.learn(100, eval_freq=50, n_eval_episodes=2, reset_num_timesteps=False)
    assert agent.num_timesteps == 400 and agent.records.evaluation_timesteps.tolist() == [350, 400]
    agent.save(tmp_path / "agent")
    assert cls.load(tmp_path / "agent", env=make()).learn(50, reset_num_timesteps=False).num_timesteps == 450


def test_the_reason_is_gymnasiums():
    with pytest.raises(ValueError, match="Tired wrapper does not inherit from.*RecordConstructorArgs"):
        QLearning(Tired(lake())).learn(100, eval_freq=50)
    with pytest.raises(ValueError, match="not made by gymnasium.make"):
        QLearning(Chain()).learn(100, eval_freq=50)


def test_a_second_environment_is_made_only_when_it_is_needed(monkeypatch):
    env, made = gym.wrappers.TransformReward(lake(), lambda r: 2 * r), []
    make = gym.make
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: made.append(args) or make(*args, **kwargs))
    agent = QLearning(env, seed=0).learn(200)
    assert isinstance(agent.loop, EnvLoop) and not made
    agent.learn(200, eval_freq=100, n_eval_episodes=3)
    agent.learn(200, eval_freq=100, n_eval_episodes=3, reset_num_timesteps=False)
    assert len(made) == 1 and set(agent.records.evaluation_returns.ravel()) <= {0.0, 2.0}  # with its wrapper


def test_when_the_second_environment_is_made_changes_nothing():
    """Its seed is drawn at the start of the run, whether or not it is there yet."""
    at_once, late = (QLearning(gym.wrappers.TransformReward(lake(), lambda r: r), seed=4) for _ in range(2))
    at_once.loop.prepare_evaluation()
    for agent in (at_once, late):
        agent.learn(300).learn(300, eval_freq=100, max_eval_steps=20, reset_num_timesteps=False)
    assert np.array_equal(at_once.q, late.q) and at_once.q.any()
    assert np.array_equal(at_once.records.evaluation_lengths, late.records.evaluation_lengths)


NO_ENVIRONMENT = {
    "vectorised": lambda: DummyVecEnv([lake]),
    "gymnasium's vector": lambda: gym.vector.SyncVectorEnv([lake]),
    "class": lambda: GridWorldEnv,
    "function": lambda: lake,
    "none": lambda: None,
    "number": lambda: 3,
    "like one": lambda: type("Like", (), {"observation_space": spaces.Discrete(2), "action_space": spaces.Discrete(2)})(),
}


@pytest.mark.parametrize("name", NO_ENVIRONMENT)
def test_what_is_no_environment_is_refused(name, tmp_path):
    thing, agent = NO_ENVIRONMENT[name](), QLearning("FrozenLake-v1")
    agent.save(tmp_path / "agent")
    calls = [QLearning, TabularMDP.from_env, agent.set_env]
    if thing is not None:
        calls += [lambda env: QLearning(lake(), eval_env=env), lambda env: QLearning.load(tmp_path / "agent", env=env)]
    for call in calls:
        with pytest.raises(ValueError, match=r"one gymnasium.Env \(not a vector of them\), or the id of one, got"):
            call(thing)


def test_an_id_will_do_everywhere(tmp_path):
    agent = QLearning("FrozenLake-v1", eval_env="FrozenLake-v1", seed=0).learn(100, eval_freq=50)
    assert isinstance(agent.loop, EnvLoop)  # evaluated elsewhere, so it is stepped
    agent.set_env("FrozenLake-v1")
    agent.save(tmp_path / "agent")
    assert QLearning.load(tmp_path / "agent", env="FrozenLake-v1").learn(10, reset_num_timesteps=False).num_timesteps == 110
    assert TabularMDP.from_env("FrozenLake-v1").n_states == 16
    with pytest.raises(gym.error.NameNotFound):
        QLearning("FrozenLaek-v1")


@pytest.mark.parametrize(
    ("observations", "actions", "name"),
    [
        (spaces.Box(0, 1), spaces.Discrete(2), "observation"),
        (spaces.MultiDiscrete([2, 2]), spaces.Discrete(2), "observation"),
        (spaces.Discrete(10), spaces.Box(0, 1), "action"),
        (None, spaces.Discrete(2), "observation"),
    ],
)
def test_spaces_that_are_not_discrete_are_named(observations, actions, name):
    env = Chain()
    env.observation_space, env.action_space = observations, actions
    with pytest.raises(ValueError, match=f"needs a Discrete {name} space, got"):
        QLearning(env)
    del env.action_space
    with pytest.raises(ValueError, match="space, got"):
        QLearning(env)


def test_evaluations_do_not_take_place_in_the_training_environment():
    env = Chain()
    for same in (env, Tired(env)):
        with pytest.raises(ValueError, match="another environment than env"):
            QLearning(env, eval_env=same)
    with pytest.raises(ValueError, match=r"the spaces of env, Discrete\(10\) and Discrete\(2\), got .*start=1"):
        QLearning(env, eval_env=Chain(start=1))
    with pytest.raises(ValueError, match="the spaces of env"):
        QLearning(env, eval_env="FrozenLake-v1")


def consistent(agent):
    """Every pair was learned from its own reward, 10 cell + action, and not from another state's."""
    env = Chain()
    for state, action in np.argwhere(agent.tables.visits):
        env.reset()
        env.cell = state
        reward = env.step(action)[1]
        assert agent.q[state, action] == pytest.approx(reward), (state, action)  # gamma 0


@pytest.mark.parametrize("fail_at", [1, 57, 200])
def test_a_run_goes_on_after_an_interrupt(fail_at):
    """With a new episode, and with all that was learned from: no transition leads from one episode into another."""
    agent = QLearning(Chain(fail_at), gamma=0.0, epsilon=0.9, seed=0)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(1000)
    assert agent.num_timesteps == agent.tables.visits.sum() == fail_at - 1
    resets = agent.env.resets
    agent.learn(1000, reset_num_timesteps=False)
    assert agent.num_timesteps == agent.tables.visits.sum() == 1000 + fail_at - 1
    assert agent.env.resets > resets
    consistent(agent)


def test_an_interrupted_agent_can_be_saved(tmp_path):
    agent = TabularMIRL(Chain(fail_at=30), gamma=0.0, seed=0)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(100)
    agent.save(tmp_path / "agent")
    loaded = TabularMIRL.load(tmp_path / "agent", env=Chain()).learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps == 129


def test_agents_that_learn_at_once_share_nothing():
    env = Chain()
    with pytest.raises(ValueError, match="must not share an environment"):
        train_in_parallel([QLearning(env), QLearning(env)], 10)
    with pytest.raises(ValueError, match="must not share an environment"):
        train_in_parallel([QLearning(env), QLearning(Tired(env))], 10)
    agent = QLearning("FrozenLake-v1")
    with pytest.raises(ValueError, match="must not share an agent"):
        train_in_parallel([agent, agent], 10)
    table = lake()  # which is read and not stepped
    assert all(one.num_timesteps == 10 for one in train_in_parallel([QLearning(table), QLearning(table)], 10))


def test_a_continued_run_keeps_its_number_of_evaluation_episodes():
    agent = QLearning("FrozenLake-v1", seed=0).learn(100, eval_freq=50, n_eval_episodes=4)
    with pytest.raises(ValueError, match="n_eval_episodes=5 must stay 4"):
        agent.learn(100, eval_freq=50, n_eval_episodes=5, reset_num_timesteps=False)
    assert agent.num_timesteps == 100
    assert agent.learn(100, eval_freq=50, n_eval_episodes=5).records.evaluation_returns.shape == (2, 5)
