"""How the agents act: greedy actions, one coin per environment, and what random actions are drawn from."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.soft_dqn import SoftQPolicy
from tests.conftest import ScriptedEnv


def skewed(model: SoftDQN, prior: list[float], beta: float) -> SoftDQN:
    model.policy.log_prior.copy_(th.tensor(prior, dtype=th.float64).log())
    model.policy.beta.fill_(beta)
    return model


def test_greedy_action_weighs_prior_and_values(small: dict[str, Any]) -> None:
    model = skewed(MIRL("MlpPolicy", ScriptedEnv(), **small), [0.05, 0.15, 0.8], beta=2.0)
    obs = np.random.default_rng(0).uniform(-1, 1, (200, 4)).astype(np.float32)
    q = model.q_net(th.from_numpy(obs)).detach().numpy()
    expected = (model.policy.log_prior.numpy() + 2.0 * q).argmax(1)
    actions, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(actions, expected)
    assert (expected != q.argmax(1)).any(), "the prior should matter in this test"


@pytest.mark.parametrize("beta", [1e-3, 1.0, 1e8, math.inf])
def test_all_ways_to_act_agree(small: dict[str, Any], tmp_path: Any, beta: float) -> None:
    model = skewed(MIRL("MlpPolicy", ScriptedEnv(), **small), [0.2, 0.0, 0.8], beta)
    obs = np.random.default_rng(1).uniform(-1, 1, (50, 4)).astype(np.float32)
    actions, _ = model.predict(obs, deterministic=True)
    model.policy.save(tmp_path / "policy.pth")
    alone = SoftQPolicy.load(tmp_path / "policy.pth")
    np.testing.assert_array_equal(actions, model.policy.predict(obs)[0])
    np.testing.assert_array_equal(actions, alone.predict(obs)[0])
    assert 1 not in actions, "an action outside the support of the prior was chosen"
    assert model.predict(obs[0], deterministic=True)[0].shape == ()

    model.exploration_rate = 0.0
    env = DummyVecEnv([lambda: ScriptedEnv(length=10)])
    env.seed(3)
    greedy = evaluate_policy(model, env, n_eval_episodes=3, deterministic=True, warn=False)
    env.seed(3)
    assert evaluate_policy(alone, env, n_eval_episodes=3, deterministic=True, warn=False) == greedy


def test_each_environment_throws_its_own_coin(small: dict[str, Any]) -> None:
    model = skewed(MIRL("MlpPolicy", ScriptedEnv(), **small), [0.5, 0.5, 0.0], beta=math.inf)
    model.policy.log_prior.fill_(-math.log(3))
    obs = np.repeat(np.zeros((1, 4), np.float32), 4000, axis=0)
    greedy = model.predict(obs, deterministic=True)[0][0]
    model.exploration_rate = 0.3
    np.random.seed(0)
    actions, _ = model.predict(obs)
    random_share = (actions != greedy).mean() * 3 / 2  # a third of the random actions is the greedy one
    assert random_share == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_mirl_explores_from_its_prior(small: dict[str, Any], mix: float) -> None:
    prior = np.array([0.1, 0.2, 0.7])
    model = skewed(MIRL("MlpPolicy", ScriptedEnv(), exploration_mix=mix, **small), prior.tolist(), beta=1.0)
    model.exploration_rate = 1.0
    np.random.seed(0)
    actions, _ = model.predict(np.zeros((20_000, 4), np.float32))
    expected = (1 - mix) * prior + mix / 3
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 20_000, expected, atol=0.015)


def test_marginal_exploration_uses_executed_actions(small: dict[str, Any]) -> None:
    model = SoftDQN("MlpPolicy", DummyVecEnv([ScriptedEnv] * 2), exploration="marginal", **small)
    taken: list[np.ndarray] = []
    model.learn(200, callback=lambda variables, _: taken.append(variables["actions"].copy()) is None)
    counts = np.bincount(np.concatenate(taken), minlength=3)
    np.testing.assert_array_equal(model.policy.action_counts.numpy(), counts)
    np.testing.assert_allclose(model.exploration_probs(), counts / counts.sum())


def test_uniform_exploration_ignores_what_was_executed(small: dict[str, Any]) -> None:
    model = SoftDQN("MlpPolicy", ScriptedEnv(), **small).learn(100)
    np.testing.assert_allclose(model.exploration_probs(), np.full(3, 1 / 3))
    np.testing.assert_allclose(model.prior, np.full(3, 1 / 3))


def test_single_observation_explores_with_scalar_actions(small: dict[str, Any]) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), **small)
    model.exploration_rate = 1.0
    action, _ = model.predict(np.zeros(4, np.float32))
    assert action.shape == () and model.action_space.contains(action)
