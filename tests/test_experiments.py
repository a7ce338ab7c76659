"""Experiments through their real command lines at tiny settings; resuming; statistics with known answers."""

import gc
import inspect
import json
import queue
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy.stats import trim_mean
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_checker import check_env

from sb3_mirl import MIRL, plots
from sb3_mirl.experiments import Cell, Settings, Suite, minatar, results, run_all, runner, statistics
from sb3_mirl.experiments.agents import make_agent
from sb3_mirl.experiments.cell import is_done, run_cell
from sb3_mirl.experiments.command_line import experiment_parser
from sb3_mirl.experiments.rare_action import RareActionEnv
from sb3_mirl.experiments.snapshots import read_evaluations

EXAMPLES = Path(__file__).parent.parent / "examples"
SUITE = Suite("minatar", minatar.make_env, minatar.hyperparameters)
SETTINGS = Settings(timesteps=2400, snapshot_every=800, preset="default", eval_episodes=2)
CELL = Cell("rare_action", "mirl", 0)


def command(script: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def ignore(steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents with two seeds, by the command line of the MinAtar example."""
    out = tmp_path_factory.mktemp("experiment")
    done = command("reproduce_minatar.py", *ARGUMENTS, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


ARGUMENTS = (
    "--games", "rare_action", "--algos", "dqn", "mirl", "--seeds", 2, "--timesteps", "1.6e3", "--snapshot-every", 800,
    "--eval-episodes", 2, "--eval-exploration", "prior", "none", "--jobs", 2, "--device", "cpu",
)  # fmt: skip


def test_raw_results_of_every_run_snapshot_and_way_to_explore(experiment: Path) -> None:
    episodes = pd.read_csv(experiment / "episodes.csv")
    runs = episodes.groupby(["agent", "seed", "timesteps", "exploration"]).size()
    assert runs.index.tolist() == [
        (agent, seed, timesteps, exploration)
        for agent in ("dqn", "mirl")
        for seed in (0, 1)
        for timesteps in (800, 1600)
        for exploration in ("none", "prior")
    ]
    assert (runs == 2).all()
    priors = pd.read_csv(experiment / "priors.csv")
    assert set(priors["agent"]) == {"mirl"} and list(priors["action"].unique()) == ["LEFT", "RIGHT", "PUSH"]
    np.testing.assert_allclose(priors.groupby(["seed", "timesteps"])["probability"].sum(), 1, atol=1e-4)
    snapshots = pd.read_csv(experiment / "snapshots.csv")
    assert np.isinf(snapshots.loc[snapshots["agent"] == "dqn", "beta"]).all()
    assert np.isfinite(snapshots.loc[snapshots["agent"] == "mirl", "beta"]).all()


def test_each_figure_of_the_paper_is_drawn(experiment: Path) -> None:
    drawn = {path.name.rsplit(".")[0] for path in experiment.glob("*.png")}
    assert {name[:8] for name in drawn} == {f"figure_{n}" for n in range(2, 9)} | {"aggregat", "rare_act"}
    assert "| rare_action, prior |" in (experiment / "table.md").read_text()


def test_plots_only_needs_nothing_but_the_csvs(experiment: Path, tmp_path: Path) -> None:
    for path in experiment.glob("*.csv"):
        shutil.copy(path, tmp_path)
    done = command("reproduce_minatar.py", *ARGUMENTS, "--plots-only", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 9
    assert (tmp_path / "table.md").read_text() == (experiment / "table.md").read_text()


def test_finished_runs_are_not_run_again(experiment: Path) -> None:
    cells = [Cell("rare_action", agent, seed) for agent in ("dqn", "mirl") for seed in (0, 1)]
    stored = json.loads((experiment / cells[0].folder / "settings.json").read_text())
    settings = Settings(**{**stored, "eval_exploration": tuple(stored["eval_exploration"])})
    before = {path: path.stat().st_mtime_ns for path in experiment.glob("cells/**/*")}
    assert run_all(cells, SUITE, settings, experiment, device="cpu") == []
    assert before == {path: path.stat().st_mtime_ns for path in experiment.glob("cells/**/*")}
    with pytest.raises(ValueError, match=r"other settings \(timesteps: 1600 then, 3200 now\). Choose another --out"):
        is_done(cells[0], replace(settings, timesteps=3200), experiment)


def test_what_the_prior_does(experiment: Path) -> None:
    done = command("diagnose_prior.py", experiment, "--states", 80)
    assert done.returncode == 0, done.stderr
    assert "| rare_action, MIRL |" in done.stdout and "DQN" not in done.stdout
    table = pd.read_csv(experiment / "prior_diagnosis.csv")
    assert table["agent"].tolist() == ["mirl"] * 2 and table["seed"].tolist() == [0, 1]
    for seed, row in table.set_index("seed").iterrows():
        model = MIRL.load(experiment / f"cells/rare_action/mirl/seed_{seed}/model")
        assert row["beta"] == pytest.approx(model.beta, rel=1e-4)
        assert row["log rho range"] == pytest.approx(np.log(model.prior.max() / model.prior.min()), rel=1e-3)
        assert 0 <= row["greedy changed"] <= 1 and 0 <= row["softness"] <= 1
        assert 0 < row["beta gap"] < np.inf and row["KKT gap"] > 0


def test_an_error_says_which_run_failed_and_the_others_go_on(tmp_path: Path) -> None:
    pytest.importorskip("minatar")
    good, bad = Cell("rare_action", "dqn", 0), Cell("no_such_game", "dqn", 0)
    settings = replace(SETTINGS, timesteps=800)
    assert run_all([bad, good], SUITE, settings, tmp_path, device="cpu") == [bad]
    assert "no_such_game" in (tmp_path / bad.folder / "error.txt").read_text()
    assert is_done(good, settings, tmp_path) and not is_done(bad, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_no_worker_outlives_a_killed_command(tmp_path: Path) -> None:
    line = [sys.executable, str(EXAMPLES / "reproduce_minatar.py"), "--games", "rare_action", "--algos", "dqn", "--seeds", "1"]
    parent = subprocess.Popen([*line, "--timesteps", "8e7", "--snapshot-every", "8e2", "--out", str(tmp_path)])
    deadline = time.monotonic() + 120
    while not (tmp_path / "cells/rare_action/dqn/seed_0/snapshots.csv").exists():
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    while any(Path("/proc", child).exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_killed_run_goes_on_from_its_last_snapshot(tmp_path: Path, checkpoints: bool) -> None:
    settings = replace(SETTINGS, checkpoints=checkpoints)
    steps: list[int] = []

    def killed_at_2000(new: int) -> None:
        steps.append(new)
        if sum(steps) >= 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(CELL, SUITE, settings, tmp_path, "cpu", killed_at_2000)
    folder = tmp_path / CELL.folder
    evaluations = folder / "prior" / "evaluations.npz"
    before = read_evaluations(evaluations)
    assert before["timesteps"].tolist() == [800, 1600] and not is_done(CELL, settings, tmp_path)

    steps.clear()
    run_cell(CELL, SUITE, settings, tmp_path, "cpu", steps.append)
    assert steps[0] == (1600 if checkpoints else 0) and sum(steps) == 2400
    after = read_evaluations(evaluations)
    assert after["timesteps"].tolist() == [800, 1600, 2400]
    np.testing.assert_array_equal(after["results"][:2], before["results"])
    with np.load(folder / "prior_history.npz") as history:
        timesteps, prior = history["timesteps"], history["prior"]
    # one point per call of env.step from learning_starts on, none twice and none lost
    np.testing.assert_array_equal(np.diff(timesteps), 8)
    assert timesteps[-1] == 2400 and len(prior) == len(timesteps)
    assert np.abs(np.diff(prior, axis=0)).max() < 0.02  # goes on where it was
    model = MIRL.load(folder / "model")
    assert model.num_timesteps == 2400 and is_done(CELL, settings, tmp_path) and not (folder / "checkpoint").exists()
    run_cell(CELL, SUITE, settings, tmp_path / "whole", "cpu", ignore)
    whole = MIRL.load(tmp_path / "whole" / CELL.folder / "model").policy.state_dict()
    assert all((whole[name] == value).all() for name, value in model.policy.state_dict().items())


def test_ctrl_c_saves_a_checkpoint_first(tmp_path: Path) -> None:
    steps: list[int] = []

    def interrupted_at_2000(new: int) -> None:
        steps.append(new)
        if sum(steps) == 2000:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_cell(CELL, SUITE, SETTINGS, tmp_path, "cpu", interrupted_at_2000)
    assert not is_done(CELL, SETTINGS, tmp_path)
    steps.clear()
    run_cell(CELL, SUITE, SETTINGS, tmp_path, "cpu", steps.append)
    assert steps[0] >= 2000 and sum(steps) == 2400


def test_a_finished_run_leaves_no_replay_memory_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replay_buffers() -> int:
        return sum(issubclass(type(thing), ReplayBuffer) for thing in gc.get_objects())

    gc.collect()
    before = replay_buffers()
    monkeypatch.setattr(runner, "_steps", queue.Queue())
    assert runner._run(CELL, SUITE, replace(SETTINGS, timesteps=800), tmp_path, "cpu") is None
    assert replay_buffers() == before


def test_evaluation_does_not_change_training(tmp_path: Path) -> None:
    settings = replace(SETTINGS, timesteps=1600)
    weights = []
    for name, changed in (
        ("once", settings),
        ("often", replace(settings, snapshot_every=400, eval_exploration=("prior", "uniform"), eval_episodes=3)),
    ):
        run_cell(CELL, SUITE, changed, tmp_path / name, "cpu", ignore)
        weights.append(MIRL.load(tmp_path / name / CELL.folder / "model").policy.state_dict())
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])


def test_hyperparameters_in_place_of_the_presets() -> None:
    parser = experiment_parser("", ["g"], ["mirl"], 1600, 800, ["default"], "out")
    assert dict(parser.parse_args(["--set", "prior_lr=1e-5", "batch_size=8"]).set) == {"prior_lr": 1e-5, "batch_size": 8}
    with pytest.raises(SystemExit):
        parser.parse_args(["--set", "prior_lr"])


def test_a_run_uses_them(tmp_path: Path) -> None:
    settings = replace(SETTINGS, timesteps=800, overrides={"prior_lr": 0.25, "learning_starts": 400})
    run_cell(CELL, SUITE, settings, tmp_path, "cpu", ignore)
    model = MIRL.load(tmp_path / CELL.folder / "model")
    assert (model.prior_lr, model.learning_starts) == (0.25, 400)


def test_sb3s_dqn_runs_beside_ours_with_the_same_hyperparameters(tmp_path: Path) -> None:
    env = minatar.make_env("rare_action", 8, 0, True)
    shared = {"prior_lr": 0.5, "learning_starts": 7, "buffer_size": 10, "exploration": "uniform"}
    ours, sb3s = (make_agent(name, env, "MlpPolicy", shared, device="cpu") for name in ("dqn", "sb3_dqn"))
    assert type(sb3s) is DQN
    names = set(inspect.signature(DQN).parameters) & set(vars(ours)) - {
        "replay_buffer_class",
        "policy",
        "env",
        "policy_kwargs",
    }
    assert {name for name in names if getattr(ours, name) != getattr(sb3s, name)} == set()
    assert sb3s.policy.optimizer.defaults["eps"] == ours.policy.optimizer.defaults["eps"] == 1.5e-4
    for seed in (0, 1):
        run_cell(Cell("rare_action", "sb3_dqn", seed), SUITE, replace(SETTINGS, timesteps=800), tmp_path, "cpu", ignore)
    results.collect(tmp_path)
    snapshots = pd.read_csv(tmp_path / "snapshots.csv")
    assert set(snapshots["agent"]) == {"sb3_dqn"} and np.isfinite(snapshots["score"]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"timesteps": 2000}, "timesteps=2000 must be a multiple of snapshot_every=800"),
        ({"n_envs": 6, "timesteps": 800}, "snapshot_every=800 must be a multiple of 12"),
    ],
)
def test_settings_that_do_not_fit_together(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_all([CELL], SUITE, replace(SETTINGS, **changed), tmp_path)


def test_agents_get_the_arguments_that_make_them_what_they_are() -> None:
    env = minatar.make_env("rare_action", 1, 0, True)
    shared = {"prior_lr": 0.5, "learning_starts": 7, "buffer_size": 10}
    made = {name: make_agent(name, env, "MlpPolicy", shared) for name in ("dqn", "sql", "sql_m", "mirl", "mirl_u")}
    assert all(model.learning_starts == 7 for model in made.values())
    assert made["dqn"].beta == np.inf and made["sql"].beta == 0.01
    assert [model.exploration for model in made.values()] == ["uniform", "uniform", "marginal", "prior", "uniform"]
    assert made["mirl"].prior_lr == 0.5  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Unknown agent 'ppo', choose from dqn, sql"):
        make_agent("ppo", env, "MlpPolicy", shared)


def test_the_rare_action_environment() -> None:
    env = RareActionEnv(length=5)
    check_env(env)
    env.reset()
    rewards = [env.step(action)[1] for action in (1, 1, 0, 1, 2)]
    np.testing.assert_allclose(rewards, [0.1, 0.1, -0.2, 0.1, -0.1 - 1])  # what was earned is taken back
    rewards = [env.step(action)[1] for action in (1, 1, 1, 1)]
    _, treasure, terminated, _, _ = env.step(2)
    assert (sum(rewards), treasure, terminated) == (pytest.approx(0.4), 10, True)
    env.reset()
    assert [env.step(1)[1:3] for _ in range(5)][-1] == (1.0, True)


def test_minatar_games_are_channel_first_with_six_named_actions() -> None:
    pytest.importorskip("minatar")
    for game in minatar.GAMES:
        env = minatar.MinAtarEnv(game)
        observation, _ = env.reset(seed=3)
        assert env.observation_space.contains(observation) and observation.shape[:2] == (10, 10)
        assert len(env.get_action_meanings()) == env.action_space.n == 6  # type: ignore[attr-defined]
        plays = []
        for _ in range(2):
            env.reset(seed=5)
            plays.append([env.step(i % 6)[0].sum() for i in range(30)])
        assert plays[0] == plays[1]


def scores_of(rng: np.random.Generator, seeds: int, offset: float = 0.0) -> np.ndarray:
    return rng.normal(size=(seeds, 4, 3)) + offset


def test_aggregates_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    scores = {"mirl": scores_of(rng, 8, 10.0), "dqn": scores_of(rng, 5)}
    state = np.random.get_state()[1].copy()
    iqm, again = statistics.iqm(scores, reps=200), statistics.iqm(scores, reps=200)
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    for agent, x in scores.items():
        for t in range(3):
            assert iqm[agent].point[t] == pytest.approx(trim_mean(x[..., t].ravel(), 0.25))
        np.testing.assert_array_equal(iqm[agent].low, again[agent].low)
        assert (iqm[agent].low < iqm[agent].point).all() and (iqm[agent].point < iqm[agent].high).all()
    median = statistics.median(scores, reps=50)
    np.testing.assert_allclose(median["dqn"].point, np.median(scores["dqn"].mean(axis=0), axis=0))
    last = {agent: x[..., -1] for agent, x in scores.items()}
    better = statistics.probability_of_improvement(last, [("mirl", "dqn"), ("dqn", "dqn")], reps=50)
    assert better["mirl,dqn"].point[0] == 1 and better["dqn,dqn"].point[0] == 0.5
    profile = statistics.performance_profile(last, [-100, 5, 100], reps=50)
    np.testing.assert_array_equal(profile["mirl"].point, [1, 1, 0])
    np.testing.assert_array_equal(profile["dqn"].point, [1, 0, 0])


def test_one_seed_has_no_interval() -> None:
    estimate = statistics.iqm({"mirl": np.ones((1, 4, 2))}, reps=20)["mirl"]
    assert (estimate.point == 1).all() and np.isnan(estimate.low).all() and np.isnan(estimate.high).all()


def test_only_seeds_complete_in_all_games_are_aggregated() -> None:
    rows = [
        (game, "mirl", seed, t, "prior", 10.0 * seed + t)
        for game in ("a", "b")
        for seed in (0, 1, 2)
        for t in (1, 2)
        if (game, seed, t) != ("b", 1, 2)
    ]
    table = pd.DataFrame(rows, columns=["game", "agent", "seed", "timesteps", "exploration", "score"])
    timesteps, arrays = results.score_arrays(table, ["mirl", "sql"], ["a", "b"], "prior", lambda game, x: 2 * x)
    assert timesteps.tolist() == [1, 2] and set(arrays) == {"mirl"}
    np.testing.assert_array_equal(arrays["mirl"], 2 * np.array([[[1, 2], [1, 2]], [[21, 22], [21, 22]]]))
    best = results.best_snapshots(table, "prior")
    assert best.loc["a", "mirl"] == (2 + 12 + 22) / 3


def test_names_at_the_ends_of_curves_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(18), size=50)
    names = [f"ACTION{i}" for i in range(18)]
    history = {
        "timesteps": np.arange(50), "prior": prior, "actions": np.array(names), "beta": np.logspace(-2, 3, 50),
        "beta_max_q": np.linspace(-5, 400, 50), "mutual_information": rng.random(50),
    }  # fmt: skip
    figure = plots.plot_prior_history(history, title="game")
    figure.canvas.draw()
    top, beta, beta_max_q, information = figure.axes
    # the extent of an annotation would include its line
    boxes = [Text.get_window_extent(text) for text in top.texts if text.get_text() in names]
    boxes.sort(key=lambda box: box.y0)
    assert len(boxes) == 18 and all(low.y0 + 0.9 * low.height < high.y0 for low, high in pairwise(boxes))
    assert [ax.get_yscale() for ax in (beta, beta_max_q, information)] == ["log", "symlog", "linear"]
    with pytest.raises(ValueError, match="nothing is recorded before learning_starts"):
        plots.plot_prior_history({**history, "timesteps": np.zeros(0)})


@pytest.mark.atari
@pytest.mark.slow
def test_the_atari_command_writes_table_1_and_the_figures(tmp_path: Path) -> None:
    done = command(
        "reproduce_atari.py", "--games", "boxing", "--algos", "dqn", "mirl", "--seeds", 1, "--timesteps", 1600,
        "--snapshot-every", 800, "--eval-episodes", 1, "--preset", "short", "--jobs", 2, "--device", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "table_1.csv", index_col=0)
    assert table.loc["Boxing", "paper's MIRL"] == 2338.89
    assert -2400 < table.loc["Boxing", "MIRL"] < 2400
    assert len(list(tmp_path.glob("*.png"))) == 8
    lengths = pd.read_csv(tmp_path / "episodes.csv")["length"]
    assert lengths.max() <= 4500
