"""What must not grow, overflow or die in a run of any length."""

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from sb3_mirl.common import algorithm, prior_callback
from sb3_mirl.tabular import TabularMIRL
from tests.conftest import ScriptedEnv


class MemoryCallback(BaseCallback):
    """Bytes that Python and NumPy hold, and the number of tensors, at some environment steps."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.steps = list(steps)
        self.bytes: list[int] = []
        self.tensors: list[int] = []

    def _on_step(self) -> bool:
        if self.steps and self.num_timesteps >= self.steps[0]:
            self.steps.pop(0)
            gc.collect()
            self.bytes.append(tracemalloc.get_traced_memory()[0])
            self.tensors.append(sum(issubclass(type(thing), th.Tensor) for thing in gc.get_objects()))
        return True


def test_memory_is_flat_once_the_buffers_are_full(small: dict[str, Any], tmp_path: Path) -> None:
    memory = MemoryCallback(4_000, 8_000, 12_000, 16_000)
    # not Monitor, which keeps return, length and time of every episode
    env = VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 4))
    model = MIRL("MlpPolicy", env, train_freq=4, tensorboard_log=str(tmp_path), **small)
    prior = PriorCallback(max_points=100)
    tracemalloc.start()
    try:
        model.learn(16_000, callback=[memory, prior])
    finally:
        tracemalloc.stop()
    # the least of three: a leak is in all of them, and a thread of an earlier test may still be busy in one
    assert min(np.diff(memory.bytes)) < 20_000, "1000 calls of step left more than 20 bytes each"
    assert min(np.diff(memory.tensors)) <= 50, "more than the history's"
    assert len(prior.history["timesteps"]) <= 100 and len(model.ep_info_buffer or ()) == 100


@pytest.mark.parametrize("cls", [SoftDQN, MIRL])
def test_log_files_are_bounded_however_short_the_episodes(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type[SoftDQN]
) -> None:
    monkeypatch.setattr(algorithm, "LOG_ENTRIES", 20)
    monkeypatch.setattr(prior_callback, "FIGURES", 1)  # one picture of the prior, of 30 kB
    env = DummyVecEnv([lambda: Monitor(ScriptedEnv(length=1))] * 8)
    model = cls("MlpPolicy", env, tensorboard_log=str(tmp_path), **small).learn(4000)
    assert model._episode_num == 4000
    (file,) = (tmp_path / f"{cls.__name__}_1").iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/beta")]
    assert 18 <= len(steps) <= 20 and min(np.diff(steps)) >= 200 and steps[-1] > 3800
    assert file.stat().st_size < 20 * 1000 + 40_000


class LoggedSteps(KVWriter):
    """The environment steps at which log entries are written."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.steps.append(step)


@pytest.mark.parametrize("log_interval", [1, 4])
def test_short_runs_are_logged_as_often_as_in_sb3(small: dict[str, Any], log_interval: int) -> None:
    logs = []
    for cls in (DQN, MIRL):
        model, log = cls("MlpPolicy", DummyVecEnv([lambda: ScriptedEnv(length=5)] * 2), **small), LoggedSteps()
        model.set_logger(Logger(None, [log]))
        model.learn(200, log_interval=log_interval)
        logs.append(log.steps)
    assert logs[0] == logs[1] and len(logs[0]) == 40 // log_interval


def test_tabular_records_keep_what_they_say() -> None:
    agent = TabularMIRL("MirlSquare-v0", seed=0).learn(200_000)
    kept = sum(value.nbytes for value in vars(agent.records).values() if isinstance(value, np.ndarray))
    assert kept == 24 * len(agent.records.episode_returns) > 0
    assert all(array.base is None for array in vars(agent.records).values() if isinstance(array, np.ndarray))


class ConstantRewardEnv(ScriptedEnv):
    """The same observation and reward for ever."""

    def __init__(self, reward: float) -> None:
        super().__init__()
        self.reward = reward

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        *_, terminated, truncated, info = super().step(action)
        return np.zeros(4, np.float32), self.reward, terminated, truncated, info


def test_beta_stays_at_its_bound_where_the_loss_reaches_zero(small: dict[str, Any]) -> None:
    small.update(learning_rate=1e-2, gamma=0.0, beta_lr=0.5)
    model = MIRL("MlpPolicy", ConstantRewardEnv(0.0), **small).learn(1500)
    assert model.mean_loss is not None and model.mean_loss.item() < 1e-5
    assert model.beta == pytest.approx(model.beta_max) and model.beta <= model.beta_max
    assert np.isfinite(model.beta_max_q) and np.isfinite(model.prior).all()


def test_values_of_a_million_stay_finite(small: dict[str, Any]) -> None:
    model = MIRL("MlpPolicy", ConstantRewardEnv(1e6), beta_schedule="constant", beta_init=1e3, prior_lr=0.1, **small)
    with th.no_grad():
        for net in (model.q_net, model.q_net_target):
            net.q_net[-1].bias.copy_(th.tensor([1e6, 2e6, -1e6]))
    model.learn(1000)
    assert model.rollout_q_values is not None and model.rollout_q_values.abs().max() > 1e5
    assert th.isfinite(model.rollout_q_values).all() and np.isfinite(model.beta_max_q)
    assert model.mean_loss is not None and th.isfinite(model.mean_loss)
    assert model.prior.sum() == pytest.approx(1) and np.isfinite(model.prior).all()


def test_no_action_dies_under_the_fastest_prior(small: dict[str, Any]) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), beta_schedule="constant", beta_init=1e8, prior_lr=1.0, **small).learn(500)
    assert model.prior.min() == pytest.approx(1e-8, rel=1e-3) and model.prior.max() > 0.99
