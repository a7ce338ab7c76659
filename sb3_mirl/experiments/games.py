"""The suites of games and the settings of their runs: the paper's 19 games of Atari (section 5.2, Table 3), and MinAtar."""

from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_mirl.atari import GAMES as ATARI_GAMES
from sb3_mirl.envs.many_actions import PaddedActions
from sb3_mirl.envs.minatar import GAMES as MINATAR_GAMES
from sb3_mirl.envs.minatar import MinAtarCNN, make_minatar
from sb3_mirl.envs.rare_action import RareActionEnv
from sb3_mirl.evaluation import MAX_STEPS
from sb3_mirl.experiments.settings import Settings, Suite

ANNEALING = 1_000_000
"""Environment steps over which epsilon falls in the paper."""
TRAINING_MAX_STEPS = 27_000
RARE_ACTION = "rare_action"


def make_atari_env(game: str, n_envs: int, seed: int, training: bool) -> VecEnv:
    """
    Make the environments of a run on a game of Atari.

    :param training: lives and clipped rewards; else whole games of at most 4500 steps, unclipped
    """
    # here, because not everybody who plays MinAtar has the ALE
    from sb3_mirl.envs import AtariVecEnv

    cap = None if training else MAX_STEPS
    # a worker's share of the CPUs: emulator threads of several runs would only wait for each other
    return AtariVecEnv(game, n_envs, seed, training=training, max_episode_steps=cap, num_threads=th.get_num_threads())


def atari_hyperparameters(game: str, settings: Settings) -> tuple[str, dict[str, Any]]:
    """
    Return policy and hyperparameters for a game of Atari.

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


def make_minatar_env(game: str, n_envs: int, seed: int, training: bool) -> VecEnv:
    """
    Make the environments of a run on a game of MinAtar, or on "rare_action".

    :param game: its name, "breakout+idle_64" or "breakout+copies_64" for the game with 64 actions, see :class:`PaddedActions`,
        or "breakout+rewards_0.1" for one with a tenth of its rewards
    :param training: episodes end after 27000 steps, in evaluation after 4500
    """

    def make() -> gym.Env[Any, Any]:
        name, _, change = game.partition("+")
        env: gym.Env[Any, Any] = RareActionEnv() if name == RARE_ACTION else make_minatar(name)
        env = changed(env, *change.split("_")) if change else env
        return Monitor(gym.wrappers.TimeLimit(env, TRAINING_MAX_STEPS if training else MAX_STEPS))

    env = DummyVecEnv([make] * n_envs)
    env.seed(seed)
    return env


def changed(env: gym.Env[Any, Any], what: str, number: str) -> gym.Env[Any, Any]:
    """Return ``env`` with what follows the "+" in a game's name."""
    if what == "rewards":
        scale = float(number)
        return gym.wrappers.TransformReward(env, lambda reward: scale * float(reward))
    return PaddedActions(env, int(number), what)  # type: ignore[arg-type]  # it checks them


def minatar_hyperparameters(game: str, settings: Settings) -> tuple[str, dict[str, Any]]:
    """
    Return policy and hyperparameters for a game of MinAtar: Young & Tian's DQN with Adam, one update per 4 steps; the
    temperature's and prior's rates are the paper's. "rare_action" has a smaller network and tens of thousands of steps.
    """
    if game.partition("+")[0] == RARE_ACTION:
        return "MlpPolicy", {
            "learning_rate": 1e-3,
            "buffer_size": 10_000,
            "learning_starts": 1_000,
            "target_update_interval": 400,
            "exploration_fraction": 0.1,
            "exploration_final_eps": 0.1,
            "beta_lr": 1e-3,
            "prior_lr": 2e-3,  # Table 2 of the MIRL paper
            "policy_kwargs": {"net_arch": [64]},
        }
    return "MlpPolicy", {
        "learning_rate": 2.5e-4,
        "buffer_size": 100_000,  # transitions
        "learning_starts": 5_000,  # environment steps
        "target_update_interval": 4_000,  # environment steps: 1000 updates
        "exploration_fraction": min(1.0, 100_000 / settings.timesteps),
        "exploration_final_eps": 0.1,
        "beta_lr": 3.3e-6,  # per update, Table 3 of the MIRL paper
        "prior_lr": 5e-5,  # per environment step, its section 5.2
        "policy_kwargs": {"features_extractor_class": MinAtarCNN, "net_arch": []},
    }


ATARI = Suite("atari", make_atari_env, atari_hyperparameters, ATARI_GAMES, ("paper", "table3", "short"))
MINATAR = Suite("minatar", make_minatar_env, minatar_hyperparameters, MINATAR_GAMES)
