"""The replay memory on disk: compressed chunks of rows, written once and shared by all checkpoints that need them."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BufferedWriter
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import save_to_pkl

from sb3_mirl.common.files import Write
from sb3_mirl.replay import Rows, check_same, describe, rows_of

CHUNK_BYTES = 1 << 26  # of a chunk before compression: bounds the memory that saving takes
# of zlib: frames shrink to a fortieth at 260 MB/s; level 6 takes four times as long for half the size
LEVEL = 1


@dataclass
class SavedMemory:
    """
    Which rows of a replay memory are on disk, and in which files.

    :param chunks: (file, first row, row after the last), in the order in which they are to be read
    :param n_added: rows on disk: all before this one that the buffer still needs
    :param num_timesteps: environment steps when the last of them was saved
    """

    chunks: list[tuple[str, int, int]] = field(default_factory=list)
    n_added: int = 0
    num_timesteps: int = 0

    def expected(self, model: BaseAlgorithm) -> int:
        """Return how many rows the memory has had by now, if nothing but learning has changed it."""
        return self.n_added + (model.num_timesteps - self.num_timesteps) // model.n_envs


def save_memory(model: BaseAlgorithm, saved: SavedMemory) -> tuple[SavedMemory, dict[str, Any], dict[str, Write]]:
    """
    Determine what has to be written so that the replay memory of a model is on disk.

    :param model: the model, between two rollouts; on-policy algorithms have no memory
    :param saved: what is on disk already
    :return: what will be on disk then, the small rest of the memory, and the new chunks
    """
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        return SavedMemory(), {}, {}
    rows = rows_of(model.replay_buffer, saved.expected(model))
    kind = describe(model.replay_buffer)
    if rows is None:
        name = f"all_{token_hex(4)}.pkl"
        return SavedMemory([(name, 0, 0)]), kind, {name: partial(save_to_pkl, obj=model.replay_buffer)}
    oldest = max(rows.n_added - rows.n_kept, 0)
    # otherwise something else has changed the memory, or all that is on disk is out of date
    goes_on = rows.n_added == saved.expected(model) and saved.n_added >= oldest
    chunks = [chunk for chunk in saved.chunks if goes_on and chunk[2] > oldest]
    new: dict[str, Write] = {}
    # the newest row on disk again: resetting the environments marks it as the end of a trajectory
    for first, last in _parts(rows, max(saved.n_added - 1, oldest) if goes_on else oldest):
        name = f"rows_{first:012d}_{last:012d}_{token_hex(4)}.npz"
        chunks.append((name, first, last))
        new[name] = partial(_write_rows, rows=rows, first=first, last=last)
    return SavedMemory(chunks, rows.n_added, model.num_timesteps), {**kind, "position": rows.get_position()}, new


def load_memory(model: BaseAlgorithm, folder: Path, saved: SavedMemory, rest: dict[str, Any], truncate: bool) -> None:
    """
    Fill the empty replay memory of a model from the chunks in ``folder``; ``saved`` and ``rest`` are from :func:`save_memory`.

    :param truncate: whether the environments are going to be reset, for buffers that ``learn`` does not prepare for that
    :raises ValueError: if the model's memory has another class or size
    """
    if not isinstance(model, OffPolicyAlgorithm):
        return
    assert model.replay_buffer is not None
    check_same(describe(model.replay_buffer), rest, folder, ignored=["position"])
    rows = rows_of(model.replay_buffer)
    if rows is None:
        model.load_replay_buffer(folder / saved.chunks[0][0], truncate_last_traj=truncate)
        if truncate and model.optimize_memory_usage:
            # its next observation is going to be overwritten; SB3 does the same
            model.replay_buffer.dones[model.replay_buffer.pos - 1] = True
        return
    rows.set_position(rest["position"])
    for name, _, _ in saved.chunks:
        with np.load(folder / name) as arrays:
            rows.write_rows(dict(arrays))


def _parts(rows: Rows, first: int) -> Iterator[tuple[int, int]]:
    """Cut the rows from ``first`` to the newest into parts of about ``CHUNK_BYTES``."""
    if first == rows.n_added:
        return
    row_bytes = sum(array.nbytes for array in rows.read_rows(rows.n_added - 1, rows.n_added).values())
    size = max(CHUNK_BYTES // row_bytes, 1)
    for start in range(first, rows.n_added, size):
        yield start, min(start + size, rows.n_added)


def _write_rows(file: BufferedWriter, rows: Rows, first: int, last: int) -> None:
    """Do what ``np.savez_compressed`` does, which knows level 6 only."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        for name, array in rows.read_rows(first, last).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
