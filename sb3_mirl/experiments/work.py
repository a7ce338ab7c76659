"""A run as a process of an experiment executes it: watched and stopped through files, which a cluster shares."""

import time
import traceback
from pathlib import Path

import torch as th

from sb3_mirl.common.files import FolderInUse, write_whole
from sb3_mirl.experiments.engines import Outcome
from sb3_mirl.experiments.settings import Run, Settings, Suite
from sb3_mirl.experiments.training import train

PROGRESS = "progress"
"""File in the folder of a run: environment steps so far."""
EVERY = 1.0  # seconds between two looks at the shared folder


def work(run: Run, suite: Suite, settings: Settings, out: Path, device: str, threads: int, stop: Path) -> Outcome:
    """Train, in a process that does one run after the other."""
    if stop.exists():
        return Outcome(run, "left")
    # OMP_NUM_THREADS may ask for fewer: on busy cores threads mostly wait for each other
    th.set_num_threads(min(th.get_num_threads(), threads))
    try:
        train(run, suite, settings, out, device, Report(out / run.folder / PROGRESS, stop))
    except (FolderInUse, KeyboardInterrupt):
        return Outcome(run, "left")
    except Exception:
        error = traceback.format_exc()
        write_whole(out / run.folder / "error.txt", "txt", lambda part: part.write_text(error))
        return Outcome(run, "failed", error)
    return Outcome(run, "done")


class Report:
    """Told by a run of its environment steps: says in a file how far it is, and whether to stop."""

    def __init__(self, file: Path, stop: Path) -> None:
        self.file, self.stop = file, stop
        self.steps, self.looked = 0, -EVERY

    def __call__(self, steps: int) -> bool:
        self.steps += steps
        if time.monotonic() < self.looked + EVERY:
            return False
        self.looked = time.monotonic()
        self.file.write_text(str(self.steps))
        # not by a signal: Ray executes tasks in a thread that gets none
        return self.stop.exists()
