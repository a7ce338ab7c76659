"""How an image observation is cut into the frames it is stacked from, and which environments stack frames."""

import math
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

ChannelsOrder = Literal["first", "last"]

# Wrappers known to hand on the stacks they receive (VecNormalize keeps the original ones for the replay buffer)
TRANSPARENT_WRAPPERS = (VecTransposeImage, VecMonitor, VecNormalize, VecCheckNan, VecVideoRecorder)


@dataclass(frozen=True)
class FrameLayout:
    """
    Shape of a stacked observation.

    :param frame_stack: Number of frames K in one observation, oldest first
    :param shape: Shape of one observation, (K * C, H, W) or (H, W, K * C)
    :param channels_first: Whether the frames are stacked along the first axis (else along the last)
    """

    frame_stack: int
    shape: tuple[int, ...]
    channels_first: bool

    @classmethod
    def of(cls, space: spaces.Space, frame_stack: int, channels_order: ChannelsOrder | None = None) -> "FrameLayout":
        """
        :param space: Observation space, a 3-D uint8 ``Box``
        :param frame_stack: Number of frames in one observation
        :param channels_order: Stacking axis, "first" or "last"; None: the smallest dimension, as in SB3
        :return: The layout
        :raises ValueError: where observations of this space cannot be stacks of that many frames
        """
        advice = "use stable_baselines3's ReplayBuffer, or pass the right `frame_stack` and `channels_order`"
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ValueError(f"FrameReplayBuffer stores stacked images, a 3-D Box of uint8, not {space}: {advice}")
        if channels_order not in (None, "first", "last"):
            raise ValueError(f"`channels_order` must be 'first', 'last' or None, not {channels_order!r}")
        first = is_image_space_channels_first(space) if channels_order is None else channels_order == "first"
        channels = space.shape[0 if first else -1]
        if frame_stack < 1 or channels % frame_stack:
            raise ValueError(
                f"{channels} channels (observations of shape {space.shape}, channels {'first' if first else 'last'}) "
                f"cannot be a stack of {frame_stack} frames: {advice}"
            )
        return cls(frame_stack, space.shape, first)

    @property
    def frame_bytes(self) -> int:
        """Size of one frame in bytes."""
        return math.prod(self.shape) // self.frame_stack

    @property
    def word(self) -> type[np.generic]:
        """Type in which frames are compared and copied: 8 bytes at a time where their size allows it."""
        return np.int64 if self.frame_bytes % 8 == 0 else np.uint8

    @property
    def frame_words(self) -> int:
        """Size of one frame in words."""
        return self.frame_bytes // np.dtype(self.word).itemsize

    def split(self, observations: np.ndarray, n_envs: int) -> np.ndarray:
        """
        Cut observations into frames.

        :param observations: (n_envs, \\*shape), uint8
        :param n_envs: Number of environments N
        :return: (N, K, words), oldest frame first; a view where the memory order allows it
        :raises ValueError: for any other number of values
        """
        array = np.asarray(observations, dtype=np.uint8)
        if array.size != n_envs * math.prod(self.shape):
            raise ValueError(f"expected observations of shape {(n_envs, *self.shape)}, got {np.shape(observations)}")
        if not self.channels_first:
            height, width, channels = self.shape
            array = array.reshape(n_envs, height, width, self.frame_stack, channels // self.frame_stack)
            array = array.transpose(0, 3, 1, 2, 4)  # (N, K, H, W, C)
        return np.ascontiguousarray(array).reshape(n_envs, self.frame_stack, -1).view(self.word)

    def join(self, frames: th.Tensor) -> th.Tensor:
        """
        Put frames together again.

        :param frames: (B, K, words), oldest frame first
        :return: (B, \\*shape), uint8, contiguous
        """
        pixels = frames.view(th.uint8)
        if self.channels_first:
            return pixels.view(-1, *self.shape)
        height, width, channels = self.shape
        pixels = pixels.view(-1, self.frame_stack, height, width, channels // self.frame_stack)
        return pixels.permute(0, 2, 3, 1, 4).reshape(-1, *self.shape)


def frame_stack_of(env: VecEnv | None, observation_space: spaces.Space) -> int | None:
    """
    Number of frames of which the observations of an environment are stacks.

    Known are SB3's ``VecFrameStack``, a vector environment with an integer attribute ``frame_stack``, and
    gymnasium's ``FrameStackObservation`` around every sub-environment, below any of SB3's wrappers that
    hand observations on. Wrappers of other makes may change single frames, so under them the answer is None.

    :param env: The vector environment
    :param observation_space: The observation space of the agent, after image transposition
    :return: Frames per observation, or None if the observations are not known to be
        uint8 images stacked along their channel axis
    """
    if env is None or not is_image_space(observation_space):
        return None
    frame_stack = _declared_frame_stack(env)
    if frame_stack is None:
        return None
    try:
        FrameLayout.of(observation_space, frame_stack)
    except ValueError:
        return None
    return frame_stack


def _declared_frame_stack(env: VecEnv) -> int | None:
    while isinstance(env, VecEnvWrapper) and not isinstance(env, VecFrameStack):
        if not isinstance(env, TRANSPARENT_WRAPPERS):
            return None
        env = env.venv
    if isinstance(env, VecFrameStack):
        stacks = env.stacked_obs
        space = stacks.stacked_observation_space
        if not is_image_space(space) or stacks.channels_first != is_image_space_channels_first(space):  # type: ignore[arg-type]
            return None
        return stacks.n_stack
    declared = getattr(env, "frame_stack", None)
    if isinstance(declared, int) and not isinstance(declared, bool):
        return declared
    return _gymnasium_frame_stack(env)


def _gymnasium_frame_stack(env: VecEnv) -> int | None:
    try:
        if not all(env.env_is_wrapped(gym.wrappers.FrameStackObservation)):
            return None
        sizes = set(env.get_attr("stack_size"))
    except (AttributeError, NotImplementedError):  # a VecEnv that cannot be asked
        return None
    return sizes.pop() if len(sizes) == 1 else None
