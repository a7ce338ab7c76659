"""Soft values of a known MDP for a given prior, exactly; and where a policy spends its time.

Axes: S states, A actions. beta is the inverse temperature, in 1 / units of reward. With rho the prior,

    V(s) = 1/beta log sum_a rho(a) exp(beta Q(s,a)),   Q(s,a) = r(s,a) + gamma sum_t P(t|s,a) V(t),
    pi(a|s) = rho(a) exp(beta (Q(s,a) - V(s)))

(Grau-Moya et al. 2019, Eqs. 7 to 9). The prior that goes with pi is found in ``mutual_information.py``; the formulas
themselves are compiled in ``kernels.py``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sb3_mirl.common.arguments import is_number
from sb3_mirl.tabular.mdp import Array, Matrix, TabularMDP, checked_distribution

StateDistribution = Literal["discounted", "stationary", "behaviour"]

_DIRECT_STATES = 2000  # up to here a sparse LU factorisation is as quick as an iterative solver
_KRYLOV_RTOL, _LOOSEST_RTOL = 1e-11, 1e-2
# the long-run distribution as the limit of a discount: it exists for every chain, periodic and reducible ones too
_NEAR_ONE = 1 - 1e-9
_ROUNDING = 1e-2  # a tolerance counts from this / beta on, too: the soft value is a logarithm divided by beta


@dataclass(frozen=True)
class SoftSolution:
    """The soft values of an MDP.

    ``q`` and ``policy`` are (S, A), ``v`` is (S,); with a finite horizon H they have a leading axis of time: (H, S, A)
    and (H + 1, S). ``residual`` is max_s |(T V)(s) - V(s)|, ``iterations`` the number of Newton steps.
    """

    q: Array
    v: Array
    policy: Array
    residual: float
    iterations: int


def check_beta(beta: float) -> float:
    """Return ``beta`` as a float.

    :raises ValueError: if it is not positive and finite
    """
    if not (is_number(beta) and np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta!r}: it is the inverse temperature")
    return float(beta)


def checked_prior(mdp: TabularMDP, prior: ArrayLike | None) -> Array:
    """Return the prior (A,), uniform for None.

    :raises ValueError: if ``prior`` is not a distribution over the actions
    """
    if prior is None:
        return np.full(mdp.n_actions, 1 / mdp.n_actions)
    array = checked_distribution("prior", prior, mdp.n_actions)
    return array / array.sum()


def soft_backup(mdp: TabularMDP, v: Array, beta: float, prior: Array, discount: float) -> tuple[Array, Array, Array]:
    """Apply the soft operator once and return q (S, A), T v (S,) and the policy (S, A).

    :param v: (S,)
    :param prior: (A,), normalised; an action at zero is never taken
    """
    from sb3_mirl.tabular.kernels import soft_values  # numba, only when something is planned

    q = mdp.reward + discount * (mdp.matrix @ v).reshape(mdp.reward.shape)
    return q, *soft_values(q, prior, beta)


def soft_value_iteration(
    mdp: TabularMDP,
    beta: float,
    prior: ArrayLike | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 200,
    initial_values: Array | None = None,
) -> SoftSolution:
    """Return the fixed point of the soft operator for a fixed prior.

    Newton's method on V = T V (soft policy iteration): the operator is convex and a gamma-contraction, so that the steps
    rise monotonically to its only fixed point and the number of right digits doubles at the end.

    Source: Grau-Moya et al. (2019), Eqs. 7 to 9; Fox, Pakman and Tishby (2016); Geist, Scherrer and Pietquin (2019).

    :param beta: inverse temperature, positive
    :param prior: (A,), by default uniform; zeros are allowed, such an action is never taken
    :param tolerance: largest max_s |(T V)(s) - V(s)| accepted, relative to max(1, max |V|, 0.01 / beta)
    :param max_iterations: Newton steps
    :param initial_values: (S,), where to start
    :raises ValueError: if beta is not positive, or ``prior`` is not a distribution
    :raises RuntimeError: if the tolerance was not met
    """
    beta, prior = check_beta(beta), checked_prior(mdp, prior)
    v = np.zeros(mdp.n_states) if initial_values is None else initial_values
    for iteration in range(max_iterations + 1):
        q, backed_up, policy = soft_backup(mdp, v, beta, prior, mdp.discount)
        difference = backed_up - v  # (S,)
        residual, scale = float(np.abs(difference).max()), max(1.0, float(np.abs(backed_up).max()), _ROUNDING / beta)
        if residual <= tolerance * scale:
            return SoftSolution(q, backed_up, policy, residual, iteration)
        # as exactly as the step deserves: to what it leaves of the residual, and to what the tolerance asks
        rtol = min(max(0.1 * tolerance * scale / residual, residual / scale, _KRYLOV_RTOL), _LOOSEST_RTOL)
        v = v + solve_chain(policy_matrix(mdp, policy), mdp.discount, difference, rtol)
    raise RuntimeError(
        f"soft value iteration stopped at a residual of {residual:.2g} after {max_iterations} iterations "
        f"(beta {beta}, discount {mdp.discount}): raise tolerance={tolerance} or max_iterations"
    )


def soft_backward_induction(
    mdp: TabularMDP, beta: float, horizon: int, prior: ArrayLike | None = None, discount: float | None = None
) -> SoftSolution:
    """Return the soft values of the problem that stops after ``horizon`` actions.

    :param horizon: H, the number of actions
    :param prior: (A,), by default uniform
    :param discount: in [0, 1], by default the MDP's; a finite sum needs none, so that 1 is allowed here
    :return: ``q`` and ``policy`` (H, S, A), ``v`` (H + 1, S) with ``v[H] = 0``
    :raises ValueError: if beta is not positive, ``horizon`` is below 1, ``prior`` is not a distribution or ``discount`` is
        outside [0, 1]
    """
    beta, prior = check_beta(beta), checked_prior(mdp, prior)
    gamma = mdp.discount if discount is None else float(discount)
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 action, got {horizon}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"discount must be in [0, 1], got {gamma}")
    q = np.zeros((horizon, mdp.n_states, mdp.n_actions))
    v = np.zeros((horizon + 1, mdp.n_states))
    policy = np.zeros_like(q)
    for t in reversed(range(horizon)):
        q[t], v[t], policy[t] = soft_backup(mdp, v[t + 1], beta, prior, gamma)
    return SoftSolution(q, v, policy, 0.0, 0)


def policy_matrix(mdp: TabularMDP, policy: Array) -> Matrix:
    """Return P_pi(t|s) = sum_a pi(a|s) P(t|s,a), (S, S); a row sums to 1 minus the probability that the episode ends."""
    if isinstance(mdp.matrix, np.ndarray):
        return np.einsum("sa,sat->st", policy, mdp.matrix.reshape(mdp.n_states, mdp.n_actions, mdp.n_states))
    from scipy.sparse import csr_array

    size = mdp.n_states * mdp.n_actions
    starts = np.arange(0, size + 1, mdp.n_actions)
    chooser = csr_array((policy.ravel(), np.arange(size), starts), shape=(mdp.n_states, size))
    return chooser @ mdp.matrix


def solve_chain(chain: Matrix, discount: float, right: Array, rtol: float = _KRYLOV_RTOL, start: Array | None = None) -> Array:
    """Return the x (S,) with x - discount * chain @ x = right.

    :param chain: (S, S), non-negative, rows or columns summing to at most 1
    :param discount: in [0, 1)
    :param right: (S,)
    :param rtol: norm of what is left of ``right``, relative to its own; smaller where the solver is direct
    :param start: (S,), where an iterative solver begins, up to a factor
    """
    if isinstance(chain, np.ndarray):
        return np.asarray(np.linalg.solve(np.eye(len(right)) - discount * chain, right), dtype=np.float64)
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import LinearOperator, bicgstab, gcrotmk, spsolve

    if len(right) > _DIRECT_STATES and discount < _NEAR_ONE:
        # the difference of two sparse matrices takes as long as five products
        matrix = LinearOperator(chain.shape, lambda x: x - discount * (chain @ x), dtype=np.float64)
        if start is not None:
            image = matrix @ start
            start = start * (image @ right) / (image @ image)
        # bicgstab is the quickest and may break down, gcrotmk is slower and does not, a factorisation takes memory
        for solver in (bicgstab, gcrotmk):
            with np.errstate(all="ignore"):
                solution, failed = solver(matrix, right, x0=start, rtol=rtol)
            # its own residual may have drifted from the true one
            if not failed and np.linalg.norm(matrix @ solution - right) <= 10 * rtol * np.linalg.norm(right):
                return solution
    return spsolve((eye_array(len(right), format="csr") - discount * chain).tocsc(), right)


def occupancy(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """Return the discounted state distribution (S,): p(s) of Grau-Moya et al. (2019), section 3.2, normalised to sum to 1.

    :param policy: (S, A), rows summing to 1
    :raises ValueError: if ``policy`` is not a policy
    """
    return _visits(mdp, _checked_policy(mdp, policy), mdp.discount)


def stationary_distribution(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """Return how often each state is visited in the long run (S,), when an ended episode starts anew from ``initial``.

    Definition 1 of Grau-Moya et al. (2019). A chain with several recurrent classes gets the mixture that ``initial``
    leads to, a periodic one its time average.

    :param policy: (S, A), rows summing to 1
    :raises ValueError: if ``policy`` is not a policy
    """
    return _visits(mdp, _checked_policy(mdp, policy), _NEAR_ONE)


def behaviour_policy(policy: ArrayLike, prior: ArrayLike, epsilon: float) -> Array:
    """Return the policy (S, A) that draws from the prior with probability epsilon, else takes the most probable action.

    Ties are shared. Source: Grau-Moya et al. (2019), section 4.1, "Behavioural policy".
    """
    policy, prior = np.asarray(policy), np.asarray(prior)
    best = policy >= policy.max(axis=1, keepdims=True) * (1 - 1e-9)
    return (1 - epsilon) * best / best.sum(axis=1, keepdims=True) + epsilon * prior


def state_distribution(
    mdp: TabularMDP, policy: Array, prior: Array, kind: StateDistribution, epsilon: float, start: Array | None = None
) -> Array:
    """Return which states (S,) the prior (A,) is averaged over under ``policy`` (S, A).

    :param kind: "discounted" (Eq. 6's own), "stationary" (as gamma -> 1 in appendix A.1), or "behaviour" (stationary under
        the epsilon-greedy policy that acts while learning: what a learner sees)
    :param start: (S,) of a similar policy, where an iterative solver begins
    :raises ValueError: if ``kind`` is another word
    """
    if kind not in ("discounted", "stationary", "behaviour"):
        raise ValueError(f"state_distribution must be 'discounted', 'stationary' or 'behaviour', got {kind!r}")
    if kind == "behaviour":
        policy = behaviour_policy(policy, prior, epsilon)
    return _visits(mdp, policy, mdp.discount if kind == "discounted" else _NEAR_ONE, start)


def _visits(mdp: TabularMDP, policy: Array, discount: float, start: Array | None = None) -> Array:
    """(S,): sum_t discount^t Pr(s_t = s), normalised."""
    visits = np.maximum(solve_chain(policy_matrix(mdp, policy).T, discount, mdp.initial, start=start), 0)
    return visits / visits.sum()


def _checked_policy(mdp: TabularMDP, policy: ArrayLike) -> Array:
    array = np.asarray(policy, dtype=np.float64)
    if array.shape != (mdp.n_states, mdp.n_actions):
        raise ValueError(f"policy must have the shape {(mdp.n_states, mdp.n_actions)}, got {array.shape}")
    bad = np.flatnonzero(~(np.isclose(array.sum(axis=1), 1, rtol=0, atol=1e-6) & (array >= 0).all(axis=1)))
    if bad.size:
        raise ValueError(f"policy[{bad[0]}] must be a distribution over actions, got {array[bad[0]]}")
    return array
