"""The distribution over paths at given rewards, asked one destination at a time."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_mirl.irl import kernels
from sb3_mirl.irl.cache import Cache, in_threads
from sb3_mirl.irl.destination_graphs import DestinationGraph, Graphs
from sb3_mirl.irl.divergence import explain
from sb3_mirl.irl.linear import Diverging, forward
from sb3_mirl.irl.network import Array, RoadNetwork, add_up
from sb3_mirl.irl.passes import Passes
from sb3_mirl.irl.planning import BestPaths, origin_node
from sb3_mirl.irl.trips import States, Trips


@dataclass
class _Solved:
    """What was computed for a destination."""

    passes: Passes
    best: BestPaths | None = None

    @property
    def nbytes(self) -> int:
        return self.passes.nbytes + self.passes.graph.nbytes


class PathDistribution:
    """P(path | origin, destination) = exp(sum r_e) / z (Eq. 2).

    :param network: the network
    :param rewards: (E,) r_e
    :param graphs: of the same network
    :param n_jobs: threads; by default one for each usable core
    :param capacity: bytes of results to keep
    """

    def __init__(
        self, network: RoadNetwork, rewards: Array, graphs: Graphs, n_jobs: int | None = None, capacity: int = 2**27
    ) -> None:
        self.network, self.rewards, self.graphs, self.n_jobs = network, rewards, graphs, n_jobs
        # by the identity of the graph, which the entry keeps alive
        self._kept: Cache[int, _Solved] = Cache(capacity)

    def _solve(self, graph: DestinationGraph) -> _Solved:
        solved = self._kept.get(id(graph))
        if solved is None:
            try:
                solved = _Solved(Passes(graph, self.rewards))
            except Diverging as diverging:
                raise explain(self.network, graph, self.rewards, diverging.value) from None
            self._kept.put(id(graph), solved)
        return solved

    def passes(self, destination: int, origins: Iterable[int] = ()) -> Passes:
        """The passes of a destination.

        :param origins: which the detours' limit must allow for
        :raises PartitionDiverges: the partition function is infinite
        """
        return self._solve(self.graphs.to(destination, origins)).passes

    def from_to(self, origin: int, destination: int) -> tuple[Passes, int]:
        """The passes of a destination, and the node of an origin.

        :raises ValueError: the destination is out of reach
        """
        passes = self.passes(destination, [origin])
        return passes, origin_node(self.network, passes.graph, origin)

    def log_partition(self, destination: int) -> Array:
        """(S,): log z, -inf where the destination is out of reach."""
        return self.passes(destination).log_partition(np.arange(self.network.n_states))

    def action_probabilities(self, destination: int) -> Array:
        """(E,): P(e|u), 0 where the destination is out of reach."""
        passes = self.passes(destination)
        graph = passes.graph
        result = np.zeros(self.network.n_edges)
        if self.graphs.horizon is None:
            graph.add_to(result, passes.actual_probability(), passes.looping)
        else:  # with all edges still to go
            first = np.zeros(graph.n_nodes)
            last = graph.node[-1]
            first[last[last > 0]] = 1
            graph.add_to(result, passes.probability * np.repeat(first, np.diff(graph.start)))
        return result

    def log_probability(self, trips: Trips) -> Array:
        """(N,): log P(path | origin, destination); -inf for a path outside the horizon or the detours."""
        result = trips.sums(self.rewards)

        def log_z(group: tuple[int, NDArray[np.int64]]) -> tuple[NDArray[np.int64], Array]:
            destination, chosen = group
            passes = self.passes(destination, np.unique(trips.origins[chosen]).tolist())
            possible = [inside(passes.graph, self.network.tail[trips.along(i)]) for i in chosen]
            return chosen, np.where(possible, passes.log_partition(trips.origins[chosen]), np.inf)

        for chosen, values in in_threads(log_z, trips.by_destination(), self.n_jobs):
            result[chosen] -= values
        return result

    def most_probable(self, origin: int, destination: int) -> States:
        """The most probable path."""
        passes, node = self.from_to(origin, destination)
        solved = self._solve(passes.graph)
        if solved.best is None:
            solved.best = BestPaths(passes.graph, passes.graph.local(self.rewards))
        return solved.best.path(node)

    def sample(self, origin: int, destination: int, n: int, generator: np.random.Generator) -> list[States]:
        """``n`` paths drawn from the distribution."""
        passes, node = self.from_to(origin, destination)
        graph = passes.graph
        nodes, ends = kernels.walk(graph.start, graph.head, passes.probability, passes.looping, node, n, generator)
        return [path.astype(np.int64) for path in np.split(graph.state[nodes], ends[:-1])]

    def edge_flows(self, origin: int, destination: int) -> Array:
        """(E,): the expected traversals of each edge."""
        passes, node = self.from_to(origin, destination)
        return self.flows_from(passes, [node], [1.0])

    def flows_from(self, passes: Passes, nodes: "list[int] | NDArray[np.int64]", masses: "list[float] | Array") -> Array:
        """(E,): the expected traversals by paths that begin at ``nodes``."""
        result = np.zeros(self.network.n_edges)
        mass = add_up(nodes, masses, passes.graph.n_nodes)
        passes.graph.add_to(result, *passes.edge_flows(mass))
        return result

    def visit_probability(self, origin: int, destination: int, state: int) -> float:
        """The probability that a path comes by a state: the mass that arrives if the state lets nothing go on."""
        passes, node = self.from_to(origin, destination)
        graph = passes.graph
        there = graph.state == state
        if there[node] or there[0]:
            return 1.0
        stopped = np.where(np.repeat(there, np.diff(graph.start)), 0.0, passes.probability)
        mass = np.zeros(graph.n_nodes)
        mass[node] = 1.0
        return float(min(forward(graph, stopped, mass)[there].sum(), 1.0))


def inside(graph: DestinationGraph, tails: States) -> bool:
    """Whether a path that leaves ``tails`` one after the other is among those of the graph."""
    return bool((graph.nodes(tails, np.arange(len(tails))) >= 0).all())
