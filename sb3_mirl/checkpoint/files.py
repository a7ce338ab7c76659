"""Files that reached the disk, with a checksum to know them by."""

import os
import zlib
from collections.abc import Callable
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

Write = Callable[[BufferedWriter], object]
_BLOCK = 1 << 20  # bytes read at once


class CheckpointError(RuntimeError):
    """A checkpoint that is missing or damaged; the message names the file."""


class Checksum(NamedTuple):
    """What a complete file must have."""

    size: int
    crc32: int


def checksum(path: Path) -> Checksum:
    """
    :param path: a file
    :return: its size and CRC-32
    """
    crc = size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return Checksum(size, crc)


def write_file(path: Path, write: Write) -> Checksum:
    """
    :param path: name of the new file
    :param write: writes its content
    :return: checksum of the file, which is on the disk and not only in the system's cache
    :raises OSError: if there is no room
    """
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    return checksum(path)


def check_file(path: Path, expected: Checksum) -> None:
    """
    :raises CheckpointError: if the file is not the one that was written
    """
    try:
        found = checksum(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if found.size != expected.size:
        raise CheckpointError(f"{path} is damaged: it has {found.size} bytes instead of {expected.size}")
    if found != expected:
        raise CheckpointError(f"{path} is damaged: its checksum is {found.crc32:08x} instead of {expected.crc32:08x}")


def sync_folder(path: Path) -> None:
    """Makes new names in a folder outlive a power cut."""
    if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
