"""Keeps the C library from giving memory back that the next update asks for again."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 256 * 2**20
"""Bytes of freed memory that the process keeps."""
LARGEST = 32 * 2**20
"""Bytes of an allocation that is still taken from kept memory; glibc allows no more."""


def keep_freed_memory() -> bool:
    """
    Tell glibc's ``malloc`` to keep up to :data:`KEPT` bytes that are freed. Otherwise an update's tensors, a few megabytes
    each, go back to the system and are fetched anew, page by page (up to 4000 page faults per update of NatureCNN).
    For the whole process; settings in the environment (``MALLOC_...``, ``GLIBC_TUNABLES``) have precedence.

    :return: whether it was done: False without glibc, and where the environment decides
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, LARGEST))
