"""Replay buffers as rows, one transition of every environment each, numbered in the order in which they were added."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_mirl.replay.layout import per_env
from sb3_mirl.replay.pool import upload, zeros
from sb3_mirl.replay.stacks import StackWriter

_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Rows(Protocol):
    """What it takes to save and restore a replay buffer row by row."""

    @property
    def n_added(self) -> int:
        """Number of rows added since the last reset."""

    @property
    def n_kept(self) -> int:
        """Number of the newest rows of which something is kept."""

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """
        Return copies of the rows from ``first``, counted from the last reset and among the :attr:`n_kept` newest,
        to ``last`` - 1, for :meth:`write_rows`.
        """

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """
        Put rows back where they were: after :meth:`set_position`, and older rows first.

        :raises ValueError: if they are rows of another shape
        """

    def get_position(self) -> dict[str, Any]:
        """Return everything but the rows."""

    def set_position(self, position: dict[str, Any]) -> None:
        """
        Continue where another buffer was, whose rows are to be written next.

        :raises ValueError: if it has another size
        """


class ArrayRows:
    """
    :class:`Rows` of SB3's buffers, which keep them in arrays (C, N, ...).

    :param buffer: one of SB3's buffers
    :param n_added: number of rows added so far
    """

    def __init__(self, buffer: ReplayBuffer, n_added: int) -> None:
        self.buffer = buffer
        self.n_added = n_added
        self.n_kept = buffer.buffer_size
        self._arrays: dict[str, np.ndarray] = {}
        for name in _ARRAYS:
            value = getattr(buffer, name)
            self._arrays |= {f"{name}/{key}": value[key] for key in value} if isinstance(value, dict) else {name: value}

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """See :class:`Rows`."""
        rows = np.arange(first, last) % self.n_kept
        return {"rows": rows, **{name: array[rows] for name, array in self._arrays.items()}}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See :class:`Rows`."""
        rows = arrays["rows"]
        for name, array in self._arrays.items():
            array[rows] = per_env(f"saved {name}", arrays[name], len(rows), array.shape[1:])

    def get_position(self) -> dict[str, Any]:
        """See :class:`Rows`."""
        return {"pos": self.buffer.pos, "full": self.buffer.full, "n_added": self.n_added}

    def set_position(self, position: dict[str, Any]) -> None:
        """See :class:`Rows`."""
        self.buffer.pos, self.buffer.full, self.n_added = position["pos"], position["full"], position["n_added"]


class StoredRows:
    """
    :class:`Rows` of :class:`~sb3_mirl.replay.FrameReplayBuffer`: frames, each once, and columns of everything else.

    :param shape: number C and width N of the rows
    :param writer: where their frames go
    :param columns: shape and dtype per transition of each column; first the slots of the newest frames of the observation
        and of the next one
    """

    def __init__(
        self, shape: tuple[int, int], writer: StackWriter, columns: Mapping[str, tuple[tuple[int, ...], Any]]
    ) -> None:
        self.n_rows, self.writer, self.device = shape[0], writer, writer.pool.device
        self.columns = {name: zeros((*shape, *size), dtype, self.device) for name, (size, dtype) in columns.items()}

    @property
    def nbytes(self) -> int:
        """Bytes allocated. In host memory, pages are only used once something is stored in them."""
        return self.writer.nbytes + sum(column.nbytes for column in self.columns.values())

    @property
    def n_added(self) -> int:
        """See :class:`Rows`."""
        return self.writer.n_steps

    @property
    def n_kept(self) -> int:
        """See :class:`Rows`: rows of the buffer, and older ones whose frames they use."""
        return self.writer.n_kept

    def add(self, stacks: np.ndarray, next_stacks: np.ndarray, ended: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """
        Add a row, in place of the oldest if there are C.

        :param stacks: (N, K, words), see :meth:`StackWriter.add`
        :param next_stacks: (N, K, words)
        :param ended: (N,) bool, where an episode ended
        :param columns: (N, \\*shape) each, the other columns in the order given to the constructor
        :raises ValueError: if the observations are not stacks of frames; nothing has been added then
        """
        row = self.n_added % self.n_rows
        values = [*self.writer.add(stacks, next_stacks, ended), *columns.values()]
        uploaded = upload(values, self.device, pack=not self.writer.pool.host_sync_is_free)
        for column, value in zip(self.columns.values(), uploaded, strict=True):
            column[row] = value

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """See :class:`Rows`: with the rows come the frames that were new in them."""
        stored = np.arange(max(first, self.n_added - self.n_rows), last) % self.n_rows
        index = th.from_numpy(stored).to(self.device)
        columns = {name: column.index_select(0, index).cpu().numpy() for name, column in self.columns.items()}
        return {**columns, "rows": stored, **self.writer.read(first, last)}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See :class:`Rows`."""
        rows = arrays["rows"]
        self.writer.pool.write(arrays["slots"].astype(np.int64), arrays["frames"], arrays["previous"])
        for name, column in self.columns.items():
            values = per_env(f"saved {name}", arrays[name], len(rows), column.shape[1:])
            column.index_copy_(0, *upload((rows, values), self.device, pack=False))

    def get_position(self) -> dict[str, Any]:
        """See :class:`Rows`."""
        return {"writer": self.writer.get_position()}

    def set_position(self, position: dict[str, Any]) -> None:
        """See :class:`Rows`."""
        self.writer.set_position(position["writer"])
