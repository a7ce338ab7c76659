"""Trajectories of an MDP, checked against it and counted."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sb3_mirl.irl.network import Array
from sb3_mirl.tabular import TabularMDP

_BALANCE = 1e-6  # largest imbalance of an occupancy, of its total, that is taken for rounding


def count_actions(mdp: TabularMDP, prior: Array, trajectories: Iterable[Any], horizon: int | None) -> tuple[Array, int]:
    """How often each action was taken, and how many trajectories there are.

    :param prior: (A,) actions at 0 are never taken
    :param trajectories: each (states, actions); states as many as actions, or one more
    :return: counts (T, S, A), with T the horizon or 1
    :raises ValueError: naming trajectory and step, if one does not fit the MDP
    """
    try:
        pairs = list(trajectories)
    except TypeError:
        raise ValueError(f"trajectories must be a list of (states, actions), got {trajectories!r}") from None
    if not pairs:
        raise ValueError("the list of trajectories is empty: at least one is needed")
    counts = np.zeros((horizon or 1, mdp.n_states, mdp.n_actions))
    matrix = csr_array(mdp.matrix)
    for i, pair in enumerate(pairs):
        states, actions = _read(mdp, pair, f"trajectory {i}")
        if horizon is not None and len(actions) > horizon:
            raise ValueError(f"trajectory {i} has {len(actions)} actions, more than horizon={horizon}: raise it, or cut it")
        _check_possible(mdp, matrix, prior, states, actions, f"trajectory {i}")
        times = np.zeros(len(actions), dtype=np.int64) if horizon is None else np.arange(len(actions))
        np.add.at(counts, (times, states[: len(actions)], actions), 1)
    return counts, len(pairs)


def discounted_counts(mdp: TabularMDP, trajectories: Iterable[Any], discount: float) -> Array:
    """(S, A): the sum over the trajectories of gamma^t at each action; for trajectories that ``count_actions`` accepted."""
    counts = np.zeros((mdp.n_states, mdp.n_actions))
    for states, actions in trajectories:
        actions = np.asarray(actions)
        np.add.at(counts, (np.asarray(states)[: len(actions)], actions), discount ** np.arange(len(actions)))
    return counts


def read_occupancy(mdp: TabularMDP, occupancy: Any, horizon: int | None, discount: float, exact: bool) -> Array:
    """(S, A): the expected discounted number of times that each action is taken in an episode.

    :param occupancy: (S, A) that, or without a horizon any multiple of it
    :param exact: whether it must be what some policy does
    :raises ValueError: it is not, or is not an occupancy at all
    """
    array = np.array(occupancy, dtype=np.float64)
    if array.shape != (mdp.n_states, mdp.n_actions) or not (np.isfinite(array) & (array >= 0)).all() or not array.sum() > 0:
        raise ValueError(
            f"occupancy must hold numbers that are not negative, ({mdp.n_states}, {mdp.n_actions}), and not all 0, got shape "
            f"{array.shape}, smallest {array.min(initial=0):.3g}"
        )
    if horizon is not None:
        return array
    array = array / array.sum()
    going_on = discount * np.asarray(csr_array(mdp.matrix).T @ array.ravel())  # (S,)
    array = array / (1 - going_on.sum())  # what begins sums to 1
    begins = array.sum(axis=1) - going_on * array.sum()
    off = np.abs(begins - mdp.initial)
    worst = int(off.argmax())
    if exact and off[worst] > _BALANCE * array.sum():
        raise ValueError(
            f"occupancy does not fit the MDP: at state {worst} it begins with probability {begins[worst]:.6g}, and the "
            f"initial distribution says {mdp.initial[worst]:.6g}. If it was estimated from samples, no policy has it: use "
            "fit(trajectories), or l2 > 0 for an approximate match"
        )
    return array


def _read(mdp: TabularMDP, pair: Any, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    try:
        states, actions = (np.asarray(part) for part in pair)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (states, actions), two sequences of integers, got {pair!r}") from None
    for kind, array, size in (("state", states, mdp.n_states), ("action", actions, mdp.n_actions)):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(f"the {kind}s of {name} must be a sequence of integers, got {array!r}")
        for t in np.flatnonzero((array < 0) | (array >= size)):
            raise ValueError(f"{name} has {kind} {array[t]} at step {t}: the MDP's are 0..{size - 1}")
    if not len(actions) or len(states) - len(actions) not in (0, 1):
        raise ValueError(
            f"{name} has {len(states)} states and {len(actions)} actions: it needs an action, and as many states or one more"
        )
    return states.astype(np.int64), actions.astype(np.int64)


def _check_possible(
    mdp: TabularMDP, matrix: csr_array, prior: Array, states: NDArray[np.int64], actions: NDArray[np.int64], name: str
) -> None:
    if not mdp.initial[states[0]] > 0:
        raise ValueError(f"{name} begins in state {states[0]}, whose initial probability is 0 in the MDP")
    for step in np.flatnonzero(prior[actions] == 0):
        raise ValueError(f"{name} takes action {actions[step]} at step {step}, whose prior is 0")
    n = len(states) - 1
    rows = states[:n] * mdp.n_actions + actions[:n]
    for t in range(n):
        row = slice(matrix.indptr[rows[t]], matrix.indptr[rows[t] + 1])
        if not matrix.data[row][matrix.indices[row] == states[t + 1]].sum() > 0:
            raise ValueError(
                f"{name} goes from state {states[t]} by action {actions[t]} to state {states[t + 1]} at step {t}: that has "
                "probability 0 in the MDP"
            )
