"""Where a tabular agent learns: on the transition table of an environment, compiled, or in the environment, step by step.

Both loops are ``kernels.run``; ``make_loop`` chooses.
"""

from types import FunctionType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_mirl.tabular import kernels
from sb3_mirl.tabular.gym_tables import as_env, read_outcomes, table_fault, time_limit
from sb3_mirl.tabular.kernels import Cursor, Dynamics
from sb3_mirl.tabular.mdp import checked_distribution


def sizes(env: gym.Env[Any, Any]) -> tuple[int, int, int, int]:
    """Return the numbers of states and of actions, and the first state and the first action.

    :raises ValueError: if a space is not discrete
    """
    found = []
    for name in ("observation", "action"):
        space = getattr(env, f"{name}_space", None)
        if not isinstance(space, spaces.Discrete):
            raise ValueError(f"a table needs a Discrete {name} space, got {space}")
        found.append((int(space.n), int(space.start)))
    return found[0][0], found[1][0], found[0][1], found[1][1]


class TableLoop:
    """Run the compiled loop on the ``P`` table of ``env``: nothing is stepped, and evaluations run on the same table.

    :raises ValueError: naming what is wrong in the table
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        probability, next_state, reward, terminated = read_outcomes(env)
        cumulative = probability.cumsum(axis=2)
        cumulative /= cumulative[..., -1:]
        initial = env.unwrapped.initial_state_distrib  # type: ignore[attr-defined]
        start = checked_distribution("initial_state_distrib", initial, len(probability)).cumsum()
        self.dynamics = Dynamics(next_state, reward, terminated, cumulative, start / start[-1], time_limit(env))

    def start(self, rng: np.random.Generator) -> int:
        """Return the first state of a run."""
        return int(kernels.start_state(self.dynamics, rng))

    def run(self, *arguments: Any) -> tuple[Cursor, int]:
        """Call ``kernels.run`` on the table."""
        return kernels.run(self.dynamics, self.dynamics, *arguments)


class SteppedEnv:
    """Show the loop an environment whose states and actions count from 0; refuse what does not fit the table."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env, (self.n_states, _, self.first_state, self.first_action) = env, sizes(env)

    def reset(self, seed: int | None = None) -> int:
        """Begin an episode; return its first state."""
        return self._state(self.env.reset(seed=seed)[0])

    def step(self, action: int) -> tuple[int, float, bool, bool]:
        """Return next state, reward, terminated and truncated.

        :raises ValueError: if the environment gives an observation outside its space, or a reward that is not finite
        """
        observation, reward, terminated, truncated, _ = self.env.step(action + self.first_action)
        if not np.isfinite(float(reward)):
            raise ValueError(f"the reward of action {action + self.first_action} is {reward}: it was not learned from")
        return self._state(observation), float(reward), bool(terminated), bool(truncated)

    def _state(self, observation: Any) -> int:
        state = int(observation) - self.first_state
        # the compiled updates would write outside the table
        if not 0 <= state < self.n_states:
            raise ValueError(f"the observation {observation} is not in {self.env.observation_space}: it was not learned from")
        return state


def _interpreted(loop: Any, **names: Any) -> Any:
    """Return a compiled loop as Python runs its source, with functions of an environment in place of those of a table."""
    names |= {
        "start_state": lambda env, rng: env.reset(),
        "outcome": lambda env, state, action, rng: env.step(action),
        "transition": lambda env, state, action, step, length: step,
    }
    return FunctionType(loop.py_func.__code__, {**vars(kernels), **names}, loop.__name__)


run_in_env = _interpreted(kernels.run, evaluate=_interpreted(kernels.evaluate))


class EnvLoop:
    """Run the same loop in any environment with discrete observations and actions.

    :param env: where to learn
    :param eval_env: where to evaluate; by default another one is made like ``env``, when it is needed
    :raises ValueError: if ``eval_env`` is ``env`` itself, or has other spaces
    """

    def __init__(self, env: gym.Env[Any, Any], eval_env: gym.Env[Any, Any] | None) -> None:
        self.env, self.evaluation = SteppedEnv(env), None if eval_env is None else SteppedEnv(eval_env)
        if eval_env is not None and eval_env.unwrapped is env.unwrapped:
            raise ValueError("eval_env must be another environment than env, which evaluations would move in mid-episode")
        if eval_env is not None and sizes(eval_env) != sizes(env):
            raise ValueError(
                f"eval_env must have the spaces of env, {env.observation_space} and {env.action_space}, "
                f"got {eval_env.observation_space} and {eval_env.action_space}"
            )
        self._evaluation_seed: int | None = None
        try:
            self._spec, self._why_not = env.spec, "it was not made by gymnasium.make"
        except Exception as error:  # of a wrapper that gymnasium cannot make again
            self._spec, self._why_not = None, str(error)

    def start(self, rng: np.random.Generator) -> int:
        """Seed the environments; return the first state of a run."""
        if self.evaluation is not None or self._spec is not None:
            self._evaluation_seed = int(rng.integers(2**31))
            if self.evaluation is not None:
                self.evaluation.reset(self._evaluation_seed)
        return self.env.reset(int(rng.integers(2**31)))

    def prepare_evaluation(self) -> None:
        """Make the environment to evaluate in, where there is none yet.

        :raises ValueError: if that is not possible
        """
        if self.evaluation is not None:
            return
        try:
            if self._spec is None:
                raise ValueError(self._why_not)
            self.evaluation = SteppedEnv(gym.make(self._spec))
        except Exception as error:
            raise ValueError(
                f"evaluations need an environment of their own, and this one cannot be made a second time ({error}): "
                "give an eval_env, or learn with eval_freq=0"
            ) from error
        self.evaluation.reset(self._evaluation_seed)

    def run(self, *arguments: Any) -> tuple[Cursor, int]:
        """Run the code of ``kernels.run`` in the environments."""
        progress: tuple[Cursor, int] = run_in_env(self.env, self.evaluation, *arguments)
        return progress


def make_loop(env: gym.Env[Any, Any], eval_env: gym.Env[Any, Any] | str | None) -> TableLoop | EnvLoop:
    """Return the quicker of the two loops that does what ``env`` does.

    :param eval_env: where to evaluate an environment that is stepped; given, ``env`` is stepped too
    :raises ValueError: if the table of ``env`` is wrong, or ``eval_env`` does not fit
    """
    if eval_env is not None or table_fault(env) is not None or not hasattr(env.unwrapped, "initial_state_distrib"):
        return EnvLoop(env, None if eval_env is None else as_env(eval_env))
    return TableLoop(env)
