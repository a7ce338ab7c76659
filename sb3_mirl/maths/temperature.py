"""Rules for the inverse temperature beta."""

from numbers import Real

import torch as th

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


def inverse_loss_beta(beta: th.Tensor, loss: th.Tensor, lr: float, max_beta: float = th.inf) -> th.Tensor:
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
    if loss.dim() > 1 or loss.numel() == 0:
        raise ValueError(f"loss must be a scalar or (n,), one value per update, got shape {tuple(loss.shape)}.")
    # an accelerator is not waited for
    if loss.device.type == "cpu" and not loss.min().item() >= 0:
        raise ValueError(f"A loss is not negative and a number, got {loss.tolist()}.")
    inverse = th.atleast_1d(loss).to(beta.dtype).reciprocal().clamp(max=max_beta)  # (n,)
    return moving_average(beta, inverse, lr)
