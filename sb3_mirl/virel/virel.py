"""VIREL: SAC with ordinary critics and a temperature that is their own error."""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import (
    DictReplayBufferSamples,
    GymEnv,
    MaybeCallback,
    ReplayBufferSamples,
    Schedule,
)
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.sac.sac import SAC

from sb3_mirl.common.actions import check_bounded_box
from sb3_mirl.common.algorithm import Path
from sb3_mirl.common.arguments import check_choice, check_range, is_number
from sb3_mirl.common.off_policy import GuardedOffPolicy
from sb3_mirl.maths import bellman_target, residual_temperature, squared_residual
from sb3_mirl.virel.saved import SavedTemperature, TemperatureState

SelfVIREL = TypeVar("SelfVIREL", bound="VIREL")

Critics = Literal["hard", "mixed", "soft"]
ResidualEstimator = Literal["td", "double"]
Batch = ReplayBufferSamples | DictReplayBufferSamples

RESIDUAL = "residual"


class NextActions(NamedTuple):
    """One draw a' ~ pi(.|s') for a batch, each (B, 1)."""

    q: th.Tensor  # min_i Q'_i(s', a') of the target critics
    log_prob: th.Tensor  # log pi(a'|s')


class VIREL(GuardedOffPolicy, SAC):
    """
    Variational inference for reinforcement learning: SAC with two changes. The critics are ordinary, without entropy in
    their targets, and the temperature of the actor is the critics' mean squared Bellman residual: the agent is hot where it
    does not know, and greedy where it does.

    Paper: Fellows, Mahajan, Rudner & Whiteson, "VIREL: A Variational Inference Framework for Reinforcement Learning", 2018
    (https://arxiv.org/abs/1811.01132). ``ent_coef="residual"`` is its theory (Table 1, Lemma 1); its experiments kept the
    temperature constant, which is ``ent_coef=<number>``. The paper's beta is a temperature, called T here.

    .. note::
        T is proportional to the square of the rewards' unit while it is compared with Q, which is proportional to the unit:
        ``residual_scale`` depends on the rewards. The residual of sampled targets has a floor where transitions are
        random, so that T does not reach 0 there.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of SB3's ``SACPolicy``
    :param env: environment with bounded continuous actions (or its id)
    :param learning_rate: of actor, critics and (``ent_coef="auto"``) temperature, a number or a function of the remaining
        progress
    :param buffer_size: capacity of the replay memory, in transitions
    :param learning_starts: environment steps with random actions before the first update
    :param batch_size: transitions per gradient update
    :param tau: weight of the critics in the update of the target critics, in (0, 1]
    :param gamma: discount factor in [0, 1]
    :param train_freq: as in SB3: steps (or episodes) between two rounds of updates
    :param gradient_steps: as in SB3: updates in each round, -1 for as many as environment steps
    :param action_noise: as in SB3: noise added to the actions of the training
    :param replay_buffer_class: None chooses by itself: frames of stacked images are stored once
        (:class:`~sb3_mirl.replay.FrameReplayBuffer`), everything else as in SB3
    :param replay_buffer_kwargs: arguments of the replay buffer
    :param optimize_memory_usage: SB3's memory-saving variant of its own buffer
    :param n_steps: length of the returns; soft targets leave out the entropies of the actions in between, as in SAC
    :param ent_coef: the temperature T, in units of reward: "residual" follows the critics' residual, a number keeps it
        constant, "auto" and "auto_<initial value>" tune it to ``target_entropy`` as SAC does
    :param target_update_interval: gradient steps between updates of the target critics
    :param target_entropy: as in SAC, for ``ent_coef="auto"`` only: in nats, "auto" for minus the number of action dimensions
    :param use_sde: as in SB3: state-dependent exploration (gSDE)
    :param sde_sample_freq: as in SB3: steps between two draws of gSDE's noise, -1 for one draw per rollout
    :param use_sde_at_warmup: as in SB3: gSDE in place of uniform actions before ``learning_starts``
    :param stats_window_size: episodes in the moving averages of ``rollout/``
    :param tensorboard_log: directory of the TensorBoard logs, None for no logs
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 for silence, 1 for information, 2 for debugging
    :param seed: seed of Python's, NumPy's, PyTorch's and the environment's random numbers
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the networks now
    :param critics: "hard" (VIREL1: no entropy in the targets), "mixed" (VIREL2: the first critic hard, the others soft) or
        "soft" (SAC's)
    :param residual_scale: c >= 0 of T = c L, in 1 / reward; 0 lets T decay to ``temperature_min``
    :param residual_lr: kappa in (0, 1], weight of the newest residual in T, per gradient update; 1 takes it alone
    :param residual_estimator: "td", the squared error of one sampled target, or "double", the product of the errors of two
        targets from independent next actions, which leaves out the policy's own variance (clipped at 0)
    :param residual_batch_size: transitions of a separate batch for the residual; None takes that of the update. The
        authors' code has 4096. T stays as it is until the replay memory holds as many
    :param temperature_init: T before the first update, for ``ent_coef="residual"``
    :param temperature_min: lower bound of c L
    :param temperature_max: upper bound of c L
    :param soft_reward_scale: rho > 0, factor of the rewards of the soft critics at ``critics="mixed"``, by which their
        values can be aligned with those of the hard one (section 5 of the paper)
    """

    check_actions = staticmethod(check_bounded_box)
    ent_coef_state: TemperatureState | None

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = RESIDUAL,
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        critics: Critics = "hard",
        residual_scale: float = 0.012,
        residual_lr: float = 0.06,
        residual_estimator: ResidualEstimator = "td",
        residual_batch_size: int | None = None,
        temperature_init: float = 1.0,
        temperature_min: float = 0.0,
        temperature_max: float = math.inf,
        soft_reward_scale: float = 1.0,
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
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.critics: Critics = critics
        self.residual_scale = residual_scale
        self.residual_lr = residual_lr
        self.residual_estimator: ResidualEstimator = residual_estimator
        self.residual_batch_size = residual_batch_size
        self.temperature_init = temperature_init
        self.temperature_min = temperature_min
        self.temperature_max = temperature_max
        self.soft_reward_scale = soft_reward_scale

        if _init_setup_model:
            self._setup_model()

    @property
    def temperature(self) -> float:
        """T, in units of reward, whatever ``ent_coef`` is."""
        if self.log_ent_coef is not None:
            return self.log_ent_coef.detach().exp().item()
        return self.ent_coef_tensor.item()

    # Building

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.common.off_policy.GuardedOffPolicy`."""
        check_ent_coef(self.ent_coef)
        check_choice("critics", self.critics, get_args(Critics))
        check_choice("residual_estimator", self.residual_estimator, get_args(ResidualEstimator))
        check_range("residual_scale", self.residual_scale, 0, math.inf, high_open=True)
        check_range("residual_lr", self.residual_lr, 0, 1, low_open=True)
        if self.residual_batch_size is not None:
            check_range("residual_batch_size", self.residual_batch_size, 1, math.inf, whole=True)
        check_range("temperature_min", self.temperature_min, 0, math.inf, high_open=True)
        check_range("temperature_max", self.temperature_max, 0, math.inf, low_open=True)
        if self.temperature_max < self.temperature_min:
            raise ValueError(
                f"temperature_max={self.temperature_max!r} must not be below temperature_min={self.temperature_min!r}."
            )
        check_range("temperature_init", self.temperature_init, self.temperature_min, self.temperature_max)
        check_range("temperature_init", self.temperature_init, 0, math.inf, high_open=True)
        check_range("soft_reward_scale", self.soft_reward_scale, 0, math.inf, low_open=True, high_open=True)
        check_range("target_update_interval", self.target_update_interval, 1, math.inf, whole=True)
        n_critics = self.policy_kwargs.get("n_critics", 2)
        if self.critics == "mixed" and n_critics < 2:
            raise ValueError(f'critics="mixed" needs a hard and a soft critic, n_critics >= 2, got n_critics={n_critics!r}.')
        super().check_arguments()

    def _setup_model(self) -> None:
        if isinstance(self.ent_coef, SavedTemperature):
            self.ent_coef = self.ent_coef.ent_coef
        self.check_arguments()
        # SAC knows numbers and "auto"; the word must be there when a loaded model is set up again
        given = self.ent_coef
        self.ent_coef = self.temperature_init if given == RESIDUAL else given
        try:
            super()._setup_model()
        finally:
            self.ent_coef = given
        self.ent_coef_state = None
        if self.log_ent_coef is None:
            self.ent_coef_state = TemperatureState(self.ent_coef_tensor)

    # Training

    def learn(
        self: SelfVIREL,
        total_timesteps: int = 1_000_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfVIREL:
        """
        As in SB3. The first call after :func:`sb3_mirl.resume` does what is left of the run: then ``total_timesteps`` counts
        from the beginning of the run.

        :param total_timesteps: environment steps
        :param callback: callback(s) called at every step
        :param log_interval: episodes between two log entries, None for no entries. Entries are also at least
            ``total_timesteps`` / 10 000 environment steps apart
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues the count of steps and the schedules; weights, temperature and the replay
            memory go on either way
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, and for rewards, observations, residuals or losses that are not
            finite. The model is whole then, without the step in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update temperature, critics and actor, in this order, ``gradient_steps`` times.

        :param gradient_steps: number of updates
        :param batch_size: transitions in each
        :raises ValueError: if a residual or a loss is not finite; nothing has been learned from it
        """
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        self._update_learning_rate([optimizer for optimizer in optimizers if optimizer is not None])

        values: dict[str, list[float]] = {}
        for gradient_step in range(gradient_steps):
            for name, value in self._update(batch_size).items():
                values.setdefault(name, []).append(value)
            if gradient_step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
            self._n_updates += 1

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, of_updates in values.items():
            self.logger.record(f"train/{name}", np.mean(of_updates))

    def _update(self, batch_size: int) -> dict[str, float]:
        """
        One update of all but the target critics. Random numbers are drawn in SAC's order, so that SAC's special cases are
        exact: batch, a ~ pi(.|s), a' ~ pi(.|s'); the options of the residual draw after them.

        :return: what is logged, by name
        """
        batch = self._sample(batch_size)
        if self.use_sde:
            self.actor.reset_noise()
        actions, log_prob = self.actor.action_log_prob(batch.observations)
        log_prob = log_prob.reshape(-1, 1)  # (B, 1)
        std = self.actor.action_dist.distribution.stddev.detach().mean()  # before the next draw replaces the distribution
        temperature, log = self._own_temperature(log_prob)
        drawn = self._draw_next(batch)
        q = list(self.critic(batch.observations, batch.actions))  # n_critics of (B, 1)

        residual = self._residual(batch, drawn, q, temperature)
        if residual is not None:
            log["residual"] = residual
            if self.ent_coef == RESIDUAL:
                bounds = self.temperature_min, self.temperature_max
                moved = residual_temperature(temperature, residual, self.residual_scale, self.residual_lr, *bounds)
                temperature.copy_(moved)  # in place: it is the tensor of `ent_coef_state`

        critic_loss = self._critic_loss(batch, drawn, q, temperature)
        self.descend(self.critic.optimizer, critic_loss, "critics' loss")
        q_of_actor = th.cat(self.critic(batch.observations, actions), dim=1)  # (B, n_critics)
        actor_loss = (temperature * log_prob - q_of_actor.min(dim=1, keepdim=True).values).mean()
        self.descend(self.actor.optimizer, actor_loss, "actor's loss")

        log |= {"ent_coef": temperature, "actor_loss": actor_loss, "critic_loss": critic_loss}
        log |= {"entropy": -log_prob.mean(), "std": std}
        if self.critics == "mixed":
            log |= {"q_hard": q[0].mean(), "q_soft": th.cat(q[1:]).mean()}
        return {name: value.item() for name, value in log.items()}

    def _own_temperature(self, log_prob: th.Tensor) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """T before this update, and its loss where it is learned as in SAC: then T is that of before its step."""
        if self.log_ent_coef is None:
            return self.ent_coef_tensor, {}
        assert self.ent_coef_optimizer is not None and isinstance(self.target_entropy, float)
        temperature = self.log_ent_coef.detach().exp()
        loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
        self.descend(self.ent_coef_optimizer, loss, "temperature's loss")
        return temperature, {"ent_coef_loss": loss}

    def _sample(self, batch_size: int) -> Batch:
        assert self.replay_buffer is not None
        return self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)

    @th.no_grad()
    def _draw_next(self, batch: Batch) -> NextActions:
        actions, log_prob = self.actor.action_log_prob(batch.next_observations)
        q = th.cat(self.critic_target(batch.next_observations, actions), dim=1)  # (B, n_critics)
        return NextActions(q.min(dim=1, keepdim=True).values, log_prob.reshape(-1, 1))

    def _target(self, batch: Batch, drawn: NextActions, temperature: th.Tensor | None, reward_scale: float = 1.0) -> th.Tensor:
        """(B, 1) targets; hard ones without a temperature."""
        discount = (1 - batch.dones) * (self.gamma if batch.discounts is None else batch.discounts)
        if temperature is None:
            return bellman_target(batch.rewards, discount, drawn.q)
        return bellman_target(reward_scale * batch.rewards, discount, drawn.q, drawn.log_prob, temperature)

    def _critic_loss(self, batch: Batch, drawn: NextActions, q: list[th.Tensor], temperature: th.Tensor) -> th.Tensor:
        """1/2 sum_i MSE(Q_i(s, a), y_i); soft targets have the new T."""
        n_hard = self._n_hard(len(q))
        hard = self._target(batch, drawn, None) if n_hard else None
        reward_scale = self.soft_reward_scale if self.critics == "mixed" else 1.0
        soft = self._target(batch, drawn, temperature, reward_scale) if n_hard < len(q) else None
        targets = [hard] * n_hard + [soft] * (len(q) - n_hard)
        losses = [F.mse_loss(q_i, y) for q_i, y in zip(q, targets, strict=True) if y is not None]
        return 0.5 * sum(losses[1:], start=losses[0])

    def _n_hard(self, n_critics: int) -> int:
        """How many critics have hard targets; they are the first ones."""
        return {"hard": n_critics, "mixed": 1, "soft": 0}[self.critics]

    @th.no_grad()
    def _residual(self, batch: Batch, drawn: NextActions, q: list[th.Tensor], temperature: th.Tensor) -> th.Tensor | None:
        """
        L: of the hard critics; where there are none, of the soft ones with the T of before.

        :return: scalar, None where a separate batch is wanted and the replay memory is too small for it
        :raises ValueError: if it is not finite
        """
        adaptive = self.ent_coef == RESIDUAL
        if adaptive and self.residual_batch_size is not None:
            assert self.replay_buffer is not None
            if self.replay_buffer.size() * self.n_envs < self.residual_batch_size:
                return None
            batch = self._sample(self.residual_batch_size)
            drawn, q = self._draw_next(batch), list(self.critic(batch.observations, batch.actions))
        n_hard = self._n_hard(len(q))
        of_target = None if n_hard else temperature
        target, second = self._target(batch, drawn, of_target).squeeze(1), None
        if adaptive and self.residual_estimator == "double":
            second = self._target(batch, self._draw_next(batch), of_target).squeeze(1)
        residual = squared_residual(target, th.cat(q[: n_hard or len(q)], dim=1).T, second)
        self.check_finite(residual, "Bellman residual")
        return residual

    def advice(self) -> str:
        """As in :class:`~sb3_mirl.common.off_policy.GuardedOffPolicy`."""
        return (
            f"The temperature is {self.temperature:.3g}: lower learning_rate or residual_scale, set temperature_max, or scale "
            "the rewards."
        )

    # Files

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`."""
        given = self.ent_coef
        self.ent_coef = SavedTemperature(given)  # type: ignore[assignment]
        try:
            super().save(path, exclude, include)
        finally:
            self.ent_coef = given

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """As in SB3; a temperature that is a number stays that number."""
        super().set_parameters(*args, **kwargs)
        if is_number(self.ent_coef):
            self.ent_coef_tensor.fill_(float(self.ent_coef))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "ent_coef_tensor", "ent_coef_state"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        if self.ent_coef_state is None:
            return super()._get_torch_save_params()
        return ["policy", "actor.optimizer", "critic.optimizer", "ent_coef_state"], []


def check_ent_coef(ent_coef: Any) -> None:
    """
    Refuse what :class:`VIREL` does not know as a temperature.

    :param ent_coef: the argument
    :raises ValueError: naming the choices
    """
    if is_number(ent_coef):
        return check_range("ent_coef", ent_coef, 0, math.inf, high_open=True)
    if isinstance(ent_coef, str):
        kind, _, value = ent_coef.partition("_")
        if ent_coef in (RESIDUAL, "auto") or (kind == "auto" and _is_positive(value)):
            return None
    raise ValueError(
        f"ent_coef={ent_coef!r} is not known, choose from 'residual', 'auto', 'auto_<initial value>' (such as 'auto_0.1'), or "
        "a number >= 0."
    )


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
