"""VIREL's runs: resumed bit for bit, logged, and by the RL Zoo's commands."""

import copy
import inspect
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_mirl import VIREL, ResumableCheckpoint, resume
from tests.interrupted import assert_equal, assert_same_memory, whole_and_resumed
from tests.test_virel import SMALL, virel


def assert_same_run(one: VIREL, two: VIREL) -> None:
    """Bit for bit: weights, temperature, optimisers, counters, replay memory."""
    assert_equal(one.get_parameters(), two.get_parameters())
    assert one.temperature == two.temperature
    for name in ("num_timesteps", "_n_updates", "_episode_num", "ent_coef", "_current_progress_remaining"):
        assert getattr(one, name) == getattr(two, name), name
    assert_equal(one._last_obs, two._last_obs)
    assert_same_memory(one.replay_buffer, two.replay_buffer, one.get_vec_normalize_env())


def normalized() -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))] * 2))


@pytest.mark.parametrize(
    ("make_env", "changed"),
    [
        (partial(gym.make, "Pendulum-v1"), {"learning_rate": lambda progress: 1e-3 * progress}),
        (partial(gym.make, "Pendulum-v1"), {"ent_coef": "auto", "critics": "mixed", "use_sde": True}),
        (normalized, {"residual_estimator": "double", "residual_batch_size": 150, "n_steps": 2}),
    ],
    ids=["residual", "auto-gsde", "normalized-double"],
)
def test_resumed_is_uninterrupted(make_env: Callable[[], GymEnv], changed: dict[str, Any], tmp_path: Path) -> None:
    make_model: Any = partial(virel, **changed)
    whole, resumed = whole_and_resumed(make_model, make_env, tmp_path, total=260, at=230, save_freq=100)
    assert isinstance(resumed, VIREL) and resumed._n_updates > 0
    assert_same_run(whole, resumed)  # type: ignore[arg-type]


SCRIPT = """
import sys, gymnasium as gym, torch as th
from sb3_mirl import ResumableCheckpoint
from tests.test_virel import virel
th.set_num_threads(1)
virel(gym.make("Pendulum-v1")).learn(10**6, callback=ResumableCheckpoint(sys.argv[1], 100))
"""


def test_resumed_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment)
    give_up = time.monotonic() + 120
    while len(list(folder.glob("checkpoint_*/manifest.json"))) == 0 and time.monotonic() < give_up:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = resume(folder, gym.make("Pendulum-v1"), device="cpu", cls=VIREL)
    steps = resumed.num_timesteps
    assert steps >= 100
    # the schedules have no part in it: nothing depends on the total
    resumed.learn(steps + 60, callback=ResumableCheckpoint(folder, 10**6))
    whole = virel(gym.make("Pendulum-v1")).learn(steps + 60)
    assert_equal(whole.get_parameters(), resumed.get_parameters())
    assert whole.temperature == resumed.temperature != 1.0


def test_what_is_logged() -> None:
    model = virel(critics="mixed").learn(205, log_interval=1)
    logged = model.logger.name_to_value
    for name in ("ent_coef", "actor_loss", "critic_loss", "residual", "entropy", "std", "q_hard", "q_soft"):
        assert np.isfinite(logged[f"train/{name}"]), name
    assert logged["train/ent_coef"] == pytest.approx(model.temperature)
    assert logged["train/n_updates"] == model._n_updates
    hard = virel().learn(60)
    assert "train/q_hard" not in hard.logger.name_to_value and "train/ent_coef_loss" not in hard.logger.name_to_value
    assert "train/ent_coef_loss" in virel(ent_coef="auto").learn(60).logger.name_to_value


def test_logs_are_means_over_the_updates_of_a_round() -> None:
    model = virel(residual_scale=0.0, residual_lr=0.5).learn(50)
    model.train(3, 16)
    assert model.logger.name_to_value["train/ent_coef"] == pytest.approx((0.5 + 0.25 + 0.125) / 3)
    assert model.temperature == pytest.approx(0.125)


def test_policies_are_modules_like_any_other() -> None:
    """They are SB3's: exported, copied and pickled as these are, right after a training too."""
    model = virel().learn(60)
    observation = th.zeros(1, 3)
    with th.no_grad():
        expected = model.policy.actor(observation, deterministic=True)
    for policy in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        assert th.equal(policy.actor(observation, deterministic=True), expected)
    mean = th.nn.Sequential(model.policy.actor.latent_pi, model.policy.actor.mu, th.nn.Tanh())
    exported = th.export.export(mean, (observation,)).module()
    assert th.allclose(exported(observation), expected)


# The example


@pytest.fixture
def example() -> Any:
    """The example's functions."""
    pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")
    pytest.importorskip("rliable", reason="pip install '.[plots]'")
    import reproduce_virel

    return reproduce_virel


def test_the_example_goes_on(example: Any, tmp_path: Path) -> None:
    """One whole run, and one that is cut off in the middle: the same snapshots."""
    agent = "virel:batch_size=16,residual_scale=0.1"
    run, told = example.Run("Pendulum-v1", agent, 0), list[int]()

    def report(steps: int) -> bool:
        told.append(steps)
        return sum(told) == 130

    train = partial(example.train, run, timesteps=180, every=60)
    train(out=tmp_path / "whole", report=lambda steps: False)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "cut", report=report)
    assert not example.is_done(run, tmp_path / "cut")
    train(out=tmp_path / "cut", report=lambda steps: False)
    whole, cut = (tmp_path / name / run.folder / "rows.csv" for name in ("whole", "cut"))
    assert cut.read_text() == whole.read_text()
    assert all(map(example.is_done, [run, run], [tmp_path / "whole", tmp_path / "cut"]))
    rows = pd.read_csv(whole)
    assert rows["timesteps"].tolist() == [60, 120, 180] and rows["temperature"].notna().tolist() == [False, True, True]
    two = pd.concat([rows, rows.assign(seed=1, score=rows["score"] - 100)])
    lines = example.table(two).splitlines()
    last, best = rows["score"].iloc[-1], rows["score"].max()
    assert lines[2].startswith(f"| Pendulum-v1, last of 180 steps | {last - 50:.0f} [")
    assert lines[3].startswith(f"| Pendulum-v1, best of 180 steps | {best - 50:.0f} [")
    example.draw(two, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_the_examples_agents(example: Any) -> None:
    assert example.changes_of("virel2") == {"ent_coef": 0.2, "critics": "mixed"}
    assert example.changes_of("virel:residual_scale=0.004,residual_estimator=double") == {
        "residual_scale": 0.004,
        "residual_estimator": "double",
    }
    with pytest.raises(SystemExit, match="Unknown agent 'virel3', choose from sac, virel, virel1, virel2"):
        example.changes_of("virel3")
    for env_id in example.ENVS:
        for agent in example.AGENTS:
            model = example.make_model(agent, env_id, 0, gym.make(env_id))
            assert model.ent_coef == {"sac": 0.1 if "Car" in env_id else "auto", "virel": "residual"}.get(agent, 0.2)


# The RL Zoo

ENVS = ["HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer", "Humanoid"]
TASKS = {"Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3", "BipedalWalker-v3"}
TASKS |= {f"{name}-v{version}" for name in ENVS for version in (4, 5)}


class TestZoo:
    @pytest.fixture(autouse=True)
    def _zoo(self) -> None:
        pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")

    @pytest.fixture
    def call(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """A command in this process, in an empty folder."""
        from sb3_mirl.__main__ import main

        monkeypatch.chdir(tmp_path)
        for name in ("PATH", "PYTHONPATH"):
            monkeypatch.setenv(name, os.environ.get(name, ""))

        def run_here(*command: str) -> None:
            monkeypatch.setattr(sys, "argv", ["sb3_mirl", *command])
            main()

        return run_here

    def test_train_continue_enjoy(self, call: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
        from rl_zoo3 import ALGOS

        algorithms = dict(ALGOS)
        task = ("--algo", "virel", "--env", "Pendulum-v1")
        tiny = ("--eval-freq", "-1", "-params", "buffer_size:1000", "learning_starts:60", "policy_kwargs:dict(net_arch=[8])")
        call("train", *task, "-n", "150", "--save-freq", "100", *tiny)
        run = Path("logs/virel/Pendulum-v1_1")
        first = VIREL.load(run / "Pendulum-v1.zip")
        assert first.num_timesteps == 150 and first.ent_coef == "residual"
        call("train", *task, "-n", "190", "-i", str(run), *tiny)
        assert "Resuming" in capsys.readouterr().out
        second = VIREL.load("logs/virel/Pendulum-v1_2/Pendulum-v1.zip")
        assert second.num_timesteps == 190 and second._n_updates > first._n_updates
        assert second.temperature != first.temperature
        call("train", *task, "-n", "40", "-i", "logs/virel/Pendulum-v1_2/Pendulum-v1.zip", *tiny)
        assert "replay memory of this agent was not saved" in capsys.readouterr().out
        assert VIREL.load("logs/virel/Pendulum-v1_3/Pendulum-v1.zip").learning_starts == 60 + 190
        call("enjoy", *task, "-f", "logs", "--no-render", "-n", "210")
        ALGOS.update(algorithms)

    def test_optimize(self, call: Callable[..., None]) -> None:
        call(
            *("train", "--algo", "virel", "--env", "Pendulum-v1", "-optimize", "--n-trials", "1", "-n", "30"),
            *("--no-optim-plots", "--eval-episodes", "1", "--n-evaluations", "1", "-params", "buffer_size:100"),
        )
        (report,) = Path("logs/virel").glob("report_*.csv")
        header = report.read_text().splitlines()[0]
        assert "params_residual_scale" in header and "params_residual_lr" in header and "target_entropy" not in header

    def test_search_samples_what_the_algorithm_takes(self) -> None:
        import optuna
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        seen = []
        for _ in range(30):
            trial = study.ask()
            sampled = HYPERPARAMS_SAMPLER["virel"](trial, 1, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
            assert set(sampled) <= set(inspect.signature(VIREL).parameters)
            assert HYPERPARAMS_CONVERTER["virel"](trial.params) == sampled
            seen.append((sampled["residual_scale"], sampled["residual_lr"]))
        low, high = np.min(seen, axis=0), np.max(seen, axis=0)
        assert (low >= (1e-4, 1e-2)).all() and (high <= (1e1, 1.0)).all() and (high / low > (1e3, 10)).all()
        model = VIREL("MlpPolicy", "Pendulum-v1", **{**SMALL, **sampled, "buffer_size": 100})
        assert model.residual_scale == sampled["residual_scale"]

    @pytest.mark.parametrize("preset", ["", "paper"])
    def test_configurations(self, preset: str) -> None:
        import yaml

        from sb3_mirl.hyperparameters import CONFIGS
        from sb3_mirl.zoo.experiment import config_of

        path = CONFIGS / preset / "virel.yml"
        assert config_of("virel", preset or None) == str(path)
        config: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())
        assert set(config) == TASKS
        known = set(inspect.signature(VIREL).parameters) | {"n_timesteps"}
        for task, values in config.items():
            assert not set(values) - known, task
            assert not [value for value in values.values() if isinstance(value, str) and value[0].isdigit()], task
            assert values["residual_scale"] > 0, task
        paper = dict(learning_rate=3e-4, tau=1e-3, batch_size=128, residual_scale=0.012, gamma=0.99)
        if preset == "paper":
            for values in config.values():
                assert {name: values[name] for name in paper} == paper and "[300, 300]" in values["policy_kwargs"]

    @pytest.mark.parametrize("env_id", ["Swimmer-v5", "Hopper-v4"])
    def test_mujoco(self, env_id: str) -> None:
        pytest.importorskip("mujoco", reason="pip install '.[zoo]'")
        model = virel(gym.make(env_id)).learn(70)
        assert model.temperature != 1.0
