"""One rule for planner and learner: a ``P`` table is used only where it is what an agent meets."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv
from gymnasium.wrappers import TimeLimit, TransformObservation, TransformReward
from stable_baselines3.common.monitor import Monitor as SB3Monitor

from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.tabular import QLearning, TabularMDP, soft_value_iteration
from sb3_mirl.tabular.loops import EnvLoop, TableLoop

TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
CLIFF = "CliffWalking-v1" if "CliffWalking-v1" in gym.registry else "CliffWalking-v0"


class Shaped(FrozenLakeEnv):
    """Every step costs 1, which ``P`` does not say."""

    steps = 0

    def step(self, a):
        self.steps += 1
        state, reward, *rest = super().step(a)
        return state, reward - 1, *rest


class Elsewhere(FrozenLakeEnv):
    """Episodes begin where ``initial_state_distrib`` does not say."""

    def reset(self, **kwargs):
        super().reset(**kwargs)
        self.s = 14
        return 14, {}


class Costly:
    """A mixin."""

    def step(self, a):
        state, reward, *rest = super().step(a)
        return state, reward - 1, *rest


class Mixed(Costly, FrozenLakeEnv):
    pass


class Renamed(FrozenLakeEnv):
    """Nothing of its own."""


class SlipperyGrid(GridWorldEnv):
    """Walks to the right of where the table says, sometimes."""

    def step(self, action):
        return super().step((action + 1) % 4 if self.np_random.random() < 0.2 else action)


class Says(gym.Env):
    """Two states, of which the author says that ``P`` is right."""

    table_is_exact = True

    def __init__(self):
        self.P = {0: {0: [(1.0, 1, 2.0, False)]}, 1: {0: [(1.0, 0, 1.0, True)]}}
        self.initial_state_distrib = np.array([1.0, 0.0])
        self.observation_space, self.action_space = spaces.Discrete(2), spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action):
        _, self.state, reward, terminated = self.P[self.state][action][0]
        return self.state, reward, terminated, False, {}


class SaysNothingOfThis(Says):
    """Inherits what the author said, and does something else."""

    def step(self, action):
        state, reward, *rest = super().step(action)
        return state, 2 * reward, *rest


class SaysItAgain(SaysNothingOfThis):
    table_is_exact = True


class Denies(Renamed):
    table_is_exact = False


class Silent(Says):
    """Says nothing, does what the table says: nobody can know."""

    def __init__(self):
        super().__init__()

    step, reset = Says.step, Says.reset


class Monitor(gym.Wrapper):
    """Has the name of a harmless wrapper."""

    def step(self, action):
        state, reward, *rest = self.env.step(action)
        return state, -reward, *rest


class Printing(gym.Wrapper):
    """Changes nothing, and says so."""

    table_is_exact = True

    def step(self, action):
        return self.env.step(action)


class NotPrinting(Printing):
    def step(self, action):
        return self.env.step(0)


def patched(env, name):
    setattr(env, name, lambda *args, **kwargs: None)
    return env


def declared(env):
    env.unwrapped.table_is_exact = True
    return env


EXACT = {
    "lake": lambda: gym.make("FrozenLake-v1"),
    "lake, options": lambda: gym.make("FrozenLake-v1", success_rate=0.7, reward_schedule=(2, -1, 0)),
    "lake, own map": lambda: gym.make("FrozenLake-v1", desc=["SF", "HG"], is_slippery=False),
    "cliff, slippery": lambda: gym.make(CLIFF, is_slippery=True),
    "taxi": lambda: gym.make(TAXI),
    "taxi, rain": lambda: gym.make(TAXI, is_rainy=True),
    "corridor": lambda: gym.make("MirlCorridor-v0"),
    "grid": lambda: GridWorldEnv(["..G"]),
    "monitor": lambda: SB3Monitor(gym.make("MirlSquare-v0")),
    "time limits": lambda: TimeLimit(gym.make("FrozenLake-v1"), 200),
    "subclass": Renamed,
    "author says so": Says,
    "author says it again": SaysItAgain,
    "object says so": lambda: declared(Shaped()),
    "wrapper says so": lambda: Printing(gym.make("FrozenLake-v1")),
    "fickle, said to be right": lambda: declared(gym.make(TAXI, fickle_passenger=True)),
}
INEXACT = {  # and what the error says
    "fickle": (lambda: gym.make(TAXI, fickle_passenger=True), "fickle_passenger=True changes the destination"),
    "fickle, bare": (lambda: TaxiEnv(fickle_passenger=True), "fickle_passenger=True"),
    "reward": (lambda: TransformReward(gym.make("FrozenLake-v1"), abs), "the wrapper TransformReward.*env.unwrapped"),
    "observation": (
        lambda: TransformObservation(gym.make("FrozenLake-v1"), lambda s: 15 - s, spaces.Discrete(16)),
        "the wrapper TransformObservation.*env.unwrapped",
    ),
    "inner wrapper": (lambda: TimeLimit(Monitor(GridWorldEnv()), 9), "the wrapper Monitor.*env.unwrapped"),
    "of that name": (lambda: Monitor(gym.make("FrozenLake-v1")), "the wrapper Monitor.*env.unwrapped"),
    "wrapper's subclass": (lambda: NotPrinting(GridWorldEnv()), "the wrapper NotPrinting"),
    "wrapper, patched": (lambda: patched(gym.make("FrozenLake-v1"), "step"), "the wrapper (Patched)?TimeLimit"),
    "step": (Shaped, r"Shaped has a step\(\) of its own.*table_is_exact = True"),
    "reset": (Elsewhere, r"Elsewhere has a reset\(\) of its own"),
    "mixin": (Mixed, r"Mixed has a step\(\)"),
    "grid": (SlipperyGrid, r"SlipperyGrid has a step\(\)"),
    "says nothing": (SaysNothingOfThis, r"SaysNothingOfThis has a step\(\)"),
    "silent": (Silent, r"Silent has a step\(\)"),
    "denies": (Denies, "Denies.table_is_exact is False"),
    "patched step": (lambda: patched(FrozenLakeEnv(), "step"), r"FrozenLakeEnv has a step\(\)"),
    "patched reset": (lambda: patched(GridWorldEnv(), "reset"), r"GridWorldEnv has a reset\(\)"),
}


@pytest.mark.parametrize("name", EXACT)
def test_planner_and_learner_use_the_table(name):
    env = EXACT[name]()
    loop = QLearning(env).loop
    assert isinstance(loop, TableLoop)
    mdp = TabularMDP.from_env(env)
    # one table: the learner's outcomes, summed up, are the planner's
    dynamics = loop.dynamics
    probability = np.diff(dynamics.cumulative, axis=2, prepend=0)
    assert mdp.reward == pytest.approx((probability * dynamics.reward).sum(axis=2), abs=1e-12)
    assert mdp.termination == pytest.approx((probability * dynamics.terminated).sum(axis=2), abs=1e-12)
    transition = np.zeros((mdp.n_states, mdp.n_actions, mdp.n_states))
    for state, action, k in np.argwhere(~dynamics.terminated):
        transition[state, action, dynamics.next_state[state, action, k]] += probability[state, action, k]
    assert mdp.transition == pytest.approx(transition, abs=1e-12)


@pytest.mark.parametrize("name", INEXACT)
def test_planner_and_learner_refuse_the_table(name):
    make, message = INEXACT[name]
    env = make()
    with pytest.raises(ValueError, match=message):
        TabularMDP.from_env(env)
    assert isinstance(QLearning(env).loop, EnvLoop)
    if "env.unwrapped" in message:
        assert TabularMDP.from_env(env.unwrapped).n_states == QLearning(env.unwrapped).q.shape[0]


def test_an_overridden_step_is_stepped():
    env = Shaped()
    agent = QLearning(env, seed=0).learn(2000)
    assert env.steps == 2000
    assert set(agent.records.episode_returns) <= set(range(-2000, 1)) and agent.records.episode_returns.max() < 0


@pytest.mark.parametrize("name", ["lake, options", "cliff, slippery", "taxi, rain", "corridor"])
def test_what_is_stepped_is_in_the_table(name):
    """The rule is right about the environments that it trusts: their own step does what ``P`` says, as often."""
    env = EXACT[name]()
    mdp, rewards, visits = TabularMDP.from_env(env), {}, {}
    state, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(4000):
        action = env.action_space.sample()
        next_state, reward, terminated, truncated, _ = env.step(action)
        assert terminated or mdp.transition[state, action, next_state] > 0
        assert not terminated or mdp.termination[state, action] > 0
        rewards[state, action] = rewards.get((state, action), 0) + reward
        visits[state, action] = visits.get((state, action), 0) + 1
        state = env.reset()[0] if terminated or truncated else next_state
    often = [pair for pair, n in visits.items() if n > 50]
    assert all(abs(rewards[pair] / visits[pair] - mdp.reward[pair]) < 0.3 * max(1, abs(mdp.reward[pair])) for pair in often)


def test_the_shortest_of_several_time_limits_holds():
    for limits in ((100, 30), (30, 100)):
        env = TimeLimit(TimeLimit(GridWorldEnv("corridor"), limits[0]), limits[1])
        lengths = QLearning(env, seed=0).learn(3000).records.episode_lengths
        assert lengths.max() == 30


@pytest.mark.parametrize("stepped", [False, True])
def test_evaluations_end_at_the_time_limit_too(stepped):
    env, other = (gym.make("MirlCorridor-v0", max_episode_steps=20) for _ in range(2))
    agent = QLearning(env, seed=0, eval_env=other if stepped else None)
    assert isinstance(agent.loop, EnvLoop) == stepped
    agent.learn(200, eval_freq=100, max_eval_steps=60)
    assert agent.records.evaluation_lengths.max() == 20
    agent.learn(200, eval_freq=100, max_eval_steps=10)
    assert agent.records.evaluation_lengths.max() == 10


@pytest.mark.parametrize(("states", "actions"), [(3, 1), (2, 2), (1, 1)])
def test_a_table_of_another_size_than_the_spaces_is_refused(states, actions):
    env = Says()
    env.observation_space, env.action_space = spaces.Discrete(states), spaces.Discrete(actions)
    for read in (TabularMDP.from_env, QLearning):
        with pytest.raises(ValueError, match="P has 2 states and 1 actions, but the .*_space is Discrete"):
            read(env)


def test_probabilities_that_are_rounded_sum_to_1_for_both():
    env = Says()
    env.P[0][0] = [(0.3333333, 1, 2.0, False), (0.3333333, 0, 1.0, False), (0.3333333, 1, 0.0, False)]
    env.initial_state_distrib = np.array([0.9999999, 0.0])
    mdp = TabularMDP.from_env(env)
    assert mdp.termination[0, 0] == pytest.approx(0, abs=1e-15) and mdp.initial.sum() == pytest.approx(1, abs=1e-15)
    cumulative = QLearning(env).loop.dynamics.cumulative
    assert cumulative[0, 0] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-15)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([(0.5, 1, 0.0, False), (0.4, 1, 0.0, False)], "of state 1, action 0 must sum to 1, got 0.9"),
        ([(1.0, 1, np.inf, False)], "rewards must be finite, got inf at state 1, action 0"),
        ([(1.0, 1, 10**400, False)], "rewards must be finite"),
        ([("1", 1, 0.0, False)], r"in \[0, 1\], got '1' at state 1, action 0"),
        ([(True, 1, 0.0, False)], r"in \[0, 1\], got True"),
        ([(1.0, None, 0.0, False)], "an integer, got None"),
        ([(0.5, 1, 0.0, False), (0.5, 2, 0.0, False)], "in 0..1, got 2 at state 1, action 0"),
        ([(1.0, 1, 0.0, False), 7], "got 7 at state 1, action 0"),
        ([], "the outcomes of state 1, action 0 must be a dictionary or list"),
        ({1: (1.0, 1, 0.0, False)}, "the outcomes of state 1, action 0 has no outcome 0"),
        (5, "the outcomes of state 1, action 0 must be a dictionary or list with at least one entry, got 5"),
    ],
)
def test_the_wrong_entry_is_named(entry, message):
    env = Says()
    env.P[1][0] = entry
    for read in (TabularMDP.from_env, QLearning):
        with pytest.raises(ValueError, match=message):
            read(env)


def test_a_table_may_be_lists_and_numpy():
    env = Says()
    plain = TabularMDP.from_env(env)
    env.P = [[[(np.float32(1), np.int64(1), np.float64(2), np.bool_(False))]], [[[1, 0.0, 1, 1]]]]
    again = TabularMDP.from_env(env)
    assert np.array_equal(plain.transition, again.transition) and np.array_equal(plain.reward, again.reward)
    assert soft_value_iteration(again, 1.0).v == pytest.approx([2 + 0.99, 1])
