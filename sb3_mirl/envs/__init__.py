"""Environments: the paper's gridworlds (registered with gymnasium) and the vectorised Atari games."""

from typing import Any

__all__ = ["AtariVecEnv"]


def __getattr__(name: str) -> Any:
    # ale_py and OpenCV take half a second to import: only those who ask for Atari pay
    if name == "AtariVecEnv":
        from sb3_mirl.envs.atari import AtariVecEnv

        return AtariVecEnv
    raise AttributeError(f"module 'sb3_mirl.envs' has no attribute {name!r}")
