"""Gymnasium's ``P`` table, checked: the compiled loop would read and write outside its arrays on a wrong one."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from sb3_mirl.common.arguments import is_number

_TOLERANCE = 1e-6  # of a sum of probabilities


class Outcome(NamedTuple):
    """One entry of ``P[state][action]``."""

    probability: float
    next_state: int
    reward: float
    terminated: bool


Table = list[list[list[Outcome]]]


def checked_table(table: Any) -> Table:
    """
    :param table: ``table[s][a]`` lists (probability, next_state, reward, terminated), for states and actions from 0 on
    :return: the same, as lists
    :raises ValueError: naming state and action, if it is anything else
    """
    n_states = _length(table, "the transition table")
    n_actions = _length(_entry(table, 0, "state 0"), "the actions of state 0")
    rows = []
    for state in range(n_states):
        actions = _entry(table, state, f"state {state}")
        if _length(actions, f"the actions of state {state}") != n_actions:
            raise ValueError(f"state {state} has {len(actions)} actions, and state 0 has {n_actions}: all must have the same")
        rows.append([_outcomes(actions, state, action, n_states) for action in range(n_actions)])
    return rows


def checked_start(start: Any, n_states: int) -> np.ndarray:
    """
    :param start: (S,) distribution of the first state
    :raises ValueError: if it is none
    """
    array = np.asarray(start, dtype=np.float64)
    if array.shape != (n_states,) or not (array >= 0).all() or abs(array.sum() - 1) > _TOLERANCE:
        raise ValueError(f"initial_state_distrib must hold {n_states} probabilities that sum to 1, got {array}")
    return array


def _outcomes(actions: Any, state: int, action: int, n_states: int) -> list[Outcome]:
    where = f"state {state}, action {action}"
    entries: Sequence[Any] = _entry(actions, action, where)
    _length(entries, f"the outcomes of {where}")
    outcomes = [_outcome(entry, where, n_states) for entry in entries]
    total = sum(outcome.probability for outcome in outcomes)
    if abs(total - 1) > _TOLERANCE:
        raise ValueError(f"the probabilities of {where} must sum to 1, got {total:.9g}")
    return outcomes


def _outcome(entry: Any, where: str, n_states: int) -> Outcome:
    if not isinstance(entry, (tuple, list)) or len(entry) != 4:
        raise ValueError(f"an outcome is (probability, next_state, reward, terminated), got {entry!r} at {where}")
    probability, next_state, reward, terminated = entry
    if not (is_number(probability) and 0 <= probability <= 1 + _TOLERANCE):
        raise ValueError(f"a probability must be in [0, 1], got {probability!r} at {where}")
    # int() of some tables' floats is meant, of 0.7 it is not
    if not (is_number(next_state) and (isinstance(next_state, Integral) or float(next_state).is_integer())):
        raise ValueError(f"a next state must be an integer, got {next_state!r} at {where}")
    if not 0 <= next_state < n_states:
        raise ValueError(f"a next state must be in 0..{n_states - 1}, got {next_state} at {where}")
    if not (is_number(reward) and np.isfinite(float(reward))):
        raise ValueError(f"rewards must be finite, got {reward!r} at {where}")
    return Outcome(float(probability), int(next_state), float(reward), bool(terminated))


def _entry(table: Any, index: int, name: str) -> Any:
    try:
        return table[index]
    except (LookupError, TypeError):
        raise ValueError(f"the transition table has no {name}: states and actions are counted from 0") from None


def _length(entries: Any, name: str) -> int:
    try:
        length = len(entries)
    except TypeError:
        length = 0
    if length == 0:
        raise ValueError(f"{name} must be a dictionary or list with at least one entry, got {entries!r}")
    return length
