"""From a folder of checkpoints to the model that goes on."""

import os
import pickle
import warnings
import zlib
from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_mirl.checkpoint.callback import release_abandoned
from sb3_mirl.checkpoint.environments import check_environment
from sb3_mirl.checkpoint.folder import MEMORY, MODEL, STATE, CheckpointError, CheckpointFolder
from sb3_mirl.checkpoint.memory import load_memory
from sb3_mirl.checkpoint.state import RUNS, Run, restore_environments, restore_training
from sb3_mirl.common.files import claimed

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)
Folder = str | os.PathLike[str]


@overload
def resume(folder: Folder, env: GymEnv | str, device: th.device | str = "auto", *, cls: None = None, **kwargs: Any) -> Any: ...
@overload
def resume(
    folder: Folder, env: GymEnv | str, device: th.device | str = "auto", *, cls: type[Algorithm], **kwargs: Any
) -> Algorithm: ...
def resume(
    folder: Folder,
    env: GymEnv | str,
    device: th.device | str = "auto",
    *,
    cls: type[BaseAlgorithm] | None = None,
    **kwargs: Any,
) -> BaseAlgorithm:
    """
    Load the model of a run that was stopped or killed, as it was at its newest undamaged checkpoint, replay memory
    included. It works for every algorithm of SB3's kind: those of this package, of SB3 and of sb3-contrib.

    ``learn`` then goes on in one of two ways. The call that was interrupted, ``learn(total_timesteps, ...)``, does what is
    left of it: ``total_timesteps`` counts from the beginning of the run, and learning rate, epsilon and beta go on as if
    nothing had happened. ``learn(n, reset_num_timesteps=False)`` does ``n`` more steps, as everywhere in SB3. Later calls
    mean what they mean in SB3. Give ``learn`` a :class:`~sb3_mirl.ResumableCheckpoint` again, normally for the same folder.

    On the CPU the continued run is the uninterrupted one bit for bit where the state of the environments can be saved:
    environments written in Python and ALE's single ones, alone or in a ``DummyVecEnv``. Others
    (:class:`~sb3_mirl.envs.AtariVecEnv`, ``SubprocVecEnv``, environments with state in other libraries) are reset, with
    new seeds; the last trajectories in the replay memory are then marked as truncated. SB3's logger says which.

    Callbacks go on as well: what they say by ``state_dict``, else their attributes that can be pickled; give ``learn`` the
    same ones.

    Checkpoints contain pickles: resume only what you trust.

    :param folder: what :class:`~sb3_mirl.ResumableCheckpoint` was given
    :param env: the environment, built as that of the run (or its id)
    :param device: "auto", "cpu", "cuda", ...
    :param cls: the class that the model has, for type checkers; another one is an error
    :param kwargs: attributes of the model to change, as in SB3's ``load``
    :return: the model, of the class that it had
    :raises CheckpointError: if there is no checkpoint without damage, naming the files
    :raises FolderInUse: if the run is still going on
    :raises ValueError: if the environment is not the run's, before anything is loaded
    :raises TypeError: if the model is not a ``cls``
    """
    root = CheckpointFolder(folder)
    if not root.paths():
        raise CheckpointError(f"There is no checkpoint in {root.path}.")
    release_abandoned(root.path.absolute())
    with claimed(root.path):
        checkpoint = root.newest()
        state = pickle.loads(zlib.decompress((checkpoint.path / STATE).read_bytes()))
        algorithm: type[BaseAlgorithm] = state["class"]
        if cls is not None and not issubclass(algorithm, cls):
            raise TypeError(f"{checkpoint.path} is of {algorithm.__name__}, not of {cls.__name__}.")
        env = algorithm._wrap_env(maybe_make_env(env, 0), 0)
        check_environment(env, state["environment_kind"])
        model = algorithm.load(checkpoint.path / MODEL, env, device, force_reset=False, **kwargs)
        problem = restore_environments(model, state)
        saved = state["saved_memory"]
        load_memory(model, root.path / MEMORY, saved, state["memory"], truncate=problem is not None)
    RUNS[model] = Run(root.path.absolute(), saved, checkpoint.files, state, is_ready=False)

    def begin(callback: BaseCallback) -> None:
        restore_training(model, callback, state)
        episodes = "go on" if problem is None else f"start anew: {problem}"
        model.logger.info(f"Resumed at step {model.num_timesteps}; the episodes {episodes}")

    return continue_at_next_learn(model, begin)


def continue_at_next_learn(model: Algorithm, begin: Callable[[BaseCallback], None] = lambda _: None) -> Algorithm:
    """
    Let the next call of ``learn`` go on: its ``total_timesteps`` then counts from the beginning of the run.

    :param model: of any algorithm; it has another class until then, which inherits from its own
    :param begin: called with the callback of the training, when all else is ready for the first step
    :return: the model
    """
    own = type(model)

    def setup_learn(
        self: Any,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        self.__class__ = own
        if reset_num_timesteps:
            if total_timesteps <= self.num_timesteps:
                warnings.warn(f"Nothing is left to do: {self.num_timesteps} of {total_timesteps} steps in all are done.")
            total_timesteps = max(total_timesteps - self.num_timesteps, 0)
        result = self._setup_learn(total_timesteps, callback, False, *args, **kwargs)
        begin(result[1])
        return result

    body = {"_setup_learn": setup_learn, "__module__": own.__module__, "__qualname__": own.__qualname__}
    model.__class__ = type(own.__name__, (own,), body)
    return model
