"""What SoftA2C and SoftPQN share: rollouts recorded step by step, and a prior that may be learned."""

import math
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.prior_record import PriorRecord
from sb3_mirl.soft_a2c.buffers import Costs
from sb3_mirl.soft_a2c.recorder import Recorder

TOLERANCE = 1e-6  # of the sum of probabilities


class RecordedRollouts(PriorRecord):
    """
    A mixin before one of SB3's on-policy classes. Subclasses write the costs of each step (:meth:`record_step`), and offer
    :class:`~sb3_mirl.PriorCallback` what it asks for.
    """

    policy: Any
    rollout_buffer: Any  # with Costs
    n_envs: int
    n_steps: int
    max_grad_norm: float
    prior_lr: float
    prior_floor: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # (n_envs, A) log pi(a|s) at the states of the current actions, an array or a tensor
        self.rollout_log_probs: np.ndarray | th.Tensor | None = None

    @property
    def prior(self) -> np.ndarray:
        """(A,) reference policy rho(a), summing to 1."""
        return self.policy.prior

    # Hooks

    def begin_rollout(self, rollout_buffer: Costs) -> None:
        """
        Prepare for a rollout.

        :param rollout_buffer: to be filled
        """

    def record_step(self, step: dict[str, Any]) -> None:
        """
        Note what is known of a step, before callbacks see it.

        :param step: the local variables of ``collect_rollouts``
        """
        raise NotImplementedError

    def keeps_prior_record(self) -> bool:
        """As in :class:`~sb3_mirl.common.prior_record.PriorRecord`: where the prior is learned."""
        return self.prior_lr > 0

    # What is inherited, extended

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`."""
        check_range("n_steps", self.n_steps, 1, math.inf, whole=True)
        check_range("prior_lr", self.prior_lr, 0, 1)
        super().check_arguments()

    def check_weights(self, state: dict[str, th.Tensor], path: Any) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`: the prior sums to 1."""
        if "log_prior" in state:
            total = state["log_prior"].logsumexp(-1).item()
            if not math.isclose(total, 0, abs_tol=TOLERANCE):
                raise ValueError(f"The prior in {path} sums to {math.exp(min(total, 700.0)):g} and not to 1.")

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As in SB3, with the costs of each step recorded before ``callback`` is called."""
        if not isinstance(rollout_buffer, Costs):
            raise ValueError(
                f"{type(self).__name__} needs a rollout buffer with costs, got {type(rollout_buffer).__name__}: use "
                "model.rollout_buffer."
            )
        self.begin_rollout(rollout_buffer)
        return super().collect_rollouts(env, Recorder(callback, self.record_step), rollout_buffer, n_rollout_steps)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self.rollout_log_probs = None
        return super()._setup_learn(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout_log_probs"]
