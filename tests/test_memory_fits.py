"""A loaded replay memory does not replace what the model was told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from stable_baselines3.her import HerReplayBuffer

from sb3_mirl import MIRL
from tests.conftest import SMALL, ScriptedEnv


def mirl(env: Any, policy: str = "MlpPolicy", **changed: Any) -> MIRL:
    return MIRL(policy, env, **{**SMALL, "buffer_size": 300, **changed})


def images(stack: int = 4) -> VecFrameStack:
    env = DummyVecEnv([lambda: FakeImageEnv(4, 36, 36, channel_first=True)])
    return VecFrameStack(env, stack, channels_order="first")


IMAGES: dict[str, Any] = dict(policy="CnnPolicy", policy_kwargs={}, learning_starts=1000)
CASES: dict[str, tuple[Any, Any, str]] = {
    "environments": (
        lambda: mirl(make_vec_env("CartPole-v1", 1)),
        lambda: mirl(make_vec_env("CartPole-v1", 3)),
        "it has environments=1, the model environments=3. Make the model with .*, or start with an empty memory",
    ),
    "returns": (lambda: mirl(ScriptedEnv(), n_steps=3), lambda: mirl(ScriptedEnv()), "it has (class|n_steps)="),
    "discount": (
        lambda: mirl(ScriptedEnv(), n_steps=3, gamma=0.5), lambda: mirl(ScriptedEnv(), n_steps=3), "gamma=0.5, .*gamma=0.99"
    ),
    "observations": (lambda: mirl("CartPole-v1"), lambda: mirl(ScriptedEnv()), "it has observation_space="),
    "actions": (lambda: mirl(ScriptedEnv()), lambda: mirl(ScriptedEnv(n_actions=2)), "it has action_space=Discrete.3."),
    "stack": (lambda: mirl(images(2), **IMAGES), lambda: mirl(images(4), **IMAGES), "it has (frame_stack|observation_space)="),
    "hindsight": (
        lambda: mirl(BitFlippingEnv(n_bits=4), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer),
        lambda: mirl(BitFlippingEnv(n_bits=4), "MultiInputPolicy"),
        "it has class='HerReplayBuffer', the model class='DictReplayBuffer'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_changes_the_algorithm_is_refused(name: str, tmp_path: Path) -> None:
    saver, loader, message = CASES[name]
    saver().learn(30).save_replay_buffer(tmp_path / "memory")
    model = loader()
    own = model.replay_buffer
    with pytest.raises(ValueError, match=message):
        model.load_replay_buffer(tmp_path / "memory")
    assert model.replay_buffer is own


def test_another_capacity_is_adopted_with_a_warning(tmp_path: Path) -> None:
    mirl(ScriptedEnv()).learn(52).save_replay_buffer(tmp_path / "memory")
    model = mirl(ScriptedEnv(), buffer_size=100)
    with pytest.warns(UserWarning, match="room for 300 transitions and is used with that, in place of buffer_size=100"):
        model.load_replay_buffer(tmp_path / "memory")
    assert model.learn(100).replay_buffer.size() == 152  # type: ignore[union-attr]


def test_the_same_transitions_laid_out_otherwise_are_taken(tmp_path: Path) -> None:
    """SB3's buffer and ours draw the same samples."""
    dqn = DQN("CnnPolicy", images(), buffer_size=300, learning_starts=1000, seed=0).learn(40)
    dqn.save_replay_buffer(tmp_path / "memory")
    model = mirl(images(), **IMAGES)
    model.load_replay_buffer(tmp_path / "memory")
    assert type(model.replay_buffer) is type(dqn.replay_buffer)
    model.learn(20)


def test_something_else_is_refused(tmp_path: Path) -> None:
    model = mirl(ScriptedEnv())
    np.save(tmp_path / "x.npy", np.ones(3), allow_pickle=True)
    import pickle

    (tmp_path / "memory.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="does not hold a replay memory but a list"):
        model.load_replay_buffer(tmp_path / "memory")


def test_a_model_that_only_acts_may_be_given_its_memory(tmp_path: Path) -> None:
    model = mirl(ScriptedEnv()).learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = MIRL.load(tmp_path / "model")
    loaded.load_replay_buffer(tmp_path / "memory")
    assert loaded.replay_buffer is not None and loaded.replay_buffer.size() == 60
