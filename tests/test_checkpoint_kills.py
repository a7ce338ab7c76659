"""Processes that are killed while they save, and processes that are asked to stop."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sb3_mirl import resume
from tests.conftest import ScriptedEnv
from tests.killed import STARTED, train

N_KILLS = int(os.environ.get("SB3_MIRL_KILLS", "20"))
# a fork of this process has everything imported
CONTEXT = multiprocessing.get_context("fork")
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, "-m", "tests.killed"]


def wait_for(path: Path, process: "multiprocessing.process.BaseProcess | subprocess.Popen[str]") -> None:
    for _ in range(3000):
        if path.exists():
            return
        alive = process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()
        assert alive, "it ended by itself"
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def test_a_killed_run_can_always_be_resumed(tmp_path: Path) -> None:
    """SIGKILL at random moments of a run that saves all the time; the next process goes on where the last one came to."""
    # forks are safe in a process without the threads of other tests
    code = f"from tests.test_checkpoint_kills import *; kill_and_resume(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def kill_and_resume(tmp_path: Path) -> None:
    draw = random.Random(0)
    train(tmp_path, total=100)  # torch imports more at the first update
    steps, cut_short = 100, 0
    for n in range(N_KILLS):
        (tmp_path / STARTED).unlink()
        process = CONTEXT.Process(target=train, args=(tmp_path,))
        process.start()
        wait_for(tmp_path / STARTED, process)
        time.sleep(draw.uniform(0, 0.3))
        while n % 2 and not (tmp_path / "partial").exists():
            assert process.is_alive()
        process.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        cut_short += (tmp_path / "partial").exists()
        model = resume(tmp_path, ScriptedEnv())
        assert model.num_timesteps >= steps, "no checkpoint is lost"
        assert model.replay_buffer.size() == min(model.num_timesteps, 1000)
        steps = model.num_timesteps
    print(f"{N_KILLS} kills, {cut_short} of them while a checkpoint was written, {steps} steps in all")
    assert cut_short > N_KILLS / 20, "the kills did not meet the moments that matter"


def test_ctrl_c_ends_the_training_with_a_checkpoint(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path), "1000000", "0.02"], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(tmp_path / STARTED, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    assert "SIGINT: saving a checkpoint" in err and "interrupted=True" in out
    # the step after the checkpoint was taken in vain
    assert resume(tmp_path, ScriptedEnv()).num_timesteps == int(out.split("steps=")[1]) - 1 > 0


def test_sigterm_does_the_same_and_the_second_one_acts_at_once(tmp_path: Path) -> None:
    for n_signals, pause in ((1, "0.02"), (2, "30")):
        folder = tmp_path / str(n_signals)
        process = subprocess.Popen([*COMMAND, str(folder), "1000000", pause], cwd=ROOT, env=ENVIRONMENT, text=True)
        wait_for(folder / STARTED, process)
        process.terminate()
        if n_signals == 2:
            time.sleep(0.3)
            assert process.poll() is None
            process.terminate()
        assert process.wait(20) == (0 if n_signals == 1 else -signal.SIGTERM)
    assert resume(tmp_path / "1", ScriptedEnv()).num_timesteps > 0


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(tmp_path, total=20)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
