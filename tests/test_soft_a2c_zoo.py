"""SoftA2C and SoftPQN in the RL Zoo: commands, configurations, the search."""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")

import optuna
import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_mirl import SoftA2C, SoftPQN
from sb3_mirl.__main__ import main
from sb3_mirl.hyperparameters import CONFIGS

CLASSES: dict[str, Any] = {"softa2c": SoftA2C, "softpqn": SoftPQN}
TASKS = {
    "atari",
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "LunarLander-v3",
    "MinAtar/Breakout-v1",
    "MinAtar/Seaquest-v0",
}
ZOO_KEYS = {"n_timesteps", "n_envs", "normalize", "env_wrapper", "frame_stack", "policy"}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name, algorithm in CLASSES.items():
        monkeypatch.setitem(ALGOS, name, algorithm)

    def run_here(*command: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sb3_mirl", *command])
        main()

    return run_here


@pytest.mark.parametrize("algo", CLASSES)
def test_train_continue_resume_enjoy(algo: str, call: Any) -> None:
    task = ["--algo", algo, "--env", "CartPole-v1"]
    train = ["train", *task, "-n", "512", "--eval-freq", "-1"]
    call(*train, "--save-freq", "256")
    path = f"logs/{algo}/CartPole-v1_{{}}/CartPole-v1.zip"
    first = CLASSES[algo].load(path.format(1))
    assert first.num_timesteps >= 512 and first.n_envs == 8 and first._n_updates > 0
    call("train", *task, "-n", "1024", "--eval-freq", "-1", "-i", f"logs/{algo}/CartPole-v1_1")
    second = CLASSES[algo].load(path.format(2))
    assert 1024 <= second.num_timesteps < 1024 + 40 and second._n_updates > first._n_updates
    call("enjoy", *task, "-f", "logs", "--no-render", "-n", "20")


@pytest.mark.parametrize("algo", CLASSES)
def test_optimize(algo: str, call: Any) -> None:
    options = ["--n-trials", "2", "-n", "200", "--n-startup-trials", "1", "--no-optim-plots", "--eval-episodes", "1"]
    call("train", "--algo", algo, "--env", "CartPole-v1", "-optimize", *options)
    (report,) = Path("logs", algo).glob("report_*.csv")
    header, *trials = report.read_text().splitlines()
    assert ("params_update" if algo == "softa2c" else "params_q_lambda") in header
    assert len(trials) == 2 and "COMPLETE" in trials[0]


@pytest.mark.parametrize("algo", CLASSES)
def test_configurations(algo: str) -> None:
    text = (CONFIGS / f"{algo}.yml").read_text()
    values = [line for line in text.splitlines() if re.match(r"  \w+:", line)]
    assert values and not [line for line in values if not re.search(r"  # .{4,}", line)], "unit or source"
    config = yaml.safe_load(text)
    assert set(config) >= TASKS
    known = set(inspect.signature(CLASSES[algo]).parameters) | ZOO_KEYS
    for task, chosen in config.items():
        assert not set(chosen) - known, task
        assert not [key for key, value in chosen.items() if isinstance(value, str) and re.match(r"[\d.]+e", value)], task
        if algo == "softpqn":
            n_steps, n_minibatches = chosen.get("n_steps", 32), chosen.get("n_minibatches", 32)
            assert n_steps * chosen.get("n_envs", 1) % n_minibatches == 0, task


@pytest.mark.parametrize("algo", CLASSES)
def test_search_samples_what_the_algorithm_takes(algo: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        sampled = HYPERPARAMS_SAMPLER[algo](trial, 2, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
        CLASSES[algo]("MlpPolicy", "CartPole-v1", device="cpu", **sampled)
        # what --trial-id makes of the stored trial
        assert HYPERPARAMS_CONVERTER[algo](trial.params) == sampled
