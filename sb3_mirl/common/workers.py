"""Processors, and worker processes that die during training."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe, wait
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

PATIENCE = 1.0  # seconds: a pipe may be seen to break before its process is seen to have ended


def usable_cpus() -> int:
    """Return how many processors this process may use; elsewhere than on Linux, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def watched(env: "VecEnv | None", step: Callable[[], int]) -> Iterator[None]:
    """
    A block in which the death of a worker process of a ``SubprocVecEnv`` is an error that says what to do.

    All workers are ended when one has died: forked ones hold each other's pipes open, so that SB3 would wait for ever for
    the dead one's answer, and the answers still in their pipes belong to other calls.

    :param env: environment that is stepped in the block; nothing is watched where it is of another kind
    :param step: gives the number of environment steps so far
    :raises RuntimeError: if a worker has died
    """
    from stable_baselines3.common.vec_env import SubprocVecEnv  # which imports torch

    base = None if env is None else env.unwrapped
    if not isinstance(base, SubprocVecEnv):
        yield
        return
    awake, wake = Pipe(duplex=False)
    dead: list[int] = []
    watcher = Thread(target=_watch, args=(base.processes, awake, dead), daemon=True)
    watcher.start()
    try:
        yield
    except (EOFError, OSError) as error:
        watcher.join(PATIENCE)
        if not dead:
            raise
        for process in base.processes:
            process.join()
        base.closed = True  # closing would wait for an answer from the dead workers
        how = _describe(base.processes[dead[0]].exitcode)
        raise RuntimeError(
            f"The process of environment {dead[0]} died at step {step()}: {how}. The model and its replay memory are whole "
            "and hold nothing of that step: save them, or go on with new environments: "
            "model.set_env(env); model.learn(steps, reset_num_timesteps=False)."
        ) from error
    finally:
        wake.send(None)
        watcher.join()


def _watch(processes: list[Any], awake: "Connection[Any, Any]", dead: list[int]) -> None:
    ready = wait([awake, *(process.sentinel for process in processes)])
    dead.extend(i for i, process in enumerate(processes) if process.sentinel in ready)
    if dead:
        for process in processes:
            process.terminate()


def _describe(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"killed by {name}" + (", as Linux does when memory runs out" if name == "SIGKILL" else "")
    return f"exit code {exitcode}; its own error is printed above"
