"""Gymnasium's ``P`` tables: whether an environment does what its table says, and the table as arrays.

Planners and learners read environments here, by one rule (``table_fault``).
"""

import math
from collections.abc import Sized
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_mirl.common.arguments import is_number

TOLERANCE = 1e-6  # how far a sum of probabilities may be off
_NOT_IN_TABLE = {"fickle_passenger": "changes the destination during an episode"}  # options of gymnasium's toy_text
# they change neither states nor rewards; importing rl_zoo3 replaces gymnasium's TimeLimit
_TIME_LIMITS = ("gymnasium.wrappers.common.TimeLimit", "rl_zoo3.gym_patches.PatchedTimeLimit")
_PLAIN_WRAPPERS = (
    *_TIME_LIMITS,
    "gymnasium.wrappers.common.OrderEnforcing",
    "gymnasium.wrappers.common.PassiveEnvChecker",
    "stable_baselines3.common.monitor.Monitor",
)


def as_env(env: gym.Env[Any, Any] | str) -> gym.Env[Any, Any]:
    """Return the environment, made by gymnasium if its id is given.

    :raises ValueError: if it is neither
    """
    if isinstance(env, str):
        return gym.make(env)
    if not isinstance(env, gym.Env):
        raise ValueError(f"env must be one gymnasium.Env (not a vector of them), or the id of one, got {env!r}")
    return env


def table_fault(env: gym.Env[Any, Any]) -> str | None:
    """Return why an agent in ``env`` would not meet what ``env.unwrapped.P`` says, and what to do; None if it would.

    A table is used only where it is exact: ``step`` and ``reset`` are those of gymnasium's toy_text (some of whose options
    are not in ``P``) or not there at all, and no wrapper changes them. Other environments and wrappers say of themselves
    ``table_is_exact = True``; a subclass with a ``step`` or ``reset`` of its own must say it again.
    """
    base = env.unwrapped
    if not hasattr(base, "P"):
        return "it has no transition table, env.unwrapped.P[state][action]"
    while env is not base:
        name, replaced = type(env).__name__, {"step", "reset"} & vars(env).keys()
        plain = _type_name(env) in _PLAIN_WRAPPERS and not replaced
        if not plain and not all(_says_exact(env, method) for method in ("step", "reset")):
            return (
                f"the wrapper {name} may change what a step does, which P does not know. Give env.unwrapped for the table of "
                f"the environment within; or set {name}.table_is_exact = True if the wrapper changes nothing"
            )
        env = env.env  # type: ignore[attr-defined]  # every wrapper has one
    name = type(base).__name__
    if not getattr(base, "table_is_exact", True):
        return f"{name}.table_is_exact is False"
    for method in ("step", "reset"):
        if not (_says_exact(base, method) or _of_gymnasium(base, method)):
            return (
                f"{name} has a {method}() of its own, which need not do what P says. Set {name}.table_is_exact = True if it "
                "does, or build a TabularMDP from arrays"
            )
    for option, effect in _NOT_IN_TABLE.items():
        if getattr(base, option, False) and not _says_exact(base, "step"):
            return (
                f"{option}=True {effect}, which P does not know. Make it without, or set env.unwrapped.table_is_exact = True "
                "to take P all the same"
            )
    return None


def _type_name(env: gym.Env[Any, Any]) -> str:
    return f"{type(env).__module__}.{type(env).__qualname__}"


def _says_exact(env: gym.Env[Any, Any], method: str) -> bool:
    """Return whether whoever defines ``method``, or a subclass, says ``table_is_exact``."""
    for attributes in (vars(env), *map(vars, type(env).__mro__)):
        if "table_is_exact" in attributes:
            return bool(attributes["table_is_exact"])
        if method in attributes:
            break
    return False


def _of_gymnasium(env: gym.Env[Any, Any], method: str) -> bool:
    """Return whether ``method`` is that of a toy_text environment, or of ``gym.Env``, where it does nothing."""
    owner = next(cls for cls in type(env).__mro__ if method in vars(cls))
    return method not in vars(env) and (owner is gym.Env or owner.__module__.startswith("gymnasium.envs.toy_text."))


def time_limit(env: gym.Env[Any, Any]) -> int:
    """Return after how many steps the wrappers end an episode; 0 for never."""
    limits = []
    while env is not env.unwrapped:
        if _type_name(env) in _TIME_LIMITS:
            limits.append(int(env._max_episode_steps))  # type: ignore[attr-defined]
        env = env.env  # type: ignore[attr-defined]
    return min(limits, default=0)


Outcomes = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]


def read_outcomes(env: gym.Env[Any, Any]) -> Outcomes:
    """Return ``env.unwrapped.P`` as arrays (S, A, K): probability, next state, reward and terminated.

    The probabilities of a pair sum to 1; a pair with fewer than K outcomes is padded with outcomes of probability 0.

    :raises ValueError: if ``P[s][a]`` does not list (probability, next_state, reward, terminated) for all states and actions
        of the spaces, counted from 0; the message names state and action
    """
    states = _items(env.unwrapped.P, "the transition table", "state")  # type: ignore[attr-defined]
    table = [_items(actions, f"the actions of state {state}", "action") for state, actions in enumerate(states)]
    n_states, n_actions = len(table), len(table[0])
    for state, actions in enumerate(table):
        if len(actions) != n_actions:
            raise ValueError(f"state {state} has {len(actions)} actions, and state 0 has {n_actions}: all must have the same")
    for name, size in (("observation_space", n_states), ("action_space", n_actions)):
        space = getattr(env, name, None)
        if isinstance(space, spaces.Discrete) and space.n != size:
            raise ValueError(f"P has {n_states} states and {n_actions} actions, but the {name} is {space}")
    pairs = [pair(row, n_actions) for row in range(n_states * n_actions)]
    outcomes = [
        _items(table[row // n_actions][row % n_actions], f"the outcomes of {at}", "outcome") for row, at in enumerate(pairs)
    ]
    entries = [(row, k, entry) for row, listed in enumerate(outcomes) for k, entry in enumerate(listed)]
    for row, _, entry in entries:
        if not isinstance(entry, (tuple, list)) or len(entry) != 4:
            raise ValueError(f"an outcome is (probability, next_state, reward, terminated), got {entry!r} at {pairs[row]}")
    rows, places = np.array([entry[:2] for entry in entries]).T
    columns = np.zeros((4, len(pairs), int(places.max()) + 1))
    columns[:3, rows, places] = np.array([[_number(value) for value in entry[:3]] for _, _, entry in entries]).T
    columns[3, rows, places] = [bool(entry[3]) for _, _, entry in entries]
    probability, next_state, reward, terminated = columns
    for bad, column, message in (
        (~((probability >= 0) & (probability <= 1 + TOLERANCE)), 0, "a probability must be in [0, 1]"),
        (next_state != np.floor(next_state), 1, "a next state must be an integer"),
        (~((next_state >= 0) & (next_state < n_states)), 1, f"a next state must be in 0..{n_states - 1}"),
        (~np.isfinite(reward), 2, "rewards must be finite"),
    ):
        if bad.any():
            row, k = np.argwhere(bad)[0]
            raise ValueError(f"{message}, got {outcomes[row][k][column]!r} at {pairs[row]}")
    sums = probability.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > TOLERANCE:
        raise ValueError(f"the probabilities of {pairs[worst]} must sum to 1, got {sums[worst]:.9g}")
    probability /= sums[:, None]
    probability, next_state, reward, terminated = (column.reshape(n_states, n_actions, -1) for column in columns)
    return probability, next_state.astype(np.int64), reward, terminated.astype(bool)


def _items(container: Any, name: str, item: str) -> list[Any]:
    """Return the entries 0, 1, ... of a dictionary or list."""
    if not isinstance(container, Sized) or len(container) == 0:
        raise ValueError(f"{name} must be a dictionary or list with at least one entry, got {container!r}")
    items = []
    for index in range(len(container)):
        try:
            items.append(container[index])  # type: ignore[index]
        except (LookupError, TypeError):
            raise ValueError(f"{name} has no {item} {index}: states and actions are counted from 0") from None
    return items


def _number(value: Any) -> float:
    """Return the value as a float, NaN for what is not a number."""
    try:
        return float(value) if is_number(value) else math.nan
    except OverflowError:
        return math.inf


def pair(row: Any, n_actions: int) -> str:
    """Return the name of ``row`` = s * A + a, for messages."""
    return f"state {row // n_actions}, action {row % n_actions}"
