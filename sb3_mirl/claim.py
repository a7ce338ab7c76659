"""One process at a time in a folder of results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class FolderInUse(RuntimeError):
    """Another process writes to the folder."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """
    Holds a lock on ``folder``, which is made. The system gives it back when the process ends, however it ends.

    :raises FolderInUse: if another process holds it
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise FolderInUse(f"Another process is writing to {folder}: wait for it, or choose another folder.") from None
    with lock:
        yield
