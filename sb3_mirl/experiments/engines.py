"""Where the runs of an experiment are executed: in processes of this machine (loky), or on a cluster (Ray)."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from typing import Any, Literal, NamedTuple

from sb3_mirl.common.extras import extra
from sb3_mirl.experiments.settings import Run

with extra("plots"):
    import loky

TICK = 0.5  # seconds
TOGETHER = 2
"""Times that runs are started again with the others after a process has died among them; from then on one at a time."""


class Outcome(NamedTuple):
    """How a run has ended: "left" to another process, or after a signal that was meant for its own."""

    run: Run
    how: Literal["done", "failed", "left"]
    error: str = ""


Work = Callable[[Run], Outcome]


def on_this_machine(work: Work, runs: Sequence[Run], jobs: int) -> Iterator[Outcome | None]:
    """
    Execute runs in processes of this machine, ``jobs`` at a time.

    When one of the processes dies, loky ends the others; all of their runs are started again. One that does so
    :data:`TOGETHER` times may be the one that kills them: it is executed alone, and fails if its process dies then.

    :param work: executes one run
    :param runs: in the order in which they start
    :param jobs: processes
    :return: outcomes as they come; None where there has been none for :data:`TICK` seconds
    """
    waiting, deaths = list(runs), Counter[Run]()
    busy: dict[Future[Outcome], Run] = {}

    def room() -> bool:
        alone = any(deaths[run] >= TOGETHER for run in [*busy.values(), *waiting[:1]])
        return len(busy) < (1 if alone else jobs)

    def executor() -> Any:  # loky makes another one where the last one has broken
        return loky.get_reusable_executor(jobs, timeout=None, initializer=_join, initargs=(os.getpid(),))

    try:
        while waiting or busy:
            while waiting and room():
                run = waiting.pop(0)
                busy[executor().submit(work, run)] = run
            finished, _ = wait(busy, timeout=TICK, return_when="FIRST_COMPLETED")
            if any(isinstance(future.exception(), BrokenExecutor) for future in finished):
                finished, _ = wait(busy)  # they have all lost their processes, or just come to their end
            for future in finished:
                run = busy.pop(future)
                if not isinstance(error := future.exception(), BrokenExecutor):
                    yield future.result()
                    continue
                deaths[run] += 1
                if deaths[run] > TOGETHER:
                    yield Outcome(run, "failed", f"its process was killed each of the {deaths[run]} times ({error})")
                else:
                    waiting.append(run)
            yield None
    finally:
        # a second Ctrl-C comes here with runs under way
        executor().shutdown(kill_workers=True)


def on_ray(work: Work, runs: Sequence[Run], address: str | None, cpus: float, gpus: float) -> Iterator[Outcome | None]:
    """
    Execute runs as tasks of Ray, as many at a time as the cluster has room for. A task whose process or node is lost is
    started again by Ray, up to three times.

    :param work: executes one run
    :param runs: in the order in which they start
    :param address: of the cluster; None takes the one that RAY_ADDRESS or ``ray start`` names, or starts Ray on this machine
    :param cpus: cores of a run
    :param gpus: GPUs of a run, such as 0.25 where four share one; with 0 it sees none
    :return: as of :func:`on_this_machine`
    :raises ModuleNotFoundError: without the package ``ray``
    """
    with extra("cluster"):
        import ray
    begun = not ray.is_initialized()
    if begun:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        ray.init(address=address, log_to_driver=False)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray's own would abort
                signal.signal(number, handler)
    task: Any = ray.remote(lambda run: work(run)).options(num_cpus=cpus, num_gpus=gpus, max_retries=3)
    busy = {task.remote(run): run for run in runs}
    try:
        while busy:
            finished, _ = ray.wait(list(busy), timeout=TICK)
            for reference in finished:
                run = busy.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Outcome(run, "failed", str(error))
            yield None
    finally:
        for reference in busy:
            ray.cancel(reference, force=True)
        if begun:
            ray.shutdown()


def _join(parent: int) -> None:
    """Prepare a process: the terminal's Ctrl-C goes to the parent alone, and when that one is killed the process ends."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(TICK)
    os._exit(1)
