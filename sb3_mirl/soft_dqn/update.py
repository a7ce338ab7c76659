"""Gradient updates of soft Q-learning as functions of networks and tensors, without the algorithm around them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import QNetwork
from torch.nn import functional as F

from sb3_mirl.maths import entropy_bonus, inverse_loss_beta, soft_q_target
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.soft_dqn.policies import SoftQPolicy

Samples = ReplayBufferSamples | DictReplayBufferSamples
Sampler = Callable[[int, int], Samples]
"""(number of minibatches, transitions in each) -> all their transitions, one minibatch after the other"""


class Minibatch(NamedTuple):
    """B transitions (s, a, r, s') with the target network already evaluated at s'."""

    observations: PyTorchObs  # (B, ...)
    actions: th.Tensor  # (B, 1)
    rewards: th.Tensor  # (B,)
    discounts: th.Tensor  # (B,) gamma^k, 0 where the episode terminated
    next_q: th.Tensor  # (B, A)


Columns = TypeVar("Columns", bound=ReplayBufferSamples | DictReplayBufferSamples | Minibatch)


class UpdateRule(NamedTuple):
    """What a gradient update needs to know beside the policy and the data."""

    gamma: float
    max_grad_norm: float | None
    beta_lr: float  # 0: beta does not follow the loss
    beta_max: float
    entropy_bonus: bool
    bfloat16: bool = False  # network arithmetic only: weights, targets and losses stay float32


def one_by_one(policy: SoftQPolicy, sample: Sampler, rule: UpdateRule, n: int, batch_size: int) -> th.Tensor:
    """
    n updates as SB3 does them: sample, evaluate the target network, step, and again.

    :param policy: changed in place
    :param sample: draws minibatches
    :param rule: constants of the updates
    :param n: number of updates
    :param batch_size: B, transitions in each
    :return: (n,) losses
    """
    return th.stack([gradient_update(policy, make_batch(policy, sample(1, batch_size), rule), rule) for _ in range(n)])


def all_at_once(policy: SoftQPolicy, sample: Sampler, rule: UpdateRule, n: int, batch_size: int) -> th.Tensor:
    """
    The updates of :func:`one_by_one` with all n minibatches drawn, and evaluated by the target network, together.

    The target network does not change between the updates, so the results are the same up to the rounding of a
    larger matrix product. The CPU evaluates minibatch by minibatch: it saves no launches, and needs less memory.
    """
    data = sample(n, batch_size)
    parts = split(data, n) if data.rewards.device.type == "cpu" else [data]
    batches = (batch for part in parts for batch in split(make_batch(policy, part, rule), n // len(parts)))
    return th.stack([gradient_update(policy, batch, rule) for batch in batches])


@th.no_grad()
def make_batch(policy: SoftQPolicy, data: Samples, rule: UpdateRule) -> Minibatch:
    """Transitions as the replay buffer gives them, with the target network evaluated at s'."""
    discounts = rule.gamma if data.discounts is None else data.discounts.squeeze(1)
    with _autocast(data.rewards, rule):
        next_q = policy.q_net_target(data.next_observations)
    return Minibatch(
        observations=data.observations,
        actions=data.actions.long(),
        rewards=data.rewards.squeeze(1),
        discounts=discounts * (1 - data.dones.squeeze(1)),
        next_q=next_q.float(),
    )


def split(batch: Columns, n: int) -> list[Columns]:
    """
    :param batch: columns of transitions, each a tensor, a dictionary of tensors or None
    :param n: number of parts
    :return: n batches of equal size, in order
    """
    size, make = len(batch.rewards) // n, cast(Any, type(batch))
    return [make(*(_rows(column, slice(i * size, (i + 1) * size)) for column in batch)) for i in range(n)]


def _rows(column: Any, rows: slice) -> Any:
    if isinstance(column, dict):
        return {key: value[rows] for key, value in column.items()}
    return None if column is None else column[rows]


def gradient_update(policy: SoftQPolicy, batch: Minibatch, rule: UpdateRule) -> th.Tensor:
    """
    One update of theta and beta, lines 7 and 8 of Algorithm 1: the loss is that of Eq. (13) with Huber's function
    in place of the square (footnote 4), averaged over the batch; beta follows the loss before the step.

    :param policy: changed in place: network, optimiser state and, where ``rule.beta_lr > 0``, beta
    :param batch: B transitions
    :param rule: constants of the update
    :return: scalar, the loss before the step; NaN if the step was left out because it or its gradient is not finite
    :raises ValueError: on the CPU, in place of that NaN
    """
    target = soft_q_target(batch.rewards, batch.discounts, batch.next_q, policy.log_prior, policy.beta)
    if rule.entropy_bonus:
        target = target + batch.discounts * entropy_bonus(policy.log_prior.shape[0], policy.beta)
    with _autocast(batch.rewards, rule):
        q = policy.q_net(batch.observations)
    q = q.float().gather(1, batch.actions).squeeze(1)  # (B,)
    loss = F.smooth_l1_loss(q, target.to(q.dtype))

    policy.optimizer.zero_grad()
    loss.backward()
    norm = _clip_gradients(policy.q_net, rule.max_grad_norm)
    finite = th.isfinite(loss.detach() + norm)
    if loss.device.type != "cpu":
        # looking at `finite` would wait for the device: a fused optimiser looks there, and leaves out the step
        policy.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    elif not finite:
        raise ValueError(_describe_non_finite(batch, q, target, norm))
    policy.optimizer.step()
    if rule.beta_lr > 0:
        beta = inverse_loss_beta(policy.beta, loss.detach(), rule.beta_lr, rule.beta_max).clamp(max=rule.beta_max)
        policy.beta.copy_(th.where(finite, beta, policy.beta))
    return th.where(finite, loss.detach(), th.nan)


def sampler(buffer: ReplayBuffer, env: VecNormalize | None) -> Sampler:
    """
    Draws what as many calls of ``buffer.sample`` draw: a seed gives the same minibatches one by one and all at once, and
    each has a buffer's own composition (HER's share of virtual transitions).

    :param env: normalises the samples, if given
    """
    if isinstance(buffer, FrameReplayBuffer):
        return lambda n, batch_size: buffer.sample_batches(n, batch_size, env)
    return lambda n, batch_size: _join([buffer.sample(batch_size, env) for _ in range(n)])


def _join(parts: list[Any]) -> Samples:
    return parts[0] if len(parts) == 1 else type(parts[0])(*map(_concatenate, zip(*parts, strict=True)))


def _concatenate(column: tuple[Any, ...]) -> Any:
    if isinstance(column[0], dict):
        return {key: th.cat([part[key] for part in column]) for key in column[0]}
    return None if column[0] is None else th.cat(column)


def _autocast(like: th.Tensor, rule: UpdateRule) -> th.autocast:
    return th.autocast(like.device.type, th.bfloat16, enabled=rule.bfloat16)


def _clip_gradients(q_net: QNetwork, max_norm: float | None) -> th.Tensor:
    parameters = [p for p in q_net.parameters() if p.grad is not None]
    norm = th.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # the CPU need not multiply by 1; elsewhere looking at the norm would wait for the device
    if max_norm is not None and (norm.device.type != "cpu" or norm > max_norm):
        th.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


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
