"""Behaviour of agents in environments with discrete observations, and features from their transition tables."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.common.arguments import check_range
from sb3_mirl.irl.network import Array
from sb3_mirl.tabular import TabularMDP

Trajectory = tuple[NDArray[np.int64], NDArray[np.int64]]
Choose = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def collect_trajectories(
    model: Any, env: Any, n_episodes: int, seed: int | None = None, deterministic: bool = False
) -> list[Trajectory]:
    """Record what an agent does.

    All that it does counts as its behaviour, exploration included: let it explore as that which is to be explained does. An
    episode that a time limit ends is recorded as far as it goes; its last state is not taken for a terminal one.

    :param model: any SB3 or tabular agent (anything with SB3's ``predict``), or a policy (S, A)
    :param env: an environment or ``VecEnv`` with Discrete observations and actions; of a ``VecEnv`` each sub-environment
        gives an equal part of the episodes, so that short ones are not preferred
    :param seed: of the environment and, where it has ``set_random_seed`` as SB3's have, of the agent
    :param deterministic: as in ``predict``; for a policy, its most probable actions
    :return: (states, actions), both (steps,) and counted from 0, for each episode
    :raises ValueError: observations or actions are not Discrete, or ``n_episodes`` is below 1
    """
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    check_range("n_episodes", n_episodes, 1, np.inf, whole=True)
    first_state = _first("observation", env.observation_space)
    first_action = _first("action", env.action_space)
    if hasattr(model, "set_random_seed") and seed is not None:
        model.set_random_seed(seed)
    choose = _chooser(model, seed, deterministic, first_state, first_action)
    vec_env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    if seed is not None:
        vec_env.seed(seed)
    return _record(vec_env, choose, n_episodes, first_state, first_action)


def features_from_env(env: gym.Env[Any, Any], state_features: ArrayLike) -> Array:
    """(S, A, K): the features expected of the state that an action leads to, terminal states included.

    A terminal state's own rows, which in gymnasium's tables lead back to it, are 0: nothing is done there.

    :param env: an environment with a transition table ``env.unwrapped.P``, as for ``TabularMDP.from_env``
    :param state_features: (S, K)
    :raises ValueError: there is no table, or the shape does not fit
    """
    mdp = TabularMDP.from_env(env)  # which checks the table
    features = np.array(state_features, dtype=np.float64)
    if features.ndim != 2 or len(features) != mdp.n_states:
        raise ValueError(f"state_features must have the shape ({mdp.n_states}, K), got {features.shape}")
    table = env.unwrapped.P  # type: ignore[attr-defined]
    result = np.zeros((mdp.n_states, mdp.n_actions, features.shape[1]))
    for state in range(mdp.n_states):
        outcomes = [table[state][action] for action in range(mdp.n_actions)]
        if all(entered == state and ends for rows in outcomes for _, entered, _, ends in rows):
            continue
        for action, rows in enumerate(outcomes):
            for probability, entered, _, _ in rows:
                result[state, action] += probability * features[int(entered)]
    return result


def _first(kind: str, space: Any) -> int:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"{kind}s must be Discrete, got {space}: number them, for instance by gymnasium's TransformObservation"
        )
    return int(space.start)


def _chooser(model: Any, seed: int | None, deterministic: bool, first_state: int, first_action: int) -> Choose:
    """States (n,) to actions (n,), both counted from 0."""
    if hasattr(model, "predict"):
        return lambda states: np.asarray(model.predict(states + first_state, deterministic=deterministic)[0]) - first_action
    policy = np.asarray(model, dtype=np.float64)
    if policy.ndim != 2 or not (policy >= 0).all() or not np.allclose(policy.sum(axis=1), 1, atol=1e-6):
        raise ValueError(f"model must have SB3's predict or be a policy (states, actions) of probabilities, got {model!r}")
    if deterministic:
        return lambda states: policy[states].argmax(axis=1)
    generator, cumulative = np.random.default_rng(seed), policy.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]

    def draw(states: NDArray[np.int64]) -> NDArray[np.int64]:
        return (cumulative[states] <= generator.random(len(states))[:, None]).sum(axis=1)

    return draw


def _record(vec_env: Any, choose: Choose, n_episodes: int, first_state: int, first_action: int) -> list[Trajectory]:
    n_envs = vec_env.num_envs
    wanted = np.array(
        [(n_episodes + i) // n_envs for i in range(n_envs)]
    )  # episodes per sub-environment, as in evaluate_policy
    running: list[tuple[list[int], list[int]]] = [([], []) for _ in range(n_envs)]
    episodes: list[Trajectory] = []
    states = np.asarray(vec_env.reset()).astype(np.int64) - first_state
    while (wanted > 0).any():
        actions = choose(states).astype(np.int64)
        observations, _, dones, _ = vec_env.step(actions + first_action)
        for i in np.flatnonzero(wanted > 0):
            running[i][0].append(int(states[i]))
            running[i][1].append(int(actions[i]))
            if dones[i]:
                episodes.append((np.array(running[i][0]), np.array(running[i][1])))
                running[i] = ([], [])
                wanted[i] -= 1
        states = np.asarray(observations).astype(np.int64) - first_state
    return episodes
