"""SB3's replay buffers row by row."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_mirl.replay import FrameReplayBuffer

_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Rows(Protocol):
    """
    A replay buffer as rows (one transition of every environment) numbered in the order in which they came.
    :class:`~sb3_mirl.replay.FrameReplayBuffer` is one.
    """

    @property
    def n_added(self) -> int:
        """Number of rows that came so far."""

    @property
    def n_kept(self) -> int:
        """How many of the newest rows the buffer consists of."""

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Rows ``first`` to ``last - 1``."""

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Puts rows where they were, older ones first."""

    def get_position(self) -> dict[str, Any]:
        """Everything but the rows."""

    def set_position(self, position: dict[str, Any]) -> None:
        """Goes on where another buffer was; its rows are to be written then."""


class ArrayRows:
    """
    The rows of SB3's own buffers, which keep them in arrays.

    :param buffer: one of SB3's buffers
    :param n_added: number of rows that came so far
    """

    def __init__(self, buffer: ReplayBuffer, n_added: int) -> None:
        self.buffer = buffer
        self.n_added = n_added
        self.n_kept = buffer.buffer_size

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """As in :class:`Rows`."""
        rows = np.arange(first, last) % self.n_kept
        return {"rows": rows, **{name: array[rows] for name, array in self._arrays().items()}}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """As in :class:`Rows`."""
        for name, array in self._arrays().items():
            array[arrays["rows"]] = arrays[name]

    def get_position(self) -> dict[str, Any]:
        """As in :class:`Rows`."""
        return {"pos": self.buffer.pos, "full": self.buffer.full, "n_added": self.n_added}

    def set_position(self, position: dict[str, Any]) -> None:
        """As in :class:`Rows`."""
        self.buffer.pos, self.buffer.full, self.n_added = position["pos"], position["full"], position["n_added"]

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {}
        for name in _FIELDS:
            value = getattr(self.buffer, name)
            if isinstance(value, dict):
                arrays.update({f"{name}/{key}": array for key, array in value.items()})
            else:
                arrays[name] = value
        return arrays


def rows_of(buffer: ReplayBuffer, n_added: int | None = None) -> Rows | None:
    """
    :param buffer: a replay buffer
    :param n_added: number of rows that came so far, where it is known
    :return: its rows, or None for buffers that are more than rows
    """
    if type(buffer) is FrameReplayBuffer:
        return buffer
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer) or buffer.optimize_memory_usage:
        return None
    least = buffer.pos + (buffer.buffer_size if buffer.full else 0)
    agrees = n_added is not None and n_added % buffer.buffer_size == buffer.pos and n_added >= least
    return ArrayRows(buffer, n_added if agrees and n_added is not None else least)
