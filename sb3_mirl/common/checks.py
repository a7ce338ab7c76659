"""Checks of what environments return, before it is stored or learned from."""

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_mirl.common.callbacks import StatelessCallback
from sb3_mirl.maths.arrays import is_finite


class CheckCallback(StatelessCallback):
    """
    Stop training at a reward or an observation that would spoil it: NaN, infinite, of another shape, or a category that is
    not in its space. SB3 calls callbacks before a step is stored, so nothing of that step is stored or learned from, and
    the model is whole: it can be saved, and ``learn`` again. A value outside the bounds of a ``Box`` only causes a warning,
    once per call of ``learn``: environments leave their bounds often, and mostly without harm.

    The algorithms of this package attach one by themselves. For those of SB3 and sb3-contrib put it first in the list of
    callbacks: ``PPO("MlpPolicy", env).learn(10_000, callback=[CheckCallback(), ...])``.

    After a stop ``VecNormalize`` has the statistics of before the refused step, ``num_timesteps`` does not count it, and
    the next ``learn`` begins with new episodes.

    :param verbose: as in SB3
    :raises ValueError: from ``learn``, naming the environment, the value and the step
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self._statistics = NormalizationStatistics(None)
        self._warns_of_bounds = True

    def _on_training_start(self) -> None:
        self._warns_of_bounds = True
        self._statistics = NormalizationStatistics(self.model.get_vec_normalize_env())
        try:
            check_observations(self.model._last_obs, self.model.observation_space, "the environment's reset")
        except ValueError:
            self.model._last_obs = None
            raise

    def _on_step(self) -> bool:
        new_obs, rewards, dones, infos = (self.locals[name] for name in ("new_obs", "rewards", "dones", "infos"))
        space = self.model.observation_space
        try:
            check_transition(rewards, new_obs, dones, infos, space, self.num_timesteps)
        except ValueError:
            self._refuse_step(len(dones))
            raise
        if self._warns_of_bounds:
            normalize = self.model.get_vec_normalize_env()
            original = new_obs if normalize is None else normalize.get_original_obs()
            self._warns_of_bounds = not _warn_of_bounds(original, space, f"step {self.num_timesteps}")
        self._statistics.remember()
        return True

    def _refuse_step(self, n_envs: int) -> None:
        self._statistics.restore()
        self.model.num_timesteps -= n_envs
        # the environment is a step ahead of the agent
        self.model._last_obs = None
        normalize = self.model.get_vec_normalize_env()
        if normalize is not None:
            # statistics with a NaN spoil what it returns for every environment: name the one that is to blame
            check_finite(normalize.get_original_reward(), "reward", f"step {self.num_timesteps}")
            originals = normalize.get_original_obs()
            for key, values in originals.items() if isinstance(originals, dict) else [("", originals)]:
                name = f"observation[{key!r}]" if key else "observation"
                check_finite(values, name, f"step {self.num_timesteps}")


class NormalizationStatistics:
    """
    The running statistics of a ``VecNormalize``, to go back to when it has taken in what is not a number.

    :param env: the wrapper, None for an environment without one
    """

    def __init__(self, env: VecNormalize | None) -> None:
        self._running: list[RunningMeanStd] = []
        if env is not None:
            obs_rms = getattr(env, "obs_rms", None)
            parts = obs_rms.values() if isinstance(obs_rms, dict) else [obs_rms]
            self._running = [part for part in (*parts, env.ret_rms) if part is not None]
        self.remember()

    def remember(self) -> None:
        """Keep the current statistics."""
        # `RunningMeanStd.update` makes new arrays
        self._values = [(running.mean, running.var, running.count) for running in self._running]

    def restore(self) -> None:
        """Go back to the statistics that were kept."""
        for running, values in zip(self._running, self._values, strict=True):
            running.mean, running.var, running.count = values


def check_transition(
    rewards: np.ndarray, new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]], space: spaces.Space[Any], step: int
) -> None:
    """
    Check what a vector environment returns for a step, with the last observations of episodes in ``infos``.

    :raises ValueError: if a reward is not a finite number, or an observation is refused by :func:`check_observations`
    """
    if rewards.shape != dones.shape:
        raise ValueError(
            f"The rewards at step {step} have the shape {rewards.shape} and not {dones.shape}, one per environment."
        )
    where = f"step {step}"
    check_finite(rewards, "reward", where)
    check_observations(new_obs, space, where)
    for env in dones.nonzero()[0]:
        if infos[env].get("terminal_observation") is not None:
            check_observations(infos[env]["terminal_observation"], space, where, env=int(env))


def check_observations(
    values: Any, space: spaces.Space[Any], where: str, env: int | None = None, name: str = "observation"
) -> None:
    """
    Check observations against their space. The bounds of a ``Box`` are not checked.

    :param values: array of one row per environment, or a dictionary of such arrays
    :param space: of one observation
    :param where: when they came, for the message
    :param env: set if ``values`` are those of this environment alone, without an axis of environments
    :param name: of the values, for the message
    :raises ValueError: if a value is not finite, a category is not in its space, or an array has another shape
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            check_observations(values[key], part, where, env, f"{name}[{key!r}]")
        return
    values = np.asarray(values)
    shape = space.shape or ()
    if values.shape[values.ndim - len(shape) :] != shape:
        raise ValueError(
            f"The {name} at {where} has the shape {values.shape}, its space {shape} (beside the number of "
            "environments): nothing of that step was stored or learned from. Repair the environment."
        )
    check_finite(values, name, where, env)
    bounds = _categories(space)
    if bounds is not None:
        outside = (values < bounds[0]) | (values >= bounds[1])
        if outside.any():
            raise _refused(values, outside, name, where, env, f", which is not in {space}")


def check_finite(values: Any, what: str, where: str, env: int | None = None) -> None:
    """
    Check numbers; the parameters are those of :func:`check_observations`.

    :raises ValueError: if a value is NaN or infinite, naming the environment
    """
    values = np.asarray(values)
    if values.dtype.kind == "O":  # None becomes NaN
        values = values.astype(np.float64)
    if values.dtype.kind == "f" and not is_finite(values):
        raise _refused(values, ~np.isfinite(values), what, where, env)


def check_observation_space(space: spaces.Space[Any], name: str) -> None:
    """
    Refuse categories that do not start at 0, wherever they are in a space: SB3's preprocessing counts from 0.

    :raises ValueError: naming the algorithm ``name`` and the space
    """
    if isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            check_observation_space(part, name)
    elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start != 0):
        raise ValueError(
            f"{name} needs categories counted from 0, got the observation space {space}. Shift them by a wrapper: "
            "gymnasium.wrappers.TransformObservation(env, lambda obs: obs - start, Discrete(n))."
        )


def _categories(space: spaces.Space[Any]) -> tuple[Any, Any] | None:
    """Return the lowest category and the one after the highest; None for spaces without categories."""
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec
    return (0, 2) if isinstance(space, spaces.MultiBinary) else None


def _warn_of_bounds(values: Any, space: spaces.Space[Any], where: str, name: str = "observation") -> bool:
    """Warn of values outside the bounds of a Box, and say whether there were any. Integers are within by their type."""
    if isinstance(space, spaces.Dict):
        return any([_warn_of_bounds(values[key], part, where, f"{name}[{key!r}]") for key, part in space.spaces.items()])
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        return False
    outside = (values < space.low) | (values > space.high)
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        warnings.warn(
            f"The {name} of environment {index[0]} is {values[index]} at {where} (index {index}), outside the bounds of "
            f"{space}. Training goes on with it; there is no further warning in this call of learn."
        )
    return bool(outside.any())


def _refused(values: np.ndarray, bad: np.ndarray, what: str, where: str, env: int | None, why: str = "") -> ValueError:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return ValueError(
        f"The {what} of environment {index[0] if env is None else env} is {values[index]} at {where} (index {index}){why}: "
        "nothing of that step was stored or learned from. Repair the environment; stable_baselines3's VecCheckNan "
        "wrapper shows the action."
    )
