"""The paper's evaluation of a snapshot: 30 episodes, mostly greedy (section 5.2)."""

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.soft_dqn import SoftDQN

EXPLORATIONS = ("prior", "uniform", "none")
N_EPISODES = 30
EPSILON = 0.05
MAX_STEPS = 4500
"""Environment steps (18000 frames of Atari) after which an evaluation episode ends."""


def evaluate(
    model: DQN,
    env: VecEnv | gym.Env[Any, Any],
    n_episodes: int = N_EPISODES,
    epsilon: float = EPSILON,
    exploration: str = "prior",
    seed: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """
    Scores of a snapshot by the protocol of section 5.2: argmax_a pi(a|s), with probability epsilon a random action.

    The paper does not say how evaluation's random actions are drawn. A concentrated prior makes them cheaper for MIRL than
    uniform ones are for DQN: ``exploration`` separates that from the worth of the learned values. The model and the global
    random numbers are left as they were.

    :param model: SoftDQN or MIRL, or SB3's DQN
    :param env: whole episodes and unclipped rewards, capped at :data:`MAX_STEPS`
        (``AtariVecEnv(game, training=False)`` is that)
    :param n_episodes: number of episodes, shared evenly by the environments of a ``VecEnv``
    :param epsilon: probability of a random action
    :param exploration: "prior": from the distribution that the agent explores with in training (MIRL: rho; SQL_m: its
        action frequencies; SQL and DQN: uniform), "uniform", or "none": epsilon is 0
    :param seed: seed of the random actions and, for a ``VecEnv``, of the episodes; None for fresh ones
    :return: unclipped returns and lengths in environment steps, each (n_episodes,)
    :raises ValueError: for an argument out of range
    """
    check_choice("exploration", exploration, EXPLORATIONS)
    check_range("epsilon", epsilon, 0, 1)
    check_range("n_episodes", n_episodes, 1, np.inf)
    player = _EpsilonGreedy(model, 0.0 if exploration == "none" else epsilon, exploration == "prior", seed)
    if seed is not None and isinstance(env, VecEnv):
        env.seed(seed)
    returns, lengths = evaluate_policy(
        player,  # type: ignore[arg-type]  # anything that predicts will do
        env,
        n_episodes,
        return_episode_rewards=True,
    )
    return np.array(returns, dtype=np.float64), np.array(lengths, dtype=np.int64)


class _EpsilonGreedy:
    """What ``evaluate_policy`` needs of a model, with its own epsilon, exploration and random numbers."""

    def __init__(self, model: DQN, epsilon: float, as_in_training: bool, seed: int | None) -> None:
        n_actions = int(cast(spaces.Discrete, model.action_space).n)
        self.model, self.epsilon, self.random = model, epsilon, np.random.default_rng(seed)
        own = as_in_training and isinstance(model, SoftDQN)
        self.probs = cast(SoftDQN, model).exploration_probs() if own else np.full(n_actions, 1 / n_actions)

    def predict(self, observation: Any, **_: Any) -> tuple[NDArray[np.int64], None]:
        greedy, _state = self.model.predict(observation, deterministic=True)
        drawn = self.random.choice(len(self.probs), size=greedy.shape, p=self.probs)
        return np.where(self.random.random(greedy.shape) < self.epsilon, drawn, greedy), None
