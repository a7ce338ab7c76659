"""A ring of frames in host or device memory, each linked to the frame before it in its stack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

# Slot of a black frame that links to itself: the padding of every stack that a reset has left incomplete
PADDING = 0

_BLOCK = 4096  # frames per pickled array: bounds what is copied at once


def zeros(shape: Sequence[int], dtype: Any, device: th.device) -> th.Tensor:
    """Return zeros whose pages, in host memory, cost nothing until they are written (``th.zeros`` would write them all)."""
    if device.type == "cpu":
        return th.from_numpy(np.zeros(shape, dtype=dtype))
    return th.zeros(tuple(shape), dtype=th.from_numpy(np.zeros(0, dtype=dtype)).dtype, device=device)


def upload(arrays: Sequence[np.ndarray], device: th.device, pack: bool) -> list[th.Tensor]:
    """
    Return tensors with the contents of some arrays.

    :param arrays: contiguous arrays of any shapes and dtypes
    :param device: device of the tensors
    :param pack: send everything in one asynchronous copy out of pinned memory, otherwise array by array
    :return: one tensor for each array; without ``pack``, on the CPU, they share the arrays' memory
    """
    if not pack:
        return [th.from_numpy(array) if device.type == "cpu" else th.from_numpy(array).to(device) for array in arrays]
    # every array starts at a multiple of 8 bytes, as views of any dtype need
    ends = np.cumsum([-(-array.nbytes // 8) * 8 for array in arrays])
    staged = th.empty(int(ends[-1]), dtype=th.uint8, pin_memory=device.type == "cuda")
    host = staged.numpy()
    starts = [0, *map(int, ends[:-1])]
    for start, array in zip(starts, arrays, strict=True):
        host[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    # the pinned block is not handed out again before the copy is done: torch's host allocator sees to it
    sent = staged.to(device, non_blocking=True)
    return [
        sent[start : start + array.nbytes].view(th.from_numpy(array[:0]).dtype).view(array.shape)
        for start, array in zip(starts, arrays, strict=True)
    ]


class FramePool:
    """
    Hold frames in a ring: slots are taken in the order of time and given back in the same order.
    A stack of K frames is named by the slot of its newest frame; the others are found by following the links.

    ``_order`` lists the slots in the order in which they are taken: one of every stream in turn, each stream
    in its own region, so that the frames of a stack lie side by side. When the ring is full it grows:
    ``extra`` is a second block of memory, so that the first, gigabytes large, is never copied.

    :param n_frames: frames to allocate for each stream
    :param n_streams: number of streams (environments)
    :param frame_words: words per frame
    :param word: dtype of a word
    :param device: where the frames live
    """

    frames: th.Tensor  # (P, words)
    extra: th.Tensor | None  # (E, words), slots P to P + E - 1
    previous: th.Tensor  # (P + E,) int32

    def __init__(self, n_frames: int, n_streams: int, frame_words: int, word: type[np.generic], device: th.device) -> None:
        self.word = word
        self.device = device
        # On the host, boolean masks are cheap; on a device they would make the host wait
        self.host_sync_is_free = device.type == "cpu"
        self.n_streams = n_streams
        self.frames = zeros((n_frames * n_streams + 1, frame_words), word, device)
        self.reset()

    def reset(self) -> None:
        """Give back every frame, and the memory gained by growing."""
        self.extra = None
        self.previous = zeros((len(self.frames),), np.int32, self.device)
        self._order = np.arange(1, len(self.frames), dtype=np.int32).reshape(self.n_streams, -1).T.ravel()
        self._head = 0
        self._live = 0
        self._used = 0

    @property
    def live(self) -> int:
        """Number of frames taken and not given back."""
        return self._live

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        tensors = [self.frames, self.previous] + ([] if self.extra is None else [self.extra])
        return sum(tensor.nbytes for tensor in tensors) + self._order.nbytes

    def take(self, n: int) -> np.ndarray:
        """Return slots for ``n`` new frames, (n,) int64."""
        if self._live + n > len(self._order):
            self._grow(max(n, len(self._order) // 64))
        slots = self._order[(self._head + np.arange(n)) % len(self._order)].astype(np.int64)
        self._used = min(max(self._used, self._head + n), len(self.frames) - 1)
        self._head = (self._head + n) % len(self._order)
        self._live += n
        return slots

    def give_back(self, n: int) -> None:
        """Give back the ``n`` slots that were taken longest ago."""
        self._live -= n

    def _grow(self, n: int) -> None:
        new = zeros((n, self.frames.shape[1]), self.word, self.device)
        self.extra = new if self.extra is None else th.cat([self.extra, new])
        # the new slots are taken next: the oldest live frame stays right behind the last of them
        slots = np.arange(len(self.previous), len(self.previous) + n, dtype=np.int32)
        self._order = np.insert(self._order, self._head, slots)
        self.previous = th.cat([self.previous, zeros((n,), np.int32, self.device)])
        self._used = len(self.frames) - 1

    def write(self, slots: np.ndarray, frames: np.ndarray, previous: np.ndarray) -> None:
        """
        Write frames (n, words), contiguous, into slots (n,) int64, and their links: the slot of the frame before each, (n,)
        int32.
        """
        pack = not self.host_sync_is_free
        index, data, links = upload((slots, frames, previous), self.device, pack)
        self.previous.index_copy_(0, index, links)
        if self.extra is None or not (in_extra := slots >= len(self.frames)).any():
            self.frames.index_copy_(0, index, data)
            return
        # the masks are known on the host: no waiting
        for block, offset, chosen in ((self.frames, 0, ~in_extra), (self.extra, len(self.frames), in_extra)):
            index, data = upload((slots[chosen] - offset, frames[chosen]), self.device, pack)
            block.index_copy_(0, index, data)

    def stacks(self, newest: th.Tensor, depth: int, pin_memory: bool = False) -> th.Tensor:
        """
        Gather stacks.

        :param newest: (B,) int32, slots of the newest frames
        :param depth: frames per stack, K
        :param pin_memory: put the result into page-locked host memory
        :return: (B, K, words), oldest frame first
        """
        chain = [newest]
        for _ in range(depth - 1):
            chain.append(self.previous.index_select(0, chain[-1]))
        slots = th.stack(chain[::-1], dim=1).view(-1)  # (B * K,)
        out = th.empty((len(slots), self.frames.shape[1]), dtype=self.frames.dtype, device=self.device, pin_memory=pin_memory)
        if self.extra is None:
            th.index_select(self.frames, 0, slots, out=out)
        else:
            self._select_from_both(slots, out)
        return out.view(len(newest), depth, -1)

    def _select_from_both(self, slots: th.Tensor, out: th.Tensor) -> None:
        assert self.extra is not None
        first_extra = len(self.frames)
        th.index_select(self.frames, 0, slots.clamp(max=first_extra - 1), out=out)
        in_extra = slots >= first_extra
        if self.host_sync_is_free:
            rows = in_extra.nonzero().view(-1)
            out.index_copy_(0, rows, self.extra.index_select(0, slots.index_select(0, rows) - first_extra))
        else:
            extra = self.extra.index_select(0, (slots - first_extra).clamp(min=0))
            th.where(in_extra[:, None], extra, out, out=out)

    def read(self, back: int, n: int) -> dict[str, np.ndarray]:
        """
        Return frames in the order in which their slots were taken.

        :param back: how many of the newest slots to go back to the first; all of them are live
        :param n: number of frames
        :return: their ``slots`` (n,), ``frames`` (n, words) and ``previous`` slots (n,)
        """
        slots = self._order[(self._head - back + np.arange(n)) % len(self._order)]
        index = th.from_numpy(slots).to(self.device)
        frames = self.stacks(index, 1)[:, 0]
        return {"slots": slots, "frames": frames.cpu().numpy(), "previous": self.previous[index].cpu().numpy()}

    def get_position(self) -> dict[str, Any]:
        """Return everything but the frames and their links."""
        grown = self.extra is not None
        counters = {"head": self._head, "live": self._live, "used": self._used}
        return {**counters, "order": self._order if grown else None, "n_slots": len(self.previous)}

    def set_position(self, position: dict[str, Any]) -> None:
        """Give back every frame and continue where another pool of this size was, whose frames are to be written next."""
        self.reset()
        if position["order"] is not None:
            self._order = position["order"]
            n_extra = position["n_slots"] - len(self.frames)
            self.extra = zeros((n_extra, self.frames.shape[1]), self.word, self.device)
            self.previous = zeros((position["n_slots"],), np.int32, self.device)
        self._head, self._live, self._used = position["head"], position["live"], position["used"]

    def _used_blocks(self) -> list[th.Tensor]:
        """Return what has been written of each stream's region of ``frames``, as small views."""
        per_stream = -(-self._used // self.n_streams)
        regions = self.frames[1:].view(self.n_streams, -1, self.frames.shape[1])
        return [block for region in regions for block in region[:per_stream].split(_BLOCK)]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # views, so that saving does not need twice the memory
        state["frames"] = [block.cpu().numpy() for block in self._used_blocks()]
        state["extra"] = None if self.extra is None else self.extra.cpu().numpy()
        state["previous"] = self.previous.cpu().numpy()
        state["shape"] = tuple(self.frames.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved, extra, previous, shape = (state.pop(key) for key in ("frames", "extra", "previous", "shape"))
        self.__dict__.update(state)
        if self.device.type == "cuda" and not th.cuda.is_available():
            self.device, self.host_sync_is_free = th.device("cpu"), True
        self.frames = zeros(shape, self.word, self.device)
        for i, block in enumerate(self._used_blocks()):
            block[:] = th.from_numpy(saved[i])
            saved[i] = None  # free again: loading does not need twice the memory either
        self.extra = None if extra is None else th.from_numpy(extra).to(self.device)
        self.previous = th.from_numpy(previous).to(self.device)
