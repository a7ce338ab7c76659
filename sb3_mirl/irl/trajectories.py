"""Trajectories: of agents in environments, checked against an MDP and counted; and features from transition tables."""

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from sb3_mirl.common.arguments import check_range
from sb3_mirl.irl.network import Array
from sb3_mirl.tabular import TabularMDP

Trajectory = tuple[NDArray[np.int64], NDArray[np.int64]]
Choose = Callable[[NDArray[np.int64]], NDArray[np.int64]]

_BALANCE = 1e-6  # largest imbalance of an occupancy, of its total, that is taken for rounding


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


def count_actions(
    mdp: TabularMDP, prior: Array, trajectories: Iterable[Any], horizon: int | None, discount: float = 1.0
) -> tuple[Array, Array]:
    """How often each action was taken, and where the trajectories begin.

    :param prior: (A,) actions at 0 are never taken
    :param trajectories: each (states, actions); states as many as actions, or one more
    :param discount: an action at step t counts as its t-th power
    :return: counts (T, S, A), with T the horizon or 1, and counts (S,) of the first states
    :raises ValueError: naming trajectory and step, if one does not fit the MDP
    """
    try:
        pairs = list(trajectories)
    except TypeError:
        raise ValueError(f"trajectories must be a list of (states, actions), got {trajectories!r}") from None
    if not pairs:
        raise ValueError("the list of trajectories is empty: at least one is needed")
    counts, starts = np.zeros((horizon or 1, mdp.n_states, mdp.n_actions)), np.zeros(mdp.n_states)
    matrix = csr_array(mdp.matrix)
    for i, pair in enumerate(pairs):
        states, actions = _read(mdp, pair, f"trajectory {i}")
        if horizon is not None and len(actions) > horizon:
            raise ValueError(f"trajectory {i} has {len(actions)} actions, more than horizon={horizon}: raise it, or cut it")
        _check_possible(mdp, matrix, prior, states, actions, f"trajectory {i}")
        steps = np.arange(len(actions))
        np.add.at(counts, (steps if horizon else 0 * steps, states[: len(actions)], actions), discount**steps)
        starts[states[0]] += 1
    return counts, starts


def read_occupancy(mdp: TabularMDP, occupancy: Any, horizon: int | None, discount: float, exact: bool) -> Array:
    """(S, A): the expected discounted number of times that each action is taken in an episode.

    :param occupancy: (S, A) that, or without a horizon any multiple of it
    :param exact: whether it must be what some policy does
    :raises ValueError: it is not, or is not an occupancy at all
    """
    array = np.array(occupancy, dtype=np.float64)
    if array.shape != (mdp.n_states, mdp.n_actions) or not (np.isfinite(array) & (array >= 0)).all() or not array.sum() > 0:
        raise ValueError(
            f"occupancy must hold numbers that are not negative, ({mdp.n_states}, {mdp.n_actions}), and not all 0, got shape "
            f"{array.shape}, smallest {array.min(initial=0):.3g}"
        )
    if horizon is not None:
        return array
    array = array / array.sum()
    going_on = discount * np.asarray(csr_array(mdp.matrix).T @ array.ravel())  # (S,)
    array = array / (1 - going_on.sum())  # what begins sums to 1
    begins = array.sum(axis=1) - going_on * array.sum()
    off = np.abs(begins - mdp.initial)
    worst = int(off.argmax())
    if exact and off[worst] > _BALANCE * array.sum():
        raise ValueError(
            f"occupancy does not fit the MDP: at state {worst} it begins with probability {begins[worst]:.6g}, and the "
            f"initial distribution says {mdp.initial[worst]:.6g}. If it was estimated from samples, no policy has it: use "
            "fit(trajectories), or l2 > 0 for an approximate match"
        )
    return array


def _read(mdp: TabularMDP, pair: Any, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    try:
        states, actions = (np.asarray(part) for part in pair)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (states, actions), two sequences of integers, got {pair!r}") from None
    for kind, array, size in (("state", states, mdp.n_states), ("action", actions, mdp.n_actions)):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(f"the {kind}s of {name} must be a sequence of integers, got {array!r}")
        for t in np.flatnonzero((array < 0) | (array >= size)):
            raise ValueError(f"{name} has {kind} {array[t]} at step {t}: the MDP's are 0..{size - 1}")
    if not len(actions) or len(states) - len(actions) not in (0, 1):
        raise ValueError(
            f"{name} has {len(states)} states and {len(actions)} actions: it needs an action, and as many states or one more"
        )
    return states.astype(np.int64), actions.astype(np.int64)


def _check_possible(
    mdp: TabularMDP, matrix: csr_array, prior: Array, states: NDArray[np.int64], actions: NDArray[np.int64], name: str
) -> None:
    if not mdp.initial[states[0]] > 0:
        raise ValueError(f"{name} begins in state {states[0]}, whose initial probability is 0 in the MDP")
    for step in np.flatnonzero(prior[actions] == 0):
        raise ValueError(f"{name} takes action {actions[step]} at step {step}, whose prior is 0")
    n = len(states) - 1
    rows = states[:n] * mdp.n_actions + actions[:n]
    for t in range(n):
        row = slice(matrix.indptr[rows[t]], matrix.indptr[rows[t] + 1])
        if not matrix.data[row][matrix.indices[row] == states[t + 1]].sum() > 0:
            raise ValueError(
                f"{name} goes from state {states[t]} by action {actions[t]} to state {states[t + 1]} at step {t}: that has "
                "probability 0 in the MDP"
            )


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
