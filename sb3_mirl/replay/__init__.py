"""Replay memory for stacked frames: every frame stored once, samples identical to Stable-Baselines3's."""

from sb3_mirl.replay.buffer import FrameReplayBuffer

__all__ = ["FrameReplayBuffer"]
