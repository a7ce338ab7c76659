"""Replay memory for stacked frames, every frame stored once, and what any replay buffer consists of."""

from sb3_mirl.replay.buffer import FrameReplayBuffer
from sb3_mirl.replay.rows import Rows, check_same, describe, rows_of

__all__ = ["FrameReplayBuffer", "Rows", "check_same", "describe", "rows_of"]
