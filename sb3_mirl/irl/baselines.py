"""What Table 1 of Ziebart et al. (2008) compares maximum entropy with: paths of least cost, and choices made one by one."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.irl.cache import Cache, in_threads
from sb3_mirl.irl.destination_graphs import Graphs
from sb3_mirl.irl.network import Array, RoadNetwork, add_up
from sb3_mirl.irl.optimise import Progress, minimise
from sb3_mirl.irl.parameters import Parameters
from sb3_mirl.irl.passes import forward
from sb3_mirl.irl.planning import BestPaths, NoBestPath, Solutions, origin_node
from sb3_mirl.irl.trips import Group, States, read_state, read_trips
from sb3_mirl.irl.weights import as_weights, feature_scales, start_weights

Action = TypeVar("Action", bound="ActionBased")

_LEAST = 1e-6  # of the mean cost of an edge: planning takes no edge for less, as there might be cycles for nothing


class _Baseline(Parameters):
    """``predict`` of a model whose paths have the largest reward."""

    network: RoadNetwork
    _solutions: Solutions

    def predict(self, origin: int, destination: int) -> States:
        """Return the states of the path of least cost.

        :raises ValueError: the destination is out of reach
        """
        self._check_fitted("_solutions")
        return self._solutions.best_path(*self._pair(origin, destination))

    def _pair(self, origin: Any, destination: Any) -> tuple[int, int]:
        return read_state(self.network, "origin", origin), read_state(self.network, "destination", destination)

    def _set_costs(self, costs: Array) -> None:
        self._solutions = Solutions(self.network, -costs, Graphs(self.network))


class ShortestPath(_Baseline):
    """The path of least cost for given costs; Table 1's time-based model, if they are travel times.

    :param network: the network
    :param feature: name or number of the feature that is the cost, or costs (E,)
    """

    def __init__(self, network: RoadNetwork, feature: str | int | ArrayLike) -> None:
        self.network, self.feature = network, feature

    def fit(self, paths: Iterable[ArrayLike] | None = None, sample_weight: ArrayLike | None = None) -> "ShortestPath":
        """Do nothing but check the costs: there is nothing to be learned.

        :raises ValueError: a cost is negative or not finite; the edge is named
        """
        if isinstance(self.feature, (str, int, np.integer)):
            column = np.zeros(self.network.n_features)
            column[self.network.feature_index(self.feature)] = 1
            costs = self.network.rewards(column)
        else:
            costs = np.asarray(self.feature, dtype=np.float64)
        if costs.shape != (self.network.n_edges,):
            raise ValueError(f"costs must have the shape ({self.network.n_edges},), got {costs.shape}")
        for edge in np.flatnonzero(~(np.isfinite(costs) & (costs >= 0))):
            raise ValueError(
                f"costs must be finite and not negative, got {costs[edge]} on {self.network.name_edge(int(edge))}"
            )
        self._set_costs(costs)
        return self


class MaxMargin(_Baseline):
    """Maximum margin planning (Ratliff, Bagnell and Zinkevich 2006), by online subgradient descent.

    Costs w . f with which each observed path is cheaper than every other, by a margin that grows with the share of its length
    that they do not share; weights of features that are never negative are kept from falling below 0, and each edge costs
    something. Nothing here is a probability.

    :param network: the network
    :param l2: strength of the penalty l2 / 2 sum (w_k s_k)^2, s_k the root mean square of a feature
    :param rate: of the subgradient's first step, relative to the weights; it falls as 1 / sqrt(step)
    :param epochs: passes through the paths
    :param seed: of the paths' order
    :param verbose: 1 shows progress

    Fitted: ``weights_`` (K,), as rewards: minus the costs, the average over the steps.
    """

    def __init__(
        self,
        network: RoadNetwork,
        l2: float = 1e-3,
        rate: float = 0.05,
        epochs: int = 10,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        self.network, self.l2, self.rate, self.epochs, self.seed, self.verbose = network, l2, rate, epochs, seed, verbose

    def fit(self, paths: Iterable[ArrayLike], sample_weight: ArrayLike | None = None) -> "MaxMargin":
        """Find the costs; an interrupted fit (Ctrl-C) keeps those it has come to.

        :param paths: N sequences of states
        :param sample_weight: (N,)
        :raises ValueError: naming path and step, if a path does not fit the network; or a parameter is outside its range
        """
        check_range("l2", self.l2, 0, np.inf, high_open=True)
        check_range("rate", self.rate, 0, np.inf, low_open=True, high_open=True)
        check_range("epochs", self.epochs, 1, np.inf, whole=True)
        network, trips = self.network, read_trips(self.network, paths, sample_weight)
        graphs, generator = Graphs(network), np.random.default_rng(self.seed)
        scales = feature_scales(network.features)
        cost = -start_weights(network) * scales
        lowest = np.where(_never_negative(network), 0.0, -np.inf)
        step_size = self.rate * float(np.abs(cost).mean())
        shares = trips.weights / trips.weights.mean()
        average = cost.copy()
        order = np.concatenate([generator.permutation(len(trips)) for _ in range(self.epochs)])
        try:
            for step, i in enumerate(tqdm(order, desc="max margin", disable=not self.verbose), start=1):
                edges = trips.along(i)
                graph = graphs.to(int(trips.destinations[i]))
                rewards = self._margin_rewards(cost / scales, edges)
                best = BestPaths(graph, rewards[graph.edge]).path(int(graph.nodes(trips.origins[i])))
                other = network.find_edges(best[:-1], best[1:])
                counts = np.bincount(edges, minlength=network.n_edges) - np.bincount(other, minlength=network.n_edges)
                slope = shares[i] * network.feature_counts(counts.astype(np.float64)) / scales + self.l2 * cost
                cost = np.maximum(cost - step_size / np.sqrt(step) * slope, lowest)
                average += (cost - average) / step
        except KeyboardInterrupt:
            warnings.warn("interrupted: the costs of the steps so far are kept")
        self.weights_ = -average / scales
        costs = -network.rewards(self.weights_)
        self._set_costs(np.maximum(costs, _least(costs)))
        return self

    def _margin_rewards(self, cost: Array, edges: Any) -> Array:
        """(E,): minus (cost - loss); the loss is the share of the path's length, on edges that are not on it."""
        network = self.network
        loss = network.length / network.length[edges].sum()
        if network.segment_length is None:
            loss[edges] = 0
        else:
            loss[np.isin(network.head, network.head[edges])] = 0
        costs = network.rewards(cost)
        return -np.maximum(costs - loss, _least(costs))


class ActionBased(_Baseline):
    """Choices made one by one: P(e|u) proportional to exp Q*(u, e), the reward of the best path that begins with e (Eq. 7).

    Paths compete only with those that leave the same state (label bias). The likelihood is piecewise smooth and not concave.

    :param network: the network
    :param l2: strength of the penalty l2 / 2 sum (theta_k s_k)^2 on the mean log likelihood, s_k the root mean square of a
        feature
    :param initial_weights: (K,), by default where every edge costs something
    :param tolerance: as for ``MaxEntRouteChoice``; the likelihood's kinks may keep the fit from reaching it
    :param max_iterations: of the fit
    :param n_jobs: threads; by default one for each usable core
    :param verbose: 1 shows progress

    Fitted: ``weights_`` (K,), ``log_likelihood_``, the sum over the paths; ``converged_``, ``n_iterations_`` and
    ``feature_gap_``.
    """

    def __init__(
        self,
        network: RoadNetwork,
        l2: float = 0,
        initial_weights: ArrayLike | None = None,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.network, self.l2, self.initial_weights, self.verbose = network, l2, initial_weights, verbose
        self.tolerance, self.max_iterations, self.n_jobs = tolerance, max_iterations, n_jobs

    @classmethod
    def from_weights(cls: type[Action], network: RoadNetwork, weights: ArrayLike, **parameters: Any) -> Action:
        """Return a model of known weights (K,), as if it were fitted."""
        model = cls(network, **parameters)
        model._set_weights(as_weights(network, "weights", weights))
        return model

    def fit(self: Action, paths: Iterable[ArrayLike], sample_weight: ArrayLike | None = None) -> Action:
        """Find weights of large likelihood; an interrupted fit (Ctrl-C) keeps the best ones it has seen.

        :param paths: N sequences of states
        :param sample_weight: (N,)
        :raises ValueError: naming path and step, if a path does not fit the network; or a parameter is outside its range
        """
        check_range("l2", self.l2, 0, np.inf, high_open=True)
        check_range("tolerance", self.tolerance, 0, np.inf, low_open=True, high_open=True)
        check_range("max_iterations", self.max_iterations, 1, np.inf, whole=True)
        trips, scales = read_trips(self.network, paths, sample_weight), feature_scales(self.network.features)
        graphs, groups, total = Graphs(self.network), trips.groups(), float(trips.weights.sum())

        def function(x: Array) -> tuple[float, Array]:
            value, gradient = choice_likelihood(self.network, graphs, groups, x / scales, self.n_jobs)
            return -value / total + self.l2 / 2 * float(x @ x), self.l2 * x - gradient / scales / total

        if self.initial_weights is None:
            start = start_weights(self.network)
        else:
            start = as_weights(self.network, "initial_weights", self.initial_weights)
        with Progress("action", self.verbose) as progress:
            minimum = minimise(function, start * scales, None, 0.0, self.tolerance, self.max_iterations, progress)
        if minimum.interrupted:
            minimum.warn(self.tolerance, "")
        self._set_weights(minimum.x / scales)
        self.log_likelihood_ = total * (self.l2 / 2 * float(minimum.x @ minimum.x) - minimum.value)
        self.converged_, self.n_iterations_ = minimum.converged, minimum.n_iterations
        self.feature_gap_ = minimum.gap
        return self

    def predict(self, origin: int, destination: int, path: Literal["probable", "cheapest"] = "probable") -> States:
        """Return the states of the most probable path, or of the cheapest one at the learned costs ("Action (costs)").

        :raises ValueError: the destination is out of reach
        """
        check_choice("path", path, ("probable", "cheapest"))
        if path == "cheapest":
            return super().predict(origin, destination)
        self._check_fitted()
        origin, destination = self._pair(origin, destination)
        best = self._most_probable.get(destination, lambda: self._make_most_probable(destination))
        return best.path(origin_node(self.network, best.graph, origin))

    def log_probability(self, paths: Iterable[ArrayLike]) -> Array:
        """(N,): log P(path | origin, destination).

        :raises ValueError: naming path and step, if a path does not fit the network
        """
        self._check_fitted()
        trips = read_trips(self.network, paths)
        result = np.empty(len(trips))
        for destination, chosen in trips.by_destination():
            values = self._choices(destination).on_network(self.network.n_edges)
            result[chosen] = [values[trips.along(i)].sum() for i in chosen]
        return result

    def score(self, paths: Iterable[ArrayLike]) -> float:
        """Return the mean log probability of paths."""
        return float(self.log_probability(paths).mean())

    def _set_weights(self, weights: Array) -> None:
        self.weights_ = weights
        self._set_costs(-self.network.rewards(weights))
        self._most_probable: Cache[int, BestPaths] = Cache(2**27)

    def _choices(self, destination: int) -> "_Choices":
        return _choices(self._solutions.graphs, destination, self._solutions.rewards)

    def _make_most_probable(self, destination: int) -> BestPaths:
        choices = self._choices(destination)
        return BestPaths(choices.best.graph, choices.log_probability)


@dataclass
class _Choices:
    """Of one destination: best paths, and log P(e|u) of the edges (m,)."""

    best: BestPaths
    log_probability: Array

    def on_network(self, n_edges: int) -> Array:
        """(E,): log P, -inf on edges that do not lead to the destination."""
        values = np.full(n_edges, -np.inf)
        values[self.best.graph.edge] = self.log_probability
        return values


def _choices(graphs: Graphs, destination: int, rewards: Array) -> _Choices:
    """Q*_e = r_e + V*_v, V*_u = max_e Q*_e and P(e|u) = exp(Q*_e) / sum exp(Q*) (Eq. 7).

    :raises NoBestPath: a cycle's rewards sum to more than 0
    """
    graph = graphs.to(destination)
    best, tails = BestPaths(graph, rewards[graph.edge]), graph.tails
    advantage = best.reward + best.value[graph.head] - best.value[tails]  # (m,) not above 0
    return _Choices(best, advantage - np.log(add_up(tails, np.exp(advantage), graph.n_nodes)[tails]))


def choice_likelihood(
    network: RoadNetwork, graphs: Graphs, groups: list[Group], weights: Array, n_jobs: int | None = None
) -> tuple[float, Array]:
    """The log likelihood of paths under the action-based model, and its gradient (K,); -inf where a cycle is rewarded.

    dQ*_e is psi_e, the features along the best path that begins with e; the gradient of sum_e n_e log P(e|u) is
    sum_e a_e psi_e with a_e = n_e - n_u P(e|u), which is found by sending a_e down the tree of best paths.

    :param groups: the paths by destination
    """
    rewards, value, flows = network.rewards(weights), 0.0, np.zeros(network.n_edges)

    def of_group(group: Group) -> tuple[float, NDArray[np.int32], Array]:
        choices = _choices(graphs, group.destination, rewards)
        best, graph, counts = choices.best, choices.best.graph, np.zeros(network.n_edges)
        counts[group.edges] = group.edge_counts
        own = counts[graph.edge]  # (m,) n_e
        departures = add_up(graph.tails, own, graph.n_nodes)
        a = own - graph.at_tails(departures) * np.exp(choices.log_probability)
        along = np.zeros_like(a)
        along[best.choice[1:]] = 1.0
        visits = forward(graph, along, add_up(graph.head, a, graph.n_nodes))
        a[best.choice[1:]] += visits[1:]
        return float(group.edge_counts @ choices.on_network(network.n_edges)[group.edges]), graph.edge, a

    try:
        for part, edges, flow in in_threads(of_group, groups, n_jobs):
            value += part
            flows[edges] += flow
    except NoBestPath:
        return -np.inf, np.zeros(network.n_features)
    return value, network.feature_counts(flows)


def _least(costs: Array) -> float:
    return _LEAST * float(np.abs(costs).mean())


def _never_negative(network: RoadNetwork) -> Any:
    """(K,): whether a feature is never negative."""
    features = network.features
    low = features.min(axis=0) if isinstance(features, np.ndarray) else features.min(axis=0).toarray().ravel()
    return low >= 0
