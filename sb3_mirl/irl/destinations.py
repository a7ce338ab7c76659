"""Where a driver is going, given the part of the path that was seen ("Applications" in Ziebart et al. 2008).

    P(dest | A..B) proportional to P(dest) z_B / z_A

as the rewards between A and B are those of the same edges for each destination.
"""

import numpy as np
from numpy.typing import ArrayLike

from sb3_mirl.irl.distribution import PathDistribution, inside
from sb3_mirl.irl.network import Array
from sb3_mirl.irl.trips import States


def posterior(distribution: PathDistribution, partial: States, destinations: list[int], prior: ArrayLike | None) -> Array:
    """(D,): P(dest | partial).

    :raises ValueError: ``prior`` is not a distribution, or no destination is possible
    """
    with np.errstate(divide="ignore"):
        log_prior = np.log(_as_prior(prior, len(destinations)))
    scores = log_prior + [_log_ratio(distribution, partial, destination) for destination in destinations]
    top = scores.max()
    if top == -np.inf:
        raise ValueError(
            f"no destination of {destinations} is possible along the partial path: each is passed before its end, is out of "
            "reach from it, or has prior 0"
        )
    weights = np.exp(scores - top)
    return weights / weights.sum()


def remaining_flows(
    distribution: PathDistribution, partial: States, destinations: list[int], prior: ArrayLike | None
) -> Array:
    """(E,): the expected traversals from the end of ``partial`` on, averaged over the destinations."""
    flows = np.zeros(distribution.network.n_edges)
    probabilities = posterior(distribution, partial, destinations, prior)
    for destination, probability in zip(destinations, probabilities, strict=True):
        if probability > 0:
            passes = distribution.passes(destination, [int(partial[0])])
            nodes = passes.graph.nodes(partial[-1:], len(partial) - 1)
            flows += probability * distribution.flows_from(passes, nodes, [1.0])
    return flows


def _log_ratio(distribution: PathDistribution, partial: States, destination: int) -> float:
    """log z_B / z_A, -inf if the destination was passed before B, left out of reach, or no such path has any probability."""
    edges = distribution.network.find_edges(partial[:-1], partial[1:])
    if (partial[:-1] == destination).any() or np.isneginf(distribution.rewards[edges]).any():
        return -np.inf
    passes = distribution.passes(destination, [int(partial[0])])
    if not inside(passes.graph, partial):
        return -np.inf
    first, last = passes.log_partition(partial[[0, -1]], np.array([0, len(partial) - 1]))
    return float(last - first)


def _as_prior(prior: ArrayLike | None, n: int) -> Array:
    if prior is None:
        return np.full(n, 1 / n)
    array = np.asarray(prior, dtype=np.float64)
    if array.shape != (n,) or not (array >= 0).all() or abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"prior must hold {n} probabilities that sum to 1, one for each destination, got {array}")
    return array / array.sum()
