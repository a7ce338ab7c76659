"""SB3's actor-critic policies with a reference policy."""

from typing import ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import policies as sb3
from stable_baselines3.common.type_aliases import Schedule

from sb3_mirl.maths import uniform_log_prior


class SoftActorCriticPolicy(sb3.ActorCriticPolicy):
    """
    SB3's ``ActorCriticPolicy`` that keeps the reference policy, or learned prior, of discrete actions as a buffer: saved,
    loaded and moved with the network. Its networks, its initialisation and its random numbers are SB3's.
    """

    may_be_infinite: ClassVar[tuple[str, ...]] = ("log_prior",)  # log 0 is a logarithm
    log_prior: th.Tensor  # (A,) log rho(a), float64: float32 loses an action after 103 e-folds

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if isinstance(self.action_space, spaces.Discrete):
            self.register_buffer("log_prior", uniform_log_prior(int(self.action_space.n)))

    @property
    def prior(self) -> np.ndarray:
        """(A,) rho(a), summing to 1."""
        return self.log_prior.softmax(-1).cpu().numpy()


MlpPolicy = SoftActorCriticPolicy


class CnnPolicy(SoftActorCriticPolicy, sb3.ActorCriticCnnPolicy):
    """:class:`SoftActorCriticPolicy` for images: features from SB3's ``NatureCNN``."""


class MultiInputPolicy(SoftActorCriticPolicy, sb3.MultiInputActorCriticPolicy):
    """:class:`SoftActorCriticPolicy` for dictionary observations: features from SB3's ``CombinedExtractor``."""
