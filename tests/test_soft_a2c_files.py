"""SoftA2C and SoftPQN: saved and loaded, resumed bit for bit, the same run for the same seed."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_mirl import MIRL, PriorCallback, SoftA2C, SoftPQN, maths
from tests.conftest import ScriptedEnv
from tests.interrupted import assert_equal, whole_and_resumed

SEEDED: dict[str, Any] = dict(seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]))
LEARNED: dict[str, Any] = dict(prior=[0.6, 0.3, 0.1], prior_lr=0.02)
A2C_ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {"learning_rate": lambda progress: 1e-3 * progress},
    "soft q": {"update": "soft_q", **LEARNED, "ent_coef": 0.2, "normalize_advantage": True},
    "discounted": {**LEARNED, "prior_states": "discounted", "gamma": 0.9, "entropy_bonus": True},
}
PQN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "pqn": {},
    "boltzmann": {"exploration": "boltzmann", "beta_init": 2.0, "beta_schedule": "inverse_loss", "beta_lr": 0.01},
    "learned prior": {"prior_lr": 0.02, "beta_init": 2.0, "beta_schedule": "linear", "beta_slope": 0.01},
}
ALL = [(SoftA2C, arguments) for arguments in A2C_ARGUMENTS.values()] + [(SoftPQN, a) for a in PQN_ARGUMENTS.values()]
IDS = [*A2C_ARGUMENTS, *PQN_ARGUMENTS]


def make(env: Any, cls: Any, arguments: dict[str, Any]) -> Any:
    more: dict[str, Any] = dict(n_steps=8, n_minibatches=4, learning_rate=1e-3) if cls is SoftPQN else {}
    return cls("MlpPolicy", env, **{**deepcopy(SEEDED), **more, **arguments})


def scripted() -> VecNormalize:
    return VecNormalize(VecMonitor(DummyVecEnv([ScriptedEnv, partial(ScriptedEnv, length=7)])))


@pytest.mark.parametrize(("cls", "arguments"), ALL, ids=IDS)
def test_resumed_is_uninterrupted(cls: Any, arguments: dict[str, Any], tmp_path: Path) -> None:
    callbacks = (lambda: (PriorCallback(window=30),)) if "prior_lr" in arguments else tuple
    whole, resumed = whole_and_resumed(
        partial(make, cls=cls, arguments=arguments), scripted, tmp_path, 320, 230, 120, callbacks
    )  # type: ignore[type-var]
    assert_equal(whole.policy.state_dict(), resumed.policy.state_dict())
    assert_equal(whole.policy.optimizer.state_dict(), resumed.policy.optimizer.state_dict())
    assert_equal(whole._last_obs, resumed._last_obs)
    assert whole.num_timesteps == resumed.num_timesteps and whole._n_updates == resumed._n_updates
    if "prior_lr" in arguments:
        assert whole.prior_callback is not None and resumed.prior_callback is not None  # type: ignore[attr-defined]
        assert_equal(whole.prior_callback.history, resumed.prior_callback.history)  # type: ignore[attr-defined]
        assert np.ptp(whole.prior_callback.history["prior"], axis=0).max() > 0  # type: ignore[attr-defined]
    if cls is SoftPQN:
        assert whole.exploration_rate == resumed.exploration_rate and whole.beta == resumed.beta
    if arguments.get("prior_states") == "discounted":
        np.testing.assert_array_equal(whole._ages, resumed._ages)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("cls", "arguments"), ALL, ids=IDS)
def test_saved_and_loaded(cls: Any, arguments: dict[str, Any], tmp_path: Path) -> None:
    model = make(DummyVecEnv([ScriptedEnv] * 2), cls, arguments).learn(64)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=DummyVecEnv([ScriptedEnv] * 2), device="cpu")
    assert_equal(loaded.policy.state_dict(), model.policy.state_dict())
    assert_equal(loaded.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    np.testing.assert_array_equal(loaded.prior, model.prior)
    observations = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)
    for deterministic in (True, False):
        th.manual_seed(0)
        expected, _ = model.predict(observations, deterministic=deterministic)
        th.manual_seed(0)
        np.testing.assert_array_equal(loaded.predict(observations, deterministic=deterministic)[0], expected)
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == (140 if cls is SoftA2C else 128)
    acts_only = cls.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(
        acts_only.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    other = make(DummyVecEnv([ScriptedEnv] * 2), cls, {**arguments, "seed": 5})
    other.load_weights(tmp_path / "model.zip")
    assert_equal(other.policy.state_dict(), model.policy.state_dict())


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    env = DummyVecEnv([ScriptedEnv])
    make(env, SoftA2C, {}).save(tmp_path / "a2c")
    A2C("MlpPolicy", env, device="cpu").save(tmp_path / "sb3")
    with pytest.raises(ValueError, match="saved by SoftA2C, not by SoftPQN"):
        SoftPQN.load(tmp_path / "a2c")
    with pytest.raises(ValueError, match="saved by SoftA2C, not by MIRL"):
        MIRL.load(tmp_path / "a2c")
    with pytest.raises(ValueError, match="saved by another algorithm than SoftA2C"):
        SoftA2C.load(tmp_path / "sb3")


@pytest.mark.parametrize(
    ("cls", "name", "value", "message"),
    [
        (SoftA2C, "log_prior", 0.0, "The prior in .* sums to 3 and not to 1"),
        (SoftPQN, "log_prior", 0.0, "The prior in .* sums to 3 and not to 1"),
        (SoftPQN, "beta", -1.0, r"beta in .* is -1.0, this model needs it in \(0, inf\]"),
        (SoftPQN, "q_net.q_net.0.bias", float("nan"), "not finite"),
    ],
)
def test_weights_out_of_range_are_refused(cls: Any, name: str, value: float, message: str, tmp_path: Path) -> None:
    model = make(DummyVecEnv([ScriptedEnv]), cls, {})
    state = {key: tensor.clone() for key, tensor in model.policy.state_dict().items()}
    state[name].fill_(value)
    th.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        model.load_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize(("cls", "arguments"), ALL, ids=IDS)
def test_a_seed_gives_the_same_run(cls: Any, arguments: dict[str, Any]) -> None:
    arguments = {key: value for key, value in arguments.items() if key != "prior"}
    runs = [make(make_vec_env("CartPole-v1", 2), cls, {**arguments, "seed": seed}).learn(160) for seed in (0, 0, 1)]
    assert_equal(runs[0].policy.state_dict(), runs[1].policy.state_dict())
    assert not th.equal(*(th.cat([p.flatten() for p in run.policy.parameters()]) for run in runs[1:]))


def test_the_priors_record_ends_with_the_prior(tmp_path: Path) -> None:
    model = make(DummyVecEnv([ScriptedEnv] * 2), SoftA2C, LEARNED).learn(40)
    assert model.prior_callback is not None
    model.prior_callback.save(tmp_path / "history")
    with np.load(tmp_path / "history.npz") as history:
        assert list(history["actions"]) == ["NOOP", "FIRE", "RIGHT"]
        np.testing.assert_allclose(history["prior"][-1], model.prior)
    assert maths.kl_to_prior(th.as_tensor(model.prior).log(), model.policy.log_prior).abs() < 1e-12
