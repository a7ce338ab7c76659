"""The zoo's command line: a killed run goes on where its newest checkpoint was."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")

from rl_zoo3 import ALGOS

from sb3_mirl import MIRL
from sb3_mirl.zoo.command_line import prepared
from sb3_mirl.zoo.experiment import Experiment, checkpoints_of
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


def test_a_folder_means_the_whole_run_and_a_zip_more_steps(call: Any) -> None:  # noqa: F811
    command = [*TASK, "-1", "--save-freq", "96", *PARAMS]
    call(*command, "-n", "200")
    for nothing in (["-n", "200"], []):  # without -n: what the run had
        with pytest.raises(SystemExit, match="nothing is left to do, 200 of 200 steps are done.*-i a zip file"):
            call(*command, *nothing, "-i", RUN.format(1))
    assert not Path(RUN.format(2)).exists()
    call(*command, "gamma:0.5", "-n", "304", "-i", f"{RUN.format(1)}/checkpoints")
    model = MIRL.load(f"{RUN.format(2)}/CartPole-v1.zip")
    assert (model.num_timesteps, model.gamma, model._n_updates) == (304, 0.5, 33)
    # the last agent goes on like its run, bit for bit
    call(*command, "-n", "104", "-i", f"{RUN.format(1)}/CartPole-v1.zip")
    call(*command, "-n", "304", "-i", RUN.format(1))
    more, whole = (MIRL.load(f"{RUN.format(number)}/CartPole-v1.zip", device="cpu") for number in (3, 4))
    assert more.num_timesteps == whole.num_timesteps == 304
    assert_equal(more.policy.state_dict(), whole.policy.state_dict())


def test_an_older_agent_takes_the_memory_of_its_run(call: Any, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    command = [*TASK, "-1", *PARAMS]
    call(*command, "-n", "200", "--save-freq", "96")
    call(*command, "-n", "80", "-i", f"{RUN.format(1)}/rl_model_96_steps.zip", "--save-replay-buffer")
    assert "rl_model_96_steps.zip: 96 steps are done, 176 it will be in all" in capsys.readouterr().out
    model = MIRL.load(f"{RUN.format(2)}/CartPole-v1.zip")
    assert (model.num_timesteps, model.learning_starts) == (176, 40)
    model.load_replay_buffer(f"{RUN.format(2)}/replay_buffer.pkl")
    assert model.replay_buffer is not None and model.replay_buffer.size() == (200 + 80) // 2
    # checkpoints of other environments are of no use
    call(*command, "n_envs:1", "-n", "80", "-i", f"{RUN.format(1)}/CartPole-v1.zip")
    assert "The checkpoints beside the agent cannot be used here" in capsys.readouterr().out
    assert MIRL.load(f"{RUN.format(3)}/CartPole-v1.zip").num_timesteps == 280


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_runs_of_the_zoos_own_algorithms_are_resumable(algo: str, call: Any) -> None:  # noqa: F811
    task = ["train", "--algo", algo, "--env", "CartPole-v1", "--eval-freq", "-1", "--save-freq", "64", "--seed", "1"]
    small = {"dqn": ["n_envs:1", "learning_starts:40", "train_freq:8"], "ppo": ["n_envs:1", "n_steps:32", "batch_size:32"]}
    command = [*task, "-params", "learning_rate:1e-3", *small[algo], "policy_kwargs:dict(net_arch=[8])"]
    run = f"logs/{algo}/CartPole-v1_{{}}"
    call(*command, "-n", "192")
    call(*command, "-n", "96")
    call(*command, "-n", "192", "-i", run.format(2))
    call(*command, "-n", "96", "-i", run.format(2) + "/CartPole-v1.zip")
    whole, resumed, more = (ALGOS[algo].load(f"{run.format(n)}/CartPole-v1.zip", device="cpu") for n in (1, 3, 4))
    assert whole.num_timesteps == resumed.num_timesteps == more.num_timesteps == 192
    assert_equal(resumed.policy.state_dict(), more.policy.state_dict())
    assert resumed._n_updates == whole._n_updates > 0


def test_a_resumed_run_is_one_curve(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    pytest.importorskip("rl_zoo3.plots", reason="pip install '.[plots]'")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    command = [*TASK, "48", *PARAMS, "--save-freq", "48", "--eval-episodes", "2"]
    call(*command, "-n", "96")
    call(*command, "-n", "192", "-i", RUN.format(1))
    call("all_plots", "-a", "mirl", "-e", "CartPole-v1", "-f", "logs", "-o", "scores")
    curve = pickle.loads(Path("scores.pkl").read_bytes())["CartPole-v1"]["MIRL-logs"]
    assert curve["timesteps"].tolist() == [48, 96, 144, 192] and curve["mean_per_eval"].shape == (4, 1)


def test_no_checkpoints_without_save_freq(call: Any) -> None:  # noqa: F811
    call(*TASK, "-1", *PARAMS, "-n", "80")
    assert not list(Path("logs").rglob("checkpoints"))
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
    assert {checkpoints_of(path) for path in (model, *(tmp_path / name for name in names))} == {model.parents[1]}
    assert checkpoints_of(model.parents[2] / "other" / names[0]) is None
    for folder in (tmp_path, model.parents[1]):
        given = prepared("train", ["--env", "X", "-i", str(folder), "-n", "5"])
        assert given == ["--env", "X", "-n", "5", "-i", str(model)] and Experiment.resumes
    unchanged = ["-i", str(tmp_path / names[0]), "-n", "5"]
    assert prepared("train", unchanged) == unchanged and not Experiment.resumes
