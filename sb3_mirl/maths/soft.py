"""The soft value, its policy and its information cost.

Everything is computed in float64 from differences to the best action, ``x = beta (q - max q) <= 0``, so that neither
``exp(beta q)`` nor the 1/beta in front of the logarithm can overflow or amplify rounding. A batch of action values
is a few hundred numbers: the precision costs nothing beside the network that made them.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_mirl.maths.arrays import Array, as_float64, cast_like, clip, is_traced, log_softmax, namespace, silent
from sb3_mirl.maths.prior import check_log_prior, normalized

Beta = float | np.ndarray | th.Tensor

# Stand-ins for beta = 0 and beta = inf that keep 1/beta finite; every float64 result is the limit already
_MIN_BETA, _MAX_BETA = 1e-100, 1e100


class _Shifted(NamedTuple):
    rho: Any  # (A,) normalised
    log_rho: Any  # (A,)
    best_q: Any  # (..., 1) max of q over the support of rho
    x: Any  # (..., A) beta (q - best_q), 0 outside the support
    beta: Any  # scalar in [1e-100, 1e100]


def soft_value(q: Array, log_prior: Array, beta: Beta) -> Array:
    """
    Soft value V(s) = 1/beta log sum_a rho(a) exp(beta Q(s, a)), the log-partition function of Eq. (8) over beta.

    beta = inf gives max_a Q(s, a) over the prior's support, beta = 0 the prior's mean E_rho[Q(s, a)].
    The gradient with respect to ``q`` is the policy of Eq. (8), finite at every scale.

    :param q: (..., A) action values
    :param log_prior: (A,) log rho(a), -inf allowed; normalised inside
    :param beta: inverse temperature in [0, inf], in 1 / units of reward
    :return: (...) soft values, of the dtype of ``q``
    :raises ValueError: if the shapes do not match, beta is negative or NaN, or ``log_prior`` is no prior
    """
    with silent(q):
        s = _shift(q, log_prior, beta)
        return cast_like(s.best_q[..., 0] + _log_partition(s.rho, s.x) / s.beta, q)


def boltzmann_log_probs(q: Array, log_prior: Array, beta: Beta) -> Array:
    """
    The optimal policy for a fixed prior, log pi(a|s) = log rho(a) + beta (Q(s, a) - V(s)), Eq. (8).

    :param q: (..., A) action values
    :param log_prior: (A,) log rho(a), -inf allowed; normalised inside
    :param beta: inverse temperature in [0, inf]; inf shares the mass among the best actions in proportion to rho
    :return: (..., A) log-probabilities, float64; -inf where rho(a) = 0
    :raises ValueError: if the shapes do not match, beta is negative or NaN, or ``log_prior`` is no prior
    """
    with silent(q):
        s = _shift(q, log_prior, beta)
        return log_softmax(s.log_rho + s.x)


def action_scores(q: Array, log_prior: Array, beta: Beta) -> Array:
    """
    Scores with the order of log rho(a) + beta Q(s, a); their argmax is the greedy action of section 4.1.

    Unlike that sum they are finite at beta = inf, where ties in Q fall to the first action as in DQN.

    :param q: (..., A) action values
    :param log_prior: (A,) log rho(a), -inf allowed
    :param beta: inverse temperature in [0, inf]
    :return: (..., A) scores, float64; -inf where rho(a) = 0
    :raises ValueError: if the shapes do not match, beta is negative or NaN, or ``log_prior`` is no prior
    """
    _check_shapes(q, log_prior, "q")
    is_full, beta, log_rho = check_log_prior(log_prior), _checked_beta(q, beta), as_float64(log_prior)
    with silent(q):
        # the sum over max(beta, 1), as beta = inf needs
        scores = clip(beta, high=1) * as_float64(q) + log_rho / clip(beta, low=1)
        return scores if is_full else namespace(q).where(log_rho == -math.inf, -math.inf, scores)


def kl_to_prior(log_probs: Array, log_prior: Array) -> Array:
    """
    KL(pi(.|s) || rho) = sum_a pi(a|s) log(pi(a|s) / rho(a)), the information cost of Eq. (2).

    :param log_probs: (..., A) log pi(a|s)
    :param log_prior: (A,) log rho(a); normalised inside
    :return: (...) divergences in nats; inf where pi has mass outside the support of rho
    :raises ValueError: if the shapes do not match or ``log_prior`` is no prior
    """
    _check_shapes(log_probs, log_prior, "log_probs")
    xp, log_rho = namespace(log_probs), normalized(log_prior).log_rho
    with silent(log_probs):
        probs = xp.exp(log_probs)
        return xp.where(probs > 0, probs * (log_probs - log_rho), 0.0).sum(-1)


def entropy(log_probs: Array) -> Array:
    """
    H(pi(.|s)) = -sum_a pi(a|s) log pi(a|s).

    :param log_probs: (..., A) log pi(a|s)
    :return: (...) in nats, float64
    """
    xp, log_probs = namespace(log_probs), as_float64(log_probs)
    with silent(log_probs):
        probs = xp.exp(log_probs)
        return -xp.where(probs > 0, probs * log_probs, 0.0).sum(-1)


def mutual_information(log_probs: Array) -> Array:
    """
    I(S; A) = H(E_s[pi(.|s)]) - E_s[H(pi(.|s))] over the given states, weighted equally (Proposition 1).

    :param log_probs: (B, A) log pi(a|s) of B states
    :return: scalar, in nats, between 0 and log A up to rounding
    :raises ValueError: if ``log_probs`` is not a matrix
    """
    if log_probs.ndim != 2:
        raise ValueError(f"log_probs must have shape (B, A), one row per state, got {tuple(log_probs.shape)}.")
    xp = namespace(log_probs)
    with silent(log_probs):
        marginal = xp.exp(as_float64(log_probs)).mean(0)
        return entropy(xp.log(marginal)) - entropy(log_probs).mean()


def entropy_bonus(n_actions: int, beta: Any) -> Any:
    """
    log|A| / beta, by which the entropy-regularised value exceeds the one with KL to a uniform prior
    (Schulman, Chen & Abbeel 2017, Eq. 83: their target has no log|A| term).

    :param n_actions: number of actions |A|
    :param beta: inverse temperature > 0
    """
    return math.log(n_actions) / beta


def soft_q_target(reward: Array, discount: Array, next_q: Array, log_prior: Array, beta: Beta) -> Array:
    """
    Soft Bellman target (T_soft Q)(s, a, s') = r + gamma / beta log sum_a' rho(a') exp(beta Q(s', a')), Eq. (12).

    :param reward: (...) rewards r(s, a)
    :param discount: (...) gamma^k for a k-step return, 0 where the episode terminated
    :param next_q: (..., A) target network's Q(s', a')
    :param log_prior: (A,) log rho(a)
    :param beta: inverse temperature in [0, inf]
    :return: (...) targets
    :raises ValueError: if the shapes do not match, beta is negative or NaN, or ``log_prior`` is no prior
    """
    if not reward.shape == discount.shape == next_q.shape[:-1]:
        raise ValueError(
            "reward and discount must have the shape of next_q without its last axis, got "
            f"reward {tuple(reward.shape)}, discount {tuple(discount.shape)}, next_q {tuple(next_q.shape)}."
        )
    with silent(reward):
        return reward + discount * soft_value(next_q, log_prior, beta)


def _shift(q: Any, log_prior: Any, beta: Beta) -> _Shifted:
    xp = namespace(q)
    _check_shapes(q, log_prior, "q")
    log_rho, rho, is_full = normalized(log_prior)
    beta, q = clip(_checked_beta(q, beta), _MIN_BETA, _MAX_BETA), as_float64(q)
    constant = q.detach() if isinstance(q, th.Tensor) else q
    best_q = xp.amax(constant if is_full else xp.where(rho > 0, constant, -math.inf), -1, keepdims=True)
    x = beta * ((q if is_full else xp.where(rho > 0, q, best_q)) - best_q)
    return _Shifted(rho, log_rho, best_q, x, beta)


def _log_partition(rho: Any, x: Any) -> Any:
    """log sum_a rho(a) exp(x(a)) for x <= 0, to full relative precision near 0 too, where soft values divide it by beta."""
    xp = namespace(x)
    z = (rho * xp.exp(x)).sum(-1)
    z_minus_1 = (rho * xp.expm1(x)).sum(-1)
    # both branches are exact where they are used; the inner `where` keeps the gradient of the other one finite
    near_1 = z_minus_1 > -0.5
    return xp.where(near_1, xp.log1p(xp.where(near_1, z_minus_1, 0.0)), xp.log(z))


def _checked_beta(q: Any, beta: Beta) -> Any:
    """Return beta in double precision: a number, or a 0-d tensor where it is one."""
    given: Any
    if isinstance(beta, (np.ndarray, th.Tensor)):
        if beta.ndim != 0:
            raise ValueError(f"beta must be a number or a 0-d tensor, got shape {tuple(beta.shape)}.")
        if isinstance(beta, th.Tensor) and (not beta.is_cpu or is_traced()):
            return beta.double()
        given = beta.item()
    else:
        given = beta
    if not (isinstance(given, Real) and float(given) >= 0):
        raise ValueError(f"beta is an inverse temperature and must be in [0, inf], got {given!r}.")
    return beta.double() if isinstance(q, th.Tensor) and isinstance(beta, th.Tensor) else float(given)


def _check_shapes(values: Any, log_prior: Any, name: str) -> None:
    if isinstance(values, th.Tensor) and is_traced():
        return
    if log_prior.ndim != 1 or values.ndim == 0 or values.shape[-1] != log_prior.shape[0]:
        raise ValueError(
            f"{name} must have shape (..., A) and log_prior (A,), got {tuple(values.shape)} and {tuple(log_prior.shape)}."
        )
