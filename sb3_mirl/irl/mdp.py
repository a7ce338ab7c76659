"""Maximum entropy inverse reinforcement learning in a finite MDP: the reward behind observed behaviour."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.irl.network import Array
from sb3_mirl.irl.optimise import minimise
from sb3_mirl.irl.parameters import Parameters
from sb3_mirl.irl.soft_control import SoftPolicy, Solver, causal_solver, path_solver
from sb3_mirl.irl.trajectories import count_actions, read_occupancy
from sb3_mirl.irl.weights import covariance_of, warn_of_unidentified
from sb3_mirl.tabular import TabularMDP
from sb3_mirl.tabular.mdp import checked_distribution

Model = TypeVar("Model", bound="MaxEntIRL")


class MaxEntIRL(Parameters):
    """Rewards theta . f(s, a) with which the soft policy of an MDP behaves as was observed.

    pi(a|s) = rho(a) exp(beta (Q(s,a) - V(s))), with the soft values of ``tabular.soft_value_iteration``; where transitions are
    certain this is the path model of Ziebart et al. (2008), elsewhere maximum causal entropy (Ziebart 2010). A reward is known
    up to what no behaviour shows: potentials, and a bonus at the end against a cost per step.

    :param mdp: the MDP; its own rewards are not used
    :param features: (S, A, K), or (S, K) of the state that is left; see ``features_from_env`` for those of the state entered
    :param beta: inverse temperature; reward times beta is what the behaviour shows
    :param prior: (A,) rho, MIRL's prior; by default uniform. What it explains, the reward need not
    :param horizon: the number of actions after which an episode ends; None for no limit. The policy then depends on the time
    :param l2: strength of the penalty l2 / 2 sum theta_k^2 on the objective per trajectory
    :param dynamics: "causal", or "path": Eq. 4 of Ziebart et al. (2008), which takes the environment's luck for the agent's
        choice: for comparison
    :param discount: by default the MDP's; with a horizon it may be 1
    :param feature_names: (K,), for messages
    :param tolerance: largest component of the gradient per trajectory at which the fit ends
    :param max_iterations: of the fit

    Fitted: ``weights_`` (K,), ``reward_`` (S, A); ``policy_`` and ``q_`` (S, A), ``v_`` (S,), with a horizon (H, S, A) and
    (H, S) by the time; ``converged_``, ``n_iterations_``, ``n_gradients_``, ``feature_gap_``; after ``fit`` with "causal" also
    ``log_likelihood_``, the sum over all decisions, ``covariance_`` (K, K) and ``weight_errors_`` (K,).
    """

    def __init__(
        self,
        mdp: TabularMDP,
        features: ArrayLike,
        beta: float = 1.0,
        prior: ArrayLike | None = None,
        horizon: int | None = None,
        l2: float = 0.0,
        dynamics: Literal["causal", "path"] = "causal",
        discount: float | None = None,
        feature_names: Sequence[str] | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 500,
    ) -> None:
        self.mdp, self.features, self.beta, self.prior = mdp, features, beta, prior
        self.horizon, self.l2, self.dynamics, self.discount = horizon, l2, dynamics, discount
        self.feature_names, self.tolerance, self.max_iterations = feature_names, tolerance, max_iterations

    @classmethod
    def from_weights(cls: type[Model], mdp: TabularMDP, features: ArrayLike, weights: ArrayLike, **parameters: Any) -> Model:
        """Return a model of known weights, as if it were fitted: the soft policy of a given reward.

        :param weights: (K,)
        :param parameters: of the class
        :raises ValueError: ``weights`` has another shape or is not finite, or a parameter is outside its range
        """
        model = cls(mdp, features, **parameters)
        array, _, _, solver = model._problem()
        given = np.array(weights, dtype=np.float64)
        if given.shape != array.shape[2:] or not np.isfinite(given).all():
            raise ValueError(f"weights must hold a finite number for each of the {array.shape[2]} features, got {given}")
        model._set_weights(array, given, solver(array @ given))
        model._set_unfitted(len(given))
        return model

    def fit(self: Model, trajectories: Iterable[Any]) -> Model:
        """Fit by the likelihood of the actions in the states that were visited.

        The environment's luck drops out: its gradient is that of sum log pi(a_t|s_t), by one adjoint solve of the policy's
        chain. It is not concave in general. With ``dynamics="path"`` it is Eq. 4's likelihood instead.

        :param trajectories: each (states, actions), as ``collect_trajectories`` gives them
        :raises ValueError: naming trajectory and step, if one does not fit the MDP; or a parameter is outside its range
        """
        features, prior, discount, solver = self._problem()
        if self.dynamics == "path":
            counts, starts = count_actions(self.mdp, prior, trajectories, self.horizon, discount)
            self._fit_dual(features, solver, counts.sum(axis=0) / starts.sum(), starts / starts.sum())
        else:
            counts, starts = count_actions(self.mdp, prior, trajectories, self.horizon)
            self._fit_likelihood(features, prior, solver, counts, float(starts.sum()))
        return self

    def fit_occupancy(self: Model, occupancy: ArrayLike) -> Model:
        """Fit so that the expected feature counts are those of an occupancy: the concave dual, beta (theta . f~ - nu . V).

        Right for exact occupancies. With those estimated from samples it is in general unbounded: use ``fit``.

        :param occupancy: (S, A), how often each action is taken, discounted; without a horizon up to a factor
        :raises ValueError: ``occupancy`` is not that of a policy in this MDP, and l2 is 0; or a parameter is outside its range
        """
        features, _, discount, solver = self._problem()
        counts = read_occupancy(self.mdp, occupancy, self.horizon, discount, exact=self.l2 == 0)
        self._fit_dual(features, solver, counts, self.mdp.initial)
        return self

    def _fit_likelihood(self, features: Array, prior: Array, solver: Solver, counts: Array, n: float) -> None:
        visits = counts.sum(axis=2)  # (T, S)
        with np.errstate(divide="ignore"):
            log_prior = np.log(prior)
        constant = float(counts.sum(axis=(0, 1)) @ np.where(prior > 0, log_prior, 0.0))

        def gradient(soft: SoftPolicy) -> tuple[float, Array]:
            value = constant + self.beta * float((counts * (soft.q - soft.v[:, :, None])).sum())
            c = counts - visits[:, :, None] * soft.policy  # (T, S, A)
            source = np.zeros_like(soft.v)
            if soft.timed:
                for t in range(len(source) - 1):
                    source[t + 1] = soft.step(t, c[t])
            else:
                source[0] = soft.step(0, c[0])
            flows = c + soft.follow(source)[:, :, None] * soft.policy
            return value / n, self.beta * _project(features, flows) / n

        def information(soft: SoftPolicy) -> Array:
            return soft.information(features, visits, self.beta, tilted=False) / n

        value = self._climb(features, solver, gradient, information)
        self.log_likelihood_ = value * n
        soft = solver(self.reward_)
        matrix = n * (information(soft) + self.l2 * np.eye(features.shape[2]))
        self.covariance_, self.weight_errors_, involved = covariance_of(matrix, np.ones(features.shape[2]))
        warn_of_unidentified(self._feature_names(features), involved)

    def _fit_dual(self, features: Array, solver: Solver, counts: Array, starts: Array) -> None:
        """
        :param counts: (S, A) discounted, per trajectory
        :param starts: (S,) the distribution of the first state
        """
        observed = _project(features, counts)

        def source(soft: SoftPolicy) -> Array:
            result = np.zeros_like(soft.v)
            result[0] = starts
            return result

        def gradient(soft: SoftPolicy) -> tuple[float, Array]:
            expected = _project(features, soft.follow(source(soft))[:, :, None] * soft.policy)
            value = self.beta * float(observed @ self.weights_ - starts @ soft.v[0])
            return value, self.beta * (observed - expected)

        def information(soft: SoftPolicy) -> Array:
            return soft.information(features, soft.follow(source(soft)), self.beta, tilted=self.dynamics == "path")

        self._set_unfitted(features.shape[2])
        self._climb(features, solver, gradient, information)

    def _climb(
        self,
        features: Array,
        solver: Solver,
        gradient: Callable[[SoftPolicy], tuple[float, Array]],
        information: Callable[[SoftPolicy], Array],
    ) -> float:
        """Find the weights of the largest objective, set what is fitted, and return the objective without the penalty."""

        def soft_at(weights: Array) -> SoftPolicy:
            self.weights_ = weights
            return solver(features @ weights)

        def function(weights: Array) -> tuple[float, Array]:
            try:
                value, slope = gradient(soft_at(weights))
            except RuntimeError:  # values beyond what floats resolve
                return np.inf, np.zeros_like(weights)
            return self.l2 / 2 * float(weights @ weights) - value, self.l2 * weights - slope

        def curvature(weights: Array) -> Array:
            return information(soft_at(weights)) + self.l2 * np.eye(len(weights))

        minimum = minimise(function, np.zeros(features.shape[2]), curvature, 0.0, self.tolerance, self.max_iterations)
        self._set_weights(features, minimum.x, soft_at(minimum.x))
        self.converged_, self.feature_gap_ = minimum.converged, minimum.gap
        self.n_iterations_, self.n_gradients_ = minimum.n_iterations, minimum.n_gradients
        largest = np.abs(minimum.x).max()
        way_out = ": if those are large, the objective may have no maximum: give l2 > 0, or more data"
        minimum.warn(self.tolerance, f", with weights up to {largest:.3g}{way_out}")
        return self.l2 / 2 * float(minimum.x @ minimum.x) - minimum.value

    def _set_weights(self, features: Array, weights: Array, soft: SoftPolicy) -> None:
        times = slice(None) if soft.timed else 0
        self.weights_, self.reward_ = weights, features @ weights
        self.q_, self.v_, self.policy_ = soft.q[times], soft.v[times], soft.policy[times]

    def _problem(self) -> tuple[Array, Array, float, Solver]:
        """Features (S, A, K), prior (A,), discount and solver, after checking the parameters."""
        if not isinstance(self.mdp, TabularMDP):
            raise ValueError(f"mdp must be a TabularMDP, got {type(self.mdp).__name__}: see TabularMDP.from_env")
        check_range("beta", self.beta, 0, np.inf, low_open=True, high_open=True)
        check_range("l2", self.l2, 0, np.inf, high_open=True)
        check_range("tolerance", self.tolerance, 0, np.inf, low_open=True, high_open=True)
        check_range("max_iterations", self.max_iterations, 1, np.inf, whole=True)
        check_choice("dynamics", self.dynamics, ("causal", "path"))
        if self.horizon is not None:
            check_range("horizon", self.horizon, 1, np.inf, whole=True)
        discount = self.mdp.discount if self.discount is None else self.discount
        check_range("discount", discount, 0, 1, high_open=self.horizon is None)
        mdp = self.mdp
        if self.horizon is None and discount != mdp.discount:
            transition = mdp.transition if isinstance(mdp.matrix, np.ndarray) else mdp.matrix
            mdp = TabularMDP(transition, mdp.reward, mdp.initial, discount)
        n = mdp.n_actions
        prior = checked_distribution("prior", np.full(n, 1 / n) if self.prior is None else self.prior, n)
        make = causal_solver if self.dynamics == "causal" else path_solver
        features = _as_features(self.features, mdp.n_states, mdp.n_actions)
        self._feature_names(features)
        return features, prior, discount, make(mdp, self.beta, prior, self.horizon, discount)

    def _feature_names(self, features: Array) -> Sequence[str]:
        names = self.feature_names or [f"feature_{k}" for k in range(features.shape[2])]
        if len(names) != features.shape[2]:
            raise ValueError(f"feature_names must hold {features.shape[2]} names, got {len(names)}")
        return names


def _project(features: Array, flows: Array) -> Array:
    """(K,): the sum of features (S, A, K) by flows (..., S, A)."""
    return np.tensordot(flows.reshape(-1, *features.shape[:2]).sum(axis=0), features, axes=2)


def _as_features(features: ArrayLike, n_states: int, n_actions: int) -> Array:
    """(S, A, K)."""
    array = np.array(features, dtype=np.float64)
    if array.ndim == 2 and len(array) == n_states:
        array = np.repeat(array[:, None], n_actions, axis=1)
    if array.ndim != 3 or array.shape[:2] != (n_states, n_actions) or array.shape[2] == 0:
        raise ValueError(
            f"features must have the shape ({n_states}, {n_actions}, K) or ({n_states}, K), got {np.shape(features)}"
        )
    for s, a, k in np.argwhere(~np.isfinite(array)):
        raise ValueError(f"features must be finite, got {array[s, a, k]} for feature {k} at state {s}, action {a}")
    return array
