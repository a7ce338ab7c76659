"""From a folder of checkpoints to the model that goes on."""

import os
import pickle
import zlib
from typing import Any

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv

from sb3_mirl.checkpoint.folder import MEMORY, MODEL, STATE, CheckpointError, CheckpointFolder
from sb3_mirl.checkpoint.memory import load_memory
from sb3_mirl.checkpoint.states import Run, set_state
from sb3_mirl.common.files import claimed
from sb3_mirl.soft_dqn import SoftDQN


def resume(folder: str | os.PathLike[str], env: GymEnv | str, device: th.device | str = "auto", **kwargs: Any) -> Any:
    """
    The model of a run that was stopped or killed, as it was at its newest undamaged checkpoint, replay memory included.

    ``learn`` then goes on in one of two ways. The call that was interrupted, ``learn(total_timesteps, ...)``, does what is
    left of it: ``total_timesteps`` counts from the beginning of the run, and learning rate, epsilon and beta go on as if
    nothing had happened. ``learn(n, reset_num_timesteps=False)`` does ``n`` more steps, as everywhere in SB3. Later calls
    mean what they mean in SB3. Give ``learn`` a :class:`~sb3_mirl.ResumableCheckpoint` again, normally for the same folder.

    On the CPU the continued run is the uninterrupted one bit for bit where the state of the environments can be saved:
    environments written in Python and ALE's single ones, alone or in a ``DummyVecEnv``. Others
    (:class:`~sb3_mirl.envs.AtariVecEnv`, ``SubprocVecEnv``, environments with state in other libraries) are reset, with
    new seeds; the last trajectories in the replay memory are then marked as truncated. SB3's logger says which.

    Checkpoints contain pickles: resume only what you trust.

    :param folder: what :class:`~sb3_mirl.ResumableCheckpoint` was given
    :param env: the environment, built as that of the run (or its id)
    :param device: "auto", "cpu", "cuda", ...
    :param kwargs: attributes of the model to change, as in SB3's ``load``
    :return: the model, of the class that it had
    :raises CheckpointError: if there is no checkpoint without damage, naming the files
    :raises FolderInUse: if the run is still going on
    :raises ValueError: if the environment does not fit
    """
    root = CheckpointFolder(folder)
    if not root.paths():
        raise CheckpointError(f"There is no checkpoint in {root.path}.")
    with claimed(root.path):
        checkpoint = root.newest()
        state = pickle.loads(zlib.decompress((checkpoint.path / STATE).read_bytes()))
        env = maybe_make_env(env, 0)
        model: SoftDQN = state["class"].load(checkpoint.path / MODEL, env, device, force_reset=False, **kwargs)
        problem = set_state(model, state)
        saved = state["saved_memory"]
        load_memory(model, root.path / MEMORY, saved, state["memory"], truncate=problem is not None)
    model._checkpointed_run = Run(root.path.absolute(), saved, checkpoint.files)
    return model
