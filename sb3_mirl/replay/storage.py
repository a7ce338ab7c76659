"""What FrameReplayBuffer holds: frames and rows, as tensors that can be saved whole or row by row."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_mirl.replay.layout import FrameLayout
from sb3_mirl.replay.pool import FramePool, zeros
from sb3_mirl.replay.stacks import StackWriter

try:
    import psutil
except ImportError:  # optional, as in SB3
    psutil = None


class StoredFrames(ReplayBuffer):
    """The memory of :class:`~sb3_mirl.replay.FrameReplayBuffer`, and how it is saved: its base, which fills and samples it."""

    layout: FrameLayout
    storage_device: th.device
    _discounts: th.Tensor  # (n + 1,) gamma^k
    # tensors on the storage device, where SB3 has arrays
    _newest: th.Tensor  # (C, N), slot of the newest frame of the observation
    _next_newest: th.Tensor  # (C, N), and of the next observation
    actions: th.Tensor  # type: ignore[assignment]  # (C, N, action_dim)
    rewards: th.Tensor  # type: ignore[assignment]  # (C, N)
    dones: th.Tensor  # type: ignore[assignment]  # (C, N)
    timeouts: th.Tensor  # type: ignore[assignment]  # (C, N)

    def _allocate(self) -> None:
        # one frame per row, those of K earlier rows, an episode start in every 80 rows and one in each environment
        per_env = self.buffer_size + self.buffer_size // 80 + 3 * self.layout.frame_stack
        pool = FramePool(per_env, self.n_envs, self.layout.frame_words, self.layout.word, self.storage_device)
        self._writer = StackWriter(pool, self.buffer_size, self.n_envs, self.layout.frame_stack, self.layout.frame_words)
        for name, (shape, dtype) in self._row_fields().items():
            setattr(self, name, zeros((self.buffer_size, self.n_envs, *shape), dtype, self.storage_device))

    def _row_fields(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """What is stored per transition beside frames: attribute -> (shape, dtype)."""
        return {
            "_newest": ((), np.int32),
            "_next_newest": ((), np.int32),
            "actions": ((self.action_dim,), self._maybe_cast_dtype(self.action_space.dtype)),
            "rewards": ((), np.float32),
            "dones": ((), np.float32),
            "timeouts": ((), np.float32),
        }

    @property
    def nbytes(self) -> int:
        """Bytes allocated. In host memory, pages are only used once something is stored in them."""
        return self._writer.nbytes + sum(getattr(self, name).nbytes for name in self._row_fields())

    def _warn_if_too_large(self) -> None:
        if psutil is None or self.storage_device.type != "cpu":
            return
        available = psutil.virtual_memory().available
        if self.nbytes > available:
            warnings.warn(
                "This system does not have apparently enough memory to store the complete "
                f"replay buffer {self.nbytes / 1e9:.2f}GB > {available / 1e9:.2f}GB"
            )

    @property
    def n_added(self) -> int:
        """Rows (one transition of every environment) added since the last reset."""
        return self._writer.n_steps

    @property
    def n_kept(self) -> int:
        """Rows of which something is kept: those in the buffer, and older ones whose frames they use."""
        return self._writer.n_kept

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """
        Rows with the frames that were new in them, each frame once.

        :param first: The first of the rows, counted from the last reset; not older than :attr:`n_kept`
        :param last: The row after them
        :return: Arrays for :meth:`write_rows`
        """
        stored = np.arange(max(first, self.n_added - self.buffer_size), last) % self.buffer_size
        index = th.from_numpy(stored).to(self.storage_device)
        rows = {name: getattr(self, name).index_select(0, index).cpu().numpy() for name in self._row_fields()}
        return {**rows, "rows": stored, **self._writer.read(first, last)}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """
        Puts rows where they were. After :meth:`set_position`, and older rows first.

        :param arrays: From :meth:`read_rows` of a buffer of the same size
        """
        self._writer.pool.write(arrays["slots"].astype(np.int64), arrays["frames"], arrays["previous"])
        index = th.from_numpy(arrays["rows"]).to(self.storage_device)
        for name in self._row_fields():
            getattr(self, name).index_copy_(0, index, th.from_numpy(arrays[name]).to(self.storage_device))

    def get_position(self) -> dict[str, Any]:
        """Everything but the rows."""
        return {"pos": self.pos, "full": self.full, "writer": self._writer.get_position()}

    def set_position(self, position: dict[str, Any]) -> None:
        """
        Go on where another buffer was, whose rows are to be written.

        :param position: From :meth:`get_position` of a buffer of the same size
        """
        self.pos, self.full = position["pos"], position["full"]
        self._writer.set_position(position["writer"])

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in self._row_fields():
            state[name] = getattr(self, name)[: self.size()].cpu().numpy()
        state["_discounts"] = self._discounts.cpu().numpy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.storage_device = self._writer.pool.device
        self._discounts = th.from_numpy(state["_discounts"]).to(self.storage_device)
        for name, (shape, dtype) in self._row_fields().items():
            rows = zeros((self.buffer_size, self.n_envs, *shape), dtype, self.storage_device)
            rows[: self.size()] = th.from_numpy(state[name])
            setattr(self, name, rows)
