"""Replay buffers as rows, one transition of every environment each, numbered in the order in which they were added."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_mirl.replay.pool import upload, zeros
from sb3_mirl.replay.stacks import StackWriter

_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Rows(Protocol):
    """What saving and restoring a replay buffer row by row takes."""

    @property
    def n_added(self) -> int:
        """Number of rows added since the last reset."""

    @property
    def n_kept(self) -> int:
        """Number of the newest rows of which something is kept."""

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """
        Return copies of some rows.

        :param first: The first of them, counted from the last reset; not older than :attr:`n_kept`
        :param last: The row after them
        :return: Arrays for :meth:`write_rows`
        """

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """
        Put rows back where they were: after :meth:`set_position`, and older rows first.

        :param arrays: From :meth:`read_rows` of a buffer of the same size
        :raises ValueError: if the arrays have other shapes; nothing has been written then
        """

    def get_position(self) -> dict[str, Any]:
        """Return everything but the rows."""

    def set_position(self, position: dict[str, Any]) -> None:
        """
        Continue where another buffer was, whose rows are to be written next.

        :param position: From :meth:`get_position` of a buffer of the same size
        :raises ValueError: if it has another size
        """


class ArrayRows:
    """
    :class:`Rows` of SB3's buffers, which keep them in arrays (C, N, ...).

    :param buffer: One of SB3's buffers
    :param n_added: Number of rows added so far
    """

    def __init__(self, buffer: ReplayBuffer, n_added: int) -> None:
        self.buffer = buffer
        self.n_added = n_added
        self.n_kept = buffer.buffer_size
        self._arrays: dict[str, np.ndarray] = {}
        for name in _ARRAYS:
            value = getattr(buffer, name)
            parts = {f"{name}/{key}": array for key, array in value.items()} if isinstance(value, dict) else {name: value}
            self._arrays |= parts

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """See :class:`Rows`."""
        rows = np.arange(first, last) % self.n_kept
        return {"rows": rows, **{name: array[rows] for name, array in self._arrays.items()}}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See :class:`Rows`."""
        check_columns(arrays, self._arrays)
        for name, array in self._arrays.items():
            array[arrays["rows"]] = arrays[name]

    def get_position(self) -> dict[str, Any]:
        """See :class:`Rows`."""
        return {"pos": self.buffer.pos, "full": self.buffer.full, "n_added": self.n_added}

    def set_position(self, position: dict[str, Any]) -> None:
        """See :class:`Rows`."""
        self.buffer.pos, self.buffer.full, self.n_added = position["pos"], position["full"], position["n_added"]


class StoredRows:
    """
    :class:`Rows` of :class:`~sb3_mirl.replay.FrameReplayBuffer`: frames, each once, and columns of everything else.

    :param writer: Where the frames go; it decides number, C, and width, N, of the rows, and the device
    :param columns: Shape and dtype per transition of each column
    """

    columns: dict[str, th.Tensor]  # (C, N, *shape) each
    newest: th.Tensor  # (C, N), slot of the newest frame of the observation
    next_newest: th.Tensor  # (C, N), and of the next observation

    def __init__(self, writer: StackWriter, columns: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        self.writer, self.n_rows, self.device = writer, writer.n_rows, writer.pool.device
        self.columns = {
            name: zeros((writer.n_rows, writer.n_envs, *shape), dtype, self.device)
            for name, (shape, dtype) in {"_newest": ((), np.int32), "_next_newest": ((), np.int32), **columns}.items()
        }
        self.newest, self.next_newest = self.columns["_newest"], self.columns["_next_newest"]

    @property
    def nbytes(self) -> int:
        """Bytes allocated. In host memory, pages are only used once something is stored in them."""
        return self.writer.nbytes + sum(column.nbytes for column in self.columns.values())

    @property
    def n_added(self) -> int:
        """Number of rows added since the last reset."""
        return self.writer.n_steps

    @property
    def n_kept(self) -> int:
        """Number of the newest rows of which something is kept: rows of the buffer, and older ones whose frames they use."""
        return self.writer.n_kept

    def add(self, stacks: np.ndarray, next_stacks: np.ndarray, ended: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """
        Add a row; the oldest one goes when there are C.

        :param stacks: (N, K, words), see :meth:`StackWriter.add`
        :param next_stacks: (N, K, words)
        :param ended: (N,) bool, where an episode ended
        :param columns: (N, \\*shape) each, in the order given to the constructor
        :raises ValueError: if the observations are not stacks of frames; nothing has been added then
        """
        row = self.n_added % self.n_rows
        values = [*self.writer.add(stacks, next_stacks, ended), *columns.values()]
        uploaded = upload(values, self.device, pack=not self.writer.pool.host_sync_is_free)
        for column, value in zip(self.columns.values(), uploaded, strict=True):
            column[row] = value

    def reset(self) -> None:
        """Remove every row."""
        self.writer.reset()

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """See :class:`Rows`: with the rows come the frames that were new in them."""
        stored = np.arange(max(first, self.n_added - self.n_rows), last) % self.n_rows
        index = th.from_numpy(stored).to(self.device)
        columns = {name: column.index_select(0, index).cpu().numpy() for name, column in self.columns.items()}
        return {**columns, "rows": stored, **self.writer.read(first, last)}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See :class:`Rows`."""
        check_columns(arrays, self.columns)
        self.writer.pool.write(arrays["slots"].astype(np.int64), arrays["frames"], arrays["previous"])
        index = th.from_numpy(arrays["rows"]).to(self.device)
        for name, column in self.columns.items():
            column.index_copy_(0, index, th.from_numpy(arrays[name]).to(self.device))

    def get_position(self) -> dict[str, Any]:
        """See :class:`Rows`."""
        return {"writer": self.writer.get_position()}

    def set_position(self, position: dict[str, Any]) -> None:
        """See :class:`Rows`."""
        self.writer.set_position(position["writer"])

    def read_columns(self) -> dict[str, np.ndarray]:
        """Return the filled part of every column."""
        size = min(self.n_added, self.n_rows)
        return {name: column[:size].cpu().numpy() for name, column in self.columns.items()}

    def write_columns(self, arrays: Mapping[str, np.ndarray]) -> None:
        """
        Fill the columns.

        :param arrays: From :meth:`read_columns`
        """
        for name, column in self.columns.items():
            column[: len(arrays[name])] = th.from_numpy(arrays[name])


def check_columns(arrays: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray | th.Tensor]) -> None:
    """
    :param arrays: (n, N, ...) each, to be written
    :param columns: (C, N, ...) each, to be written to
    :raises ValueError: if rows of one have another shape than those of the other
    """
    for name, column in columns.items():
        expected = (len(arrays["rows"]), *column.shape[1:])
        if arrays[name].shape != expected:
            raise ValueError(f"expected saved {name} of shape {expected}, got {arrays[name].shape}: another memory's rows")
