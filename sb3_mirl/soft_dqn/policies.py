"""DQN's policies with an action prior and an inverse temperature."""

from typing import cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn import policies as dqn

from sb3_mirl.maths import action_scores, uniform_log_prior
from sb3_mirl.soft_dqn.networks import SoftQNetwork

ADAM = {"eps": 1.5e-4}
"""Arguments of Adam that differ from torch's."""


class SoftQPolicy(dqn.DQNPolicy):
    """
    DQN's policy that acts by argmax_a [log rho(a) + beta Q(s, a)] (section 4.1 of the MIRL paper).

    ``log_prior`` and ``beta`` are buffers: they move between devices, are saved and loaded with the network, and a
    policy loaded alone acts like the model that saved it. Adam, the default optimiser, gets ``eps=1.5e-4`` and its
    fused implementation unless ``optimizer_kwargs`` say otherwise. The other parameters are those of SB3's policies.
    """

    log_prior: th.Tensor  # (A,) log rho(a), float64: float32 loses an action after 103 e-folds
    beta: th.Tensor  # scalar, inverse temperature
    action_counts: th.Tensor  # (A,) executed actions, for marginal exploration

    def _build(self, lr_schedule: Schedule) -> None:
        if issubclass(self.optimizer_class, th.optim.Adam):
            self.optimizer_kwargs = {**ADAM, "fused": True, **self.optimizer_kwargs}
        super()._build(lr_schedule)
        n_actions = int(cast(spaces.Discrete, self.action_space).n)
        self.register_buffer("log_prior", uniform_log_prior(n_actions))
        self.register_buffer("beta", th.ones((), dtype=th.float64))
        self.register_buffer("action_counts", th.zeros(n_actions, dtype=th.float64))

    def make_q_net(self) -> dqn.QNetwork:
        """As in SB3."""
        return SoftQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)

    def suit_cpu(self, bfloat16: bool) -> None:
        """
        See :meth:`SoftQNetwork.suit_cpu`; networks of other classes stay as they are.

        :param bfloat16: whether they compute in bfloat16
        """
        for network in (self.q_net, self.q_net_target):
            if isinstance(network, SoftQNetwork):
                network.suit_cpu(bfloat16)

    def adopt_optimizer_state(self) -> None:
        """
        Fits loaded optimiser state to this device: the memory layout is that of the parameters (the CPU's fused Adam
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
        Prepares the optimiser for a CUDA graph, in which the learning rate must be a tensor.

        :return: whether the optimiser can be captured
        """
        for group in self.optimizer.param_groups:
            if "capturable" not in group:
                return False
            group["capturable"] = True
            if not isinstance(group["lr"], th.Tensor):
                group["lr"] = th.tensor(float(group["lr"]), device=self.device)
        return True

    @property
    def prior(self) -> np.ndarray:
        """(A,) rho(a), summing to 1."""
        return self.log_prior.softmax(-1).cpu().numpy()

    def greedy_actions(self, q: th.Tensor) -> th.Tensor:
        """
        argmax_a pi(a|s), Eq. (8), for given action values.

        :param q: (B, A) Q(s, a)
        :return: (B,) actions
        """
        return action_scores(q, self.log_prior, self.beta).argmax(-1)

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.greedy_actions(self.q_net(obs))


MlpPolicy = SoftQPolicy


class CnnPolicy(SoftQPolicy, dqn.CnnPolicy):
    """:class:`SoftQPolicy` for images: features from SB3's ``NatureCNN``."""


class MultiInputPolicy(SoftQPolicy, dqn.MultiInputPolicy):
    """:class:`SoftQPolicy` for dictionary observations: features from SB3's ``CombinedExtractor``."""
