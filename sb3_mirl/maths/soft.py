"""The soft value, its policy and its information cost.

Everything is computed in float64 from differences to the best action, ``x = beta (q - max q) <= 0``, so that neither
``exp(beta q)`` nor the 1/beta in front of the logarithm can overflow or amplify rounding. A batch of action values
is a few hundred numbers: the precision costs nothing beside the network that made them.
"""

import math
from numbers import Real
from typing import NamedTuple

import torch as th

# Stand-ins for beta = 0 and beta = inf that keep 1/beta finite; every float64 result is the limit already
_MIN_BETA, _MAX_BETA = 1e-100, 1e100


class _Shifted(NamedTuple):
    log_rho: th.Tensor  # (A,) normalised
    best_q: th.Tensor  # (..., 1) max of q over the support of rho
    x: th.Tensor  # (..., A) beta (q - best_q), 0 outside the support
    beta: th.Tensor  # scalar in [1e-100, 1e100]


def soft_value(q: th.Tensor, log_prior: th.Tensor, beta: float | th.Tensor) -> th.Tensor:
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
    s = _shift(q, log_prior, beta)
    return (s.best_q.squeeze(-1) + _log_partition(s.log_rho.exp(), s.x) / s.beta).to(q.dtype)


def boltzmann_log_probs(q: th.Tensor, log_prior: th.Tensor, beta: float | th.Tensor) -> th.Tensor:
    """
    The optimal policy for a fixed prior, log pi(a|s) = log rho(a) + beta (Q(s, a) - V(s)), Eq. (8).

    :param q: (..., A) action values
    :param log_prior: (A,) log rho(a), -inf allowed; normalised inside
    :param beta: inverse temperature in [0, inf]; inf shares the mass among the best actions in proportion to rho
    :return: (..., A) log-probabilities, float64; -inf where rho(a) = 0
    :raises ValueError: if the shapes do not match, beta is negative or NaN, or ``log_prior`` is no prior
    """
    s = _shift(q, log_prior, beta)
    return (s.log_rho + s.x).log_softmax(-1)


def action_scores(q: th.Tensor, log_prior: th.Tensor, beta: float | th.Tensor) -> th.Tensor:
    """
    Scores with the order of log rho(a) + beta Q(s, a); their argmax is the greedy action of section 4.1.

    Unlike that sum they are finite at beta = inf, where ties in Q fall to the first action as in DQN.

    :param q: (..., A) action values
    :param log_prior: (A,) log rho(a), -inf allowed
    :param beta: inverse temperature in [0, inf]
    :return: (..., A) scores, float64; -inf where rho(a) = 0
    :raises ValueError: if the shapes do not match, beta is negative or NaN, or ``log_prior`` is no prior
    """
    beta = _check(q, log_prior, beta)
    log_rho = log_prior.double()
    # the sum over max(beta, 1), as beta = inf needs
    scores = beta.clamp(max=1) * q.double() + (1 / beta).clamp(max=1) * log_rho
    return scores.masked_fill(log_rho == -th.inf, -th.inf)


def kl_to_prior(log_probs: th.Tensor, log_prior: th.Tensor) -> th.Tensor:
    """
    KL(pi(.|s) || rho) = sum_a pi(a|s) log(pi(a|s) / rho(a)), the information cost of Eq. (2).

    :param log_probs: (..., A) log pi(a|s)
    :param log_prior: (A,) log rho(a); normalised inside
    :return: (...) divergences in nats; inf where pi has mass outside the support of rho
    :raises ValueError: if the shapes do not match or ``log_prior`` is no prior
    """
    _check_actions(log_probs, log_prior, "log_probs")
    probs = log_probs.exp()
    log_ratio = log_probs - log_prior.to(th.float64).log_softmax(-1)
    return th.where(probs > 0, probs * log_ratio, 0.0).sum(-1)


def mutual_information(log_probs: th.Tensor) -> th.Tensor:
    """
    I(S; A) = E_s[KL(pi(.|s) || E_s[pi(.|s)])] over the given states, weighted equally (Proposition 1).

    :param log_probs: (B, A) log pi(a|s) of B states
    :return: scalar, in nats, between 0 and log A
    :raises ValueError: if ``log_probs`` is not a matrix
    """
    if log_probs.dim() != 2:
        raise ValueError(f"log_probs must have shape (B, A), one row per state, got {tuple(log_probs.shape)}.")
    marginal = log_probs.double().exp().mean(0)
    return kl_to_prior(log_probs.double(), marginal.log()).mean()


def entropy_bonus(n_actions: int, beta: float | th.Tensor) -> float | th.Tensor:
    """
    log|A| / beta, by which the entropy-regularised value exceeds the one with KL to a uniform prior
    (Schulman, Chen & Abbeel 2017, Eq. 83: their target has no log|A| term).

    :param n_actions: number of actions |A|
    :param beta: inverse temperature > 0
    """
    return math.log(n_actions) / beta


def soft_q_target(
    reward: th.Tensor, discount: th.Tensor, next_q: th.Tensor, log_prior: th.Tensor, beta: float | th.Tensor
) -> th.Tensor:
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
    return reward + discount * soft_value(next_q, log_prior, beta)


def _shift(q: th.Tensor, log_prior: th.Tensor, beta: float | th.Tensor) -> _Shifted:
    beta = _check(q, log_prior, beta).clamp(_MIN_BETA, _MAX_BETA)
    log_rho = log_prior.double().log_softmax(-1)
    rho, q = log_rho.exp(), q.double()
    best_q = q.detach().masked_fill(rho == 0, -th.inf).amax(-1, keepdim=True)
    x = beta * (th.where(rho > 0, q, best_q) - best_q)
    return _Shifted(log_rho, best_q, x, beta)


def _log_partition(rho: th.Tensor, x: th.Tensor) -> th.Tensor:
    """log sum_a rho(a) exp(x(a)) for x <= 0, to full relative precision near 0 too, where soft values divide it by beta."""
    z = (rho * x.exp()).sum(-1)
    z_minus_1 = (rho * x.expm1()).sum(-1)
    # both branches are exact where they are used; the inner `where` keeps the gradient of the other one finite
    near_1 = z_minus_1 > -0.5
    return th.where(near_1, z_minus_1.where(near_1, 0.0).log1p(), z.log())


def _is_traced() -> bool:
    """Whether torch records what is done, for a compiler or a file: values are not known then, nor shapes be compared."""
    return th.compiler.is_compiling() or th.jit.is_tracing() or th.onnx.is_in_onnx_export()


def _check(q: th.Tensor, log_prior: th.Tensor, beta: float | th.Tensor) -> th.Tensor:
    _check_actions(q, log_prior, "q")
    if not isinstance(beta, th.Tensor):
        if not (isinstance(beta, Real) and beta >= 0):
            raise ValueError(f"beta is an inverse temperature and must be in [0, inf], got {beta!r}.")
        return th.tensor(beta, dtype=th.float64, device=q.device)
    if beta.dim() != 0:
        raise ValueError(f"beta must be a number or a 0-d tensor, got shape {tuple(beta.shape)}.")
    # reading a value on an accelerator would wait for it
    if beta.device.type == "cpu" and not _is_traced() and not beta >= 0:
        raise ValueError(f"beta is an inverse temperature and must be in [0, inf], got {beta.item()}.")
    return beta.double()


def _check_actions(values: th.Tensor, log_prior: th.Tensor, name: str) -> None:
    if _is_traced():
        return
    if log_prior.dim() != 1 or values.dim() == 0 or values.shape[-1] != log_prior.shape[0]:
        raise ValueError(
            f"{name} must have shape (..., A) and log_prior (A,), got {tuple(values.shape)} and {tuple(log_prior.shape)}."
        )
    # NaN fails both comparisons, no support the first; an accelerator is not waited for
    if log_prior.device.type == "cpu" and not -math.inf < log_prior.amax().item() < math.inf:
        raise ValueError(f"log_prior must hold logarithms of probabilities, not all of them 0, got {log_prior.tolist()}.")
