"""Paths as arrays, checked against the network."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.irl.network import Array, RoadNetwork, add_up

States = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """The paths to one destination, added up: the weights by origin, and how often each edge is taken, by weight."""

    destination: int
    origins: States
    weights: Array
    edges: NDArray[np.int64]
    edge_counts: Array


@dataclass(frozen=True)
class Trips:
    """N paths. ``edges`` (total,) are theirs one after the other, those of path i from ``starts[i]`` (N + 1,) on.

    ``origins``, ``destinations`` and ``weights`` are (N,).
    """

    edges: NDArray[np.int64]
    starts: NDArray[np.int64]
    origins: States
    destinations: States
    weights: Array

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def path(self) -> NDArray[np.int64]:
        """(total,): which path each edge is on."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def along(self, path: int) -> NDArray[np.int64]:
        """The edges of a path."""
        return self.edges[self.starts[path] : self.starts[path + 1]]

    def sums(self, values: Array) -> Array:
        """(N,): the sum of edge values (E,) along each path."""
        return add_up(self.path, values[self.edges], len(self))

    def by_destination(self) -> list[tuple[int, NDArray[np.int64]]]:
        """Each destination, and which paths end there."""
        order = np.argsort(self.destinations, kind="stable")
        destinations, starts = np.unique(self.destinations[order], return_index=True)
        return list(zip(destinations.tolist(), np.split(order, starts[1:]), strict=True))

    def groups(self) -> list[Group]:
        """The paths by destination, without those of weight 0."""
        groups = []
        for destination, chosen in self.by_destination():
            if not self.weights[chosen].any():
                continue
            origins, place = np.unique(self.origins[chosen], return_inverse=True)
            along = np.concatenate([self.along(i) for i in chosen])
            weight = np.repeat(self.weights[chosen], np.diff(self.starts)[chosen])
            edges, edge_place = np.unique(along, return_inverse=True)
            counts = add_up(edge_place, weight, len(edges))
            weights = add_up(place, self.weights[chosen], len(origins))
            groups.append(Group(destination, origins, weights, edges, counts))
        return groups


def read_trips(network: RoadNetwork, paths: Iterable[ArrayLike], sample_weight: ArrayLike | None = None) -> Trips:
    """
    :param paths: N sequences of at least two states, each ending at its first arrival at its last state
    :param sample_weight: (N,), by default 1 each
    :raises ValueError: naming path and step, if a path is anything else or has no edge for a step
    """
    read = [_as_states(network, path, f"path {i}") for i, path in enumerate(_as_list(paths))]
    for i, states in enumerate(read):
        if len(states) < 2:
            raise ValueError(f"path {i} has {len(states)} state: a path needs an edge, leave it out")
        early = np.flatnonzero(states[:-1] == states[-1])
        if len(early):
            raise ValueError(
                f"path {i} is at its destination {network.name_state(states[-1])} at step {early[0]} already, before its end: "
                "split it there"
            )
    edges = [edges_along(network, states, f"path {i}") for i, states in enumerate(read)]
    return Trips(
        edges=np.concatenate(edges),
        starts=np.cumsum([0, *(len(along) for along in edges)]),
        origins=np.array([states[0] for states in read]),
        destinations=np.array([states[-1] for states in read]),
        weights=_as_weights(sample_weight, len(read)),
    )


def read_partial(network: RoadNetwork, path: ArrayLike) -> States:
    """The states of a path that has not come to its end.

    :raises ValueError: it has no state, or no edge for a step
    """
    states = _as_states(network, path, "the partial path")
    if not len(states):
        raise ValueError("the partial path is empty: it needs at least the origin")
    edges_along(network, states, "the partial path")
    return states


def read_state(network: RoadNetwork, name: str, state: Any) -> int:
    """
    :param name: of the argument, for the message
    :raises ValueError: ``state`` is not a state of the network
    """
    array = np.asarray(state)
    if array.ndim or not np.issubdtype(array.dtype, np.integer) or not 0 <= array < network.n_states:
        raise ValueError(f"{name} must be a state of the network, 0..{network.n_states - 1}, got {state!r}")
    return int(array)


def read_states(network: RoadNetwork, name: str, states: Sequence[int] | ArrayLike) -> list[int]:
    """
    :raises ValueError: there is none, one is not a state of the network, or one is there twice
    """
    read = [read_state(network, f"each of {name}", state) for state in _as_list(states)]
    if not read or len(set(read)) < len(read):
        raise ValueError(f"{name} must be different states, at least one, got {read}")
    return read


def edges_along(network: RoadNetwork, states: States, name: str) -> NDArray[np.int64]:
    """The edges between successive states.

    :param name: of the path, for the message
    :raises ValueError: there is no edge for a step
    """
    edges = network.find_edges(states[:-1], states[1:])
    for j in np.flatnonzero(edges < 0):
        raise ValueError(
            f"{name} has no edge for its step {j}, from {network.name_state(states[j])} to "
            f"{network.name_state(states[j + 1])}: close the gap in the path, or split it there"
        )
    return edges


def _as_list(paths: Any) -> list[Any]:
    try:
        as_list = list(paths)
    except TypeError:
        raise ValueError(f"a list is needed, got {paths!r}") from None
    if not as_list:
        raise ValueError("the list is empty: at least one is needed")
    return as_list


def _as_states(network: RoadNetwork, path: Any, name: str) -> States:
    try:
        array = np.asarray(path)
    except ValueError:  # nested, of uneven lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be a sequence of state numbers, got {path!r}: labels need network.encode(path)")
    for j in np.flatnonzero((array < 0) | (array >= network.n_states)):
        raise ValueError(f"{name} has state {array[j]} at step {j}: the network's states are 0..{network.n_states - 1}")
    return array.astype(np.int64)


def _as_weights(sample_weight: ArrayLike | None, n_paths: int) -> Array:
    weights = np.ones(n_paths) if sample_weight is None else np.array(sample_weight, dtype=np.float64)
    if weights.shape != (n_paths,):
        raise ValueError(f"sample_weight must hold one number per path, ({n_paths},), got {weights.shape}")
    for i in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))):
        raise ValueError(f"sample_weight must not be negative, got {weights[i]} for path {i}")
    if not weights.sum() > 0:
        raise ValueError("sample_weight is 0 for every path")
    return weights
