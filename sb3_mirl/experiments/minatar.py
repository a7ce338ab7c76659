"""MinAtar's five games and the settings of their runs (Young & Tian 2019, https://arxiv.org/abs/1903.03176)."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_mirl.atari.evaluation import MAX_STEPS
from sb3_mirl.envs.minatar import MinAtarCNN
from sb3_mirl.experiments.rare_action import RARE_ACTION, RareActionEnv, rare_action_hyperparameters

if TYPE_CHECKING:
    from sb3_mirl.experiments.cell import Settings

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
ACTION_MEANINGS = ("NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE")
TRAINING_MAX_STEPS = 27_000


class MinAtarEnv(gym.Env[Any, Any]):
    """
    A MinAtar game with all six actions, sticky with probability 0.1, and rising difficulty: the package's defaults.

    Observations are (10, 10, C) bool, one channel per kind of object.

    :param game: one of :data:`GAMES`
    :raises ImportError: without the package ``minatar``
    """

    def __init__(self, game: str) -> None:
        try:
            import minatar
        except ImportError as error:
            raise ImportError(f"MinAtar's games need the package minatar ({error}): pip install minatar") from error
        self._game = minatar.Environment(game)
        self.observation_space = spaces.Box(0, 1, tuple(self._game.state_shape()), np.bool_)
        self.action_space = spaces.Discrete(self._game.num_actions())

    def get_action_meanings(self) -> list[str]:
        """The name of each action, in order."""
        return list(ACTION_MEANINGS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see gymnasium."""
        super().reset(seed=seed)
        self._game.seed(seed)
        self._game.reset()
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One frame; see gymnasium."""
        reward, terminated = self._game.act(int(action))
        return self._observation(), float(reward), bool(terminated), False, {}

    def _observation(self) -> np.ndarray:
        return self._game.state()


def make_env(game: str, n_envs: int, seed: int, training: bool) -> VecEnv:
    """
    :param game: one of :data:`GAMES`, or "rare_action"
    :param training: episodes end after 27000 steps, in evaluation after 4500
    """

    def make() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = RareActionEnv() if game == RARE_ACTION else MinAtarEnv(game)
        return Monitor(gym.wrappers.TimeLimit(env, TRAINING_MAX_STEPS if training else MAX_STEPS))

    env = DummyVecEnv([make] * n_envs)
    env.seed(seed)
    return env


def hyperparameters(game: str, settings: "Settings") -> tuple[str, dict[str, Any]]:
    """Young & Tian's DQN with Adam, one update per 4 steps; the temperature's and prior's rates are the paper's."""
    if game == RARE_ACTION:
        return rare_action_hyperparameters()
    return "MlpPolicy", {
        "learning_rate": 2.5e-4,
        "buffer_size": 100_000,  # transitions
        "learning_starts": 5_000,  # environment steps
        "target_update_interval": 4_000,  # environment steps: 1000 updates
        "exploration_fraction": min(1.0, 100_000 / settings.timesteps),
        "exploration_final_eps": 0.1,
        "beta_lr": 3.3e-6,  # per update, Table 3 of the MIRL paper
        "prior_lr": 5e-5,  # per environment step, its section 5.2
        "policy_kwargs": {"features_extractor_class": MinAtarCNN, "net_arch": []},
    }
