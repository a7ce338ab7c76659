"""Agents that only play."""

from typing import Any

from rl_zoo3 import ALGOS

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
