"""How SoftDQN runs: beginning and continuing, what is checked at every step, and what is logged."""

import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFreq, TrainFrequencyUnit

from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.workers import watched
from sb3_mirl.maths import linear_beta
from sb3_mirl.soft_dqn import checks, memory
from sb3_mirl.soft_dqn.allocator import keep_freed_memory
from sb3_mirl.soft_dqn.updating import UpdatingDQN

SelfRunningDQN = TypeVar("SelfRunningDQN", bound="RunningDQN")

LOG_ENTRIES = 10_000
"""In one call of ``learn``, about: episodes are short where a lost life ends one, and runs may have 5e7 steps."""


class RunningDQN(UpdatingDQN):
    """DQN whose runs check what they are given, are logged within bounds, and can be continued. SoftDQN's base."""

    tb_log_name: ClassVar[str]
    beta_slope: float
    exploration: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._epsilon_ceiling = 1.0
        self._next_log = 0  # environment step before which no log entry is written
        self._rollout_q: th.Tensor | None = None  # (n_envs, A) Q at the states of the current actions
        self._while_learning = ExitStack()  # what is to be released when `learn` ends, however it ends
        self._checkpointed_run: Any = None  # the checkpoint package's record of this run
        self._resumption: Callable[[BaseCallback], None] | None = None  # set by `resume`: the last part of it

    @property
    def beta(self) -> float:
        """Inverse temperature."""
        return float(self.policy.beta)

    @property
    def beta_max_q(self) -> float:
        """beta max_a Q(s, a) of Figure 8, mean over the environments' current states; NaN before the first."""
        return float("nan") if self._rollout_q is None else self.beta * self._rollout_q.amax(-1).mean().item()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.replay_buffer is None and self.env is not None:
            self.replay_buffer = memory.make_replay_buffer(self)
        if self._resumption is None or total_timesteps + self.num_timesteps != self._total_timesteps:
            # a continued run's epsilon goes on from where it was: the schedule's new length must not raise it again
            self._epsilon_ceiling = 1.0 if reset_num_timesteps or self.num_timesteps == 0 else self.exploration_rate
        self._rollout_q, self._next_log = None, 0
        if reset_num_timesteps or self._last_obs is None:
            memory.end_trajectory(self.replay_buffer)
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        checks.check_observations(self._last_obs, self.observation_space, "the environment's reset")
        self._log_update_ratio()
        if self._resumption is not None:
            self._resumption(result[1])
            self._resumption = None
        return result

    def _log_update_ratio(self) -> None:
        assert isinstance(self.train_freq, TrainFreq)
        if self.train_freq.unit == TrainFrequencyUnit.STEP and self.gradient_steps > 0:
            ratio = self.train_freq.frequency * self.n_envs / self.gradient_steps
            self.logger.info(f"One gradient update of {self.batch_size} transitions per {ratio:g} environment steps")

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        checks.check_transition(reward, new_obs, dones, infos, self.observation_space, self.num_timesteps)
        if self.exploration == "marginal":
            counts = self.policy.action_counts
            counts += th.bincount(th.as_tensor(buffer_action, device=counts.device).long(), minlength=len(counts))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        # SB3 averages the returns of episodes before `_store_transition` refuses what is not finite
        kept = [info if math.isfinite(info.get("episode", {}).get("r", 0)) else {} for info in infos]
        super()._update_info_buffer(kept, dones)

    def _on_step(self) -> None:
        super()._on_step()
        self.exploration_rate = min(self.exploration_rate, self._epsilon_ceiling)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)
        if self.beta_schedule == "linear":
            self.policy.beta.fill_(min(linear_beta(self.num_timesteps, self.beta_slope), self.beta_max))

    def dump_logs(self) -> None:
        """
        Writes the log, with beta and :attr:`beta_max_q`; nothing if the last entry is less than ``total_timesteps`` / 10 000
        environment steps old.
        """
        if self.num_timesteps < self._next_log:
            return
        self._next_log = self.num_timesteps + self._total_timesteps // LOG_ENTRIES
        self._record_state()
        super().dump_logs()

    def _record_state(self) -> None:
        self._record_loss()
        self.logger.record("train/beta", self.beta)
        if self._rollout_q is not None:
            self.logger.record("train/beta_max_q", self.beta_max_q)

    def learn(
        self: SelfRunningDQN,
        total_timesteps: int = 50_000_000,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRunningDQN:
        """
        As in SB3, with the paper's budget where none is given. The first call after :func:`sb3_mirl.resume` does what is
        left of the run: then ``total_timesteps`` counts from the beginning of the run.

        :param total_timesteps: environment steps (5e7 steps = 2e8 frames of Atari)
        :param callback: callback(s) called at every step
        :param log_interval: episodes between two log entries. In long runs of short episodes these are also at least
            ``total_timesteps`` / 10 000 environment steps apart: about 10 000 entries (16 MB of TensorBoard for 18 actions)
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues: steps, epsilon, beta and prior go on
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, and for rewards, observations, Q-values or losses that are not
            finite. The model is whole then, without the step in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        check_range("total_timesteps", total_timesteps, 0, math.inf)
        if log_interval is not None:
            check_range("log_interval", log_interval, 1, math.inf)
        if self._resumption is not None and reset_num_timesteps:
            if total_timesteps <= self.num_timesteps:
                warnings.warn(f"Nothing is left to do: {self.num_timesteps} of {total_timesteps} steps in all are done.")
            total_timesteps, reset_num_timesteps = max(total_timesteps - self.num_timesteps, 0), False
        self._overlap = self._overlaps_updates()
        if self.update_path == "fast" and self.device.type == "cpu":
            keep_freed_memory()
        try:
            with self._while_learning, watched(self.env, lambda: self.num_timesteps):
                super().learn(
                    total_timesteps,
                    callback=callback,
                    log_interval=log_interval,
                    tb_log_name=self.tb_log_name if tb_log_name is None else tb_log_name,
                    reset_num_timesteps=reset_num_timesteps,
                    progress_bar=progress_bar,
                )
            self._run_pending_updates()
        except BaseException:
            # the environments may be a step ahead of the agent: the next `learn` begins with new episodes
            self._last_obs = None
            raise
        finally:
            self._overlap, self._pending_updates = False, None
        return self

    def _excluded_save_params(self) -> list[str]:
        own = ["_rollout_q", "_next_log", "_while_learning", "_checkpointed_run", "_resumption"]
        return [*super()._excluded_save_params(), *own]
