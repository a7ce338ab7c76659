"""What every algorithm of this package adds to SB3's: checks, whole files, weights without code, runs that end well."""

import inspect
import io
import math
import pathlib
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import HParam, TensorBoardOutputFormat
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.common.arguments import check_names, check_range
from sb3_mirl.common.callbacks import as_callback
from sb3_mirl.common.checks import CheckCallback, NormalizationStatistics, check_observation_space, check_observations
from sb3_mirl.common.files import check_archive, check_saved_by, class_names, write_whole
from sb3_mirl.common.weights import read_weights
from sb3_mirl.common.workers import watched

SelfGuarded = TypeVar("SelfGuarded", bound="GuardedAlgorithm")
Path = str | pathlib.Path | io.BufferedIOBase

LOG_ENTRIES = 10_000
"""In one call of ``learn``, about: episodes are short where a lost life ends one, and runs may have 5e7 steps."""


class GuardedAlgorithm(BaseAlgorithm):
    """
    A mixin before one of SB3's classes, ``class SoftA2C(GuardedAlgorithm, A2C)``; off-policy algorithms take
    :class:`~sb3_mirl.common.off_policy.GuardedOffPolicy`. It adds:

    - arguments and action spaces checked before any work is done (:meth:`check_arguments`, :meth:`check_actions`);
    - a :class:`~sb3_mirl.common.checks.CheckCallback` before all other callbacks;
    - an agent and an environment in step, however ``learn`` ends;
    - workers of ``SubprocVecEnv`` whose death is an error;
    - logs of bounded length (:meth:`record_state`);
    - files that replace older ones only when they are complete, and know which class wrote them;
    - :meth:`load_weights`, which runs no code of the file (:meth:`check_weights`);
    - what :class:`~sb3_mirl.ResumableCheckpoint` needs beside ``save`` (:meth:`settle`, :meth:`run_state`).
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse arguments that the class does not have; Python's own message would name the class that spells them."""
        check_names(cls, kwargs)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.resources = ExitStack()  # released when `learn` returns or raises
        self._next_log = 0  # environment step before which no log entry is written

    # Hooks

    @staticmethod
    def check_actions(space: spaces.Space[Any], name: str) -> None:
        """
        Refuse actions that the algorithm cannot take; subclasses choose from :mod:`sb3_mirl.common.actions`.

        :param space: of the actions
        :param name: of the algorithm, for the message
        :raises ValueError: naming the space
        """

    def check_arguments(self) -> None:
        """
        Check the arguments before anything is built; subclasses add theirs.

        :raises ValueError: naming the first argument that is out of its range
        """
        check_observation_space(self.observation_space, type(self).__name__)
        check_range("stats_window_size", self._stats_window_size, 1, math.inf, whole=True)
        if not callable(self.learning_rate):
            check_range("learning_rate", self.learning_rate, 0, math.inf, high_open=True)
        if self.seed is not None:
            check_range("seed", self.seed, 0, 2**32 - 1, whole=True)
        if hasattr(self, "gamma"):
            check_range("gamma", self.gamma, 0, 1)

    def check_weights(self, state: dict[str, th.Tensor], path: Any) -> None:
        """
        Check values that :meth:`load_weights` has read from ``path``, of the right names, types and shapes; subclasses with
        buffers of a certain range, or that ``policy.may_be_infinite`` names, override it.

        :raises ValueError: naming the value
        """

    def record_state(self) -> None:
        """Record what a log entry holds beside SB3's values; called before each entry."""

    def settle(self) -> None:
        """Finish updates that are under way; called before the model is saved in the middle of a training."""

    def run_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside what :meth:`save` writes."""
        return {}

    def load_run_state(self, state: dict[str, Any]) -> None:
        """Go on with what :meth:`run_state` gave."""

    # Training

    @classmethod
    def _wrap_env(cls, env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        cls.check_actions(env.action_space, cls.__name__)
        return super()._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self.check_arguments()
        self.class_names = class_names(type(self))  # written into files, read by `load`
        super()._setup_model()  # type: ignore[safe-super]

    def learn(
        self: SelfGuarded,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfGuarded:
        """
        As in SB3. The first call after :func:`sb3_mirl.resume` does what is left of the run: then ``total_timesteps``
        counts from the beginning of the run.

        A callback that ends the training loses nothing: the last step is stored, and
        ``learn(..., reset_num_timesteps=False)`` goes on from there.

        :param total_timesteps: environment steps
        :param callback: callback(s) called at every step
        :param log_interval: episodes (off-policy) or rollouts (on-policy) between two log entries, None for no entries.
            Entries are also at least ``total_timesteps`` / 10 000 environment steps apart
        :param tb_log_name: name of the run, by default that of the class
        :param reset_num_timesteps: False continues the count of steps and the schedules; what has been learned goes on
            either way
        :param progress_bar: show progress and the time left
        :return: the trained model
        :raises ValueError: for an argument out of range, without an environment, and for rewards, observations or losses
            that are not finite. The model is whole then, without the step in question: it can be saved, and ``learn`` again
        :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died; the model is whole
        """
        check_range("total_timesteps", total_timesteps, 0, math.inf)
        if log_interval is not None:
            check_range("log_interval", log_interval, 1, math.inf)
        if self.env is None:
            raise ValueError(
                f"This {type(self).__name__} has no environment to learn in: load it by "
                f"{type(self).__name__}.load(path, env=env), or give it one by set_env(env)."
            )
        try:
            with self.resources, watched(self.env, lambda: self.num_timesteps):
                super().learn(  # type: ignore[safe-super]
                    total_timesteps,
                    callback=callback,
                    log_interval=log_interval,  # type: ignore[arg-type]
                    tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
                    reset_num_timesteps=reset_num_timesteps,
                    progress_bar=progress_bar,
                )
            self.settle()
        except BaseException:
            # the environments may be a step ahead of the agent: the next `learn` begins with new episodes
            self._last_obs = None
            raise
        return self

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._next_log = 0
        statistics = NormalizationStatistics(self._vec_normalize_env)
        result = super()._setup_learn(total_timesteps, *args, **kwargs)
        try:
            check_observations(self._last_obs, self.observation_space, "the environment's reset")
        except ValueError:
            statistics.restore()
            raise
        if self.num_timesteps == 0:
            self._log_hyperparameters()
        return result

    def _log_hyperparameters(self) -> None:
        """Record the constructor's arguments that are numbers or words, for the tab HParams of TensorBoard."""
        if not any(isinstance(output, TensorBoardOutputFormat) for output in self.logger.output_formats):
            return
        names = inspect.signature(type(self)).parameters
        values = {
            name: getattr(self, name) for name in names if isinstance(getattr(self, name, None), (bool, int, float, str))
        }
        metrics = {"rollout/ep_rew_mean": 0.0, "rollout/ep_len_mean": 0.0}
        parameters = HParam({"algorithm": type(self).__name__, **values}, metrics)
        self.logger.record("hparams", parameters, exclude=("stdout", "log", "json", "csv"))

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = [CheckCallback(), *self.own_callbacks(as_callback(callback))]
        return super()._init_callback(CallbackList(callbacks), progress_bar)

    def own_callbacks(self, given: BaseCallback) -> list[BaseCallback]:
        """Return the callbacks of a training, the user's and the algorithm's, in the order in which they are called."""
        return [given]

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> Any:
        """Collect as in SB3; where a callback ends the training, its last step is not lost."""
        rollout = super().collect_rollouts(env, callback, *args, **kwargs)  # type: ignore[misc]
        if not getattr(rollout, "continue_training", rollout):
            self.finish_step(callback.locals)
        return rollout

    def finish_step(self, step: dict[str, Any]) -> None:
        """
        Do what SB3 leaves undone of the step at which a callback has ended the training, so that agent and environment
        are in step. Of an on-policy rollout that has been cut off, SB3 learns nothing.

        :param step: the local variables of ``collect_rollouts``
        """
        self._update_info_buffer(step["infos"], step["dones"])
        self._last_obs, self._last_episode_starts = step["new_obs"], step["dones"]

    def dump_logs(self, *args: Any) -> None:
        """
        Write the log, with what :meth:`record_state` adds; nothing if the last entry is less than ``total_timesteps`` /
        10 000 environment steps old.
        """
        if self.num_timesteps < self._next_log:
            return
        self._next_log = self.num_timesteps + self._total_timesteps // LOG_ENTRIES
        self.record_state()
        super().dump_logs(*args)

    # Files

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save the model as in SB3; an older file is replaced only when the new one is complete."""
        write_whole(path, "zip", partial(super().save, exclude=exclude, include=include))

    @classmethod
    def load(
        cls: type[SelfGuarded],
        path: Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfGuarded:
        """
        Make a new model with the arguments, weights and counters of the file; the parameters are SB3's. Without ``env`` the
        agent only acts.

        .. warning::
            SB3's files hold pickled objects, which can run any code when they are loaded. Load only files that you
            trust; for others make the model yourself and give it the file's weights by :meth:`load_weights`.

        :raises ValueError: if the file is damaged or was saved by another class, or the environment has other spaces
        """
        check_saved_by(cls, path, check_archive(path, ["policy.pth"], f"{cls.__name__}.save"))
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def load_weights(self, path: str | pathlib.Path) -> None:
        """
        Take networks and buffers of the policy from a file of unknown origin: nothing in it is executed.

        Everything is checked before anything changes. Optimiser, counters and replay memory stay what they are.

        :param path: a file of ``model.save`` (of which only the member ``policy.pth`` is read), or one of
            ``torch.save(model.policy.state_dict(), path)``
        :raises OSError: if the file cannot be opened
        :raises ValueError: if it is damaged, of another network, or holds anything but valid weights
        """
        state = read_weights(path, self.policy.state_dict(), getattr(self.policy, "may_be_infinite", ()))
        self.check_weights(state, path)
        self.policy.load_state_dict(state)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "resources", "_next_log"]
