"""A run's folder: checkpoints that are complete or absent, and the chunks of replay memory that they share."""

import json
import os
import shutil
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_mirl.common.files import Checksum, DamagedFile, Write, check_file, sync, write_file

MANIFEST, MODEL, STATE = "manifest.json", "model.zip", "state.pkl.z"
MEMORY = "memory"  # folder of the chunks


class CheckpointError(DamagedFile):
    """A checkpoint is missing or damaged; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """
    One complete checkpoint.

    :param path: its folder
    :param step: environment steps done
    :param files: all that belongs to it, relative to the run's folder
    """

    path: Path
    step: int
    files: Mapping[str, Checksum]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """
        Read the manifest of the checkpoint in ``path``.

        :raises CheckpointError: if it is missing or damaged
        """
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            content = manifest["content"]
            if manifest["crc32"] != _crc32(content):
                raise ValueError("its checksum is wrong")
            files = {name: Checksum(*values) for name, values in content["files"].items()}
            return cls(path, content["step"], files)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path / MANIFEST} is missing or damaged ({error})") from error

    def check(self) -> None:
        """
        Read all files through.

        :raises DamagedFile: naming the first file that is not as it was written
        """
        for name, expected in self.files.items():
            check_file(self.path.parent / name, expected)


class CheckpointFolder:
    """
    Checkpoints of one run, each in a folder ``checkpoint_<steps>`` with SB3's ``model.zip``, beside the chunks of replay
    memory that they share. A checkpoint appears under its name when all of it is on the disk, the manifest last.

    :param path: made when something is written
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def paths(self) -> list[Path]:
        """Return the folders of checkpoints, newest first; they may turn out to be damaged."""
        return sorted((path for path in self.path.glob("checkpoint_*") if path.is_dir()), reverse=True)

    def newest(self) -> Checkpoint:
        """
        Return the newest checkpoint without damage, with a warning about newer ones.

        :raises CheckpointError: if there is none
        """
        problems = []
        for path in self.paths():
            try:
                checkpoint = Checkpoint.read(path)
                checkpoint.check()
            except DamagedFile as error:
                problems.append(str(error))
                continue
            if problems:
                warnings.warn(f"Using {path} instead of newer checkpoints: {'; '.join(problems)}.")
            return checkpoint
        found = "; ".join(problems) or "there is none"
        raise CheckpointError(f"No checkpoint in {self.path} can be used: {found}.")

    def write(
        self, step: int, own: Mapping[str, bytes], chunks: Mapping[str, Write], shared: Mapping[str, Checksum]
    ) -> Checkpoint:
        """
        Add a checkpoint, or nothing.

        :param step: environment steps done
        :param own: the checkpoint's own files
        :param chunks: new chunks of replay memory
        :param shared: older chunks that belong to it too, by their names in ``files``
        :return: the checkpoint
        :raises OSError: if there is no room; the folder is as it was then
        """
        final, partial = self.path / f"checkpoint_{step:012d}", self.path / "partial"
        files = dict(shared)
        try:
            (self.path / MEMORY).mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name, write in chunks.items():
                files[f"{MEMORY}/{name}"] = write_file(self.path / MEMORY / name, write)
            for name, content in own.items():
                files[f"{final.name}/{name}"] = write_file(partial / name, content)
            manifest = {"step": step, "files": files}
            text = json.dumps({"crc32": _crc32(manifest), "content": manifest}, indent=1)
            write_file(partial / MANIFEST, text.encode())
            sync(partial)
            sync(self.path / MEMORY)
            self._discard(final)
            os.rename(partial, final)
            sync(self.path)
        except OSError:
            self.remove_leftovers()
            raise
        return Checkpoint(final, step, files)

    def discard_newer(self, step: int) -> None:
        """
        Remove damaged checkpoints that are newer than the one of ``step``, at which a run goes on.

        :raises FileExistsError: if there is a newer one without damage
        """
        for path in self.paths():
            if path.name <= f"checkpoint_{step:012d}":
                break
            with suppress(DamagedFile):
                Checkpoint.read(path).check()
                raise FileExistsError(f"{path} is newer than this model, at step {step}: resume the run again.")
            self._discard(path)
        self.remove_leftovers()

    def keep_newest(self, n: int) -> None:
        """Remove all checkpoints but the ``n`` newest ones, and chunks that no checkpoint needs."""
        for path in self.paths()[n:]:
            self._discard(path)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what a killed or failed save left, and chunks that no checkpoint needs."""
        shutil.rmtree(self.path / "partial", ignore_errors=True)
        needed: set[str] = set()
        for path in self.paths():
            with suppress(CheckpointError):
                needed.update(Checkpoint.read(path).files)
        for chunk in (self.path / MEMORY).glob("*"):
            if f"{MEMORY}/{chunk.name}" not in needed:
                chunk.unlink(missing_ok=True)

    @staticmethod
    def _discard(path: Path) -> None:
        # first what makes it a checkpoint: removing the rest may be interrupted
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def _crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
