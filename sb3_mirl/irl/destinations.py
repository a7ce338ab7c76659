"""Where a driver is going, given the part of the path that was seen ("Applications" in Ziebart et al. 2008).

    P(dest | A..B) proportional to P(dest) z_B / z_A

as the rewards between A and B are those of the same edges for each destination.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sb3_mirl.irl.network import Array
from sb3_mirl.irl.passes import Passes
from sb3_mirl.irl.trips import States
from sb3_mirl.tabular.mdp import checked_distribution

Solve = Callable[[int], Passes]
"""A destination to its passes."""


def posterior(solve: Solve, partial: States, possible: bool, destinations: list[int], prior: ArrayLike | None) -> Array:
    """(D,): P(dest | partial).

    :param possible: whether the reference policy takes every step of ``partial``
    :raises ValueError: ``prior`` is not a distribution, or no destination is possible
    """
    n = len(destinations)
    with np.errstate(divide="ignore"):
        scores = np.log(np.full(n, 1 / n) if prior is None else checked_distribution("prior", prior, n))
    for i, destination in enumerate(destinations):
        passed = bool((partial[:-1] == destination).any())
        scores[i] += -np.inf if passed or not possible else _log_ratio(solve(destination), partial)
    top = scores.max()
    if top == -np.inf:
        raise ValueError(
            f"no destination of {destinations} is possible along the partial path: each is passed before its end, is out of "
            "reach from it, or has prior 0"
        )
    weights = np.exp(scores - top)
    return weights / weights.sum()


def _log_ratio(passes: Passes, partial: States) -> float:
    """log z_B / z_A, -inf if the destination is left out of reach."""
    if not passes.graph.contains(partial):
        return -np.inf
    first, last = passes.log_partition(partial[[0, -1]], np.array([0, len(partial) - 1]))
    return float(last - first)
