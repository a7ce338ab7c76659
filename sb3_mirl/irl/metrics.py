"""How well a model predicts paths: the measures of Table 1 and Figure 5 of Ziebart et al. (2008)."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sb3_mirl.irl.network import Array, RoadNetwork
from sb3_mirl.irl.routes import MaxEntRouteChoice
from sb3_mirl.irl.trips import States, edges_along, read_trips


class RouteScores(NamedTuple):
    """``matching``: mean share of the paths' length that the predicted paths share; ``match90``: share of the paths with at
    least 0.9 of it; ``log_probability``: mean natural logarithm, NaN for a model without probabilities."""

    matching: float
    match90: float
    log_probability: float


def evaluate_routes(model: Any, paths: Iterable[ArrayLike], **predict_arguments: Any) -> RouteScores:
    """Score the paths that a model predicts between the ends of observed ones (Table 1).

    :param model: with ``network``, ``predict(origin, destination)`` and, if it has probabilities, ``log_probability(paths)``
    :param paths: sequences of states
    :param predict_arguments: more arguments of ``predict``
    :raises ValueError: naming path and step, if a path does not fit the network
    """
    network: RoadNetwork = model.network
    observed = [np.asarray(path) for path in paths]
    trips = read_trips(network, observed)
    overlaps = np.empty(len(trips))
    predicted: dict[tuple[int, int], States] = {}
    for k in np.argsort(trips.destinations, kind="stable"):  # a destination's paths together: its tree is computed once
        i = int(k)
        pair = int(trips.origins[i]), int(trips.destinations[i])
        if pair not in predicted:
            predicted[pair] = model.predict(*pair, **predict_arguments)
        overlaps[i] = path_overlap(network, observed[i], predicted[pair])
    log_probability = float(np.mean(model.log_probability(observed))) if hasattr(model, "log_probability") else np.nan
    return RouteScores(float(overlaps.mean()), float((overlaps >= 0.9 - 1e-12).mean()), log_probability)


def path_overlap(network: RoadNetwork, path: ArrayLike, predicted: ArrayLike) -> float:
    """The share of a path's length that a predicted one has in common with it.

    Where the states are road segments (``network.segment_length``), of the segments entered; elsewhere of the edges.

    :raises ValueError: a path has no edge, or none for a step
    """
    observed, other = (np.asarray(states) for states in (path, predicted))
    if len(observed) < 2:
        raise ValueError(f"the path has {len(observed)} states: without an edge it has no length")
    if network.segment_length is not None:
        parts, others, lengths = observed[1:], other[1:], network.segment_length
    else:
        parts, others = edges_along(network, observed, "the path"), edges_along(network, other, "the predicted path")
        lengths = network.length
    length = lengths[parts]
    return float(length[np.isin(parts, others)].sum() / length.sum())


def destination_accuracy(
    model: MaxEntRouteChoice,
    paths: Iterable[ArrayLike],
    destinations: Sequence[int],
    prior: ArrayLike | None = None,
    shares: Sequence[float] = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
) -> tuple[Array, Array]:
    """How often the most probable destination is the true one, by the share of the path that was seen (Figure 5).

    :param paths: whole paths, each ending at one of ``destinations``
    :param destinations: (D,)
    :param prior: (D,), by default uniform
    :param shares: (n,) of the number of edges, in [0, 1]
    :return: (n,) the accuracy, and (n,) the mean log probability of the true destination
    :raises ValueError: a path ends elsewhere
    """
    observed = [np.asarray(path) for path in paths]
    trips, chosen = read_trips(model.network, observed), list(destinations)
    for other in np.flatnonzero(~np.isin(trips.destinations, chosen)):
        raise ValueError(
            f"path {other} ends at state {trips.destinations[other]}, which is not one of the destinations {chosen}"
        )
    hits, logs = np.zeros((len(shares), len(trips))), np.zeros((len(shares), len(trips)))
    for i, path in enumerate(observed):
        true = chosen.index(int(path[-1]))
        for j, share in enumerate(shares):
            partial = path[: 1 + round(share * (len(path) - 1))]
            probabilities = model.destination_probabilities(partial, chosen, prior)
            hits[j, i] = probabilities.argmax() == true
            logs[j, i] = np.log(probabilities[true])
    return hits.mean(axis=1), logs.mean(axis=1)
