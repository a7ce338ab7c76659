"""Experiments through their real command lines at tiny settings; resuming; statistics with known answers."""

import ast
import importlib
import inspect
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial, partialmethod
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_mirl import MIRL, experiments
from sb3_mirl.envs.minatar import GAMES, MinAtarActions, make_minatar
from sb3_mirl.envs.rare_action import RareActionEnv
from sb3_mirl.experiments import MINATAR, Run, Settings, engines, results, run_all
from sb3_mirl.experiments.agents import make_agent
from sb3_mirl.experiments.snapshots import read_evaluations, read_table
from sb3_mirl.experiments.training import is_done, train

EXAMPLES = Path(__file__).parent.parent / "examples"
FIGURES = EXAMPLES / "figures"
SETTINGS = Settings(timesteps=2400, snapshot_every=800, preset="default", eval_episodes=2)
RUN = Run("rare_action", "mirl", 0)


def command(script: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def ignore(steps: int) -> None:
    pass


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")


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
    assert {name[:8] for name in drawn} == {f"figure_{n}" for n in range(2, 9)} | {"aggregat", "rare_act", "seeds"}
    assert "| rare_action, prior |" in (experiment / "table.md").read_text()


def test_plots_only_needs_nothing_but_the_csvs(experiment: Path, tmp_path: Path) -> None:
    for path in experiment.glob("*.csv"):
        shutil.copy(path, tmp_path)
    done = command("reproduce_minatar.py", *ARGUMENTS, "--plots-only", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 10
    assert (tmp_path / "table.md").read_text() == (experiment / "table.md").read_text()


def test_finished_runs_are_not_run_again(experiment: Path) -> None:
    runs = [Run("rare_action", agent, seed) for agent in ("dqn", "mirl") for seed in (0, 1)]
    stored = json.loads((experiment / runs[0].folder / "settings.json").read_text())
    settings = Settings(**{**stored, "eval_exploration": tuple(stored["eval_exploration"])})
    before = {path: path.stat().st_mtime_ns for path in experiment.glob("cells/**/*")}
    assert run_all(runs, MINATAR, settings, experiment, device="cpu") == []
    assert before == {path: path.stat().st_mtime_ns for path in experiment.glob("cells/**/*")}
    with pytest.raises(ValueError, match=r"other settings \(timesteps: 1600 then, 3200 now\). Choose another --out"):
        is_done(runs[0], replace(settings, timesteps=3200), experiment)


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


def deadly_env(game: str, *args: Any) -> Any:
    if game == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return MINATAR.make_env(game, *args)


def test_a_run_that_fails_or_is_killed_is_named_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "TOGETHER", 1)
    good, bad, killed = (Run(game, "dqn", 0) for game in ("rare_action", "no_such_game", "killed"))
    settings, suite = replace(SETTINGS, timesteps=800), MINATAR._replace(make_env=deadly_env)
    failed = run_all([bad, killed, good], suite, settings, tmp_path, jobs=3, device="cpu")
    assert set(failed) == {bad, killed}
    assert "game='no_such_game' is not known, choose from 'asterix'" in (tmp_path / bad.folder / "error.txt").read_text()
    told = "".join(capfd.readouterr())
    assert "no_such_game dqn seed 0 failed: Traceback" in told
    assert "killed dqn seed 0 failed: its process was killed each of the 2 times" in told and "SIGKILL" in told
    assert "1/3 runs done" in told
    assert is_done(good, settings, tmp_path) and not is_done(bad, settings, tmp_path)


@pytest.mark.slow  # half a minute: the command starts twice
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_stopped_command_leaves_checkpoints_and_a_killed_one_no_workers(tmp_path: Path) -> None:
    line = [sys.executable, str(EXAMPLES / "reproduce_minatar.py"), "--games", "rare_action", "--algos", "mirl"]
    line += ["--seeds", "1", "--timesteps", "8e7", "--snapshot-every", "2e4", "--eval-episodes", "1", "--out", str(tmp_path)]
    folder, deadline = tmp_path / RUN.folder, time.monotonic() + 500
    for stop in (signal.SIGTERM, signal.SIGKILL):
        with (tmp_path / "stderr").open("w") as file:
            parent = subprocess.Popen(line, stderr=file)
        before = read_steps(folder)
        while len(read_steps(folder)) == len(before):
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.send_signal(stop)
        assert parent.wait(120) == (1 if stop == signal.SIGTERM else -stop)
        while any(Path("/proc", child).exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        said = (tmp_path / "stderr").read_text()
        assert "Traceback" not in said
        if stop == signal.SIGTERM:
            assert "leaked" not in said  # what a killed parent leaves, Python's resource tracker cleans up, and says so
            assert "Interrupted: the same command goes on from here." in said
            (checkpoint,) = (folder / "checkpoint").glob("checkpoint_*")
            saved = int(checkpoint.name.split("_")[1])
            assert saved > read_steps(folder)[-1], "it is newer than the last snapshot"
    assert read_steps(folder) == list(range(20_000, 20_000 * (len(read_steps(folder)) + 1), 20_000))


def read_steps(folder: Path) -> list[int]:
    path = folder / "prior" / "evaluations.npz"
    return read_evaluations(path)["timesteps"].tolist() if path.exists() else []


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_killed_run_goes_on_from_its_last_snapshot(tmp_path: Path, checkpoints: bool) -> None:
    settings = replace(SETTINGS, checkpoints=checkpoints)
    steps: list[int] = []

    def killed_at_2000(new: int) -> None:
        steps.append(new)
        if sum(steps) >= 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RUN, MINATAR, settings, tmp_path, "cpu", killed_at_2000)
    folder = tmp_path / RUN.folder
    evaluations = folder / "prior" / "evaluations.npz"
    before = read_evaluations(evaluations)
    assert before["timesteps"].tolist() == [800, 1600] and not is_done(RUN, settings, tmp_path)

    steps.clear()
    train(RUN, MINATAR, settings, tmp_path, "cpu", steps.append)
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
    assert model.num_timesteps == 2400 and is_done(RUN, settings, tmp_path) and not (folder / "checkpoint").exists()
    train(RUN, MINATAR, settings, tmp_path / "whole", "cpu", ignore)
    whole = MIRL.load(tmp_path / "whole" / RUN.folder / "model").policy.state_dict()
    assert all((whole[name] == value).all() for name, value in model.policy.state_dict().items())


def _die_writing(name: str, at: int, out: Path) -> None:
    """In a process of its own: train, and be killed half way through the ``at``-th time that a file is written."""
    n_begun = 0

    def torn(write: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal n_begun
        place = next(i for i, arg in enumerate(args) if isinstance(arg, Path) or hasattr(arg, "write"))
        n_begun += name in str(getattr(args[place], "name", args[place]))
        if n_begun < at:
            return write(*args, **kwargs)
        whole = out / f"whole_{name}"
        write(*args[:place], whole, *args[place + 1 :], **kwargs)
        half = whole.read_bytes()[: whole.stat().st_size // 2]
        with args[place].open("wb") if isinstance(args[place], Path) else args[place] as file:
            file.write(half)
        os.kill(os.getpid(), signal.SIGKILL)

    np.savez_compressed = partial(torn, np.savez_compressed)
    pd.DataFrame.to_csv = partialmethod(partial(torn, pd.DataFrame.to_csv))  # type: ignore[assignment]
    Path.write_text = partialmethod(partial(torn, Path.write_text))  # type: ignore[assignment]
    train(RUN, MINATAR, SETTINGS, out, "cpu", ignore)


@on_linux
@pytest.mark.parametrize(
    "kills",
    [[("evaluations.npz", 2)], [("snapshots.csv", 2)], [("snapshots.csv", 2), ("settings.json", 1)]],
    ids=lambda kills: kills[-1][0],
)
def test_a_run_killed_while_it_writes_a_file_goes_on(kills: list[tuple[str, int]], tmp_path: Path) -> None:
    for name, at in kills:
        process = multiprocessing.get_context("fork").Process(target=_die_writing, args=(name, at, tmp_path))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
    folder = tmp_path / RUN.folder
    left = read_steps(folder)
    assert left == ([800] if kills[0][0] == "evaluations.npz" else [800, 1600])
    train(RUN, MINATAR, SETTINGS, tmp_path, "cpu", ignore)
    assert read_steps(folder) == [800, 1600, 2400], "none is lost and none is there twice"
    assert read_table(folder / "snapshots.csv")["timesteps"].tolist() == [800, 1600, 2400]
    train(RUN, MINATAR, SETTINGS, tmp_path / "uninterrupted", "cpu", ignore)
    results, uninterrupted = (
        read_evaluations(path / "prior" / "evaluations.npz")["results"]
        for path in (folder, tmp_path / "uninterrupted" / RUN.folder)
    )
    np.testing.assert_array_equal(results, uninterrupted)


def _note_what_is_opened(out: Path, runs: list[Run], note: Path) -> None:
    """In a process of its own, as what listens to Python's events cannot be taken away again."""
    opened: set[str] = set()

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(args[0]).startswith(str(out)):
            opened.add(str(Path(args[0]).relative_to(out)))

    sys.addaudithook(listen)
    for run in runs:
        train(run, MINATAR, replace(SETTINGS, timesteps=1600), out, "cpu", ignore)
    results.collect(out)
    note.write_text("\n".join(opened))


@on_linux
def test_every_file_is_written_beside_the_old_one(tmp_path: Path) -> None:
    out, note, runs = tmp_path / "out", tmp_path / "note", [RUN, Run("rare_action", "sb3_dqn", 0)]
    process = multiprocessing.get_context("fork").Process(target=_note_what_is_opened, args=(out, runs, note))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    opened = note.read_text().split("\n")
    names = "settings.json evaluations.npz snapshots.csv prior_history.npz model.zip episodes.csv history.csv priors.csv"
    assert {f".{name}" for name in names.split()} <= {Path(name).name.rsplit(".", 2)[0] for name in opened}
    others = {Path(name).name for name in opened if not name.endswith(".part") and "/checkpoint/" not in name}
    assert {name for name in others if not name.startswith("events.out")} == {".lock", "done"}


def test_runs_can_be_watched_in_tensorboard(experiment: Path) -> None:
    folder = experiment / "cells" / "rare_action"
    for agent, name in (("dqn", "SoftDQN_1"), ("mirl", "MIRL_1")):
        events = EventAccumulator(str(folder / agent / "seed_0" / "tensorboard" / name)).Reload()
        tags = events.Tags()["scalars"]
        assert {"rollout/ep_rew_mean", "eval/mean_reward_prior", "eval/mean_reward_none", "train/beta"} <= set(tags)
        assert ("train/prior/PUSH" in tags) is (agent == "mirl")


def test_ctrl_c_saves_a_checkpoint_first(tmp_path: Path) -> None:
    steps: list[int] = []

    def interrupted_at_2000(new: int) -> None:
        steps.append(new)
        if sum(steps) == 2000:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(RUN, MINATAR, SETTINGS, tmp_path, "cpu", interrupted_at_2000)
    assert not is_done(RUN, SETTINGS, tmp_path)
    steps.clear()
    train(RUN, MINATAR, SETTINGS, tmp_path, "cpu", steps.append)
    assert steps[0] >= 2000 and sum(steps) == 2400


def test_evaluation_does_not_change_training(tmp_path: Path) -> None:
    settings = replace(SETTINGS, timesteps=1600)
    weights = []
    for name, changed in (
        ("once", settings),
        ("often", replace(settings, snapshot_every=400, eval_exploration=("prior", "uniform"), eval_episodes=3)),
    ):
        train(RUN, MINATAR, changed, tmp_path / name, "cpu", ignore)
        weights.append(MIRL.load(tmp_path / name / RUN.folder / "model").policy.state_dict())
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])


@pytest.fixture
def command_line() -> Any:
    """The module that the examples share."""
    return importlib.import_module("_command_line")


def test_hyperparameters_in_place_of_the_presets(command_line: Any) -> None:
    parser = command_line.experiment_parser("", MINATAR, 1600, 800)
    assert dict(parser.parse_args(["--set", "prior_lr=1e-5", "batch_size=8"]).overrides) == {"prior_lr": 1e-5, "batch_size": 8}
    with pytest.raises(SystemExit):
        parser.parse_args(["--set", "prior_lr"])


@pytest.mark.parametrize(("name", "hint"), [("prior_rl", "did you mean prior_lr?"), ("qqq", "choose from batch_size")])
def test_a_hyperparameter_that_no_agent_has_is_refused(name: str, hint: str, tmp_path: Path, command_line: Any) -> None:
    message = f"No agent has a hyperparameter '{name}': {hint}"
    env = MINATAR.make_env("rare_action", 1, 0, True)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_agent("mirl", env, "MlpPolicy", {name: 1.0})
    with pytest.raises(ValueError, match=re.escape(message)):
        run_all([RUN], MINATAR, replace(SETTINGS, overrides={name: 1}), tmp_path)
    parser = command_line.experiment_parser("", MINATAR, 1600, 800)
    with pytest.raises(SystemExit, match=re.escape(message)):
        command_line.run(parser.parse_args(["--set", f"{name}=1", "--out", str(tmp_path)]), MINATAR)
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_a_run_uses_them(tmp_path: Path) -> None:
    settings = replace(SETTINGS, timesteps=800, overrides={"prior_lr": 0.25, "learning_starts": 400})
    train(RUN, MINATAR, settings, tmp_path, "cpu", ignore)
    model = MIRL.load(tmp_path / RUN.folder / "model")
    assert (model.prior_lr, model.learning_starts) == (0.25, 400)


def test_sb3s_dqn_runs_beside_ours_with_the_same_hyperparameters(tmp_path: Path) -> None:
    env = MINATAR.make_env("rare_action", 8, 0, True)
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
        train(Run("rare_action", "sb3_dqn", seed), MINATAR, replace(SETTINGS, timesteps=800), tmp_path, "cpu", ignore)
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
        run_all([RUN], MINATAR, replace(SETTINGS, **changed), tmp_path)


def test_agents_get_the_arguments_that_make_them_what_they_are() -> None:
    env = MINATAR.make_env("rare_action", 1, 0, True)
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


def test_minatar_games_are_the_registered_ones_with_named_actions() -> None:
    pytest.importorskip("minatar")
    for game in GAMES:
        env = make_minatar(game)
        observation, _ = env.reset(seed=3)
        assert env.observation_space.contains(observation) and observation.shape[:2] == (10, 10)
        assert env.get_wrapper_attr("get_action_meanings")() == ["NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE"]
        plays = []
        for _ in range(2):
            env.reset(seed=5)
            plays.append([env.step(i % 6)[0].sum() for i in range(30)])
        assert plays[0] == plays[1]
    from minatar.gym import BaseEnv

    minimal = MinAtarActions(BaseEnv(game="breakout", use_minimal_action_set=True))
    assert minimal.get_action_meanings() == ["NOOP", "LEFT", "RIGHT"]


def test_the_old_name_of_a_run_still_works() -> None:
    with pytest.warns(FutureWarning, match="Cell is now called Run"):
        assert experiments.Cell is Run
    with pytest.raises(AttributeError, match="no attribute 'Dell'"):
        _ = experiments.Dell


def test_experiments_import_each_other_in_one_direction() -> None:
    """Imports for type checkers included; ``TopologicalSorter`` raises CycleError."""
    package = Path(experiments.__file__).parents[1]
    folders = (package.glob(f"{name}/*.py") for name in ("atari", "envs", "experiments"))
    imports: dict[str, set[str]] = {}
    for path in [package / "evaluation.py", *chain.from_iterable(folders)]:
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        # "from package import module" and "from package.module import name"
        modules = {f"{node.module}.{alias.name}" for node in found for alias in node.names} | {str(n.module) for n in found}
        imports[".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")] = modules
    assert "sb3_mirl.evaluation" in imports["sb3_mirl.experiments.snapshots"]
    packages = {name: name.rpartition(".")[0] for name in imports}  # each is begun before its modules
    graph = {name: (modules & imports.keys()) - {packages[name]} for name, modules in imports.items()}
    list(TopologicalSorter(graph).static_order())


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
    assert len(list(tmp_path.glob("*.png"))) == 9
    lengths = pd.read_csv(tmp_path / "episodes.csv")["length"]
    assert lengths.max() <= 4500
