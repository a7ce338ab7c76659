"""What a saved model carries, and what continuing continues."""

import base64
import json
import math
import zipfile
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from tests.conftest import ScriptedEnv


@pytest.fixture
def trained(small: dict[str, Any]) -> MIRL:
    return MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * 2), prior_lr=0.01, beta_init=2.0, **small).learn(300)


@pytest.mark.parametrize("with_env", [False, True])
def test_save_and_load_carry_beta_and_prior_exactly(trained: MIRL, tmp_path: Any, with_env: bool) -> None:
    trained.save(tmp_path / "model")
    loaded = MIRL.load(tmp_path / "model", env=DummyVecEnv([ScriptedEnv]) if with_env else None, device="cpu")
    assert loaded.beta == trained.beta != 2.0
    assert th.equal(loaded.policy.log_prior, trained.policy.log_prior)
    assert loaded.exploration_rate == trained.exploration_rate and loaded.num_timesteps == 300
    obs = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], trained.predict(obs, deterministic=True)[0])
    assert loaded.prior_lr == 0.01


def test_loading_for_inference_allocates_no_replay_memory(small: dict[str, Any], tmp_path: Any) -> None:
    MIRL("MlpPolicy", ScriptedEnv(), **small).save(tmp_path / "model")
    loaded = MIRL.load(tmp_path / "model")
    assert loaded.replay_buffer is None
    loaded.set_env(DummyVecEnv([ScriptedEnv]))
    loaded.learn(60)
    assert loaded.replay_buffer is not None and loaded.replay_buffer.size() == 60


def test_no_tensor_is_saved_outside_the_state_dicts(trained: MIRL, tmp_path: Any) -> None:
    """Pickled with an attribute it would need the device it was on, and a model from a GPU would not load on a CPU."""
    trained.save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
    pickles = {name: base64.b64decode(value[":serialized:"]) for name, value in data.items() if ":serialized:" in str(value)}
    assert "policy_class" in pickles
    assert not [name for name, pickled in pickles.items() if b"torch._utils" in pickled]


@pytest.mark.parametrize(("saver", "loader"), [(SoftDQN, MIRL), (MIRL, SoftDQN)])
def test_a_file_of_another_class_is_refused_but_lends_its_weights(
    small: dict[str, Any], tmp_path: Any, saver: type[SoftDQN], loader: type[SoftDQN]
) -> None:
    saved = saver("MlpPolicy", ScriptedEnv(), **small).learn(100)
    saved.save(tmp_path / "model")
    name = saver.__name__
    with pytest.raises(ValueError, match=rf"model was saved by {name}, not by {loader.__name__}: load it by {name}.load, or"):
        loader.load(tmp_path / "model")
    other = loader("MlpPolicy", ScriptedEnv(), **small)
    other.load_weights(tmp_path / "model")
    assert other.beta == saved.beta
    assert all(map(th.equal, other.q_net.parameters(), saved.q_net.parameters()))


class OwnMIRL(MIRL):
    pass


def test_files_of_subclasses_are_loaded_with_a_warning(small: dict[str, Any], tmp_path: Any, recwarn: Any) -> None:
    for saver, loader in ((OwnMIRL, MIRL), (MIRL, OwnMIRL)):
        saver("MlpPolicy", ScriptedEnv(), **small).save(tmp_path / "model")
        with pytest.warns(UserWarning, match=f"model was saved by {saver.__name__}, a relative of {loader.__name__}"):
            loaded = loader.load(tmp_path / "model")
        recwarn.clear()
        loaded.save(tmp_path / "again")
        loader.load(tmp_path / "again")
        assert not recwarn, "it is of its loader's class now"
    with pytest.raises(ValueError, match="saved by OwnMIRL, not by SoftDQN"):
        OwnMIRL("MlpPolicy", ScriptedEnv(), **small).save(tmp_path / "own")
        SoftDQN.load(tmp_path / "own")


def test_a_dqn_file_gives_a_clear_error(small: dict[str, Any], tmp_path: Any) -> None:
    dqn = DQN("MlpPolicy", ScriptedEnv(), **small)
    dqn.save(tmp_path / "dqn")
    with pytest.raises(ValueError, match=r"another algorithm than MIRL: its policy is of stable_baselines3.dqn"):
        MIRL.load(tmp_path / "dqn")
    model = MIRL("MlpPolicy", ScriptedEnv(), **small)
    model.policy.load_state_dict(dqn.policy.state_dict(), strict=False)  # the advice
    assert all(map(th.equal, model.q_net.parameters(), dqn.q_net.parameters()))


@pytest.mark.parametrize("reload", [False, True])
def test_continuing_continues_epsilon_beta_and_prior(small: dict[str, Any], tmp_path: Any, reload: bool) -> None:
    kwargs = dict(prior_lr=0.01, exploration_fraction=0.9, exploration_final_eps=0.1, beta_init=2.0, **small)
    model = MIRL("MlpPolicy", ScriptedEnv(), **kwargs).learn(400)
    epsilon, beta, prior = model.exploration_rate, model.beta, model.prior
    assert epsilon == pytest.approx(0.1)
    if reload:
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        model = MIRL.load(tmp_path / "model", env=ScriptedEnv())
        model.load_replay_buffer(tmp_path / "buffer")
    seen: list[float] = []
    model.learn(4, reset_num_timesteps=False)
    assert model.num_timesteps == 404
    assert model.exploration_rate == epsilon, "SB3's schedule alone would raise epsilon again"
    assert model.beta == pytest.approx(beta, rel=1e-3)
    np.testing.assert_allclose(model.prior, prior, atol=0.04)
    model.learn(200, reset_num_timesteps=False, callback=lambda *_: seen.append(model.exploration_rate) is None)
    assert max(seen) <= epsilon
    seen.clear()
    model.learn(100, callback=lambda *_: seen.append(model.exploration_rate) is None)
    assert max(seen) > 0.9, "a new run starts to explore afresh"


def test_history_goes_on_when_a_run_is_continued(small: dict[str, Any], tmp_path: Any) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), **small).learn(100)
    model.learn(52, reset_num_timesteps=False)
    assert model.prior_callback is not None
    history = model.prior_callback.history
    np.testing.assert_array_equal(history["timesteps"], np.arange(51, 153))
    own = PriorCallback()
    model.learn(100, callback=own)
    own.save(tmp_path / "sub" / "prior.npz")
    with np.load(tmp_path / "sub" / "prior.npz") as saved:
        assert list(saved["actions"]) == ["NOOP", "FIRE", "RIGHT"]
        np.testing.assert_array_equal(saved["timesteps"], np.arange(51, 101))
        assert saved["prior"].shape == (50, 3)


@pytest.mark.parametrize("saved", ["eager", "fast"])
def test_optimizer_state_follows_the_memory_layout(small: dict[str, Any], tmp_path: Any, saved: str) -> None:
    """The paths lay out the convolutions differently; a model of either goes on alike in both."""
    images = dict(observation_space=spaces.Box(0, 255, (4, 36, 36), np.uint8), action_space=spaces.Discrete(3))
    env = FakeImageEnv(3, screen_height=36, screen_width=36, n_channels=4, channel_first=True)
    small.pop("policy_kwargs")
    SoftDQN("CnnPolicy", env, update_path=saved, **small).learn(80).save(tmp_path / "model")
    weights = []
    for path in ("eager", "fast"):
        model = SoftDQN.load(tmp_path / "model", env=env, update_path=path)
        model.replay_buffer = ReplayBuffer(32, **images, device="cpu")  # type: ignore[arg-type]
        rng = np.random.default_rng(0)
        for _ in range(32):
            obs, next_obs = rng.integers(0, 256, (2, 1, 4, 36, 36), dtype=np.uint8)
            model.replay_buffer.add(obs, next_obs, rng.integers(0, 3, 1), rng.normal(size=1), np.zeros(1), [{}])
        np.random.seed(0)
        model._logger = Logger(None, [])
        model.train(gradient_steps=3, batch_size=8)
        weights.append(th.cat([p.detach().flatten() for p in model.q_net.parameters()]))
    th.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_infinite_beta_survives(small: dict[str, Any], tmp_path: Any) -> None:
    SoftDQN("MlpPolicy", ScriptedEnv(), beta_schedule="constant", beta_init=math.inf, **small).save(tmp_path / "m")
    assert SoftDQN.load(tmp_path / "m").beta == math.inf
