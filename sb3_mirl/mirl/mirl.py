"""MIRL: soft Q-learning with a learned action prior, as an SB3 algorithm."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_mirl.common.arguments import check_range
from sb3_mirl.maths import mixed_with_uniform
from sb3_mirl.mirl.callbacks import PriorCallback
from sb3_mirl.soft_dqn.policies import SoftQPolicy
from sb3_mirl.soft_dqn.soft_dqn import SoftDQN


class MIRL(SoftDQN):
    """
    Mutual-information regularised Q-learning: :class:`~sb3_mirl.SoftDQN` whose prior rho follows the policy,
    rho <- (1 - alpha_rho) rho + alpha_rho pi(.|s), Eq. (11), once per environment step (Algorithm 1).

    The prior enters the target, the greedy action argmax_a [log rho(a) + beta Q(s, a)] and the random actions,
    a ~ rho. At ``prior_lr=0, exploration="uniform"`` this is SoftDQN.

    Paper: Grau-Moya, Leibfried & Vrancx, "Soft Q-Learning with Mutual-Information Regularization", ICLR 2019.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of ``SoftQPolicy``
    :param env: environment with discrete actions (or its id)
    :param prior_lr: alpha_rho in [0, 1], rate of the prior per environment step
        (section 5.2; Table 3 of the paper says 2e-6)
    :param prior_floor: least probability of an action under the prior, in [0, 1/|A|]; an action that died
        would never come back
    :param exploration: how random actions are drawn: "prior" (the paper), "uniform" or "marginal" as in SoftDQN
    :param exploration_mix: weight in [0, 1] of the uniform distribution in that draw; the target keeps rho
    :param kwargs: the other arguments of :class:`~sb3_mirl.SoftDQN`
    """

    explorations: ClassVar[tuple[str, ...]] = ("prior", "uniform", "marginal")
    tb_log_name: ClassVar[str] = "MIRL"

    def __init__(
        self,
        policy: str | type[SoftQPolicy],
        env: GymEnv | str,
        *,
        prior_lr: float = 5e-5,
        prior_floor: float = 1e-8,
        exploration: str = "prior",
        exploration_mix: float = 0.0,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, env, exploration=exploration, _init_setup_model=False, **kwargs)
        self.prior_lr = prior_lr
        self.prior_floor = prior_floor
        self.exploration_mix = exploration_mix
        self.prior_callback: PriorCallback | None = None

        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_range("prior_lr", self.prior_lr, 0, 1)
        check_range("exploration_mix", self.exploration_mix, 0, 1)
        check_range("prior_floor", self.prior_floor, 0, 1 / int(self.action_space.n))  # type: ignore[attr-defined]

    def _exploration_probs(self) -> np.ndarray:
        probs = self.prior if self.exploration == "prior" else super()._exploration_probs()
        return mixed_with_uniform(th.as_tensor(probs), self.exploration_mix).numpy()

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        given = _prior_callbacks(callback)
        if len(given) > 1:
            raise ValueError(f"The prior is updated by one PriorCallback, got {len(given)} of them.")
        if given:
            self.prior_callback = given[0]
            return super()._init_callback(callback, progress_bar)
        if self.prior_callback is None or self.num_timesteps == 0:
            self.prior_callback = PriorCallback()
        # first, so that evaluations and checkpoints see the prior of the step they are made at
        callbacks: list[BaseCallback] = [self.prior_callback]
        if callback is not None:
            callbacks.append(_as_callback(callback))
        return super()._init_callback(callbacks, progress_bar)

    def _record_state(self) -> None:
        super()._record_state()
        if self.prior_callback is not None:
            self.prior_callback.log()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "prior_callback"]


def _as_callback(callback: MaybeCallback) -> BaseCallback:
    if isinstance(callback, list):
        return CallbackList(callback)
    return callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)


def _prior_callbacks(callback: MaybeCallback) -> list[PriorCallback]:
    if isinstance(callback, PriorCallback):
        return [callback]
    inner = callback.callbacks if isinstance(callback, CallbackList) else callback
    return [found for c in inner for found in _prior_callbacks(c)] if isinstance(inner, list) else []
