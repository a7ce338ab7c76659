"""Soft Q-learning for continuous actions."""

import inspect
import math
import warnings
from typing import Any, ClassVar, TypeVar, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule, get_parameters_by_name, polyak_update, update_learning_rate

from sb3_mirl.common.actions import check_bounded_box
from sb3_mirl.common.algorithm import Path
from sb3_mirl.common.allocator import keep_freed_memory
from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.continuous_sql import update
from sb3_mirl.continuous_sql.defaults import RemembersArguments, doubts, for_run, left_open
from sb3_mirl.continuous_sql.policies import N_NOISE, CnnPolicy, MlpPolicy, MultiInputPolicy, Sampler, SamplerPolicy
from sb3_mirl.continuous_sql.update import SquashSpace, ValueSampling
from sb3_mirl.maths import bellman_target

SelfContinuousSQL = TypeVar("SelfContinuousSQL", bound="ContinuousSQL")

VALUE_SEED = 0  # of the draws of `soft_value`
CELLS = 2**22  # numbers at once in a table of draws and centres, for `soft_value`


class ContinuousSQL(RemembersArguments):
    """
    Soft Q-learning for continuous actions. The policy is the Boltzmann distribution exp(Q(s, a) / alpha) itself, whatever
    its shape; a network learns to draw from it by Stein variational gradient descent, and so keeps several good ways of
    doing a task, where DDPG commits to one and SAC has one Gaussian per state.

    Paper: Haarnoja, Tang, Abbeel & Levine, "Reinforcement Learning with Deep Energy-Based Policies", ICML 2017
    (https://arxiv.org/abs/1702.08165). alpha is a temperature, 1/beta of :mod:`sb3_mirl.maths`.

    Three choices differ from the paper and its authors' code: particles and kernel are in the space before the squashing
    (``squash_space``), the bandwidth is the median of the *squared* distances / log(M + 1) as in Liu & Wang 2016, and the
    soft value draws around the sampler's actions (``value_sampling``), for uniform draws are of no use beyond three
    dimensions.

    The defaults are the paper's. In runs of less than 200 000 steps what it counts in steps is too long, and ``learn``
    takes other values of those arguments that were not given, shown at ``verbose=1``: ``learning_starts`` of a twentieth of
    the run, ``tau=0.01`` with ``target_update_interval=1``, ``sampler_learning_rate=1e-3``.

    .. note::
        Soft values are integrals over the box scaled to [-1, 1]^d: each step earns an entropy in nats times alpha, at most
        d log 2, which may be negative. That matters for when to terminate.

    .. note::
        Particles do not cross barriers of several alpha: the sampler keeps the modes that its first particles reach. Smooth
        values, a larger ``ent_coef`` and enough random steps at the beginning are what keeps modes.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of
        :class:`~sb3_mirl.continuous_sql.policies.SamplerPolicy`
    :param env: environment with bounded continuous actions (or its id)
    :param learning_rate: of the critics, a number or a function of the remaining progress
    :param sampler_learning_rate: of the sampler, likewise
    :param buffer_size: capacity of the replay memory, in transitions
    :param learning_starts: environment steps with random actions before the first update
    :param batch_size: transitions per gradient update
    :param tau: weight of the critics in an update of the target critics, in [0, 1]; 1 copies them
    :param gamma: discount factor in [0, 1]
    :param train_freq: as in SB3: steps (or episodes) between two rounds of updates
    :param gradient_steps: as in SB3: updates in each round, -1 for as many as environment steps
    :param action_noise: as in SB3: noise added to the actions of the training; None for the sampler's own
    :param replay_buffer_class: None chooses by itself: frames of stacked images are stored once
        (:class:`~sb3_mirl.replay.FrameReplayBuffer`), everything else as in SB3
    :param replay_buffer_kwargs: arguments of the replay buffer
    :param optimize_memory_usage: SB3's memory-saving variant of its own buffer
    :param n_steps: length of the returns; above 1 the entropies of the actions in between are left out
    :param target_update_interval: gradient updates between two updates of the target critics. A value travels one step per
        copy, so that short runs need a short interval or a small ``tau``
    :param ent_coef: alpha > 0, in units of reward
    :param ent_coef_final: alpha at the end of its annealing, log-linear, App. D.1 (there 1e-3); None for no annealing
    :param anneal_fraction: fraction of the training over which alpha and the noises are annealed, in (0, 1]
    :param n_noise_final: how many noises of the fixed set (``policy_kwargs=dict(n_noise=32)``) are left at the end of their
        annealing, 1 for a deterministic policy; None for new noises throughout
    :param n_value_particles: K_V, draws per state for the soft value
    :param n_particles: M, particles per state that carry the expectation of the Stein direction
    :param n_kernel_particles: K, particles per state that are moved
    :param value_sampling: "mixture" (around the sampler's actions), "uniform" (the authors' code) or "policy" (the sampler's
        density by its Jacobian, for injective samplers)
    :param squash_space: "latent", or "action" for the authors' code
    :param stats_window_size: episodes in the moving averages of ``rollout/``
    :param tensorboard_log: directory of the TensorBoard logs, None for no logs
    :param policy_kwargs: arguments of the policy: ``net_arch=[200, 200]``, ``n_critics=1`` (2: minimum of two),
        ``n_noise=32``, ``noise_dim``, ``q_scale=1`` (unit of the critics' networks), ...
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
    check_actions = staticmethod(check_bounded_box)
    why_not: ClassVar[dict[str, str]] = {
        "use_sde": "its sampler is a distribution by itself, with no Gaussian to replace. A larger ent_coef explores more."
    }
    policy: SamplerPolicy
    actor: Sampler
    critic: ContinuousCritic
    critic_target: ContinuousCritic

    def __init__(
        self,
        policy: str | type[SamplerPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        sampler_learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 10_000,
        batch_size: int = 64,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 1000,
        ent_coef: float = 0.1,
        ent_coef_final: float | None = None,
        anneal_fraction: float = 0.1,
        n_noise_final: int | None = None,
        n_value_particles: int = 50,
        n_particles: int = 32,
        n_kernel_particles: int = 32,
        value_sampling: ValueSampling = "mixture",
        squash_space: SquashSpace = "latent",
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
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        self.sampler_learning_rate = sampler_learning_rate
        self.target_update_interval = target_update_interval
        self.ent_coef = ent_coef
        self.ent_coef_final = ent_coef_final
        self.anneal_fraction = anneal_fraction
        self.n_noise_final = n_noise_final
        self.n_value_particles = n_value_particles
        self.n_particles = n_particles
        self.n_kernel_particles = n_kernel_particles
        self.value_sampling: ValueSampling = value_sampling
        self.squash_space: SquashSpace = squash_space
        self.chosen: dict[str, Any] = {}  # for the length of the run, by name

        if _init_setup_model:
            self._setup_model()

    # Building

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.common.off_policy.GuardedOffPolicy`."""
        if isinstance(self.ent_coef, str):
            raise ValueError(
                f"ent_coef={self.ent_coef!r} is SAC's: it tunes alpha by the density of its Gaussian, and a sampler has none. "
                "Give a number > 0 in units of reward, such as ent_coef=0.1."
            )
        check_range("ent_coef", self.ent_coef, 0, math.inf, low_open=True, high_open=True)
        if self.ent_coef_final is not None:
            check_range("ent_coef_final", self.ent_coef_final, 0, math.inf, low_open=True, high_open=True)
            if self.ent_coef_final > self.ent_coef:
                raise ValueError(
                    f"ent_coef_final={self.ent_coef_final!r} must not be above ent_coef={self.ent_coef!r}: annealing cools."
                )
        check_range("anneal_fraction", self.anneal_fraction, 0, 1, low_open=True)
        for name in ("n_value_particles", "n_particles", "n_kernel_particles", "target_update_interval"):
            check_range(name, getattr(self, name), 1, math.inf, whole=True)
        n_noise = self.policy_kwargs.get("n_noise", N_NOISE)
        if self.n_noise_final is not None:
            check_range("n_noise_final", self.n_noise_final, 1, n_noise, whole=True)
        if not callable(self.sampler_learning_rate):
            check_range("sampler_learning_rate", self.sampler_learning_rate, 0, math.inf, high_open=True)
        check_choice("value_sampling", self.value_sampling, get_args(ValueSampling))
        check_choice("squash_space", self.squash_space, get_args(SquashSpace))
        d = math.prod(self.action_space.shape or ())
        if self.value_sampling == "policy" and self.policy_kwargs.get("noise_dim") not in (None, d):
            raise ValueError(
                f'value_sampling="policy" needs as many noises as dimensions of the action, {d}, got '
                f'policy_kwargs=dict(noise_dim={self.policy_kwargs["noise_dim"]!r}): leave it out, or take "mixture".'
            )
        super().check_arguments()

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.policy, SamplerPolicy):
            raise ValueError(
                f"{type(self).__name__} needs a policy with a sampler (a subclass of "
                f"sb3_mirl.continuous_sql.policies.SamplerPolicy), got {type(self.policy).__name__}."
            )
        if self.n_steps > 1:
            warnings.warn(
                f"n_steps={self.n_steps}: the entropies of the {self.n_steps - 1} actions in between are left out of the "
                "returns, so that Q is not the soft value's own. n_steps=1 has them."
            )
        self._sampler_lr_schedule = FloatSchedule(self.sampler_learning_rate)
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target
        self._norms = get_parameters_by_name(self.critic, ["running_"])
        self._norms_target = get_parameters_by_name(self.critic_target, ["running_"])
        self.policy.ent_coef.fill_(self.ent_coef)

    def check_weights(self, state: dict[str, th.Tensor], path: Any) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`: alpha and the number of noises are in their ranges."""
        super().check_weights(state, path)
        if not state["ent_coef"].item() > 0:
            raise ValueError(f"ent_coef in {path} is {state['ent_coef'].item()}, a temperature is > 0.")
        if not 1 <= state["n_noise"].item() <= len(state["noise_set"]):
            raise ValueError(f"n_noise in {path} is {state['n_noise'].item()}, not in [1, {len(state['noise_set'])}].")

    # Acting

    def soft_value(self, obs: Any, n_particles: int | None = None) -> np.ndarray:
        """
        Estimate V(s) = alpha log of the integral of exp(Q(s, a) / alpha) over the box scaled to [-1, 1]^d, with the draws of
        ``value_sampling``. The random numbers are the same in each call: equal weights give equal values, and a training goes
        on as if nothing had been asked.

        :param obs: n observations, or one
        :param n_particles: draws per state; ``n_value_particles`` by default. More make it better
        :return: (n,) in units of reward
        :raises ValueError: if ``n_particles`` is not a whole number >= 1
        """
        n = self.n_value_particles if n_particles is None else n_particles
        check_range("n_particles", n, 1, math.inf, whole=True)
        self.policy.set_training_mode(False)
        observations, _ = self.policy.obs_to_tensor(obs)
        chunk = max(CELLS // (n * min(n, update.MOST_CENTERS)), 1)
        values = []
        with th.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            th.manual_seed(VALUE_SEED)
            for part in _split(observations, chunk):
                proposal = update.propose(self.policy, part, n, self.value_sampling)
                values.append(update.soft_values(self.critic, part, proposal, self.policy.ent_coef).value)
        return th.cat(values).cpu().numpy()

    def sample_actions(self, obs: Any, n: int) -> np.ndarray:
        """
        Draw actions from the policy, several in each state.

        :param obs: n_obs observations, or one
        :param n: number of draws in each
        :return: (n_obs, n, d), between the bounds of the action space
        :raises ValueError: if ``n`` is not a whole number >= 1
        """
        check_range("n", n, 1, math.inf, whole=True)
        self.policy.set_training_mode(False)
        observations, _ = self.policy.obs_to_tensor(obs)
        with th.no_grad():
            features = self.actor.extract_features(observations, self.actor.features_extractor)
            actions = self.policy.draw_latents(features, n).tanh().cpu().numpy()
        shape = self.action_space.shape or ()
        return self.policy.unscale_action(actions.reshape(*actions.shape[:2], *shape))

    # Training

    def learn(
        self: SelfContinuousSQL,
        total_timesteps: int = 1_000_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfContinuousSQL:
        """
        As in SB3. The first call after :func:`sb3_mirl.resume` does what is left of the run: then ``total_timesteps`` counts
        from the beginning of the run. alpha and the noises follow the constructor's arguments, whatever a loaded file had.

        :param total_timesteps: environment steps
        :param callback: callback(s) called at every step
        :param log_interval: episodes between two log entries, None for no entries. Entries are also at least
            ``total_timesteps`` / 10 000 environment steps apart
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues the count of steps, the schedules and the annealing; weights and replay
            memory go on either way
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, and for rewards, observations or losses that are not finite. The
            model is whole then, without the step in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        begins = reset_num_timesteps or self.num_timesteps == 0
        if begins:
            self._choose_for_run(total_timesteps)
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        if begins and self.chosen:
            shown = ", ".join(f"{name}={value:g}" for name, value in self.chosen.items())
            self.logger.info(f"Chosen for {total_timesteps:g} steps: {shown}")
        return result

    def _choose_for_run(self, total_timesteps: float) -> None:
        """What was left open and suits only long runs."""
        paper = {name: parameter.default for name, parameter in inspect.signature(ContinuousSQL).parameters.items()}
        names = left_open(vars(self), paper, self.chosen, self.given)
        values = for_run(total_timesteps)
        vars(self).update({name: values.get(name, paper[name]) for name in names})
        self.chosen = {name: value for name, value in values.items() if name in names}
        self._setup_lr_schedule()
        self._sampler_lr_schedule = FloatSchedule(self.sampler_learning_rate)
        assert isinstance(self.train_freq, TrainFreq)
        in_steps = self.train_freq.unit == TrainFrequencyUnit.STEP and self.gradient_steps > 0
        per_step = self.gradient_steps / (self.train_freq.frequency * self.n_envs) if in_steps else 1.0
        found = doubts(total_timesteps, self.learning_starts, per_step, self.target_update_interval if self.tau == 1 else None)
        if found:
            warnings.warn(f"This run of {total_timesteps:g} steps cannot learn much: {found}")

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update critics and sampler, in this order, ``gradient_steps`` times.

        :param gradient_steps: number of updates
        :param batch_size: transitions in each
        :raises ValueError: if a loss is not finite; nothing has been learned from it
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.critic.optimizer)
        sampler_rate = self._sampler_lr_schedule(self._current_progress_remaining)
        update_learning_rate(self.actor.optimizer, sampler_rate)
        self.logger.record("train/sampler_learning_rate", sampler_rate)
        self._anneal()

        values: dict[str, list[float]] = {}
        for _ in range(gradient_steps):
            for name, value in self._update(batch_size).items():
                values.setdefault(name, []).append(value)
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self._norms, self._norms_target, 1.0)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", self.policy.ent_coef.item())
        if self.n_noise_final is not None:
            self.logger.record("train/n_noise", self.policy.n_noise.item())
        for name, of_updates in values.items():
            self.logger.record(f"train/{name}", np.mean(of_updates))

    def _anneal(self) -> None:
        """alpha and the number of noises at the current progress."""
        done = min((1 - self._current_progress_remaining) / self.anneal_fraction, 1.0)
        final = self.ent_coef if self.ent_coef_final is None else self.ent_coef_final
        self.policy.ent_coef.fill_(self.ent_coef ** (1 - done) * final**done)
        n_noise = len(self.policy.noise_set)
        left = n_noise if self.n_noise_final is None else self.n_noise_final
        self.policy.n_noise.fill_(round(n_noise + done * (left - n_noise)))

    def _update(self, batch_size: int) -> dict[str, float]:
        """
        One update of all but the target critics.

        :return: what is logged, by name
        """
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        proposal = update.propose(self.policy, batch.next_observations, self.n_value_particles, self.value_sampling)
        soft = update.soft_values(self.critic_target, batch.next_observations, proposal, self.policy.ent_coef)
        discount = (1 - batch.dones) * (self.gamma if batch.discounts is None else batch.discounts)
        target = bellman_target(batch.rewards, discount, soft.value.unsqueeze(1))  # (B, 1)
        q = th.stack(self.critic(batch.observations, batch.actions))  # (n_critics, B, 1)
        critic_loss = 0.5 * (q - target).square().mean(1).sum()
        self.descend(self.critic.optimizer, critic_loss, "critics' loss")

        counts = self.n_particles, self.n_kernel_particles
        sampler = update.sampler_step(self.policy, batch.observations, *counts, self.squash_space)
        self.descend(self.actor.optimizer, sampler.loss, "sampler's loss")
        log = {
            "critic_loss": critic_loss,
            "svgd_norm": sampler.direction.norm(dim=-1).mean(),
            "soft_value": soft.value.mean(),
            "bandwidth": sampler.bandwidth.mean(),
            "effective_samples": soft.effective_samples.mean(),
        }
        return dict(zip(log, th.stack([value.detach() for value in log.values()]).tolist(), strict=True))

    def advice(self) -> str:
        """As in :class:`~sb3_mirl.common.off_policy.GuardedOffPolicy`."""
        return (
            f"ent_coef is {self.policy.ent_coef.item():.3g}: raise it, lower learning_rate or sampler_learning_rate, or scale "
            "the rewards."
        )

    # Files

    @classmethod
    def load(
        cls: type[SelfContinuousSQL],
        path: Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfContinuousSQL:
        """
        As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`. An ``ent_coef`` that is given replaces the file's, also
        one that had been annealed.

        :param path: file name (with or without ".zip") or open file
        :param env: environment to continue in; None for an agent that only acts
        :param device: "auto", "cpu", "cuda", ...
        :param custom_objects: replacements of saved attributes that cannot be unpickled
        :param print_system_info: print where the model was saved, and where it is loaded
        :param force_reset: reset the environment before training goes on
        :param kwargs: arguments to change
        :return: the model
        :raises ValueError: if the file is damaged or was saved by another class, or the environment has other spaces
        """
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        model.given = sorted({*model.given, *kwargs})
        if "ent_coef" in kwargs:
            model.policy.ent_coef.fill_(model.ent_coef)
        return model

    def _excluded_save_params(self) -> list[str]:
        own = ["actor", "critic", "critic_target", "_sampler_lr_schedule", "_norms", "_norms_target"]
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []


def _split(obs: Any, size: int) -> list[Any]:
    """Observations as tensors, in parts of at most ``size``."""
    if not isinstance(obs, dict):
        return list(obs.split(size))
    parts = {key: value.split(size) for key, value in obs.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
