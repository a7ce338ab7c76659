"""Results that are kept while there is room, and work spread over threads."""

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

from sb3_mirl.common.workers import usable_cpus

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")


class Cache(Generic[K, V]):
    """Values by key; threads may share it, and a copy or pickle of it is empty. A value has arrays as attributes, or is one.

    Where there is no room for a new value, the one made before it goes, not the oldest: the destinations of a fit are asked
    for in turns, so that the oldest is the next to be needed.

    :param capacity: bytes; the last value is kept whatever its size
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: dict[K, V] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self._capacity,)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if there is none."""
        with self._lock:
            if key in self._values:
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            used = sum(map(_size, self._values.values()))
            while used > self._capacity and len(self._values) > 1:
                used -= _size(self._values.pop(list(self._values)[-2]))
        return value


def _size(value: Any) -> int:
    """Bytes."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(map(_size, vars(value).values())) if hasattr(value, "__dict__") else 0


def in_threads(function: Callable[[T], R], items: list[T], n_jobs: int | None = None) -> Iterator[R]:
    """``map`` on as many threads as there are usable cores, in the order of ``items``; the kernels do not hold the GIL."""
    n_jobs = min(n_jobs or usable_cpus(), len(items))
    if n_jobs <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(n_jobs)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
