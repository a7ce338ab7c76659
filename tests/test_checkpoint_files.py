"""What is on the disk: damage is found, a full disk costs nothing, and one run has a folder for itself."""

import errno
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sb3_mirl import MIRL, ResumableCheckpoint, resume
from sb3_mirl.checkpoint import CheckpointError, folder
from sb3_mirl.common.files import FolderInUse
from tests.conftest import SMALL, ScriptedEnv
from tests.interrupted import assert_same
from tests.killed import STARTED
from tests.test_checkpoint_kills import COMMAND, ENVIRONMENT, ROOT


def new_model() -> MIRL:
    return MIRL("MlpPolicy", ScriptedEnv(), **SMALL)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Checkpoints of steps 100 and 200."""
    new_model().learn(200, callback=ResumableCheckpoint(tmp_path, save_freq=100))
    assert len(list(tmp_path.glob("checkpoint_*"))) == 2
    return tmp_path


def newest(saved: Path, name: str) -> Path:
    (path,) = saved.glob("memory/rows_000000000099_*" if name == "chunk" else f"checkpoint_000000000200/{name}")
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


class TestDamage:
    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("manifest.json", flip),
            ("manifest.json", truncate),
            ("model.zip", truncate),
            ("state.pkl.z", flip),
            ("chunk", flip),
            ("chunk", Path.unlink),
        ],
    )
    def test_the_checkpoint_before_is_used(self, name: str, damage: Any, saved: Path) -> None:
        path = newest(saved, name)
        damage(path)
        with pytest.warns(UserWarning, match=rf"Using .*checkpoint_000000000100 instead .*{path.name} (is|cannot)"):
            model = resume(saved, ScriptedEnv())
        assert model.num_timesteps == model.replay_buffer.size() == 100
        # which replaces the damaged one, and nothing of it stays
        model.learn(200, callback=ResumableCheckpoint(saved, save_freq=100))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert resume(saved, ScriptedEnv()).num_timesteps == 200
        assert len(list(saved.glob("memory/*"))) == 2

    def test_nothing_left(self, saved: Path) -> None:
        for path in saved.glob("checkpoint_*/model.zip"):
            truncate(path)
        with pytest.raises(CheckpointError, match=r"200/model.zip is damaged: it has \d+ bytes.*100/model.zip is damaged"):
            resume(saved, ScriptedEnv())

    def test_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=f"There is no checkpoint in {tmp_path}"):
            resume(tmp_path, ScriptedEnv())
        assert not list(tmp_path.iterdir())


class TestFullDisk:
    @pytest.mark.parametrize("n_files", range(4))
    def test_training_goes_on(self, n_files: int, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk is full before the chunk, the model, the state or the manifest of one checkpoint."""
        model, left = resume(saved, ScriptedEnv()), [n_files]

        def write_file(path: Path, write: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                path.write_bytes(b"the beginning")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write_to_disk(path, write)

        write_to_disk = folder.write_file
        monkeypatch.setattr(folder, "write_file", write_file)
        with pytest.warns(UserWarning, match=r"step 300 could not be written .*No space left on device.*Training goes on"):
            model.learn(500, callback=ResumableCheckpoint(saved, save_freq=100, keep=3))
        assert sorted(path.name[-3:] for path in saved.glob("checkpoint_*")) == ["200", "400", "500"]
        assert_same(resume(saved, ScriptedEnv()), model)

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk") as disk:
            (disk / "ballast").write_bytes(b"0" * 150_000)
            model = new_model()
            with pytest.warns(UserWarning, match="No space left on device"):
                model.learn(600, callback=ResumableCheckpoint(disk / "run", save_freq=50, keep=20))
            assert model.num_timesteps == 600 and not (disk / "run/partial").exists()
            (disk / "ballast").unlink()
            kept = resume(disk / "run", ScriptedEnv())
            assert 50 <= kept.num_timesteps < 600 and kept.replay_buffer.size() == kept.num_timesteps
            kept.learn(600, callback=ResumableCheckpoint(disk / "run", save_freq=50))
            assert_same(kept, model)


class small_disk:
    """A disk of half a megabyte."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(self.path)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting is not allowed here")
        return self.path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


class TestOneRunPerFolder:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[Any]:
        """A run that is going on in another process."""
        process = subprocess.Popen([*COMMAND, str(tmp_path), "8", "0.02"], cwd=ROOT, env=ENVIRONMENT)
        while not (tmp_path / STARTED).exists():
            assert process.poll() is None
        yield process
        process.kill()
        process.wait()

    def test_two_processes(self, other: Any, tmp_path: Path) -> None:
        model = new_model()
        with pytest.raises(FolderInUse, match="Another process is writing to"):
            model.learn(100, callback=ResumableCheckpoint(tmp_path))
        while not list(tmp_path.glob("checkpoint_*")):
            assert other.poll() is None
        with pytest.raises(FolderInUse, match="wait for it, or choose another folder"):
            resume(tmp_path, ScriptedEnv())
        other.kill()
        other.wait()
        assert resume(tmp_path, ScriptedEnv()).num_timesteps >= 8

    def test_a_new_run_does_not_take_the_place_of_an_old_one(self, saved: Path) -> None:
        before = sorted(path.name for path in saved.rglob("*"))
        with pytest.raises(FileExistsError, match=r"checkpoints of another run \(checkpoint_0+200\).*resume\('/.*', env\)"):
            new_model().learn(100, callback=ResumableCheckpoint(saved))
        assert sorted(path.name for path in saved.rglob("*")) == before

    def test_nor_does_one_that_has_been_overtaken(self, saved: Path) -> None:
        first, second = (resume(saved, ScriptedEnv()) for _ in range(2))
        second.learn(300, callback=ResumableCheckpoint(saved, save_freq=100))
        with pytest.raises(FileExistsError, match=r"000300 is newer than this model, at step 200: resume the run again"):
            first.learn(300, callback=ResumableCheckpoint(saved, save_freq=100))

    def test_a_training_that_fails_leaves_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="reward of environment 0"):
            MIRL("MlpPolicy", ScriptedEnv(bad_step=150), **SMALL).learn(500, callback=ResumableCheckpoint(tmp_path, 100))
        assert resume(tmp_path, ScriptedEnv()).num_timesteps == 100


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"save_freq=0 must be a number in \[1, inf\]"):
        ResumableCheckpoint("run", save_freq=0)
