"""A run as a process of an experiment executes it: watched and stopped through files, which a cluster shares."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch as th

from sb3_mirl.common.callbacks import StatelessCallback
from sb3_mirl.common.files import FolderInUse, write_whole
from sb3_mirl.experiments.engines import Outcome
from sb3_mirl.experiments.settings import Run

PROGRESS = "progress"
"""File in the folder of a run: environment steps so far."""
EVERY = 1.0  # seconds between two looks at the shared folder

Reporter = Callable[[int], bool | None]
"""(environment steps since the last call) -> whether to stop"""


def work(run: Run, train: Callable[..., None], out: Path, threads: int, stop: Path) -> Outcome:
    """Train, in a process that does one run after the other."""
    if stop.exists():
        return Outcome(run, "left")
    # OMP_NUM_THREADS may ask for fewer: on busy cores threads mostly wait for each other
    th.set_num_threads(min(th.get_num_threads(), threads))
    try:
        train(run, report=Report(out / run.folder / PROGRESS, stop))
    except (FolderInUse, KeyboardInterrupt):
        return Outcome(run, "left")
    except Exception:
        error = traceback.format_exc()
        (out / run.folder).mkdir(parents=True, exist_ok=True)
        write_whole(out / run.folder / "error.txt", "txt", lambda part: part.write_text(error))
        return Outcome(run, "failed", error)
    return Outcome(run, "done")


class Report:
    """Told by a run of its environment steps: says in a file how far it is, and whether to stop."""

    def __init__(self, file: Path, stop: Path) -> None:
        self.file, self.stop = file, stop
        self.steps, self.looked = 0, -EVERY

    def __call__(self, steps: int) -> bool:
        """
        :param steps: environment steps done since the last call; 0 writes at once
        :return: whether to stop
        """
        self.steps += steps
        if steps and time.monotonic() < self.looked + EVERY:
            return False
        self.looked = time.monotonic()
        self.file.write_text(str(self.steps))
        # not by a signal: Ray executes tasks in a thread that gets none
        return self.stop.exists()


class ReportCallback(StatelessCallback):
    """
    Reports the steps of a training.

    :param report: of the run
    :param stop: called when the training is asked to end, such as ``ResumableCheckpoint.interrupt``
    """

    def __init__(self, report: Reporter, stop: Callable[[], None]) -> None:
        super().__init__()
        self.report, self.stop = report, stop

    def _on_training_start(self) -> None:
        self.report(self.num_timesteps)

    def _on_step(self) -> bool:
        if self.report(self.training_env.num_envs):
            self.stop()
        return True

    def _on_training_end(self) -> None:
        self.report(0)
