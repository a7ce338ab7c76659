"""ContinuousSQL's runs: resumed bit for bit, logged, exported, short runs' values, the RL Zoo's commands, the example."""

import copy
import importlib
import inspect
import os
import pickle
import sys
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

from sb3_mirl import ContinuousSQL, budget, hyperparameters
from sb3_mirl.envs.multigoal import solve
from tests.interrupted import assert_equal, assert_same_memory, whole_and_resumed
from tests.test_continuous_sql import OBS, SMALL, Scripted, sql


def normalized() -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))] * 2))


@pytest.mark.parametrize(
    ("make_env", "changed"),
    [
        (Scripted, {"ent_coef": 1.0, "ent_coef_final": 1e-2, "anneal_fraction": 1.0, "n_noise_final": 3}),
        (normalized, {"sampler_learning_rate": lambda progress: 1e-3 * progress, "value_sampling": "uniform"}),
    ],
    ids=["annealed", "normalized"],
)
def test_resumed_is_uninterrupted(make_env: Callable[[], GymEnv], changed: dict[str, Any], tmp_path: Path) -> None:
    make_model: Any = partial(sql, **changed)
    whole, resumed = whole_and_resumed(make_model, make_env, tmp_path, total=260, at=230, save_freq=100)
    assert isinstance(resumed, ContinuousSQL) and resumed._n_updates > 0
    assert_equal(whole.get_parameters(), resumed.get_parameters())
    for name in ("num_timesteps", "_n_updates", "_episode_num", "ent_coef", "_current_progress_remaining", "chosen"):
        assert getattr(whole, name) == getattr(resumed, name), name
    assert_same_memory(whole.replay_buffer, resumed.replay_buffer, whole.get_vec_normalize_env())


def test_what_is_logged() -> None:
    model = sql().learn(200, log_interval=1)
    logged = model.logger.name_to_value
    for name in ("critic_loss", "svgd_norm", "soft_value", "bandwidth", "effective_samples"):
        assert np.isfinite(logged[f"train/{name}"]), name
    assert logged["train/ent_coef"] == pytest.approx(0.1) and logged["train/n_updates"] == model._n_updates
    assert 1 <= logged["train/effective_samples"] <= SMALL["n_value_particles"]
    assert logged["train/learning_rate"] == 1e-3


def test_policies_are_modules_like_any_other() -> None:
    model = sql().learn(60)
    obs, noise = th.from_numpy(OBS), th.randn(7, 2)
    with th.no_grad():
        expected = model.actor(obs, noise)
    for policy in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        assert th.equal(policy.actor(obs, noise), expected)
        np.testing.assert_array_equal(*(p.predict(OBS, deterministic=True)[0] for p in (policy, model.policy)))
    exported = th.export.export(model.actor, (obs, noise)).module()
    assert th.allclose(exported(obs, noise), expected)


class TestShortRuns:
    """What depends on the length of a run, where the user has said nothing."""

    def begun(self, total: int, *args: Any, **given: Any) -> ContinuousSQL:
        arguments = {"buffer_size": 100, "device": "cpu", "policy_kwargs": dict(net_arch=[4]), **given}
        model = ContinuousSQL("MlpPolicy", Scripted(), *args, **arguments)
        model._setup_learn(total)
        return model

    def values(self, model: ContinuousSQL) -> tuple[float, ...]:
        return model.learning_starts, model.tau, model.target_update_interval, model.sampler_learning_rate  # type: ignore

    def test_what_is_chosen(self) -> None:
        assert self.values(self.begun(20_000)) == (1000, 0.01, 1, 1e-3)
        assert self.values(self.begun(200_000)) == (10_000, 1.0, 1000, 1e-4)
        assert self.values(self.begun(20_000, tau=0.5, target_update_interval=7)) == (1000, 0.5, 7, 1e-3)
        assert self.values(self.begun(20_000, target_update_interval=7, learning_starts=3)) == (3, 1.0, 7, 1e-3)
        assert self.values(self.begun(20_000, learning_rate=1e-3)) == (1000, 0.01, 1, 1e-4)
        assert self.values(self.begun(20_000, 1e-3, 1e-4)) == (1000, 0.01, 1, 1e-4)  # by position
        assert self.values(self.begun(20_000, learning_starts=10_000)) == (10_000, 0.01, 1, 1e-3)

    def test_runs_after_one_another(self, tmp_path: Path) -> None:
        model = self.begun(20_000)
        model._setup_learn(500_000)
        assert self.values(model) == (10_000, 1.0, 1000, 1e-4) and model.chosen == {}
        model.learning_starts = 77
        model._setup_learn(20_000)
        assert self.values(model) == (77, 0.01, 1, 1e-3)
        model.save(tmp_path / "model")
        again = ContinuousSQL.load(tmp_path / "model", env=Scripted(), tau=0.3)
        again._setup_learn(300_000)
        assert self.values(again) == (77, 0.3, 1, 1e-4)

    def test_advice(self) -> None:
        with pytest.warns(UserWarning, match="This run of 500 steps cannot learn much: There is no update, because.*600"):
            self.begun(500, learning_starts=600)
        with pytest.warns(UserWarning, match="The target critics are copied 4 times, every 100 updates.*tau=0.01"):
            self.begun(1000, learning_starts=200, target_update_interval=100, train_freq=2)


# The examples


def test_the_example(tmp_path: Path) -> None:
    """From training to the picture, and that a second call only shows what is there."""
    pytest.importorskip("rliable", reason="pip install 'sb3-mirl[plots]'")
    module = importlib.import_module("reproduce_multigoal")
    told = list[int]()
    for agent, timesteps in (("sql", 240), ("ddpg", 120), ("sql", 240)):
        module.train(module.Run(module.ENV, agent, 0), timesteps, tmp_path, told.append)
    assert sum(told) == 240 + 120, "the second time there is nothing left to do"
    with pytest.raises(KeyboardInterrupt):
        module.train(module.Run(module.ENV, "ddpg", 1), 120, tmp_path, lambda steps: True)
    assert not module.is_done(module.Run(module.ENV, "ddpg", 1), tmp_path)
    rows = pd.read_csv(tmp_path / module.Run(module.ENV, "sql", 0).folder / "rows.csv")
    assert rows["step"].tolist() == [30 * i for i in range(1, 9)] + [240, 240]
    np.testing.assert_allclose(rows[module.SHARES].sum(axis=1), 1)
    assert rows["algo"].tolist() == ["sql"] * 9 + ["sql_q"] and rows["value_error"].notna().sum() == 1
    solution = solve(10.0, spacing=1.0, n_actions=9)
    module.draw(tmp_path, rows, solution, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000
    sure = {name: [0.25, 0.1] for name in module.SHARES[:4]}
    table = module.table(pd.DataFrame({"seed": [0, 1], "algo": "sql", "step": 5, **sure, "none": [0.0, 0.6],
                                       "return": [-190.0, -210.0], "length": 10.0, "value_error": np.nan}))  # fmt: skip
    assert "| sql | 2 | 1 / 2 / 2 | 0.175 (0.100) | 4.0 | 0.300 | -200 ± 14 | 10.0 |  |" in table


def test_the_exact_q_of_the_example() -> None:
    module = importlib.import_module("reproduce_multigoal")
    solution = solve(10.0, spacing=0.5, n_actions=11)
    position = np.array([[1.3, -0.7], [4.2, 0.4]])
    velocity = np.stack(np.meshgrid(solution.actions, solution.actions, indexing="ij"), -1).reshape(-1, 2)
    rows = np.concatenate([np.repeat(position, 121, 0), np.tile(velocity, (2, 1))], 1)
    with th.no_grad():
        q = module.ExactQ(solution)(th.as_tensor(rows, dtype=th.float32)).reshape(2, 11, 11)
    np.testing.assert_allclose(q, solution.q(position), atol=1e-3)


def test_fine_tuning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("rliable", reason="pip install 'sb3-mirl[plots]'")
    module = importlib.import_module("finetune_multigoal")
    monkeypatch.setattr(module, "budget", lambda algo, env: 150)
    rows = []
    for agent in module.AGENTS:
        run = module.Run(module.ENV, agent, 1)
        module.train(run, tmp_path / "four", 140, tmp_path / "fine", lambda steps: None)
        rows.append(pd.read_csv(tmp_path / "fine" / run.folder / "rows.csv"))
        assert rows[-1]["step"].tolist() == [7 * i for i in range(21)] and (rows[-1]["goal"] == 1).all()
    model = module.make("sql", 1, 1, tmp_path / "four")
    assert (
        model.policy.ent_coef.item() == 10
        and model.n_noise_final == 1
        and model.env.get_attr("goals")[0].tolist() == [[-5, 0]]
    )
    both = pd.concat([*rows, *(part.assign(seed=2) for part in rows)])
    both["return"] += both["seed"] * both["step"] * 0.01
    text = module.summary(both)
    assert "sql - sac, last:" in text and "n = 2" in text
    module.draw(both, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


# The RL Zoo

TASKS = {"default", "Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3", "MirlMultiGoal-v0"}
TASKS |= {f"{name}-v{version}" for name in ("HalfCheetah", "Hopper", "Walker2d", "Swimmer") for version in (4, 5)}


def test_shipped_hyperparameters() -> None:
    values = hyperparameters("continuoussql", "MirlMultiGoal-v0")
    model = ContinuousSQL(env="MirlMultiGoal-v0", **{**values, "buffer_size": 100})
    assert model.ent_coef == 10 and budget("continuoussql", "MirlMultiGoal-v0") == 34_000
    assert hyperparameters("continuoussql", "Swimmer-v4")["ent_coef"] == pytest.approx(1 / 30, abs=1e-4)
    assert hyperparameters("continuoussql", "Walker2d-v5")["ent_coef"] == 0.1


class TestZoo:
    @pytest.fixture(autouse=True)
    def _zoo(self) -> None:
        pytest.importorskip("rl_zoo3", reason="pip install 'sb3-mirl[zoo]'")

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
        task = ("--algo", "continuoussql", "--env", "Pendulum-v1")
        tiny = ("--eval-freq", "-1", "-params", "buffer_size:1000", "learning_starts:60", "policy_kwargs:dict(net_arch=[8])")
        call("train", *task, "-n", "150", "--save-freq", "100", *tiny)
        run = Path("logs/continuoussql/Pendulum-v1_1")
        first = ContinuousSQL.load(run / "Pendulum-v1.zip")
        assert first.num_timesteps == 150 and first.tau == 0.01
        call("train", *task, "-n", "190", "-i", str(run), *tiny)
        assert "Resuming" in capsys.readouterr().out
        second = ContinuousSQL.load("logs/continuoussql/Pendulum-v1_2/Pendulum-v1.zip")
        assert second.num_timesteps == 190 and second._n_updates > first._n_updates
        call("enjoy", *task, "-f", "logs", "--no-render", "-n", "210")

    def test_search_samples_what_the_algorithm_takes(self) -> None:
        import optuna
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

        import sb3_mirl.zoo  # noqa: F401

        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(10):
            trial = study.ask()
            sampled = HYPERPARAMS_SAMPLER["continuoussql"](trial, 1, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
            assert set(sampled) <= set(inspect.signature(ContinuousSQL).parameters)
            assert HYPERPARAMS_CONVERTER["continuoussql"](trial.params) == sampled
            assert 1e-3 <= sampled["ent_coef"] <= 10 and sampled["target_update_interval"] == 1
        ContinuousSQL("MlpPolicy", "Pendulum-v1", **{**SMALL, **sampled, "buffer_size": 100})

    def test_configurations(self) -> None:
        import yaml

        from sb3_mirl.hyperparameters import CONFIGS

        config: dict[str, dict[str, Any]] = yaml.safe_load((CONFIGS / "continuoussql.yml").read_text())
        assert set(config) == TASKS
        known = set(inspect.signature(ContinuousSQL).parameters) | {"n_timesteps"}
        for task, values in config.items():
            assert not set(values) - known, task
            assert not [value for value in values.values() if isinstance(value, str) and value[0].isdigit()], task
            assert values["ent_coef"] > 0 and values["sampler_learning_rate"], task

    def test_mujoco(self) -> None:
        pytest.importorskip("mujoco", reason="pip install 'sb3-mirl[zoo]'")
        model = sql(gym.make("Swimmer-v5")).learn(70)
        assert model._n_updates == 20
