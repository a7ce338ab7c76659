"""The likelihood of paths under the model, its gradient (Eq. 6), and its Hessian."""

import numpy as np
from numpy.typing import NDArray

from sb3_mirl.irl.cache import in_threads
from sb3_mirl.irl.destination_graphs import DestinationGraph, Graphs
from sb3_mirl.irl.distribution import inside
from sb3_mirl.irl.divergence import explain
from sb3_mirl.irl.linear import Diverging
from sb3_mirl.irl.network import Array, RoadNetwork, add_up
from sb3_mirl.irl.passes import Passes
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
        self.network, self.graphs, self.log_reference, self.n_jobs = network, graphs, log_reference, n_jobs
        self.total = float(trips.weights.sum())
        self.edge_counts = trips.edge_counts(network.n_edges) / self.total
        self.mean_edges = float(self.edge_counts.sum())
        lengths = trips.sums(network.length)
        self.groups = trips.groups()
        for destination, chosen in trips.by_destination():
            graphs.note_origins(destination, trips.origins[chosen], within=float(lengths[chosen].max()))
        self._check_inside(trips)

    def rewards(self, weights: Array) -> Array:
        """(E,): r_e."""
        rewards = self.network.rewards(weights)
        return rewards if self.log_reference is None else rewards + self.log_reference

    def value_and_gradient(self, weights: Array) -> tuple[float, Array]:
        """L and its gradient (K,); -inf where the partition function is infinite."""
        rewards = self.rewards(weights)
        if not self._usable(rewards):
            return -np.inf, np.zeros(self.network.n_features)
        log_z, flows = 0.0, np.zeros(self.network.n_edges)
        try:
            # a graph's result is added up before the next one comes, so that none is kept
            for part, graph, flow, loop_flow in in_threads(lambda group: self._pass(group, rewards), self.groups, self.n_jobs):
                log_z += part
                graph.add_to(flows, flow, loop_flow)
        except Diverging:
            return -np.inf, np.zeros(self.network.n_features)
        value = _dot(self.edge_counts, rewards) - log_z / self.total
        return value, self.network.feature_counts(self.edge_counts - flows / self.total)

    def group_gradient(self, number: int, weights: Array) -> tuple[float, Array]:
        """L and its gradient (K,) for the paths to one destination only."""
        group, rewards = self.groups[number], self.rewards(weights)
        total, nothing = group.weights.sum(), np.zeros(self.network.n_features)
        if not total or not self._usable(rewards):
            return (-np.inf if total else 0.0), nothing
        try:
            log_z, graph, flow, loop_flow = self._pass(group, rewards)
        except Diverging:
            return -np.inf, nothing
        flows = np.zeros(self.network.n_edges)
        graph.add_to(flows, flow, loop_flow)
        value = _dot(group.edge_counts, rewards[group.edges]) - log_z
        np.subtract.at(flows, group.edges, group.edge_counts)
        return value / total, self.network.feature_counts(-flows / total)

    def information(self, weights: Array) -> Array:
        """(K, K): minus the Hessian of L, the mean covariance of a path's feature counts."""
        rewards = self.rewards(weights)
        features = self.network.features
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
        rewards = self.rewards(weights)
        for group in self.groups:
            graph = self.graphs.to(group.destination)
            try:
                Passes(graph, rewards)
            except Diverging as diverging:
                raise explain(self.network, graph, rewards, diverging.value) from None

    def _usable(self, rewards: Array) -> bool:
        """Whether the rewards are floats, where the reference leaves any."""
        closed = False if self.log_reference is None else np.isneginf(self.log_reference)
        return bool((np.isfinite(rewards) | closed).all())

    def _pass(self, group: Group, rewards: Array) -> tuple[float, DestinationGraph, Array, Array | None]:
        passes = Passes(self.graphs.to(group.destination), rewards)
        mass = _mass(passes.graph, group)
        return float(mass @ np.where(mass > 0, passes.log_z, 0)), passes.graph, *passes.edge_flows(mass, _NEGLECTED)

    def _check_inside(self, trips: Trips) -> None:
        for destination, chosen in trips.by_destination():
            graph = self.graphs.to(destination)
            for i in chosen:
                edges = trips.along(i)
                if self.log_reference is not None:
                    for j in np.flatnonzero(np.isneginf(self.log_reference[edges])):
                        raise ValueError(
                            f"step {j} of path {i}, {self.network.name_edge(edges[j])}, has probability 0 in the reference: "
                            "give it some, or leave the path out"
                        )
                if not inside(graph, self.network.tail[edges]):
                    raise ValueError(self._outside(graph, int(i), edges))

    def _outside(self, graph: DestinationGraph, path: int, edges: NDArray[np.int64]) -> str:
        if self.graphs.horizon is not None and len(edges) > self.graphs.horizon:
            return (
                f"path {path} has {len(edges)} edges, more than horizon={self.graphs.horizon}: raise it, or leave the path out"
            )
        step = int(np.flatnonzero(graph.node[-1][self.network.tail[edges]] < 0)[0])
        return (
            f"path {path} leaves what max_detour={self.graphs.max_detour} allows at step {step}, at "
            f"{self.network.name_state(self.network.tail[edges[step]])}: raise it, or leave the path out"
        )


def _mass(graph: DestinationGraph, group: Group) -> Array:
    """(n,): the sum of the weights of the paths that begin at each node."""
    return add_up(graph.nodes(group.origins), group.weights, graph.n_nodes)


def _dot(counts: Array, rewards: Array) -> float:
    """The sum of rewards by counts; what is not counted may be -inf."""
    there = counts > 0
    return float(counts[there] @ rewards[there])
