"""Returns with information costs, on policy: from rewards, costs and values in the order of time.

All tensors are (T, ...), time first, of one shape; every other axis is a trajectory of its own. Equation numbers refer to
Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning", 2017, of whose misprints Eq. (43) is
one: its first term is V(s_t) + tau KL_t, as in Eq. (47).

==============  =====================================================================================================
``rewards``     r_t
``costs``       c_t = tau KL(pi(.|s_t) || rho), of the state in which step t was taken; negative where it is -tau entropy
``discounts``   d_t: gamma, 0 where step t terminated the episode
``next_values``  V(s_{t+1}) of the successor of step t; of the last observation where a time limit ended the episode
``cut``         True where a time limit ended the episode: what follows in the data belongs to another one
==============  =====================================================================================================
"""

from numbers import Integral, Real

import torch as th


def soft_returns(
    rewards: th.Tensor,
    costs: th.Tensor,
    discounts: th.Tensor,
    next_values: th.Tensor,
    lambda_: float = 1.0,
    cut: th.Tensor | None = None,
) -> th.Tensor:
    """
    Soft lambda-returns of states, G_t = r_t - c_t + d_t [(1 - lambda) V(s_{t+1}) + lambda G_{t+1}], Eqs. (34), (41), (43).

    After the last step, and after one with ``cut``, V(s_{t+1}) stands for G_{t+1}. The cost of s_t is part of its return:
    the target of V(s_t).

    :param rewards: (T, ...) r_t
    :param costs: (T, ...) c_t
    :param discounts: (T, ...) d_t
    :param next_values: (T, ...) V(s_{t+1})
    :param lambda_: in [0, 1]: 0 for one step, 1 for all that there are
    :param cut: (T, ...) bool, None where no time limit ended an episode
    :return: (T, ...) G_t
    :raises ValueError: if the shapes differ, or ``lambda_`` is outside [0, 1]
    """
    _check(rewards, costs, discounts, next_values, cut)
    if not (isinstance(lambda_, Real) and 0 <= lambda_ <= 1):
        raise ValueError(f"lambda_ is the weight of an average and must be in [0, 1], got {lambda_!r}.")
    returns, gains = th.empty_like(next_values), rewards - costs
    following = next_values[-1] if len(next_values) else next_values  # G_{t+1}
    for t in reversed(range(len(rewards))):
        if cut is not None:
            following = th.where(cut[t], next_values[t], following)
        following = gains[t] + discounts[t] * ((1 - lambda_) * next_values[t] + lambda_ * following)
        returns[t] = following
    return returns


def soft_q_returns(
    rewards: th.Tensor,
    costs: th.Tensor,
    discounts: th.Tensor,
    next_values: th.Tensor,
    lambda_: float = 1.0,
    cut: th.Tensor | None = None,
) -> th.Tensor:
    """
    Soft lambda-returns of states and actions, c_t + G_t, Eqs. (25), (46), (47): the targets of Q(s_t, a_t), which leaves
    out the cost of s_t and contains all later ones.

    :param rewards: (T, ...) r_t
    :param costs: (T, ...) c_t
    :param discounts: (T, ...) d_t
    :param next_values: (T, ...) V(s_{t+1})
    :param lambda_: in [0, 1]
    :param cut: (T, ...) bool, None where no time limit ended an episode
    :return: (T, ...) targets
    :raises ValueError: if the shapes differ, or ``lambda_`` is outside [0, 1]
    """
    return costs + soft_returns(rewards, costs, discounts, next_values, lambda_, cut)


def n_step_soft_returns(
    rewards: th.Tensor,
    costs: th.Tensor,
    discounts: th.Tensor,
    next_values: th.Tensor,
    n_steps: int,
    cut: th.Tensor | None = None,
) -> th.Tensor:
    """
    Soft returns of a fixed number of steps, sum_{k < n} gamma^k (r_{t+k} - c_{t+k}) + gamma^n V(s_{t+n}), Eq. (41); of
    fewer steps at a ``cut`` and at the end of the data.

    :param rewards: (T, ...) r_t
    :param costs: (T, ...) c_t
    :param discounts: (T, ...) d_t
    :param next_values: (T, ...) V(s_{t+1})
    :param n_steps: n >= 1
    :param cut: (T, ...) bool, None where no time limit ended an episode
    :return: (T, ...) returns
    :raises ValueError: if the shapes differ, or ``n_steps`` is not a positive integer
    """
    _check(rewards, costs, discounts, next_values, cut)
    if not (isinstance(n_steps, Integral) and n_steps >= 1):
        raise ValueError(f"n_steps must be a positive integer, got {n_steps!r}.")
    gains = rewards - costs
    returns = gains + discounts * next_values  # of one step
    for _ in range(min(int(n_steps), len(rewards)) - 1):
        following = th.cat([returns[1:], next_values[-1:]])
        if cut is not None:
            following = th.where(cut, next_values, following)
        returns = gains + discounts * following
    return returns


def _check(rewards: th.Tensor, costs: th.Tensor, discounts: th.Tensor, next_values: th.Tensor, cut: th.Tensor | None) -> None:
    given = {"rewards": rewards, "costs": costs, "discounts": discounts, "next_values": next_values}
    if cut is not None:
        given["cut"] = cut
        if cut.dtype != th.bool:
            raise ValueError(f"cut must be True or False for each step (torch.bool), got {cut.dtype}.")
    if rewards.dim() == 0 or any(value.shape != rewards.shape for value in given.values()):
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in given.items())
        raise ValueError(f"All must have one shape (T, ...), time first, got {shapes}.")
