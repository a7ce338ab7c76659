"""The callback that makes a run resumable."""

import io
import math
import os
import time
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path

import cloudpickle
from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl.checkpoint.folder import MEMORY, MODEL, STATE, Checkpoint, CheckpointFolder
from sb3_mirl.checkpoint.interrupts import DeferredSignals
from sb3_mirl.checkpoint.memory import save_memory
from sb3_mirl.checkpoint.states import Run, get_state
from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.files import Write, claimed
from sb3_mirl.soft_dqn import SoftDQN


class ResumableCheckpoint(BaseCallback):
    """
    Saves all that :func:`sb3_mirl.resume` needs to go on with a run that was killed: the model with its optimiser, prior
    and counters, the replay memory, the states of random numbers and environments, normalisation statistics, and the
    records of ``PriorCallback`` and ``EvalCallback``.

    Of the replay memory only what came since the last checkpoint is written, compressed. A checkpoint is complete or
    absent, whenever the process is killed; if it cannot be written (full disk), a warning says so, the older ones stay
    and the training goes on. Saving happens between two rollouts, so up to ``train_freq`` steps after it is due.

    The first Ctrl-C (or SIGTERM) ends ``learn`` after the current rollout, with a checkpoint; ``interrupted`` is then
    true. The second one acts at once. (The processes of a ``SubprocVecEnv`` get a terminal's Ctrl-C too and end: send
    the signal to the main process alone, ``kill -INT <pid>``.)

    :param folder: where the checkpoints go; one run has it for itself
    :param save_freq: environment steps between checkpoints; there is one more when the training ends
    :param keep: number of checkpoints to keep
    :param verbose: 1 tells of each checkpoint
    :raises ValueError: if ``save_freq`` or ``keep`` is less than 1
    """

    model: SoftDQN

    def __init__(self, folder: str | os.PathLike[str], save_freq: int = 100_000, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_range("save_freq", save_freq, 1, math.inf)
        check_range("keep", keep, 1, math.inf, whole=True)
        self.folder = folder
        self.save_freq = save_freq
        self.keep = keep
        self._files = CheckpointFolder(Path(folder).absolute())
        self._signals = DeferredSignals()
        self._saved_at = 0  # environment steps
        self._between_rollouts, self._stopping = True, False
        self._told = False  # that the episodes will start anew

    @property
    def interrupted(self) -> bool:
        """Whether a signal has ended the last training."""
        return self._signals.received is not None

    def exists(self) -> bool:
        """Whether the folder has a checkpoint, to go on from by :func:`sb3_mirl.resume`."""
        return bool(self._files.paths())

    def _init_callback(self) -> None:
        if not isinstance(self.model, SoftDQN):
            raise TypeError(f"ResumableCheckpoint saves SoftDQN and MIRL, not {type(self.model).__name__}.")

    def _on_training_start(self) -> None:
        self.model._while_learning.enter_context(claimed(self._files.path))
        self._claim_folder()
        self._saved_at = self.num_timesteps
        self._between_rollouts, self._stopping = True, False
        self._signals = self.model._while_learning.enter_context(DeferredSignals())

    def _claim_folder(self) -> None:
        run = self.model._checkpointed_run
        if run is not None and run.folder == self._files.path and self.num_timesteps > 0:
            self._files.go_on_from(self.num_timesteps)
            return
        if self._files.paths():
            raise FileExistsError(
                f"{self.folder} has the checkpoints of another run ({self._files.paths()[0].name}). Go on with that one by "
                f"sb3_mirl.resume({str(self.folder)!r}, env), or choose another folder."
            )
        self._files.remove_leftovers()
        self.model._checkpointed_run = Run(self._files.path)

    def _on_rollout_start(self) -> None:
        self._stopping = self.interrupted
        if self._stopping or self.num_timesteps // self.save_freq > self._saved_at // self.save_freq:
            self._save()

    def _on_step(self) -> bool:
        self._between_rollouts = False
        return not self._stopping

    def _on_rollout_end(self) -> None:
        self._between_rollouts = True

    def _on_training_end(self) -> None:
        # a training that a callback has ended has lost its last transition: the checkpoint before is the better one
        if self._between_rollouts:
            self._save()

    def _save(self) -> None:
        """Adds a checkpoint, unless there is one of this step. Between two rollouts only."""
        step, run = self.model.num_timesteps, self.model._checkpointed_run
        if step == self._saved_at or run is None:
            return
        self._saved_at = step
        start = time.perf_counter()
        self.model._run_pending_updates()
        memory, rest, chunks = save_memory(self.model, run.memory)
        state = {
            "class": type(self.model),
            "memory": rest,
            "saved_memory": memory,
            **get_state(self.model, self.locals["callback"]),
        }
        own = {MODEL: _writer(_model_file(self.model)), STATE: _writer(zlib.compress(cloudpickle.dumps(state), 1))}
        needed = {f"{MEMORY}/{name}" for name, _, _ in memory.chunks}
        shared = {name: run.files[name] for name in needed & set(run.files)}
        try:
            checkpoint = self._files.write(step, own, chunks, shared)
        except OSError as error:
            warnings.warn(
                f"The checkpoint of step {step} could not be written ({error}). Training goes on; older checkpoints in "
                f"{self.folder} are as they were."
            )
            return
        run.memory, run.files = memory, checkpoint.files
        self._files.keep_newest(self.keep)
        self._tell(checkpoint, chunks, state.get("environment_problem"), time.perf_counter() - start)

    def _tell(self, checkpoint: Checkpoint, chunks: Iterable[str], problem: str | None, seconds: float) -> None:
        if problem is not None and not self._told:
            self._told = True
            self.logger.info(f"A resumed run will start new episodes: {problem}")
        if self.verbose > 0:
            new = sum(checkpoint.files[f"{MEMORY}/{name}"].size for name in chunks)
            print(f"Checkpoint of step {checkpoint.step}: {seconds:.1f} s, {new / 1e6:.1f} MB of new replay memory")


def _model_file(model: SoftDQN) -> bytes:
    # in memory first: on a full disk torch raises other errors than OSError
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def _writer(content: bytes) -> Write:
    return lambda file: file.write(content)
