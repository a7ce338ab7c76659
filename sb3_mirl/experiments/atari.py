"""The paper's Atari games and the settings of their runs (section 5.2, Table 3)."""

from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.atari.evaluation import MAX_STEPS
from sb3_mirl.envs import AtariVecEnv

if TYPE_CHECKING:
    from sb3_mirl.experiments.cell import Settings

ANNEALING = 1_000_000
"""Environment steps over which epsilon falls in the paper."""
PRESETS = ("paper", "table3", "short")


def make_env(game: str, n_envs: int, seed: int, training: bool) -> VecEnv:
    """
    :param game: a game of Atari
    :param training: lives and clipped rewards; else whole games of at most 4500 steps, unclipped
    """
    cap = None if training else MAX_STEPS
    # a worker's share of the CPUs: emulator threads of several runs would only wait for each other
    return AtariVecEnv(game, n_envs, seed, training=training, max_episode_steps=cap, num_threads=th.get_num_threads())


def hyperparameters(game: str, settings: "Settings") -> tuple[str, dict[str, Any]]:
    """
    "paper" is section 5.2, the agents' defaults; "table3" has that table's rates instead. "short" scales what the paper
    sized for 5e7 steps to the budget, down to 1e5 steps: a higher learning rate, less waiting, a prior and a temperature
    that get as many time constants; at large budgets it meets "paper" but for the learning rate.
    """
    budget = settings.timesteps
    paper = {"exploration_fraction": min(1.0, ANNEALING / budget)}
    if settings.preset == "table3":
        return "CnnPolicy", {**paper, "prior_lr": 2e-6, "beta_lr": 3.3e-6}
    if settings.preset == "short":
        return "CnnPolicy", {
            "learning_rate": 1e-4,
            "buffer_size": min(1_000_000, budget),  # transitions
            "learning_starts": min(50_000, budget // 20),  # environment steps
            "target_update_interval": min(40_000, max(1_000, budget // 100)),  # environment steps
            "exploration_fraction": min(0.1, ANNEALING / budget),
            "beta_lr": max(3e-5, 16 / budget),  # per update: four time constants
            "prior_lr": max(5e-5, 100 / budget),  # per environment step: a hundred
        }
    return "CnnPolicy", paper
