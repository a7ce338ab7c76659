"""Environments that go wrong while an agent learns: what the user sees, and that the work so far is whole."""

import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.tabular import QLearning
from tests.conftest import SMALL, ScriptedEnv

BAD = 90  # the step of the environment that goes wrong; learning starts before


class Faulty(ScriptedEnv):
    """Spoils one step, by a function of (observation, reward)."""

    def __init__(self, spoil: Callable[[Any, Any], tuple[Any, Any]], bad_step: int = BAD, length: int = 20) -> None:
        super().__init__(length)
        self.spoil, self.spoilt_step = spoil, bad_step

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        if self.total == self.spoilt_step:
            observation, reward = self.spoil(observation, reward)
        return observation, reward, *rest  # type: ignore[return-value]


class Counted(gym.Env[Any, Any]):
    """Categories instead of numbers; the table is left at one step."""

    def __init__(self, bad_step: int = 10**9) -> None:
        self.observation_space, self.action_space = spaces.Discrete(5), spaces.Discrete(3)
        self.total, self.bad_step = 0, bad_step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.total += 1
        return 7 if self.total == self.bad_step else self.total % 5, 0.5, self.total % 20 == 0, False, {}


class Keyed(gym.ObservationWrapper[Any, int, np.ndarray]):
    """The observation in a dictionary."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"vector": self.env.observation_space})

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"vector": observation}


def raising(observation: Any, reward: Any) -> Any:
    raise ZeroDivisionError("the simulator diverged")


def nan_at(index: int, value: float, observation: np.ndarray, reward: float) -> Any:
    return np.where(np.arange(4) == index, value, observation).astype(np.float32), reward


ENVS: dict[str, Callable[..., gym.Env[Any, Any]]] = {
    "reward-nan": partial(Faulty, lambda o, r: (o, math.nan)),
    "reward-inf": partial(Faulty, lambda o, r: (o, -math.inf)),
    "reward-none": partial(Faulty, lambda o, r: (o, None)),
    "observation-nan": partial(Faulty, partial(nan_at, 1, math.nan)),
    "observation-inf": partial(Faulty, partial(nan_at, 2, math.inf)),
    "observation-shape": partial(Faulty, lambda o, r: (o[:3], r)),
    "last-reward-nan": partial(Faulty, lambda o, r: (o, math.nan), length=BAD),
    "last-observation-nan": partial(Faulty, partial(nan_at, 3, math.nan), length=BAD),
    "raises": partial(Faulty, raising),
    "category": partial(Counted, BAD),
    "dict-observation": lambda: Keyed(Faulty(partial(nan_at, 2, math.inf))),
}
GOOD: dict[str, Callable[[], gym.Env[Any, Any]]] = {"category": Counted, "dict-observation": lambda: Keyed(ScriptedEnv())}
AT = f"environment 1 is {{}} at step {2 * BAD}"
MESSAGES: dict[str, tuple[type[Exception], str]] = {
    "reward-nan": (ValueError, "The reward of " + AT.format("nan")),
    "reward-inf": (ValueError, "The reward of " + AT.format("-inf")),
    "reward-none": (TypeError, "real number, not .NoneType"),  # of SB3's Monitor
    "observation-nan": (ValueError, "The observation of " + AT.format("nan") + r" \(index \(1, 1\)\).*VecCheckNan"),
    "observation-inf": (ValueError, "The observation of " + AT.format("inf")),
    "observation-shape": (ValueError, r"shape \(3,\) into shape \(4,\)"),  # NumPy's, in SB3's DummyVecEnv
    "last-reward-nan": (ValueError, "The reward of " + AT.format("nan")),
    "last-observation-nan": (ValueError, "The observation of " + AT.format("nan") + r" \(index \(3,\)\)"),
    "raises": (ZeroDivisionError, "the simulator diverged"),
    "category": (ValueError, "The observation of " + AT.format("7") + r".*not in Discrete\(5\)"),
    "dict-observation": (ValueError, r"The observation\['vector'\] of " + AT.format("inf")),
}


def make_model(cls: type[SoftDQN], env: VecEnv, **arguments: Any) -> SoftDQN:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return cls(policy, env, **{**SMALL, **arguments})


def stored(model: SoftDQN) -> list[np.ndarray]:
    """Everything in the replay memory that learning reads."""
    memory = model.replay_buffer
    assert memory is not None
    observations = [memory.observations, memory.next_observations]
    arrays = [a for o in observations for a in (o.values() if isinstance(o, dict) else [o])]  # type: ignore[attr-defined]
    return [np.asarray(a)[: memory.size()] for a in (*arrays, memory.rewards, memory.dones)]


def assert_whole(model: SoftDQN, rows: int, good: VecEnv, path: Path) -> None:
    """Finite weights, ``rows`` finite transitions, and a saved model that goes on learning in a good environment."""
    assert model.replay_buffer is not None and model.replay_buffer.size() == rows
    assert all(np.isfinite(values).all() for values in stored(model))
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    assert not model.ep_info_buffer or np.isfinite([episode["r"] for episode in model.ep_info_buffer]).all()
    model.save(path / "model")
    model.save_replay_buffer(path / "memory")
    loaded = type(model).load(path / "model", env=good, device="cpu")
    loaded.load_replay_buffer(path / "memory")
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, loaded.policy.state_dict()[name]), name
    updates = loaded._n_updates
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded._n_updates > updates > 0
    assert all(th.isfinite(value).all() for value in loaded.policy.state_dict().values())


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("cls", [SoftDQN, MIRL])
def test_one_environment_of_two_goes_wrong(cls: type[SoftDQN], name: str, tmp_path: Path) -> None:
    good = GOOD.get(name, ScriptedEnv)
    model = make_model(cls, DummyVecEnv([lambda: Monitor(good()), lambda: Monitor(ENVS[name]())]))
    error, message = MESSAGES[name]
    before: dict[str, th.Tensor] = {}

    def remember(*_: Any) -> bool:
        before.update({key: value.clone() for key, value in model.q_net.state_dict().items()})
        return True

    with pytest.raises(error, match=message):
        model.learn(1000, callback=remember)
    # the bad step is not the last of a rollout: nothing is learned between it and the callback of the step before
    assert all(th.equal(value, before[key]) for key, value in model.q_net.state_dict().items())
    assert_whole(model, BAD - 1, DummyVecEnv([good] * 2), tmp_path)


def test_the_next_run_begins_with_new_episodes() -> None:
    """The environments are a step ahead of the agent when one of them has raised: that step must not be joined to the next."""
    env = DummyVecEnv([ScriptedEnv, partial(Faulty, raising)])
    model = make_model(MIRL, env, n_steps=3)
    with pytest.raises(ZeroDivisionError):
        model.learn(1000)
    memory = model.replay_buffer
    assert isinstance(memory, NStepReplayBuffer) and env.envs[0].elapsed == BAD % 20
    model.learn(20, reset_num_timesteps=False)
    assert env.envs[0].elapsed == 10, "both were reset"
    row = BAD - 2
    assert memory.timeouts[row].all(), "n-step returns end before the reset"
    assert not memory.timeouts[row - 1].any() and not memory.timeouts[row + 1].any()


@pytest.mark.parametrize("value", [math.nan, 7.0], ids=["nan", "shape"])
def test_first_observation(value: float) -> None:
    class BadReset(ScriptedEnv):
        def reset(self, **kwargs: Any) -> Any:
            observation, info = super().reset(**kwargs)
            return np.full(4, value, np.float32) if math.isnan(value) else observation[:2], info

    message = "is nan at the environment's reset" if math.isnan(value) else r"shape \(2,\) into shape \(4,\)"
    with pytest.raises(ValueError, match=message):
        make_model(MIRL, DummyVecEnv([BadReset])).learn(10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, r: (o[:3], r), rf"observation at step {BAD} has the shape \(1, 3\), its space \(4,\)"),
        (lambda o, r: (o, np.array([r])), rf"rewards at step {BAD} have the shape \(1, 1\) and not \(1,\)"),
    ],
    ids=["observation", "reward"],
)
def test_another_shape_from_worker_processes(change: Callable[[Any, Any], Any], message: str) -> None:
    env = SubprocVecEnv([partial(Faulty, change)], start_method="fork")
    model = make_model(MIRL, env)
    with pytest.raises(ValueError, match=message):
        model.learn(1000)
    env.close()
    assert model.replay_buffer is not None and model.replay_buffer.size() == BAD - 1


def test_episodes_of_one_step() -> None:
    model = make_model(MIRL, DummyVecEnv([partial(ScriptedEnv, length=1)] * 2)).learn(120)
    assert model.replay_buffer is not None and model.replay_buffer.dones[:60].all()
    assert model._n_updates > 0 and math.isfinite(model.beta)


@pytest.mark.parametrize("death", ["killed", "raises"])
def test_worker_process_dies(death: str, tmp_path: Path) -> None:
    faulty = partial(Faulty, raising) if death == "raises" else ScriptedEnv
    env = SubprocVecEnv([ScriptedEnv, faulty], start_method="fork")
    model = make_model(MIRL, env)

    def kill(*_: Any) -> bool:
        if death == "killed" and model.num_timesteps == 2 * (BAD - 1):
            os.kill(env.processes[1].pid or 0, signal.SIGKILL)
            env.processes[1].join()
        return True

    how = "killed by SIGKILL, as Linux does when memory runs out" if death == "killed" else "exit code 1; its own error"
    with pytest.raises(RuntimeError, match=rf"process of environment 1 died at step {2 * (BAD - 1)}: {how}.*set_env\(env\)"):
        model.learn(1000, callback=kill)
    env.close()  # would wait for ever for an answer of the dead
    assert not any(process.is_alive() for process in env.processes)
    assert_whole(model, BAD - 1, DummyVecEnv([ScriptedEnv] * 2), tmp_path)
    model.set_env(DummyVecEnv([ScriptedEnv] * 2))
    assert model.learn(20, reset_num_timesteps=False).num_timesteps == 2 * (BAD - 1) + 20


def test_broken_pipes_of_others_are_not_explained_away() -> None:
    env = SubprocVecEnv([ScriptedEnv], start_method="fork")

    def fail(*_: Any) -> bool:
        raise EOFError("the callback's own file")

    with pytest.raises(EOFError, match="the callback's own file"):
        make_model(MIRL, env).learn(10, callback=fail)
    assert all(process.is_alive() for process in env.processes)
    env.close()


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


@pytest.mark.parametrize("bad", ["state", "reward"])
def test_a_table_is_never_left(bad: str) -> None:
    class NoReward(Counted):
        def step(self, action: int) -> Any:
            state, reward, *rest = super().step(action)
            return state, math.nan if self.total == BAD else reward, *rest

    agent = QLearning(Counted(BAD) if bad == "state" else NoReward(), seed=0)
    message = r"observation 7 is not in Discrete\(5\)" if bad == "state" else r"the reward of action \d is nan"
    with pytest.raises(ValueError, match=f"{message}.*not learned from"):
        agent.learn(1000)
    assert agent.tables.visits.sum() == BAD - 1 and np.isfinite(agent.q).all()
