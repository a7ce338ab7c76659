"""The multi-goal plane: its rules, and its exact solution against golden numbers and against rollouts of itself."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

import sb3_mirl  # noqa: F401  registers the id
from sb3_mirl.envs.multigoal import GOALS, MultiGoalEnv, Solution, rollouts, solve


@pytest.fixture(scope="module")
def solution() -> Solution:
    return solve(10.0)


@pytest.mark.parametrize("reward", ["distance", "gaussians"])
def test_is_an_environment(reward: Any) -> None:
    env = gym.make("MirlMultiGoal-v0", reward=reward)
    check_env(env.unwrapped, skip_render_check=True)
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(300)])
    assert np.abs(starts.mean(0)).max() < 0.02 and starts.std() == pytest.approx(0.1, rel=0.1)


def test_rewards_by_hand() -> None:
    env = MultiGoalEnv()
    env.reset(options={"position": (3.0, 0.0)})
    observation, reward, terminated, truncated, info = env.step(np.array([0.5, -0.5]))
    np.testing.assert_allclose(observation, [3.5, -0.5])
    assert reward == pytest.approx(-30 * 0.5 - (1.5**2 + 0.5**2)) and not terminated and not truncated and info["goal"] == -1
    observation, reward, terminated, truncated, info = env.step([1.0, 0.5])
    np.testing.assert_allclose(observation, [4.5, 0.0])
    assert reward == pytest.approx(-30 * 1.25 - 0.25 + 10) and terminated and info["goal"] == 0
    for goal, position in enumerate(GOALS):
        env.reset(options={"position": position * 0.7})
        *_, terminated, _, info = env.step(position / 5)
        assert terminated and info["goal"] == goal


def test_rollouts_are_episodes_of_the_environment() -> None:
    """Step by step the same, for a policy that goes right, and for one that stays."""
    for reward, velocity in (("distance", (0.9, 0.02)), ("distance", (0.0, 0.0)), ("gaussians", (0.4, 0.0))):
        found = rollouts(lambda position, velocity=velocity: np.tile(velocity, (len(position), 1)), 3, 5, reward)  # type: ignore
        for i in range(3):
            env, total, over = MultiGoalEnv(reward=reward), 0.0, False  # type: ignore[arg-type]
            _, info = env.reset(options={"position": found.paths[i, 0]})
            while not over:
                _, r, terminated, truncated, info = env.step(velocity)
                total, over = total + r, terminated or truncated
            assert found.returns[i] == pytest.approx(total) and found.goal[i] == info["goal"]
            assert found.lengths[i] == len(env.path) - 1
            np.testing.assert_allclose(found.paths[i, : len(env.path)], env.path)
            assert np.isnan(found.paths[i, len(env.path) :]).all()
        assert found.shares[[0, 4]].sum() == 1


def test_gaussians_never_end() -> None:
    env = MultiGoalEnv(reward="gaussians")
    env.reset(options={"position": (5.0, 0.0)})
    for step in range(1, 21):
        _, reward, terminated, truncated, info = env.step([0.0, 0.0])
        assert not terminated and truncated == (step == 20) and info["goal"] == 0
    others = 60 * (2 * np.exp(-50 / 8) + np.exp(-100 / 8))
    assert reward == pytest.approx(60 + others)


def test_one_goal_alone() -> None:
    env = MultiGoalEnv(goal=1)
    env.reset(options={"position": (4.0, 0.0)})
    _, reward, terminated, _, info = env.step([1.0, 0.0])
    assert reward == pytest.approx(-30 - 100) and not terminated and info["goal"] == 0
    found = rollouts(lambda position: np.tile([-1.0, 0.0], (len(position), 1)), 2, 0, goals=GOALS[1:2])
    assert (found.goal == 1).all() and (found.lengths <= 5).all()
    with pytest.raises(ValueError, match="goal=4 is not known"):
        MultiGoalEnv(goal=4)


def test_borders_and_time_limit() -> None:
    env = MultiGoalEnv()
    env.reset(options={"position": (6.9, 6.9)})
    for step in range(1, 31):
        observation, _, terminated, truncated, _ = env.step([3.0, 1.0])  # beyond the bounds: clipped
        np.testing.assert_array_equal(observation, [7, 7])
        assert not terminated and truncated == (step == 30)


def test_rendering() -> None:
    env = MultiGoalEnv(render_mode="ansi")
    env.reset(options={"position": (-3.2, 1.0)})
    rows = env.render().splitlines()  # type: ignore[union-attr]
    assert len(rows) == 15 and rows[6][4] == "A" and rows[7][12] == rows[7][2] == rows[2][7] == rows[12][7] == "G"
    env = MultiGoalEnv(render_mode="rgb_array")
    env.reset(options={"position": (-3.0, 3.0)})
    before = env.render()
    env.step([1.0, 1.0])
    after = env.render()
    assert isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    assert after.shape == (420, 420, 3) and after.dtype == np.uint8 and (before != after).any()
    assert tuple(before[120, 120]) == (213, 94, 0) and tuple(before[210, 360]) == (0, 158, 115)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="reward='distances' is not known, choose from 'distance', 'gaussians'"):
        MultiGoalEnv(reward="distances")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="render_mode='human'"):
        MultiGoalEnv(render_mode="human")
    env = MultiGoalEnv()
    with pytest.raises(ValueError, match=r'options\["position"\]=\(9, 0\) must be two numbers in'):
        env.reset(options={"position": (9, 0)})
    env.reset()
    for action in ([np.nan, 0], [1.0], 3):
        with pytest.raises(ValueError, match="An action must be two finite numbers, got"):
            env.step(action)
    for arguments, message in (
        ({"alpha": 0.0}, "alpha=0.0"), ({"gamma": 1.0}, "gamma=1.0"), ({"spacing": 8.0}, "spacing=8.0"),
        ({"n_actions": 1}, "n_actions=1"), ({"reward": "x"}, "reward='x'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            solve(**{"alpha": 10.0, **arguments})  # type: ignore[arg-type]


# The exact solution


def test_golden_values(solution: Solution) -> None:
    np.testing.assert_allclose(solution.value([[0, 0], [2.5, 2.5]]), [-122.7, -57.5], atol=0.05)
    v = solution.v
    np.testing.assert_allclose(v, v[::-1], atol=1e-6)
    np.testing.assert_allclose(v, v.T, atol=1e-6)


def test_the_solution_solves(solution: Solution) -> None:
    """V is alpha log of the integral of exp(Q / alpha), with Q from the environment's own steps."""
    rng, env = np.random.default_rng(0), MultiGoalEnv()
    cell = solution.actions[1] - solution.actions[0]
    for position in rng.choice(solution.grid, (3, 2)):
        q = solution.q(position)[0]
        assert 10 * np.log((np.exp(q / 10) * cell**2).sum()) == pytest.approx(solution.value(position)[0], abs=1e-3)
        i, j = rng.integers(0, 21, 2)
        env.reset(options={"position": position})
        velocity = [solution.actions[i], solution.actions[j]]
        _, reward, terminated, _, _ = env.step(velocity)
        following = 0.0 if terminated else solution.value(env.position)[0]
        assert q[i, j] == pytest.approx(reward + 0.99 * following, abs=1e-4)
    policy = solution.policy([[0.0, 0.0]])[0]
    assert policy.sum() == pytest.approx(1)
    np.testing.assert_allclose(policy, policy[::-1], atol=1e-9)


def test_rollouts_of_the_exact_policy(solution: Solution) -> None:
    rng = np.random.default_rng(0)
    found = rollouts(lambda position: solution.sample(position, rng), 1000, seed=0)
    assert found.shares[4] < 0.005
    np.testing.assert_allclose(found.shares[:4], 0.25, atol=0.045)  # three standard errors
    assert found.returns.mean() == pytest.approx(-194, abs=6) and found.lengths.mean() == pytest.approx(10.2, abs=0.4)
    # hotter is slower
    assert solve(1.0).value([0, 0])[0] == pytest.approx(-128.2, abs=0.1)
