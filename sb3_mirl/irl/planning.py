"""What follows from given rewards for each destination: the best paths, and the distribution over paths."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_mirl.irl import kernels
from sb3_mirl.irl.cache import Cache
from sb3_mirl.irl.destination_graphs import DestinationGraph, Graphs
from sb3_mirl.irl.divergence import finite_passes
from sb3_mirl.irl.network import Array, RoadNetwork
from sb3_mirl.irl.passes import Passes
from sb3_mirl.irl.trips import States


class NoBestPath(ValueError):
    """The rewards along a cycle sum to more than 0: the longer, the better."""


@dataclass
class BestPaths:
    """The path of largest reward from each node of ``graph``, for rewards (m,) of which no cycle's sum is positive.

    ``value`` (n,) is the path's reward, ``choice`` (n,) its first edge, -1 for the destination.

    :raises NoBestPath: a cycle's rewards sum to more than 0
    """

    graph: DestinationGraph
    reward: Array
    value: Array = field(init=False)
    choice: kernels.Starts = field(init=False)

    def __post_init__(self) -> None:
        n = self.graph.n_nodes
        self.value, self.choice = np.full(n, -np.inf), np.full(n, -1, dtype=np.int64)
        self.value[0] = 0.0
        if not kernels.best_paths(self.graph.start, self.graph.head, self.reward, self.value, self.choice, n + 1):
            raise NoBestPath(
                f"no path to destination {self.graph.destination} is the best: the rewards along a cycle sum to more than 0"
            )

    def path(self, node: int) -> States:
        """The states of the path from a node."""
        nodes = [node]
        while nodes[-1] != 0:
            nodes.append(int(self.graph.head[self.choice[nodes[-1]]]))
        return self.graph.state[nodes].astype(np.int64)


class Solutions:
    """Keeps what was computed for each destination.

    :param network: the network
    :param rewards: (E,) r_e
    :param graphs: of the same network
    """

    def __init__(self, network: RoadNetwork, rewards: Array, graphs: Graphs) -> None:
        self.network, self.rewards, self.graphs = network, rewards, graphs
        self._kept: Cache[tuple[type, DestinationGraph], Any] = Cache(2**27)

    def passes(self, destination: int, origins: Iterable[int] = ()) -> Passes:
        """The passes of a destination.

        :param origins: which the detours' limit must allow for
        :raises PartitionDiverges: the partition function is infinite
        """
        graph = self.graphs.to(destination, origins)
        passes: Passes = self._kept.get((Passes, graph), lambda: finite_passes(self.network, graph, self.rewards))
        return passes

    def passes_from(self, origin: int, destination: int) -> tuple[Passes, int]:
        """The passes of a destination, and the node of an origin.

        :raises ValueError: the destination is out of reach
        """
        passes = self.passes(destination, [origin])
        return passes, origin_node(self.network, passes.graph, origin)

    def best_path(self, origin: int, destination: int) -> States:
        """The states of the path of largest reward.

        :raises ValueError: the destination is out of reach, or there is no best path
        """
        graph = self.graphs.to(destination, [origin])
        best: BestPaths = self._kept.get((BestPaths, graph), lambda: BestPaths(graph, self.rewards[graph.edge]))
        return best.path(origin_node(self.network, graph, origin))


def origin_node(network: RoadNetwork, graph: DestinationGraph, origin: int) -> int:
    """The node of an origin.

    :raises ValueError: the destination is out of its reach
    """
    node = int(graph.nodes(origin))
    if node < 0:
        within = "" if len(graph.node) == 1 else f" within {len(graph.node) - 1} edges"
        raise ValueError(
            f"destination {network.name_state(graph.destination)} is out of reach of origin {network.name_state(origin)}"
            f"{within}: no path joins them"
        )
    return node
