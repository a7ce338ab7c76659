"""Results that are kept while there is room, and work spread over threads."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Generic, Protocol, TypeVar

from sb3_mirl.common.workers import usable_cpus


class Sized(Protocol):
    """What knows how much memory it takes, in bytes."""

    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)
T = TypeVar("T")
R = TypeVar("R")


class Cache(Generic[K, V]):
    """The values used last, by key; threads may share it.

    :param capacity: bytes; the last value is kept whatever its size
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """The value, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, and drop what was not used for longest if there is no room."""
        with self._lock:
            self._values[key] = value
            used = sum(kept.nbytes for kept in self._values.values())
            while used > self._capacity and len(self._values) > 1:
                used -= self._values.popitem(last=False)[1].nbytes


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
