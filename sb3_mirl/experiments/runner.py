"""All runs of an experiment in worker processes, with one progress bar."""

import gc
import multiprocessing
import os
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch as th
from tqdm import tqdm

from sb3_mirl.common.files import FolderInUse
from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.experiments.cell import Cell, Settings, Suite, is_done, run_cell

POLL_SECONDS = 0.5
_steps: Any = None  # in a worker: the queue of (environment steps) to the parent


def run_all(
    cells: Sequence[Cell], suite: Suite, settings: Settings, out: Path, jobs: int = 1, device: str = "auto"
) -> list[Cell]:
    """
    Runs the cells that are not done, in the order given. Workers share the CPUs evenly. Several commands may work on one
    folder at the same time: each cell is run by one of them.

    :param cells: what to run
    :param suite: the family of the games
    :param settings: shared by all cells
    :param out: folder of the experiment
    :param jobs: worker processes
    :param device: as in SB3
    :return: the cells that failed; each one's traceback is printed and written to ``error.txt`` in its folder
    :raises ValueError: if the settings do not fit together, or are not those with which a cell was begun
    """
    settings.check()
    todo = [cell for cell in cells if not is_done(cell, settings, out)]
    context = multiprocessing.get_context("spawn")
    steps = context.Queue()
    threads = max(1, usable_cpus() // jobs)
    with (
        _progress_bar(len(cells) * settings.timesteps) as bar,
        ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(steps, threads)) as pool,
    ):
        bar.update((len(cells) - len(todo)) * settings.timesteps)
        futures = {pool.submit(_run, cell, suite, settings, out, device): cell for cell in todo}
        try:
            return _follow(futures, steps, bar, len(cells))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow(futures: "dict[Future[str | None], Cell]", steps: Any, bar: Any, n_cells: int) -> list[Cell]:
    failed, running = [], dict(futures)
    while running:
        bar.set_description(f"{n_cells - len(running)}/{n_cells} runs done", refresh=False)
        try:
            bar.update(steps.get(timeout=POLL_SECONDS))
        except queue.Empty:
            bar.update(0)
        for future in [future for future in running if future.done()]:
            cell, error = running.pop(future), future.result()
            if error is not None:
                failed.append(cell)
                tqdm.write(f"{cell.game} {cell.agent} seed {cell.seed} failed:\n{error}")
    bar.set_description(f"{n_cells - len(failed)}/{n_cells} runs done")
    return failed


def _progress_bar(total: int) -> Any:
    # a log file gets a line now and then, not one for every update
    interval = 0.5 if sys.stderr.isatty() else 60.0
    return tqdm(total=total, unit=" steps", unit_scale=True, smoothing=0.05, mininterval=interval, maxinterval=interval)


def _start_worker(steps: Any, threads: int) -> None:
    global _steps
    _steps = steps
    # OMP_NUM_THREADS may ask for fewer: on busy cores threads mostly wait for each other
    th.set_num_threads(min(th.get_num_threads(), threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent must not leave runs behind that nobody watches, and that the next command would start a second time."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(cell: Cell, suite: Suite, settings: Settings, out: Path, device: str) -> str | None:
    """The traceback, if the cell failed: the others go on."""
    try:
        run_cell(cell, suite, settings, out, device, _steps.put)
        return None
    except FolderInUse:
        print(f"{out / cell.folder} is being run by another process, and left to it.", flush=True)
        _steps.put(settings.timesteps)
        return None
    except Exception:
        error = traceback.format_exc()
        (out / cell.folder / "error.txt").write_text(error)
        return error
    finally:
        # the model and its callbacks know each other: without this its replay memory stays beside the next run's
        gc.collect()
