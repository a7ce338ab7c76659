"""The exponential moving average that both the prior and the inverse temperature are."""

import torch as th


def moving_average(average: th.Tensor, values: th.Tensor, lr: float) -> th.Tensor:
    """
    x <- (1 - alpha) x + alpha v for n values v one after the other, in closed form:
    x (1 - alpha)^n + alpha sum_i (1 - alpha)^(n - i) v_i, i = 1..n.

    :param average: (...) x
    :param values: (n, ...) of the dtype of ``average``, in the order of application
    :param lr: alpha in [0, 1], per value
    :return: (...) the new average
    """
    n = len(values)
    decay = (1 - lr) ** th.arange(n - 1, -1, -1, dtype=average.dtype, device=average.device)  # (n,)
    return (1 - lr) ** n * average + lr * (decay @ values)
