"""Soft Q-learning with mutual-information regularisation (MIRL) for Stable-Baselines3."""

from importlib.metadata import version

__version__ = version("sb3-mirl")
