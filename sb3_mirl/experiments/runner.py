"""All runs of an experiment, on one machine or on many, with one progress bar and one folder."""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.experiments.engines import Outcome, on_ray, on_this_machine
from sb3_mirl.experiments.settings import Run, Settings, Suite
from sb3_mirl.experiments.training import is_done, train
from sb3_mirl.experiments.work import EVERY, PROGRESS, work

TRIES = 2


def run_all(
    runs: Sequence[Run],
    suite: Suite,
    settings: Settings,
    out: Path,
    jobs: int = 1,
    device: str = "auto",
    ray: str | bool = False,
    cpus: int | None = None,
    gpus: float = 0.0,
) -> list[Run]:
    """
    Train and evaluate the agents of all runs that are not done, in the order given. Runs whose process or machine dies are
    started again, and go on from their checkpoints. Several commands may work on one folder at the same time: each run is
    left to one of them.

    At Ctrl-C, every run saves a checkpoint and ends; at the second one they end at once.

    :param runs: what to run
    :param suite: the family of the games
    :param settings: shared by all runs
    :param out: folder of the experiment; with Ray one that all machines share
    :param jobs: runs at the same time; Ray decides by itself
    :param device: as in SB3
    :param ray: execute them by Ray: True, or the address of a cluster, see :func:`~sb3_mirl.experiments.engines.on_ray`
    :param cpus: cores of a run; by default its share of this machine, with Ray one
    :param gpus: GPUs of a run, for Ray
    :return: the runs that failed; the traceback of each is printed and written to ``error.txt`` in its folder
    :raises ValueError: if the settings do not fit together, or are not those with which a run was begun
    :raises KeyboardInterrupt: at Ctrl-C or SIGTERM
    """
    settings.check()
    out = out.absolute()
    one = partial(train, suite=suite, settings=settings, out=out, device=device)
    done = partial(is_done, settings=settings, out=out)
    return run_each(dict.fromkeys(runs, settings.timesteps), one, done, out, jobs, ray, cpus, gpus)


def run_each(
    runs: Mapping[Run, int],
    train: Callable[..., None],
    is_done: Callable[[Run], bool],
    out: Path,
    jobs: int = 1,
    ray: str | bool = False,
    cpus: int | None = None,
    gpus: float = 0.0,
) -> list[Run]:
    """
    As :func:`run_all`, for any training.

    :param runs: what to run, with its length in environment steps
    :param train: called as ``train(run, report=report)`` in a process of its own, where it claims the folder
        ``out / run.folder`` (:func:`~sb3_mirl.common.files.claimed`). It tells ``report`` of the steps done, best by a
        :class:`~sb3_mirl.experiments.ReportCallback`, and raises KeyboardInterrupt where that asks for an end
    :param is_done: whether a run has come to its end
    :param out: as the others, of :func:`run_all`
    :return: the runs that failed
    :raises KeyboardInterrupt: at Ctrl-C or SIGTERM
    """
    out = out.absolute()
    waiting = [run for run in runs if not is_done(run)]
    failed: list[Run] = []
    with _progress(runs, waiting, out) as show, _stopping(out) as stop:
        threads = cpus or (1 if ray else max(1, usable_cpus() // jobs))
        one = partial(work, train=train, out=out, threads=threads, stop=stop)

        def execute(runs: Sequence[Run]) -> Iterator[Outcome | None]:
            address = ray if isinstance(ray, str) else None
            return on_ray(one, runs, address, threads, gpus) if ray else on_this_machine(one, runs, jobs)

        tries = 0
        while waiting and tries < TRIES:  # what another process holds at first may be free in the end
            tries, left = tries + 1, list[Run]()
            for outcome in execute(waiting):
                show(outcome)
                if outcome is not None and outcome.how != "done":
                    (failed if outcome.how == "failed" else left).append(outcome.run)
            if stop.exists():
                raise KeyboardInterrupt
            waiting = left
        for run in waiting:
            print(f"{out / run.folder} is being run by another process, and left to it.", flush=True)
    return failed


@contextmanager
def _stopping(out: Path) -> Iterator[Path]:
    """The first SIGINT or SIGTERM makes a file that all runs look for, wherever they are; the second one acts at once."""
    out.mkdir(parents=True, exist_ok=True)
    stop = out / f".stop_{uuid.uuid4().hex}"

    def ask(number: int, _: Any) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()
        os.write(2, f"\n{signal.Signals(number).name}: the runs save checkpoints and end; again to stop at once\n".encode())

    main = threading.current_thread() is threading.main_thread()
    outside = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield stop
    finally:
        for number, handler in outside.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)


@contextmanager
def _progress(runs: Mapping[Run, int], waiting: Sequence[Run], out: Path) -> Iterator[Any]:
    """A bar of the environment steps of all runs, and a function that is given outcomes, or None as time goes by."""
    # a log file gets a line now and then, not one for every update
    every = 0.5 if sys.stderr.isatty() else 60.0
    done, looked = len(runs) - len(waiting), 0.0
    steps = {**runs, **dict.fromkeys(waiting, 0)}

    def look() -> None:
        for run in steps:
            if steps[run] < runs[run]:
                with suppress(OSError, ValueError):  # not there yet, or just being written
                    steps[run] = int((out / run.folder / PROGRESS).read_text())

    look()
    # what has been done before says nothing about the time left
    with tqdm(
        total=sum(runs.values()), initial=sum(steps.values()), unit=" steps", unit_scale=True, smoothing=0.05,
        mininterval=every, maxinterval=every,
    ) as bar:  # fmt: skip

        def show(outcome: Outcome | None) -> None:
            nonlocal done, looked
            if outcome is not None and outcome.how == "failed":
                bar.write(f"{outcome.run} failed: {outcome.error}")
            if outcome is not None and outcome.how == "done":
                done, steps[outcome.run] = done + 1, runs[outcome.run]
            if outcome is None and time.monotonic() < looked + EVERY:
                return
            looked = time.monotonic()
            look()
            bar.set_description(f"{done}/{len(runs)} runs done", refresh=False)
            bar.update(sum(steps.values()) - bar.n)

        show(None)
        yield show
