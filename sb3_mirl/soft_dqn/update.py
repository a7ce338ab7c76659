"""Gradient updates of soft Q-learning as functions of networks and tensors, without the algorithm around them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples
from stable_baselines3.dqn.policies import QNetwork
from torch.nn import functional as F

from sb3_mirl.maths import entropy_bonus, inverse_loss_beta, soft_q_target
from sb3_mirl.soft_dqn.policies import SoftQPolicy

Samples = ReplayBufferSamples | DictReplayBufferSamples
Sampler = Callable[[int], Samples]


class Minibatch(NamedTuple):
    """B transitions (s, a, r, s') with the target network already evaluated at s'."""

    observations: PyTorchObs  # (B, ...)
    actions: th.Tensor  # (B, 1)
    rewards: th.Tensor  # (B,)
    discounts: th.Tensor  # (B,) gamma^k, 0 where the episode terminated
    next_q: th.Tensor  # (B, A)


class UpdateRule(NamedTuple):
    """What a gradient update needs to know beside the policy and the data."""

    gamma: float
    max_grad_norm: float | None
    beta_lr: float  # 0: beta does not follow the loss
    beta_max: float
    entropy_bonus: bool


def one_by_one(sample: Sampler, target: QNetwork, gamma: float, n: int, batch_size: int) -> Iterator[Minibatch]:
    """n minibatches as SB3 draws them: sampled, and evaluated by the target network, one after the other."""
    for _ in range(n):
        yield _minibatch(sample(batch_size), target, gamma)


def all_at_once(sample: Sampler, target: QNetwork, gamma: float, n: int, batch_size: int) -> Iterator[Minibatch]:
    """
    The same n minibatches from one draw and one forward pass: the target network does not change between
    them, so the results are those of :func:`one_by_one` up to the rounding of a larger matrix product.
    """
    drawn = _minibatch(sample(n * batch_size), target, gamma)
    for start in range(0, n * batch_size, batch_size):
        rows = slice(start, start + batch_size)
        yield Minibatch(_rows(drawn.observations, rows), *(tensor[rows] for tensor in drawn[1:]))


def gradient_update(policy: SoftQPolicy, batch: Minibatch, rule: UpdateRule) -> th.Tensor:
    """
    One update of theta and beta, lines 7 and 8 of Algorithm 1: the loss is that of Eq. (13) with Huber's function
    in place of the square (footnote 4), averaged over the batch; beta follows the loss before the step.

    :param policy: changed in place: network, optimiser state and, where ``rule.beta_lr > 0``, beta
    :param batch: B transitions
    :param rule: constants of the update
    :return: scalar, the loss before the step
    :raises ValueError: if the loss or its gradient is not finite (on the CPU, before the weights change)
    """
    target = soft_q_target(batch.rewards, batch.discounts, batch.next_q, policy.log_prior, policy.beta)
    if rule.entropy_bonus:
        target = target + batch.discounts * entropy_bonus(policy.log_prior.shape[0], policy.beta)
    q = policy.q_net(batch.observations).gather(1, batch.actions).squeeze(1)  # (B,)
    loss = F.smooth_l1_loss(q, target.to(q.dtype))

    policy.optimizer.zero_grad()
    loss.backward()
    norm = _clip_gradients(policy.q_net, rule.max_grad_norm)
    if loss.device.type == "cpu" and not th.isfinite(loss.detach() + norm):
        raise ValueError(_describe_non_finite(batch, q, target, norm))
    policy.optimizer.step()
    if rule.beta_lr > 0:
        beta = inverse_loss_beta(policy.beta, loss.detach(), rule.beta_lr, rule.beta_max)
        policy.beta.copy_(beta.clamp(max=rule.beta_max))
    return loss.detach()


def sampler(buffer: ReplayBuffer, env: object) -> Sampler:
    """``buffer.sample`` with the environment that normalises what it returns."""
    return lambda batch_size: buffer.sample(batch_size, env=env)  # type: ignore[arg-type]


@th.no_grad()
def _minibatch(data: Samples, target: QNetwork, gamma: float) -> Minibatch:
    discounts = gamma if data.discounts is None else data.discounts.squeeze(1)
    return Minibatch(
        observations=data.observations,
        actions=data.actions.long(),
        rewards=data.rewards.squeeze(1),
        discounts=discounts * (1 - data.dones.squeeze(1)),
        next_q=target(data.next_observations),
    )


def _rows(observations: PyTorchObs, rows: slice) -> PyTorchObs:
    if isinstance(observations, dict):
        return {key: value[rows] for key, value in observations.items()}
    return observations[rows]


def _clip_gradients(q_net: QNetwork, max_norm: float | None) -> th.Tensor:
    return th.nn.utils.clip_grad_norm_(q_net.parameters(), th.inf if max_norm is None else max_norm)


def _describe_non_finite(batch: Minibatch, q: th.Tensor, target: th.Tensor, norm: th.Tensor) -> str:
    named = {
        "the rewards": batch.rewards,
        "the target network's Q(s', a')": batch.next_q,
        "the soft targets": target,
        "the online network's Q(s, a)": q,
        "the gradient's norm": norm,
    }
    culprit = next((name for name, values in named.items() if not th.isfinite(values).all()), "the loss")
    return (
        f"Training stopped before the weights changed: {culprit} of a minibatch are not finite. "
        "Lower learning_rate or scale the rewards; the model can still be saved."
    )
