"""What to tell a user whose environment's worker process has died."""

import signal
from multiprocessing.connection import wait

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

PATIENCE = 1.0  # seconds: a pipe may be seen to break before the process is seen to have ended


def check_workers(env: VecEnv | None, error: BaseException, step: int) -> None:
    """
    Explains a broken pipe. The rest of an environment that lost a worker is ended too: its pipes are out of step, and
    its ``close()`` would wait for ever.

    :param env: the environment in which ``error`` was raised
    :param error: what the user would have seen
    :param step: environment steps so far
    :raises RuntimeError: if a worker process of a ``SubprocVecEnv`` has died
    """
    base = None if env is None else env.unwrapped
    if not isinstance(base, SubprocVecEnv) or not wait([process.sentinel for process in base.processes], PATIENCE):
        return
    dead = [i for i, process in enumerate(base.processes) if not process.is_alive()]
    how = _describe(base.processes[dead[0]].exitcode)
    for process in base.processes:
        process.terminate()
        process.join()
    base.closed = True
    raise RuntimeError(
        f"The process of environment {dead[0]} died at step {step}: {how}. The model and its replay memory are whole and "
        "hold nothing of that step: save them, or go on with new environments: "
        "model.set_env(env); model.learn(steps, reset_num_timesteps=False)."
    ) from error


def _describe(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"killed by {name}" + (", as Linux does when memory runs out" if name == "SIGKILL" else "")
    return f"exit code {exitcode}; its own error is printed above"
