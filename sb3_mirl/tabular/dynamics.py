"""What the compiled loop needs to know of an environment: its ``P`` table as arrays."""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sb3_mirl.tabular.table import checked_start, checked_table

# importing rl_zoo3 replaces gymnasium's wrapper by one that differs in `info` alone
_TIME_LIMITS = ("TimeLimit", "PatchedTimeLimit")
_HARMLESS_WRAPPERS = (*_TIME_LIMITS, "OrderEnforcing", "PassiveEnvChecker", "Monitor")


class Dynamics(NamedTuple):
    """A ``P`` table to sample from. Axes: S states, A actions, K outcomes (padded with the last one).

    ``next_state``, ``reward``, ``terminated`` and ``cumulative`` (the outcomes' cumulative probability) are (S, A, K),
    ``start_cumulative`` is (S,); ``max_episode_steps`` is 0 for none.
    """

    next_state: NDArray[np.int64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    cumulative: NDArray[np.float64]
    start_cumulative: NDArray[np.float64]
    max_episode_steps: int


def has_dynamics(env: gym.Env[Any, Any]) -> bool:
    """Whether ``env`` does what its ``P`` table says, so that the compiled loop may stand in for ``env.step``."""
    base = env.unwrapped
    # Taxi's fickle passenger changes the state after the table was read
    if not (hasattr(base, "P") and hasattr(base, "initial_state_distrib")) or getattr(base, "fickle_passenger", False):
        return False
    while env is not base:
        if type(env).__name__ not in _HARMLESS_WRAPPERS:
            return False
        env = env.env  # type: ignore[attr-defined]  # every wrapper has one
    return True


def read_dynamics(env: gym.Env[Any, Any]) -> Dynamics:
    """The arrays of ``env``'s transition table and its time limit.

    :param env: an environment for which ``has_dynamics`` holds
    :raises ValueError: naming what is wrong in the table
    """
    base: Any = env.unwrapped
    table = checked_table(base.P)
    n_states, n_actions = len(table), len(table[0])
    n_outcomes = max(len(outcomes) for actions in table for outcomes in actions)
    shape = (n_states, n_actions, n_outcomes)
    next_state, reward = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    terminated, cumulative = np.zeros(shape, dtype=np.bool_), np.ones(shape)
    for s in range(n_states):
        for a in range(n_actions):
            outcomes = table[s][a]
            total = 0.0
            for k in range(n_outcomes):
                probability, next_state[s, a, k], reward[s, a, k], terminated[s, a, k] = outcomes[min(k, len(outcomes) - 1)]
                total += probability
                cumulative[s, a, k] = total if k < len(outcomes) - 1 else 1.0
    starts = np.cumsum(checked_start(base.initial_state_distrib, n_states))
    return Dynamics(next_state, reward, terminated, cumulative, starts / starts[-1], _time_limit(env))


def _time_limit(env: gym.Env[Any, Any]) -> int:
    while env is not env.unwrapped:
        if type(env).__name__ in _TIME_LIMITS:
            return int(env._max_episode_steps)  # type: ignore[attr-defined]
        env = env.env  # type: ignore[attr-defined]
    return 0
