"""The state of the environments, where Python can see all of it."""

import io
import pickle
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, unwrap_vec_normalize

# what a layer holds that belongs to its process: the next layer, files, clocks, windows
_NOT_STATE = ("env", "venv", "class_attributes", "results_writer", "t_start", "render_mode")

Layer = VecEnv | gym.Env[Any, Any]


def describe_environment(env: VecEnv) -> dict[str, Any]:
    """Return what must be the same for a run to go on in another environment than ``env``."""
    normalize = unwrap_vec_normalize(env)
    normalized = [] if normalize is None else [n for n in ("obs", "reward") if getattr(normalize, f"norm_{n}")]
    return {"environments": env.num_envs, "VecNormalize of": normalized, "in VecNormalize": normalize is not None}


def check_environment(env: VecEnv, kind: dict[str, Any]) -> None:
    """
    Compare an environment with that of a run.

    :param env: the environment here
    :param kind: of the run's, from :func:`describe_environment`
    :raises ValueError: naming the differences
    """
    own = describe_environment(env)
    if own != kind:
        differences = [f"{name}: {kind[name]!r} in the run, {own[name]!r} here" for name in kind if own[name] != kind[name]]
        raise ValueError(f"The environment is not that of the run ({'; '.join(differences)}): build it as it was built there.")


def save_environment(env: VecEnv, others: Any) -> bytes:
    """
    Save the state of every layer, from the outermost wrapper to the innermost environments.

    Environments under ``DummyVecEnv`` are saved attribute by attribute, without asking them how they want to be pickled
    (gymnasium's ``EzPickle`` would make a new one), and ALE's emulators by their own copies.

    :param others: objects that share something with the environments
    :return: for :func:`restore_environment`
    :raises TypeError: if the state of a layer cannot be saved
    """
    layers = _layers(env)
    states = [_state(layer) for layer in layers]
    file = io.BytesIO()
    try:
        _Pickler(file, layers).dump({"layers": [_name(layer) for layer in layers], "states": states, "others": others})
    # whatever an attribute raises that cannot be pickled
    except Exception as error:
        raise TypeError(f"the state of {_name(layers[-1])} cannot be saved ({error})") from error
    return file.getvalue()


def restore_environment(env: VecEnv, saved: bytes) -> Any:
    """
    Put the layers of an environment, built as the saved one was, into the saved state; return ``others``.

    :raises ValueError: if the environment is another one
    """
    layers = _layers(env)
    try:
        content = _Unpickler(io.BytesIO(saved), layers).load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the environment's code has changed ({error})") from error
    names = [_name(layer) for layer in layers]
    if content["layers"] != names:
        raise ValueError(f"the environment is {' > '.join(names)} and the saved one was {' > '.join(content['layers'])}")
    for layer, (attributes, emulators) in zip(layers, content["states"], strict=True):
        vars(layer).update(attributes)
        for name, state in emulators.items():
            getattr(layer, name).restoreState(state)
    return content["others"]


def _layers(env: VecEnv) -> list[Layer]:
    layers: list[Layer] = [env]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        layers.append(env)
    if type(env) is not DummyVecEnv:
        raise TypeError(f"the state of {_name(env)} cannot be saved")
    for sub_env in env.envs:
        layers.append(sub_env)
        while isinstance(sub_env, gym.Wrapper):
            sub_env = sub_env.env
            layers.append(sub_env)
    return layers


def _name(layer: Layer) -> str:
    # importing the zoo puts a class of its own in TimeLimit's place
    return next(cls.__name__ for cls in type(layer).__mro__ if not cls.__module__.startswith("rl_zoo3"))


def _state(layer: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of a layer, and the states of ALE's emulators among them."""
    attributes = {name: value for name, value in vars(layer).items() if name not in _NOT_STATE}
    emulators = [name for name, value in attributes.items() if hasattr(value, "restoreState")]
    return attributes, {name: attributes.pop(name).cloneState(include_rng=True) for name in emulators}


class _Pickler(cloudpickle.CloudPickler):
    """Names the layers by their positions, so that references to them find the new ones."""

    def __init__(self, file: io.BytesIO, layers: list[Layer]) -> None:
        super().__init__(file)
        self._positions = {id(layer): position for position, layer in enumerate(layers)}

    def persistent_id(self, obj: Any) -> int | None:
        position = self._positions.get(id(obj))
        if position is None and isinstance(obj, EzPickle):
            raise pickle.PicklingError(f"{type(obj).__name__} loses its state when it is pickled")
        return position


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, layers: list[Layer]) -> None:
        super().__init__(file)
        self._layers = layers

    def persistent_load(self, position: int) -> Layer:
        if position >= len(self._layers):
            raise ValueError(f"the environment has {len(self._layers)} layers, the saved one had more")
        return self._layers[position]
