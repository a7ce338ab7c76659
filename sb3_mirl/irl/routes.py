"""Maximum entropy route choice: the weights of the features that explain observed paths, and what follows from them."""

import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.irl import kernels
from sb3_mirl.irl.archive import Checkpoint, read_model, write_model
from sb3_mirl.irl.cache import in_threads
from sb3_mirl.irl.destination_graphs import Graphs
from sb3_mirl.irl.destinations import posterior
from sb3_mirl.irl.network import Array, RoadNetwork, add_up
from sb3_mirl.irl.objective import RouteLikelihood
from sb3_mirl.irl.optimise import Minimum, Progress, Report, exponentiated_gradient, minimise
from sb3_mirl.irl.parameters import Parameters
from sb3_mirl.irl.passes import Passes, forward
from sb3_mirl.irl.planning import Solutions
from sb3_mirl.irl.trips import States, Trips, edges_along, read_partial, read_state, read_states, read_trips
from sb3_mirl.irl.weights import (
    WeightTable,
    as_weights,
    covariance_of,
    feature_scales,
    start_weights,
    warn_of_unidentified,
    weight_table,
)

Optimizer = Literal["bfgs", "exponentiated"]
Model = TypeVar("Model", bound="MaxEntRouteChoice")

_HESSIAN_NUMBERS = 2**27  # 1 GB: beyond it there are no standard errors


class MaxEntRouteChoice(Parameters):
    """The maximum entropy distribution over paths whose expected feature counts are those of observed paths.

    P(path | origin, destination) = exp(theta . f_path) / Z over all paths that end at their first arrival (Ziebart et al.
    2008, Eq. 2); the recursive logit of Fosgerau, Frejinger and Karlstrom (2013) is the same model. Weights are rewards:
    what drivers avoid is negative.

    :param network: the network
    :param l1: strength of the penalty l1 sum |theta_k s_k| on the mean log likelihood per path, s_k the root mean square of
        feature k over the edges, so that units do not matter (Dudík and Schapire 2006)
    :param l2: strength of the penalty l2 / 2 sum (theta_k s_k)^2
    :param optimizer: "bfgs", or the paper's online "exponentiated" gradient descent, which is for many features
    :param max_detour: consider only states within 1 + ``max_detour`` times the farthest origin's reference distance from the
        destination: the paper's "reasonably good paths", by a rule that the weights do not change. The origins are those of
        ``fit`` and those asked about
    :param horizon: consider only paths of at most so many edges; None for no limit. Memory grows with it
    :param reference: (E,) probabilities of a policy, by state; the model then deviates from it as little as the features
        demand (Kullback-Leibler divergence), as MIRL's policies from their prior
    :param initial_weights: (K,) where to begin; by default where every path is costly
    :param tolerance: "bfgs" ends when no expected feature count differs by more from the observed one, in units of s_k;
        "exponentiated" when an iteration improves the mean log likelihood by less than 100 times it
    :param verbose: 1 shows progress
    :param max_iterations: of the optimizer; by default 500, or 100 passes through the destinations
    :param n_jobs: threads; by default one for each usable core

    Fitted: ``weights_`` (K,); ``weight_errors_`` (K,) and ``covariance_`` (K, K), asymptotic (inverse information, the l2
    penalty included, l1 not); ``log_likelihood_``, the sum over the paths; ``feature_gap_``, the largest difference of
    expected and observed feature counts in units of s_k (with penalties: of the penalised gradient); ``converged_``;
    ``n_iterations_``, ``n_gradients_``; ``history_``: log likelihood, less the penalties, and gap after each iteration.
    """

    def __init__(
        self,
        network: RoadNetwork,
        l1: float = 0,
        l2: float = 0,
        optimizer: Optimizer = "bfgs",
        max_detour: float | None = None,
        horizon: int | None = None,
        reference: ArrayLike | None = None,
        initial_weights: ArrayLike | None = None,
        tolerance: float = 1e-6,
        verbose: int = 0,
        max_iterations: int | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.network = network
        self.l1, self.l2, self.optimizer = l1, l2, optimizer
        self.max_detour, self.horizon, self.reference = max_detour, horizon, reference
        self.initial_weights, self.tolerance, self.verbose = initial_weights, tolerance, verbose
        self.max_iterations, self.n_jobs = max_iterations, n_jobs

    @classmethod
    def from_weights(cls: type[Model], network: RoadNetwork, weights: ArrayLike, **parameters: Any) -> Model:
        """Return a model of known weights, as if it were fitted.

        :param weights: (K,)
        :param parameters: of the class
        :raises ValueError: ``weights`` has another shape or is not finite, or a parameter is outside its range
        """
        model = cls(network, **parameters)
        log_reference = model._check_parameters()
        model._set_weights(as_weights(network, "weights", weights), model._make_graphs(log_reference), log_reference)
        model._set_unfitted(network.n_features)
        model.history_ = {"log_likelihood": np.empty(0), "feature_gap": np.empty(0)}
        return model

    def fit(
        self: Model,
        paths: Iterable[ArrayLike],
        sample_weight: ArrayLike | None = None,
        checkpoint: str | pathlib.Path | None = None,
    ) -> Model:
        """Find the weights of largest likelihood; an interrupted fit (Ctrl-C) keeps the best ones it has seen.

        :param paths: N sequences of states, each ending at its first arrival at its destination
        :param sample_weight: (N,) how often each path was seen
        :param checkpoint: a file (npz) that holds the best weights after each iteration; if it is there already, and of the
            same fit, it is where to begin
        :raises ValueError: naming path and step, if a path does not fit the network, the horizon or the detours; a parameter
            is outside its range; or no weights to begin with are found
        :raises PartitionDiverges: the partition function is infinite at ``initial_weights``
        """
        log_reference = self._check_parameters()
        trips = read_trips(self.network, paths, sample_weight)
        graphs = self._make_graphs(log_reference)
        likelihood = RouteLikelihood(self.network, trips, graphs, log_reference, self.n_jobs)
        scales = feature_scales(self.network.features)
        start = self._start(likelihood)
        reference = None if self.reference is None else np.asarray(self.reference, dtype=np.float64).tobytes()
        settings = self.l1, self.l2, self.optimizer, self.max_detour, self.horizon, reference
        saved = None if checkpoint is None else Checkpoint(checkpoint, self.network, trips, settings)
        if saved is not None and saved.weights is not None:
            start = saved.weights
        with Progress("fit", self.verbose) as progress:

            def report(x: Array, value: float, gap: float) -> None:
                progress(x, value, gap)
                if saved is not None:
                    saved.write(x / scales)

            minimum = self._minimise(likelihood, start * scales, scales, report)
        self._set_weights(minimum.x / scales, graphs, log_reference)
        self._describe(likelihood, minimum, scales)
        return self

    def _start(self, likelihood: RouteLikelihood) -> Array:
        if self.initial_weights is None:
            return start_weights(self.network, signed=self.optimizer == "exponentiated")
        start = as_weights(self.network, "initial_weights", self.initial_weights)
        likelihood.check_finite(start)
        return start

    def _minimise(self, likelihood: RouteLikelihood, start: Array, scales: Array, report: Report) -> Minimum:
        def function(x: Array, group: int | None = None) -> tuple[float, Array]:
            value, gradient = likelihood.value_and_gradient(x / scales, group)
            return -value + self.l2 / 2 * float(x @ x), self.l2 * x - gradient / scales

        def curvature(x: Array) -> Array:
            return likelihood.information(x / scales) / np.outer(scales, scales) + self.l2 * np.eye(len(x))

        if self.optimizer == "bfgs":
            limit, known = self.max_iterations or 500, curvature if self._has_errors() else None
            return minimise(function, start, known, self.l1, self.tolerance, limit, report)
        shares = np.array([group.weights.sum() for group in likelihood.groups]) / likelihood.total
        return exponentiated_gradient(
            function,
            shares,
            start,
            rate=0.5 / np.sqrt(likelihood.mean_edges),  # sums along longer paths are larger
            l1=self.l1,
            tolerance=100 * self.tolerance,
            max_iterations=self.max_iterations or 100,
            report=report,
        )

    def _describe(self, likelihood: RouteLikelihood, minimum: Minimum, scales: Array) -> None:
        """The fitted attributes but for the weights."""
        n, x = self.network.n_features, minimum.x
        self._set_unfitted(n)
        penalty = self.l1 * np.abs(x).sum() + self.l2 / 2 * (x @ x)
        self.log_likelihood_ = likelihood.total * (penalty - minimum.value)
        self.feature_gap_, self.converged_ = minimum.gap, minimum.converged
        self.n_iterations_, self.n_gradients_ = minimum.n_iterations, minimum.n_gradients
        self.history_ = {"log_likelihood": -likelihood.total * np.array(minimum.values), "feature_gap": np.array(minimum.gaps)}
        minimum.warn(self.tolerance, ": raise tolerance or max_iterations, or begin from other initial_weights")
        if minimum.interrupted:
            return  # without errors, which take their time
        if not self._has_errors():
            warnings.warn(f"no standard errors: the Hessian of {n} features needs too much memory on this network")
            return
        information = likelihood.information(self.weights_) / np.outer(scales, scales) + self.l2 * np.eye(n)
        self.covariance_, self.weight_errors_, involved = covariance_of(likelihood.total * information, scales)
        warn_of_unidentified(self.network.feature_names, involved)

    def _has_errors(self) -> bool:
        return max(self.network.n_states, self.network.n_edges) * self.network.n_features <= _HESSIAN_NUMBERS

    def summary(self, relative_to: str | int | None = None, worth: float = 1.0) -> WeightTable:
        """Return a table of the weights, to print: name, weight, standard error, t, and the ratio to a chosen feature.

        :param relative_to: the feature to compare with, such as a mile of interstate
        :param worth: of one unit of that feature, such as 55.4 seconds at 65 mph: ratios are then seconds (Figure 3)
        :raises ValueError: there is no such feature, or its weight is 0
        """
        self._check_fitted()
        column = None if relative_to is None else self.network.feature_index(relative_to)
        names = self.network.feature_names
        return weight_table(names, self.weights_, self.covariance_, self.weight_errors_, column, worth)

    def log_partition(self, destination: int) -> Array:
        """(S,): log z, the log partition function of the paths from each state; -inf where the destination is out of reach.

        :raises ValueError: ``destination`` is not a state of the network
        :raises PartitionDiverges: it is infinite
        """
        passes = self._solved().passes(self._state("destination", destination))
        return passes.log_partition(np.arange(self.network.n_states))

    def action_probabilities(self, destination: int) -> Array:
        """(E,): P(e | u), how probable each edge is at the state that it leaves (Eq. 5), on the way to ``destination``.

        0 where the destination is out of reach. With a horizon, when all of its edges are still to go.
        """
        passes = self._solved().passes(self._state("destination", destination))
        with_all_to_go = np.isin(np.arange(passes.graph.n_nodes), passes.graph.node[-1])
        result = np.zeros(self.network.n_edges)
        passes.graph.add_to(result, passes.probability * passes.graph.at_tails(with_all_to_go))
        return result

    def log_probability(self, paths: Iterable[ArrayLike]) -> Array:
        """(N,): log P(path | origin, destination), natural; -inf for a path outside the horizon or the detours.

        :raises ValueError: naming path and step, if a path does not fit the network
        """
        return self._log_probability(read_trips(self.network, paths))

    def score(self, paths: Iterable[ArrayLike], sample_weight: ArrayLike | None = None) -> float:
        """Return the mean log probability of paths."""
        trips = read_trips(self.network, paths, sample_weight)
        return float(np.average(self._log_probability(trips), weights=trips.weights))

    def _log_probability(self, trips: Trips) -> Array:
        solved = self._solved()
        result = trips.sums(solved.rewards)

        def log_z(group: tuple[int, NDArray[np.int64]]) -> tuple[NDArray[np.int64], Array]:
            destination, chosen = group
            passes = solved.passes(destination, np.unique(trips.origins[chosen]).tolist())
            possible = [passes.graph.contains(self.network.tail[trips.along(i)]) for i in chosen]
            return chosen, np.where(possible, passes.log_partition(trips.origins[chosen]), np.inf)

        for chosen, values in in_threads(log_z, trips.by_destination(), self.n_jobs):
            result[chosen] -= values
        return result

    def predict(self, origin: int, destination: int) -> States:
        """Return the states of the most probable path.

        :raises ValueError: the destination is out of reach
        """
        pair = self._state("origin", origin), self._state("destination", destination)
        self._solved().passes_from(*pair)  # raises where there is no distribution
        return self._solved().best_path(*pair)

    def sample(self, origin: int, destination: int, n: int, seed: int | None = None) -> list[States]:
        """Return ``n`` paths drawn from the model.

        :raises ValueError: the destination is out of reach
        """
        check_range("n", n, 1, np.inf, whole=True)
        passes, node = self._passes_from(origin, destination)
        graph, generator = passes.graph, np.random.default_rng(seed)
        nodes, ends = kernels.walk(graph.start, graph.head, passes.probability, node, n, generator)
        return [path.astype(np.int64) for path in np.split(graph.state[nodes], ends[:-1])]

    def edge_flows(self, origin: int, destination: int) -> Array:
        """(E,): the expected number of traversals of each edge. Where there are cycles it may exceed 1."""
        flows = np.zeros(self.network.n_edges)
        _add_flows(flows, *self._passes_from(origin, destination))
        return flows

    def visit_probability(self, origin: int, destination: int, state: int) -> float:
        """Return the probability that a path comes by ``state`` at all: "will the driver take this street?" """
        passes, node = self._passes_from(origin, destination)
        graph, there = passes.graph, passes.graph.state == self._state("state", state)
        if there[node] or there[0]:
            return 1.0
        # the mass that arrives if the state lets nothing go on
        stopped = np.where(graph.at_tails(there), 0.0, passes.probability)
        return float(min(forward(graph, stopped, np.eye(1, graph.n_nodes, node)[0])[there].sum(), 1.0))

    def destination_probabilities(
        self, partial: ArrayLike, destinations: Sequence[int], prior: ArrayLike | None = None
    ) -> Array:
        """(D,): the probability of each destination, given the part of a path that was seen.

        :param partial: the states passed, at least the origin
        :param destinations: (D,) different states
        :param prior: (D,) their probabilities beforehand, by default uniform
        :raises ValueError: the partial path does not fit the network, ``prior`` is not a distribution, or no destination is
            possible
        """
        states, chosen = read_partial(self.network, partial), read_states(self.network, "destinations", destinations)
        solved, edges = self._solved(), edges_along(self.network, states, "the partial path")
        possible = bool(np.isfinite(solved.rewards[edges]).all())
        return posterior(lambda d: solved.passes(d, [int(states[0])]), states, possible, chosen, prior)

    def remaining_flows(self, partial: ArrayLike, destinations: Sequence[int], prior: ArrayLike | None = None) -> Array:
        """(E,): the expected traversals after the part of a path that was seen, over all destinations.

        The arguments and errors are those of ``destination_probabilities``.
        """
        probabilities, states = self.destination_probabilities(partial, destinations, prior), np.asarray(partial)
        flows = np.zeros(self.network.n_edges)
        for destination, probability in zip(destinations, probabilities, strict=True):
            if probability > 0:
                passes = self._solved().passes(destination, [int(states[0])])
                _add_flows(flows, passes, int(passes.graph.nodes(states[-1], len(states) - 1)), probability)
        return flows

    def save(self, path: str | pathlib.Path) -> None:
        """Write the fitted model with its network to an npz file; it replaces an older one when whole.

        :raises ValueError: the model is not fitted
        """
        self._check_fitted()
        write_model(path, self)

    @classmethod
    def load(cls: type[Model], path: str | pathlib.Path) -> Model:
        """Read what ``save`` wrote; nothing in the file is executed.

        :raises OSError: the file cannot be opened
        :raises ValueError: the file is damaged, or another kind of file
        """
        return read_model(cls, path)

    def _check_parameters(self) -> Array | None:
        """Checks all but ``initial_weights``; returns log rho (E,) of the reference policy, or None."""
        if not isinstance(self.network, RoadNetwork):
            raise ValueError(f"network must be a RoadNetwork, got {type(self.network).__name__}")
        check_range("l1", self.l1, 0, np.inf, high_open=True)
        check_range("l2", self.l2, 0, np.inf, high_open=True)
        check_choice("optimizer", self.optimizer, ("bfgs", "exponentiated"))
        check_range("tolerance", self.tolerance, 0, np.inf, low_open=True, high_open=True)
        if self.max_detour is not None:
            check_range("max_detour", self.max_detour, 0, np.inf, high_open=True)
        for name in ("horizon", "max_iterations", "n_jobs"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, np.inf, whole=True)
        return None if self.reference is None else _log_reference(self.network, self.reference)

    def _make_graphs(self, log_reference: Array | None) -> Graphs:
        allowed = None if log_reference is None else np.isfinite(log_reference)
        return Graphs(self.network, allowed, self.horizon, self.max_detour)

    def _set_weights(self, weights: Array, graphs: Graphs, log_reference: Array | None) -> None:
        self.weights_, self.farthest_ = weights, graphs.farthest
        rewards = self.network.rewards(weights)
        for edge in np.flatnonzero(~np.isfinite(rewards)):
            raise ValueError(
                f"the weights give {self.network.name_edge(edge)} a reward of {rewards[edge]}: they are too large"
            )
        rewards = rewards if log_reference is None else rewards + log_reference
        self._solutions = Solutions(self.network, rewards, graphs)

    def _solved(self) -> Solutions:
        self._check_fitted()
        return self._solutions

    def _passes_from(self, origin: Any, destination: Any) -> tuple[Passes, int]:
        return self._solved().passes_from(self._state("origin", origin), self._state("destination", destination))

    def _state(self, name: str, state: Any) -> int:
        return read_state(self.network, name, state)


def _add_flows(total: Array, passes: Passes, node: int, mass: float = 1.0) -> None:
    """Add the expected traversals by paths that begin at a node to ``total`` (E,), in place."""
    passes.graph.add_to(total, passes.edge_flows(add_up([node], [mass], passes.graph.n_nodes)))


def _log_reference(network: RoadNetwork, reference: ArrayLike) -> Array:
    """(E,): the logarithm of a policy's probabilities."""
    policy = np.asarray(reference, dtype=np.float64)
    if policy.shape != (network.n_edges,):
        raise ValueError(f"reference must hold one probability per edge, ({network.n_edges},), got {policy.shape}")
    for edge in np.flatnonzero(~(policy >= 0)):
        raise ValueError(f"reference must hold probabilities, got {policy[edge]} for {network.name_edge(edge)}")
    sums = np.bincount(network.tail, policy, minlength=network.n_states)
    there = np.bincount(network.tail, minlength=network.n_states) > 0
    for state in np.flatnonzero(there & ~(np.abs(sums - 1) <= 1e-6)):
        raise ValueError(
            f"reference must be a policy: the probabilities of the edges that leave {network.name_state(state)} sum to "
            f"{sums[state]:.9g}, not to 1"
        )
    with np.errstate(divide="ignore"):
        return np.log(policy)
