"""Where the zoo and the hub's library need a push: for agents that only play, ``benchmark`` and ``push_to_hub``."""

import importlib
import runpy
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import gymnasium as gym
from huggingface_sb3 import EnvironmentName
from rl_zoo3 import ALGOS, utils

from sb3_mirl.common.off_policy import GuardedOffPolicy


def play_without_memory() -> None:
    """
    Spare our algorithms the replay memory for the rest of the process: ``record_video`` and ``push_to_hub`` load an agent
    with its environment, and the zoo makes the memory small for the algorithms on a list of its own only.
    """
    for name, algorithm in list(ALGOS.items()):
        if issubclass(algorithm, GuardedOffPolicy):
            ALGOS[name] = _player(algorithm)


def _player(algorithm: type[GuardedOffPolicy]) -> type[GuardedOffPolicy]:
    def load(_: type[GuardedOffPolicy], path: str, env: Any = None, **options: Any) -> GuardedOffPolicy:
        # without an environment it has no memory, and keeps the size that it had in training
        return algorithm.load(path, **options)

    body = {"load": classmethod(load), "__module__": algorithm.__module__, "__qualname__": algorithm.__qualname__}
    return type(algorithm.__name__, (algorithm,), body)


def benchmark() -> None:
    """
    Run the zoo's ``benchmark`` with our ``enjoy``, for it starts a script ``enjoy.py`` that only the zoo's repository has; and
    for environments with a namespace as well, such as MinAtar's, whose "/" is "-" in the names of folders.
    """
    call, latest_run_id, saved_hyperparams = subprocess.call, utils.get_latest_run_id, utils.get_saved_hyperparams

    def enjoy(command: Sequence[str]) -> int:
        return call([sys.executable, "-m", "sb3_mirl", "enjoy", *command[2:]])

    def hyperparams(path: str, **options: Any) -> Any:
        for env_id in gym.registry:
            path = path.replace(env_id, EnvironmentName(env_id)) if "/" in env_id else path
        return saved_hyperparams(path, **options)

    of_folders: dict[str, Any] = {
        "get_latest_run_id": lambda path, env_id: latest_run_id(path, EnvironmentName(env_id)),
        "get_saved_hyperparams": hyperparams,
    }
    with patch.object(subprocess, "call", enjoy), patch.multiple(utils, **of_folders):
        runpy.run_module("rl_zoo3.benchmark", run_name="__main__", alter_sys=True)


def restore_generate_metadata() -> None:
    """
    Restore the function ``generate_metadata``, which ``sb3-team-hf-integration`` 3.2 renamed and the zoo 2.9 imports. An
    upper bound on that library would do it too, but 3.2 is the only version there is with its name, and the older
    ``huggingface_sb3`` needs ``huggingface_hub`` before 1.0, which the zoo's other parts do not.
    """
    library: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if hasattr(library, "generate_metadata"):
        return

    def generate_metadata(*args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the model card's metadata as a dictionary."""
        return library._generate_metadata(*args, **kwargs).to_dict()

    library.generate_metadata = generate_metadata
