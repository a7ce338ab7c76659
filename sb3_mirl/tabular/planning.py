"""Soft values of a known MDP for a given prior, exactly.

Axes: S states, A actions. beta is the inverse temperature, in 1 / reward units. With rho the prior,

    V(s) = 1/beta log sum_a rho(a) exp(beta Q(s,a)),   Q(s,a) = r(s,a) + gamma sum_t P(t|s,a) V(t),
    pi(a|s) = rho(a) exp(beta (Q(s,a) - V(s)))

(Grau-Moya et al. 2019, Eqs. 7 to 9). The prior that goes with pi is found in ``mutual_information.py``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from sb3_mirl.common.arguments import is_number
from sb3_mirl.tabular.chains import policy_matrix, solve_chain
from sb3_mirl.tabular.mdp import Array, TabularMDP


@dataclass(frozen=True)
class SoftSolution:
    """The soft values of an MDP.

    ``q`` and ``policy`` are (S, A), ``v`` is (S,); with a finite horizon H they carry a leading axis of time: (H, S, A)
    and (H + 1, S). ``residual`` is max_s |(T V)(s) - V(s)|, ``iterations`` the number of Newton steps.
    """

    q: Array
    v: Array
    policy: Array
    residual: float
    iterations: int


def check_beta(beta: float) -> float:
    """:raises ValueError: beta is not positive and finite"""
    if not (is_number(beta) and np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta!r}: it is the inverse temperature")
    return float(beta)


def checked_log_prior(mdp: TabularMDP, prior: ArrayLike | None) -> Array:
    """(A,): the logarithm of the prior (uniform when None), -inf where it is zero.

    :raises ValueError: ``prior`` is no distribution over the actions
    """
    array = np.full(mdp.n_actions, 1 / mdp.n_actions) if prior is None else np.asarray(prior, dtype=np.float64)
    if array.shape != (mdp.n_actions,) or not (array >= 0).all() or abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"prior must hold {mdp.n_actions} probabilities that sum to 1, got {array}")
    with np.errstate(divide="ignore"):
        return np.log(array / array.sum())


def soft_backup(mdp: TabularMDP, v: Array, beta: float, log_prior: Array, discount: float) -> tuple[Array, Array, Array]:
    """One application of the soft operator: (q (S, A), T v (S,), policy (S, A)).

    :param v: (S,)
    :param log_prior: (A,), normalised; -inf for an action that is never taken
    """
    q = mdp.reward + discount * (mdp.matrix @ v).reshape(mdp.reward.shape)
    top = q.max(axis=1, keepdims=True)  # (S, 1)
    scores = beta * (q - top) + log_prior  # (S, A)
    log_sum = logsumexp(scores, axis=1, keepdims=True)  # (S, 1)
    # for a small beta the logarithm is close to 0 and its digits are in sum - 1
    sum_minus_one = np.expm1(beta * (q - top)) @ np.exp(log_prior)  # (S,)
    log_sum_exact = np.where(sum_minus_one > -0.5, np.log1p(np.maximum(sum_minus_one, -0.5)), log_sum[:, 0])
    return q, top[:, 0] + log_sum_exact / beta, np.exp(scores - log_sum)


def soft_value_iteration(
    mdp: TabularMDP,
    beta: float,
    prior: ArrayLike | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 200,
    initial_values: Array | None = None,
) -> SoftSolution:
    """The fixed point of the soft operator for a fixed prior.

    Newton's method on V = T V (soft policy iteration): the operator is convex and a gamma-contraction, so the steps
    rise monotonically to its only fixed point and the digits double at the end.

    Source: Grau-Moya et al. (2019), Eqs. 7 to 9; Fox, Pakman and Tishby (2016); Geist, Scherrer and Pietquin (2019).

    :param beta: inverse temperature, positive
    :param prior: (A,), by default uniform; zeros are allowed, such an action is never taken
    :param tolerance: largest max_s |(T V)(s) - V(s)| accepted, relative to max(1, max |V|)
    :param max_iterations: Newton steps
    :param initial_values: (S,), where to start
    :raises ValueError: beta is not positive, or ``prior`` is no distribution
    :raises RuntimeError: the tolerance was not met
    """
    return solve_soft_values(mdp, check_beta(beta), checked_log_prior(mdp, prior), tolerance, max_iterations, initial_values)


def solve_soft_values(
    mdp: TabularMDP, beta: float, log_prior: Array, tolerance: float, max_iterations: int, initial_values: Array | None = None
) -> SoftSolution:
    """``soft_value_iteration`` with the prior as a logarithm (A,), which does not underflow."""
    v = np.zeros(mdp.n_states) if initial_values is None else initial_values
    for iteration in range(max_iterations + 1):
        q, backed_up, policy = soft_backup(mdp, v, beta, log_prior, mdp.discount)
        difference = backed_up - v  # (S,)
        residual = float(np.abs(difference).max())
        if residual <= tolerance * max(1.0, float(np.abs(backed_up).max())):
            return SoftSolution(q, backed_up, policy, residual, iteration)
        v = v + solve_chain(policy_matrix(mdp, policy), mdp.discount, difference)
    raise RuntimeError(
        f"soft value iteration stopped at a residual of {residual:.2g} after {max_iterations} iterations "
        f"(beta {beta}, discount {mdp.discount}): raise tolerance={tolerance} or max_iterations"
    )


def soft_backward_induction(
    mdp: TabularMDP, beta: float, horizon: int, prior: ArrayLike | None = None, discount: float | None = None
) -> SoftSolution:
    """Soft values of the problem that stops after ``horizon`` actions.

    :param horizon: H, the number of actions
    :param prior: (A,), by default uniform
    :param discount: in [0, 1], by default the MDP's; a finite sum needs none, so 1 is allowed here
    :return: ``q`` and ``policy`` (H, S, A), ``v`` (H + 1, S) with ``v[H] = 0``
    :raises ValueError: beta is not positive, ``horizon`` is below 1, ``prior`` is no distribution or ``discount`` is
        outside [0, 1]
    """
    beta, log_prior = check_beta(beta), checked_log_prior(mdp, prior)
    gamma = mdp.discount if discount is None else float(discount)
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 action, got {horizon}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"discount must be in [0, 1], got {gamma}")
    q = np.zeros((horizon, mdp.n_states, mdp.n_actions))
    v = np.zeros((horizon + 1, mdp.n_states))
    policy = np.zeros_like(q)
    for t in reversed(range(horizon)):
        q[t], v[t], policy[t] = soft_backup(mdp, v[t + 1], beta, log_prior, gamma)
    return SoftSolution(q, v, policy, 0.0, 0)
