"""What a user sees when something is wrong, and that nothing is lost by it."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from tests.conftest import ScriptedEnv


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("beta_schedule", "exponential", "beta_schedule='exponential' is not known.*'inverse_loss', 'linear', 'constant'"),
        ("exploration", "softmax", "'prior', 'uniform', 'marginal'"),
        ("beta_init", 0.0, r"beta_init=0.0 must be a number in \(0, inf\)"),
        ("beta_init", math.inf, r"beta_init=inf must be a number in \(0, inf\)"),
        ("beta_init", math.nan, "beta_init=nan"),
        ("beta_lr", -1e-5, r"beta_lr=-1e-05 must be a number in \[0, 1\]"),
        ("beta_slope", 0, r"beta_slope=0"),
        ("beta_max", -1, r"beta_max=-1"),
        ("prior_lr", 1.5, r"prior_lr=1.5 must be a number in \[0, 1\]"),
        ("prior_lr", "5e-5", "prior_lr='5e-5' must be a number"),
        ("prior_floor", 0.5, r"prior_floor=0.5 must be a number in \[0, 0.333333\]"),
        ("exploration_mix", 2, "exploration_mix=2"),
        ("gamma", 1.1, "gamma=1.1"),
        ("tau", -0.1, "tau=-0.1"),
        ("learning_rate", -1e-4, "learning_rate=-0.0001"),
        ("exploration_final_eps", 1.2, "exploration_final_eps=1.2"),
        ("batch_size", 0, "batch_size=0"),
        ("n_steps", 0, "n_steps=0"),
        ("learning_starts", -1, "learning_starts=-1"),
        ("max_grad_norm", 0, "max_grad_norm=0"),
    ],
)
def test_wrong_arguments_name_value_and_range(small: dict[str, Any], argument: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MIRL("MlpPolicy", ScriptedEnv(), **{**small, argument: value})


def test_wrong_argument_at_load(small: dict[str, Any], tmp_path: Any) -> None:
    MIRL("MlpPolicy", ScriptedEnv(), **small).save(tmp_path / "m")
    with pytest.raises(ValueError, match="prior_lr=-1"):
        MIRL.load(tmp_path / "m", prior_lr=-1)


def test_softdqn_has_no_prior_to_explore_from(small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exploration='prior' is not known, choose from 'uniform', 'marginal'"):
        SoftDQN("MlpPolicy", ScriptedEnv(), exploration="prior", **small)


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(AssertionError, match="only supports.*Discrete.*Box"):
        MIRL("MlpPolicy", "Pendulum-v1")


def test_other_algorithms_policies_are_refused(small: dict[str, Any]) -> None:
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy

    for policy in (DQNPolicy, SACPolicy):
        with pytest.raises(ValueError, match=f"subclass of sb3_mirl.soft_dqn.SoftQPolicy.*{policy.__name__}"):
            MIRL(policy, ScriptedEnv(), **small)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad_step", [90, 100])  # within an episode, and at the end of one
@pytest.mark.parametrize("bad", ["reward", "observation"])
@pytest.mark.parametrize("cls", [SoftDQN, MIRL])
def test_non_finite_input_is_never_stored(small: dict[str, Any], cls: type[SoftDQN], bad: str, bad_step: int) -> None:
    env = DummyVecEnv([ScriptedEnv, lambda: ScriptedEnv(bad_step=bad_step, bad=bad)])
    model = cls("MlpPolicy", env, **small)
    value = "nan" if bad == "reward" else "inf"
    with pytest.raises(ValueError, match=f"The {bad} of environment 1 is {value} at step {2 * bad_step}"):
        model.learn(1000)
    assert model.replay_buffer is not None and model.replay_buffer.pos == bad_step - 1
    assert all(th.isfinite(p).all() for p in model.policy.state_dict().values())


def test_non_finite_first_observation(small: dict[str, Any]) -> None:
    class BadReset(ScriptedEnv):
        def reset(self, **kwargs: Any) -> Any:
            observation, info = super().reset(**kwargs)
            observation[0] = np.nan
            return observation, info

    with pytest.raises(ValueError, match="observation of environment 0 is nan at the environment's reset"):
        MIRL("MlpPolicy", BadReset(), **small).learn(10)


def test_non_finite_dictionary_observation(small: dict[str, Any]) -> None:
    class Keyed(gym.ObservationWrapper[Any, int, np.ndarray]):
        def __init__(self) -> None:
            super().__init__(ScriptedEnv(bad_step=30, bad="observation"))
            self.observation_space = spaces.Dict({"vector": self.env.observation_space})

        def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
            return {"vector": observation}

    with pytest.raises(ValueError, match=r"observation\['vector'\] of environment 0 is inf at step 30"):
        MIRL("MultiInputPolicy", Keyed(), **small).learn(100)


def test_non_finite_q_values_stop_acting(small: dict[str, Any]) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), **small).learn(60)
    with th.no_grad():
        next(iter(model.q_net.parameters())).fill_(math.nan)
    with pytest.raises(ValueError, match="The Q-values are not finite at step 60"):
        model.learn(100, reset_num_timesteps=False)


@pytest.mark.parametrize("where", ["rewards", "target network", "gradient"])
def test_non_finite_loss_does_not_reach_the_weights(small: dict[str, Any], where: str) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), **small).learn(60)
    assert model.replay_buffer is not None
    if where == "rewards":
        model.replay_buffer.rewards[:] = np.inf
    elif where == "target network":
        with th.no_grad():
            next(iter(model.q_net_target.parameters())).fill_(math.inf)
    else:
        next(iter(model.q_net.parameters())).register_hook(lambda g: g * math.nan)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=f"before the weights changed: the .*{where}"):
        model.train(gradient_steps=2, batch_size=8)
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, before[name]), name


def test_prior_callback_arguments() -> None:
    with pytest.raises(ValueError, match="got 1 and 1000"):
        PriorCallback(max_points=1)
