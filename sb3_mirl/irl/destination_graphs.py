"""The part of a network that leads to one destination, in the order in which it is computed.

Nothing here depends on the weights, so that it is built once for all gradients of a fit. States are numbered by their
reference distance to the destination (Dijkstra's algorithm): what is computed from near to far finds most of what it needs
done. A horizon unfolds the graph in the number of edges to go.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from sb3_mirl.irl import kernels
from sb3_mirl.irl.cache import Cache
from sb3_mirl.irl.network import Array, RoadNetwork


@dataclass(frozen=True, eq=False)
class DestinationGraph:
    """What leads to one destination, numbered from near to far; it depends on no weight.

    ``start``, ``head`` and ``edge`` as in ``kernels``. ``state`` (n,) is the network's number of each node, ``node`` (L, S)
    the node of each state or -1; L is 1 or, with a horizon H, H + 1: ``node[t]`` are the nodes with t edges to go.
    """

    destination: int
    start: kernels.Starts
    head: kernels.Ints
    edge: kernels.Ints
    state: kernels.Ints
    node: NDArray[np.int32]

    @property
    def n_nodes(self) -> int:
        """n."""
        return len(self.state)

    @property
    def tails(self) -> NDArray[np.int64]:
        """(m,): the node that each edge leaves."""
        return self.at_tails(np.arange(self.n_nodes))

    def at_tails(self, values: Any) -> Any:
        """(m,): the value of nodes (n,) at the tail of each edge."""
        return np.repeat(values, np.diff(self.start))

    def nodes(self, states: Any, travelled: Any = 0) -> NDArray[np.int64]:
        """The nodes of ``states`` after ``travelled`` edges, -1 for those that do not lead to the destination."""
        if len(self.node) == 1:
            return self.node[0][states].astype(np.int64)
        left = len(self.node) - 1 - np.asarray(travelled)
        return np.where(left >= 0, self.node[np.maximum(left, 0), states], -1).astype(np.int64)

    def contains(self, tails: NDArray[np.int64]) -> bool:
        """Whether a path that leaves ``tails`` one after the other is among those of the graph."""
        return bool((self.nodes(tails, np.arange(len(tails))) >= 0).all())

    def add_to(self, total: Array, flow: Array) -> None:
        """Add flows along the graph's edges (m,) to those of the network's edges (E,), in place."""
        kernels.scatter(self.edge, flow, total)  # with a horizon an edge is there many times


class Graphs:
    """Builds and keeps the destinations' graphs of a network.

    :param network: the network
    :param allowed: (E,) which edges exist; None for all
    :param horizon: the largest number of edges of a path; None for no limit
    :param max_detour: keep the states within 1 + ``max_detour`` times the farthest origin's distance; None for all
    :param capacity: bytes of graphs to keep
    """

    def __init__(
        self,
        network: RoadNetwork,
        allowed: NDArray[np.bool_] | None = None,
        horizon: int | None = None,
        max_detour: float | None = None,
        capacity: int = 2**28,
    ) -> None:
        self.network, self.horizon, self.max_detour = network, horizon, max_detour
        order, starts = network.out_edges
        if allowed is not None and not allowed.all():
            kept = allowed[order]
            starts = np.concatenate([[0], np.cumsum(kept)])[starts]
            order = order[kept]
        self._edges, self._starts = order, starts
        self._heads = network.head[order].astype(np.int32)
        shape = (network.n_states, network.n_states)
        # of a transposed CSR the columns are the rows: distances to the destination become distances from it
        self._reversed = csr_array((network.length[order], self._heads, starts), shape=shape).T.tocsr()
        self.farthest = np.zeros(network.n_states)  # by destination, 0 where no origin was noted
        self._kept: Cache[tuple[int, float], DestinationGraph] = Cache(capacity)
        self._distances: Cache[int, Array] = Cache(capacity // 4)

    def distances(self, destination: int, limit: float = np.inf) -> Array:
        """(S,): the reference distance of each state to the destination; infinite beyond ``limit`` or out of reach."""
        return np.asarray(dijkstra(self._reversed, indices=destination, limit=limit))

    def note_origins(self, destination: int, origins: Any, within: float) -> None:
        """Keep the states that detours from these origins may use from now on.

        :param origins: states
        :param within: an upper bound of their distances, which saves time
        """
        if self.max_detour is not None:
            reach = _farthest(self.distances(destination, within * (1 + 1e-9))[origins])
            self.farthest[destination] = max(reach, self.farthest[destination])

    def to(self, destination: int, origins: Iterable[int] = ()) -> DestinationGraph:
        """The graph of a destination; with ``max_detour``, of the noted origins and these, or of all if there are none."""
        limit, origins = np.inf, list(origins)
        if self.max_detour is not None and (origins or self.farthest[destination]):
            reach = self.farthest[destination]
            if origins:
                distances = self._distances.get(destination, lambda: self.distances(destination))
                reach = max(reach, _farthest(distances[origins]))
            limit = (1 + self.max_detour) * float(reach)
        return self._kept.get((destination, limit), lambda: self._build(destination, limit))

    def _build(self, destination: int, limit: float) -> DestinationGraph:
        distances = self.distances(destination, limit)
        inside = np.flatnonzero(np.isfinite(distances))
        order = inside[np.argsort(distances[inside], kind="stable")].astype(np.int32)
        index = np.full(self.network.n_states, -1, dtype=np.int32)
        index[order] = np.arange(len(order), dtype=np.int32)
        edges = kernels.renumber(order, index, self._starts, self._heads, self._edges)
        graph = DestinationGraph(destination, *edges, order, index[None])
        return graph if self.horizon is None else unfold(graph, self.horizon)


def _farthest(distances: Array) -> float:
    return float(distances[np.isfinite(distances)].max(initial=0.0))


def unfold(graph: DestinationGraph, horizon: int) -> DestinationGraph:
    """The same problem with at most ``horizon`` edges: a node for each state and number of edges to go, and no cycle."""
    n, tails, heads, edges = graph.n_nodes, graph.tails, graph.head, graph.edge
    ones = csr_array((np.ones(len(tails)), (heads, tails)), shape=(n, n))
    hops = dijkstra(ones, indices=0, unweighted=True)  # (n,): the fewest edges to the destination

    states, numbers = [graph.state[:1]], np.full((horizon + 1, n), -1, dtype=np.int32)
    numbers[:, 0] = 0
    start, all_heads, all_edges, n_nodes = [np.zeros(2, dtype=np.int64)], [], [], 1
    for left in range(1, horizon + 1):
        here = np.flatnonzero(hops[1:] <= left) + 1
        numbers[left, here] = n_nodes + np.arange(len(here))
        there = (hops[tails] <= left) & (numbers[left - 1, heads] >= 0)
        counts = np.bincount(tails[there], minlength=n)[here]
        start.append(start[-1][-1] + np.cumsum(counts))
        all_heads.append(numbers[left - 1, heads[there]])
        all_edges.append(edges[there])
        states.append(graph.state[here])
        n_nodes += len(here)
    node = np.full((horizon + 1, graph.node.shape[1]), -1, dtype=np.int32)
    node[:, graph.state] = numbers
    empty = np.zeros(0, dtype=np.int32)
    return DestinationGraph(
        destination=graph.destination,
        start=np.concatenate(start),
        head=np.concatenate([empty, *all_heads]).astype(np.int32),
        edge=np.concatenate([empty, *all_edges]).astype(np.int32),
        state=np.concatenate(states),
        node=node,
    )
