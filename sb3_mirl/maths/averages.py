"""The exponential moving average that both the prior and the inverse temperature are."""

from typing import Any

import numpy as np
import torch as th

from sb3_mirl.maths.arrays import Array, namespace


def moving_average(average: Array, values: Array, lr: float | Array) -> Array:
    """
    x <- (1 - alpha) x + alpha v for n values v one after the other, in closed form:
    x (1 - alpha)^n + alpha sum_i (1 - alpha)^(n - i) v_i, i = 1..n.

    :param average: (...) x
    :param values: (n, ...) of the dtype of ``average``, in the order of application
    :param lr: alpha in [0, 1], one for all values, or (n,) one for each
    :return: (...) the new average
    """
    xp: Any = namespace(average)
    if isinstance(lr, (np.ndarray, th.Tensor)):
        later = xp.flip(xp.cumprod(xp.flip(1 - lr, (0,)), 0), (0,))
        kept = xp.concatenate([later, xp.ones_like(later[:1])])  # (n + 1,) of what is there before each value
        return kept[0] * average + (lr * kept[1:]) @ values
    n = len(values)
    if n == 1:  # as below, for every step of one environment
        return (1 - lr) * average + lr * values[0]
    like: dict[str, Any] = dict(dtype=average.dtype, device=average.device) if isinstance(average, th.Tensor) else {}
    decay = (1 - lr) ** xp.arange(n - 1, -1, -1, **like)  # (n,)
    return (1 - lr) ** n * average + lr * (decay @ values)
