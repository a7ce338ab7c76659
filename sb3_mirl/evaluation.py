"""The paper's evaluation of a snapshot: 30 episodes, mostly greedy (section 5.2)."""

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.common.arguments import check_choice, check_range

EXPLORATION_CHOICES = ("prior", "uniform", "none")
N_EPISODES = 30
EPSILON = 0.05
MAX_STEPS = 4500
"""Environment steps (18000 frames of Atari) after which an evaluation episode ends."""


def evaluate(
    model: BaseAlgorithm,
    env: VecEnv | gym.Env[Any, Any],
    n_episodes: int = N_EPISODES,
    epsilon: float = EPSILON,
    exploration: str = "prior",
    seed: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """
    Return the scores of a snapshot by the protocol of section 5.2: the greedy action, with probability epsilon a random one.

    The paper does not say how evaluation draws its random actions. A concentrated prior makes them cheaper for MIRL than
    uniform ones are for DQN: ``exploration`` separates that from the worth of the learned values. The model and the global
    random numbers are left as they were.

    :param model: an agent with discrete actions
    :param env: whole episodes and unclipped rewards, capped at :data:`MAX_STEPS`
        (``AtariVecEnv(game, training=False)`` is that)
    :param n_episodes: number of episodes, shared evenly by the environments of a ``VecEnv``
    :param epsilon: probability of a random action
    :param exploration: "prior": from the distribution that the agent explores with in training (MIRL: rho; SQL_m: its
        action frequencies; SQL, DQN and agents of other packages: uniform), "uniform", or "none": epsilon is 0
    :param seed: seed of the random actions and, for a ``VecEnv``, of the episodes; None for fresh ones
    :return: unclipped returns and lengths in environment steps, each (n_episodes,)
    :raises ValueError: for an argument out of range
    """
    check_choice("exploration", exploration, EXPLORATION_CHOICES)
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

    def __init__(self, model: BaseAlgorithm, epsilon: float, as_in_training: bool, seed: int | None) -> None:
        n_actions = int(cast(spaces.Discrete, model.action_space).n)
        self.model, self.epsilon, self.random = model, epsilon, np.random.default_rng(seed)
        own = getattr(model, "exploration_probs", None) if as_in_training else None
        self.probs = np.full(n_actions, 1 / n_actions) if own is None else own()

    def predict(self, observation: Any, **_: Any) -> tuple[NDArray[np.int64], None]:
        greedy, _state = self.model.predict(observation, deterministic=True)
        drawn = self.random.choice(len(self.probs), size=greedy.shape, p=self.probs)
        return np.where(self.random.random(greedy.shape) < self.epsilon, drawn, greedy), None
