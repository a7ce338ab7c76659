"""Gridworlds drawn as strings: walk to the goal, every step costs one.

One transition table, ``P``, is built from the map; ``step``, ``render``, the planner
(``TabularMDP.from_env``) and the tests all read it.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.toy_text.utils import categorical_sample
from gymnasium.utils import colorize
from numpy.typing import NDArray

from sb3_mirl.common.arguments import check_choice, check_range

WALL, FREE, GOAL = "#", ".", "G"

MAPS: dict[str, list[str]] = {
    "corridor": [
        "....................",
        "...................G",
        "....................",
    ],
    # the goal's pocket opens only to the right: from (3, 6) "left" must be played, once
    "square": [
        "########",
        "#......#",
        "#...##.#",
        "#...#G.#",
        "#...##.#",
        "#......#",
        "#......#",
        "########",
    ],
}
"""The worlds of Grau-Moya et al. (2019), Figure 1; the square's walls are the public reproduction's, the paper gives none."""

ACTION_MEANINGS = ("UP", "RIGHT", "DOWN", "LEFT")
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (row, column) of each action

Transition = tuple[float, int, float, bool]
ExtraActions = Literal["idle", "copies"]

_CELL = 32  # pixels
_RGB = {WALL: (60, 64, 72), FREE: (245, 245, 242), GOAL: (0, 158, 115), "agent": (213, 94, 0), "line": (205, 205, 200)}


class GridWorldEnv(gym.Env[Any, Any]):
    """A gridworld given as strings: ``#`` wall, ``.`` free, ``G`` goal.

    **Observation**: ``Discrete(rows * columns)``, the cell ``row * columns + column``.
    **Actions**: ``Discrete(n_actions)``, 0 up, 1 right, 2 down, 3 left; against a wall or the border the agent stays. Further
    actions stay everywhere, or copy the four in turn.
    **Reward**: ``goal_reward`` on entering a goal, ``step_reward`` otherwise.
    **Start**: uniform over the free cells. **End**: on entering a goal; the class has no time limit.

    ``P[s][a]`` is gymnasium's list of ``(probability, next_state, reward, terminated)`` and
    ``initial_state_distrib`` the start distribution (S,). Walls and goals, where no action is ever
    taken, end the episode at once with reward 0.

    Source: Grau-Moya, Leibfried and Vrancx (2019), section 5.1 and Figure 1; rewards from the public
    reproduction's exchange with the authors.

    :param layout: a name in ``MAPS``, or the rows of a map
    :param goal_reward: reward for the step that enters a goal
    :param step_reward: reward for every other step
    :param n_actions: number of actions, at least 4
    :param extra_actions: what those beyond the fourth do: "idle" stays in the cell, "copies" moves as action ``a % 4``
    :param render_mode: ``"ansi"``, ``"rgb_array"`` or None
    :raises ValueError: if an argument is out of its range, or the map is unknown, not rectangular, or has no goal, no free
        cell or another character
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own declaration)
    table_is_exact = True  # planners and tabular agents read `P` in place of calling `step`

    def __init__(
        self,
        layout: str | Sequence[str] = "corridor",
        goal_reward: float = 9.0,
        step_reward: float = -1.0,
        render_mode: str | None = None,
        n_actions: int = 4,
        extra_actions: ExtraActions = "idle",
    ) -> None:
        self.layout = read_layout(layout)
        check_range("goal_reward", goal_reward, -math.inf, math.inf, low_open=True, high_open=True)
        check_range("step_reward", step_reward, -math.inf, math.inf, low_open=True, high_open=True)
        check_range("n_actions", n_actions, len(_MOVES), math.inf, whole=True)
        check_choice("extra_actions", extra_actions, get_args(ExtraActions))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.goal_reward, self.step_reward = float(goal_reward), float(step_reward)
        self.render_mode = render_mode
        extra = [(f"{ACTION_MEANINGS[a % 4]} {a}", _MOVES[a % 4]) for a in range(len(_MOVES), n_actions)]
        if extra_actions == "idle":
            extra = [(f"IDLE {a}", (0, 0)) for a in range(len(_MOVES), n_actions)]
        self._names, self._moves = zip(*zip(ACTION_MEANINGS, _MOVES, strict=True), *extra, strict=True)
        self.n_rows, self.n_columns = len(self.layout), len(self.layout[0])
        self.cells = "".join(self.layout)

        starts = np.array([cell == FREE for cell in self.cells], dtype=np.float64)  # (S,)
        self.initial_state_distrib: NDArray[np.float64] = starts / starts.sum()
        self.P: dict[int, dict[int, list[Transition]]] = {
            state: {action: [self._transition(state, action)] for action in range(n_actions)}
            for state in range(len(self.cells))
        }
        self.observation_space = spaces.Discrete(len(self.cells))
        self.action_space = spaces.Discrete(n_actions)
        self.state = int(np.argmax(starts))

    def get_action_meanings(self) -> list[str]:
        """Return the name of each action, in order."""
        return list(self._names)

    def cell(self, row: int, column: int) -> int:
        """Return the observation of the cell at (row, column), both counted from 0 at the top left."""
        return row * self.n_columns + column

    def _transition(self, state: int, action: int) -> Transition:
        if self.cells[state] != FREE:
            return 1.0, state, 0.0, True
        row, column = divmod(state, self.n_columns)
        row, column = row + self._moves[action][0], column + self._moves[action][1]
        inside = 0 <= row < self.n_rows and 0 <= column < self.n_columns
        if not inside or self.layout[row][column] == WALL:
            return 1.0, state, self.step_reward, False
        at_goal = self.layout[row][column] == GOAL
        return 1.0, self.cell(row, column), self.goal_reward if at_goal else self.step_reward, at_goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin an episode; see gymnasium."""
        super().reset(seed=seed)
        self.state = int(categorical_sample(self.initial_state_distrib, self.np_random))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move by one cell; see gymnasium.

        :raises ValueError: if the action is not in the action space
        """
        if int(action) not in self.P[self.state]:
            raise ValueError(f"actions must be in 0..{len(self._moves) - 1}, got {action!r}")
        transitions = self.P[self.state][int(action)]
        which = categorical_sample([probability for probability, *_ in transitions], self.np_random)
        _, self.state, reward, terminated = transitions[which]
        return self.state, reward, terminated, False, {}

    def render(self) -> str | NDArray[np.uint8] | None:
        """Return the map with the agent on it: a string (``ansi``) or (rows * 32, columns * 32, 3) uint8 (``rgb_array``)."""
        if self.render_mode is None:
            gym.logger.warn('render() does nothing without a render mode: gym.make(id, render_mode="rgb_array")')
            return None
        return self._ansi() if self.render_mode == "ansi" else self._rgb()

    def _ansi(self) -> str:
        cells = list(self.cells)
        cells[self.state] = colorize("A", "red", highlight=True)
        return (
            "\n".join("".join(cells[row * self.n_columns : (row + 1) * self.n_columns]) for row in range(self.n_rows)) + "\n"
        )

    def _rgb(self) -> NDArray[np.uint8]:
        colours = np.array([_RGB[cell] for cell in self.cells], dtype=np.uint8).reshape(self.n_rows, self.n_columns, 3)
        image = colours.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
        image[::_CELL], image[:, ::_CELL] = _RGB["line"], _RGB["line"]
        row, column = divmod(self.state, self.n_columns)
        centre = (_CELL - 1) / 2
        y, x = np.ogrid[:_CELL, :_CELL]
        disc = (y - centre) ** 2 + (x - centre) ** 2 <= (0.35 * _CELL) ** 2
        image[row * _CELL : (row + 1) * _CELL, column * _CELL : (column + 1) * _CELL][disc] = _RGB["agent"]
        return image


def read_layout(layout: str | Sequence[str]) -> list[str]:
    """Return the rows of a map, checked.

    :param layout: a name in ``MAPS``, or the rows of a map
    :raises ValueError: see ``GridWorldEnv``
    """
    if isinstance(layout, str):
        if layout not in MAPS:
            raise ValueError(f"unknown map {layout!r}: choose one of {sorted(MAPS)} or give the rows as a list of strings")
        return list(MAPS[layout])
    rows = list(layout) if isinstance(layout, Sequence) else []
    if not all(isinstance(row, str) for row in rows):
        raise ValueError(f"the rows of a map must be strings, got {rows}")
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(f"a map is a list of equally long rows, got the lengths {[len(row) for row in rows]}")
    for index, row in enumerate(rows):
        for column, character in enumerate(row):
            if character not in (WALL, FREE, GOAL):
                raise ValueError(f"unknown character {character!r} at row {index}, column {column}: use '#', '.' and 'G'")
    for wanted, name in ((GOAL, "goal 'G'"), (FREE, "free cell '.'")):
        if not any(wanted in row for row in rows):
            raise ValueError(f"the map has no {name}: {rows}")
    return rows
