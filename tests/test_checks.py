"""CheckCallback, for the algorithms of SB3 as for ours."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_mirl import MIRL, CheckCallback, SoftDQN
from tests.conftest import SMALL, ScriptedEnv

BAD = 47


class Continuous(ScriptedEnv):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Box(-1, 1, (2,))  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        return super().step(float(np.sum(action)))  # type: ignore[arg-type]


ALGORITHMS: dict[str, tuple[Callable[..., BaseAlgorithm], type[ScriptedEnv]]] = {
    "dqn": (partial(DQN, "MlpPolicy", learning_starts=20, buffer_size=200, device="cpu"), ScriptedEnv),
    "sac": (partial(SAC, "MlpPolicy", learning_starts=20, buffer_size=200, batch_size=16, device="cpu"), Continuous),
    "ppo": (partial(PPO, "MlpPolicy", n_steps=20, batch_size=20, n_epochs=1, device="cpu"), ScriptedEnv),
    "a2c": (partial(A2C, "MlpPolicy", device="cpu"), ScriptedEnv),
    "mirl": (partial(MIRL, "MlpPolicy", **SMALL), ScriptedEnv),
}


@pytest.mark.parametrize("bad", ["reward", "observation"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_bad_step_is_neither_stored_nor_learned_from(name: str, bad: str) -> None:
    make_model, make_env = ALGORITHMS[name]
    env = VecNormalize(DummyVecEnv([lambda: Monitor(make_env(bad_step=BAD, bad=bad))] * 2))
    model = make_model(env)
    seen: dict[str, Any] = {}

    def look(*_: Any) -> bool:
        seen.update(mean=env.obs_rms.mean.copy(), var=env.ret_rms.var.copy(), step=model.num_timesteps)  # type: ignore[union-attr]
        return True

    callbacks: Any = look if name == "mirl" else [CheckCallback(), ConvertCallback(look)]
    what = "nan" if bad == "reward" else r"inf at step 94 \(index \(0, 2\)\)"
    with pytest.raises(ValueError, match=f"The {bad} of environment 0 is {what}"):
        model.learn(1000, callback=callbacks)
    assert model.num_timesteps == seen["step"] == 2 * (BAD - 1)
    np.testing.assert_array_equal(env.obs_rms.mean, seen["mean"])  # type: ignore[union-attr]
    np.testing.assert_array_equal(env.ret_rms.var, seen["var"])
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    if hasattr(model, "replay_buffer"):
        assert model.replay_buffer.size() == BAD - 1 and np.isfinite(model.replay_buffer.rewards).all()
    model.learn(60, callback=None if name == "mirl" else CheckCallback(), reset_num_timesteps=False)
    assert model.num_timesteps >= 2 * (BAD - 1) + 60 and np.isfinite(env.obs_rms.mean).all()  # type: ignore[union-attr]


def test_the_prior_is_not_folded_in_a_refused_step() -> None:
    priors: list[np.ndarray] = []
    model = MIRL("MlpPolicy", ScriptedEnv(bad_step=BAD + 30), prior_lr=0.1, beta_init=3.0, **SMALL)
    with pytest.raises(ValueError, match="reward of environment 0 is nan"):
        model.learn(1000, callback=lambda *_: priors.append(model.prior) or True)
    assert len(priors) == BAD + 29 == model.num_timesteps and not np.array_equal(priors[-1], priors[0])
    np.testing.assert_array_equal(model.prior, priors[-1])


def test_statistics_survive_a_bad_reset() -> None:
    class BadReset(ScriptedEnv):
        resets = 0

        def reset(self, **kwargs: Any) -> Any:
            self.resets += 1
            observation, info = super().reset(**kwargs)
            return observation * (math.nan if self.resets == 4 else 1.0), info

    env = VecNormalize(DummyVecEnv([partial(BadReset, length=1000)]))
    model = MIRL("MlpPolicy", env, **SMALL).learn(30).learn(30).learn(30)
    before = env.obs_rms.mean.copy()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="is nan at the environment's reset"):
        model.learn(30)
    np.testing.assert_array_equal(env.obs_rms.mean, before)  # type: ignore[union-attr]
    assert np.isfinite(model.learn(30).get_env().reset()).all()  # type: ignore[union-attr, arg-type]


class Fixed(gym.Env[Any, int]):
    """Returns one value as every observation."""

    def __init__(self, space: spaces.Space[Any], value: Any) -> None:
        self.observation_space, self.action_space, self.value = space, spaces.Discrete(2), value

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.value, {}

    def step(self, action: int) -> Any:
        return self.value, 1.0, False, False, {}


def learn(space: spaces.Space[Any], value: Any) -> None:
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    SoftDQN(policy, Fixed(space, value), **SMALL).learn(10)


@pytest.mark.parametrize(
    ("space", "value", "shown"),
    [
        (spaces.MultiBinary(3), np.array([0, 7, 1], np.int8), "7"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "3"),
        (spaces.Discrete(4), 4, "4"),
        (spaces.Dict(a=spaces.MultiBinary(2)), {"a": np.array([0, 2], np.int8)}, "2"),
    ],
    ids=["binary", "multi", "discrete", "dict"],
)
def test_categories_outside_their_space_stop(space: spaces.Space[Any], value: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"is {shown} at the environment's reset.*which is not in"):
        learn(space, value)


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (2,)), spaces.Dict(a=spaces.Box(0, 1, (2,)))], ids=["box", "dict"])
def test_values_outside_the_bounds_of_a_box_only_warn_and_once(space: spaces.Space[Any], recwarn: Any) -> None:
    value = np.array([5.0, -3.0], np.float32)
    learn(space, {"a": value} if isinstance(space, spaces.Dict) else value)
    messages = [str(w.message) for w in recwarn if "outside the bounds" in str(w.message)]
    assert len(messages) == 1 and "of environment 0 is 5.0 at step 1" in messages[0]


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(4, start=1), spaces.Dict(a=spaces.Discrete(4, start=1)), spaces.MultiDiscrete([2, 3], start=[0, 1])],
    ids=["discrete", "dict", "multi"],
)
def test_categories_that_do_not_start_at_0_are_refused_before_any_work(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"SoftDQN needs categories counted from 0, got the observation space .*start="):
        learn(space, None)


def test_sb3s_algorithms_may_have_them() -> None:
    """The range is that of the space: DQN does not stop at what is in it."""
    env = DummyVecEnv([lambda: Fixed(spaces.Discrete(9, start=3), 8)])
    DQN("MlpPolicy", env, buffer_size=50, learning_starts=100).learn(10, callback=CheckCallback())
