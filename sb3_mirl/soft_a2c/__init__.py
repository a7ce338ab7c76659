"""Soft Q-learning on policy: SoftA2C with two heads, SoftPQN with one Q-network. Neither has a replay memory."""

from sb3_mirl.soft_a2c.soft_a2c import SoftA2C
from sb3_mirl.soft_a2c.soft_pqn import SoftPQN

__all__ = ["SoftA2C", "SoftPQN"]
