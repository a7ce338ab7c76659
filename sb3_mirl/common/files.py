"""Files that are complete or absent: written beside the old one, synced, renamed; and checked before they are read."""

import json
import os
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

Write = Callable[[BufferedWriter], object]
_BLOCK = 1 << 20  # bytes read at once


class FolderInUse(RuntimeError):
    """Another process writes to the folder."""


class DamagedFile(RuntimeError):
    """A file is not as it was written; the message names it."""


class Checksum(NamedTuple):
    """Size in bytes and CRC-32 of a complete file."""

    size: int
    crc32: int


def write_whole(path: Any, suffix: str, write: Callable[[Any], None]) -> None:
    """
    Call ``write`` with a path beside ``path``, and move what it wrote into place when it is complete: a full disk or a kill
    leaves the old file. Open files, pipes and devices are written to directly.

    :param path: file name, or an open file
    :param suffix: appended to a name that has none, as in SB3
    :param write: writes to a path, making its folder, or to an open file
    :raises OSError: if it could not be written
    """
    if not isinstance(path, (str, os.PathLike)):
        return write(path)
    named = pathlib.Path(path)
    target = pathlib.Path(os.path.realpath(named if named.suffix else f"{named}.{suffix}"))
    if target.exists() and not target.is_file():
        return write(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write(part)
        sync(part)
        os.replace(part, target)
        sync(target.parent)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; what was in {target} before is still there") from error
    finally:
        with suppress(OSError):
            part.unlink()


def check_archive(path: Any, members: Sequence[str], writer: str) -> dict[str, Any]:
    """
    Check a zip archive of SB3's kind against its checksums; nothing of it is unpickled.

    :param path: file name (with or without ".zip"), or an open file, which is left where it was
    :param members: what must be in it beside "data"
    :param writer: what writes such archives, for the message
    :return: the attributes in its member "data", where what is pickled is still text
    :raises OSError: if it cannot be opened
    :raises ValueError: if it is damaged, not an archive, or has other members
    """
    from stable_baselines3.common.save_util import open_path  # which imports torch

    file = open_path(path, "r", suffix="zip")
    start = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            damaged, names = archive.testzip(), archive.namelist()
            data = json.loads(archive.read("data")) if damaged is None and "data" in names else {}
    except Exception as error:  # a damaged archive raises errors of a dozen types
        raise ValueError(f"{path} is damaged, or not a zip file written by {writer} ({error}).") from error
    finally:
        file.seek(start)
        if file is not path:
            file.close()
    missing = [name for name in ("data", *members) if name not in names]
    if damaged is not None or missing:
        what = f"{damaged!r} in it is damaged" if damaged is not None else f"it has no {missing[0]!r}"
        raise ValueError(f"{path} was not written by {writer}, or is no longer whole: {what}.")
    return data if isinstance(data, dict) else {}


def class_names(cls: type) -> list[str]:
    """Return by which names a file says what wrote it: the class, and for a user's those up to a class of this package."""
    names = []
    for base in cls.__mro__:
        if base.__module__.startswith("sb3_mirl.common."):
            return [cls.__name__]
        names.append(base.__name__)
        if base.__module__.startswith("sb3_mirl."):
            break
    return names


def check_saved_by(cls: type, path: Any, data: dict[str, Any]) -> None:
    """
    Refuse a file that another class has saved, before anything is unpickled.

    :param cls: the class that is to load it
    :param path: for the message
    :param data: from :func:`check_archive`
    :raises ValueError: naming the class that saved it, and what to do
    """
    policy = data.get("policy_class")
    module = str(policy.get("__module__", "")) if isinstance(policy, dict) else ""
    own, saved = class_names(cls), data.get("class_names")
    if not isinstance(saved, list) or not saved:
        if module.startswith(("stable_baselines3", "sb3_contrib")):
            raise ValueError(
                f"{path} was saved by another algorithm than {cls.__name__}: its policy is of {module}. Load it with that "
                "algorithm, make a new model, and copy the networks: "
                "model.policy.load_state_dict(other.policy.state_dict(), strict=False)."
            )
        return  # release 0.1.0 named no class
    if saved[-1] != own[-1]:
        weights = f", or take its numbers, where the networks are the same: {cls.__name__}(...).load_weights({str(path)!r})"
        raise ValueError(
            f"{path} was saved by {saved[0]}, not by {cls.__name__}: load it by {saved[0]}.load"
            f"{weights if hasattr(cls, 'load_weights') else ''}."
        )
    if saved[0] != own[0]:
        warnings.warn(f"{path} was saved by {saved[0]}, a relative of {cls.__name__}: what only {saved[0]} does is lost.")


def read_arrays(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """
    Read an npz file of numbers.

    :param path: npz
    :param names: arrays that it must have, all of one length
    :return: all its arrays
    :raises OSError: if it cannot be opened
    :raises ValueError: if it is damaged, is not an npz file, or lacks one of them
    """
    with path.open("rb") as file:
        try:
            with np.load(file) as data:
                arrays = {name: data[name] for name in data.files}
        except Exception as error:  # as in `check_archive`; and pickled objects are refused
            raise ValueError(f"{path} is damaged, or not an npz file of numbers ({error}). Remove it.") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}, only {', '.join(sorted(arrays)) or 'nothing'}. Remove it.")
    lengths = {name: arrays[name].shape[:1] for name in names}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(f"The arrays in {path} must be of one length, got {lengths}. Remove it.")
    return arrays


def checksum(path: pathlib.Path) -> Checksum:
    """Read a file through; return its size and CRC-32."""
    crc = size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return Checksum(size, crc)


def write_file(path: pathlib.Path, content: bytes | Write) -> Checksum:
    """
    Write bytes, or what ``content`` writes, into a new file; wait until it is on the disk, and return its checksum.

    :raises OSError: if there is no room
    """
    with open(path, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
    return checksum(path)


def sync(path: pathlib.Path) -> None:
    """Make the content of a file, or the names in a folder, outlive a power cut."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    # and syncs only what is open for writing
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_file(path: pathlib.Path, expected: Checksum) -> None:
    """
    Read a file through.

    :raises DamagedFile: if it is not the one that was written
    """
    try:
        found = checksum(path)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read ({error.strerror})") from error
    if found.size != expected.size:
        raise DamagedFile(f"{path} is damaged: it has {found.size} bytes instead of {expected.size}")
    if found != expected:
        raise DamagedFile(f"{path} is damaged: its checksum is {found.crc32:08x} instead of {expected.crc32:08x}")


@contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """
    Hold a lock on ``folder``, which is made. The system releases it when the process ends, killed or not.

    :raises FolderInUse: if another process holds it
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise FolderInUse(f"Another process is writing to {folder}: wait for it, or choose another folder.") from None
    with lock:
        yield
