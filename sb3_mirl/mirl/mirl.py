"""MIRL: soft Q-learning with a learned action prior, as an SB3 algorithm."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.prior_record import PriorRecord
from sb3_mirl.maths import mixed_with_uniform
from sb3_mirl.soft_dqn.defaults import Preset
from sb3_mirl.soft_dqn.policies import SoftQPolicy
from sb3_mirl.soft_dqn.soft_dqn import BetaSchedule, Precision, SoftDQN, UpdatePath


class MIRL(PriorRecord, SoftDQN):
    """
    Mutual-information regularised Q-learning: :class:`~sb3_mirl.SoftDQN` whose prior rho follows the policy,
    rho <- (1 - alpha_rho) rho + alpha_rho pi(.|s), Eq. (11), once per environment step (Algorithm 1).

    The prior enters the target, the greedy action argmax_a [log rho(a) + beta Q(s, a)] and the random actions,
    a ~ rho. At ``prior_lr=0, exploration="uniform"`` this is SoftDQN.

    Paper: Grau-Moya, Leibfried & Vrancx, "Soft Q-Learning with Mutual-Information Regularization", ICLR 2019.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of :class:`SoftQPolicy`
    :param env: environment with discrete actions (or its id)
    :param learning_rate: alpha_Q, a number or a function of the remaining progress; None to choose by policy and budget
    :param buffer_size: capacity of the replay memory, in transitions; None to choose
    :param learning_starts: environment steps with random actions before the first update; None to choose
    :param batch_size: transitions per gradient update; None to choose
    :param tau: weight of the online network in the target update, in [0, 1]; 1 copies it, 0 freezes the target
    :param gamma: discount factor in [0, 1]
    :param train_freq: as in SB3 (counted in calls of ``env.step``). If neither this nor ``gradient_steps`` is given,
        there is one update per 4 environment steps whatever the number of environments
    :param gradient_steps: as in SB3: updates after each rollout, -1 for as many as environment steps
    :param replay_buffer_class: None chooses by itself: frames of stacked images are stored once
        (:class:`~sb3_mirl.replay.FrameReplayBuffer`), everything else as in SB3
    :param replay_buffer_kwargs: arguments of the replay buffer
    :param optimize_memory_usage: SB3's memory-saving variant of its own buffer
    :param n_steps: length of the returns; None to choose: 1, but 5 without images where ``learning_rate`` is chosen too
    :param target_update_interval: environment steps between updates of the target network
        (40 000 = the paper's 10 000 gradient updates); None to choose
    :param exploration_fraction: fraction of the training over which epsilon falls
        (0.02 of the paper's 5e7 steps = 1e6 steps); None to choose
    :param exploration_initial_eps: initial probability of a random action
    :param exploration_final_eps: final probability of a random action; None to choose
    :param max_grad_norm: bound of the gradient's norm, None for no bound
    :param stats_window_size: episodes in the moving averages of ``rollout/``
    :param tensorboard_log: directory of the TensorBoard logs, None for no logs
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 for silence, 1 for information, 2 for debugging
    :param seed: seed of Python's, NumPy's, PyTorch's and the environment's random numbers. On the CPU a seed gives the same
        run to the last bit with the same versions and number of threads (``OMP_NUM_THREADS``); CUDA promises it only up to
        rounding, from which runs drift apart
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the networks now
    :param beta_schedule: "inverse_loss" (EMA of 1/L, line 8 of Algorithm 1), "linear" (section 4.1) or "constant"
    :param beta_init: beta before the first update, > 0; inf with "constant" only; None to choose
    :param beta_lr: alpha_beta, rate of the moving average per gradient update ("inverse_loss"); None to choose
    :param beta_slope: c, increase of beta per environment step ("linear")
    :param beta_max: upper bound of beta and of 1/L; the paper has none, and beta overflows where the loss reaches 0
    :param exploration: how random actions are drawn: "prior" (the paper), "uniform", or "marginal", from the frequencies of
        all executed actions
    :param entropy_bonus: False regularises with the KL to the uniform prior; True with the entropy
        (no log|A| in the target, Schulman et al. 2017, Eq. 83)
    :param prior_lr: alpha_rho in [0, 1], rate of the prior per environment step
        (section 5.2; Table 3 of the paper says 2e-6); None to choose
    :param prior_floor: least probability of an action under the prior, in [0, 1/|A|]; an action that died
        would never come back
    :param exploration_mix: weight in [0, 1] of the uniform distribution in the draw of random actions; the target keeps rho
    :param update_path: "fast" draws the minibatches of a rollout at once, evaluates the target network on all of them
        together and suits memory layout and products to the device; "eager" does one after the other, as SB3 does
    :param precision: "float32", or "bfloat16" for the networks' arithmetic (weights, targets and losses stay float32); of
        use on a GPU, and on a CPU with AVX-512
    :param preset: "auto" chooses what is None by policy and budget, "paper" takes the paper's values everywhere
    """

    exploration_choices: ClassVar[tuple[str, ...]] = ("prior", "uniform", "marginal")

    def __init__(
        self,
        policy: str | type[SoftQPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        buffer_size: int | None = None,
        learning_starts: int | None = None,
        batch_size: int | None = None,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] | None = None,
        gradient_steps: int | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int | None = None,
        target_update_interval: int | None = None,
        exploration_fraction: float | None = None,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float | None = None,
        max_grad_norm: float | None = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        beta_schedule: BetaSchedule = "inverse_loss",
        beta_init: float | None = None,
        beta_lr: float | None = None,
        beta_slope: float = 1e-3,
        beta_max: float = 1e4,
        exploration: Literal["prior", "uniform", "marginal"] = "prior",
        entropy_bonus: bool = False,
        prior_lr: float | None = None,
        prior_floor: float = 1e-8,
        exploration_mix: float = 0.0,
        update_path: UpdatePath = "fast",
        precision: Precision = "float32",
        preset: Preset = "auto",
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            beta_schedule=beta_schedule,
            beta_init=beta_init,
            beta_lr=beta_lr,
            beta_slope=beta_slope,
            beta_max=beta_max,
            entropy_bonus=entropy_bonus,
            update_path=update_path,
            precision=precision,
            preset=preset,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.exploration = exploration
        self.prior_lr: float = prior_lr  # type: ignore[assignment]  # None until `_setup_model` chooses
        self.prior_floor = prior_floor
        self.exploration_mix = exploration_mix

        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.SoftDQN`."""
        super().check_arguments()
        check_range("prior_lr", self.prior_lr, 0, 1)
        check_range("exploration_mix", self.exploration_mix, 0, 1)
        check_range("prior_floor", self.prior_floor, 0, 1 / int(self.action_space.n))  # type: ignore[attr-defined]

    def exploration_probs(self) -> np.ndarray:
        """Return the (A,) distribution of random actions."""
        probs = self.prior if self.exploration == "prior" else super().exploration_probs()
        return mixed_with_uniform(probs, self.exploration_mix)
