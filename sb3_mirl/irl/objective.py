"""The likelihood of paths under the model, its gradient (Eq. 6), and its Hessian."""

import numpy as np
from numpy.typing import NDArray

from sb3_mirl.irl.cache import in_threads
from sb3_mirl.irl.destination_graphs import DestinationGraph, Graphs
from sb3_mirl.irl.divergence import finite_passes
from sb3_mirl.irl.network import Array, RoadNetwork, add_up
from sb3_mirl.irl.passes import Diverging, Passes
from sb3_mirl.irl.trips import Group, Trips

_NEGLECTED = 1e-12  # share of the paths that a gradient leaves out: most of a large network is hardly ever visited


class RouteLikelihood:
    """The mean log likelihood of paths,

        L(theta) = mean_i [ theta . f_i - log z_{o_i}^{d_i} ],   grad L = f~ - mean_d F^T x^(d),

    x^(d) the expected traversals by all paths to d: one backward and one forward pass for each different destination,
    destinations in parallel.

    :param trips: the paths
    :param graphs: of their network
    :param log_reference: (E,) log rho of a policy that the model is the deviation from, or None
    :param n_jobs: threads; by default one for each usable core
    :raises ValueError: a path is outside the horizon, the detours or the reference policy
    """

    def __init__(
        self, network: RoadNetwork, trips: Trips, graphs: Graphs, log_reference: Array | None, n_jobs: int | None = None
    ) -> None:
        self.network, self.graphs, self.n_jobs = network, graphs, n_jobs
        self.log_reference = np.zeros(network.n_edges) if log_reference is None else log_reference
        self.groups = trips.groups()
        self.total = float(trips.weights.sum())
        self.mean_edges = float(np.average(np.diff(trips.starts), weights=trips.weights))
        lengths = trips.sums(network.length)
        for destination, chosen in trips.by_destination():
            graphs.note_origins(destination, trips.origins[chosen], within=float(lengths[chosen].max()))
            for i in chosen:
                self._check_inside(graphs.to(destination), int(i), trips.along(i))

    def rewards(self, weights: Array) -> Array:
        """(E,): r_e."""
        return self.network.rewards(weights) + self.log_reference

    def value_and_gradient(self, weights: Array, group: int | None = None) -> tuple[float, Array]:
        """L and its gradient (K,); -inf where the partition function is infinite.

        :param group: count only the paths of one of ``groups``, which are those to one destination
        """
        rewards, groups = self.rewards(weights), self.groups if group is None else [self.groups[group]]
        nowhere = -np.inf, np.zeros(self.network.n_features)
        if not (np.isfinite(rewards) | np.isneginf(self.log_reference)).all():
            return nowhere
        value, surplus, total = 0.0, np.zeros(self.network.n_edges), 0.0
        try:
            # a graph's result is added up before the next one comes, so that none is kept
            for log_z, graph, flow in in_threads(lambda group: self._pass(group, rewards), groups, self.n_jobs):
                value -= log_z
                graph.add_to(surplus, -flow)
        except Diverging:
            return nowhere
        for each in groups:
            value += float(each.edge_counts @ rewards[each.edges])
            surplus[each.edges] += each.edge_counts
            total += float(each.weights.sum())
        return value / total, self.network.feature_counts(surplus) / total

    def information(self, weights: Array) -> Array:
        """(K, K): minus the Hessian of L, the mean covariance of a path's feature counts."""
        rewards, features = self.rewards(weights), self.network.features
        dense = features if isinstance(features, np.ndarray) else features.toarray()
        dense.setflags(write=False)

        def covariance(group: Group) -> Array:
            passes = Passes(self.graphs.to(group.destination), rewards)
            return passes.feature_covariance(dense, _mass(passes.graph, group))

        result = np.zeros((self.network.n_features,) * 2)
        for part in in_threads(covariance, self.groups, self.n_jobs):
            result += part
        return result / self.total

    def check_finite(self, weights: Array) -> None:
        """Look whether a fit may begin at these weights.

        :raises PartitionDiverges: the partition function is infinite at ``weights``
        """
        for group in self.groups:
            finite_passes(self.network, self.graphs.to(group.destination), self.rewards(weights))

    def _pass(self, group: Group, rewards: Array) -> tuple[float, DestinationGraph, Array]:
        passes = Passes(self.graphs.to(group.destination), rewards)
        mass = _mass(passes.graph, group)
        return float(mass @ np.where(mass > 0, passes.log_z, 0)), passes.graph, passes.edge_flows(mass, _NEGLECTED)

    def _check_inside(self, graph: DestinationGraph, path: int, edges: NDArray[np.int64]) -> None:
        tails, horizon = self.network.tail[edges], self.graphs.horizon
        for j in np.flatnonzero(np.isneginf(self.log_reference[edges])):
            raise ValueError(
                f"step {j} of path {path}, {self.network.name_edge(edges[j])}, has probability 0 in the reference: "
                "give it some, or leave the path out"
            )
        if horizon is not None and len(edges) > horizon:
            raise ValueError(
                f"path {path} has {len(edges)} edges, more than horizon={horizon}: raise it, or leave the path out"
            )
        for j in np.flatnonzero(graph.node[-1][tails] < 0):
            raise ValueError(
                f"path {path} leaves what max_detour={self.graphs.max_detour} allows at step {j}, at "
                f"{self.network.name_state(tails[j])}: raise it, or leave the path out"
            )


def _mass(graph: DestinationGraph, group: Group) -> Array:
    """(n,): the sum of the weights of the paths that begin at each node."""
    return add_up(graph.nodes(group.origins), group.weights, graph.n_nodes)
