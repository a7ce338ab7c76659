"""The losses of SoftA2C as functions of tensors, and a gradient step that is refused where it would spoil the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from torch.nn import functional as F

from sb3_mirl.maths import kl_to_prior


class Losses(NamedTuple):
    """Scalars."""

    policy: th.Tensor
    value: th.Tensor  # mean square, without 1/2
    entropy: th.Tensor  # minus the mean entropy, as SB3 logs it
    total: th.Tensor


def action_log_probs(distribution: Distribution) -> th.Tensor:
    """
    Return log pi(a|s) of all actions.

    :param distribution: SB3's categorical one
    :return: (N, A), float64
    """
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.distribution.logits.double().log_softmax(-1)


def negative_entropy(distribution: Distribution, log_prob: th.Tensor) -> th.Tensor:
    """
    Return what a policy without a reference policy pays per unit of temperature at each state.

    :param distribution: SB3's, of N actions
    :param log_prob: (N,) log pi(a|s) of the actions taken, which stands for minus the entropy where that has no closed form
    :return: (N,) in nats
    """
    entropy: th.Tensor | None = distribution.entropy()
    return log_prob if entropy is None else -entropy


def policy_gradient_losses(
    log_probs: th.Tensor,
    actions: th.Tensor,
    values: th.Tensor,
    advantages: th.Tensor,
    returns: th.Tensor,
    log_prior: th.Tensor,
    tau: float,
    vf_coef: float,
) -> Losses:
    """
    Losses of entropy-regularised actor-critic, Eqs. (50), (84)-(86) of Schulman et al. 2017:
    -log pi(a|s) Delta + tau KL(pi || rho) + vf_coef (V - G)^2, averaged.

    :param log_probs: (B, A) log pi(a|s)
    :param actions: (B,)
    :param values: (B,) V(s)
    :param advantages: (B,) Delta
    :param returns: (B,) G
    :param log_prior: (A,) log rho(a)
    :param tau: temperature
    :param vf_coef: weight of the mean square
    """
    policy = -(advantages * _chosen(log_probs, actions)).mean()
    value = F.mse_loss(values, returns)
    total = policy + tau * kl_to_prior(log_probs, log_prior).mean() + vf_coef * value
    return Losses(policy, value, _negative_entropy(log_probs), total)


def soft_q_losses(
    log_probs: th.Tensor,
    actions: th.Tensor,
    values: th.Tensor,
    advantages: th.Tensor,
    returns: th.Tensor,
    log_prior: th.Tensor,
    tau: float,
    vf_coef: float,
    normalize_advantage: bool = False,
) -> Losses:
    """
    Losses of soft Q-learning with Q(s, a) = V(s) + tau log(pi(a|s) / rho(a)), Eqs. (44), (46), (57) of Schulman et al. 2017.

    With u = log(pi(a|s) / rho(a)) - KL(pi || rho), whose mean under pi is 0, the error of Q is tau u - Delta: the advantage
    is Delta - tau u, the value's target G - tau u, and there is no loss of entropy. At ``vf_coef = 1 / (2 tau)`` the
    gradient is that of (Q - y)^2 / (2 tau).

    :param log_probs: (B, A) log pi(a|s)
    :param actions: (B,)
    :param values: (B,) V(s)
    :param advantages: (B,) Delta
    :param returns: (B,) G
    :param log_prior: (A,) log rho(a)
    :param tau: temperature > 0
    :param vf_coef: weight of the mean square
    :param normalize_advantage: whether Delta - tau u is brought to mean 0 and standard deviation 1
    """
    chosen = _chosen(log_probs, actions)
    with th.no_grad():
        u = chosen - log_prior.log_softmax(-1)[actions] - kl_to_prior(log_probs, log_prior)
        advantages, returns = advantages - tau * u, returns - tau * u
        if normalize_advantage:
            advantages = normalized(advantages)
    policy = -(advantages * chosen).mean()
    value = F.mse_loss(values, returns.to(values.dtype))
    return Losses(policy, value, _negative_entropy(log_probs), policy + vf_coef * value)


def normalized(advantages: th.Tensor) -> th.Tensor:
    """
    Return advantages with mean 0 and standard deviation 1, as A2C makes them.

    :param advantages: (B,)
    """
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


@contextmanager
def finite_steps(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """
    A block in which the optimiser refuses gradients that are not finite.

    :param optimizer: of a policy
    :raises ValueError: before the weights change
    """

    def check(*_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not th.isfinite(th.stack([gradient.sum() for gradient in gradients])).all():
            raise ValueError(
                "Training stopped before the weights changed: the gradient is not finite. Lower learning_rate or scale the "
                "rewards; the model can still be saved."
            )

    hook = optimizer.register_step_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _chosen(log_probs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    return log_probs.gather(-1, actions[:, None]).squeeze(-1)


def _negative_entropy(log_probs: th.Tensor) -> th.Tensor:
    return (log_probs.exp() * log_probs).sum(-1).mean()
