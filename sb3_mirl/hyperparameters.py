"""The shipped hyperparameters (``zoo_configs/``) as constructor arguments; the RL Zoo is not needed."""

import ast
import difflib
import importlib
import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

_PACKAGE = Path(__file__).parent
# inside the package in a wheel, next to it in a clone
CONFIGS = _PACKAGE / "zoo_configs" if (_PACKAGE / "zoo_configs").is_dir() else _PACKAGE.parent / "zoo_configs"

# what the RL Zoo reads itself; everything else goes to the algorithm
OF_THE_RUN = frozenset(
    "n_timesteps n_envs env_wrapper vec_env_wrapper frame_stack normalize env_kwargs monitor_kwargs callback".split()
)
# which the zoo reads as Python where they are strings
_PYTHON = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
_LINEAR = re.compile(r"lin_([\d.]+(?:e[+-]?\d+)?)$")
_ATARI_ID = re.compile(r"ALE/|.*(NoFrameskip|Deterministic)-v\d+$")
_TRUSTED = ("sb3_mirl.", "stable_baselines3.", "torch.")  # packages whose classes an entry may name


def hyperparameters(algo: str, env_id: str, n_envs: int = 1, preset: str | None = None) -> dict[str, Any]:
    """
    Return the shipped hyperparameters for an environment as arguments of the algorithm's constructor::

        model = MIRL(env="CartPole-v1", **hyperparameters("mirl", "CartPole-v1"))
        model.learn(budget("mirl", "CartPole-v1"))

    They are those of ``zoo_configs/``, which say the unit and the source of each value, with schedules and classes as
    objects. The policy is among them. Left out is what is not the algorithm's: the budget (:func:`budget`), and how the
    environment is wrapped, stacked or normalised (:func:`entry`).

    :param algo: "mirl", "softdqn", ...
    :param env_id: id of the environment; all of Atari has the entry "atari", and what has none may start from "default"
    :param n_envs: number of environments that the model is going to have. ``train_freq`` and ``gradient_steps``, which count
        calls of ``env.step``, are converted, so that there are as many updates per environment step as in the file
    :param preset: "table3" or "atari_vec_env", as ``-conf`` of the command line
    :return: keyword arguments
    :raises ValueError: if there is no such algorithm, preset or entry, with the nearest name
    """
    values = entry(algo, env_id, preset)
    _convert_ratio(values, values.get("n_envs", 1), n_envs)
    return {name: resolve(name, value) for name, value in values.items() if name not in OF_THE_RUN}


def budget(algo: str, env_id: str, preset: str | None = None) -> int:
    """
    Return the number of environment steps for which the shipped hyperparameters were chosen: ``total_timesteps`` of ``learn``.

    Arguments and errors are those of :func:`hyperparameters`.
    """
    return int(entry(algo, env_id, preset)["n_timesteps"])


def entry(algo: str, env_id: str, preset: str | None = None) -> dict[str, Any]:
    """
    Return a copy of the entry of ``zoo_configs/`` for an environment, in the dialect of the RL Zoo.

    Arguments and errors are those of :func:`hyperparameters`.
    """
    import yaml

    if algo not in algorithms():
        raise ValueError(f"There are no shipped hyperparameters of {algo!r}{did_you_mean(algo, algorithms())}")
    if preset is not None and preset not in presets(algo):
        raise ValueError(f"{algo} has no preset {preset!r}{did_you_mean(preset, presets(algo))}")
    entries = yaml.safe_load(config_file(algo, preset).read_text())
    name = "atari" if env_id not in entries and is_atari(env_id) else env_id
    if name not in entries:
        general = ' "default" has values for small problems.' if "default" in entries else ""
        raise ValueError(f"{algo} has no shipped hyperparameters for {env_id!r}{did_you_mean(env_id, entries)}{general}")
    return deepcopy(entries[name])


def algorithms() -> list[str]:
    """Return the names of the algorithms that have shipped hyperparameters."""
    return sorted(path.stem for path in CONFIGS.glob("*.yml"))


def presets(algo: str) -> list[str]:
    """Return the names of an algorithm's further configurations."""
    return sorted(path.parent.name for path in CONFIGS.glob(f"*/{algo}.yml"))


def config_file(algo: str, preset: str | None = None) -> Path:
    """Return where a configuration is, whether it exists or not."""
    return CONFIGS / (preset or "") / f"{algo}.yml"


def is_atari(env_id: str) -> bool:
    """Return whether an environment is one of Atari's, known to gymnasium or not."""
    spec = gym.registry.get(env_id)
    return bool(_ATARI_ID.match(env_id)) if spec is None else "AtariEnv" in str(spec.entry_point)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about a name that is not one of the known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f". Did you mean {near[0]!r}?" if near else ".") + f" There are: {', '.join(known) or 'none'}."


def resolve(name: str, value: Any) -> Any:
    """
    Return a hyperparameter as the algorithm takes it. Nothing is executed, unlike in the zoo.

    :param name: of the hyperparameter
    :param value: as in the file: ``lin_1e-3`` is a rate that falls to 0, ``dict(net_arch=[64])`` a dictionary
    :return: the value
    :raises ValueError: if it is an expression of another kind
    """
    if isinstance(value, str):
        linear = _LINEAR.match(value)
        if linear:
            return LinearSchedule(float(linear[1]), 0.0, 1.0)
        if name in _PYTHON:
            return _evaluate(value)
    return tuple(value) if name == "train_freq" and isinstance(value, list) else value


def _convert_ratio(values: dict[str, Any], own: int, n_envs: int) -> None:
    """Convert updates per call of ``env.step`` from ``own`` environments to ``n_envs``."""
    frequency, updates = values.get("train_freq"), values.get("gradient_steps", 1)
    if n_envs == own or not isinstance(frequency, int):
        return
    values["train_freq"] = max(round(frequency * own / n_envs), 1)
    if updates > 0:
        values["gradient_steps"] = max(round(updates * values["train_freq"] * n_envs / (frequency * own)), 1)


def _evaluate(text: str) -> Any:
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise ValueError(
            f"{text!r} cannot be read ({error}). Allowed are numbers, strings, lists, dictionaries, dict(...), nn.<class> and "
            "get_class_by_name('sb3_mirl...')."
        ) from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name("dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):  # no **
            return {str(pair.arg): _value(pair.value) for pair in pairs}
        case ast.Call(func=ast.Name("get_class_by_name"), args=[ast.Constant(str(path))], keywords=[]):
            if not path.startswith(_TRUSTED):
                raise ValueError(f"{path} is not in one of {', '.join(_TRUSTED)}")
            module, _, name = path.rpartition(".")
            return getattr(importlib.import_module(module), name)
        case ast.Name("RMSpropTFLike"):  # A2C's optimiser in the zoo
            return RMSpropTFLike
        case ast.Attribute(value=ast.Name("nn"), attr=name) if isinstance(getattr(nn, name, None), type):
            return getattr(nn, name)
        case ast.List(elements) | ast.Tuple(elements):
            values = [_value(element) for element in elements]
            return values if isinstance(node, ast.List) else tuple(values)
        case ast.Dict(keys, contents):
            return {ast.literal_eval(key or ""): _value(content) for key, content in zip(keys, contents, strict=True)}
        case _:
            return ast.literal_eval(node)
