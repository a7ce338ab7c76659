"""Whole runs: SB3's DQN, given a coin per environment, and SoftDQN at beta = inf act and learn alike, step for step."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.envs import AtariVecEnv
from sb3_mirl.experiments.agents import make_agent

SCRIPT = Path(__file__).parent.parent / "examples" / "same_run_as_sb3.py"
runpy.run_path(str(SCRIPT))  # adds "sb3_dqn_coins" to the agents
N_ENVS, LEARNING_STARTS, STEPS = 4, 200, 600
HYPERPARAMETERS = dict(
    learning_rate=1e-4, buffer_size=2000, learning_starts=LEARNING_STARTS, target_update_interval=200,
    exploration_fraction=0.3, exploration_final_eps=0.1,
)  # fmt: skip


def cartpole() -> VecEnv:
    return make_vec_env("CartPole-v1", N_ENVS, seed=0)


def breakout() -> VecEnv:
    return AtariVecEnv("Breakout", n_envs=N_ENVS, seed=0)


@pytest.mark.parametrize("update_path", ["fast", "eager"])
@pytest.mark.parametrize("policy, make_env", [("MlpPolicy", cartpole), ("CnnPolicy", breakout)], ids=["CartPole", "Breakout"])
def test_a_run_is_dqns(policy: str, make_env: Any, update_path: str) -> None:
    hyperparameters = {**HYPERPARAMETERS, "update_path": update_path}
    # one after the other: making an agent seeds the random numbers of its run
    dqn, soft = (
        make_agent(name, make_env(), policy, hyperparameters, seed=0, device="cpu").learn(STEPS)
        for name in ("sb3_dqn_coins", "dqn")
    )
    assert dqn._n_updates == soft._n_updates == (STEPS - LEARNING_STARTS) // N_ENVS
    for name in ("actions", "rewards", "dones"):
        theirs, ours = (getattr(model.replay_buffer, name)[: STEPS // N_ENVS] for model in (dqn, soft))
        np.testing.assert_array_equal(theirs, ours, err_msg=name)
    for theirs, ours in zip(dqn.q_net.parameters(), soft.q_net.parameters(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("coin", "differs"), [((), False), (("--shared-coin",), True)], ids=["a coin each", "one for all"])
def test_side_by_side(coin: tuple[str, ...], differs: bool) -> None:
    """The example that compares runs of any length, small."""
    pytest.importorskip("minatar")
    line = [sys.executable, str(SCRIPT), "--timesteps", "6e3", *coin]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == differs, done.stderr
    assert ("The runs agree: 750 rollouts, 0 differ" in done.stdout) is not differs
    assert ("The runs DIFFER: 750 rollouts" in done.stdout) is differs


def test_a_comparison_without_learning_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--timesteps", "600"])
    with pytest.raises(SystemExit, match="Learning starts at step 5000: give more --timesteps."):
        runpy.run_path(str(SCRIPT), run_name="__main__")
