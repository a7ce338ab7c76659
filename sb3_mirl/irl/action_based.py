"""The action-based model's probabilities, and the likelihood of paths under it.

    Q*_e = r_e + V*_v,  V*_u = max_e Q*_e,  P(e|u) = exp(Q*_e) / sum exp(Q*)                              (Eq. 7)

dQ*_e is psi_e, the features along the best path that begins with e; the gradient of sum_e n_e log P(e|u) is sum_e a_e psi_e
with a_e = n_e - n_u P(e|u), which is found by sending a_e down the tree of best paths.
"""

from dataclasses import dataclass

import numpy as np

from sb3_mirl.irl.cache import Cache, in_threads
from sb3_mirl.irl.destination_graphs import DestinationGraph, Graphs
from sb3_mirl.irl.linear import forward
from sb3_mirl.irl.network import Array, RoadNetwork, add_up
from sb3_mirl.irl.planning import BestPaths, NoBestPath, origin_node
from sb3_mirl.irl.trips import Group, States, Trips


@dataclass
class _Choices:
    """Of one destination: best paths, log P(e|u) of the edges (m,) and of the loops (n,), -inf where there is none."""

    best: BestPaths
    log_probability: Array
    loop_log_probability: Array
    most_probable: BestPaths | None = None

    @property
    def graph(self) -> DestinationGraph:
        return self.best.graph

    @property
    def nbytes(self) -> int:
        return 2 * self.best.nbytes + self.log_probability.nbytes + self.loop_log_probability.nbytes


class ActionLikelihood:
    """Probabilities of edges one by one.

    :param graphs: of the network
    :param n_jobs: threads; by default one for each usable core
    """

    def __init__(self, network: RoadNetwork, graphs: Graphs, n_jobs: int | None) -> None:
        self.network, self.graphs, self.n_jobs = network, graphs, n_jobs
        self._kept: Cache[tuple[int, int], _Choices] = Cache(2**27)  # by destination, and the identity of the rewards

    def value_and_gradient(self, groups: list[Group], weights: Array) -> tuple[float, Array]:
        """The log likelihood and its gradient (K,); -inf where a cycle has a positive reward."""
        rewards = self.network.rewards(weights)
        value, flows = 0.0, np.zeros(self.network.n_edges)
        try:
            for part, choices, flow, loop_flow in in_threads(lambda g: self._group(g, rewards), groups, self.n_jobs):
                value += part
                choices.graph.add_to(flows, flow, loop_flow)
        except NoBestPath:
            return -np.inf, np.zeros(self.network.n_features)
        return value, self.network.feature_counts(flows)

    def log_probability(self, rewards: Array, trips: Trips) -> Array:
        """(N,): log P of each path."""
        result = np.empty(len(trips))
        for destination, chosen in trips.by_destination():
            choices = self._choices(destination, rewards)
            values = self._on_network(choices)
            for i in chosen:
                result[i] = values[trips.along(i)].sum()
        return result

    def most_probable(self, rewards: Array, origin: int, destination: int) -> States:
        """The states of the path of least -log P."""
        choices = self._choices(destination, rewards)
        if choices.most_probable is None:
            choices.most_probable = BestPaths(choices.graph, choices.log_probability)
        return choices.most_probable.path(origin_node(self.network, choices.graph, origin))

    def _choices(self, destination: int, rewards: Array) -> _Choices:
        key = destination, hash(rewards.tobytes())
        choices = self._kept.get(key)
        if choices is None:
            choices = self._solve(self.graphs.to(destination), rewards)
            self._kept.put(key, choices)
        return choices

    def _solve(self, graph: DestinationGraph, rewards: Array) -> _Choices:
        best = BestPaths(graph, graph.local(rewards))
        tails, loops = graph.tails, np.flatnonzero(graph.loop >= 0)
        advantage = best.reward + best.value[graph.head] - best.value[tails]  # (m,) not above 0
        total = add_up(tails, np.exp(advantage), graph.n_nodes)
        total[0] = 1
        loop_rewards = np.full(graph.n_nodes, -np.inf)
        loop_rewards[loops] = rewards[graph.loop[loops]]
        if (loop_rewards > 0).any():
            raise NoBestPath(
                f"no path to destination {graph.destination} is the best: an edge from a state to itself has a reward above 0"
            )
        total += np.exp(loop_rewards)
        return _Choices(best, advantage - np.log(total)[tails], loop_rewards - np.log(total))

    def _on_network(self, choices: _Choices) -> Array:
        """(E,): log P, -inf on edges that do not lead to the destination."""
        graph = choices.graph
        values = np.full(self.network.n_edges, -np.inf)
        values[graph.edge] = choices.log_probability
        loops = graph.loop >= 0
        values[graph.loop[loops]] = choices.loop_log_probability[loops]
        return values

    def _group(self, group: Group, rewards: Array) -> tuple[float, _Choices, Array, Array | None]:
        """Log likelihood of a group, its choices, and the flows that have the gradient as their feature counts."""
        choices = self._solve(self.graphs.to(group.destination), rewards)
        graph = choices.graph
        counts = np.zeros(self.network.n_edges)
        counts[group.edges] = group.edge_counts
        value = float(group.edge_counts @ self._on_network(choices)[group.edges])
        own, loop_own = counts[graph.edge], np.where(graph.loop >= 0, counts[graph.loop], 0.0)
        departures = add_up(graph.tails, own, graph.n_nodes) + loop_own
        a = own - departures[graph.tails] * np.exp(choices.log_probability)
        loop_a = loop_own - departures * np.exp(choices.loop_log_probability)
        mass = add_up(graph.head, a, graph.n_nodes) + loop_a
        along = np.zeros(len(graph.head))
        along[choices.best.choice[1:]] = 1.0
        visits = forward(graph, along, mass)
        a[choices.best.choice[1:]] += visits[1:]
        return value, choices, a, loop_a if graph.has_loops else None
