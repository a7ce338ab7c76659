"""Several processes in one folder, and what environments leave behind in the system."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl.common.files import FolderInUse, claimed
from sb3_mirl.experiments import Run, Settings, Suite, runner, training

ROOT = Path(__file__).resolve().parents[1]
RUN = Run("game", "mirl", 0)
SETTINGS = Settings(timesteps=800, snapshot_every=800, preset="default")
fork = multiprocessing.get_context("fork") if sys.platform == "linux" else None
on_linux = pytest.mark.skipif(fork is None, reason="forks, and reads /proc")


def nothing(*_: Any) -> Any:
    raise AssertionError("it was run")


NEVER_RUN = Suite("none", nothing, nothing)


def test_what_another_process_runs_is_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(tmp_path / RUN.folder):
        with pytest.raises(FolderInUse, match="Another process is writing to .*seed_0: wait for it, or choose another"):
            training.train(RUN, NEVER_RUN, SETTINGS, tmp_path, "cpu", nothing)
        assert runner.run_all([RUN], NEVER_RUN, SETTINGS, tmp_path, device="cpu") == [], "not a failure"
    assert "seed_0 is being run by another process, and left to it" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / RUN.folder).iterdir()] == [".lock"], "nothing was written"


def _run_and_note(out: Path, barrier: Any) -> None:
    def train(*_: Any) -> None:
        with (out / "trained").open("a") as file:
            file.write("once\n")
        time.sleep(0.2)
        (out / RUN.folder / "settings.json").write_text("{}")
        (out / RUN.folder / "done").touch()

    training._train, training.is_done = train, lambda *_: (out / RUN.folder / "done").exists()  # type: ignore[assignment]
    barrier.wait()
    for _ in range(40):
        try:
            training.train(RUN, NEVER_RUN, SETTINGS, out, "cpu", nothing)
        except FolderInUse:
            time.sleep(0.02)


@on_linux
def test_a_run_is_trained_once_however_many_processes_want_it(tmp_path: Path) -> None:
    assert fork is not None
    barrier = fork.Barrier(4)
    processes = [fork.Process(target=_run_and_note, args=(tmp_path, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert (tmp_path / "trained").read_text() == "once\n"


def _hold(folder: Path, ready: Any) -> None:
    with claimed(folder):
        ready.set()
        time.sleep(60)


@on_linux
def test_a_killed_process_gives_its_folder_back(tmp_path: Path) -> None:
    assert fork is not None
    ready = fork.Event()
    process = fork.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(FolderInUse), claimed(tmp_path):
        pass
    process.kill()
    process.join()
    with claimed(tmp_path):
        pass


def test_zoo_runs_started_at_the_same_instant_get_different_folders(tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_mirl.zoo.experiment import Experiment

    runs = []
    for _ in range(3):  # as the zoo's constructor leaves them, each before another has made its folder
        experiment = Experiment.__new__(Experiment)
        experiment.log_path, experiment.env_name = f"{tmp_path}/mirl/", "CartPole-v1"
        experiment.save_path = os.path.join(experiment.log_path, "CartPole-v1_1")
        experiment.params_path = f"{experiment.save_path}/CartPole-v1"
        experiment.optimize_hyperparameters = False
        runs.append(experiment)
    for experiment in runs:
        experiment.create_log_folder()
    assert [Path(run.save_path).name for run in runs] == ["CartPole-v1_1", "CartPole-v1_2", "CartPole-v1_3"]
    assert all(Path(run.params_path).is_dir() and Path(run.params_path).parent == Path(run.save_path) for run in runs)


class Fails(BaseCallback):
    """Ends ``learn`` by an exception."""

    def _on_step(self) -> bool:
        if self.num_timesteps > 100:
            raise RuntimeError("on purpose")
        return True


THREADS = """
import gc, os
import pytest
from sb3_mirl import MIRL
from sb3_mirl.envs import AtariVecEnv
from tests.conftest import SMALL
from tests.test_concurrency import Fails

def threads():
    return len(os.listdir("/proc/self/task"))

def fail():
    model = MIRL("CnnPolicy", AtariVecEnv("Pong", 4, num_threads=2), **{**SMALL, "policy_kwargs": None})
    assert threads() == before + 2
    with pytest.raises(RuntimeError, match="on purpose"):
        model.learn(1000, callback=Fails())

before = threads()
env = AtariVecEnv("Pong", 4, num_threads=2)
env.reset()
assert threads() == before + 2
del env
assert threads() == before, "after del"
fail()
gc.collect()
assert threads() == before, "after an exception"
"""


@on_linux
@pytest.mark.atari
def test_atari_threads_end_with_their_environment() -> None:
    # one thread each for what else may start some, and a process of its own: other tests' threads end when they like
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", THREADS], cwd=ROOT, env=environment, text=True, capture_output=True)
    assert process.returncode == 0, process.stderr


WORKERS = """
import gc, sys, psutil
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_mirl import MIRL
from tests.conftest import SMALL
from tests.test_concurrency import Fails

def workers():
    # beside Python's own: the fork server and the resource tracker
    return [p for p in psutil.Process().children(recursive=True) if p.parent().pid != psutil.Process().pid]

def learn(callback=None):
    env = make_vec_env("CartPole-v1", 1, vec_env_cls=SubprocVecEnv)
    model = MIRL("MlpPolicy", env, **SMALL)
    assert len(workers()) == 1
    model.learn(200, callback=callback)
    return env

learn().close()
assert not workers(), "after close()"
try:
    learn(Fails())
except RuntimeError as error:
    assert str(error) == "on purpose"
gc.collect()
psutil.wait_procs(workers(), timeout=10)
assert not workers(), "after an exception, without close()"
print("before the end", flush=True)
learn(Fails())
"""


@on_linux
def test_worker_processes_end_with_their_environment() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKERS], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert "before the end" in out and "RuntimeError: on purpose" in err, err
    session = [p for p in psutil.process_iter() if _session(p.pid) == process.pid]
    _, alive = psutil.wait_procs(session, timeout=10)
    assert not alive


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
