"""Soft Q-learning with mutual-information regularisation (MIRL) for Stable-Baselines3."""

from importlib.metadata import version

import sb3_mirl.envs  # noqa: F401  registers the gridworlds with gymnasium
from sb3_mirl.checkpoint import ResumableCheckpoint, resume
from sb3_mirl.common.checks import CheckCallback
from sb3_mirl.continuous_sql import ContinuousSQL
from sb3_mirl.hyperparameters import budget, hyperparameters
from sb3_mirl.mirl import MIRL, PriorCallback
from sb3_mirl.soft_a2c import SoftA2C, SoftPQN
from sb3_mirl.soft_dqn import SoftDQN
from sb3_mirl.virel import VIREL

__all__ = [
    "MIRL",
    "VIREL",
    "CheckCallback",
    "ContinuousSQL",
    "PriorCallback",
    "ResumableCheckpoint",
    "SoftA2C",
    "SoftDQN",
    "SoftPQN",
    "__version__",
    "budget",
    "hyperparameters",
    "resume",
]
__version__ = version("sb3-mirl")
