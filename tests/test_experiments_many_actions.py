"""Padded action sets, and the scripts that need them, at tiny settings."""

import runpy
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium.utils.env_checker import check_env

import sb3_mirl  # noqa: F401  registers the gridworlds
from sb3_mirl.envs.many_actions import PaddedActions
from sb3_mirl.envs.rare_action import RareActionEnv
from sb3_mirl.experiments import MINATAR
from sb3_mirl.tabular import TabularMDP, soft_value_iteration

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one of the examples in this process."""

    def run(script: str, *arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return run


@pytest.mark.parametrize("extra", ["idle", "copies"])
def test_a_gridworlds_further_actions(extra: str) -> None:
    plain, env = gym.make("MirlSquare-v0"), gym.make("MirlSquare-v0", n_actions=10, extra_actions=extra)
    check_env(env.unwrapped, skip_render_check=True)
    names = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    assert names[:4] == ["UP", "RIGHT", "DOWN", "LEFT"] and len(set(names)) == 10
    assert names[4:6] == (["IDLE 4", "IDLE 5"] if extra == "idle" else ["UP 4", "RIGHT 5"])
    table, theirs = env.unwrapped.P, plain.unwrapped.P  # type: ignore[attr-defined]
    for state, actions in table.items():
        for action, outcome in actions.items():
            free = env.unwrapped.cells[state] == "."  # type: ignore[attr-defined]
            stays = [(1.0, state, -1.0, False)] if free else theirs[state][0]
            assert outcome == (theirs[state][action % 4] if action < 4 or extra == "copies" else stays)
    # what further actions bring is nothing
    best, ours = (soft_value_iteration(TabularMDP.from_env(e, discount=0.9), 1e6).v for e in (plain, env))
    np.testing.assert_allclose(ours, best, atol=1e-4)
    for arguments, message in (
        ({"n_actions": 3}, r"n_actions=3 must be an integer in \[4, inf\]"),
        ({"extra_actions": "twins"}, "extra_actions='twins' is not known, choose from 'idle', 'copies'"),
    ):
        with pytest.raises(ValueError, match=message):
            gym.make("MirlSquare-v0", **arguments)


def test_other_environments_further_actions() -> None:
    copies = PaddedActions(RareActionEnv(), 8, "copies")
    assert copies.action_space.n == 8 and [copies.action(a) for a in range(8)] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert copies.get_action_meanings()[2:5] == ["PUSH", "LEFT 3", "RIGHT 4"]
    idle = PaddedActions(RareActionEnv(), 5, idle=1)
    assert [idle.action(a) for a in range(5)] == [0, 1, 2, 1, 1]
    with pytest.raises(ValueError, match=r"n_actions=2 must be an integer in \[3, inf\]"):
        PaddedActions(RareActionEnv(), 2)
    with pytest.raises(ValueError, match="The actions must be Discrete and count from 0"):
        PaddedActions(gym.make("Pendulum-v1"), 9)


def test_games_of_an_experiment_can_be_changed_by_name() -> None:
    plain, padded, scaled = (
        MINATAR.make_env(f"rare_action{change}", 2, 0, True) for change in ("", "+copies_7", "+rewards_0.5")
    )
    assert padded.action_space.n == 7 and padded.get_attr("unwrapped")
    for env in (plain, padded, scaled):
        env.reset()
    moves = np.array([1, 2])
    rewards = [env.step(moves)[1] for env in (plain, padded, scaled)]
    np.testing.assert_allclose(rewards[0], rewards[1])
    np.testing.assert_allclose(rewards[2], 0.5 * rewards[0])
    assert rewards[0][0] == pytest.approx(0.1)


def test_return_against_the_number_of_actions(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sizes", 4, 6, "--world", "square", "--timesteps", 4000, "--out", tmp_path]
    example("reproduce_many_actions.py", *arguments, "--seeds", 1)
    first = pd.read_csv(tmp_path / "many_actions.csv")
    example("reproduce_many_actions.py", *arguments, "--seeds", 2)
    both = pd.read_csv(tmp_path / "many_actions.csv")
    assert len(first) == 16 and len(both) == 32
    pd.testing.assert_frame_equal(first, both.head(16))
    keys = ["extra", "n_actions", "agent", "seed"]
    assert set(both.groupby(keys).size()) == {1} and set(both["agent"]) == {"ql", "sql", "sql_m", "mirl"}
    assert (both["last_tenth"] > both["first_half"]).mean() > 0.9, "they learn"
    told = capsys.readouterr().out
    assert "| last tenth of training, 6 actions |" in told and (tmp_path / "many_actions.png").stat().st_size > 10_000
    assert "MIRL less the others, paired by seed; 12 intervals" in told
    with pytest.raises(SystemExit, match="has runs of 4000 steps: choose another --out"):
        example("reproduce_many_actions.py", *arguments[:-3], 5000, "--out", tmp_path)


@pytest.mark.slow  # processes that import torch
def test_the_scripts_of_deep_agents(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--games", "rare_action", "--seeds", 1, "--timesteps", 800, "--snapshot-every", 400, "--eval-episodes", 1]
    tiny += ["--device", "cpu", "--jobs", 2]
    example("reproduce_many_actions.py", *tiny, "--sizes", 6, 9, "--extra", "copies", "--out", tmp_path / "actions")
    table = pd.read_csv(tmp_path / "actions" / "many_actions.csv")
    assert sorted(zip(table["agent"], table["n_actions"], strict=True)) == [
        (agent, n) for agent in ("dqn", "mirl", "sql") for n in (6, 9)
    ]
    with pytest.raises(SystemExit) as ended:
        example("sweep_temperature.py", *tiny, "--betas", 3, 10, "--scales", 0.1, "--out", tmp_path / "temperature")
    assert ended.value.code in (0, False)
    table = pd.read_csv(tmp_path / "temperature" / "temperature.csv")
    # in a run this short no episode of the training may have come to its end
    assert (
        {"greedy"} <= set(table["measure"]) <= {"training", "greedy"}
        and set(table["beta"]) == {3, 10}
        and set(table["scale"]) == {0.1}
    )
    for beta in (3, 10):
        snapshots = pd.read_csv(tmp_path / "temperature" / f"scale_0.1_beta_{beta}" / "snapshots.csv")
        np.testing.assert_allclose(snapshots["beta"], 10 * beta)
        greedy = snapshots[snapshots["timesteps"] == 800].set_index("agent")["score"]
        of_beta = table.query("beta == @beta and measure == 'greedy'").set_index("agent")["score"]
        np.testing.assert_allclose(of_beta.sort_index(), 10 * greedy.sort_index())
    assert "| rare_action, greedy, rewards × 0.1, β 10 |" in capsys.readouterr().out
