"""Which replay buffer a model gets where its user has not chosen one."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_mirl.replay import FrameReplayBuffer


def make_replay_buffer(model: DQN) -> ReplayBuffer:
    """
    The replay buffer of ``model``: the class it was given, else one that stores every frame once where observations
    are stacks of frames, else SB3's choice.
    """
    buffer_class, kwargs = _choose(model) if model.replay_buffer_class is None else (model.replay_buffer_class, {})
    kwargs.update(model.replay_buffer_kwargs)
    if issubclass(buffer_class, HerReplayBuffer):
        kwargs["env"] = model.env
    return buffer_class(
        model.buffer_size,
        model.observation_space,
        model.action_space,
        device=model.device,
        n_envs=model.n_envs,
        optimize_memory_usage=model.optimize_memory_usage,
        **kwargs,
    )


def no_replay_buffer() -> ReplayBuffer:
    """A buffer of one number, for models that only act."""
    return ReplayBuffer(1, spaces.Discrete(1), spaces.Discrete(1))


def end_trajectory(buffer: ReplayBuffer | None) -> None:
    """
    Before a reset: n-step returns must not run from the newest transitions into the episodes that it begins.

    :param buffer: changed where it makes such returns
    """
    if isinstance(buffer, FrameReplayBuffer):
        buffer.truncate_last_trajectory()
    elif isinstance(buffer, NStepReplayBuffer) and buffer.size() > 0:
        newest = (buffer.pos - 1) % buffer.buffer_size
        buffer.timeouts[newest] = np.maximum(buffer.timeouts[newest], 1 - buffer.dones[newest])


def _choose(model: DQN) -> tuple[type[ReplayBuffer], dict[str, Any]]:
    kwargs: dict[str, Any] = dict(n_steps=model.n_steps, gamma=model.gamma) if model.n_steps > 1 else {}
    frame_stack = FrameReplayBuffer.frame_stack_of(model.env, model.observation_space)
    if frame_stack is not None and not model.optimize_memory_usage:
        return FrameReplayBuffer, {**kwargs, "frame_stack": frame_stack, "storage_device": _storage_device(model, frame_stack)}
    if isinstance(model.observation_space, spaces.Dict):
        return DictReplayBuffer, kwargs
    return (NStepReplayBuffer if model.n_steps > 1 else ReplayBuffer), kwargs


def _storage_device(model: DQN, frame_stack: int) -> th.device:
    """The model's device where a full memory leaves a quarter of its free space, else the host."""
    if model.device.type != "cuda":
        return th.device("cpu")
    needed = model.buffer_size * int(th.Size(model.observation_space.shape or ()).numel()) / frame_stack
    free, _ = th.cuda.mem_get_info(model.device)
    return model.device if needed < 0.75 * free else th.device("cpu")
