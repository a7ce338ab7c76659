"""The weakness that section 7 of the MIRL paper names: an action that is useful in one place and punished elsewhere."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class RareActionEnv(gym.Env[Any, Any]):
    """
    A corridor of rooms with a door at its end that only PUSH opens; anywhere else PUSH costs a lot.

    RIGHT moves on and earns 0.1, so every agent soon runs to the end, where RIGHT leaves by the small exit for 1. LEFT and
    PUSH throw back to the start and take back what was earned; PUSH costs ``penalty`` more. In the last room PUSH opens the
    door to ``treasure``. A random walk hardly ever gets there; an agent that has learned to run does nearly each time, and
    then must still try PUSH.

    Observations are one-hot, (length,) float32. An episode ends at an exit or after ``10 length`` steps.

    :param length: number of rooms
    :param penalty: reward of PUSH outside the last room
    :param treasure: reward of PUSH in the last room
    """

    def __init__(self, length: int = 12, penalty: float = -1.0, treasure: float = 10.0) -> None:
        self.length, self.penalty, self.treasure = length, penalty, treasure
        self.observation_space = spaces.Box(0, 1, (length,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.room = self.elapsed = 0

    def get_action_meanings(self) -> list[str]:
        """Return the name of each action, in order."""
        return ["LEFT", "RIGHT", "PUSH"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see gymnasium."""
        super().reset(seed=seed)
        self.room = self.elapsed = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, or push; see gymnasium."""
        self.elapsed += 1
        truncated = self.elapsed >= 10 * self.length
        at_end = self.room == self.length - 1
        if action == 1:
            self.room = min(self.room + 1, self.length - 1)
            return self._observation(), 1.0 if at_end else 0.1, at_end, truncated, {}
        if action == 2 and at_end:
            return self._observation(), self.treasure, True, False, {}
        reward = -0.1 * self.room + (self.penalty if action == 2 else 0.0)
        self.room = 0
        return self._observation(), reward, False, truncated, {}

    def _observation(self) -> np.ndarray:
        return np.eye(self.length, dtype=np.float32)[self.room]
