"""Agents that only play."""

from rl_zoo3 import ALGOS
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_mirl.soft_dqn import SoftDQN


class _Player(SoftDQN):
    def _setup_model(self) -> None:
        self.replay_buffer = ReplayBuffer(1, self.observation_space, self.action_space)
        super()._setup_model()


def play_without_memory() -> None:
    """
    Spares our algorithms the replay memory for the rest of the process: ``record_video`` and ``push_to_hub`` load an agent
    with its environment, and the zoo makes the memory small for the algorithms on a list of its own only.
    """
    for name, algorithm in list(ALGOS.items()):
        if issubclass(algorithm, SoftDQN) and not issubclass(algorithm, _Player):
            ALGOS[name] = type(algorithm.__name__, (_Player, algorithm), {})
