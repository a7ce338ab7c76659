"""Street graphs as networks: segments become states, turns become edges, attributes become features."""

import ast
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

TURNS = ("straight", "left", "right", "hard left", "hard right", "U-turn")
STRAIGHT, HARD = 30.0, 120.0  # degrees: up to the first it goes straight on, from the second a turn is hard


class Streets(NamedTuple):
    """A street graph read: directed streets between nodes that are counted from 0.

    ``labels``, ``data`` (the attributes), ``tail`` and ``head`` have one entry per street; ``length`` too.
    """

    nodes: list[Hashable]
    labels: list[tuple[Hashable, ...]]
    data: list[Mapping[str, Any]]
    tail: Ints
    head: Ints
    length: Array


def segment_transitions(tail: Ints, head: Ints) -> tuple[Ints, Ints]:
    """Which segment may follow which: all that begin where one ends, but not itself.

    :param tail: (S,) the node at which each segment begins
    :param head: (S,) the node at which it ends
    :return: (E,) the segment left and (E,) the segment entered
    """
    order = np.argsort(tail, kind="stable")
    first = np.searchsorted(tail[order], np.arange(max(tail.max(), head.max()) + 2))  # by node
    counts = (first[1:] - first[:-1])[head]  # (S,)
    left = np.repeat(np.arange(len(tail)), counts)
    place = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts) + first[head[left]]
    entered = order[place]
    kept = left != entered
    return left[kept], entered[kept]


def turns_at(tail: Ints, head: Ints, xy: Array, left: Ints, entered: Ints) -> Ints:
    """(E,): which of ``TURNS`` each transition is.

    :param tail: (S,) and ``head`` (S,), the segments' nodes
    :param xy: (nodes, 2), x to the right and y up, in one unit of length
    :param left: (E,) and ``entered`` (E,), the segments
    """
    direction = xy[head] - xy[tail]  # (S, 2)
    before, after = direction[left], direction[entered]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    degrees = np.degrees(np.arctan2(cross, (before * after).sum(axis=1)))  # positive to the left
    kinds = np.select(
        [np.abs(degrees) <= STRAIGHT, degrees >= HARD, degrees <= -HARD, degrees > 0],
        [TURNS.index(name) for name in ("straight", "hard left", "hard right", "left")],
        default=TURNS.index("right"),
    )
    return np.where(head[entered] == tail[left], TURNS.index("U-turn"), kinds)


def one_hot(kinds: Ints, n_kinds: int) -> csr_array:
    """(E, n_kinds): 1 where an edge is of a kind."""
    return csr_array((np.ones(len(kinds)), kinds, np.arange(len(kinds) + 1)), shape=(len(kinds), n_kinds))


def read_segments(graph: Any, features: Sequence[str] | Mapping[str, str], length: str | None) -> dict[str, Any]:
    """The arguments of ``RoadNetwork`` with the streets as states, of which an edge has the features of the one entered."""
    streets = _read_streets(graph, length)
    xy = _read_coordinates(graph, streets.nodes)
    left, entered = segment_transitions(streets.tail, streets.head)
    if not len(left):
        raise ValueError("no street of the graph leads on to another one: with turns=False its nodes are the states")
    names, columns = _read_features(streets, features)
    kinds = turns_at(streets.tail, streets.head, _planar(graph, xy), left, entered)
    turns = one_hot(kinds, len(TURNS))
    return {
        "tail": left,
        "head": entered,
        "features": turns if columns is None else hstack([columns[entered], turns], format="csr"),
        "n_states": len(streets.labels),
        "feature_names": [*names, *TURNS],
        "length": streets.length[entered],
        "segment_length": streets.length,
        "coordinates": np.stack([xy[streets.tail], xy[streets.head]], axis=1),
        "labels": streets.labels,
    }


def read_nodes(graph: Any, features: Sequence[str] | Mapping[str, str], length: str | None) -> dict[str, Any]:
    """The arguments of ``RoadNetwork`` with the nodes as states and the streets as edges."""
    streets = _read_streets(graph, length)
    names, columns = _read_features(streets, features)
    if columns is None:
        raise ValueError("features is empty: name the attributes of the streets that are features")
    has_coordinates = all("x" in data and "y" in data for _, data in graph.nodes(data=True))
    return {
        "tail": streets.tail,
        "head": streets.head,
        "features": columns,
        "n_states": len(streets.nodes),
        "feature_names": names,
        "length": streets.length,
        "coordinates": _read_coordinates(graph, streets.nodes) if has_coordinates else None,
        "labels": streets.nodes,
    }


def _read_streets(graph: Any, length: str | None) -> Streets:
    if not (hasattr(graph, "is_multigraph") and hasattr(graph, "edges")):
        raise ValueError(f"a networkx graph is needed, got {type(graph).__name__}")
    nodes = list(graph.nodes)
    keyed = {"keys": True} if graph.is_multigraph() else {}
    found = {tuple(street[:-1]): street[-1] for street in graph.edges(data=True, **keyed)}
    if not graph.is_directed():
        found |= {(label[1], label[0], *label[2:]): data for label, data in found.items()}
    if not found:
        raise ValueError("the graph has no edges")
    number = {node: i for i, node in enumerate(nodes)}
    labels, data = list(found), list(found.values())
    lengths = [1.0 if length is None else _number(length, _attribute(length, *street), street[0]) for street in found.items()]
    for label, value in zip(labels, lengths, strict=True):
        if not value > 0:
            raise ValueError(f"{length!r} of street {label!r} must be positive, got {value}")
    tail, head = (np.array([number[label[end]] for label in labels], dtype=np.int64) for end in (0, 1))
    return Streets(nodes, labels, data, tail, head, np.array(lengths))


def _read_features(streets: Streets, features: Sequence[str] | Mapping[str, str]) -> tuple[list[str], csr_array | None]:
    """The names (K,) and values (streets, K) of the attributes' features."""
    if isinstance(features, str):
        raise ValueError(f"features must be a list of attributes, got {features!r}: write [{features!r}]")
    kinds = features if isinstance(features, Mapping) else dict.fromkeys(features)
    names: list[str] = []
    columns: list[csr_array] = []
    for attribute, kind in kinds.items():
        if kind not in (None, "number", "category"):
            raise ValueError(f"features[{attribute!r}] must be 'number' or 'category', got {kind!r}")
        values = [_attribute(attribute, label, data) for label, data in zip(streets.labels, streets.data, strict=True)]
        if kind == "number" or (kind is None and all(_is_number(value) for value in values)):
            numbers = [_number(attribute, value, label) for value, label in zip(values, streets.labels, strict=True)]
            names.append(attribute)
            columns.append(csr_array(np.array(numbers)[:, None]))
        else:
            categories, shares = _category_lengths(values, streets.length)
            names += [f"{attribute}={category}" for category in categories]
            columns.append(shares)
    return names, hstack(columns, format="csr") if columns else None


def _category_lengths(values: Sequence[Any], length: Array) -> tuple[list[str], csr_array]:
    """The categories (C,) in alphabetical order, and the length (streets, C) in each."""
    several = [value if isinstance(value, list) else [value] for value in values]
    categories = sorted({str(category) for value in several for category in value})
    number = {category: i for i, category in enumerate(categories)}
    rows = np.repeat(np.arange(len(several)), [len(value) for value in several])
    columns = [number[str(category)] for value in several for category in value]
    parts = (length / [len(value) for value in several])[rows]
    # equal categories of one list are summed
    return categories, csr_array((parts, (rows, columns)), shape=(len(several), len(categories)))


def _attribute(name: str, label: tuple[Hashable, ...], data: Mapping[str, Any]) -> Any:
    """An attribute of a street; lists that a GraphML file holds as text are lists again."""
    value = data.get(name)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            pass
    if isinstance(value, (list, tuple, set)):
        value = sorted(value, key=str)
    if value is None or (isinstance(value, float) and np.isnan(value)) or value == []:
        raise ValueError(
            f"street {label!r} has no {name!r} (it is {value!r}), and missing is not 0: fill it in, for instance with "
            f"networkx.set_edge_attributes, or leave the attribute out; it has {', '.join(map(str, data)) or 'none'}"
        )
    return value


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, list) and np.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _number(name: str, value: Any, label: tuple[Hashable, ...]) -> float:
    if not _is_number(value):
        raise ValueError(f"{name!r} of street {label!r} must be a finite number, got {value!r}")
    return float(value)


def _read_coordinates(graph: Any, nodes: Sequence[Hashable]) -> Array:
    """(nodes, 2): x and y as they are."""
    xy = np.empty((len(nodes), 2))
    for i, node in enumerate(nodes):
        for axis, name in enumerate("xy"):
            value = graph.nodes[node].get(name)
            if not _is_number(value):
                raise ValueError(
                    f"node {node!r} needs a finite coordinate {name!r}, got {value!r}: without it, use turns=False"
                )
            xy[i, axis] = float(value)
    return xy


def _planar(graph: Any, xy: Array) -> Array:
    """Coordinates whose axes have one unit: degrees of longitude are shorter than those of latitude."""
    if "4326" in str(graph.graph.get("crs", "")):
        return xy * [np.cos(np.radians(xy[:, 1].mean())), 1.0]
    return xy
