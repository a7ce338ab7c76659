"""DQN's policies with an action prior and an inverse temperature."""

from typing import Any, ClassVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn import policies as dqn

from sb3_mirl.maths import action_scores, boltzmann_log_probs, uniform_log_prior
from sb3_mirl.maths.arrays import Array, at_hand
from sb3_mirl.soft_dqn.networks import SoftQNetwork

ADAM = {"eps": 1.5e-4}
"""Arguments of Adam that differ from torch's, as the default optimiser."""
OPTIMIZER_CLASS = 8  # its position among the arguments of SB3's policies


class SoftQPolicy(dqn.DQNPolicy):
    """
    DQN's policy that acts by argmax_a [log rho(a) + beta Q(s, a)] (section 4.1 of the MIRL paper).

    ``log_prior`` and ``beta`` are buffers: they move between devices, are saved and loaded with the network, and a
    policy loaded alone acts like the model that saved it.

    The default optimiser is Adam with ``eps=1.5e-4`` and its fused implementation, unless ``optimizer_kwargs`` say
    otherwise. An ``optimizer_class`` that is given, Adam included, gets the ``optimizer_kwargs`` that are given and no
    others. The other parameters are those of SB3's policies.
    """

    may_be_infinite: ClassVar[tuple[str, ...]] = ("log_prior", "beta")  # log 0 is a logarithm, beta = inf the hard maximum
    log_prior: th.Tensor  # (A,) log rho(a), float64: float32 loses an action after 103 e-folds
    beta: th.Tensor  # scalar, inverse temperature
    action_counts: th.Tensor  # (A,) executed actions, for marginal exploration

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "optimizer_class" not in kwargs and len(args) <= OPTIMIZER_CLASS:
            kwargs["optimizer_kwargs"] = _default_adam(kwargs.get("optimizer_kwargs") or {})
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        n_actions = int(cast(spaces.Discrete, self.action_space).n)
        self.register_buffer("log_prior", uniform_log_prior(n_actions))
        self.register_buffer("beta", th.ones((), dtype=th.float64))
        self.register_buffer("action_counts", th.zeros(n_actions, dtype=th.float64))
        for network in (self.q_net, self.q_net_target):
            if isinstance(network, SoftQNetwork):
                network.holder = [self]

    def make_q_net(self) -> dqn.QNetwork:
        """As in SB3."""
        return SoftQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)

    def adopt_optimizer_state(self) -> None:
        """
        Fit loaded optimiser state to this device: the memory layout is that of the parameters (the CPU's fused Adam
        walks both in the order of memory, and would silently pair the wrong elements), and a learning rate made for a
        CUDA graph is a number again.
        """
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, th.Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = th.empty_like(parameter).copy_(value)
        for group in self.optimizer.param_groups:
            if group.get("capturable") and self.device.type != "cuda":
                group.update(capturable=False, lr=float(group["lr"]))

    def make_capturable(self) -> bool:
        """
        Prepare the optimiser for a CUDA graph, in which the learning rate must be a tensor.

        :return: whether the optimiser can be captured
        """
        if not leaves_out_bad_steps(self.optimizer):
            return False
        for group in self.optimizer.param_groups:
            if "capturable" not in group:
                return False
            group["capturable"] = True
            if not isinstance(group["lr"], th.Tensor):
                group["lr"] = th.tensor(float(group["lr"]), device=self.device)
        return True

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3, which walks through all modules also where the mode is set."""
        if not self.training == self.q_net.training == mode:
            super().set_training_mode(mode)

    @property
    def prior(self) -> np.ndarray:
        """(A,) rho(a), summing to 1."""
        return self.log_prior.softmax(-1).cpu().numpy()

    def greedy_actions(self, q: Array) -> Array:
        """
        Return argmax_a pi(a|s), Eq. (8), for given action values.

        :param q: (B, A) Q(s, a), an array or a tensor
        :return: (B,) actions, the same
        """
        return action_scores(q, *self.prior_and_beta_for(q)).argmax(-1)

    def prior_and_beta_for(self, q: Array) -> tuple[Array, Any]:
        """
        Return ``log_prior`` and ``beta`` as formulas take them beside given action values.

        :param q: an array, on the CPU, or a tensor
        """
        return (at_hand(self.log_prior), self.beta.item()) if isinstance(q, np.ndarray) else (self.log_prior, self.beta)

    def get_distribution(self, obs: PyTorchObs) -> CategoricalDistribution:
        """
        Return the policy pi(a|s) = rho(a) exp(beta Q(s, a)) / Z of Eq. (8), as SB3's actor-critic policies do.

        :param obs: observations as tensors, (B, ...) or a dictionary of such (``policy.obs_to_tensor`` makes them)
        :return: distribution of B actions, in float64; its mode is what the policy does
        """
        q = self.q_net(obs)
        return BoltzmannDistribution(boltzmann_log_probs(q, self.log_prior, self.beta), self.greedy_actions(q))

    def action_probabilities(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        Return pi(a|s) = rho(a) exp(beta Q(s, a)) / Z, Eq. (8), from and to NumPy.

        :param observation: one observation or a batch of them, as for ``predict``
        :return: (A,) or (B, A) probabilities
        """
        self.set_training_mode(False)
        obs, is_batch = self.obs_to_tensor(observation)
        with th.no_grad():
            probs = boltzmann_log_probs(self.q_net(obs), self.log_prior, self.beta).exp().cpu().numpy()
        return probs if is_batch else probs.squeeze(0)

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.greedy_actions(self.q_net(obs))


class BoltzmannDistribution(CategoricalDistribution):
    """
    SB3's categorical distribution whose mode is the greedy action also where probabilities are equal up to rounding.

    :param log_probs: (B, A) log pi(a|s)
    :param greedy_actions: (B,)
    """

    def __init__(self, log_probs: th.Tensor, greedy_actions: th.Tensor) -> None:
        super().__init__(log_probs.shape[-1])
        self._greedy_actions = greedy_actions
        self.proba_distribution(log_probs)

    def mode(self) -> th.Tensor:
        """(B,) the most probable actions."""
        return self._greedy_actions


def leaves_out_bad_steps(optimizer: th.optim.Optimizer) -> bool:
    """
    Whether an optimiser looks at its attribute ``found_inf`` on the device, and leaves out the step if it is set.

    :param optimizer: fused ones do, by the protocol of torch's ``GradScaler``
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _default_adam(given: dict[str, Any]) -> dict[str, Any]:
    contradicted = any(given.get(name) for name in ("foreach", "differentiable"))
    return {**ADAM, **({} if contradicted else {"fused": True}), **given}


MlpPolicy = SoftQPolicy


class CnnPolicy(SoftQPolicy, dqn.CnnPolicy):
    """:class:`SoftQPolicy` for images: features from SB3's ``NatureCNN``."""


class MultiInputPolicy(SoftQPolicy, dqn.MultiInputPolicy):
    """:class:`SoftQPolicy` for dictionary observations: features from SB3's ``CombinedExtractor``."""
