"""Runs that continue after they were killed: checkpoints with everything in them, replay memory included."""

from sb3_mirl.checkpoint.callback import ResumableCheckpoint
from sb3_mirl.checkpoint.folder import CheckpointError
from sb3_mirl.checkpoint.resuming import continue_at_next_learn, resume

__all__ = ["CheckpointError", "ResumableCheckpoint", "continue_at_next_learn", "resume"]
