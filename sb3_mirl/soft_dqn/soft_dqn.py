"""Soft Q-learning as an SB3 algorithm."""

import math
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TrainFreq, TrainFrequencyUnit

from sb3_mirl.soft_dqn import checks, memory
from sb3_mirl.soft_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SoftQPolicy
from sb3_mirl.soft_dqn.running import RunningDQN

SelfSoftDQN = TypeVar("SelfSoftDQN", bound="SoftDQN")

ENV_STEPS_PER_UPDATE = 4


def update_ratio(n_envs: int) -> tuple[int, int]:
    """``train_freq`` and ``gradient_steps`` that make one update per :data:`ENV_STEPS_PER_UPDATE` environment steps."""
    shared = math.gcd(ENV_STEPS_PER_UPDATE, n_envs)
    return ENV_STEPS_PER_UPDATE // shared, n_envs // shared


class SoftDQN(RunningDQN):
    """
    Soft Q-learning (SQL) with a fixed uniform action prior: DQN with the target of Eq. (12),
    r + gamma / beta log sum_a' rho(a') exp(beta Q(s', a')), and the inverse temperature beta following the loss.

    Paper: Grau-Moya, Leibfried & Vrancx, "Soft Q-Learning with Mutual-Information Regularization", ICLR 2019
    (its baselines SQL and SQL_m). Default hyperparameters are those of its Atari experiments (section 5.2, Table 3);
    the loss is Huber's (footnote 4). At ``beta_schedule="constant", beta_init=inf`` the target is DQN's.

    With ``n_steps > 1`` rewards are summed as in SB3's DQN: the bootstrap value is soft, but the information cost
    of the n - 1 actions in between is left out.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of :class:`SoftQPolicy`
    :param env: environment with discrete actions (or its id)
    :param learning_rate: alpha_Q, a number or a function of the remaining progress
    :param buffer_size: capacity of the replay memory, in transitions
    :param learning_starts: environment steps with random actions before the first update
    :param batch_size: transitions per gradient update
    :param tau: weight of the online network in the target update, in (0, 1]; 1 copies it
    :param gamma: discount factor in [0, 1]
    :param train_freq: as in SB3 (counted in calls of ``env.step``). If neither this nor ``gradient_steps`` is given,
        there is one update per 4 environment steps whatever the number of environments
    :param gradient_steps: as in SB3: updates after each rollout, -1 for as many as environment steps
    :param replay_buffer_class: None chooses by itself: frames of stacked images are stored once
        (:class:`~sb3_mirl.replay.FrameReplayBuffer`), everything else as in SB3
    :param replay_buffer_kwargs: arguments of the replay buffer
    :param optimize_memory_usage: SB3's memory-saving variant of its own buffer
    :param n_steps: length of the returns
    :param target_update_interval: environment steps between updates of the target network
        (40 000 = the paper's 10 000 gradient updates)
    :param exploration_fraction: fraction of the training over which epsilon falls
        (0.02 of the default 5e7 steps = 1e6 steps)
    :param exploration_initial_eps: initial probability of a random action
    :param exploration_final_eps: final probability of a random action
    :param max_grad_norm: bound of the gradient's norm, None for no bound
    :param beta_schedule: "inverse_loss" (EMA of 1/L, line 8 of Algorithm 1), "linear" (section 4.1) or "constant"
    :param beta_init: beta before the first update, > 0; inf with "constant" only
    :param beta_lr: alpha_beta, rate of the moving average per gradient update ("inverse_loss")
    :param beta_slope: c, increase of beta per environment step ("linear")
    :param beta_max: upper bound of beta and of 1/L; the paper has none, and beta overflows where the loss reaches 0
    :param exploration: how random actions are drawn: "uniform" (SQL) or "marginal", from the frequencies of all
        executed actions (SQL_m)
    :param entropy_bonus: False regularises with the KL to the uniform prior; True with the entropy
        (no log|A| in the target, Schulman et al. 2017, Eq. 83)
    :param update_path: "fast" draws the minibatches of a rollout at once, evaluates the target network on all of them
        together and suits memory layout and products to the device; "eager" does one after the other, as SB3 does
    :param precision: "float32", or "bfloat16" for the networks' arithmetic (weights, targets and losses stay float32); of
        use on a GPU, and on a CPU with AVX-512
    :param stats_window_size: episodes in the moving averages of ``rollout/``
    :param tensorboard_log: directory of the TensorBoard logs, None for no logs
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 for silence, 1 for information, 2 for debugging
    :param seed: seed of Python's, NumPy's, PyTorch's and the environment's random numbers. On the CPU a seed gives the same
        run to the last bit with the same versions and number of threads (``OMP_NUM_THREADS``); CUDA promises it only up to
        rounding, from which runs drift apart
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the networks now
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    explorations: ClassVar[tuple[str, ...]] = ("uniform", "marginal")
    tb_log_name: ClassVar[str] = "SoftDQN"
    policy: SoftQPolicy

    def __init__(
        self,
        policy: str | type[SoftQPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2e-5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 50_000,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] | None = None,
        gradient_steps: int | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 40_000,
        exploration_fraction: float = 0.02,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.1,
        max_grad_norm: float | None = 10,
        beta_schedule: str = "inverse_loss",
        beta_init: float = 0.01,
        beta_lr: float = 3e-5,
        beta_slope: float = 1e-3,
        beta_max: float = 1e4,
        exploration: str = "uniform",
        entropy_bonus: bool = False,
        update_path: str = "fast",
        precision: str = "float32",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
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
            train_freq=4 if train_freq is None else train_freq,
            gradient_steps=1 if gradient_steps is None else gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        # (train_freq, gradient_steps) as chosen by this class; None where the user chose
        self._chosen_ratio: tuple[Any, int] | None = None
        if train_freq is None and gradient_steps is None:
            self._chosen_ratio = (self.train_freq, self.gradient_steps)
        self.beta_schedule = beta_schedule
        self.beta_init = beta_init
        self.beta_lr = beta_lr
        self.beta_slope = beta_slope
        self.beta_max = beta_max
        self.exploration = exploration
        self.entropy_bonus = entropy_bonus
        self.update_path = update_path
        self.precision = precision

        if _init_setup_model:
            self._setup_model()

    @property
    def prior(self) -> np.ndarray:
        """(A,) action prior rho(a), summing to 1."""
        return self.policy.prior

    def _setup_model(self) -> None:
        self._check_arguments()
        self._choose_update_ratio()
        chosen_class, without_env = self.replay_buffer_class, self.env is None
        if self.replay_buffer is None:
            # loaded for inference, there is no environment, and no memory to allocate
            self.replay_buffer = memory.no_replay_buffer() if without_env else memory.make_replay_buffer(self)
        super()._setup_model()
        checks.check_train_freq(self)
        self.replay_buffer_class = chosen_class
        if without_env:
            self.replay_buffer = None
        self.policy.beta.fill_(self.beta_init)

    def _check_arguments(self) -> None:
        checks.check_arguments(self)

    def _choose_update_ratio(self) -> None:
        if self._chosen_ratio is None or self._chosen_ratio != (self.train_freq, self.gradient_steps):
            return
        frequency, self.gradient_steps = update_ratio(self.n_envs)
        self.train_freq = TrainFreq(frequency, TrainFrequencyUnit.STEP)  # type: ignore[assignment]
        self._chosen_ratio = (self.train_freq, self.gradient_steps)

    def _create_aliases(self) -> None:
        checks.check_policy(self)
        if self.update_path == "fast" and self.device.type == "cpu":
            self.policy.suit_cpu(bfloat16=self.precision == "bfloat16")
        super()._create_aliases()

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """As in SB3."""
        super().set_parameters(*args, **kwargs)
        self.policy.adopt_optimizer_state()

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        observations, _ = self.policy.obs_to_tensor(self._last_obs)
        with th.no_grad():
            self._rollout_q = self.q_net(observations)
        actions = self._explore(self.policy.greedy_actions(self._rollout_q).cpu().numpy())
        if not th.isfinite(self._rollout_q).all():
            raise ValueError(f"The Q-values are not finite at step {self.num_timesteps}. Lower learning_rate.")
        self._check_last_loss()
        self._run_pending_updates()
        return actions, actions

    def _explore(self, greedy: np.ndarray) -> np.ndarray:
        """Replaces each of the (B,) greedy actions with probability epsilon, one coin per environment."""
        coins, draws = np.random.rand(2, len(greedy))
        explores = coins < self.exploration_rate
        if not explores.any():
            return greedy
        # the last edge is 1 up to rounding, and must not be passed
        edges = np.cumsum(self._exploration_probs())[:-1]
        return np.where(explores, np.searchsorted(edges, draws, side="right"), greedy)

    def _exploration_probs(self) -> np.ndarray:
        """(A,) distribution of random actions."""
        counts = self.policy.action_counts.cpu().numpy()
        if self.exploration == "uniform" or counts.sum() == 0:
            return np.full(len(counts), 1 / len(counts))
        return counts / counts.sum()

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        argmax_a [log rho(a) + beta Q(s, a)], or with probability epsilon a random action (section 4.1).

        :param observation: one observation or a batch of them
        :param state: passed through
        :param episode_start: unused, as in DQN
        :param deterministic: no random actions
        :return: actions, shape () or (B,), and ``state``
        """
        actions, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if not deterministic and self.exploration_rate > 0:
            actions = self._explore(np.atleast_1d(actions)).reshape(np.shape(actions))
        return actions, state
