"""The formulas and loops of the tabular agents, compiled (numba; imported only when an agent learns or a planner runs).

For tabular code this is the one definition of the formulas, the torch-free twin of ``maths``, tested equal to it. One rule
serves all agents of Grau-Moya et al. (2019), section 5.1; they differ in numbers:

    agent          beta          prior in the backup   explores with
    QLearning      inf           uniform               uniform
    SoftQLearning  max(c i, c)   uniform               uniform, or the frequencies of the actions executed so far
    TabularMIRL    max(c i, c)   learned               the learned prior

The order within a step is that of the paper's Algorithm 1: act, prior, value. Exponentials are taken relative to the largest
Q-value throughout, so that beta Q may be of any size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float64]

UNIFORM, MARGINAL, PRIOR = 0, 1, 2
"""Where exploratory actions come from."""

PRIOR_FLOOR = 1e-300
"""Zero is absorbing for the prior: (1 - alpha)^i leaves the range of float64 after 3.5e5 steps at alpha 2e-3."""


class Dynamics(NamedTuple):
    """A ``P`` table to sample from. Axes: S states, A actions, K outcomes."""

    next_state: NDArray[np.int64]  # (S, A, K)
    reward: Floats
    terminated: NDArray[np.bool_]
    cumulative: Floats  # probability
    start_cumulative: Floats  # (S,)
    max_episode_steps: int  # 0 for no limit


class Tables(NamedTuple):
    """What an agent learns: ``q`` and ``visits`` (S, A), ``prior`` and ``action_counts`` (A,)."""

    q: Floats
    visits: NDArray[np.int64]
    prior: Floats
    action_counts: Floats


class Rule(NamedTuple):
    """How an agent learns: the arguments of ``agents.TabularMIRL``; ``exploration`` is one of the constants above."""

    gamma: float
    omega: float
    epsilon: float
    exploration: int
    beta: float
    beta_slope: float
    prior_lr: float
    prior_decay: float


class Cursor(NamedTuple):
    """Where a run stands: steps taken in all; state, length and return of the current episode."""

    step: int
    state: int
    length: int
    episode_return: float


class Log(NamedTuple):
    """Arrays to fill: E training episodes (as many as may end), each step's state and action (or length 0), N snapshots."""

    episode_returns: Floats  # (E,)
    episode_lengths: NDArray[np.int64]
    episode_ends: NDArray[np.int64]
    states: NDArray[np.int32]  # (steps,)
    actions: NDArray[np.int32]
    evaluation_timesteps: NDArray[np.int64]  # (N,)
    evaluation_returns: Floats  # (N, episodes)
    evaluation_lengths: NDArray[np.int64]


class Evaluation(NamedTuple):
    """A snapshot every ``every`` steps (0: none); ``exploration`` is one of the constants above."""

    every: int
    max_steps: int
    epsilon: float
    exploration: int


def compiled(function: F) -> F:
    """Compile ``function`` by numba; its types stay as they are for the type checker."""
    # inlined: handing the tables from function to function costs half of the speed
    return njit(nogil=True, cache=True, inline="always")(function)  # type: ignore[return-value]


@compiled
def beta_at(step: int, beta: float, slope: float) -> float:
    """Return beta at ``step`` i = 0, 1, ...: max(c i, c) (Fox et al. 2016, Eq. 26), or constant for slope 0."""
    return slope * max(step, 1) if slope > 0 else beta


@compiled
def prior_lr_at(step: int, lr: float, decay: float) -> float:
    """Return alpha_rho at ``step`` i: lr, or lr / (1 + lr i)^decay."""
    return lr / (1.0 + lr * step) ** decay if decay > 0 else lr


@compiled
def highest(q: Floats, state: int, prior: Floats) -> float:
    """Return max_a Q(s,a) over the prior's support."""
    top = -np.inf
    for a in range(prior.size):
        if q[state, a] > top and prior[a] > 0.0:
            top = q[state, a]
    return top


@compiled
def boltzmann_weights(q: Floats, state: int, prior: Floats, beta: float, top: float, weights: Floats) -> float:
    """Write rho(a) exp(beta (Q(s,a) - top)) into ``weights`` (A,), with ``top`` from ``highest``; return their sum."""
    total = 0.0
    for a in range(prior.size):
        if q[state, a] == top:  # also: beta = inf
            weights[a] = prior[a]
        elif prior[a] > 0.0:
            weights[a] = prior[a] * np.exp(beta * (q[state, a] - top))
        else:
            weights[a] = 0.0
        total += weights[a]
    return total


@compiled
def soft_value(q: Floats, state: int, prior: Floats, beta: float, scratch: Floats) -> float:
    """Return 1/beta log sum_a rho(a) exp(beta Q(s,a)), max_a Q(s,a) for beta = inf. ``scratch`` is (A,)."""
    top = highest(q, state, prior)
    if beta == np.inf:
        return top
    return top + np.log(boltzmann_weights(q, state, prior, beta, top, scratch)) / beta


@njit(nogil=True, cache=True)
def soft_values(q: Floats, prior: Floats, beta: float) -> tuple[Floats, Floats]:
    """Return the soft values (S,) and the policy (S, A) of Eq. (8), for planners.

    :param q: (S, A)
    :param prior: (A,), summing to 1
    :param beta: positive and finite; the values are exact to some 1e-16 max(|V|, 1 / beta)
    """
    values, policy = np.empty(len(q)), np.empty(q.shape)
    for state in range(len(q)):
        values[state] = soft_value(q, state, prior, beta, policy[state])
        policy[state] /= policy[state].sum()
    return values, policy


@compiled
def update_prior(prior: Floats, weights: Floats, total: float, lr: float) -> None:
    """Apply Eq. (11) in place: rho <- (1 - alpha) rho + alpha pi, with pi = weights / total."""
    for a in range(prior.size):
        prior[a] = max((1.0 - lr) * prior[a] + lr * (weights[a] / total), PRIOR_FLOOR)


@compiled
def sample(weights: Floats, rng: np.random.Generator) -> int:
    """Draw an action with probability proportional to ``weights`` (A,); uniformly when they are all zero."""
    total = 0.0
    for a in range(weights.size):
        total += weights[a]
    u = rng.random()
    if total == 0.0:
        return int(u * weights.size)
    u *= total
    last = 0
    for a in range(weights.size):
        if weights[a] > 0.0:
            last = a
            u -= weights[a]
            if u < 0.0:
                return a
    return last


@compiled
def sample_argmax(weights: Floats, rng: np.random.Generator) -> int:
    """Return the action of largest weight; break ties at random."""
    best, ties = 0, 1
    for a in range(1, weights.size):
        if weights[a] > weights[best]:
            best, ties = a, 1
        elif weights[a] == weights[best]:
            ties += 1
    if ties == 1:
        return best
    skip = int(rng.random() * ties)
    for a in range(best, weights.size):
        if weights[a] == weights[best]:
            if skip == 0:
                return a
            skip -= 1
    return best


@compiled
def behave(weights: Floats, epsilon: float, exploration: int, tables: Tables, rng: np.random.Generator) -> int:
    """Act as in section 4.1: argmax pi(.|s) (``weights``), or with probability epsilon an exploratory action."""
    if rng.random() > epsilon:
        return sample_argmax(weights, rng)
    if exploration == UNIFORM:
        return int(rng.random() * weights.size)
    return sample(tables.action_counts if exploration == MARGINAL else tables.prior, rng)


@compiled
def weigh(tables: Tables, rule: Rule, state: int, step: int, weights: Floats) -> float:
    """Write pi(.|s) at ``step``, not normalised, into ``weights`` (A,); return their sum."""
    beta = beta_at(step, rule.beta, rule.beta_slope)
    return boltzmann_weights(tables.q, state, tables.prior, beta, highest(tables.q, state, tables.prior), weights)


@compiled
def learn_from(
    tables: Tables, rule: Rule, state: int, action: int, reward: float, next_state: int, terminated: bool, step: int,
    weights: Floats, total: float,
) -> None:  # fmt: skip
    """Update the prior (Eq. 11), then the value (Eq. 12) with alpha_Q = n(s,a)^-omega.

    ``weights`` (A,) and ``total`` come from ``weigh``.
    """
    if rule.prior_lr > 0.0:
        update_prior(tables.prior, weights, total, prior_lr_at(step, rule.prior_lr, rule.prior_decay))
    tables.action_counts[action] += 1.0
    tables.visits[state, action] += 1
    target = reward
    if not terminated:
        beta = beta_at(step, rule.beta, rule.beta_slope)
        target += rule.gamma * soft_value(tables.q, next_state, tables.prior, beta, weights)
    alpha = float(tables.visits[state, action]) ** -rule.omega
    tables.q[state, action] += alpha * (target - tables.q[state, action])


@compiled
def start_state(dynamics: Dynamics, rng: np.random.Generator) -> int:
    """Draw a first state."""
    return int(np.searchsorted(dynamics.start_cumulative, rng.random(), side="right"))


@compiled
def outcome(dynamics: Dynamics, state: int, action: int, rng: np.random.Generator) -> int:
    """Draw which of the outcomes of (state, action) happens; a certain one costs no random number."""
    if dynamics.cumulative[state, action, 0] >= 1.0:
        return 0
    u = rng.random()
    k = 0
    while dynamics.cumulative[state, action, k] <= u:
        k += 1
    return k


@compiled
def transition(dynamics: Dynamics, state: int, action: int, k: int, length: int) -> tuple[int, float, bool, bool]:
    """Return next state, reward, terminated and truncated of outcome ``k``, the last one after ``length`` earlier steps."""
    next_state, reward = dynamics.next_state[state, action, k], dynamics.reward[state, action, k]
    return next_state, reward, dynamics.terminated[state, action, k], length + 1 == dynamics.max_episode_steps


@compiled
def evaluate(
    dynamics: Dynamics, tables: Tables, rule: Rule, step: int, evaluation: Evaluation, log: Log, row: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Play the episodes of the snapshot at ``step``, into row ``row`` of ``log``; nothing is learned."""
    weights = np.empty(tables.prior.size)
    log.evaluation_timesteps[row] = step
    for episode in range(log.evaluation_returns.shape[1]):
        state, episode_return, length, over = start_state(dynamics, rng), 0.0, 0, False
        while not over and length < evaluation.max_steps:
            weigh(tables, rule, state, step, weights)
            action = behave(weights, evaluation.epsilon, evaluation.exploration, tables, rng)
            k = outcome(dynamics, state, action, rng)
            state, reward, terminated, truncated = transition(dynamics, state, action, k, length)
            episode_return += reward
            length += 1
            over = terminated or truncated
        log.evaluation_returns[row, episode], log.evaluation_lengths[row, episode] = episode_return, length


@compiled
def run(
    dynamics: Dynamics, evaluation_dynamics: Dynamics, tables: Tables, rule: Rule, cursor: Cursor, n_steps: int,
    rng: np.random.Generator, log: Log, evaluation: Evaluation, evaluation_rng: np.random.Generator,
) -> tuple[Cursor, int]:  # fmt: skip
    """Learn for ``n_steps`` steps and evaluate on the way; return the new cursor and the number of episodes.

    ``loops`` runs this very code, not compiled, in environments that have no table.
    """
    weights = np.empty(tables.prior.size)
    step, state, length, episode_return = cursor
    first, n_episodes, n_snapshots = step, 0, 0
    while step < first + n_steps:
        total = weigh(tables, rule, state, step, weights)
        action = behave(weights, rule.epsilon, rule.exploration, tables, rng)
        k = outcome(dynamics, state, action, rng)
        next_state, reward, terminated, truncated = transition(dynamics, state, action, k, length)
        learn_from(tables, rule, state, action, reward, next_state, terminated, step, weights, total)
        if log.states.size > 0:
            log.states[step - first], log.actions[step - first] = state, action
        step, state, length, episode_return = step + 1, next_state, length + 1, episode_return + reward
        if terminated or truncated:
            log.episode_returns[n_episodes], log.episode_lengths[n_episodes] = episode_return, length
            log.episode_ends[n_episodes] = step
            n_episodes += 1
            state, length, episode_return = start_state(dynamics, rng), 0, 0.0
        if evaluation.every > 0 and step % evaluation.every == 0:
            evaluate(evaluation_dynamics, tables, rule, step, evaluation, log, n_snapshots, evaluation_rng)
            n_snapshots += 1
    return Cursor(step, state, length, episode_return), n_episodes


def empty_log(n_steps: int, trace: bool, n_snapshots: int, n_eval_episodes: int) -> Log:
    """Return room for ``n_steps`` steps; for states and actions only if ``trace``."""
    whole, reals, traced = np.zeros(n_steps, dtype=np.int64), np.zeros(n_steps), np.zeros(n_steps * trace, dtype=np.int32)
    snapshots, scores = np.zeros(n_snapshots, dtype=np.int64), np.zeros((n_snapshots, n_eval_episodes))
    return Log(reals, whole, whole.copy(), traced, traced.copy(), snapshots, scores, scores.astype(np.int64))
