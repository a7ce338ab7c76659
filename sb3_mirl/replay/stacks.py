"""From a stream of stacked observations to frames, each written once."""

from typing import Any

import numpy as np

from sb3_mirl.replay.layout import per_env
from sb3_mirl.replay.pool import PADDING, FramePool


class StackWriter:
    """
    Write those frames of incoming stacks that are new, and keep as many as the stored rows need.

    The next observation of a transition adds one frame to the stack of its observation. The observation of the
    next transition is normally that same stack; where it is not (a reset, a life loss that empties the stack,
    the start of another ``learn()``), its frames are written afresh, without its padding: black frames,
    or copies of its first one.

    Every row's stacks consist of frames written in that step or in the K steps before it, so the frames written
    in the last C + K steps suffice for C rows.

    :param pool: where the frames go
    :param n_rows: rows to keep, C
    :param n_envs: number of environments, N
    :param frame_stack: frames per stack, K
    :param frame_words: words per frame
    """

    def __init__(self, pool: FramePool, n_rows: int, n_envs: int, frame_stack: int, frame_words: int) -> None:
        self.pool = pool
        self._last = np.zeros((n_envs, frame_stack * frame_words), dtype=pool.word)
        self._frames_in_step = np.zeros(n_rows + frame_stack, dtype=np.int32)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.pool.reset()
        self._frames_in_step[:] = 0
        self._step = 0
        # a stream starts from black stacks: whatever differs from them is written
        self._last[:] = 0
        self._newest = np.full(len(self._last), PADDING, dtype=np.int32)

    @property
    def n_steps(self) -> int:
        """Steps since the last reset."""
        return self._step

    @property
    def n_kept(self) -> int:
        """Steps whose frames are kept, C + K."""
        return len(self._frames_in_step)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, the pool's included."""
        return self.pool.nbytes + self._last.nbytes + self._frames_in_step.nbytes

    def add(self, stacks: np.ndarray, next_stacks: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Write what is new in the stacks of one row.

        :param stacks: (N, K, words), the observations
        :param next_stacks: (N, K, words), the next observations
        :param ended: (N,) bool, where an episode ended and the next observation may be that of a reset
        :return: slots of the newest frames of both, (N,) int32 each
        :raises ValueError: if a next observation within an episode is not the observation moved on by one frame;
            nothing has been stored then
        """
        n_envs, _, frame_words = stacks.shape
        flat, flat_next = stacks.reshape(n_envs, -1), next_stacks.reshape(n_envs, -1)  # (N, K * words)
        follows = _moved_on(flat_next, flat, frame_words)
        good = follows | ended
        if not good.all():
            raise _not_stacked(stacks, next_stacks, np.flatnonzero(~good))
        continues = np.equal(flat, self._last).all(axis=1)
        step = self._step % len(self._frames_in_step)
        self.pool.give_back(int(self._frames_in_step[step]))
        live = self.pool.live

        newest = self._newest.copy()
        for env in (~continues).nonzero()[0]:
            newest[env] = self._write_stack(stacks[env])
        previous = newest.copy()
        for env in (~follows).nonzero()[0]:
            previous[env] = self._write_stack(next_stacks[env, :-1])
        slots = self.pool.take(len(newest))
        self.pool.write(slots, np.ascontiguousarray(next_stacks[:, -1]), previous)

        self._frames_in_step[step] = self.pool.live - live
        self._step += 1
        self._newest = slots.astype(np.int32)
        self._last[...] = flat_next
        return newest, self._newest

    def read(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return the frames that were written in the steps ``first`` to ``last`` - 1, as :meth:`FramePool.read`."""
        back, after = (int(self._frames_in_step[np.arange(i, self._step) % self.n_kept].sum()) for i in (first, last))
        return self.pool.read(back, back - after)

    def get_position(self) -> dict[str, Any]:
        """Return everything but the frames and their links."""
        own = {"frames_in_step": self._frames_in_step, "step": self._step, "last": self._last, "newest": self._newest}
        return {**own, "pool": self.pool.get_position()}

    def set_position(self, position: dict[str, Any]) -> None:
        """
        Continue where another writer was, whose frames are to be written to the pool next.

        :raises ValueError: if that was for another number of rows or environments, or for other frames
        """
        self._frames_in_step[:] = per_env("rows", position["frames_in_step"], self.n_kept, ())
        self._last[:] = per_env("stacks", position["last"], len(self._last), self._last.shape[1:])
        self.pool.set_position(position["pool"])
        self._step, self._newest = position["step"], position["newest"]

    def _write_stack(self, stack: np.ndarray) -> int:
        """Write a stack that follows no other, (k, words), and return the slot of its newest frame."""
        visible = stack.any(axis=1)
        if not visible.any():
            return PADDING
        padding = int(visible.argmax())
        padded_with_black = padding > 0
        if not padded_with_black:
            differs = (stack != stack[0]).any(axis=1)
            padding = int(differs.argmax() if differs.any() else len(stack)) - 1
        slots = self.pool.take(len(stack) - padding)
        oldest = PADDING if padded_with_black else slots[0]  # a link to itself repeats it
        previous = np.concatenate(([oldest], slots[:-1])).astype(np.int32)
        self.pool.write(slots, np.ascontiguousarray(stack[padding:]), previous)
        return int(slots[-1])


def _moved_on(next_stacks: np.ndarray, stacks: np.ndarray, frame_words: int) -> np.ndarray:
    """Return which next stacks begin with the last K - 1 frames of their stack: (N, K * words) -> (N,)."""
    # in one dimension, twice as fast as row by row; what is compared across rows, in the last frame, is left out
    equal: np.ndarray = np.empty(stacks.shape, dtype=bool)
    np.equal(next_stacks.ravel()[:-frame_words], stacks.ravel()[frame_words:], out=equal.ravel()[:-frame_words])
    return np.logical_and.reduce(equal[:, :-frame_words], axis=1)


def _not_stacked(stacks: np.ndarray, next_stacks: np.ndarray, envs: np.ndarray) -> ValueError:
    k = stacks.shape[1]
    return ValueError(
        f"Observations are not stacks of {k} frames: in environments {envs.tolist()} the next observation's first {k - 1} "
        f"frames differ from the observation's last {k - 1}, although the episode goes on. "
        f"{_advice(stacks[envs[0]], next_stacks[envs[0]])}, or use stable_baselines3's ReplayBuffer."
    )


def _advice(stack: np.ndarray, following: np.ndarray) -> str:
    """Say what to change so that a stack, (K, words), follows on another."""
    if np.array_equal(following, stack):
        return "The two are equal: return a new array from every step, not one that is written over"
    if np.array_equal(following[1:], stack[:-1]):
        return "The newest frame comes first: stack frames with the newest last"
    for skipped in range(2, len(stack)):
        if np.array_equal(following[:-skipped], stack[skipped:]):
            return f"They are {skipped} frames apart: skip frames below the frame stack, not above it"
    if not following[:-1].any() or (len(stack) > 2 and (following[:-1] == following[0]).all()):
        return "The next one starts a new stack: report done where a game or a life ends"
    return "Let no wrapper above the frame stack change its stacks; pass the right `frame_stack` and `channels_order`"
