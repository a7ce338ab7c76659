"""Trainings that a callback ends: the last step is kept, and the next ``learn`` goes on from there."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_mirl import MIRL, ResumableCheckpoint, SoftDQN
from sb3_mirl.common.algorithm import GuardedAlgorithm
from tests.conftest import SMALL, ScriptedEnv


class Clock(gym.Env[np.ndarray, int]):
    """Observes (episode, step); episodes have ten steps, and reward 1 comes with their last one."""

    observation_space, action_space = gym.spaces.Box(-1, 1e6, (2,)), gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.episode, self.t = -1, 0

    def look(self) -> np.ndarray:
        return np.array([self.episode, self.t], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.look(), {}

    def step(self, action: int) -> Any:
        self.t += 1
        return self.look(), float(self.t == 10), self.t == 10, False, {}


class StopAt(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step


def transitions(model: SoftDQN) -> list[tuple[list[float], list[float], float, float]]:
    memory = model.replay_buffer
    assert memory is not None
    columns = (memory.observations, memory.next_observations, memory.rewards, memory.dones)
    return [
        (s.tolist(), n.tolist(), float(r), float(d))
        for s, n, r, d in zip(*(c[: memory.size(), 0] for c in columns), strict=True)
    ]


STOPS: dict[str, Callable[[], BaseCallback]] = {
    "within": lambda: StopAt(17),
    "end": lambda: StopAt(20),
    "episodes": lambda: StopTrainingOnMaxEpisodes(2),
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_memory_is_that_of_a_training_that_was_not_stopped(stop: str, n_steps: int) -> None:
    arguments: dict[str, Any] = dict(learning_starts=1000, buffer_size=100, seed=0, n_steps=n_steps, train_freq=1)
    whole = MIRL("MlpPolicy", Clock(), **arguments).learn(33)
    model = MIRL("MlpPolicy", Clock(), **arguments).learn(1000, callback=STOPS[stop]())
    stopped_at = model.num_timesteps
    assert stopped_at in (17, 20) and len(transitions(model)) == stopped_at
    model.learn(33 - stopped_at, reset_num_timesteps=False)
    assert transitions(model) == transitions(whole)
    assert [r for _, _, r, _ in transitions(model)[:20]] == ([0.0] * 9 + [1.0]) * 2
    assert (model.num_timesteps, model._episode_num) == (whole.num_timesteps, whole._episode_num)
    assert len(model.ep_info_buffer or ()) == 3


def test_folds_counts_and_steps_agree_with_the_memory() -> None:
    model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * 2), exploration="marginal", **SMALL)
    for _ in range(3):
        model.learn(200, callback=StopAt(model.num_timesteps + 61), reset_num_timesteps=False)
    assert model.replay_buffer is not None and model.prior_callback is not None
    assert model.num_timesteps == 2 * model.replay_buffer.size() == model.policy.action_counts.sum()
    assert model.prior_callback.n_calls == model.replay_buffer.size()


def stacked(n_envs: int) -> VecFrameStack:
    env = DummyVecEnv([lambda: Monitor(FakeImageEnv(4, 36, 36, channel_first=True))] * n_envs)
    return VecFrameStack(env, 4, channels_order="first")


@pytest.mark.parametrize("how", ["callback", "ctrl-c", "reward"])
def test_stacks_of_frames_go_on(how: str, tmp_path: Path) -> None:
    """The stacks of the next step do not fit what was stored, if a step is missing between them."""
    model = MIRL("CnnPolicy", stacked(2), learning_starts=10, buffer_size=500, batch_size=4, seed=0)
    checkpoint = ResumableCheckpoint(tmp_path, 1000)
    callbacks: dict[str, list[Any]] = {
        "callback": [StopAt(20)],
        "ctrl-c": [lambda *_: model.num_timesteps != 20 or signal.raise_signal(signal.SIGINT) or True, checkpoint],
        "reward": [
            EvalCallback(stacked(1), eval_freq=10, n_eval_episodes=1, callback_on_new_best=StopTrainingOnRewardThreshold(-1e9))
        ],
    }
    model.learn(400, callback=callbacks[how])
    assert model.num_timesteps < 40 and checkpoint.interrupted == (how == "ctrl-c")
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer is not None and model.replay_buffer.size() == model.num_timesteps // 2


class GuardedA2C(GuardedAlgorithm, A2C):
    pass


def test_on_policy_algorithms_stay_in_step() -> None:
    env = Clock()
    model = GuardedA2C("MlpPolicy", env, n_steps=4, device="cpu").learn(100, callback=StopAt(10))
    np.testing.assert_array_equal(model._last_obs, [env.look()])
    assert model._last_episode_starts.all() and len(model.ep_info_buffer or ()) == 1  # type: ignore[union-attr]
    seen: list[Any] = []
    model.learn(4, callback=lambda local, _: seen.append(local["obs_tensor"].tolist()) or True, reset_num_timesteps=False)
    assert seen[0] == [[1.0, 0.0]], "the second episode goes on from its first observation"


def test_no_updates_change_nothing() -> None:
    for path in ("fast", "eager"):
        model = MIRL("MlpPolicy", ScriptedEnv(), update_path=path, **SMALL).learn(100)  # type: ignore[arg-type]
        before, updates = {k: v.clone() for k, v in model.policy.state_dict().items()}, model._n_updates
        model.train(gradient_steps=0, batch_size=8)
        assert all(v.equal(before[k]) for k, v in model.policy.state_dict().items()) and model._n_updates == updates
