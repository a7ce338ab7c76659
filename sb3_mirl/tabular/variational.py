"""VIREL's expectation-maximisation on a known MDP, exactly.

Axes: S states, A actions. T is the temperature, in units of reward: the mean squared Bellman residual of the values.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from sb3_mirl.common.arguments import check_range
from sb3_mirl.tabular.mdp import Array, TabularMDP
from sb3_mirl.tabular.planning import policy_matrix, solve_chain

_CONVERGED = 1e-10  # of the squared rewards


@dataclass(frozen=True)
class VariationalSolution:
    """What expectation-maximisation has reached.

    ``q`` and ``policy`` are (S, A), the policy softmax(q / T) of the last values and the last ``temperature`` T.
    ``temperatures`` is (iterations,), T after each round. ``converged``: T is 0 up to rounding, T <= 1e-10 scale
    max(1, max |r|)^2.
    """

    q: Array
    policy: Array
    temperature: float
    temperatures: Array
    converged: bool


def variational_em(
    mdp: TabularMDP,
    *,
    scale: float = 1.0,
    step: float | None = 1.0,
    temperature_init: float = 1.0,
    iterations: int = 1000,
) -> VariationalSolution:
    """Expectation-maximisation from Q = 0. A round:

    - E: pi(a|s) = softmax(Q(s, a) / T), the greedy policy (ties shared) at T = 0;
    - M: Q <- Q + step (r + gamma P^pi Q - Q), or exactly Q^pi; then T <- scale mean (r + gamma P^pi Q - Q)^2 over all (s, a),
      with the same pi and the new Q.

    Where T reaches 0 with the values, these are optimal (Theorem 1). It need not: T is in units of reward and its residual
    in their square, so that rewards times k are the same problem only at ``scale`` / k and ``temperature_init`` k; with
    large rewards and ``scale=1`` the rounds may never settle.

    Source: Fellows et al. (2018), VIREL, Lemma 1 and sections 3 and 4; its letter for T is beta.

    :param mdp: the MDP
    :param scale: c > 0, in 1 / reward
    :param step: of the M-step, in (0, 1]; None for the exact one, with which T is 0 up to rounding after the first round
        and the rest is policy iteration
    :param temperature_init: T of the first round, not negative
    :param iterations: rounds; all of them are done
    :raises ValueError: an argument is out of its range
    """
    check_range("scale", scale, 0, np.inf, low_open=True, high_open=True)
    check_range("temperature_init", temperature_init, 0, np.inf, high_open=True)
    check_range("iterations", iterations, 0, np.inf, whole=True)
    if step is not None:
        check_range("step", step, 0, 1, low_open=True)
    q, temperature = np.zeros(mdp.reward.shape), float(temperature_init)
    temperatures = np.zeros(iterations)
    for i in range(iterations):
        policy = softmax_policy(q, temperature)
        q = _action_values(mdp, policy) if step is None else q + step * _residual(mdp, policy, q)
        temperature = scale * float(np.mean(_residual(mdp, policy, q) ** 2))
        temperatures[i] = temperature
    largest = max(1.0, float(np.abs(mdp.reward).max()))
    converged = temperature <= _CONVERGED * scale * largest**2
    return VariationalSolution(q, softmax_policy(q, temperature), temperature, temperatures, converged)


def softmax_policy(q: Array, temperature: float) -> Array:
    """(S, A): softmax(q / T), at T = 0 the best actions with equal shares.

    :param q: (S, A)
    :param temperature: T >= 0
    """
    below = q - q.max(axis=1, keepdims=True)  # (S, A), <= 0
    if temperature == 0:
        best = below == 0
        return best / best.sum(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # -inf, for an action that is never taken
        return np.exp(log_softmax(below / temperature, axis=1))


def _residual(mdp: TabularMDP, policy: Array, q: Array) -> Array:
    """(S, A): r + gamma P^pi q - q."""
    v = (policy * q).sum(axis=1)  # (S,)
    return mdp.reward + mdp.discount * (mdp.matrix @ v).reshape(q.shape) - q


def _action_values(mdp: TabularMDP, policy: Array) -> Array:
    """(S, A): Q^pi."""
    v = solve_chain(policy_matrix(mdp, policy), mdp.discount, (policy * mdp.reward).sum(axis=1))
    return mdp.reward + mdp.discount * (mdp.matrix @ v).reshape(mdp.reward.shape)
