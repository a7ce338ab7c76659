"""How a stacked image is cut into its frames, and which environments stack frames."""

import math
from dataclasses import dataclass
from typing import Any, Literal

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

# Wrappers known to pass on the stacks they receive (VecNormalize keeps the original ones for the replay buffer)
TRANSPARENT_WRAPPERS = (VecTransposeImage, VecMonitor, VecNormalize, VecCheckNan, VecVideoRecorder)


@dataclass(frozen=True)
class FrameLayout:
    """
    Describe the shape of a stacked observation.

    :param frame_stack: number of frames K in one observation, oldest first
    :param shape: shape of one observation, (K * C, H, W) or (H, W, K * C)
    :param channels_first: whether the frames are stacked along the first axis (else along the last)
    """

    frame_stack: int
    shape: tuple[int, ...]
    channels_first: bool

    @classmethod
    def of(cls, space: spaces.Space, frame_stack: int, channels_order: ChannelsOrder | None = None) -> "FrameLayout":
        """
        Find the layout of an observation space.

        :param channels_order: stacking axis, "first" or "last"; None: the smallest dimension, as in SB3
        :raises ValueError: if observations of this space cannot be stacks of that many frames
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

    def split(self, observations: np.ndarray, n_envs: int, name: str = "observations") -> np.ndarray:
        """
        Cut observations into frames.

        :param observations: (N, \\*shape), uint8 or whole numbers that fit into it; without the first axis if N is 1
        :param n_envs: number of environments N
        :param name: what errors call them
        :return: (N, K, words), oldest frame first; a view where the memory order allows it
        :raises ValueError: if they have another shape, or values that uint8 cannot hold
        """
        try:
            array = per_env(name, observations, n_envs, self.shape)
        except ValueError as error:
            raise ValueError(f"{error}{self.hint(np.shape(observations))}") from None
        if array.dtype != np.uint8:
            given, array = array, array.astype(np.uint8)
            if not np.array_equal(array, given):
                raise ValueError(
                    f"expected {name} of dtype uint8, got {given.dtype} with values from {given.min():g} to {given.max():g}: "
                    "leave images unscaled, the policy scales them"
                )
        if not self.channels_first:
            height, width, channels = self.shape
            array = array.reshape(n_envs, height, width, self.frame_stack, channels // self.frame_stack)
            array = array.transpose(0, 3, 1, 2, 4)  # (N, K, H, W, C)
        return np.ascontiguousarray(array).reshape(n_envs, self.frame_stack, -1).view(self.word)

    def hint(self, shape: tuple[int, ...]) -> str:
        """Return ": <usual cause of this wrong shape>" to end an error with, or nothing."""
        if self.channels_first and shape[-3:] == (*self.shape[1:], self.shape[0]):
            return (
                ": a wrapper between the frame stack and the agent keeps the images as they were before SB3 transposed them. "
                "Transpose them below it, for example VecNormalize(VecTransposeImage(env), norm_obs=False)"
            )
        return ""

    def join(self, frames: th.Tensor) -> th.Tensor:
        """Put frames (B, K, words), oldest first, together again: (B, \\*shape), uint8, contiguous."""
        pixels = frames.view(th.uint8)
        if self.channels_first:
            return pixels.view(-1, *self.shape)
        height, width, channels = self.shape
        pixels = pixels.view(-1, self.frame_stack, height, width, channels // self.frame_stack)
        return pixels.permute(0, 2, 3, 1, 4).reshape(-1, *self.shape)


def per_env(name: str, values: Any, n_envs: int, *shapes: tuple[int, ...]) -> np.ndarray:
    """
    Return one value for each environment as an array, and refuse what only has the right size.

    :param name: what the error calls the values
    :param values: (N, \\*shape) for one of the shapes; the first axis may be missing if N is 1
    :param n_envs: number of environments N
    :param shapes: shapes of one value
    :return: the values, as given
    :raises ValueError: if they have another shape
    """
    array = np.asarray(values)
    for shape in shapes:
        if array.shape == (n_envs, *shape) or (n_envs == 1 and array.shape == shape):
            return array
    raise ValueError(f"expected {name} of shape {(n_envs, *shapes[0])}, got {array.shape}")


def frame_stack_of(env: VecEnv | None, observation_space: spaces.Space) -> int | None:
    """
    Return the number of frames of which the observations of an environment are stacks.

    Known are SB3's ``VecFrameStack``, a vector environment with an integer attribute ``frame_stack``, and
    gymnasium's ``FrameStackObservation`` around every sub-environment, below any of SB3's wrappers that
    pass observations on. Other wrappers may change single frames, so below them the answer is None.

    :param observation_space: that of the agent, after image transposition
    :return: None if the observations are not known to be uint8 images stacked along their channel axis
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
