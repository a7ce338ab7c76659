"""The gridworlds: one table feeds step, render and planner, and says what the map says."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import sb3_mirl.envs  # noqa: F401  registers the ids
from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.tabular import TabularMDP, soft_value_iteration

IDS = ("MirlCorridor-v0", "MirlSquare-v0")
UP, RIGHT, DOWN, LEFT = range(4)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("error")
def test_the_checkers_of_gymnasium_and_sb3_have_nothing_to_say(env_id):
    gymnasium_check_env(gym.make(env_id).unwrapped)
    sb3_check_env(gym.make(env_id))


@pytest.mark.parametrize("layout", ["corridor", "square", ["G.#", "..."]])
def test_step_does_what_the_table_says_everywhere(layout):
    env = GridWorldEnv(layout)
    env.reset(seed=0)
    for state in np.flatnonzero(env.initial_state_distrib):
        for action in range(4):
            env.state = int(state)
            next_state, reward, terminated, truncated, _ = env.step(action)
            assert env.P[state][action] == [(1.0, next_state, reward, terminated)]
            assert not truncated


def test_moves_bumps_and_the_goal():
    env = GridWorldEnv("square")
    expected = {
        (env.cell(3, 6), LEFT): (env.cell(3, 5), 9.0, True),  # into the pocket
        (env.cell(3, 6), RIGHT): (env.cell(3, 6), -1.0, False),  # outer wall
        (env.cell(3, 3), RIGHT): (env.cell(3, 3), -1.0, False),  # inner wall
        (env.cell(3, 3), UP): (env.cell(2, 3), -1.0, False),
        (env.cell(3, 3), DOWN): (env.cell(4, 3), -1.0, False),
        (env.cell(3, 3), LEFT): (env.cell(3, 2), -1.0, False),
    }
    for (state, action), (next_state, reward, terminated) in expected.items():
        assert env.P[state][action] == [(1.0, next_state, reward, terminated)]
    corridor = GridWorldEnv("corridor")
    assert corridor.P[0][UP] == corridor.P[0][LEFT] == [(1.0, 0, -1.0, False)]  # the border is a wall


@pytest.mark.parametrize(("env_id", "cells", "starts"), [("MirlCorridor-v0", 60, 59), ("MirlSquare-v0", 64, 30)])
def test_starts_are_uniform_over_the_free_cells(env_id, cells, starts):
    env = gym.make(env_id)
    assert env.observation_space == gym.spaces.Discrete(cells)
    distribution = env.unwrapped.initial_state_distrib
    assert (distribution > 0).sum() == starts
    assert np.isin(np.round(distribution * starts, 12), (0, 1)).all()
    env.reset(seed=1)
    seen = {env.reset()[0] for _ in range(2000)}
    assert seen == set(np.flatnonzero(distribution))


@pytest.mark.parametrize(("env_id", "optimum"), [("MirlCorridor-v0", -20 / 59), ("MirlSquare-v0", 115 / 30)])
def test_the_optimum_next_to_the_id_is_the_planners(env_id, optimum):
    env = gym.make(env_id)
    mdp = TabularMDP.from_env(env, discount=1 - 1e-9)
    assert mdp.initial @ soft_value_iteration(mdp, beta=1e6).v == pytest.approx(optimum, abs=1e-4)
    assert optimum - 0.3 < env.spec.reward_threshold < optimum


def test_render():
    env = GridWorldEnv("square", render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert text.count("A") == 1 and text.count("#") == sum(row.count("#") for row in env.layout)
    image = GridWorldEnv(["..G"], render_mode="rgb_array")
    image.reset(seed=0)
    image.state = 0
    first = image.render()
    assert first.shape == (32, 96, 3) and first.dtype == np.uint8
    image.step(RIGHT)
    second = image.render()
    assert (first[:, :32] != second[:, :32]).any() and (first[:, 32:64] != second[:, 32:64]).any()
    assert (first[:, 64:] == second[:, 64:]).all()


def test_action_names_are_the_four_directions():
    assert gym.make("MirlCorridor-v0").unwrapped.get_action_meanings() == ["UP", "RIGHT", "DOWN", "LEFT"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("maze", "unknown map 'maze'.*corridor"),
        (["..", "..G"], r"equally long rows, got the lengths \[2, 3\]"),
        ([], "equally long"),
        ([".x", ".G"], "'x' at row 0, column 1"),
        (["..", ".."], "no goal"),
        (["G#"], "no free cell"),
    ],
)
def test_a_bad_map_is_explained(layout, message):
    with pytest.raises(ValueError, match=message):
        GridWorldEnv(layout)
