"""What MinAtar's games need to be played, named and filmed with SB3 (Young & Tian 2019, https://arxiv.org/abs/1903.03176)."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_mirl.common.arguments import check_choice

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


class MinAtarCNN(BaseFeaturesExtractor):
    """
    One convolution of 16 filters 3x3 and one layer of ReLUs: the network of Young & Tian 2019, section 4.
    For ``MlpPolicy`` with ``net_arch=[]``, because SB3 treats as images only what has 8 bits and 36 rows.

    :param observation_space: (10, 10, C), channels last
    :param features_dim: units of the last layer
    """

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        rows, columns, channels = observation_space.shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (rows - 2) * (columns - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """(B, 10, 10, C) -> (B, features_dim)."""
        return self.layers(observations.permute(0, 3, 1, 2))


class MinAtarActions(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    A game whose actions have names: those of MinAtar's ``Environment``, in the order of the environment's action set.

    :param env: one of MinAtar's games, with all six actions ("-v0") or those that have an effect ("-v1")
    """

    def get_action_meanings(self) -> list[str]:
        """Return the name of each action, in order."""
        names = ("NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE")
        return [names[action] for action in self.unwrapped.action_set]  # type: ignore[attr-defined]


def make_minatar(game: str) -> gym.Env[np.ndarray, int]:
    """
    Make a game as "MinAtar/<Game>-v0" is registered: six actions, sticky with probability 0.1, rising difficulty.

    Observations are (10, 10, C) bool, one channel per kind of object.

    :param game: one of :data:`GAMES`
    :raises ImportError: without the package ``minatar``
    :raises ValueError: for another game
    """
    check_choice("game", game, GAMES)
    try:
        from minatar.gym import BaseEnv
    except ImportError as error:
        raise ImportError(f"MinAtar's games need the package minatar ({error}): pip install minatar") from error
    return MinAtarActions(BaseEnv(game=game))


class MinAtarVideo(MinAtarActions):
    """
    Render frames that videos are made of: uint8 and large. MinAtar draws one pixel per cell, in floats.

    :param env: one of MinAtar's games
    :param pixels: width of a cell
    """

    def __init__(self, env: gym.Env[np.ndarray, int], pixels: int = 32) -> None:
        super().__init__(env)
        self.pixels = pixels
        self.metadata = {**env.metadata, "render_fps": 15}

    def render(self) -> Any:
        """Return (10 pixels, 10 pixels, 3) uint8 in the mode "rgb_array", else what MinAtar gives."""
        frame = self.env.render()
        if self.render_mode != "rgb_array":
            return frame
        cells = (np.asarray(frame) * 255).astype(np.uint8)
        return cells.repeat(self.pixels, axis=0).repeat(self.pixels, axis=1)
