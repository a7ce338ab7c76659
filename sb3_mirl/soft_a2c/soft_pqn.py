"""Parallelised soft Q-learning without a target network and without a replay memory, as an SB3 algorithm."""

import math
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import LinearSchedule, explained_variance
from stable_baselines3.dqn.policies import QNetwork
from torch.nn import functional as F

from sb3_mirl.common.actions import check_discrete
from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.common.moments import drop_dead_moments
from sb3_mirl.maths import entropy_bonus, inverse_loss_beta, kl_to_prior, linear_beta
from sb3_mirl.maths.arrays import at_hand, is_finite
from sb3_mirl.soft_a2c.buffers import Costs, SoftQDictRolloutBuffer, SoftQRolloutBuffer
from sb3_mirl.soft_a2c.q_policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PQNPolicy
from sb3_mirl.soft_a2c.recorded import RecordedRollouts

SelfSoftPQN = TypeVar("SelfSoftPQN", bound="SoftPQN")

BetaSchedule = Literal["inverse_loss", "linear", "constant"]
Exploration = Literal["epsilon", "boltzmann"]


class SoftPQN(RecordedRollouts, OnPolicyAlgorithm):
    """
    PQN with the soft value V(s) = 1/beta log sum_a rho(a) exp(beta Q(s, a)): one Q-network with layer normalisation learns
    lambda-returns of the steps that many environments have just made. No target network, no replay memory. At the default
    beta = inf, with epsilon-greedy exploration, it is PQN.

    Papers: Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024 (PQN; defaults are those of its Atari
    runs but for what is said below); Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning",
    2017 (the returns); Grau-Moya et al., "Soft Q-Learning with Mutual-Information Regularization", 2019 (the prior).

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of
        :class:`~sb3_mirl.soft_a2c.q_policies.PQNPolicy`
    :param env: environment with discrete actions (or its id); best many of them in a ``VecEnv``
    :param learning_rate: of RAdam, a number or a function of the remaining progress
    :param n_steps: environment steps of each environment in a rollout
    :param n_epochs: passes over a rollout
    :param n_minibatches: gradient updates in each; divides n_steps * n_envs
    :param gamma: discount factor in [0, 1]
    :param q_lambda: lambda of the returns, in [0, 1]
    :param beta_schedule: "constant", "linear" (section 4.1 of the MIRL paper) or "inverse_loss" (EMA of 1/L, line 8 of its
        Algorithm 1)
    :param beta_init: beta before the first update, > 0; inf with "constant" only
    :param beta_lr: alpha_beta, rate of the moving average per gradient update ("inverse_loss")
    :param beta_slope: c, increase of beta per environment step ("linear")
    :param beta_max: upper bound of beta and of 1/L
    :param exploration: "epsilon" (argmax_a [log rho + beta Q], or with probability epsilon a ~ rho; returns without costs,
        as PQN's maximum) or "boltzmann" (a ~ pi; each step pays KL(pi || rho) / beta, Eq. 43)
    :param exploration_fraction: fraction of the training over which epsilon falls
    :param exploration_initial_eps: initial probability of a random action
    :param exploration_final_eps: final probability of a random action (PQN: 0.05 in MinAtar, 0.001 in Atari)
    :param entropy_bonus: False regularises with the KL to the prior; True with the entropy where the prior is uniform
        (no log|A| in the soft value, Schulman et al. 2017, Eq. 83)
    :param prior_lr: alpha_rho in [0, 1], rate of the prior per environment step; 0 keeps it uniform
    :param prior_floor: least probability of an action under the prior, in [0, 1/|A|]
    :param max_grad_norm: bound of the gradient's norm, None for no bound
    :param stats_window_size: episodes in the moving averages of ``rollout/``
    :param tensorboard_log: directory of the TensorBoard logs, None for no logs
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 for silence, 1 for information, 2 for debugging
    :param seed: seed of Python's, NumPy's, PyTorch's and the environment's random numbers
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the networks now
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    check_actions = staticmethod(check_discrete)
    policy: PQNPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[PQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2.5e-4,
        n_steps: int = 32,
        n_epochs: int = 2,
        n_minibatches: int = 32,
        gamma: float = 0.99,
        q_lambda: float = 0.65,
        beta_schedule: BetaSchedule = "constant",
        beta_init: float = math.inf,
        beta_lr: float = 3e-5,
        beta_slope: float = 1e-3,
        beta_max: float = 1e4,
        exploration: Exploration = "epsilon",
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        entropy_bonus: bool = False,
        prior_lr: float = 0.0,
        prior_floor: float = 1e-8,
        max_grad_norm: float | None = 10,
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
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=q_lambda,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Discrete,),
        )
        self.n_epochs = n_epochs
        self.n_minibatches = n_minibatches
        self.q_lambda = q_lambda
        self.beta_schedule: BetaSchedule = beta_schedule
        self.beta_init = beta_init
        self.beta_lr = beta_lr
        self.beta_slope = beta_slope
        self.beta_max = beta_max
        self.exploration: Exploration = exploration
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_rate = exploration_initial_eps
        self.entropy_bonus = entropy_bonus
        self.prior_lr = prior_lr
        self.prior_floor = prior_floor
        self._epsilon_ceiling = 1.0

        if _init_setup_model:
            self._setup_model()

    @property
    def q_net(self) -> QNetwork:
        """The Q-network: observations as tensors -> (B, A)."""
        return self.policy.q_net

    @property
    def beta(self) -> float:
        """Inverse temperature."""
        return float(self.policy.beta)

    @property
    def beta_max_q(self) -> float:
        """beta max_a Q(s, a), mean over the environments' current states; NaN before the first."""
        q = self.policy.rollout_q_values
        return math.nan if q is None else self.beta * q.amax(-1).mean().item()

    # Building

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`."""
        check_choice("beta_schedule", self.beta_schedule, get_args(BetaSchedule))
        check_choice("exploration", self.exploration, get_args(Exploration))
        check_choice("entropy_bonus", self.entropy_bonus, (False, True))
        check_range("n_epochs", self.n_epochs, 1, math.inf, whole=True)
        check_range("n_minibatches", self.n_minibatches, 1, math.inf, whole=True)
        check_range("q_lambda", self.q_lambda, 0, 1)
        check_range("beta_init", self.beta_init, 0, math.inf, low_open=True, high_open=self.beta_schedule != "constant")
        check_range("beta_lr", self.beta_lr, 0, 1)
        check_range("beta_slope", self.beta_slope, 0, math.inf, low_open=True, high_open=True)
        check_range("beta_max", self.beta_max, 0, math.inf, low_open=True)
        for name in ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("prior_floor", self.prior_floor, 0, 1 / int(cast(spaces.Discrete, self.action_space).n))
        if self.max_grad_norm is not None:
            check_range("max_grad_norm", self.max_grad_norm, 0, math.inf, low_open=True)
        super().check_arguments()
        if self.env is not None and self.n_steps * self.n_envs % self.n_minibatches:
            raise ValueError(
                f"n_minibatches={self.n_minibatches} must divide n_steps * n_envs = {self.n_steps} * {self.n_envs} = "
                f"{self.n_steps * self.n_envs}, the steps of a rollout."
            )

    def _setup_model(self) -> None:
        is_dict = isinstance(self.observation_space, spaces.Dict)
        self.rollout_buffer_class = SoftQDictRolloutBuffer if is_dict else SoftQRolloutBuffer
        self.gae_lambda = self.q_lambda
        super()._setup_model()
        if not isinstance(self.policy, PQNPolicy):
            raise ValueError(
                f"{type(self).__name__} needs a policy with one Q-network (a subclass of "
                f"sb3_mirl.soft_a2c.q_policies.PQNPolicy), got {type(self.policy).__name__}."
            )
        self.policy.beta.fill_(self.beta_init)
        self.policy.entropy_bonus = self.entropy_bonus
        self._explore_by(self.exploration_rate)

    def _maybe_recommend_cpu(self, mlp_class_name: str = MlpPolicy.__name__) -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    def check_weights(self, state: dict[str, th.Tensor], path: Any) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`: beta and prior are in their ranges."""
        super().check_weights(state, path)
        beta, beta_max = state["beta"].item(), math.inf if self.beta_schedule == "constant" else self.beta_max
        if not 0 < beta <= beta_max:
            raise ValueError(f"beta in {path} is {beta}, this model needs it in (0, {beta_max:g}] (beta_max).")

    # Acting

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self.num_timesteps == 0:
            self._epsilon_ceiling = 1.0
        elif total_timesteps + self.num_timesteps != self._total_timesteps:
            # epsilon goes on from where it was: the schedule's new length must not raise it again
            self._epsilon_ceiling = self.exploration_rate
        self.policy.rollout_q_values = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _explore_by(self, epsilon: float) -> None:
        self.exploration_rate = epsilon
        self.policy.exploration_rate = None if self.exploration == "boltzmann" else epsilon

    def _follow_schedules(self) -> None:
        """Epsilon and a linear beta at the current environment step."""
        remaining = 1 - self.num_timesteps / self._total_timesteps if self._total_timesteps else 1.0
        schedule = LinearSchedule(self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction)
        epsilon = self.exploration_final_eps if self.exploration_fraction == 0 else schedule(max(remaining, 0.0))
        self._explore_by(min(epsilon, self._epsilon_ceiling))
        if self.beta_schedule == "linear":
            self.policy.beta.fill_(min(linear_beta(self.num_timesteps, self.beta_slope), self.beta_max))

    def begin_rollout(self, rollout_buffer: Costs) -> None:
        """As in :class:`~sb3_mirl.soft_a2c.recorded.RecordedRollouts`."""
        self._follow_schedules()

    def record_step(self, step: dict[str, Any]) -> None:
        """
        Note the policy in the states in which the current actions were chosen, and what it has cost; then follow the
        schedules.

        :param step: the local variables of ``collect_rollouts``
        :raises ValueError: if Q-values are not finite
        """
        q = cast(th.Tensor, self.policy.rollout_q_values)
        if not is_finite(at_hand(q)):
            raise ValueError(f"The Q-values are not finite at step {self.num_timesteps}. Lower learning_rate.")
        self.rollout_log_probs = None
        if self.exploration == "boltzmann" or self.prior_callback is not None:
            with th.no_grad():
                self.rollout_log_probs = self.policy.log_probs(q)
        buffer: Costs = step["rollout_buffer"]
        if self.exploration == "boltzmann":
            kl = kl_to_prior(cast(th.Tensor, self.rollout_log_probs), self.policy.log_prior)
            buffer.kl[buffer.pos] = kl.cpu().numpy()
            buffer.costs[buffer.pos] = buffer.kl[buffer.pos] / self.beta
        if self.entropy_bonus:
            buffer.costs[buffer.pos] -= float(entropy_bonus(len(self.policy.log_prior), self.beta))
        self._follow_schedules()

    # Training

    def train(self) -> None:
        """
        Update the Q-network ``n_epochs`` times ``n_minibatches`` times from the rollout; beta follows the losses.

        :raises ValueError: for a loss or gradient that is not finite, before the weights change
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        buffer = self.rollout_buffer
        n = buffer.buffer_size * buffer.n_envs
        observations, actions, targets = self._on_device(buffer)
        losses = []
        for _ in range(self.n_epochs):
            order = th.from_numpy(np.random.permutation(n)).to(self.device)
            for rows in order.view(self.n_minibatches, -1):
                losses.append(self._update(_rows(observations, rows), actions[rows], targets[rows]))
        if self.beta_schedule == "inverse_loss":
            beta = inverse_loss_beta(self.policy.beta, th.stack(losses), self.beta_lr, self.beta_max)
            self.policy.beta.copy_(beta.clamp(max=self.beta_max))
        self._n_updates += len(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", th.stack(losses).mean().item())
        chosen = (buffer.returns - buffer.advantages).flatten()
        self.logger.record("train/explained_variance", explained_variance(chosen, buffer.returns.flatten()))

    def _on_device(self, buffer: Costs) -> tuple[Any, th.Tensor, th.Tensor]:
        """Observations as they were stored, images as uint8; actions (T N, 1) and targets (T N,)."""
        stored: Any = buffer.observations
        parts = {key: self._flat(value) for key, value in (stored if isinstance(stored, dict) else {"": stored}).items()}
        observations = parts if isinstance(stored, dict) else parts[""]
        return observations, self._flat(buffer.actions).long(), self._flat(buffer.returns)

    def _flat(self, values: np.ndarray) -> th.Tensor:
        return th.from_numpy(values.reshape(-1, *values.shape[2:])).to(self.device)

    def _update(self, observations: Any, actions: th.Tensor, targets: th.Tensor) -> th.Tensor:
        q = self.q_net(observations).gather(1, actions).squeeze(1)
        loss = 0.5 * F.mse_loss(q, targets)
        self.policy.optimizer.zero_grad()
        loss.backward()
        bound = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = th.nn.utils.clip_grad_norm_(self.q_net.parameters(), bound)
        if not th.isfinite(loss.detach() + norm):
            raise ValueError(
                "Training stopped before the weights changed: the loss or its gradient is not finite. Lower learning_rate or "
                "scale the rewards; the model can still be saved."
            )
        self.policy.optimizer.step()
        drop_dead_moments(self.policy.optimizer)
        return loss.detach()

    def learn(
        self: SelfSoftPQN,
        total_timesteps: int = 50_000_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSoftPQN:
        """
        As in SB3, with PQN's Atari budget where none is given. The first call after :func:`sb3_mirl.resume` does what is
        left of the run: then ``total_timesteps`` counts from the beginning of the run.

        :param total_timesteps: environment steps (5e7 steps = 2e8 frames of Atari)
        :param callback: callback(s) called at every step
        :param log_interval: rollouts between two log entries
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues the count of steps, epsilon and a linear beta. Weights, prior and a beta
            that follows the loss go on either way
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, and for rewards, observations, Q-values or losses that are not
            finite. The model is whole then, without the step in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def record_state(self) -> None:
        """Record epsilon, beta, beta max Q, and the costs and prior where there are any."""
        if self.exploration == "epsilon":
            self.logger.record("rollout/exploration_rate", self.exploration_rate)
        else:
            self.logger.record("train/kl", float(self.rollout_buffer.kl.mean()))
            self.logger.record("rollout/information_cost", float(self.rollout_buffer.kl.mean()) / self.beta)
        self.logger.record("train/beta", self.beta)
        self.logger.record("train/beta_max_q", self.beta_max_q)
        super().record_state()


def _rows(observations: Any, rows: th.Tensor) -> Any:
    if isinstance(observations, dict):
        return {key: value[rows] for key, value in observations.items()}
    return observations[rows]
