"""The action prior rho and its updates, on the simplex."""

import math
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_mirl.maths.arrays import Array, as_float64, cast_like, clip, is_at_hand, is_traced, log_softmax, namespace, silent
from sb3_mirl.maths.averages import moving_average

_TOLERANCE = 1e-3  # of a sum of probabilities, in any precision


def uniform_log_prior(n_actions: int) -> th.Tensor:
    """
    log rho of the uniform prior, rho(a) = 1/|A|.

    :param n_actions: number of actions |A| >= 1
    :return: (A,) float64
    :raises ValueError: if there is no action
    """
    if not (isinstance(n_actions, Integral) and n_actions >= 1):
        raise ValueError(f"A prior needs at least one action, got n_actions={n_actions!r}.")
    return th.full((n_actions,), -math.log(n_actions), dtype=th.float64)


class Normalized(NamedTuple):
    """A prior that sums to 1, in double precision."""

    log_rho: Any  # (A,)
    rho: Any  # (A,)
    is_full: bool  # no action is excluded; False where that is not known


def normalized(log_prior: Array) -> Normalized:
    """
    Return rho and log rho of logarithms that need not be normalised. Those of arrays are remembered by their values: from
    step to step most formulas meet the same prior.

    :param log_prior: (A,) log rho(a), -inf allowed
    :return: not to be written to
    :raises ValueError: if ``log_prior`` is no prior
    """
    if isinstance(log_prior, np.ndarray):
        return _normalized_array(log_prior.tobytes(), log_prior.dtype)
    check_log_prior(log_prior)
    log_rho = log_softmax(as_float64(log_prior))
    return Normalized(log_rho, log_rho.exp(), False)


@lru_cache(maxsize=8)
def _normalized_array(values: bytes, dtype: np.dtype[Any]) -> Normalized:
    log_prior = as_float64(np.frombuffer(values, dtype))
    with silent(log_prior):
        log_rho = log_softmax(log_prior)
        rho = np.exp(log_rho)
    lowest = rho.min()
    if math.isnan(lowest):
        _check_has_support(log_prior)
    log_rho.flags.writeable = rho.flags.writeable = False
    return Normalized(log_rho, rho, bool(lowest > 0))


def check_log_prior(log_prior: Array) -> bool:
    """
    Refuse what holds no logarithms of a prior. An accelerator is not waited for.

    :param log_prior: (A,) log rho(a), -inf allowed; need not be normalised
    :return: whether no action is excluded; False where that is not known
    :raises ValueError: naming the values
    """
    if isinstance(log_prior, np.ndarray):
        return normalized(log_prior).is_full
    if is_at_hand(log_prior) and not is_traced():
        _check_has_support(log_prior)
    return False


def _check_has_support(log_prior: Any) -> None:
    # NaN fails both comparisons, no support the first
    if not -math.inf < log_prior.max().item() < math.inf:
        raise ValueError(f"log_prior must hold logarithms of probabilities, not all of them 0, got {log_prior.tolist()}.")


def update_prior(prior: Array, probs: Array, lr: float | Array) -> Array:
    """
    rho <- (1 - alpha_rho) rho + alpha_rho pi(.|s), Eq. (11), for B policies applied one after the other.

    :param prior: (A,) rho(a)
    :param probs: (B, A) or (A,) pi(a|s) in the order of application
    :param lr: alpha_rho in [0, 1], one for all policies, or (B,) one for each
    :return: (A,) the new prior, of the dtype of ``prior``; it sums to 1 where its inputs do
    :raises ValueError: if the shapes do not match, the rate is outside [0, 1], or probabilities do not sum to 1
    """
    probs, lr = _checked_policies(prior, probs, lr)
    _check_distribution("prior", prior)
    return moving_average(prior, probs, lr)


def _checked_policies(prior: Any, probs: Any, lr: Any) -> tuple[Any, Any]:
    """Return (B, A) probabilities and their rates as the average takes them."""
    probs = cast_like(namespace(probs).atleast_2d(probs), prior)
    if prior.ndim != 1 or probs.ndim != 2 or probs.shape[1] != prior.shape[0]:
        raise ValueError(f"prior must be (A,) and probs (B, A), got {tuple(prior.shape)} and {tuple(probs.shape)}.")
    _check_rate(lr, len(probs))
    _check_distribution("probs", probs)
    return probs, lr.to(prior) if isinstance(lr, th.Tensor) else lr


def _check_rate(lr: Any, n: int) -> None:
    fits: bool
    if isinstance(lr, (np.ndarray, th.Tensor)):
        fits = lr.shape == (n,) and (not is_at_hand(lr) or bool(((lr >= 0) & (lr <= 1)).all()))
    else:
        fits = isinstance(lr, Real) and 0 <= float(lr) <= 1
    if not fits:
        raise ValueError(f"The prior's rate is the weight of an average and must be in [0, 1], got {lr!r}.")


def mixed_with_uniform(prior: Array, weight: float) -> Array:
    """
    (1 - w) rho(a) + w / |A|: no action becomes rarer than w / |A| (the remedy of section 7).

    :param prior: (A,) rho(a)
    :param weight: w in [0, 1]
    :return: (A,)
    :raises ValueError: if the weight is outside [0, 1] or ``prior`` is no distribution
    """
    if not (isinstance(weight, Real) and 0 <= weight <= 1):
        raise ValueError(f"The weight of the uniform distribution must be in [0, 1], got {weight!r}.")
    _check_distribution("prior", prior)
    return _mix(prior, weight)


def _mix(prior: Any, weight: Any) -> Any:
    return (1 - weight) * prior + weight / prior.shape[-1]


def floored_log_prior(prior: Array, floor: float) -> Array:
    """
    log rho(a) after mixing in just enough of the uniform distribution that rho(a) >= floor.

    Zero is absorbing for Eq. (11) followed by Eq. (8): an action whose prior has died is never chosen again.

    :param prior: (A,) rho(a), summing to 1
    :param floor: least probability of an action, in [0, 1/|A|]
    :return: (A,) log-probabilities; summing to 1 as probabilities
    :raises ValueError: if the floor is outside [0, 1/|A|] or ``prior`` is no distribution
    """
    _check_floor(floor, prior.shape[-1])
    _check_distribution("prior", prior)
    return _log_floored(prior, floor)


def _check_floor(floor: float, n_actions: int) -> None:
    if not (isinstance(floor, Real) and 0 <= floor <= 1 / n_actions):
        raise ValueError(f"The prior's floor must be in [0, 1/{n_actions}] for {n_actions} actions, got {floor!r}.")


def _log_floored(prior: Any, floor: float) -> Any:
    # with rho_min < floor, the weight w solves (1 - w) rho_min + w / |A| = floor
    lowest = prior.min()
    weight = clip((floor - lowest) / clip(1 / prior.shape[-1] - lowest, low=1e-300), 0, 1)
    high_enough = isinstance(weight, float) and weight == 0  # else mixing changes nothing either
    with silent(prior):
        return namespace(prior).log(prior if high_enough else _mix(prior, weight))


def fold_policies(log_prior: Array, log_probs: Array, lr: float | Array, floor: float) -> Array:
    """
    :func:`update_prior`, then :func:`floored_log_prior`, from and to logarithms. What is a prior at the beginning stays one,
    and is not checked again.

    :param log_prior: (A,) log rho(a), -inf allowed; normalised inside
    :param log_probs: (B, A) log pi(a|s) in the order of application
    :param lr: alpha_rho in [0, 1], one for all policies, or (B,) one for each
    :param floor: least probability of an action, in [0, 1/|A|]
    :return: (A,) the new log rho(a)
    :raises ValueError: as these two
    """
    prior = normalized(log_prior).rho
    probs, lr = _checked_policies(prior, namespace(log_probs).exp(log_probs), lr)
    _check_floor(floor, len(prior))
    return _log_floored(moving_average(prior, probs, lr), floor)


def kkt_gap(log_probs: Array, log_prior: Array) -> Array:
    """
    max_a c(a) - 1 with c(a) = E_s[pi(a|s)] / rho(a), over the given states: how far rho is from a fixed point of Eq. (11).

    The Karush-Kuhn-Tucker conditions of the prior's optimality are c(a) = 1 on its support and c(a) <= 1 elsewhere.
    As sum_a rho(a) c(a) = 1, they hold exactly where this is 0; else the policy wants some action more often than rho says.

    :param log_probs: (B, A) log pi(a|s) of B states, weighted equally
    :param log_prior: (A,) log rho(a)
    :return: scalar, >= 0 up to rounding; inf where the policy takes an action that the prior excludes
    :raises ValueError: if the shapes do not match
    """
    if log_probs.ndim != 2 or log_prior.shape != log_probs.shape[1:]:
        raise ValueError(
            f"log_probs must be (B, A) and log_prior (A,), got {tuple(log_probs.shape)} and {tuple(log_prior.shape)}."
        )
    xp: Any = namespace(log_probs)
    with silent(log_probs):
        marginal = xp.exp(as_float64(log_probs)).mean(0)
        return xp.where(marginal > 0, marginal / xp.exp(as_float64(log_prior)), 0.0).max() - 1


def _check_distribution(name: str, probs: Any) -> None:
    """On average over the leading axes: the sum is all that it costs. An accelerator is not waited for."""
    if not is_at_hand(probs):
        return
    mean_sum = probs.sum().item() / math.prod(probs.shape[:-1])
    if not (abs(mean_sum - 1) < _TOLERANCE and probs.min().item() >= 0):
        raise ValueError(f"{name} must hold probabilities that sum to 1, got {probs.tolist()}.")
