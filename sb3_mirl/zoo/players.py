"""Agents that only play."""

from functools import partial
from types import SimpleNamespace

from rl_zoo3 import ALGOS

from sb3_mirl.common.off_policy import GuardedOffPolicy


def play_without_memory() -> None:
    """
    Spare our algorithms the replay memory for the rest of the process: ``record_video`` and ``push_to_hub`` load an agent
    with its environment, and the zoo makes the memory small for the algorithms on a list of its own only.
    """
    for name, algorithm in list(ALGOS.items()):
        if isinstance(algorithm, type) and issubclass(algorithm, GuardedOffPolicy):
            ALGOS[name] = SimpleNamespace(load=partial(algorithm.load, buffer_size=1))  # type: ignore[assignment]
