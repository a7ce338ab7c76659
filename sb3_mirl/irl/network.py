"""A road network, or any directed graph, with features on its edges.

Axes: S states, E edges u -> v, K features. A path is a sequence of states; each step of it is one edge.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array, issparse

if TYPE_CHECKING:
    from scipy.sparse import spmatrix

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Features: TypeAlias = "Array | csr_array"
T = TypeVar("T")


class RoadNetwork:
    """States, the edges between them, and the features of each edge.

    For roads the states are best the road segments and the edges the ways from one to the next, so that turns have features
    and parallel streets differ (Ziebart et al. 2008, "Route Choice as an MDP"); ``from_networkx`` builds this from a graph of
    crossings. Features that belong to a state go to the edges that enter it. The arrays are read-only.

    :param tail: (E,) the state that each edge leaves
    :param head: (E,) the state that it enters
    :param features: (E, K) dense, or any scipy sparse matrix; 0 is "none of it"
    :param n_states: S; by default one more than the largest state on an edge
    :param feature_names: (K,); by default ``feature_0`` and so on
    :param length: (E,) positive reference distances, which order the computation and measure detours; by default 1 each
    :param segment_length: (S,) where the states are road segments, their lengths: ``path_overlap`` then compares segments
        instead of edges
    :param coordinates: (S, 2) or, for segments, (S, 2, 2): x and y of each state, or of its two ends; for maps
    :param labels: (S,) names of the states, for ``encode`` and ``decode``; by default their numbers
    :raises ValueError: a shape does not fit, a state is outside 0..S-1, a feature is not finite, a length is not positive,
        or two edges join the same states; the edge is named
    """

    def __init__(
        self,
        tail: ArrayLike,
        head: ArrayLike,
        features: "ArrayLike | spmatrix | csr_array",
        n_states: int | None = None,
        feature_names: Sequence[str] | None = None,
        length: ArrayLike | None = None,
        segment_length: ArrayLike | None = None,
        coordinates: ArrayLike | None = None,
        labels: Sequence[Hashable] | None = None,
    ) -> None:
        self.tail, self.head = _states("tail", tail), _states("head", head)
        if len(self.tail) != len(self.head) or not len(self.tail):
            raise ValueError(f"tail and head must hold one state per edge, got {len(self.tail)} and {len(self.head)} of them")
        self.n_edges = len(self.tail)
        largest = int(max(self.tail.max(), self.head.max()))
        self.n_states = largest + 1 if n_states is None else int(n_states)
        for edge in np.flatnonzero(
            (np.minimum(self.tail, self.head) < 0) | (np.maximum(self.tail, self.head) >= self.n_states)
        ):
            raise ValueError(f"{self.name_edge(edge)} leaves the network, whose states are 0..{self.n_states - 1}")
        self.features: Features = _as_features(features, self.n_edges)
        self.n_features = int(self.features.shape[1])
        if feature_names is None:
            feature_names = [f"feature_{k}" for k in range(self.n_features)]
        self.feature_names = _distinct("feature_names", list(map(str, feature_names)), self.n_features)
        self.length = self._checked_lengths("length", length, self.n_edges)
        self.segment_length = (
            None if segment_length is None else self._checked_lengths("segment_length", segment_length, self.n_states)
        )
        self.coordinates = None if coordinates is None else _as_coordinates(coordinates, self.n_states)
        self.labels = None if labels is None else _distinct("labels", labels, self.n_states)
        self._check_finite()
        self._check_parallel()
        for array in (self.tail, self.head, self.length, self.segment_length, self.coordinates):
            if array is not None:
                array.setflags(write=False)

    @classmethod
    def from_networkx(
        cls,
        graph: Any,
        features: Sequence[str] | Mapping[str, str],
        turns: bool = True,
        length: str | None = "length",
    ) -> "RoadNetwork":
        """Read a networkx ``Graph``, ``DiGraph`` or ``MultiDiGraph``, such as OSMnx's.

        An edge of an undirected graph is a street in both directions. A numeric attribute is a feature as it is; any other
        one becomes a feature ``attribute=category`` for each category, the indicator times the length. A list of categories,
        as OSMnx makes of merged ways, gets the length in equal parts.

        :param graph: the street graph; with ``turns`` its nodes need coordinates ``x`` and ``y`` (degrees are told by
            ``graph.graph["crs"]``, as OSMnx writes it)
        :param features: attributes of the streets; a mapping says for each whether it is a "number" or a "category"
        :param turns: True makes the streets the states (labels (u, v), or (u, v, key)) and counts straight on (up to 30
            degrees), left, right, hard left, hard right (from 120 degrees) and U-turn (back to where the street came from);
            False makes the nodes the states and the streets the edges
        :param length: the attribute that holds the length, None for 1 each
        :raises ValueError: an attribute is missing or not finite, a length is not positive, a coordinate is missing, or two
            streets join the same nodes and ``turns`` is False; the street is named
        """
        from sb3_mirl.irl.graphs import read_nodes, read_segments

        return cls(**(read_segments if turns else read_nodes)(graph, features, length))

    def __repr__(self) -> str:
        return f"RoadNetwork({self.n_states} states, {self.n_edges} edges, {self.n_features} features)"

    @cached_property
    def out_edges(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The edges by tail and, of one tail, by head: (E,) their numbers, (S + 1,) where each tail's begin."""
        order = np.lexsort((self.head, self.tail)).astype(np.int32)
        starts = np.zeros(self.n_states + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.tail, minlength=self.n_states), out=starts[1:])
        return order, starts

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        """(E,): tail * S + head in rising order, that of ``out_edges``."""
        order, _ = self.out_edges
        return self.tail[order] * np.int64(self.n_states) + self.head[order]

    def find_edges(self, tail: ArrayLike, head: ArrayLike) -> NDArray[np.int64]:
        """The edge from each ``tail`` to each ``head`` (n,), or -1 where there is none."""
        wanted = np.asarray(tail, dtype=np.int64) * self.n_states + np.asarray(head, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._keys, wanted), self.n_edges - 1)
        return np.where(self._keys[place] == wanted, self.out_edges[0][place], -1).astype(np.int64)

    def rewards(self, weights: Array) -> Array:
        """(E,): r_e = theta . f_e, the paper's ``reward``."""
        with np.errstate(over="ignore", invalid="ignore"):  # of what is no float the caller is told
            return np.asarray(self.features @ weights, dtype=np.float64)

    def feature_counts(self, edge_counts: Array) -> Array:
        """(K,): sum_e x_e f_e for ``edge_counts`` (E,) x."""
        return np.asarray(self.features.T @ edge_counts, dtype=np.float64)

    def feature_index(self, feature: "str | int | np.integer") -> int:
        """The column of a feature given by name or number.

        :raises ValueError: there is none
        """
        if isinstance(feature, str) and feature in self.feature_names:
            return self.feature_names.index(feature)
        if not isinstance(feature, str) and 0 <= feature < self.n_features:
            return int(feature)
        raise ValueError(f"there is no feature {feature!r}, choose from {', '.join(self.feature_names)}")

    def encode(self, path: Sequence[Hashable]) -> NDArray[np.int64]:
        """The states of a path that is given by labels.

        :param path: labels of the states; on a network of street segments also the nodes that the path passes, as OSMnx's
            routes are, with the shortest of parallel streets between two of them
        :raises ValueError: a label is not in the network, or no street joins two of the nodes; the step is named
        """
        path = list(path)
        index = self._index
        if all(label in index for label in path):
            return np.array([index[label] for label in path], dtype=np.int64)
        steps = list(pairwise(path))
        if steps and any(step in self._shortest for step in steps):
            for j, step in enumerate(steps):
                if step not in self._shortest:
                    raise ValueError(f"no street leads from {step[0]!r} to {step[1]!r}, step {j} of the path")
            return np.array([self._shortest[step] for step in steps], dtype=np.int64)
        j, label = next((j, label) for j, label in enumerate(path) if label not in index)
        raise ValueError(
            f"step {j} of the path is {label!r}, which is not a state of the network: labels are like {self.label(0)!r}"
        )

    def decode(self, states: Sequence[int] | NDArray[np.int64]) -> list[Hashable]:
        """The labels of a path's states."""
        return [self.label(int(state)) for state in states]

    def label(self, state: int) -> Hashable:
        """The label of a state, by default its number."""
        return state if self.labels is None else self.labels[state]

    def name_state(self, state: "int | np.integer") -> str:
        """A state as messages name it."""
        return f"state {state}" if self.labels is None else f"state {state} ({self.label(int(state))!r})"

    def name_edge(self, edge: "int | np.integer") -> str:
        """An edge as messages name it."""
        return f"edge {edge} ({self.tail[edge]} -> {self.head[edge]})"

    @cached_property
    def _index(self) -> dict[Hashable, int]:
        return {self.label(state): state for state in range(self.n_states)}

    @cached_property
    def _shortest(self) -> dict[tuple[Hashable, Hashable], int]:
        """The shortest segment between two nodes; empty if the labels are not (u, v) or (u, v, key)."""
        shortest: dict[tuple[Hashable, Hashable], int] = {}
        if self.labels is None or self.segment_length is None:
            return shortest
        for state, label in enumerate(self.labels):
            if isinstance(label, tuple) and len(label) in (2, 3):
                known = shortest.setdefault(label[:2], state)
                if self.segment_length[state] < self.segment_length[known]:
                    shortest[label[:2]] = state
        return shortest

    def _checked_lengths(self, name: str, values: ArrayLike | None, n: int) -> Array:
        lengths = np.ones(n) if values is None else np.array(values, dtype=np.float64)
        if lengths.shape != (n,):
            raise ValueError(f"{name} must have the shape ({n},), got {lengths.shape}")
        for i in np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0))):
            where = self.name_edge(i) if name == "length" else f"state {i}"
            raise ValueError(f"{name} must be positive and finite, got {lengths[i]} on {where}")
        return lengths

    def _check_finite(self) -> None:
        entries = coo_array(self.features)  # those that are not 0
        for place in np.flatnonzero(~np.isfinite(entries.data)):
            row, column = int(entries.row[place]), int(entries.col[place])
            raise ValueError(
                f"feature {self.feature_names[column]!r} of {self.name_edge(row)} is {entries.data[place]}: "
                "features must be finite numbers, fill in what is missing"
            )

    def _check_parallel(self) -> None:
        twice = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(twice):
            first, second = (int(self.out_edges[0][twice[0] + i]) for i in (0, 1))
            raise ValueError(
                f"edges {first} and {second} both lead from {self.tail[first]} to {self.head[first]}, and a path of states "
                "cannot tell them apart: make the road segments the states (from_networkx(turns=True)), or keep one of them"
            )


def _states(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be a list of state numbers, got an array of {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)  # a copy


def _as_features(features: Any, n_edges: int) -> Features:
    """(E, K): dense and contiguous, or CSR; float64, read-only."""
    matrix: Features
    if issparse(features):
        matrix = csr_array(features, dtype=np.float64, copy=True)
        matrix.sum_duplicates()
    else:
        matrix = np.array(features, dtype=np.float64, order="C")
    if matrix.ndim != 2 or matrix.shape[0] != n_edges or matrix.shape[1] == 0:
        raise ValueError(f"features must have the shape (edges, features), ({n_edges}, K), got {matrix.shape}")
    if isinstance(matrix, np.ndarray):
        matrix.setflags(write=False)
    return matrix


def _as_coordinates(coordinates: ArrayLike, n_states: int) -> Array:
    array = np.array(coordinates, dtype=np.float64)
    if array.shape not in ((n_states, 2), (n_states, 2, 2)):
        raise ValueError(f"coordinates must have the shape ({n_states}, 2) or ({n_states}, 2, 2), got {array.shape}")
    return array


def _distinct(name: str, values: Sequence[T], n: int) -> tuple[T, ...]:
    values = tuple(values)
    if len(values) != n or len(set(values)) != n:
        raise ValueError(f"{name} must hold {n} different ones, got {len(values)}, {len(set(values))} of them different")
    return values


def add_up(places: ArrayLike, values: ArrayLike, n: int) -> Array:
    """(n,): the sum of the ``values`` at each of ``places``."""
    return np.bincount(np.asarray(places), np.asarray(values), minlength=n).astype(np.float64)
