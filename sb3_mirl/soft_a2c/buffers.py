"""Rollout buffers that know the information costs of their states."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_mirl.maths import soft_q_returns


class Costs(RolloutBuffer):
    """
    A mixin before one of SB3's rollout buffers: ``advantages`` and ``returns`` are soft, ``rewards`` stay those of the
    environment (with SB3's bootstrap at time limits).

    ``kl`` (T, N) is the divergence of the policy that acted from the reference policy in nats, or minus its entropy, and
    ``costs`` (T, N) what is paid for it, tau times that. Both are written from outside while the rollout is collected.
    """

    kl: np.ndarray
    costs: np.ndarray
    are_paid: bool = True
    """Whether the costs enter the returns."""
    bonus: float = 0.0
    """Added to every reward in the returns."""

    def reset(self) -> None:
        """As in SB3."""
        super().reset()
        self.kl, self.costs = np.zeros_like(self.rewards), np.zeros_like(self.rewards)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        As in SB3, from r_t - tau KL_t (Eqs. 36 and 52 of Schulman et al. 2017).

        :param last_values: (N,) values of the states after the last step
        :param dones: (N,) whether the last step ended an episode
        """
        rewards = self.rewards
        if self.are_paid:
            self.rewards = self.rewards - self.costs
        if self.bonus:
            self.rewards = self.rewards + np.float32(self.bonus)
        try:
            super().compute_returns_and_advantage(last_values, dones)
        finally:
            self.rewards = rewards


class SoftRolloutBuffer(Costs, RolloutBuffer):
    """SB3's rollout buffer with information costs."""


class SoftDictRolloutBuffer(Costs, DictRolloutBuffer):
    """SB3's rollout buffer for dictionary observations, with information costs."""


class QCosts(Costs):
    """A mixin as :class:`Costs`, whose ``returns`` are the targets of Q(s_t, a_t)."""

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        Compute the targets c_t + G_t by :func:`sb3_mirl.maths.soft_q_returns`, lambda being ``gae_lambda``.

        :param last_values: (N,) soft values of the states after the last step
        :param dones: (N,) whether the last step ended an episode
        """
        last = last_values.cpu().numpy().reshape(1, -1)
        # a time limit's bootstrap is in the rewards already, so every end of an episode has discount 0
        ends = np.concatenate([self.episode_starts[1:], dones.reshape(1, -1)])
        rewards, costs = th.from_numpy(self.rewards), th.from_numpy(self.costs)
        discounts = th.from_numpy((self.gamma * (1 - ends)).astype(np.float32))
        next_values = th.from_numpy(np.concatenate([self.values[1:], last]))
        self.returns = soft_q_returns(rewards, costs, discounts, next_values, self.gae_lambda).numpy()
        self.advantages = self.returns - self.values


class SoftQRolloutBuffer(QCosts, RolloutBuffer):
    """SB3's rollout buffer with targets of a soft Q-network."""


class SoftQDictRolloutBuffer(QCosts, DictRolloutBuffer):
    """SB3's rollout buffer for dictionary observations, with targets of a soft Q-network."""


def buffer_with_costs(given: type[RolloutBuffer] | None, observation_space: spaces.Space[Any]) -> type[Costs]:
    """
    Return the class of a rollout buffer with costs.

    :param given: the class that the user chose, or None
    :param observation_space: of the environment
    :return: ``given`` with costs, or the one that fits the observations
    """
    if given is None:
        return SoftDictRolloutBuffer if isinstance(observation_space, spaces.Dict) else SoftRolloutBuffer
    return given if issubclass(given, Costs) else type(given.__name__, (Costs, given), {})
