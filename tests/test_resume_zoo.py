"""The zoo's command line: a killed run goes on where its newest checkpoint was."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rl_zoo3", reason="pip install 'sb3-mirl[zoo]'")

from sb3_mirl import MIRL
from sb3_mirl.zoo.continuing import checkpoints_of, name_agent
from tests.interrupted import assert_equal
from tests.test_zoo import call  # noqa: F401  the fixture

TASK = ["train", "--algo", "mirl", "--env", "CartPole-v1", "--seed", "3", "--eval-episodes", "1", "--eval-freq"]
PARAMS = ["-params", "n_envs:2", "buffer_size:400", "learning_starts:40", "train_freq:4", "gradient_steps:1", "prior_lr:0.01"]
RUN = "logs/mirl/CartPole-v1_{}"


def test_a_killed_run_goes_on(tmp_path: Path, call: Any, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    command = [*TASK, "150", "-n", "1200", "--save-freq", "100"]
    call(*command, *PARAMS)
    killed = tmp_path / RUN.format(2)
    process = subprocess.Popen(
        [sys.executable, "-m", "sb3_mirl", *command, *PARAMS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    while not (killed / "checkpoints/checkpoint_000000000600").is_dir():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    capsys.readouterr()
    # without -params: the hyperparameters are the run's
    call(*command, "-i", str(killed), "-params", "n_envs:2")
    said = capsys.readouterr().out
    assert f"Resuming {killed}: " in said and " of 1200 steps are done" in said and "the episodes go on" in said
    whole, resumed = (MIRL.load(f"{RUN.format(i)}/CartPole-v1.zip", device="cpu") for i in (1, 3))
    assert whole.num_timesteps == resumed.num_timesteps == 1200
    assert_equal(whole.policy.state_dict(), resumed.policy.state_dict())
    assert_equal(whole.policy.optimizer.state_dict(), resumed.policy.optimizer.state_dict())
    with np.load(f"{RUN.format(1)}/evaluations.npz") as one, np.load(f"{RUN.format(3)}/evaluations.npz") as two:
        assert_equal(one["timesteps"], two["timesteps"])
    assert Path(RUN.format(3), "best_model.zip").is_file() and list(killed.glob("rl_model_*_steps.zip"))


def test_more_steps_and_other_parameters(call: Any, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    command = [*TASK, "-1", "--save-freq", "100", *PARAMS]
    call(*command, "-n", "200")
    with pytest.warns(UserWarning, match="Nothing is left to do: 200 of 200 steps"):
        call(*command, "-n", "200", "-i", f"{RUN.format(1)}/CartPole-v1.zip")
    call(*command, "gamma:0.5", "-n", "304", "-i", f"{RUN.format(1)}/checkpoints")
    model = MIRL.load(f"{RUN.format(3)}/CartPole-v1.zip")
    assert (model.num_timesteps, model.gamma, model._n_updates) == (304, 0.5, 33)


def test_no_checkpoints_without_save_freq_and_for_others(call: Any) -> None:  # noqa: F811
    call(*TASK, "-1", *PARAMS, "-n", "80")
    call("train", "--algo", "dqn", "--env", "CartPole-v1", "--eval-freq", "-1", "--save-freq", "40", "-n", "80")
    assert not list(Path("logs").rglob("checkpoints"))
    assert list(Path("logs").rglob("rl_model_40_steps.zip"))
    with pytest.raises(SystemExit, match=r"CartPole-v1_1 has no checkpoints.*--save-freq"):
        call(*TASK, "-1", "-n", "80", "-i", RUN.format(1))
    # as before: the agent without its memory, and -n more steps
    call(*TASK, "-1", *PARAMS, "-n", "80", "-i", f"{RUN.format(1)}/CartPole-v1.zip")
    assert MIRL.load(f"{RUN.format(2)}/CartPole-v1.zip").num_timesteps == 160


def test_which_agents_have_checkpoints(tmp_path: Path) -> None:
    model = tmp_path / "checkpoints/checkpoint_000000000100/model.zip"
    model.parent.mkdir(parents=True)
    names = ("CartPole-v1.zip", "best_model.zip", "rl_model_100_steps.zip", "rl_model_90_steps.zip")
    for path in (model, *(tmp_path / name for name in names)):
        path.touch()
    found = [checkpoints_of(tmp_path / name) for name in names]
    assert found == [model.parents[1], None, model.parents[1], None]
    assert checkpoints_of(model) == model.parents[1]
    assert name_agent(["--env", "X", "-i", str(tmp_path), "-n", "5"]) == ["--env", "X", "-n", "5", "-i", str(model)]
    unchanged = ["-i", str(tmp_path / names[0]), "-n", "5"]
    assert name_agent(unchanged) == unchanged
