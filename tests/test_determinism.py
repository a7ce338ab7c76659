"""One seed, one machine: the same run to the last bit, in this process and in another one."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.soft_dqn import update
from sb3_mirl.tabular import SoftQLearning, TabularMIRL, train_in_parallel
from tests.conftest import SMALL, ScriptedEnv

ROOT = Path(__file__).resolve().parents[1]
CARTPOLE = ("CartPole-v1", 2000)
# name -> class, environment and steps, number of environments, update path
RUNS: dict[str, tuple[type[SoftDQN], tuple[str, int], int, str]] = {
    "mirl fast 1": (MIRL, CARTPOLE, 1, "fast"),
    "mirl fast 8": (MIRL, CARTPOLE, 8, "fast"),
    "mirl eager 8": (MIRL, CARTPOLE, 8, "eager"),
    "softdqn eager 8": (SoftDQN, CARTPOLE, 8, "eager"),
    "mirl gridworld 8": (MIRL, ("MirlSquare-v0", 2000), 8, "fast"),
    "mirl pixels fast 8": (MIRL, ("Breakout", 600), 8, "fast"),
    "softdqn pixels eager 1": (SoftDQN, ("Breakout", 300), 1, "eager"),
}


@functools.cache
def train(name: str, seed: int = 0) -> SoftDQN:
    cls, (env_id, steps), n_envs, path = RUNS[name]
    arguments = {**SMALL, "policy_kwargs": dict(net_arch=[16]), "seed": seed, "update_path": path}
    if env_id != "Breakout":
        return cls("MlpPolicy", make_vec_env(env_id, n_envs), **arguments).learn(steps)
    from sb3_mirl.envs import AtariVecEnv

    env = AtariVecEnv(env_id, n_envs)
    model = cls("CnnPolicy", env, **{**arguments, "learning_starts": 200, "policy_kwargs": None}).learn(steps)
    env.close()
    return model


def fingerprint(model: SoftDQN) -> str:
    """Of weights, prior, beta, optimiser and replay memory."""
    digest = hashlib.sha256()
    optimizer = [value for state in model.policy.optimizer.state_dict()["state"].values() for value in state.values()]
    for tensor in [*model.policy.state_dict().values(), *optimizer]:
        digest.update(tensor.contiguous().numpy().tobytes())
    assert model.replay_buffer is not None
    np.random.seed(0)
    for column in model.replay_buffer.sample(500):
        if column is not None:
            digest.update(column.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def of_another_process() -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_determinism"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.atari
@pytest.mark.parametrize("name", list(RUNS))
def test_a_seed_gives_the_same_run_in_every_process(of_another_process: dict[str, str], name: str) -> None:
    model = train(name)
    assert model._n_updates > 0 and model.replay_buffer is not None
    assert fingerprint(model) == of_another_process[name]


def test_another_seed_gives_another_run(of_another_process: dict[str, str]) -> None:
    assert fingerprint(train("mirl fast 8", seed=1)) != of_another_process["mirl fast 8"]


def state(model: SoftDQN) -> th.Tensor:
    return th.cat([value.double().flatten() for value in model.policy.state_dict().values()])


def test_both_paths_go_the_same_way_from_one_seed() -> None:
    """Two updates per rollout, which the fast path draws at once."""
    fast, eager = train("mirl fast 8"), train("mirl eager 8")
    assert fast.gradient_steps == 2
    th.testing.assert_close(state(fast), state(eager), rtol=1e-5, atol=1e-6)


def plain_model() -> SoftDQN:
    return MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * 2), **SMALL).learn(60)


def frame_model() -> SoftDQN:
    env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(4, 36, 36, channel_first=True)] * 2), 4, channels_order="first")
    return MIRL("CnnPolicy", env, **{**SMALL, "policy_kwargs": None}).learn(60)


def goal_model() -> SoftDQN:
    """Hindsight experience replay composes each minibatch of real and of virtual transitions."""
    env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=False, max_steps=4)])
    return MIRL("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, **SMALL).learn(60)


@pytest.mark.parametrize("make", [plain_model, frame_model, goal_model])
def test_minibatches_drawn_at_once_are_those_drawn_one_by_one(make: Any) -> None:
    model = make()
    sample = update.sampler(model.replay_buffer, None)
    np.random.seed(0)
    at_once = update.split(sample(3, 10), 3)
    np.random.seed(0)
    for part in at_once:
        th.testing.assert_close(part._asdict(), sample(1, 10)._asdict(), rtol=0, atol=0)


@pytest.mark.parametrize("cls", [SoftQLearning, TabularMIRL])
def test_tabular_agents_do_not_depend_on_the_number_of_threads(cls: Any) -> None:
    tables = []
    for n_jobs in (1, 2):
        agents = train_in_parallel([cls("MirlCorridor-v0", seed=seed) for seed in range(3)], 5000, n_jobs=n_jobs)
        tables.append(np.stack([agent.q for agent in agents]))
    np.testing.assert_array_equal(*tables)
    assert not np.array_equal(tables[0][0], tables[0][1])


if __name__ == "__main__":
    print(json.dumps({name: fingerprint(train(name)) for name in RUNS}))
