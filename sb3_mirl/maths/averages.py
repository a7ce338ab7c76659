"""The exponential moving average that both the prior and the inverse temperature are."""

import torch as th


def moving_average(average: th.Tensor, values: th.Tensor, lr: float | th.Tensor) -> th.Tensor:
    """
    x <- (1 - alpha) x + alpha v for n values v one after the other, in closed form:
    x (1 - alpha)^n + alpha sum_i (1 - alpha)^(n - i) v_i, i = 1..n.

    :param average: (...) x
    :param values: (n, ...) of the dtype of ``average``, in the order of application
    :param lr: alpha in [0, 1], one for all values, or (n,) one for each
    :return: (...) the new average
    """
    if isinstance(lr, th.Tensor):
        kept = th.cat([1 - lr, lr.new_ones(1)]).flip(0).cumprod(0).flip(0)  # (n + 1,) of what is there before each value
        return kept[0] * average + (lr * kept[1:]) @ values
    n = len(values)
    decay = (1 - lr) ** th.arange(n - 1, -1, -1, dtype=average.dtype, device=average.device)  # (n,)
    return (1 - lr) ** n * average + lr * (decay @ values)
