"""Everything of a run that is neither in SB3's ``model.zip`` nor in the replay memory."""

import inspect
import random
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.checkpoint.environments import describe_environment, restore_environment, save_environment
from sb3_mirl.checkpoint.memory import SavedMemory
from sb3_mirl.common.algorithm import GuardedAlgorithm
from sb3_mirl.common.callbacks import LINKS, walk
from sb3_mirl.common.files import Checksum


@dataclass
class Run:
    """
    What is known of the checkpoints of a model's run.

    :param folder: where they are
    :param memory: what of the replay memory is there
    :param files: the files of the newest one
    :param resumed_from: state of the checkpoint from which the model was resumed
    :param is_ready: False after a resumption until the first rollout begins
    """

    folder: Path
    memory: SavedMemory = field(default_factory=SavedMemory)
    files: Mapping[str, Checksum] = field(default_factory=dict)
    resumed_from: dict[str, Any] | None = None
    is_ready: bool = True


RUNS: WeakKeyDictionary[BaseAlgorithm, Run] = WeakKeyDictionary()
"""The runs of the models in this process."""


def get_state(model: BaseAlgorithm, callback: BaseCallback, at_start: "CallbackRecord") -> dict[str, Any]:
    """
    Collect the state of a run between two rollouts, for :func:`restore_environments` and :func:`restore_training`.

    :param model: the model
    :param callback: the callback of its training
    :param at_start: of the callbacks, when the training began
    """
    assert model.env is not None
    normalize = model.get_vec_normalize_env()
    state: dict[str, Any] = {
        "random": get_random_states(),
        "callbacks": at_start.states(callback),
        # generator of the random actions before `learning_starts`
        "action_space": model.action_space,
        "environment_kind": describe_environment(model.env),
        "normalization": None if normalize is None else (normalize.obs_rms if normalize.norm_obs else None, normalize.ret_rms),
        "environment": None,
        "noise": _noise(model),
        # reset by SB3 whenever a training begins
        "action_noise": deepcopy(vars(getattr(model, "action_noise", None) or SimpleNamespace())),
        "model": model.run_state() if isinstance(model, GuardedAlgorithm) else {},
    }
    try:
        # together, because the environments may draw from the same object
        state["environment"] = save_environment(model.env, model.action_space)
    except TypeError as error:
        state["environment_problem"] = str(error)
    return state


def restore_environments(model: BaseAlgorithm, state: dict[str, Any]) -> str | None:
    """
    Restore environments, statistics and the generator of random actions of a loaded model. The rest is left to
    :func:`restore_training`: what comes before it may draw random numbers.

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
            warnings.warn(f"The resumed run starts new episodes: {problem}.")
    if problem is not None:
        _start_anew(model, state["normalization"])
    if isinstance(model, GuardedAlgorithm):
        model.load_run_state(state["model"])
    return problem


def restore_training(model: BaseAlgorithm, callback: BaseCallback, state: dict[str, Any]) -> None:
    """
    Restore callbacks and random numbers, when all else is ready for the first step. Twice: before callbacks are told
    that the training starts, and, where a checkpoint callback is among them, at the start of the first rollout: other
    callbacks may begin anew with the training, and SB3 draws the noise of gSDE with the rollout.
    """
    set_callback_states(callback, state["callbacks"])
    for name, matrix in state["noise"].items():
        setattr(_noise_distribution(model), name, matrix.to(model.device))
    if state["action_noise"]:
        vars(model.action_noise).update(deepcopy(state["action_noise"]))
    set_random_states(state["random"])


def _start_anew(model: BaseAlgorithm, normalization: tuple[Any, Any] | None) -> None:
    assert model.env is not None
    model._last_obs = None
    if model.seed is not None:
        # the seed itself would play the run's first episodes again
        model.env.seed((model.seed + model.num_timesteps) % 2**32)
    normalize = model.get_vec_normalize_env()
    if normalize is not None and normalization is not None:
        normalize.obs_rms, normalize.ret_rms = normalization


# Random numbers


def get_random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and PyTorch's global generators."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": th.get_rng_state()}
    if th.cuda.is_initialized():
        states["cuda"] = [state.cpu() for state in th.cuda.get_rng_state_all()]
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Go on with the random numbers of :func:`get_random_states`."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if th.cuda.is_available() and len(states.get("cuda", ())) == th.cuda.device_count():
        th.cuda.set_rng_state_all(states["cuda"])


def _noise(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Return the matrices of state-dependent exploration (gSDE), which SB3 draws with a rollout and does not save."""
    if not model.use_sde:
        return {}
    distribution = _noise_distribution(model)
    return {name: getattr(distribution, name).cpu() for name in ("exploration_mat", "exploration_matrices")}


def _noise_distribution(model: BaseAlgorithm) -> Any:
    return getattr(model, "actor", model.policy).action_dist


# Callbacks


class CallbackRecord:
    """
    Record what the callbacks of a training have counted: what they say by a method ``state_dict``, else their
    attributes as far as these can be pickled. Arguments of constructors are configuration and left out, unless the
    training has changed them. Evaluation environments are saved like those of the training.

    :param root: the callback of a training that begins, with those inside
    :param resumed_from: what :meth:`states` gave to the checkpoint from which the training was resumed
    """

    def __init__(self, root: BaseCallback, resumed_from: Mapping[str, dict[str, Any]]) -> None:
        self._arguments = {}  # pickled arguments of constructors that the training has not changed, by callback
        for name, callback in _named(root).items():
            # of a parent's constructor as well: a subclass may have one of its own
            constructors = [inspect.signature(cls).parameters for cls in type(callback).__mro__]
            keys = vars(callback).keys() & set().union(*constructors)
            keys -= resumed_from.get(name, {}).get("attributes", {}).keys()
            self._arguments[name] = {key: _pickled(vars(callback)[key]) for key in keys}
        self.problems: list[str] = []  # what will not go on

    def states(self, root: BaseCallback) -> dict[str, dict[str, Any]]:
        """Return the states of all callbacks in ``root`` by class and number, for :func:`set_callback_states`."""
        self.problems = []
        states = {}
        for name, callback in _named(root).items():
            if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
                states[name] = {"n_calls": callback.n_calls, "state_dict": callback.state_dict()}
            else:
                states[name] = self._attributes(name, callback)
        return states

    def _attributes(self, name: str, callback: BaseCallback) -> dict[str, Any]:
        attributes, environments = {}, {}
        at_start = self._arguments.get(name, {})
        for key, value in vars(callback).items():
            # functions are configuration, whatever their closures have counted
            if key in LINKS or _holds_callbacks(value) or inspect.isroutine(value) or isinstance(value, partial):
                continue
            if isinstance(value, VecEnv):
                if value is not callback.training_env:
                    environments[key] = self._environment(f"{name}.{key}", value)
                continue
            pickled = _pickled(value)
            if key in at_start and pickled == at_start[key]:
                continue
            if pickled is None:
                self.problems.append(f"{name}.{key} cannot be pickled")
            else:
                attributes[key] = pickled
        return {"attributes": attributes, "environments": environments}

    def _environment(self, name: str, env: VecEnv) -> bytes | None:
        try:
            return save_environment(env, None)
        except TypeError as error:
            self.problems.append(f"{name} starts new episodes: {error}")
            return None


def set_callback_states(root: BaseCallback, states: dict[str, dict[str, Any]]) -> None:
    """Go on with the states that :meth:`CallbackRecord.states` gave; of what was not saved nothing changes."""
    for name, callback in _named(root).items():
        state = states.get(name)
        if state is None:
            continue
        if "state_dict" in state:
            callback.n_calls = state["n_calls"]
            callback.load_state_dict(state["state_dict"])  # type: ignore[attr-defined]
            continue
        vars(callback).update({key: cloudpickle.loads(value) for key, value in state["attributes"].items()})
        for key, saved in state["environments"].items():
            env = getattr(callback, key, None)
            if saved is not None and isinstance(env, VecEnv):
                restore_environment(env, saved)


def _named(root: BaseCallback) -> dict[str, BaseCallback]:
    found: dict[str, BaseCallback] = {}
    for callback, _ in walk(root):
        name = type(callback).__name__
        number = sum(other.startswith(f"{name}/") for other in found)
        found[f"{name}/{number}"] = callback
    return found


def _holds_callbacks(value: Any) -> bool:
    return any(isinstance(part, BaseCallback) for part in (value if isinstance(value, (list, tuple)) else (value,)))


def _pickled(value: Any) -> bytes | None:
    try:
        return cloudpickle.dumps(value)
    except Exception:  # whatever an attribute raises that cannot be pickled
        return None
