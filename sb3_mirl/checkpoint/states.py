"""Everything of a run that is neither in SB3's ``model.zip`` nor in the replay memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl.checkpoint.callback_states import get_callback_states, set_callback_states
from sb3_mirl.checkpoint.environments import restore_environment, save_environment
from sb3_mirl.checkpoint.memory import SavedMemory
from sb3_mirl.checkpoint.random_states import get_random_states, set_random_states
from sb3_mirl.common.files import Checksum
from sb3_mirl.mirl import MIRL, PriorCallback
from sb3_mirl.soft_dqn import SoftDQN


@dataclass
class Run:
    """
    What a model knows about its checkpoints.

    :param folder: where they are
    :param memory: what of its replay memory is there
    :param files: the files of the newest one
    """

    folder: Path
    memory: SavedMemory = field(default_factory=SavedMemory)
    files: Mapping[str, Checksum] = field(default_factory=dict)


def get_state(model: SoftDQN, callback: BaseCallback) -> dict[str, Any]:
    """
    :param model: the model, between two rollouts
    :param callback: the callback of its training
    :return: for :func:`set_state`
    """
    assert model.env is not None
    normalize = model.get_vec_normalize_env()
    state: dict[str, Any] = {
        "random": get_random_states(),
        "callbacks": get_callback_states(callback),
        # generator of the random actions before `learning_starts`
        "action_space": model.action_space,
        "normalization": None if normalize is None else (normalize.obs_rms if normalize.norm_obs else None, normalize.ret_rms),
        "environment": None,
    }
    try:
        # together, because the environments may draw from the same object
        state["environment"] = save_environment(model.env, model.action_space)
    except TypeError as error:
        state["environment_problem"] = str(error)
    return state


def set_state(model: SoftDQN, state: dict[str, Any]) -> str | None:
    """
    Restores environments, statistics and the generator of random actions now, and leaves the rest to ``learn``: what
    comes before may draw random numbers.

    :param model: the loaded model
    :param state: from :func:`get_state`
    :return: None, or why the environments start anew
    """
    problem = state.get("environment_problem")
    assert model.env is not None
    model.action_space = state["action_space"]
    if problem is None:
        try:
            model.action_space = restore_environment(model.env, state["environment"])
        except ValueError as error:
            problem = str(error)
    if problem is not None:
        _start_anew(model, state["normalization"])
    if isinstance(model, MIRL) and "PriorCallback/0" in state["callbacks"]:
        model.prior_callback = PriorCallback()
        model.prior_callback.load_state_dict(state["callbacks"]["PriorCallback/0"])
    model._resumption = _resumption(model, state, problem)
    return problem


def _start_anew(model: SoftDQN, normalization: tuple[Any, Any] | None) -> None:
    assert model.env is not None
    model._last_obs = None
    if model.seed is not None:
        # the seed itself would play the run's first episodes again
        model.env.seed((model.seed + model.num_timesteps) % 2**32)
    normalize = model.get_vec_normalize_env()
    if normalize is not None and normalization is not None:
        normalize.obs_rms, normalize.ret_rms = normalization


def _resumption(model: SoftDQN, state: dict[str, Any], problem: str | None) -> Callable[[BaseCallback], None]:
    def go_on(callback: BaseCallback) -> None:
        set_callback_states(callback, state["callbacks"])
        episodes = "go on" if problem is None else f"start anew: {problem}"
        model.logger.info(f"Resumed at step {model.num_timesteps}; the episodes {episodes}")
        set_random_states(state["random"])

    return go_on
