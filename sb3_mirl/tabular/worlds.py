"""Where a tabular agent learns: on a transition table, compiled, or in any discrete environment, step by step.

Both classes do the same with the same arguments; ``SteppedWorld`` is the plain loop that ``kernels.run`` compiles.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_mirl.tabular import kernels
from sb3_mirl.tabular.dynamics import has_dynamics, read_dynamics
from sb3_mirl.tabular.kernels import Cursor, Evaluation, Log, Rule, Tables

Progress = tuple[Cursor, int, int]


def discrete_size(name: str, space: spaces.Space[Any]) -> int:
    """:raises ValueError: ``space`` is not discrete"""
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"a table needs a Discrete {name} space, got {space}")
    return int(space.n)


class TableWorld:
    """An environment that is its ``P`` table: nothing is stepped, evaluations run on the same table."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.dynamics = read_dynamics(env)

    def start(self, rng: np.random.Generator) -> int:
        """The first state of a run."""
        return int(kernels.start_state(self.dynamics, rng))

    def run(
        self,
        tables: Tables,
        rule: Rule,
        cursor: Cursor,
        n_steps: int,
        rng: np.random.Generator,
        log: Log,
        evaluation: Evaluation,
        evaluation_rng: np.random.Generator,
    ) -> Progress:
        """Learn for ``n_steps`` steps; the new cursor, and the numbers of episodes and snapshots."""
        return kernels.run(self.dynamics, tables, rule, cursor, n_steps, rng, log, evaluation, evaluation_rng)


class SteppedWorld:
    """Any environment with discrete observations and actions, counted from 0 whatever its spaces start at."""

    def __init__(self, env: gym.Env[Any, Any], evaluation_env: gym.Env[Any, Any] | None) -> None:
        self.env, self.evaluation_env = env, evaluation_env
        self.first_state = int(env.observation_space.start)  # type: ignore[attr-defined]  # Discrete, see discrete_size
        self.n_states = discrete_size("observation", env.observation_space)
        self.first_action = int(env.action_space.start)  # type: ignore[attr-defined]

    def start(self, rng: np.random.Generator) -> int:
        """The first state of a run; seeds the environments."""
        if self.evaluation_env is not None:
            self._reset(self.evaluation_env, int(rng.integers(2**31)))
        return self._reset(self.env, int(rng.integers(2**31)))

    def _reset(self, env: gym.Env[Any, Any], seed: int | None = None) -> int:
        return self._state(env.reset(seed=seed)[0])

    def _step(self, env: gym.Env[Any, Any], action: int) -> tuple[int, float, bool, bool]:
        observation, reward, terminated, truncated, _ = env.step(action + self.first_action)
        if not np.isfinite(float(reward)):
            raise ValueError(f"the reward of action {action + self.first_action} is {reward}: it was not learned from")
        return self._state(observation), float(reward), bool(terminated), bool(truncated)

    def _state(self, observation: Any) -> int:
        # the compiled updates would write outside the table
        state = int(observation) - self.first_state
        if not 0 <= state < self.n_states:
            raise ValueError(f"the observation {observation} is none of {self.env.observation_space}: it was not learned from")
        return state

    def run(
        self,
        tables: Tables,
        rule: Rule,
        cursor: Cursor,
        n_steps: int,
        rng: np.random.Generator,
        log: Log,
        evaluation: Evaluation,
        evaluation_rng: np.random.Generator,
    ) -> Progress:
        """Learn for ``n_steps`` steps; the new cursor, and the numbers of episodes and snapshots."""
        weights = np.empty(len(tables.prior))
        step, state, length, episode_return = cursor
        first, n_episodes, n_snapshots = step, 0, 0
        while step < first + n_steps:
            action, total = kernels.act(tables, rule, state, step, weights, rng)
            next_state, reward, terminated, truncated = self._step(self.env, action)
            kernels.learn_from(tables, rule, state, action, reward, next_state, terminated, step, weights, total)
            if len(log.states):
                log.states[step - first], log.actions[step - first] = state, action
            step, state, length, episode_return = step + 1, next_state, length + 1, episode_return + reward
            if terminated or truncated:
                log.returns[n_episodes], log.lengths[n_episodes], log.ends[n_episodes] = episode_return, length, step
                n_episodes += 1
                state, length, episode_return = self._reset(self.env), 0, 0.0
            if evaluation.every > 0 and step % evaluation.every == 0:
                beta = kernels.beta_at(step, rule.beta, rule.beta_slope)
                self._evaluate(tables, beta, evaluation, n_snapshots, evaluation_rng)
                n_snapshots += 1
        return Cursor(step, state, length, episode_return), n_episodes, n_snapshots

    def _evaluate(self, tables: Tables, beta: float, evaluation: Evaluation, row: int, rng: np.random.Generator) -> None:
        if self.evaluation_env is None:
            raise ValueError(
                "evaluation needs an environment of its own and this one was not made by gymnasium.make: give an eval_env"
            )
        weights = np.empty(len(tables.prior))
        for episode in range(evaluation.returns.shape[1]):
            state, episode_return, length, over = self._reset(self.evaluation_env), 0.0, 0, False
            while not over and length < evaluation.max_steps:
                top = kernels.highest(tables.q, state, tables.prior)
                kernels.boltzmann_weights(tables.q, state, tables.prior, beta, top, weights)
                action = kernels.behave(weights, evaluation.epsilon, evaluation.exploration, tables, rng)
                state, reward, terminated, truncated = self._step(self.evaluation_env, action)
                over = terminated or truncated
                episode_return += reward
                length += 1
            evaluation.returns[row, episode], evaluation.lengths[row, episode] = episode_return, length


def make_world(env: gym.Env[Any, Any], eval_env: gym.Env[Any, Any] | None) -> TableWorld | SteppedWorld:
    """The quicker of the two that does what ``env`` does.

    :param eval_env: where a ``SteppedWorld`` evaluates; by default another one like ``env``
    """
    if eval_env is None and has_dynamics(env):
        return TableWorld(env)
    if eval_env is None and env.spec is not None:
        eval_env = gym.make(env.spec)
    return SteppedWorld(env, eval_env)
