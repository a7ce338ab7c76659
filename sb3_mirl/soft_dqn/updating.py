"""How SoftDQN trains: which update path runs, and when."""

from collections.abc import Callable
from typing import Any

import torch as th

from sb3_mirl.soft_dqn import update
from sb3_mirl.soft_dqn.captured import CapturedUpdates
from sb3_mirl.soft_dqn.policies import SoftQPolicy
from sb3_mirl.soft_dqn.saving import SavingDQN


class UpdatingDQN(SavingDQN):
    """
    DQN whose ``train`` makes soft updates, on the path that suits the device. SoftDQN's base; it sets the arguments.
    """

    policy: SoftQPolicy
    beta_schedule: str
    beta_lr: float
    beta_max: float
    entropy_bonus: bool
    update_path: str
    precision: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mean_loss: th.Tensor | None = None  # scalar, of the last updates
        self._captured_updates: CapturedUpdates | None = None
        self._pending_updates: tuple[int, int] | None = None  # (gradient_steps, batch_size) asked for and not yet run
        self._overlap = False

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Updates theta and beta ``gradient_steps`` times (lines 6 to 9 of Algorithm 1). The targets of these updates are
        made with one beta, as with one prior and one target network; it follows their losses afterwards.

        :param gradient_steps: number of updates
        :param batch_size: transitions in each
        :raises ValueError: if a loss is not finite
        """
        self._pending_updates = (gradient_steps, batch_size)
        if not self._overlap:
            self._run_pending_updates()

    def _run_pending_updates(self) -> None:
        if self._pending_updates is None:
            return
        (gradient_steps, batch_size), self._pending_updates = self._pending_updates, None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        assert self.replay_buffer is not None
        sample = update.sampler(self.replay_buffer, self._vec_normalize_env)
        losses = self._updates()(self.policy, sample, self._update_rule(), gradient_steps, batch_size)
        if self._overlap:
            self.policy.set_training_mode(False)
        self._n_updates += gradient_steps
        self._mean_loss = losses.mean()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.device.type == "cpu":
            # elsewhere reading the loss would wait for the device, and is left to `dump_logs`
            self._record_loss()

    def _updates(self) -> Callable[..., th.Tensor]:
        if self.update_path == "eager":
            return update.one_by_one
        if self.device.type != "cuda":
            return update.all_at_once
        if self._captured_updates is None:
            self._captured_updates = CapturedUpdates()
        return self._captured_updates

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """As in SB3; a learning rate that is a tensor, as CUDA graphs need it, stays one."""
        before = [group["lr"] for group in self.policy.optimizer.param_groups]
        super()._update_learning_rate(optimizers)
        for group, old in zip(self.policy.optimizer.param_groups, before, strict=True):
            if isinstance(old, th.Tensor):
                group["lr"] = old.fill_(group["lr"])

    def _update_rule(self) -> update.UpdateRule:
        beta_lr = self.beta_lr if self.beta_schedule == "inverse_loss" else 0.0
        bfloat16 = self.precision == "bfloat16"
        return update.UpdateRule(self.gamma, self.max_grad_norm, beta_lr, self.beta_max, self.entropy_bonus, bfloat16)

    def _record_loss(self) -> None:
        if self._mean_loss is not None:
            self.logger.record("train/loss", self._mean_loss.item())

    def _check_last_loss(self) -> None:
        if self._mean_loss is not None and not th.isfinite(self._mean_loss):
            raise ValueError(
                f"A loss is not finite at step {self.num_timesteps}; the updates concerned were left out, and the model "
                "can still be saved. Lower learning_rate or scale the rewards."
            )

    def _overlaps_updates(self) -> bool:
        """Whether the updates after a rollout are launched once its successor's first actions are known, to run on the
        device while the environments step; those actions then come from the weights before the updates."""
        return self.update_path == "fast" and self.device.type == "cuda"

    def _excluded_save_params(self) -> list[str]:
        own = ["_mean_loss", "_captured_updates", "_pending_updates", "_overlap"]
        return [*super()._excluded_save_params(), *own]
