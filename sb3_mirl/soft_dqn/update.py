"""Gradient updates of soft Q-learning as functions of networks and tensors, without the algorithm around them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch.nn import functional as F

from sb3_mirl.common.moments import drop_dead_moments
from sb3_mirl.maths import entropy_bonus, inverse_loss_beta, soft_q_target
from sb3_mirl.maths.arrays import at_hand, clip, is_at_hand, is_finite, namespace, silent
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.soft_dqn import adam
from sb3_mirl.soft_dqn.networks import ByTorch, plain, prepared
from sb3_mirl.soft_dqn.policies import SoftQPolicy, leaves_out_bad_steps

Samples = ReplayBufferSamples | DictReplayBufferSamples
CPU_ROWS = 256
"""Observations that the CPU gives to the target network at once: more of them leave its caches."""

AT_ONCE = 64
"""Minibatches that are drawn together: of stacks of images each takes 2 MB."""

Sampler = Callable[[int, int], Samples]
"""(number of minibatches, transitions in each) -> all their transitions, one minibatch after the other"""


class Minibatch(NamedTuple):
    """B transitions (s, a) with the targets of their values."""

    observations: PyTorchObs  # (B, ...)
    actions: th.Tensor  # (B, 1)
    targets: th.Tensor  # (B,) Eq. (12)


Columns = TypeVar("Columns", bound=ReplayBufferSamples | DictReplayBufferSamples | Minibatch)


class UpdateRule(NamedTuple):
    """What a gradient update needs to know beside the policy and the data."""

    gamma: float
    max_grad_norm: float | None
    beta_lr: float  # 0: beta does not follow the losses
    beta_max: float
    entropy_bonus: bool
    bfloat16: bool = False  # network arithmetic only: weights, targets and losses stay float32
    in_numpy: bool = False  # on the CPU: formulas, losses and small networks

    def kind(self, tensor: th.Tensor) -> Any:
        """Return a tensor as the formulas are to take it."""
        return at_hand(tensor) if self.in_numpy else tensor


def eager_updates(policy: SoftQPolicy, sample: Sampler, rule: UpdateRule, n: int, batch_size: int) -> th.Tensor:
    """
    Make n updates as SB3 does: sample, evaluate the target network, step, and again.

    Beta, like the prior and the target network, is the same for all of them; it follows their losses afterwards.

    :param policy: changed in place
    :param sample: draws minibatches
    :param rule: constants of the updates
    :param n: number of updates
    :param batch_size: B, transitions in each
    :return: (n,) losses
    :raises ValueError: on the CPU, for a target, loss or gradient that is not finite
    """
    rule = rule._replace(in_numpy=False)
    losses = [gradient_update(policy, make_batch(policy, sample(1, batch_size), rule), rule) for _ in range(n)]
    return follow_losses(policy, th.stack(losses), rule)


def fast_updates(policy: SoftQPolicy, sample: Sampler, rule: UpdateRule, n: int, batch_size: int) -> th.Tensor:
    """
    Make the updates of :func:`eager_updates`, with up to :data:`AT_ONCE` minibatches drawn, and their targets computed,
    together: the same results up to the rounding of a larger matrix product.
    """
    sizes = [min(AT_ONCE, n - first) for first in range(0, n, AT_ONCE)]
    losses = [_losses_on(policy, sample(size, batch_size), rule, size) for size in sizes]
    return follow_losses(policy, losses[0] if len(losses) == 1 else th.cat(losses), rule)


def updates_on(policy: SoftQPolicy, data: Samples, rule: UpdateRule, n: int) -> th.Tensor:
    """Make the updates of :func:`fast_updates` on n minibatches, one after the other in ``data``."""
    return follow_losses(policy, _losses_on(policy, data, rule, n), rule)


def _losses_on(policy: SoftQPolicy, data: Samples, rule: UpdateRule, n: int) -> th.Tensor:
    batch = make_batch(policy, data, rule)
    if not rule.in_numpy:
        with _autocast(batch.targets, rule):
            batch = batch._replace(observations=prepared(policy.q_net, batch.observations))
    losses = [gradient_update(policy, part, rule) for part in split(batch, n)]
    return th.from_numpy(np.array(losses)) if rule.in_numpy else th.stack(losses)


def make_batch(policy: SoftQPolicy, data: Samples, rule: UpdateRule) -> Minibatch:
    """
    Compute the targets of transitions, Eq. (12).

    :param policy: with the target network; not changed
    :param data: transitions as the replay buffer gives them
    :param rule: constants of the updates
    :return: the transitions with their targets
    :raises ValueError: on the CPU, for a target that is not finite
    """
    rewards, dones = rule.kind(data.rewards)[:, 0], rule.kind(data.dones)[:, 0]
    discounts = (rule.gamma if data.discounts is None else rule.kind(data.discounts)[:, 0]) * (1 - dones)
    next_q = _target_values(policy, data.next_observations, rule)  # (n B, A)
    log_prior, beta = policy.prior_and_beta_for(next_q)
    targets = soft_q_target(rewards, discounts, next_q, log_prior, beta)
    if rule.entropy_bonus:
        targets = targets + discounts * entropy_bonus(len(log_prior), beta)
    if is_at_hand(targets) and not is_finite(targets):
        values = {"the rewards": rewards, "the target network's Q(s', a')": next_q, "the soft targets": targets}
        raise ValueError(_describe_non_finite(values))
    return Minibatch(data.observations, data.actions.long(), th.as_tensor(targets, dtype=th.float32))


def _target_values(policy: SoftQPolicy, observations: PyTorchObs, rule: UpdateRule) -> Any:
    """(n B, A)"""
    network: Any = policy.q_net_target
    if rule.in_numpy and (mlp := plain(network, rule.bfloat16)) is not None:
        return mlp.forward(observations)
    first = next(iter(observations.values())) if isinstance(observations, dict) else observations
    at_once = CPU_ROWS if first.device.type == "cpu" else len(first)
    parts = [_rows(observations, slice(i, i + at_once)) for i in range(0, len(first), at_once)]
    with th.no_grad(), _autocast(first, rule):
        return rule.kind(th.cat([network(part) for part in parts]).float())


def split(batch: Columns, n: int) -> list[Columns]:
    """
    Divide transitions into minibatches.

    :param batch: columns of transitions, each a tensor, a dictionary of tensors or None
    :param n: number of parts
    :return: n batches of equal size, in order
    """
    if n == 1:
        return [batch]
    size, make = len(batch.actions) // n, cast(Any, type(batch))
    return [make(*(_rows(column, slice(i * size, (i + 1) * size)) for column in batch)) for i in range(n)]


def _rows(column: Any, rows: slice) -> Any:
    if isinstance(column, dict):
        return {key: value[rows] for key, value in column.items()}
    return None if column is None else column[rows]


def gradient_update(policy: SoftQPolicy, batch: Minibatch, rule: UpdateRule) -> Any:
    """
    Update theta once, line 7 of Algorithm 1: the loss is that of Eq. (13) with Huber's function in place of the
    square (footnote 4), averaged over the batch.

    :param policy: network and optimiser state are changed in place
    :param batch: B transitions
    :param rule: constants of the update
    :return: scalar, the loss before the step; NaN if the step was left out because it or its gradient is not finite
    :raises ValueError: in place of that NaN on the CPU, and for optimisers that cannot leave out a step
    """
    if rule.in_numpy:
        return _update_in_numpy(policy, batch, rule)
    with _autocast(batch.targets, rule):
        q = policy.q_net(batch.observations)
    q = q.float().gather(1, batch.actions).squeeze(1)  # (B,)
    loss = F.smooth_l1_loss(q, batch.targets)

    optimizer = policy.optimizer
    optimizer.zero_grad()
    loss.backward()
    gradients = [p.grad for p in policy.q_net.parameters() if p.grad is not None]
    norm = th.nn.utils.get_total_norm(gradients)
    loss = loss.detach()
    total = loss + norm
    zero = total - total  # NaN where one of them is not finite
    if zero.device.type != "cpu" and leaves_out_bad_steps(optimizer):
        # looking at values here would wait for the device
        _step_on_device(cast(Any, optimizer), norm, zero, rule.max_grad_norm)
        return loss + zero
    if zero != 0:
        raise ValueError(_describe_non_finite({"the online network's Q(s, a)": q, "the gradient's norm": norm}))
    if rule.max_grad_norm is not None and norm > rule.max_grad_norm:
        th.nn.utils.clip_grads_with_norm_(policy.q_net.parameters(), rule.max_grad_norm, norm)
    optimizer.step()
    drop_dead_moments(optimizer)
    return loss


def _step_on_device(optimizer: Any, norm: th.Tensor, zero: th.Tensor, max_norm: float | None) -> None:
    """Clip the gradient and step, or leave out the step where ``zero`` is NaN, by the protocol of torch's ``GradScaler``."""
    optimizer.found_inf = th.ne(zero, 0, out=th.empty_like(zero))
    if max_norm is not None:
        optimizer.grad_scale = (norm / max_norm).clamp(min=1)  # by which the kernel divides the gradient
    optimizer.step()
    # another's step is not to find them
    optimizer.found_inf = optimizer.grad_scale = None


def _update_in_numpy(policy: SoftQPolicy, batch: Minibatch, rule: UpdateRule) -> float:
    network = plain(policy.q_net, rule.bfloat16) or ByTorch(policy.q_net, rule.bfloat16)
    actions, targets = at_hand(batch.actions)[:, 0], at_hand(batch.targets)  # (B,)
    with silent(targets):
        values = network.forward(batch.observations)  # (B, A)
        rows = np.arange(len(values))
        q = values[rows, actions]
        error = q - targets
        slope = clip(error, -1, 1)  # Huber's derivative
        loss = float((slope * (error - 0.5 * slope)).sum()) / len(error)
        grad = np.zeros_like(values)
        grad[rows, actions] = slope / len(values)
        network.backward(grad)
        norm = network.gradient_norm()
    if not math.isfinite(loss + norm):
        raise ValueError(_describe_non_finite({"the online network's Q(s, a)": q, "the gradient's norm": np.array(norm)}))
    if rule.max_grad_norm is not None and norm > rule.max_grad_norm:
        network.scale_gradient(rule.max_grad_norm / (norm + 1e-6))  # as torch's clip_grad_norm_
    adam.step(policy.optimizer)
    drop_dead_moments(policy.optimizer)
    return loss


def follow_losses(policy: SoftQPolicy, losses: th.Tensor, rule: UpdateRule) -> th.Tensor:
    """
    Let beta follow the losses of the updates, line 8 of Algorithm 1 for each of them, unless one is NaN.

    :param policy: beta is changed in place where ``rule.beta_lr > 0``
    :param losses: (n,) losses in the order of the updates
    :param rule: constants of the updates
    :return: the losses
    """
    if rule.beta_lr > 0:
        beta: Any = rule.kind(policy.beta)
        new = clip(inverse_loss_beta(beta, rule.kind(losses), rule.beta_lr, rule.beta_max), high=rule.beta_max)
        xp = namespace(beta)
        beta[...] = xp.where(xp.isnan(new), beta, new)
    return losses


def sampler(buffer: ReplayBuffer, env: VecNormalize | None) -> Sampler:
    """
    Draw what as many calls of ``buffer.sample`` draw: a seed gives the same minibatches one by one and together, and
    each has the buffer's own composition (HER's share of virtual transitions).

    :param buffer: the replay memory
    :param env: normalises the samples, if given
    :return: draws minibatches
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


def _describe_non_finite(values: dict[str, Any]) -> str:
    culprit = next((name for name, value in values.items() if not is_finite(value)), "the loss")
    return (
        f"Training stopped before the weights changed: {culprit} of a minibatch are not finite. "
        "Lower learning_rate or scale the rewards; the model can still be saved."
    )
