"""Soft Q-learning in the form of an actor-critic, as an SB3 algorithm."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.a2c.a2c import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance

from sb3_mirl.common.arguments import check_choice, check_range, is_number
from sb3_mirl.common.moments import drop_dead_moments
from sb3_mirl.maths import entropy_bonus, floored_log_prior, kl_to_prior, uniform_log_prior
from sb3_mirl.maths.arrays import at_hand, is_finite, namespace, to_array
from sb3_mirl.soft_a2c import losses
from sb3_mirl.soft_a2c.buffers import Costs, buffer_with_costs
from sb3_mirl.soft_a2c.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_mirl.soft_a2c.recorded import TOLERANCE, RecordedRollouts

SelfSoftA2C = TypeVar("SelfSoftA2C", bound="SoftA2C")

Entropy = Literal["proper", "naive"]
Update = Literal["policy_gradient", "soft_q"]
PriorStates = Literal["stationary", "discounted"]


class SoftA2C(RecordedRollouts, A2C):
    """
    A2C that pays for information in its returns, r - tau KL(pi(.|s) || rho), with a reference policy rho that is uniform,
    given or learned. By policy gradients or, with Q(s, a) = V(s) + tau log(pi(a|s) / rho(a)), by soft Q-learning: the same
    but for the noise of one sampled action.

    Paper: Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning", 2017 (equations below).
    With a learned prior, mutual-information regularisation (Grau-Moya et al. 2019) whose Eq. (11) sees the states of the
    policy itself. tau = ``ent_coef`` = 1 / beta.

    All of A2C's action spaces are allowed. Where they are not ``Discrete`` there is no reference policy: the cost is minus
    tau times the entropy, or tau log pi(a|s) where that has no closed form.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of SB3's ``ActorCriticPolicy``; with ``prior``
        or ``prior_lr`` one of :class:`~sb3_mirl.soft_a2c.policies.SoftActorCriticPolicy`
    :param env: environment (or its id)
    :param learning_rate: a number or a function of the remaining progress
    :param n_steps: environment steps of each environment between two updates
    :param gamma: discount factor in [0, 1]
    :param gae_lambda: lambda of the returns; 1 for as many steps as the rollout has
    :param ent_coef: tau, the temperature, in units of reward per nat
    :param vf_coef: weight of the values' mean square, without 1/2. The theory's is 1 / (2 ``ent_coef``); the paper trains
        with 0.25, A2C with 0.5
    :param max_grad_norm: bound of the gradient's norm
    :param rms_prop_eps: epsilon of RMSProp
    :param use_rms_prop: RMSProp, else Adam
    :param use_sde: state-dependent exploration, for continuous actions
    :param sde_sample_freq: steps between draws of its noise, -1 for once per rollout
    :param rollout_buffer_class: None chooses by itself; costs are added to any other
    :param rollout_buffer_kwargs: arguments of the rollout buffer
    :param normalize_advantage: bring advantages to mean 0 and standard deviation 1, which changes the temperature; with
        ``update="soft_q"`` it is Delta - tau u that is normalised
    :param stats_window_size: episodes in the moving averages of ``rollout/``
    :param tensorboard_log: directory of the TensorBoard logs, None for no logs
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 for silence, 1 for information, 2 for debugging
    :param seed: seed of Python's, NumPy's, PyTorch's and the environment's random numbers
    :param device: "auto", "cpu", "cuda", ...
    :param _init_setup_model: whether to build the networks now
    :param entropy: "proper" pays for information in the returns (Eqs. 50, 52); "naive" leaves it out of them (Eq. 48), as
        A2C does: the gradient of the divergence at the current state is all that is left of it
    :param update: "policy_gradient" (Eqs. 84-86) or "soft_q" (Eqs. 44, 46, 57)
    :param entropy_bonus: False regularises with the KL to rho; True adds tau log|A| to every reward, which makes of it the
        entropy if rho is uniform (the paper's experiments). Spaces that are not ``Discrete`` have the entropy anyway
    :param prior: rho as a list of probabilities, or where a learned one starts; None for the uniform one
    :param prior_lr: alpha_rho in [0, 1], rate of the prior per environment step; 0 keeps it as it is
    :param prior_floor: least probability of an action under the prior, in [0, 1/|A|]. A state costs at most
        tau log(1 / ``prior_floor``)
    :param prior_states: over which states a learned prior averages the policy: "stationary", all alike, or "discounted", by
        gamma^(steps since the episode began). After a load, unlike after a resumption, ages count from 0
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        entropy: Entropy = "proper",
        update: Update = "policy_gradient",
        entropy_bonus: bool = False,
        prior: Sequence[float] | None = None,
        prior_lr: float = 0.0,
        prior_floor: float = 1e-8,
        prior_states: PriorStates = "stationary",
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rms_prop_eps=rms_prop_eps,
            use_rms_prop=use_rms_prop,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        # where A2C has written its optimiser
        self._optimizer_kwargs = {name: value for name, value in self.policy_kwargs.items() if name.startswith("optimizer_")}
        self.policy_kwargs = dict(policy_kwargs or {})
        self.entropy = entropy
        self.update = update
        self.entropy_bonus = entropy_bonus
        self.given_prior = prior
        self.prior_lr = prior_lr
        self.prior_floor = prior_floor
        self.prior_states = prior_states

        self._rollout_values: th.Tensor | None = None  # (n_envs,) V at the states of the current actions
        self._ages: np.ndarray | None = None  # (n_envs,) steps since the episodes began, at these states

        if _init_setup_model:
            self._setup_model()

    @property
    def beta(self) -> float:
        """Inverse temperature, 1 / ``ent_coef``."""
        return 1 / self.ent_coef if self.ent_coef > 0 else math.inf

    @property
    def prior(self) -> np.ndarray:
        """(A,) reference policy rho(a), summing to 1."""
        log_prior = self.log_prior
        if log_prior is None:
            raise AttributeError(f"There is a reference policy for Discrete actions only, not for {self.action_space}.")
        return log_prior.softmax(-1).cpu().numpy()

    @property
    def log_prior(self) -> th.Tensor | None:
        """(A,) log rho(a), float64; None for spaces that are not ``Discrete``."""
        if not isinstance(self.action_space, spaces.Discrete):
            return None
        if hasattr(self.policy, "log_prior"):
            return self.policy.log_prior
        return uniform_log_prior(int(self.action_space.n)).to(self.device)  # a policy of others

    @property
    def beta_max_q(self) -> float:
        """beta max_a Q(s, a) = max_a [beta V(s) + log(pi(a|s) / rho(a))], mean over environments; NaN before the first."""
        if self._rollout_values is None or self.rollout_log_probs is None or self.log_prior is None or self.ent_coef == 0:
            return math.nan
        log_ratios = self.rollout_log_probs - at_hand(self.log_prior)
        return (self.beta * at_hand(self._rollout_values) + namespace(log_ratios).amax(log_ratios, -1)).mean().item()

    @property
    def prior_weights(self) -> th.Tensor | None:
        """(n_envs,) weights of the states in the prior's average: gamma^age, or None for 1."""
        if self.prior_states == "stationary" or self._ages is None:
            return None
        return th.as_tensor(self.gamma**self._ages, dtype=th.float64, device=self.device)

    # Building

    def check_arguments(self) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`."""
        check_choice("entropy", self.entropy, get_args(Entropy))
        check_choice("update", self.update, get_args(Update))
        check_choice("prior_states", self.prior_states, get_args(PriorStates))
        check_choice("entropy_bonus", self.entropy_bonus, (False, True))
        check_range("gae_lambda", self.gae_lambda, 0, 1)
        check_range("ent_coef", self.ent_coef, 0, math.inf, high_open=True)
        check_range("vf_coef", self.vf_coef, 0, math.inf, high_open=True)
        check_range("max_grad_norm", self.max_grad_norm, 0, math.inf, low_open=True)
        if self.update == "soft_q" and self.ent_coef == 0:
            raise ValueError('update="soft_q" divides by the temperature: ent_coef=0 must be in (0, inf).')
        super().check_arguments()
        if isinstance(self.action_space, spaces.Discrete):
            n_actions = int(self.action_space.n)
            check_range("prior_floor", self.prior_floor, 0, 1 / n_actions)
            check_prior(self.given_prior, n_actions, self.prior_floor)
            return
        named = {"prior": self.given_prior is not None, "prior_lr": self.prior_lr > 0, "update": self.update == "soft_q"}
        for name, is_given in named.items():
            if is_given:
                value = self.given_prior if name == "prior" else getattr(self, name)
                raise ValueError(
                    f"{name}={value!r} needs Discrete actions, got {self.action_space}. Leave it out: the cost is then minus "
                    "the entropy."
                )

    def _setup_model(self) -> None:
        given, given_kwargs = self.rollout_buffer_class, self.policy_kwargs
        self.rollout_buffer_class = buffer_with_costs(given, self.observation_space)
        self.policy_kwargs = {**given_kwargs, **self._optimizer_kwargs}
        super()._setup_model()
        # what the user gave is saved, and compared by `load`
        self.rollout_buffer_class, self.policy_kwargs = given, given_kwargs
        self._place_prior()

    def _place_prior(self) -> None:
        if self.given_prior is None and self.prior_lr == 0:
            return
        if not hasattr(self.policy, "log_prior"):
            raise ValueError(
                f"prior and prior_lr need a policy with an action prior (a subclass of sb3_mirl.soft_a2c.policies."
                f"SoftActorCriticPolicy), got {type(self.policy).__name__}."
            )
        n_actions = len(self.policy.log_prior)
        if self.given_prior is not None and not np.allclose(self.given_prior, 1 / n_actions, rtol=1e-12, atol=0):
            probs = th.tensor(self.given_prior, dtype=th.float64)
            self.policy.log_prior.copy_(floored_log_prior(probs / probs.sum(), self.prior_floor))

    def _maybe_recommend_cpu(self, mlp_class_name: str = MlpPolicy.__name__) -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    # Acting

    def begin_rollout(self, rollout_buffer: Costs) -> None:
        """As in :class:`~sb3_mirl.soft_a2c.recorded.RecordedRollouts`."""
        rollout_buffer.are_paid = self.entropy == "proper"
        is_discrete = isinstance(self.action_space, spaces.Discrete)
        rollout_buffer.bonus = 0.0
        if self.entropy_bonus and is_discrete and self.ent_coef > 0:
            n_actions = int(cast(spaces.Discrete, self.action_space).n)
            rollout_buffer.bonus = float(entropy_bonus(n_actions, self.beta))

    def record_step(self, step: dict[str, Any]) -> None:
        """
        Note the cost, the policy and the age of the states in which the current actions were chosen.

        :param step: the local variables of ``collect_rollouts``
        :raises ValueError: if policy or values are not finite
        """
        buffer: Costs = step["rollout_buffer"]
        distribution, log_prior = self.policy.action_dist, self.log_prior
        if log_prior is None:
            kl = losses.negative_entropy(distribution, step["log_probs"])
        else:
            self.rollout_log_probs = at_hand(losses.action_log_probs(distribution))
            kl = kl_to_prior(self.rollout_log_probs, at_hand(log_prior))
        self._rollout_values = step["values"].flatten()
        paid = buffer.kl[buffer.pos] = to_array(kl)
        buffer.costs[buffer.pos] = self.ent_coef * paid
        ages = np.zeros(len(paid), dtype=int) if self._ages is None else self._ages + 1
        self._ages = np.where(cast(np.ndarray, self._last_episode_starts), 0, ages)
        if not is_finite(paid) or not is_finite(at_hand(self._rollout_values)):
            raise ValueError(f"The policy or the values are not finite at step {self.num_timesteps}. Lower learning_rate.")

    def keeps_prior_record(self) -> bool:
        """As in :class:`~sb3_mirl.soft_a2c.recorded.RecordedRollouts`."""
        return isinstance(self.action_space, spaces.Discrete) and hasattr(self.policy, "log_prior")

    # Training

    def train(self) -> None:
        """
        Update policy and values once from the rollout. With a frozen uniform reference policy, and for actions without one,
        the policy gradient is SB3's own: there grad KL = -grad entropy.

        :raises ValueError: for a gradient that is not finite, before the weights change
        """
        with losses.finite_steps(self.policy.optimizer):
            if self.update == "policy_gradient" and self._has_plain_reference():
                super().train()
            else:
                self._train_with_reference()
        drop_dead_moments(self.policy.optimizer)

    def _has_plain_reference(self) -> bool:
        log_prior = self.log_prior
        return log_prior is None or (self.prior_lr == 0 and bool((log_prior == log_prior[0]).all()))

    def _train_with_reference(self) -> None:
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        (data,) = self.rollout_buffer.get(batch_size=None)
        actions = data.actions.long().flatten()
        values, _, _ = self.policy.evaluate_actions(data.observations, actions)
        log_probs = self.policy.action_dist.distribution.logits  # (B, A), of the forward just made
        tau, log_prior = self.ent_coef, cast(th.Tensor, self.log_prior)
        compute: Callable[..., losses.Losses]
        advantages = data.advantages
        if self.update == "soft_q":
            compute = partial(losses.soft_q_losses, normalize_advantage=self.normalize_advantage)
        else:
            compute = losses.policy_gradient_losses
            advantages = losses.normalized(advantages) if self.normalize_advantage else advantages
        loss = compute(log_probs, actions, values.flatten(), advantages, data.returns, log_prior, tau, self.vf_coef)

        self.policy.optimizer.zero_grad()
        loss.total.backward()
        th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

        self._n_updates += 1
        explained = explained_variance(self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/entropy_loss", loss.entropy.item())
        self.logger.record("train/policy_loss", loss.policy.item())
        self.logger.record("train/value_loss", loss.value.item())

    def learn(
        self: SelfSoftA2C,
        total_timesteps: int = 80_000_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSoftA2C:
        """
        As in SB3, with the paper's budget where none is given. The first call after :func:`sb3_mirl.resume` does what is
        left of the run: then ``total_timesteps`` counts from the beginning of the run.

        :param total_timesteps: environment steps (8e7 steps = 3.2e8 frames of Atari)
        :param callback: callback(s) called at every step
        :param log_interval: rollouts between two log entries
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues the count of steps and the schedules; what has been learned goes on
            either way
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, and for rewards, observations, policies, values or gradients that
            are not finite. The model is whole then, without the rollout in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def record_state(self) -> None:
        """Record the costs of the last rollout, beta and the prior."""
        if isinstance(self.action_space, spaces.Discrete):
            self.logger.record("train/kl", float(self.rollout_buffer.kl.mean()))
        self.logger.record("rollout/information_cost", float(self.rollout_buffer.costs.mean()))
        self.logger.record("train/beta", self.beta)
        super().record_state()

    def run_state(self) -> dict[str, Any]:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`: the prior's record, and the ages of the episodes."""
        return {**super().run_state(), "ages": self._ages}

    def load_run_state(self, state: dict[str, Any]) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`."""
        super().load_run_state(state)
        self._ages = state["ages"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_rollout_values", "_ages"]


def check_prior(prior: Any, n_actions: int, floor: float) -> None:
    """
    Check a reference policy.

    :param prior: what the user gave
    :param n_actions: |A|
    :param floor: least probability of an action
    :raises ValueError: if ``prior`` is neither None nor a list of |A| probabilities that sum to 1, or has a 0 without a floor
    """
    if prior is None:
        return
    numbers = list(prior) if isinstance(prior, (Sequence, np.ndarray)) and not isinstance(prior, str) else []
    if len(numbers) != n_actions or not all(is_number(p) and p >= 0 for p in numbers):
        raise ValueError(f"prior={prior!r} must be a list of {n_actions} probabilities, one for each action.")
    if not math.isclose(sum(numbers), 1, abs_tol=TOLERANCE):
        raise ValueError(f"prior={prior!r} must sum to 1, and sums to {sum(numbers):g}.")
    if floor == 0 and min(numbers) == 0:
        raise ValueError(f"prior={prior!r} has an action of probability 0, whose cost is infinite: choose prior_floor > 0.")
