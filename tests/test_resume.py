"""A resumed run is the uninterrupted one, bit for bit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from stable_baselines3.her import HerReplayBuffer

from sb3_mirl import MIRL, PriorCallback, ResumableCheckpoint, SoftDQN, resume
from tests.conftest import SMALL, ScriptedEnv
from tests.interrupted import assert_equal, assert_same, cut_off, whole_and_resumed

# a memory that fills up, warm-up, target updates and falling epsilon in between
ARGUMENTS: dict[str, Any] = {**SMALL, "buffer_size": 200, "prior_lr": 0.01, "exploration_fraction": 0.7, "beta_init": 2.0}


class DictEnv(ScriptedEnv):
    """Observations in a dictionary, drawn in part from the action space, whose generator the model uses too."""

    def __init__(self) -> None:
        super().__init__()
        self.flat_space, self.observation_space = self.observation_space, spaces.Dict({"a": self.observation_space})

    def _observation(self) -> Any:
        return {"a": super()._observation() + 0.01 * float(self.action_space.sample())}


def mirl(env: GymEnv, policy: str = "MlpPolicy", **changed: Any) -> MIRL:
    return MIRL(policy, env, **{**ARGUMENTS, **changed})


def normalized() -> VecNormalize:
    return VecNormalize(VecMonitor(DummyVecEnv([ScriptedEnv, partial(ScriptedEnv, length=7)])))


@pytest.mark.parametrize(
    ("make_env", "changed"),
    [
        (partial(gym.make, "CartPole-v1"), {"learning_rate": lambda progress: 1e-3 * progress}),
        (partial(gym.make, "MirlCorridor-v0"), {"exploration_mix": 0.1, "gradient_steps": -1}),
        (partial(make_vec_env, "CartPole-v1", 3), {"n_steps": 3, "beta_schedule": "linear"}),
        (DictEnv, {"policy": "MultiInputPolicy", "learning_starts": 300}),
        (partial(BitFlippingEnv, n_bits=4), {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer}),
        (normalized, {"exploration": "marginal", "gradient_steps": 1, "train_freq": 1}),
    ],
    ids=["cartpole", "gridworld", "vector-n-step", "dict-warm-up", "hindsight", "normalized"],
)
def test_resumed_is_uninterrupted(make_env: Callable[[], GymEnv], changed: dict[str, Any], tmp_path: Path) -> None:
    whole, resumed = whole_and_resumed(partial(mirl, **changed), make_env, tmp_path)
    assert whole.num_timesteps >= 400
    assert whole._n_updates > 0
    assert_same(whole, resumed)
    if whole.get_vec_normalize_env() is not None:
        one, two = whole.get_vec_normalize_env(), resumed.get_vec_normalize_env()
        assert_equal(vars(one.obs_rms), vars(two.obs_rms))  # type: ignore[union-attr]
        assert_equal(one.returns, two.returns)  # type: ignore[union-attr]


def test_minatar(tmp_path: Path) -> None:
    pytest.importorskip("minatar.gym").register_envs()
    make_env = partial(gym.make, "MinAtar/Breakout-v1")
    model = partial(mirl, learning_starts=100, train_freq=16, batch_size=8)
    assert_same(*whole_and_resumed(model, make_env, tmp_path, total=240, at=180, save_freq=64))


@pytest.mark.atari
def test_single_ale_environments(tmp_path: Path) -> None:
    """Emulators under SB3's wrappers, with sticky actions, in the middle of an episode; frames stored once."""
    pytest.importorskip("ale_py")
    from stable_baselines3.common.env_util import make_atari_env

    def make_env() -> VecFrameStack:
        kwargs = dict(repeat_action_probability=0.25)
        return VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", 2, seed=3, env_kwargs=kwargs), 4)

    policy = dict(features_extractor_kwargs=dict(features_dim=8))
    model = partial(mirl, policy="CnnPolicy", policy_kwargs=policy, gradient_steps=1, train_freq=10, batch_size=4)
    whole, resumed = whole_and_resumed(model, make_env, tmp_path, total=180, at=150, save_freq=100)
    assert type(whole.replay_buffer).__name__ == "FrameReplayBuffer"
    assert_same(whole, resumed)


def test_evaluations_go_on(tmp_path: Path) -> None:
    def callbacks(folder: str) -> tuple[BaseCallback, ...]:
        own = PriorCallback(max_points=20, window=30)
        log = str(tmp_path / folder)
        env = DummyVecEnv([lambda: Monitor(ScriptedEnv())])
        env.seed(5)
        return own, EvalCallback(env, eval_freq=70, n_eval_episodes=2, deterministic=False, log_path=log)

    folders = iter(("whole", "cut", "cut"))
    whole, resumed = whole_and_resumed(mirl, ScriptedEnv, tmp_path / "run", make_callbacks=lambda: callbacks(next(folders)))
    assert_same(whole, resumed)
    one, two = (np.load(tmp_path / name / "evaluations.npz") for name in ("whole", "cut"))
    np.testing.assert_array_equal(one["timesteps"], np.arange(70, 400, 70))
    assert len(np.unique(one["results"])) > len(one["timesteps"]), "episodes of equal returns could not show a difference"
    for key in ("timesteps", "ep_lengths", "results"):
        np.testing.assert_array_equal(one[key], two[key])


class TestSteps:
    """How many steps ``learn`` does after ``resume``."""

    @pytest.fixture
    def resumed(self, tmp_path: Path) -> Any:
        cut_off(mirl(ScriptedEnv()), tmp_path, at=320, total=500, save_freq=100)
        return resume(tmp_path, ScriptedEnv())

    def test_total_is_that_of_the_run(self, resumed: MIRL) -> None:
        assert resumed.num_timesteps == 300
        assert resumed.learn(500).num_timesteps == 500
        # and later calls mean what they mean in SB3
        assert resumed.learn(40, reset_num_timesteps=False).num_timesteps == 540
        assert resumed.learn(60).num_timesteps == 60

    def test_further_steps(self, resumed: MIRL) -> None:
        assert resumed.learn(52, reset_num_timesteps=False).num_timesteps == 352

    def test_nothing_left(self, resumed: MIRL) -> None:
        with pytest.warns(UserWarning, match=r"Nothing is left to do: 300 of 300 steps"):
            assert resumed.learn(300).num_timesteps == 300

    def test_a_longer_run_does_not_raise_epsilon(self, resumed: MIRL) -> None:
        epsilon, seen = resumed.exploration_rate, []
        resumed.learn(5000, callback=lambda *_: seen.append(resumed.exploration_rate) or len(seen) < 50)  # type: ignore[func-returns-value]
        assert max(seen) <= epsilon

    def test_prior_is_known_at_once(self, resumed: MIRL) -> None:
        assert resumed.prior_callback is not None
        np.testing.assert_array_equal(resumed.prior_callback.history["timesteps"], np.arange(51, 301))

    def test_class_and_overrides(self, tmp_path: Path) -> None:
        arguments = {key: value for key, value in ARGUMENTS.items() if key != "prior_lr"}
        SoftDQN("MlpPolicy", "CartPole-v1", **arguments).learn(200, callback=ResumableCheckpoint(tmp_path / "soft"))
        model = resume(tmp_path / "soft", "CartPole-v1", gamma=0.5)
        assert isinstance(model, SoftDQN) and not isinstance(model, MIRL) and model.gamma == 0.5 and model.num_timesteps == 200
