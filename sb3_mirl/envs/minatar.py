"""What MinAtar's games need to be played and filmed with SB3."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class MinAtarCNN(BaseFeaturesExtractor):
    """
    One convolution of 16 filters 3x3 and one layer of ReLUs: the network of Young & Tian 2019, section 4
    (https://arxiv.org/abs/1903.03176). For ``MlpPolicy`` with ``net_arch=[]``, because SB3 takes for images only
    what has 8 bits and 36 rows.

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


class MinAtarVideo(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    Frames that videos are made of: uint8 and large. MinAtar draws one pixel per cell, in floats.

    :param env: one of MinAtar's games
    :param pixels: width of a cell
    """

    def __init__(self, env: gym.Env[np.ndarray, int], pixels: int = 32) -> None:
        super().__init__(env)
        self.pixels = pixels
        self.metadata = {**env.metadata, "render_fps": 15}

    def render(self) -> Any:
        """:return: (10 pixels, 10 pixels, 3) uint8 in the mode "rgb_array", else what MinAtar gives."""
        frame = self.env.render()
        if self.render_mode != "rgb_array":
            return frame
        cells = (np.asarray(frame) * 255).astype(np.uint8)
        return cells.repeat(self.pixels, axis=0).repeat(self.pixels, axis=1)
