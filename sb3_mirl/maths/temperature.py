"""Rules for the inverse temperature beta, and for the temperature T of VIREL."""

from numbers import Real
from typing import Any

import torch as th

from sb3_mirl.maths.arrays import Array, cast_like, clip, is_at_hand, namespace, silent
from sb3_mirl.maths.averages import moving_average


def linear_beta(step: int, slope: float) -> float:
    """
    beta_i = max(c i, c), the schedule of Fox et al. 2016 used in section 4.1; the maximum avoids beta = 0 at i = 0.

    :param step: i, environment steps since the start of training (never reset)
    :param slope: c > 0, per environment step
    :return: beta
    :raises ValueError: if the step is negative or the slope not positive
    """
    if not (isinstance(slope, Real) and slope > 0 and isinstance(step, Real) and step >= 0):
        raise ValueError(f"linear_beta needs step >= 0 and slope > 0, got step={step!r}, slope={slope!r}.")
    return max(slope * step, slope)


def inverse_loss_beta(beta: Array, loss: Array, lr: float, max_beta: float = th.inf) -> Array:
    """
    beta <- (1 - alpha_beta) beta + alpha_beta / L, line 8 of Algorithm 1 (Leibfried et al. 2018), for n losses one after
    the other.

    :param beta: scalar, the current inverse temperature
    :param loss: scalar or (n,), L(theta, rho) of each minibatch before its gradient step, in the order of the steps
    :param lr: alpha_beta in [0, 1], per gradient update
    :param max_beta: cap of 1/L, so that beta stays finite when the loss reaches 0
    :return: scalar, of the dtype of ``beta``
    :raises ValueError: if the losses are neither a scalar nor a vector, the rate is outside [0, 1], or a loss is negative
        or NaN
    """
    if not (isinstance(lr, Real) and 0 <= lr <= 1):
        raise ValueError(f"beta's rate is the weight of an average and must be in [0, 1], got {lr!r}.")
    if loss.ndim > 1 or 0 in loss.shape:
        raise ValueError(f"loss must be a scalar or (n,), one value per update, got shape {tuple(loss.shape)}.")
    if is_at_hand(loss) and not loss.min().item() >= 0:
        raise ValueError(f"A loss is not negative and a number, got {loss.tolist()}.")
    xp: Any = namespace(loss)
    with silent(loss):
        inverse = clip(1 / cast_like(xp.atleast_1d(loss), beta), high=max_beta)  # (n,)
    return moving_average(beta, inverse, lr)


def residual_temperature(
    temperature: th.Tensor, residual: th.Tensor, scale: float, lr: float, minimum: float = 0.0, maximum: float = th.inf
) -> th.Tensor:
    """
    T <- (1 - kappa) T + kappa clip(c L, T_min, T_max): the temperature is the critics' mean squared Bellman residual
    (Fellows et al. 2018, VIREL, Lemma 1, whose letter for this temperature is beta), averaged over updates.

    :param temperature: scalar T, in units of reward
    :param residual: scalar L >= 0, in units of reward squared
    :param scale: c >= 0, in 1 / reward
    :param lr: kappa in [0, 1], per gradient update
    :param minimum: T_min >= 0
    :param maximum: T_max
    :return: scalar, of the dtype of ``temperature``
    :raises ValueError: if an argument is out of its range, or the residual is not a scalar or not a number
    """
    if not (isinstance(lr, Real) and 0 <= lr <= 1):
        raise ValueError(f"The temperature's rate is the weight of an average and must be in [0, 1], got {lr!r}.")
    if not scale >= 0 or not 0 <= minimum <= maximum:
        raise ValueError(
            f"residual_temperature needs scale >= 0 and 0 <= minimum <= maximum, got scale={scale!r}, minimum={minimum!r}, "
            f"maximum={maximum!r}."
        )
    if residual.dim() != 0:
        raise ValueError(f"residual must be a scalar, got shape {tuple(residual.shape)}.")
    # an accelerator is not waited for
    if residual.device.type == "cpu" and not residual.item() >= 0:
        raise ValueError(f"A squared residual is not negative and a number, got {residual.item()}.")
    wanted = (scale * residual).to(temperature.dtype).clamp(minimum, maximum)
    return moving_average(temperature, wanted.unsqueeze(0), lr)
