"""Soft Q-learning as an SB3 algorithm."""

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.dqn.dqn import DQN

from sb3_mirl.common.actions import check_discrete
from sb3_mirl.common.allocator import keep_freed_memory
from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.common.off_policy import GuardedOffPolicy
from sb3_mirl.common.prior_callback import action_names
from sb3_mirl.maths import boltzmann_log_probs, linear_beta
from sb3_mirl.maths.arrays import at_hand, is_finite, namespace, to_array
from sb3_mirl.soft_dqn import update
from sb3_mirl.soft_dqn.captured import CapturedUpdates
from sb3_mirl.soft_dqn.defaults import Preset, choose, default_budget, doubts, sees_images, shown
from sb3_mirl.soft_dqn.networks import optimized, plain
from sb3_mirl.soft_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SoftQPolicy

SelfSoftDQN = TypeVar("SelfSoftDQN", bound="SoftDQN")

BetaSchedule = Literal["inverse_loss", "linear", "constant"]
UpdatePath = Literal["fast", "eager"]
Precision = Literal["float32", "bfloat16"]

ENV_STEPS_PER_UPDATE = 4
TOLERANCE = 1e-6  # of the sum of a prior that is loaded


class SoftDQN(GuardedOffPolicy, DQN):
    """
    Soft Q-learning (SQL) with a fixed uniform action prior: DQN with the target of Eq. (12),
    r + gamma / beta log sum_a' rho(a') exp(beta Q(s', a')), and the inverse temperature beta following the loss.

    Paper: Grau-Moya, Leibfried & Vrancx, "Soft Q-Learning with Mutual-Information Regularization", ICLR 2019
    (its baselines SQL and SQL_m). The loss is Huber's (footnote 4). At ``beta_schedule="constant", beta_init=inf`` the
    target is DQN's.

    What depends on the policy and on the length of the run is None in the signature, and chosen when a run begins
    (:func:`~sb3_mirl.soft_dqn.defaults.choose`): with "CnnPolicy" and the paper's budget of 5e7 steps, the values of its
    Atari experiments (section 5.2, Table 3).

    With ``n_steps > 1`` rewards are summed as in SB3's DQN: the bootstrap value is soft, but the information cost
    of the n - 1 actions in between is left out.

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
    :param exploration: how random actions are drawn: "uniform" (SQL) or "marginal", from the frequencies of all
        executed actions (SQL_m)
    :param entropy_bonus: False regularises with the KL to the uniform prior; True with the entropy
        (no log|A| in the target, Schulman et al. 2017, Eq. 83)
    :param update_path: "fast" draws the minibatches of a rollout at once, evaluates the target network on all of them
        together and suits memory layout and products to the device; "eager" does one after the other, as SB3 does
    :param precision: "float32", or "bfloat16" for the networks' arithmetic (weights, targets and losses stay float32); of
        use on a GPU, and on a CPU with AVX-512
    :param preset: "auto" chooses what is None by policy and budget, "paper" takes the paper's values everywhere
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    check_actions = staticmethod(check_discrete)
    exploration_choices: ClassVar[tuple[str, ...]] = ("uniform", "marginal")
    policy: SoftQPolicy

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
        exploration: Literal["uniform", "marginal"] = "uniform",
        entropy_bonus: bool = False,
        update_path: UpdatePath = "fast",
        precision: Precision = "float32",
        preset: Preset = "auto",
    ) -> None:
        # None until `_setup_model` chooses; SB3's constructor only stores them
        left_open: dict[str, Any] = dict(
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_final_eps=exploration_final_eps,
        )
        super().__init__(
            policy,
            env,
            **left_open,
            tau=tau,
            gamma=gamma,
            train_freq=4 if train_freq is None else train_freq,
            gradient_steps=1 if gradient_steps is None else gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            exploration_initial_eps=exploration_initial_eps,
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
        self.beta_schedule: BetaSchedule = beta_schedule
        self.beta_init: float = beta_init  # type: ignore[assignment]  # None until `_setup_model` chooses
        self.beta_lr: float = beta_lr  # type: ignore[assignment]  # the same
        self.beta_slope = beta_slope
        self.beta_max = beta_max
        self.exploration: str = exploration
        self.entropy_bonus = entropy_bonus
        self.update_path = update_path
        self.precision = precision
        self.preset: Preset = preset
        self.chosen: dict[str, Any] = {}  # by name, what this class has chosen for arguments that were left open
        self.chosen_for: float | None = None  # environment steps of the run for which; None before a run begins

        self._losses: Any = None  # (n,) of the last updates: an array on the CPU, elsewhere a tensor
        self._rollout_q: Any = None  # (n_envs, A) Q at the states of the current actions, the same
        self._rollout_beta: Any = None  # scalar, beta when these actions were chosen
        self._epsilon_ceiling = 1.0
        self._captured_updates: CapturedUpdates | None = None
        self._pending_updates: tuple[int, int] | None = None  # (gradient_steps, batch_size) asked for and not yet run
        self._overlap = False

        if _init_setup_model:
            self._setup_model()

    @property
    def prior(self) -> np.ndarray:
        """(A,) action prior rho(a), summing to 1."""
        return self.policy.prior

    @property
    def prior_by_action(self) -> dict[str, float]:
        """The action prior by name of the action; the names are the environment's where it has some."""
        return dict(zip(action_names(self.env, len(self.prior)), self.prior.tolist(), strict=True))

    @property
    def beta(self) -> float:
        """Inverse temperature."""
        return float(self.policy.beta)

    @property
    def beta_max_q(self) -> float:
        """beta max_a Q(s, a) of Figure 8, mean over the environments' current states; NaN before the first."""
        if self._rollout_q is None:
            return math.nan
        return self.beta * namespace(self._rollout_q).amax(self._rollout_q, -1).mean().item()

    @property
    def mean_loss(self) -> th.Tensor | None:
        """Scalar, mean loss of the last updates; None before the first."""
        return None if self._losses is None else th.as_tensor(self._losses).mean()

    @property
    def rollout_q_values(self) -> th.Tensor | None:
        """(n_envs, A) Q(s, a) at the states of the current actions, None while actions are still random."""
        return None if self._rollout_q is None else th.as_tensor(self._rollout_q)

    @property
    def rollout_log_probs(self) -> np.ndarray | th.Tensor | None:
        """(n_envs, A) log pi(a|s) at the states of the current actions, None while actions are still random: an array on the
        CPU, elsewhere a tensor."""
        if self._rollout_q is None:
            return None
        return boltzmann_log_probs(self._rollout_q, at_hand(self.policy.log_prior), self._rollout_beta)

    # Building

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.common.off_policy.GuardedOffPolicy`."""
        check_choice("beta_schedule", self.beta_schedule, get_args(BetaSchedule))
        check_choice("exploration", self.exploration, self.exploration_choices)
        check_choice("update_path", self.update_path, get_args(UpdatePath))
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("entropy_bonus", self.entropy_bonus, (False, True))
        check_range("beta_init", self.beta_init, 0, math.inf, low_open=True, high_open=self.beta_schedule != "constant")
        check_range("beta_lr", self.beta_lr, 0, 1)
        check_range("beta_slope", self.beta_slope, 0, math.inf, low_open=True, high_open=True)
        check_range("beta_max", self.beta_max, 0, math.inf, low_open=True)
        for name in ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("target_update_interval", self.target_update_interval, 1, math.inf)
        if self.max_grad_norm is not None:
            check_range("max_grad_norm", self.max_grad_norm, 0, math.inf, low_open=True)
        super().check_arguments()

    def _setup_model(self) -> None:
        self._choose_update_ratio()
        if self.chosen_for is None:
            self._choose_hyperparameters(self.default_budget)
        else:
            self.chosen = {}  # loaded: a new run keeps the values of the last one
        super()._setup_model()
        self.policy.beta.fill_(self.beta_init)
        if self.precision == "bfloat16" and self.env is not None and not computes_bfloat16(self.device):
            warnings.warn(
                'precision="bfloat16" trains slowly on this processor, which has no instructions for it (AVX-512 at least): '
                'at about a tenth of the speed where it was measured. Use "float32" here.'
            )

    def _choose_update_ratio(self) -> None:
        if self._chosen_ratio is None or self._chosen_ratio != (self.train_freq, self.gradient_steps):
            return
        frequency, self.gradient_steps = update_ratio(self.n_envs)
        self.train_freq = TrainFreq(frequency, TrainFrequencyUnit.STEP)  # type: ignore[assignment]
        self._chosen_ratio = (self.train_freq, self.gradient_steps)

    @property
    def default_budget(self) -> int:
        """Environment steps of :meth:`learn` without a number."""
        return default_budget(self.preset, self._sees_images)

    @property
    def _sees_images(self) -> bool:
        return sees_images(self.policy_class, self.observation_space)

    def _choose_hyperparameters(self, budget: float) -> None:
        """Choose what was left open, unless it has been changed since."""
        values = choose(self.preset, self._sees_images, budget, self.n_envs)
        attributes = vars(self)
        is_open = [name for name in values if name in attributes and attributes[name] in (None, self.chosen.get(name))]
        if self.n_steps is not None:
            values["n_steps"] = self.n_steps  # stays as it was chosen: a replay memory may have been filled with it
        elif "learning_rate" not in is_open or not self._may_store_n_steps:
            values["n_steps"] = 1  # who tunes a DQN expects one; the chosen rate was tuned with the longer returns
        self.chosen = {name: values[name] for name in is_open}
        attributes.update(self.chosen)

    @property
    def _may_store_n_steps(self) -> bool:
        chosen_memory = self.replay_buffer_class is None and not self.optimize_memory_usage
        return chosen_memory and not isinstance(self.observation_space, spaces.Dict)

    def _choose_for_run(self, total_timesteps: float) -> None:
        """Choose again for a run that begins; what has been learned or stored stays."""
        beta_init, buffer_size = self.beta_init, self.buffer_size
        self._choose_hyperparameters(total_timesteps)
        self.chosen_for = total_timesteps
        self._setup_lr_schedule()
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )
        if self._n_updates == 0 and self.beta == beta_init:
            self.policy.beta.fill_(self.beta_init)
        if self.replay_buffer is None or self.buffer_size == buffer_size:
            return
        if self.replay_buffer.size() == 0:
            self.replay_buffer = None  # made anew by the parent
        else:
            self.buffer_size = buffer_size

    def _create_aliases(self) -> None:
        if not isinstance(self.policy, SoftQPolicy):
            name = f"{type(self.policy).__module__}.{type(self.policy).__qualname__}"
            raise ValueError(
                f"{type(self).__name__} needs a policy with an action prior and a beta (a subclass of "
                f"sb3_mirl.soft_dqn.SoftQPolicy), got {name}."
            )
        super()._create_aliases()

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """As in SB3."""
        super().set_parameters(*args, **kwargs)
        self.policy.adopt_optimizer_state()

    def check_weights(self, state: dict[str, th.Tensor], path: Any) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`: beta, prior and action counts are in their ranges."""
        beta_max = math.inf if self.beta_schedule == "constant" else self.beta_max
        beta, total = state["beta"].item(), state["log_prior"].logsumexp(-1).item()
        if not 0 < beta <= beta_max:
            raise ValueError(f"beta in {path} is {beta}, this model needs it in (0, {beta_max:g}] (beta_max).")
        if not math.isclose(total, 0, abs_tol=TOLERANCE):
            raise ValueError(f"The prior in {path} sums to {math.exp(min(total, 700.0)):g} and not to 1.")
        if state["action_counts"].min() < 0:
            raise ValueError(f"'action_counts' in {path} has negative numbers: {state['action_counts'].tolist()}.")

    # Acting

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        self._rollout_q = q = self._q_values(self._last_obs)
        beta = self.policy.beta
        self._rollout_beta = beta.item() if isinstance(q, np.ndarray) else beta.clone()
        actions = self._explore(to_array(self.policy.greedy_actions(q)))
        if not is_finite(q):
            raise ValueError(f"The Q-values are not finite at step {self.num_timesteps}. Lower learning_rate.")
        # on the CPU the update itself has refused them
        if isinstance(self._losses, th.Tensor) and not is_finite(self._losses):
            raise ValueError(
                f"A loss is not finite at step {self.num_timesteps}; the updates concerned were left out, and the model "
                "can still be saved. Lower learning_rate or scale the rewards."
            )
        self.settle()
        return actions, actions

    def _q_values(self, observations: np.ndarray | dict[str, np.ndarray]) -> Any:
        """(n_envs, A): an array on the CPU, elsewhere a tensor."""
        if not isinstance(observations, dict) and self.update_path == "fast" and (mlp := plain(self.q_net)) is not None:
            return mlp.forward(observations)
        tensors, _ = self.policy.obs_to_tensor(observations)
        with th.no_grad():
            return at_hand(self.q_net(tensors))

    def _explore(self, greedy: np.ndarray) -> np.ndarray:
        """Replace each of the (B,) greedy actions with probability epsilon, one coin per environment."""
        coins, draws = np.random.rand(2, len(greedy))
        explores = coins < self.exploration_rate
        if not explores.any():
            return greedy
        # the last edge is 1 up to rounding, and must not be passed
        edges = np.cumsum(self.exploration_probs())[:-1]
        return np.where(explores, np.searchsorted(edges, draws, side="right"), greedy)

    def exploration_probs(self) -> np.ndarray:
        """Return the (A,) distribution of random actions."""
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
        Choose argmax_a [log rho(a) + beta Q(s, a)], or with probability epsilon a random action (section 4.1).

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

    # Training

    def learn(
        self: SelfSoftDQN,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSoftDQN:
        """
        As in SB3. The first call after :func:`sb3_mirl.resume` does what is left of the run: then ``total_timesteps``
        counts from the beginning of the run.

        Hyperparameters that were left open are chosen for ``total_timesteps`` when a run begins, and kept when it is
        continued (``reset_num_timesteps=False``), resumed, or loaded from a file. One warning says what keeps a run from
        learning: no update before its end, no random actions but those before learning starts, hardly any target network.

        :param total_timesteps: environment steps; None for the paper's 5e7 (2e8 frames of Atari) if the policy sees images
            or ``preset="paper"``, else for 1e5
        :param callback: callback(s) called at every step
        :param log_interval: episodes between two log entries. In long runs of short episodes these are also at least
            ``total_timesteps`` / 10 000 environment steps apart: about 10 000 entries (16 MB of TensorBoard for 18 actions)
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues the count of steps, epsilon and a linear beta. Weights, prior, a beta
            that follows the loss, and the replay memory go on either way
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, and for rewards, observations, Q-values or losses that are not
            finite. The model is whole then, without the step in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        if total_timesteps is None:
            total_timesteps = self.default_budget
        self._overlap = self._overlaps_updates()
        if self.update_path == "fast" and self.device.type == "cpu":
            keep_freed_memory()
        try:
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        finally:
            self._overlap, self._pending_updates = False, None

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self.num_timesteps == 0:
            self._epsilon_ceiling = 1.0
        elif total_timesteps + self.num_timesteps != self._total_timesteps:
            # epsilon goes on from where it was: the schedule's new length must not raise it again
            self._epsilon_ceiling = self.exploration_rate
        self._rollout_q = None
        begins = reset_num_timesteps or self.num_timesteps == 0
        if begins:
            self._choose_for_run(total_timesteps)
            self._warn_of_doubts(total_timesteps)
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        assert isinstance(self.train_freq, TrainFreq)
        if self.train_freq.unit == TrainFrequencyUnit.STEP and self.gradient_steps > 0:
            ratio = self.train_freq.frequency * self.n_envs / self.gradient_steps
            self.logger.info(f"One gradient update of {self.batch_size} transitions per {ratio:g} environment steps")
        if begins and self.chosen:
            self.logger.info(f"Chosen for {total_timesteps:g} steps: {shown(self.chosen)}")
        return result

    def _warn_of_doubts(self, total_timesteps: float) -> None:
        falls = self.exploration_fraction if self.exploration_final_eps < self.exploration_initial_eps else None
        interval = self.target_update_interval if self.tau == 1 else None
        if found := doubts(total_timesteps, self.learning_starts, falls, interval):
            warnings.warn(f"This run of {total_timesteps:g} steps cannot learn much: {' '.join(found)}")

    def _store_transition(self, replay_buffer: ReplayBuffer, buffer_action: np.ndarray, *args: Any, **kwargs: Any) -> None:
        if self.exploration == "marginal":
            counts = self.policy.action_counts
            counts += th.bincount(th.as_tensor(buffer_action, device=counts.device).long(), minlength=len(counts))
        super()._store_transition(replay_buffer, buffer_action, *args, **kwargs)

    def _on_step(self) -> None:
        super()._on_step()
        if self.exploration_rate > self._epsilon_ceiling:
            self.exploration_rate = self._epsilon_ceiling
            self.logger.record("rollout/exploration_rate", self.exploration_rate)
        if self.beta_schedule == "linear":
            self.policy.beta.fill_(min(linear_beta(self.num_timesteps, self.beta_slope), self.beta_max))

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update theta and beta ``gradient_steps`` times (lines 6 to 9 of Algorithm 1). The targets of these updates are
        made with one beta, as with one prior and one target network; it follows their losses afterwards.

        :param gradient_steps: number of updates
        :param batch_size: transitions in each
        :raises ValueError: if a loss is not finite
        """
        if gradient_steps > 0:
            self._pending_updates = (gradient_steps, batch_size)
        if not self._overlap:
            self.settle()

    def settle(self) -> None:
        """Run the updates that have been asked for and not yet been run."""
        if self._pending_updates is None:
            return
        (gradient_steps, batch_size), self._pending_updates = self._pending_updates, None
        self._update_learning_rate(self.policy.optimizer)
        losses = at_hand(self._run_updates(gradient_steps, batch_size))
        if self._overlap:
            self.policy.set_training_mode(False)
        self._n_updates += gradient_steps
        self._losses = losses
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.device.type == "cpu":
            # elsewhere reading the loss would wait for the device, and is left to `dump_logs`
            self._record_loss()

    def _run_updates(self, n: int, batch_size: int) -> th.Tensor:
        assert self.replay_buffer is not None
        sample, rule = update.sampler(self.replay_buffer, self._vec_normalize_env), self.update_rule()
        if rule.in_numpy and plain(self.policy.q_net, rule.bfloat16) is not None:
            return update.fast_updates(self.policy, sample, rule, n, batch_size)  # no layer knows of a training mode
        self.policy.set_training_mode(True)
        if self.update_path == "eager":
            return update.eager_updates(self.policy, sample, rule, n, batch_size)
        updates: Callable[..., th.Tensor] = update.fast_updates
        if self.device.type == "cuda":
            self._captured_updates = updates = self._captured_updates or CapturedUpdates()
        with optimized((self.policy.q_net, self.policy.q_net_target), rule.bfloat16):
            return updates(self.policy, sample, rule, n, batch_size)

    def update_rule(self) -> update.UpdateRule:
        """Return the constants of the next updates."""
        beta_lr = self.beta_lr if self.beta_schedule == "inverse_loss" else 0.0
        bfloat16 = self.precision == "bfloat16"
        in_numpy = self.update_path == "fast" and self.device.type == "cpu"
        return update.UpdateRule(
            self.gamma, self.max_grad_norm, beta_lr, self.beta_max, self.entropy_bonus, bfloat16, in_numpy
        )

    def _overlaps_updates(self) -> bool:
        """Whether the updates after a rollout are launched once its successor's first actions are known, to run on the
        device while the environments step; those actions then come from the weights before the updates."""
        return self.update_path == "fast" and self.device.type == "cuda"

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """As in SB3; a learning rate that is a tensor, as CUDA graphs need it, stays one."""
        before = [group["lr"] for group in self.policy.optimizer.param_groups]
        super()._update_learning_rate(optimizers)
        for group, old in zip(self.policy.optimizer.param_groups, before, strict=True):
            if isinstance(old, th.Tensor):
                group["lr"] = old.fill_(group["lr"])

    def record_state(self) -> None:
        """Record the loss, beta and :attr:`beta_max_q`."""
        self._record_loss()
        self.logger.record("train/beta", self.beta)
        if self._rollout_q is not None:
            self.logger.record("train/beta_max_q", self.beta_max_q)

    def _record_loss(self) -> None:
        if self._losses is not None:
            self.logger.record("train/loss", self._losses.mean().item())

    def _excluded_save_params(self) -> list[str]:
        own = ["_losses", "_rollout_q", "_rollout_beta", "_captured_updates", "_pending_updates", "_overlap"]
        return [*super()._excluded_save_params(), *own]


def update_ratio(n_envs: int) -> tuple[int, int]:
    """
    Return ``train_freq`` and ``gradient_steps`` that make one update per :data:`ENV_STEPS_PER_UPDATE` environment steps.

    :param n_envs: number of environments
    """
    shared = math.gcd(ENV_STEPS_PER_UPDATE, n_envs)
    return ENV_STEPS_PER_UPDATE // shared, n_envs // shared


def computes_bfloat16(device: th.device) -> bool:
    """
    Whether a device has convolutions and matrix products in bfloat16.

    :param device: where a network is to compute
    :return: False for a CPU on which oneDNN has none
    """
    if device.type != "cpu" or not th.backends.mkldnn.is_available():
        return True
    return bool(th.ops.mkldnn._is_mkldnn_bf16_supported())
