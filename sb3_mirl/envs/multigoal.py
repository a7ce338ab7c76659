"""A point in the plane and four goals, equally good: what a policy with one mode cannot do. With its exact solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from sb3_mirl.common.arguments import check_choice, check_range

Reward = Literal["distance", "gaussians"]
Array = NDArray[np.float64]

GOALS: Array = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
BOUND = 7.0  # of each coordinate
START_STD = 0.1
ACTION_COST = 30.0
GOAL_REWARD = 10.0
GOAL_DISTANCE = 1.0
HEIGHT, WIDTH = 60.0, 2.0  # of the Gaussians, which the paper does not give
TIME_LIMIT: dict[str, int] = {"distance": 30, "gaussians": 20}

_PIXELS = 420
_RGB = {"ground": (245, 245, 242), "path": (90, 90, 90), "goal": (0, 158, 115), "agent": (213, 94, 0)}


def reward_of(
    position: Array, action: Array, kind: Reward = "distance", goals: Array = GOALS
) -> tuple[Array, NDArray[np.bool_]]:
    """
    Return the rewards of arriving, and whether the episode terminates there.

    :param position: (..., 2) the new position s'
    :param action: (..., 2) between the bounds
    :param kind: see :class:`MultiGoalEnv`
    :param goals: (n, 2) those that count
    :return: (...) rewards and (...) whether a goal has ended the episode
    """
    squares = ((position[..., None, :] - goals) ** 2).sum(-1)  # (..., n)
    if kind == "gaussians":
        reward = HEIGHT * np.exp(-squares / (2 * WIDTH**2)).sum(-1)
        return reward, np.zeros(reward.shape, dtype=bool)
    nearest = squares.min(-1)
    reached = nearest < GOAL_DISTANCE**2
    return -ACTION_COST * (action**2).sum(-1) - nearest + GOAL_REWARD * reached, reached


class MultiGoalEnv(gym.Env[Any, Any]):
    """
    Move a point to one of four goals.

    **Observation**: ``Box(-7, 7, (2,))``, the position. **Action**: ``Box(-1, 1, (2,))``, the velocity; s' = s + a, clipped.
    **Start**: N(0, 0.1^2 I), from where all goals, (5, 0), (-5, 0), (0, 5) and (0, -5), are equally far.

    **Reward** and **end**: "distance", of the authors' code: -30 |a|^2 - min_g |s' - g|^2, and 10 and termination within the
    distance 1 of a goal; time limit 30. "gaussians", after the paper: a mixture of four Gaussians of s' (height 60 and
    standard deviation 2 are ours: the paper gives none), nothing terminates; time limit 20.

    ``info["goal"]`` is the number of the goal within whose distance 1 the point is, else -1.

    Source: Haarnoja et al. 2017, "Reinforcement Learning with Deep Energy-Based Policies", section 5.1 and Figure 1, and
    https://github.com/haarnoja/softqlearning. :func:`solve` has the exact solution.

    :param reward: "distance" or "gaussians"
    :param render_mode: "ansi", "rgb_array" or None
    :param goal: 0 to 3 if only that goal counts, for fine-tuning; None for all of them
    :raises ValueError: if an argument is not known
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, reward: Reward = "distance", render_mode: str | None = None, goal: int | None = None) -> None:
        check_choice("reward", reward, get_args(Reward))
        check_choice("goal", goal, (None, 0, 1, 2, 3))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.reward: Reward = reward
        self.render_mode = render_mode
        self.goals = GOALS if goal is None else GOALS[goal : goal + 1]
        self.observation_space = spaces.Box(-BOUND, BOUND, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.path: list[Array] = [np.zeros(2)]

    @property
    def position(self) -> Array:
        """(2,) where the point is."""
        return self.path[-1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Begin an episode; see gymnasium.

        :param seed: of the environment's random numbers
        :param options: ``{"position": (x, y)}`` to start there
        """
        super().reset(seed=seed)
        start = self.np_random.normal(0, START_STD, 2)
        if options and "position" in options:
            start = np.asarray(options["position"], dtype=np.float64)
            if start.shape != (2,) or not (np.abs(start) <= BOUND).all():
                raise ValueError(
                    f'options["position"]={options["position"]!r} must be two numbers in [-{BOUND:g}, {BOUND:g}].'
                )
        self.path = [start]
        return self._observation(), {"goal": self._goal()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Move; see gymnasium.

        :raises ValueError: if the action is not two numbers
        """
        velocity = np.asarray(action, dtype=np.float64)
        if velocity.shape != (2,) or not np.isfinite(velocity).all():
            raise ValueError(f"An action must be two finite numbers, got {action!r}.")
        velocity = velocity.clip(-1, 1)
        self.path.append((self.position + velocity).clip(-BOUND, BOUND))
        reward, terminated = reward_of(self.position, velocity, self.reward, self.goals)
        truncated = not terminated and len(self.path) > TIME_LIMIT[self.reward]
        return self._observation(), float(reward), bool(terminated), truncated, {"goal": self._goal()}

    def _observation(self) -> np.ndarray:
        return self.position.astype(np.float32)

    def _goal(self) -> int:
        distances = np.linalg.norm(self.position - GOALS, axis=-1)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] < GOAL_DISTANCE else -1

    def render(self) -> str | NDArray[np.uint8] | None:
        """Return a map of 15 x 15 characters (``ansi``) or (420, 420, 3) uint8 with the path so far (``rgb_array``)."""
        if self.render_mode is None:
            gym.logger.warn('render() does nothing without a render mode: gym.make(id, render_mode="rgb_array")')
            return None
        return self._ansi() if self.render_mode == "ansi" else self._rgb()

    def _ansi(self) -> str:
        rows = [["."] * 15 for _ in range(15)]
        for x, y, character in [*((*goal, "G") for goal in GOALS), (*self.position, "A")]:
            rows[round(BOUND - y)][round(BOUND + x)] = character
        return "\n".join("".join(row) for row in rows) + "\n"

    def _rgb(self) -> NDArray[np.uint8]:
        image = np.full((_PIXELS, _PIXELS, 3), _RGB["ground"], dtype=np.uint8)
        centres = ((np.arange(_PIXELS) + 0.5) / _PIXELS * 2 - 1) * BOUND
        x, y = centres[None, :], -centres[:, None]
        discs = [(goal, GOAL_DISTANCE, "goal") for goal in GOALS]
        discs += [(point, 0.08, "path") for point in self.path[:-1]] + [(self.position, 0.25, "agent")]
        for centre, radius, colour in discs:
            image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2] = _RGB[colour]
        return image


@dataclass(frozen=True)
class Rollouts:
    """
    Episodes of a policy, side by side.

    :param returns: (n,) undiscounted
    :param lengths: (n,) steps
    :param goal: (n,) number of the goal that was reached, -1 for none
    :param paths: (n, limit + 1, 2) positions; NaN after the end
    """

    returns: Array
    lengths: NDArray[np.int64]
    goal: NDArray[np.int64]
    paths: Array

    @property
    def shares(self) -> Array:
        """(5,) fraction of the episodes that reach each goal, and none."""
        return np.bincount(self.goal % 5, minlength=5) / len(self.goal)


def rollouts(act: Callable[[Array], Any], n: int, seed: int, reward: Reward = "distance", goals: Array = GOALS) -> Rollouts:
    """
    Run n episodes of :class:`MultiGoalEnv` at once; "goal" is that at the end of an episode.

    :param act: from positions (k, 2) of the episodes that go on to velocities (k, 2)
    :param n: number of episodes
    :param seed: of the starts
    :param reward: see :class:`MultiGoalEnv`
    :param goals: (n, 2) those that count
    :return: the episodes
    """
    limit = TIME_LIMIT[reward]
    paths = np.full((n, limit + 1, 2), np.nan)
    paths[:, 0] = np.random.default_rng(seed).normal(0, START_STD, (n, 2))
    position, going = paths[:, 0].copy(), np.arange(n)
    returns, lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
    for step in range(1, limit + 1):
        velocity = np.asarray(act(position[going]), dtype=np.float64).clip(-1, 1)
        position[going] = paths[going, step] = (position[going] + velocity).clip(-BOUND, BOUND)
        rewards, reached = reward_of(position[going], velocity, reward, goals)
        returns[going] += rewards
        lengths[going] += 1
        going = going[~reached]
        if not len(going):
            break
    distances = np.linalg.norm(position[:, None] - GOALS, axis=-1)
    goal = np.where(distances.min(1) < GOAL_DISTANCE, distances.argmin(1), -1)
    return Rollouts(returns, lengths, goal, paths)


@dataclass(frozen=True)
class Solution:
    """
    Exact soft values of the plane on a grid.

    :param grid: (N,) coordinates of the states, the same in both directions
    :param actions: (A,) coordinates of the velocities, likewise
    :param v: (N, N) V at (grid[i], grid[j]), in units of reward
    :param alpha: temperature
    :param gamma: discount factor
    :param reward: kind of the reward
    """

    grid: Array
    actions: Array
    v: Array
    alpha: float
    gamma: float
    reward: Reward

    def value(self, positions: Any) -> Array:
        """
        Return V between the grid's points by linear interpolation.

        :param positions: (n, 2)
        :return: (n,)
        """
        positions = np.atleast_2d(np.asarray(positions, dtype=np.float64))
        steps = (positions - self.grid[0]) / (self.grid[1] - self.grid[0])
        return map_coordinates(self.v, steps.T, order=1)

    def q(self, positions: Any) -> Array:
        """
        Return Q of every velocity.

        :param positions: (n, 2)
        :return: (n, A, A), by the velocity's first and second coordinate
        """
        positions = np.atleast_2d(np.asarray(positions, dtype=np.float64))
        velocity = np.stack(np.meshgrid(self.actions, self.actions, indexing="ij"), -1)  # (A, A, 2)
        following = (positions[:, None, None, :] + velocity).clip(-BOUND, BOUND)  # (n, A, A, 2)
        reward, reached = reward_of(following, velocity, self.reward)
        value = self.value(following.reshape(-1, 2)).reshape(reward.shape)
        return reward + self.gamma * ~reached * value

    def policy(self, positions: Any) -> Array:
        """
        Return the probability of each velocity's cell.

        :param positions: (n, 2)
        :return: (n, A, A), each summing to 1
        """
        q = self.q(positions)
        weights = np.exp((q - q.max((1, 2), keepdims=True)) / self.alpha)
        return weights / weights.sum((1, 2), keepdims=True)

    def sample(self, positions: Any, rng: np.random.Generator) -> Array:
        """
        Draw velocities from the exact policy: a cell of the grid, and a point in it.

        :param positions: (n, 2)
        :param rng: random numbers
        :return: (n, 2)
        """
        probabilities = self.policy(positions).reshape(len(np.atleast_2d(positions)), -1)
        cumulative = probabilities.cumsum(1)
        drawn = (cumulative < rng.random((len(cumulative), 1)) * cumulative[:, -1:]).sum(1)
        n = len(self.actions)
        cells = np.stack([self.actions[drawn // n], self.actions[drawn % n]], -1)
        return cells + (rng.random(cells.shape) - 0.5) * (self.actions[1] - self.actions[0])


def solve(
    alpha: float, gamma: float = 0.99, reward: Reward = "distance", spacing: float = 0.25, n_actions: int = 21
) -> Solution:
    """
    Soft value iteration on a grid: V(s) = alpha log of the integral over the velocities of exp(Q(s, a) / alpha), linear
    between the grid's points, by the midpoint rule over the velocities.

    With the defaults and alpha = 10 it gives V(0, 0) = -122.7 and V(2.5, 2.5) = -57.5, in a second or two. "gaussians", where
    nothing terminates, takes 1 / (1 - gamma) times as many sweeps for each digit: half a minute.

    :param alpha: temperature > 0, in units of reward
    :param gamma: discount factor in [0, 1)
    :param reward: see :class:`MultiGoalEnv`
    :param spacing: of the states, a fraction of 7
    :param n_actions: velocities in each direction
    :return: the solution
    :raises ValueError: if an argument is out of its range
    """
    check_range("alpha", alpha, 0, math.inf, low_open=True, high_open=True)
    check_range("gamma", gamma, 0, 1, high_open=True)
    check_choice("reward", reward, get_args(Reward))
    check_range("spacing", spacing, 0, BOUND, low_open=True)
    check_range("n_actions", n_actions, 2, math.inf, whole=True)
    grid = np.linspace(-BOUND, BOUND, 2 * round(BOUND / spacing) + 1)
    cell = 2 / n_actions
    actions = (np.arange(n_actions) + 0.5) * cell - 1
    following = (grid[:, None] + actions).clip(-BOUND, BOUND)  # (N, A): each coordinate moves by itself
    matrix = _interpolation(grid, following.ravel())  # (N A, N)
    n = len(grid)
    axes = np.broadcast_arrays(following[:, :, None, None], following[None, None])
    velocity = np.stack(np.broadcast_arrays(actions[:, None, None], actions), -1)[None]  # (1, A, 1, A, 2)
    rewards, reached = reward_of(np.stack(axes, -1), np.broadcast_to(velocity, (*axes[0].shape, 2)), reward)  # (N, A, N, A)
    continues = gamma * ~reached
    v, q = np.zeros((n, n)), np.empty(rewards.shape)
    while True:
        np.matmul(matrix @ v, matrix.T, out=q.reshape(n * n_actions, n * n_actions))
        q *= continues
        q += rewards
        best = q.max((1, 3), keepdims=True)
        q -= best
        q /= alpha
        total = np.exp(q, out=q).sum((1, 3)) * cell**2
        new = best[:, 0, :, 0] + alpha * np.log(total)
        change, v = np.abs(new - v).max(), new
        if change < 1e-6 * max(1.0, np.abs(v).max()):
            return Solution(grid, np.asarray(actions, dtype=np.float64), v, alpha, gamma, reward)


def _interpolation(grid: Array, coordinates: Array) -> Array:
    """(n, N) weights of the grid's points."""
    step = grid[1] - grid[0]
    lower = np.clip(((coordinates - grid[0]) / step).astype(int), 0, len(grid) - 2)
    share = (coordinates - grid[lower]) / step
    weights = np.zeros((len(coordinates), len(grid)))
    rows = np.arange(len(coordinates))
    weights[rows, lower], weights[rows, lower + 1] = 1 - share, share
    return weights
