"""Checks of what a user or an environment hands to SoftDQN and MIRL, with errors that say what to do."""

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TrainFreq

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.soft_dqn.policies import SoftQPolicy

if TYPE_CHECKING:
    from sb3_mirl.soft_dqn.soft_dqn import SoftDQN

BETA_SCHEDULES = ("inverse_loss", "linear", "constant")
UPDATE_PATHS = ("fast", "eager")
PRECISIONS = ("float32", "bfloat16")


def check_arguments(model: "SoftDQN") -> None:
    """
    :raises ValueError: naming the first argument of ``model`` that is out of its range
    """
    _check_action_space(model)
    check_choice("beta_schedule", model.beta_schedule, BETA_SCHEDULES)
    check_choice("exploration", model.exploration, model.explorations)
    check_choice("update_path", model.update_path, UPDATE_PATHS)
    check_choice("precision", model.precision, PRECISIONS)
    check_choice("entropy_bonus", model.entropy_bonus, (False, True))
    check_range("beta_init", model.beta_init, 0, math.inf, low_open=True, high_open=model.beta_schedule != "constant")
    check_range("beta_lr", model.beta_lr, 0, 1)
    check_range("beta_slope", model.beta_slope, 0, math.inf, low_open=True, high_open=True)
    check_range("beta_max", model.beta_max, 0, math.inf, low_open=True)
    check_range("gamma", model.gamma, 0, 1)
    check_range("tau", model.tau, 0, 1)
    for name in ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"):
        check_range(name, getattr(model, name), 0, 1)
    for name in ("batch_size", "buffer_size", "n_steps"):
        check_range(name, getattr(model, name), 1, math.inf, whole=True)
    check_range("stats_window_size", model._stats_window_size, 1, math.inf, whole=True)
    check_range("target_update_interval", model.target_update_interval, 1, math.inf)
    check_range("learning_starts", model.learning_starts, 0, math.inf)
    check_range("gradient_steps", model.gradient_steps, -1, math.inf, whole=True)
    if not callable(model.learning_rate):
        check_range("learning_rate", model.learning_rate, 0, math.inf, high_open=True)
    if model.max_grad_norm is not None:
        check_range("max_grad_norm", model.max_grad_norm, 0, math.inf, low_open=True)
    if model.seed is not None:
        check_range("seed", model.seed, 0, 2**32 - 1, whole=True)
    if model.precision == "bfloat16" and model.env is not None and not computes_bfloat16(model.device):
        warnings.warn(
            'precision="bfloat16" trains slowly on this processor, which has no instructions for it (AVX-512 at least): '
            'at about a tenth of the speed where it was measured. Use "float32" here.'
        )


def computes_bfloat16(device: th.device) -> bool:
    """
    :param device: where a network is to compute
    :return: False for a CPU on which oneDNN has no convolutions and matrix products in bfloat16
    """
    if device.type != "cpu" or not th.backends.mkldnn.is_available():
        return True
    return bool(th.ops.mkldnn._is_mkldnn_bf16_supported())


def check_train_freq(model: "SoftDQN") -> None:
    """
    :raises ValueError: if the rollouts of ``model`` are empty
    """
    assert isinstance(model.train_freq, TrainFreq)  # SB3 has read what the user gave
    check_range("train_freq", model.train_freq.frequency, 1, math.inf, whole=True)


def _check_action_space(model: "SoftDQN") -> None:
    space = model.action_space
    if not isinstance(space, spaces.Discrete) or space.start != 0:
        raise ValueError(
            f"{type(model).__name__} needs actions counted from 0, a space Discrete(n), got {space}. Other discrete actions "
            "can be mapped to these by gymnasium's TransformAction wrapper."
        )


def check_policy(model: "SoftDQN") -> None:
    """
    :raises ValueError: if the policy has no prior and no beta, as in a model saved by SB3's DQN
    """
    if not isinstance(model.policy, SoftQPolicy):
        name = f"{type(model.policy).__module__}.{type(model.policy).__qualname__}"
        raise ValueError(
            f"{type(model).__name__} needs a policy with an action prior and a beta (a subclass of "
            f"sb3_mirl.soft_dqn.SoftQPolicy), got {name}. If this model was saved by another algorithm such as DQN, load "
            "it with that, create a new model and copy the network: model.q_net.load_state_dict(dqn.q_net.state_dict())."
        )


def check_finite(values: Any, what: str, where: str, env: int | None = None) -> None:
    """
    :param values: array of one row per environment
    :param what: name of the values
    :param where: when they came
    :param env: set if ``values`` are those of this environment alone, without an axis of environments
    :raises ValueError: if a value is NaN or infinite, naming the environment
    """
    values = np.asarray(values)
    if values.dtype.kind == "O":  # None is NaN
        values = values.astype(np.float64)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _refused(values, ~np.isfinite(values), what, where, env)


def check_observations(
    values: Any, space: spaces.Space[Any], where: str, env: int | None = None, name: str = "observation"
) -> None:
    """
    :param values: array of one row per environment, or a dictionary of such arrays
    :param space: of one observation
    :param where: when they came
    :param env: set if ``values`` are those of this environment alone, without an axis of environments
    :param name: for the message
    :raises ValueError: if a value is not finite, a category is none of a discrete space, or an array has another shape
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            check_observations(values[key], part, where, env, f"{name}[{key!r}]")
        return
    values = np.asarray(values)
    if isinstance(space, spaces.Box) and values.shape[values.ndim - len(space.shape) :] != space.shape:
        raise ValueError(
            f"The {name} at {where} has the shape {values.shape}, its space {space.shape} (beside the number of "
            "environments): nothing of that step was stored or learned from. Repair the environment."
        )
    check_finite(values, name, where, env)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        outside = (values < 0) | (values >= (space.n if isinstance(space, spaces.Discrete) else space.nvec))
        if outside.any():
            raise _refused(values, outside, name, where, env, f", which is not in {space}")


def check_transition(
    reward: np.ndarray,
    new_obs: Any,
    dones: np.ndarray,
    infos: list[dict[str, Any]],
    space: spaces.Space[Any],
    step: int,
) -> None:
    """
    :param space: of one observation
    :raises ValueError: if a reward is no finite number, or an observation, the last ones of episodes included, is none
        of its space
    """
    if reward.shape != dones.shape:
        raise ValueError(
            f"The rewards at step {step} have the shape {reward.shape} and not {dones.shape}, one per environment."
        )
    check_finite(reward, "reward", f"step {step}")
    check_observations(new_obs, space, f"step {step}")
    for env in np.flatnonzero(dones):
        if infos[env].get("terminal_observation") is not None:
            check_observations(infos[env]["terminal_observation"], space, f"step {step}", env=int(env))


def _refused(values: np.ndarray, bad: np.ndarray, what: str, where: str, env: int | None, why: str = "") -> ValueError:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return ValueError(
        f"The {what} of environment {index[0] if env is None else env} is {values[index]} at {where} (index {index}){why}: "
        "nothing of that step was stored or learned from. Repair the environment; stable_baselines3's VecCheckNan "
        "wrapper shows the action."
    )
