"""Checks of what a user or an environment hands to SoftDQN and MIRL, with errors that say what to do."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_mirl.soft_dqn.policies import SoftQPolicy

if TYPE_CHECKING:
    from sb3_mirl.soft_dqn.soft_dqn import SoftDQN

BETA_SCHEDULES = ("inverse_loss", "linear", "constant")
UPDATE_PATHS = ("fast", "eager")
PRECISIONS = ("float32", "bfloat16")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """
    :raises ValueError: if ``value`` is none of ``choices``
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known, choose from {', '.join(map(repr, choices))}.")


def check_range(name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False) -> None:
    """
    :raises ValueError: if ``value`` is not a number between ``low`` and ``high``
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    above = is_number and (value > low if low_open else value >= low)
    if not (above and (value < high if high_open else value <= high)):
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise ValueError(f"{name}={value!r} must be a number in {interval}.")


def check_arguments(model: "SoftDQN") -> None:
    """
    :raises ValueError: naming the first argument of ``model`` that is out of its range
    """
    check_choice("beta_schedule", model.beta_schedule, BETA_SCHEDULES)
    check_choice("exploration", model.exploration, model.explorations)
    check_choice("update_path", model.update_path, UPDATE_PATHS)
    check_choice("precision", model.precision, PRECISIONS)
    check_range("beta_init", model.beta_init, 0, math.inf, low_open=True, high_open=model.beta_schedule != "constant")
    check_range("beta_lr", model.beta_lr, 0, 1)
    check_range("beta_slope", model.beta_slope, 0, math.inf, low_open=True, high_open=True)
    check_range("beta_max", model.beta_max, 0, math.inf, low_open=True)
    check_range("gamma", model.gamma, 0, 1)
    check_range("tau", model.tau, 0, 1)
    for name in ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"):
        check_range(name, getattr(model, name), 0, 1)
    for name in ("batch_size", "buffer_size", "target_update_interval", "n_steps"):
        check_range(name, getattr(model, name), 1, math.inf)
    check_range("learning_starts", model.learning_starts, 0, math.inf)
    if not callable(model.learning_rate):
        check_range("learning_rate", model.learning_rate, 0, math.inf, high_open=True)
    if model.max_grad_norm is not None:
        check_range("max_grad_norm", model.max_grad_norm, 0, math.inf, low_open=True)


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
    :param values: array of one row per environment, or a dictionary of such arrays
    :param what: name of the values
    :param where: when they came
    :param env: set if ``values`` are those of this environment alone, without an axis of environments
    :raises ValueError: if a value is NaN or infinite, naming the environment
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_finite(value, f"{what}[{key!r}]", where, env)
        return
    values = np.asarray(values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(
            f"The {what} of environment {index[0] if env is None else env} is {values[index]} at {where} (index {index}): "
            "nothing of that step was stored or learned from. Repair the environment; stable_baselines3's VecCheckNan "
            "wrapper shows the action."
        )


def check_transition(reward: np.ndarray, new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]], step: int) -> None:
    """
    :raises ValueError: if a reward or an observation, the last ones of episodes included, is NaN or infinite
    """
    check_finite(reward, "reward", f"step {step}")
    check_finite(new_obs, "observation", f"step {step}")
    for env in np.flatnonzero(dones):
        if infos[env].get("terminal_observation") is not None:
            check_finite(infos[env]["terminal_observation"], "observation", f"step {step}", env=int(env))
