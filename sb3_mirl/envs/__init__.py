"""Environments: the paper's gridworlds and the multi-goal plane (registered with gymnasium), vectorised Atari games."""

from typing import Any

from gymnasium.envs.registration import register

from sb3_mirl.envs.gridworld import GridWorldEnv

__all__ = ["AtariVecEnv", "GridWorldEnv"]

# Best mean return over the uniform start, found by planning: -20/59 = -0.339 and 115/30 = 3.833.
# The paper has no time limit; 10 000 steps end only the evaluation of a policy that would never arrive.
register(
    "MirlCorridor-v0",
    "sb3_mirl.envs.gridworld:GridWorldEnv",
    reward_threshold=-0.5,  # optimum = -0.339
    max_episode_steps=10_000,
    kwargs={"layout": "corridor"},
)
register(
    "MirlSquare-v0",
    "sb3_mirl.envs.gridworld:GridWorldEnv",
    reward_threshold=3.7,  # optimum = 3.833
    max_episode_steps=10_000,
    kwargs={"layout": "square"},
)
# Exact at alpha = 10 and gamma = 0.99, by `sb3_mirl.envs.multigoal.solve`: V(0, 0) = -122.7; its policy takes 10.2 steps to a
# goal, 1/4 to each, and returns -194. The environment has its own time limit, 30 or 20 steps.
register("MirlMultiGoal-v0", "sb3_mirl.envs.multigoal:MultiGoalEnv")


def __getattr__(name: str) -> Any:
    # ale_py and OpenCV take half a second to import: only those who ask for Atari pay
    if name == "AtariVecEnv":
        from sb3_mirl.envs.atari import AtariVecEnv

        return AtariVecEnv
    raise AttributeError(f"module 'sb3_mirl.envs' has no attribute {name!r}")
