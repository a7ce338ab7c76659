"""Bellman targets of state-action critics, and their mean squared error."""

import torch as th


def bellman_target(
    reward: th.Tensor,
    discount: th.Tensor,
    next_q: th.Tensor,
    next_log_prob: th.Tensor | None = None,
    temperature: float | th.Tensor = 0.0,
) -> th.Tensor:
    """
    One-sample Bellman target r + gamma (Q(s', a') - T log pi(a'|s')) of an action a' ~ pi(.|s').

    Without ``next_log_prob`` it is the ordinary ("hard") target r + gamma Q(s', a'), whose expectation is the operator of
    Fellows et al. 2018 (VIREL), Table 1; with it the soft one of Haarnoja et al. 2018 (SAC), Eqs. (2) and (3).

    :param reward: (...) rewards r(s, a)
    :param discount: (...) gamma^k for a k-step return, 0 where the episode terminated
    :param next_q: (...) Q(s', a'), with several target critics their minimum
    :param next_log_prob: (...) log pi(a'|s') in nats, None for the hard target
    :param temperature: T >= 0, in units of reward
    :return: (...) targets
    :raises ValueError: if the shapes differ
    """
    if not reward.shape == discount.shape == next_q.shape == (next_q if next_log_prob is None else next_log_prob).shape:
        raise ValueError(
            "reward, discount, next_q and next_log_prob must have one shape, got "
            f"{tuple(reward.shape)}, {tuple(discount.shape)}, {tuple(next_q.shape)} and "
            f"{None if next_log_prob is None else tuple(next_log_prob.shape)}."
        )
    next_value = next_q if next_log_prob is None else next_q - temperature * next_log_prob
    return reward + discount * next_value


def squared_residual(target: th.Tensor, q: th.Tensor, second_target: th.Tensor | None = None) -> th.Tensor:
    """
    Mean squared Bellman residual E[(y - Q(s, a))^2] over critics and batch, the temperature of Fellows et al. 2018 (Lemma 1)
    up to a scale.

    One sampled target y adds its own variance, which never vanishes. With a second, independent one the estimate is
    E[(y' - Q)(y'' - Q)], which is unbiased for the error of the expected target (as Baird's two samples, 1995); it is clipped
    at 0.

    :param target: (B,) y, from one draw of the next actions
    :param q: (n_critics, B) Q(s, a) of each critic
    :param second_target: (B,) y'' from a second draw, None for the square of one
    :return: scalar >= 0, in units of reward squared
    :raises ValueError: if the shapes do not match
    """
    shapes = {tuple(y.shape) for y in (target, second_target) if y is not None}
    if q.dim() != 2 or shapes != {(q.shape[1],)}:
        raise ValueError(f"q must be (n_critics, B) and the targets (B,), got {tuple(q.shape)} and {sorted(shapes)}.")
    error = target - q  # (n_critics, B)
    if second_target is None:
        return error.square().mean()
    return (error * (second_target - q)).mean().clamp(min=0)
