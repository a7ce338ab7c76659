"""All runs of an experiment, each in a process of its own, with one progress bar."""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch as th
from tqdm import tqdm

from sb3_mirl.common.files import FolderInUse, write_whole
from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.experiments.settings import Run, Settings, Suite
from sb3_mirl.experiments.snapshots import Report
from sb3_mirl.experiments.training import is_done, train

Workers = dict[Connection, tuple[Run, BaseProcess]]
"""By the parent's end of the pipe through which a run reports environment steps."""


def run_all(
    runs: Sequence[Run], suite: Suite, settings: Settings, out: Path, jobs: int = 1, device: str = "auto"
) -> list[Run]:
    """
    Train and evaluate the agents of all runs that are not done, in the order given. The processes share the CPUs evenly.
    Several commands may work on one folder at the same time: each run is left to one of them.

    At Ctrl-C, every run saves a checkpoint and ends; at the second one they end at once.

    :param runs: what to run
    :param suite: the family of the games
    :param settings: shared by all runs
    :param out: folder of the experiment
    :param jobs: runs at the same time
    :param device: as in SB3
    :return: the runs that failed; the traceback of each is printed and written to ``error.txt`` in its folder
    :raises ValueError: if the settings do not fit together, or are not those with which a run was begun
    """
    settings.check()
    waiting = [run for run in runs if not is_done(run, settings, out)]
    failed: list[Run] = []
    workers: Workers = {}
    task = (max(1, usable_cpus() // jobs), suite, settings, out, device)
    # a log file gets a line now and then, not one for every update
    every = 0.5 if sys.stderr.isatty() else 60.0
    total = len(runs) * settings.timesteps
    with tqdm(total=total, unit=" steps", unit_scale=True, smoothing=0.05, mininterval=every, maxinterval=every) as bar:
        bar.update(total - len(waiting) * settings.timesteps)
        try:
            while waiting or workers:
                while waiting and len(workers) < jobs:
                    _start(workers, waiting.pop(0), *task)
                failed += _follow(workers, bar)
                done = len(runs) - len(waiting) - len(workers) - len(failed)
                bar.set_description(f"{done}/{len(runs)} runs done", refresh=False)
        finally:
            _end([process for _, process in workers.values()])
    return failed


def _start(workers: Workers, run: Run, *task: Any) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs.send, run, *task))
    process.start()
    theirs.close()  # the process holds the only one now, and the pipe breaks when it ends, however it ends
    workers[ours] = run, process


def _follow(workers: Workers, bar: Any) -> list[Run]:
    """Show the steps that are reported, and return the runs that have failed."""
    failed = []
    for connection in cast(list[Connection], wait(list(workers), timeout=0.5)):
        try:
            bar.update(connection.recv())
        except (EOFError, OSError):
            run, process = workers.pop(connection)
            process.join()
            if process.exitcode:
                failed.append(run)
                bar.write(f"{run} failed: exit code {process.exitcode}")
    bar.update(0)
    return failed


def _end(processes: Sequence[BaseProcess]) -> None:
    """End runs with their checkpoints saved, and at a second Ctrl-C without."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()


def _work(report: Report, run: Run, threads: int, *task: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal sends its Ctrl-C to the parent alone, which ends its runs by one signal each
    # OMP_NUM_THREADS may ask for fewer: on busy cores threads mostly wait for each other
    th.set_num_threads(min(th.get_num_threads(), threads))
    try:
        _run(report, run, *task)
    except KeyboardInterrupt:
        sys.exit(1)


def _run(report: Report, run: Run, suite: Suite, settings: Settings, out: Path, device: str) -> None:
    try:
        train(run, suite, settings, out, device, report)
    except FolderInUse:
        print(f"{out / run.folder} is being run by another process, and left to it.", flush=True)
        report(settings.timesteps)
    except Exception:
        error = traceback.format_exc()
        write_whole(out / run.folder / "error.txt", "txt", lambda part: part.write_text(error))
        raise


def _end_with_parent() -> None:
    """A killed parent must not leave runs behind that nobody watches, and that the next command would start a second time."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
