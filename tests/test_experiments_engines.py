"""Experiments on several processes, here and on Ray: processes that die, and commands that are stopped."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_mirl import MIRL
from sb3_mirl.experiments import MINATAR, Run, Settings, Suite, engines, run_all, run_each, work
from sb3_mirl.experiments.training import is_done, train

SETTINGS = Settings(timesteps=8000, snapshot_every=800, preset="default", eval_episodes=1)
RUN = Run("rare_action", "mirl", 0)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="signals")


def ignore(steps: int) -> None:
    pass


def noted_env(game: str, n_envs: int, seed: int, training: bool) -> Any:
    """Says which process a seed is trained by."""
    Path(os.environ["NOTES"], str(seed)).write_text(str(os.getpid()))
    return MINATAR.make_env(game, n_envs, seed, training)


def weights(out: Path, run: Run) -> dict[str, th.Tensor]:
    return MIRL.load(out / run.folder / "model", device="cpu").policy.state_dict()


@on_linux
@pytest.mark.slow  # half a minute each on an idle machine: processes import torch, and begin anew
@pytest.mark.parametrize("ray", [False, True], ids=["loky", "ray"])
def test_a_killed_process_costs_nothing_but_time(ray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ray:
        pytest.importorskip("ray", reason="pip install '.[cluster]'")
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
    runs, killed = [RUN, RUN._replace(seed=1)], []

    def kill() -> None:
        while not (tmp_path / RUN.folder / "checkpoint").exists():
            time.sleep(0.02)
        time.sleep(0.1)
        killed.append(int((tmp_path / "0").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    suite = MINATAR._replace(make_env=noted_env)
    assert run_all(runs, suite, SETTINGS, tmp_path, jobs=2, device="cpu", ray=ray) == []
    last = {int((tmp_path / str(run.seed)).read_text()) for run in runs}
    assert killed and killed[0] not in last, "it was killed under way, and another process went on"
    assert not list(tmp_path.glob(".stop*"))
    deadline = time.monotonic() + 30  # Ray's processes end a little later than the command that started them
    while (left := [pid for pid in last if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    for run in runs:
        assert is_done(run, SETTINGS, tmp_path)
        train(run, MINATAR, SETTINGS, tmp_path / "whole", "cpu", ignore)
        theirs = weights(tmp_path / "whole", run)
        assert all((theirs[name] == value).all() for name, value in weights(tmp_path, run).items())


@on_linux
@pytest.mark.slow  # a quarter of a minute on an idle machine
def test_ctrl_c_reaches_the_runs_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'sb3-mirl[cluster]'")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    settings = replace(SETTINGS, timesteps=8_000_000, snapshot_every=8_000_000)

    def interrupt() -> None:
        while not (tmp_path / RUN.folder / work.PROGRESS).exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run_all([RUN], MINATAR, settings, tmp_path, device="cpu", ray=True)
    assert list((tmp_path / RUN.folder / "checkpoint").glob("checkpoint_*")) and not list(tmp_path.glob(".stop*"))
    assert signal.getsignal(signal.SIGTERM) is before and not ray.is_initialized()


def test_a_run_that_is_to_stop_saves_a_checkpoint_and_does_not_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "EVERY", 0.0)
    stop, settings = tmp_path / "stop", replace(SETTINGS, timesteps=2400)

    class StopAtEvaluation(VecEnvWrapper):
        def reset(self) -> Any:
            stop.touch()
            return self.venv.reset()

        def step_wait(self) -> Any:
            return self.venv.step_wait()

    def make_env(game: str, n_envs: int, seed: int, training: bool) -> Any:
        env = MINATAR.make_env(game, n_envs, seed, training)
        return env if training else StopAtEvaluation(env)

    def one(suite: Suite) -> engines.Outcome:
        run = partial(train, suite=suite, settings=settings, out=tmp_path, device="cpu")
        return work.work(RUN, run, tmp_path, 1, stop)

    suite = MINATAR._replace(make_env=make_env)
    for _ in range(2):
        outcome = one(suite)
        assert outcome == (RUN, "left", "")
        (checkpoint,) = (tmp_path / RUN.folder / "checkpoint").glob("checkpoint_*")
        assert 800 < int(checkpoint.name.split("_")[1]) < 900, "at the first report after the evaluation"
    assert 800 < int((tmp_path / RUN.folder / work.PROGRESS).read_text()) < 900
    stop.unlink()
    assert one(MINATAR).how == "done"
    assert (tmp_path / RUN.folder / work.PROGRESS).read_text() == "2400"


def test_the_bar_shows_what_the_files_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sb3_mirl.experiments import runner

    runs = [RUN._replace(seed=seed) for seed in range(3)]
    (tmp_path / runs[1].folder).mkdir(parents=True)
    (tmp_path / runs[1].folder / work.PROGRESS).write_text("2000")
    with runner._progress(dict.fromkeys(runs, SETTINGS.timesteps), runs[1:], tmp_path) as show:
        show(runner.Outcome(runs[2], "failed", "for a reason"))
    told = "".join(capsys.readouterr())
    assert "1/3 runs done" in told and "10.0k/24.0k" in told and "rare_action mirl seed 2 failed: for a reason" in told


def test_any_training(tmp_path: Path) -> None:
    good, bad = Run("maze", "mine:rate=0.1", 0), Run("maze", "mine:rate=nonsense", 0)

    def train(run: Run, report: Any) -> None:
        float(run.agent.partition("=")[2])
        (tmp_path / run.folder).mkdir(parents=True)
        for _ in range(20):
            assert not report(1)
        report(0)

    def is_done(run: Run) -> bool:
        return (tmp_path / run.folder / work.PROGRESS).exists()

    assert run_each({bad: 10, good: 20}, train, is_done, tmp_path, jobs=2) == [bad]
    assert "could not convert string to float: 'nonsense'" in (tmp_path / bad.folder / "error.txt").read_text()
    assert (tmp_path / "cells" / "maze" / "mine_rate=0.1" / "seed_0" / work.PROGRESS).read_text() == "20"
    assert run_each({good: 20}, train, is_done, tmp_path) == [], "a folder that is made twice would be an error"
