"""The callback that makes a run resumable, and Ctrl-C and SIGTERM that wait until it has saved."""

import io
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import cloudpickle
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_mirl.checkpoint.folder import MEMORY, MODEL, STATE, Checkpoint, CheckpointFolder
from sb3_mirl.checkpoint.memory import save_memory
from sb3_mirl.checkpoint.state import RUNS, CallbackRecord, Run, get_state, restore_training
from sb3_mirl.common.algorithm import GuardedAlgorithm
from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.callbacks import StatelessCallback
from sb3_mirl.common.files import claimed

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# for algorithms of others, which do not say when an error has ended `learn`
_HOLDERS: "dict[Path, weakref.ref[ResumableCheckpoint]]" = {}


class ResumableCheckpoint(StatelessCallback):
    """
    Save all that :func:`sb3_mirl.resume` needs to go on with a run that was killed: the model with its optimisers and
    counters, the replay memory, the states of random numbers, environments and callbacks, and normalisation statistics.
    It works for every algorithm of SB3's kind: those of this package, of SB3 and of sb3-contrib.

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
        self._resources = ExitStack()  # held while an algorithm of others learns
        self._told = False  # what will not go on

    @property
    def interrupted(self) -> bool:
        """Whether a signal, or :meth:`interrupt`, has ended the last training."""
        return self._signals.received is not None

    def interrupt(self) -> None:
        """End ``learn`` as the first Ctrl-C does, with a checkpoint. For threads and programs that get no signals."""
        self._signals.received = self._signals.received or signal.SIGINT

    def exists(self) -> bool:
        """Whether the folder has a checkpoint, to go on from by :func:`sb3_mirl.resume`."""
        return bool(self._files.paths())

    def _on_training_start(self) -> None:
        resources = self._held_while_learning()
        resources.enter_context(claimed(self._files.path))
        self._claim_folder()
        self._saved_at = self.num_timesteps
        self._between_rollouts, self._stopping = True, False
        self._signals = resources.enter_context(DeferredSignals(self.model))
        run = RUNS[self.model]
        self._callbacks = CallbackRecord(self.locals["callback"], (run.resumed_from or {}).get("callbacks", {}))

    def _held_while_learning(self) -> ExitStack:
        if isinstance(self.model, GuardedAlgorithm):
            return self.model.resources
        release_abandoned(self._files.path)
        _HOLDERS[self._files.path] = weakref.ref(self)
        return self._resources

    def _claim_folder(self) -> None:
        run = RUNS.get(self.model)
        if run is not None and run.folder == self._files.path and self.num_timesteps > 0:
            self._files.discard_newer(self.num_timesteps)
            return
        if self._files.paths():
            raise FileExistsError(
                f"{self.folder} has the checkpoints of another run ({self._files.paths()[0].name}). Go on with that one by "
                f"sb3_mirl.resume({str(self.folder)!r}, env), or choose another folder."
            )
        self._files.remove_leftovers()
        RUNS[self.model] = Run(self._files.path)

    def _on_rollout_start(self) -> None:
        run = RUNS.get(self.model)
        if run is not None and run.resumed_from is not None and not run.is_ready:
            run.is_ready = True
            restore_training(self.model, self.locals["callback"], run.resumed_from)
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
        self._resources.close()

    def _save(self) -> None:
        """Add a checkpoint, unless there is one of this step. Between two rollouts only."""
        step, run = self.model.num_timesteps, RUNS.get(self.model)
        if step == self._saved_at or run is None:
            return
        self._saved_at = step
        start = time.perf_counter()
        if isinstance(self.model, GuardedAlgorithm):
            self.model.settle()
        memory, rest, chunks = save_memory(self.model, run.memory)
        state = {
            "class": type(self.model),
            "memory": rest,
            "saved_memory": memory,
            **get_state(self.model, self.locals["callback"], self._callbacks),
        }
        model = io.BytesIO()  # in memory first: on a full disk torch raises other errors than OSError
        self.model.save(model)
        own = {MODEL: model.getvalue(), STATE: zlib.compress(cloudpickle.dumps(state), 1)}
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
        problems = list(self._callbacks.problems)
        if "environment_problem" in state:
            problems.insert(0, f"new episodes will be started: {state['environment_problem']}")
        self._tell(checkpoint, chunks, problems, time.perf_counter() - start)

    def _tell(self, checkpoint: Checkpoint, chunks: Iterable[str], problems: list[str], seconds: float) -> None:
        if problems and not self._told:
            self._told = True
            self.logger.info(f"What a resumed run will not go on with: {'; '.join(problems)}")
        if self.verbose > 0:
            new = sum(checkpoint.files[f"{MEMORY}/{name}"].size for name in chunks)
            print(f"Checkpoint of step {checkpoint.step}: {seconds:.1f} s, {new / 1e6:.1f} MB of new replay memory")


def release_abandoned(folder: Path) -> None:
    """Give back a folder that a training of this process held until an error ended it."""
    holder = _HOLDERS.pop(folder, lambda: None)()
    if holder is not None:
        if is_learning(holder.model):
            _HOLDERS[folder] = weakref.ref(holder)
        else:
            holder._resources.close()


class DeferredSignals:
    """
    A context in which the first SIGINT (Ctrl-C) or SIGTERM is only noted in ``received``, and the second one acts as
    outside. Without effect outside of the main thread, where Python allows no handlers, and when the model does not learn.

    :param model: the model that learns, None before it does
    """

    def __init__(self, model: BaseAlgorithm | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self.received: signal.Signals | None = None
        self._outside: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        if threading.current_thread() is threading.main_thread():
            self._outside = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._outside.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._outside = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        model = None if self._model is None else self._model()
        if self.received is not None or model is None or not is_learning(model):
            self.__exit__()
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        # not `print`, which may be what was interrupted
        os.write(2, f"\n{self.received.name}: saving a checkpoint after this rollout; again to stop at once\n".encode())


def is_learning(model: BaseAlgorithm) -> bool:
    """Return whether a thread of this process is inside ``model.learn``."""
    return any(
        frame.f_code.co_name == "learn" and frame.f_locals.get("self") is model
        for newest in sys._current_frames().values()
        for frame, _ in traceback.walk_stack(newest)
    )
