"""The RL Zoo with our algorithms: its commands as a user types them, the shipped configurations, the search."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")

import optuna
import yaml
from rl_zoo3 import ALGOS, exp_manager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_mirl
from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.__main__ import COMMANDS, main
from sb3_mirl.hyperparameters import CONFIGS, OF_THE_RUN, resolve
from sb3_mirl.soft_dqn.defaults import PAPER_BUDGET, choose
from sb3_mirl.soft_dqn.soft_dqn import update_ratio
from sb3_mirl.zoo import ALGORITHMS
from sb3_mirl.zoo.command_line import prepared
from sb3_mirl.zoo.experiment import Experiment, config_of
from sb3_mirl.zoo.search import NET_ARCHS

CLASSES = {"mirl": MIRL, "softdqn": SoftDQN}  # those like DQN
# read by the zoo, everything else goes to the algorithm
ZOO_KEYS = {*OF_THE_RUN, "policy"}
CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3"]
GRIDS = ["MirlCorridor-v0", "MirlSquare-v0"]
MINATAR = [f"MinAtar/{game}-v1" for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")]
NO_HER = {"using_her_replay_buffer": False, "her_kwargs": {}}
TINY = ["-params", "buffer_size:500", "learning_starts:40"]


def config(algo: str, preset: str = "") -> dict[str, dict[str, Any]]:
    return yaml.safe_load((CONFIGS / preset / f"{algo}.yml").read_text())


def run(folder: Path, *command: str, module: str = "sb3_mirl") -> str:
    """A command in a process of its own, as typed in ``folder``; its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy"}
    done = subprocess.run(
        [sys.executable, "-m", module, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command in this process, in an empty folder: saves the seconds that importing takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name, registration in ALGORITHMS.items():
        monkeypatch.setitem(ALGOS, name, registration.algorithm)

    def run_here(*command: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sb3_mirl", *command])
        main()

    return run_here


AGENTS = Path(__file__).parents[1] / "examples" / "agents"


@pytest.mark.parametrize("path", sorted(AGENTS.glob("*/*/*.zip")), ids=lambda path: path.stem)
def test_agents_that_come_with_the_repository_load(path: Path) -> None:
    model: Any = ALGORITHMS[path.parents[1].name].algorithm.load(path, device="cpu")
    observation = model.observation_space.sample()
    assert model.action_space.contains(np.asarray(model.predict(observation, deterministic=True)[0]))
    assert path.stat().st_size < 1_000_000


class TestCommands:
    def test_train_enjoy_video_continue(self, tmp_path: Path) -> None:
        task = ["--algo", "mirl", "--env", "CartPole-v1"]
        said = run(tmp_path, "train", *task, "-P", "--tensorboard-log", "runs/", "-n", "96", "--eval-freq", "48", *TINY)
        assert f"Loading hyperparameters from: {CONFIGS / 'mirl.yml'}" in said
        assert list(tmp_path.glob("runs/CartPole-v1/MIRL_1/events*"))
        assert (tmp_path / "logs/mirl/CartPole-v1_1/evaluations.npz").is_file()
        assert "Mean reward" in run(tmp_path, "enjoy", *task, "-f", "logs", "--no-render", "-n", "600")
        pytest.importorskip("pygame")
        run(tmp_path, "record_video", *task, "-f", "logs", "-n", "20")
        (video,) = tmp_path.glob("logs/mirl/CartPole-v1_1/videos/*.mp4")
        assert video.stat().st_size > 1000

    def test_continued_run_goes_on(self, call: Any) -> None:
        params = ["beta_schedule:'linear'", "beta_slope:0.5", "exploration_fraction:0.1", "exploration_final_eps:0.07"]
        command = ["train", "--algo", "mirl", "--env", "CartPole-v1", "--eval-freq", "-1", "-n", "320", "--save-replay-buffer"]
        call(*command, *TINY, *params, "prior_lr:0.01")
        path = "logs/mirl/CartPole-v1_{}/CartPole-v1.zip"
        first = MIRL.load(path.format(1))
        call(*command, "-i", path.format(1), *TINY, *params, "prior_lr:0.0")
        second = MIRL.load(path.format(2))
        assert first.num_timesteps >= 320 and second.num_timesteps >= first.num_timesteps + 320
        assert second.beta == pytest.approx(0.5 * second.num_timesteps)
        assert second.exploration_rate == first.exploration_rate == pytest.approx(0.07)
        assert second._n_updates > first._n_updates > 0
        assert first.prior[0] != 0.5
        np.testing.assert_array_equal(second.prior, first.prior)

    def test_continued_run_without_its_memory_collects_first(self, call: Any, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["train", "--algo", "softdqn", "--env", "CartPole-v1", "--eval-freq", "-1", "-n", "320", *TINY]
        call(*command)
        first = SoftDQN.load("logs/softdqn/CartPole-v1_1/CartPole-v1.zip")
        call(*command, "-i", "logs/softdqn/CartPole-v1_1/CartPole-v1.zip")
        assert "--save-replay-buffer" in capsys.readouterr().out
        second = SoftDQN.load("logs/softdqn/CartPole-v1_2/CartPole-v1.zip")
        assert second.learning_starts == first.num_timesteps + 40

    @pytest.mark.parametrize("algo", CLASSES)
    def test_optimize(self, algo: str, call: Any) -> None:
        call(
            *("train", "--algo", algo, "--env", "CartPole-v1", "-optimize", "--n-trials", "2", "-n", "200"),
            *("--n-startup-trials", "1", "--no-optim-plots", "--eval-episodes", "1", *TINY),
        )
        (report,) = Path("logs", algo).glob("report_*.csv")
        header, *trials = report.read_text().splitlines()
        assert "params_beta_lr" in header and ("params_prior_lr" in header) == (algo == "mirl")
        assert len(trials) == 2 and "COMPLETE" in trials[0]
        # an empty run would be the newest one, which enjoy and record_video take
        assert {path.suffix for path in Path("logs", algo).iterdir()} == {".csv", ".pkl"}

    def test_search_keeps_the_network_of_the_configuration(self, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
        pytest.importorskip("minatar")
        made: list[Any] = []
        monkeypatch.setitem(ALGOS, "mirl", partial(_noted, made))
        call(
            *("train", "--algo", "mirl", "--env", MINATAR[2], "-optimize", "--n-trials", "1", "-n", "40"),
            *("--no-optim-plots", "--eval-episodes", "1", *TINY),
        )
        (model,) = made
        assert type(model.policy.q_net.features_extractor).__name__ == "MinAtarCNN"
        assert model.policy.net_arch in NET_ARCHS.values()

    def test_videos_need_no_replay_memory(self, call: Any) -> None:
        pytest.importorskip("pygame")
        task = ["--algo", "mirl", "--env", "CartPole-v1"]
        call("train", *task, "-n", "96", "--eval-freq", "-1", *TINY)
        path = "logs/mirl/CartPole-v1_1/CartPole-v1.zip"
        model = MIRL.load(path)
        model.buffer_size = 10**15  # more than any machine has
        model.save(path)
        call("record_video", *task, "-f", "logs", "-n", "10")
        call("enjoy", *task, "-f", "logs", "-n", "10", "--no-render")
        assert list(Path("logs/mirl/CartPole-v1_1/videos").glob("*.mp4"))

    @pytest.mark.parametrize("env_id", [GRIDS[0], MINATAR[0]])
    def test_other_tasks(self, env_id: str, call: Any) -> None:
        pytest.importorskip("minatar")
        task = ["--algo", "mirl", "--env", env_id]
        call("train", *task, "-n", "96", "--eval-freq", "48", "--eval-episodes", "1", *TINY)
        call("record_video", *task, "-f", "logs", "-n", "5")
        assert list(Path("logs").rglob("*.mp4")) and list(Path("logs").rglob("best_model.zip"))

    def test_plots(self, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MPLBACKEND", "Agg")
        try:
            import rl_zoo3.plots  # noqa: F401
        except (ImportError, TypeError) as error:
            pytest.skip(f"the zoo's plots do not import with these versions of pandas and arch: {error}")
        call("train", "--algo", "softdqn", "--env", "CartPole-v1", "-n", "96", "--eval-freq", "48", *TINY)
        call("all_plots", "-a", "softdqn", "-e", "CartPole-v1", "-f", "logs", "-o", "scores")
        assert Path("scores.pkl").is_file()

    def test_pictures_without_a_display(
        self, call: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pyplot = pytest.importorskip("matplotlib.pyplot", reason="pip install '.[plots]'")
        pyplot.close("all")
        monkeypatch.setattr(pyplot, "show", lambda *args, **kwargs: None)
        call("train", "--algo", "softdqn", "--env", "CartPole-v1", "-n", "96", "--eval-freq", "48", *TINY)
        call("all_plots", "-a", "softdqn", "-e", "CartPole-v1", "-f", "logs", "-o", "scores", "--save", "pictures/scores.svg")
        assert Path("pictures/scores.svg").stat().st_size > 1000
        pyplot.close("all")
        (run,) = Path("logs/softdqn").iterdir()
        with np.load(run / "evaluations.npz") as written:
            record = dict(written)
        np.savez(run / "evaluations.npz", **{**record, "results": record["results"][:, :1]})
        with pytest.raises(SystemExit, match="all_plots: a single run needs at least two episodes in each evaluation"):
            call("all_plots", "-a", "softdqn", "-e", "CartPole-v1", "-f", "logs")
        with pytest.raises(SystemExit, match="plot_from_file: it needs at least two runs of each algorithm"):
            call("plot_from_file", "-i", "scores.pkl")
        pyplot.close("all")
        runs = ["plot_train", "-a", "softdqn", "-e", "CartPole-v1", "-f", "logs"]
        call(*runs, "-w", "1")
        assert "nothing was shown: --save FILE writes the pictures" in capsys.readouterr().err
        pyplot.close("all")
        call(*runs, "-w", "1000", "--save", "empty")
        assert "the picture is empty, because no run has as many episodes" in capsys.readouterr().err

    def test_no_display_for_enjoy(
        self, call: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "platform", "linux")
        assert prepared("enjoy", ["-n", "10"]) == ["-n", "10", "--no-render"]
        said = capsys.readouterr().err
        assert "--no-render" in said and "record_video" in said
        monkeypatch.setenv("DISPLAY", ":0")
        assert prepared("enjoy", ["-n", "10"]) == ["-n", "10"]

    @pytest.mark.parametrize(
        ("options", "advice"),
        [
            (["--algo", "mirll"], r"--algo mirll is not known. Did you mean 'mirl'\? There are: a2c"),
            (["--env", "CartPole-v7"], "CartPole-v7 not found in gym registry, you maybe meant CartPole-v1"),
            (["--env", "Pendulum-v1"], r"MIRL needs discrete actions .*, got Box\(.*sb3_mirl\.VIREL"),
            (
                ["--algo", "sac", "-conf", "only.yml"],
                r"CartPole-v1 has discrete actions, Discrete\(2\), which sac does not",
            ),
            (["-conf", "table3"], "table3/mirl.yml"),
            (["-params", "gama:0.5"], "MIRL has no argument 'gama': did you mean 'gamma'"),
            (["-i", "nothing.zip"], "must be a valid path to a .zip file"),
            (["--track"], r"--track needs Weights & Biases, wandb. .*pip install '.\[wandb\]'"),
        ],
    )
    def test_what_cannot_start_says_so_in_a_line(
        self, options: list[str], advice: str, call: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        Path("only.yml").write_text("default: {policy: MlpPolicy, n_timesteps: 100}")
        base = ["train", "--algo", "mirl", "--env", "CartPole-v1", "-n", "50"]
        with pytest.raises(SystemExit, match=f"^sb3_mirl train: .*{advice}") as stopped:
            call(*base, *options)
        assert "\n" not in str(stopped.value)
        assert not list(Path().rglob("*_1"))

    def test_errors_of_a_training_keep_their_traceback(self, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def learn(self: Any, *args: Any, **kwargs: Any) -> None:
            raise ValueError("in the middle")

        monkeypatch.setattr(MIRL, "learn", learn)
        with pytest.raises(ValueError, match="in the middle"):
            call("train", "--algo", "mirl", "--env", "CartPole-v1", "-n", "50", "--eval-freq", "-1", *TINY)
        with pytest.raises(ValueError, match="gamma=2"):
            call("train", "--algo", "mirl", "--env", "CartPole-v1", "--verbose", "2", "-params", "gamma:2")

    def test_what_has_no_entry_gets_general_values(self, call: Any, capsys: pytest.CaptureFixture[str]) -> None:
        call("train", "--algo", "softdqn", "--env", "FrozenLake-v1", "-n", "96", "--eval-freq", "-1", *TINY)
        assert "Using 'default' hyperparameters" in capsys.readouterr().out
        assert SoftDQN.load("logs/softdqn/FrozenLake-v1_1/FrozenLake-v1.zip").num_timesteps == 96

    def test_scores_of_agents_that_come_with_the_repository(self, call: Any, tmp_path: Path) -> None:
        """``benchmark`` starts ``enjoy`` in a process of its own."""
        shutil.copytree(AGENTS / "mirl" / "CartPole-v1_1", tmp_path / "agents" / "mirl" / "CartPole-v1_1")
        call("benchmark", "--log-dir", "agents", "--benchmark-dir", "scores", "--no-hub", "-n", "1100", "--num-threads", "1")
        *_, line = (tmp_path / "benchmark.md").read_text().splitlines()
        algo, env_id, mean, _, _, _, episodes = line.replace(" ", "").strip("|").split("|")
        assert (algo, env_id, mean, episodes) == ("mirl", "CartPole-v1", "500", "2")

    def test_help_and_version(self, call: Any, capsys: pytest.CaptureFixture[str]) -> None:
        call("--version")
        assert capsys.readouterr().out == f"sb3_mirl {sb3_mirl.__version__}\n"
        call("--help")
        lines = capsys.readouterr().out.splitlines()
        assert all(any(re.match(rf"  {command} +\w+", line) for line in lines) for command in COMMANDS)
        scripts = entry_points(group="console_scripts", name="sb3_mirl")
        assert not scripts or {script.value for script in scripts} == {"sb3_mirl.__main__:main"}

    def test_unknown_command(self, call: Any) -> None:
        with pytest.raises(SystemExit, match=r"unknown command 'tarin'. Did you mean 'train'\? There are: train, enjoy"):
            call("tarin")

    def test_the_zoos_own_commands_through_custom_envs(self, tmp_path: Path) -> None:
        (tmp_path / "custom_envs.py").write_text("import sb3_mirl.zoo\n")
        said = run(
            tmp_path,
            *("--algo", "softdqn", "--env", "MirlSquare-v0", "-n", "96", "--eval-freq", "-1", *TINY),
            module="rl_zoo3.train",
        )
        assert f"Loading hyperparameters from: {CONFIGS / 'softdqn.yml'}" in said
        # this one imports custom_envs at another moment
        help_text = run(tmp_path, "--help", module="rl_zoo3.record_video")
        assert "mirl" in help_text


@pytest.mark.atari
class TestAtari:
    @pytest.fixture(autouse=True)
    def _ale(self) -> None:
        pytest.importorskip("ale_py")

    def test_command_of_the_readme(self, call: Any) -> None:
        task = ["--algo", "mirl", "--env", "SeaquestNoFrameskip-v4"]
        call("train", *task, "-P", "--tensorboard-log", "runs/", "-n", "60", "--eval-freq", "-1", *TINY)
        call("enjoy", *task, "-f", "logs", "--no-render", "-n", "10")
        model = MIRL.load("logs/mirl/SeaquestNoFrameskip-v4_1/SeaquestNoFrameskip-v4.zip")
        assert model.observation_space.shape == (4, 84, 84)
        assert model.num_timesteps == 60 and model.n_envs == 1

    def test_vector_environment(self, call: Any) -> None:
        task = ["--algo", "softdqn", "--env", "BreakoutNoFrameskip-v4"]
        call("train", *task, "-conf", "atari_vec_env", "-n", "1600", "--eval-freq", "-1", "-params", "buffer_size:3000")
        # the games' records, unclipped
        monitor = Path("logs/softdqn/BreakoutNoFrameskip-v4_1/0.monitor.csv").read_text().splitlines()
        assert '"env_id": "BreakoutNoFrameskip-v4"' in monitor[0]
        assert len(monitor) > 2 + 1
        call("enjoy", *task, "-f", "logs", "--no-render", "-n", "10")
        call("record_video", *task, "-f", "logs", "-n", "5")
        model = SoftDQN.load("logs/softdqn/BreakoutNoFrameskip-v4_1/BreakoutNoFrameskip-v4.zip")
        assert model.observation_space.shape == (4, 84, 84) and model.n_envs == 8

    def test_vector_environment_takes_over_what_the_zoo_chose(self) -> None:
        from sb3_mirl.envs import AtariVecEnv
        from sb3_mirl.zoo.atari import atari_vec_env

        kwargs = {"full_action_space": True, "mode": 1, "difficulty": 2, "max_num_frames_per_episode": 400}
        env = DummyVecEnv([lambda: Monitor(gym.make("ALE/Pong-v5", **kwargs))] * 2)
        env.seed(7)
        fast = atari_vec_env(env)
        assert isinstance(fast, AtariVecEnv)
        assert (fast.num_envs, fast.game, fast._seeds, fast.action_space.n) == (2, "pong", [7, 8], 18)
        assert (fast.mode, fast.difficulty, fast.max_episode_steps) == (1, 2, 100)
        assert fast._arguments["repeat_action_probability"] == 0.25
        fast.close()

    def test_vector_environment_watched_looks_the_same(self) -> None:
        from sb3_mirl.zoo.atari import atari_vec_env

        watched = atari_vec_env(DummyVecEnv([lambda: gym.make("PongNoFrameskip-v4", render_mode="rgb_array")]))
        observations = watched.reset()
        assert isinstance(observations, np.ndarray) and observations.shape == (1, 84, 84, 4)
        image = watched.render()
        assert image is not None and image.shape == (210, 160, 3)
        watched.close()

    @pytest.mark.parametrize(
        ("env_id", "kwargs", "message"),
        [
            ("CartPole-v1", {}, "plays Atari games and not CartPole-v1"),
            ("Breakout-v4", {}, r"plays 4 frames a step, which frameskip=\(2, 5\) of Breakout-v4 does not divide"),
            ("BreakoutNoFrameskip-v4", {"frameskip": 3}, "frameskip=3"),
            ("BreakoutNoFrameskip-v4", {"obs_type": "ram"}, "and not obs_type='ram'"),
            ("BreakoutNoFrameskip-v4", {"continuous": True}, "discrete actions"),
        ],
    )
    def test_vector_environment_refuses_what_it_cannot_keep(self, env_id: str, kwargs: dict[str, Any], message: str) -> None:
        from sb3_mirl.zoo.atari import atari_vec_env

        with pytest.raises(ValueError, match=message):
            atari_vec_env(DummyVecEnv([lambda: gym.make(env_id, **kwargs)]))


class TestConfigurations:
    @pytest.mark.parametrize("algo", CLASSES)
    def test_every_task_has_one(self, algo: str) -> None:
        assert {"atari", *CLASSIC, *GRIDS, *MINATAR} <= set(config(algo))

    @pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yml")), ids=lambda path: f"{path.parent.name}/{path.name}")
    def test_every_value_has_unit_or_source(self, path: Path) -> None:
        values = [line for line in path.read_text().splitlines() if re.match(r"  \w+:", line)]
        assert values and not [line for line in values if not re.search(r"  # .{4,}", line)]

    @pytest.mark.parametrize("algo", CLASSES)
    @pytest.mark.parametrize("preset", ["", "table3", "atari_vec_env"])
    def test_every_key_is_known(self, algo: str, preset: str) -> None:
        known = set(inspect.signature(SoftDQN).parameters) | set(inspect.signature(CLASSES[algo]).parameters) | ZOO_KEYS
        for task, values in config(algo, preset).items():
            assert not set(values) - known, task
            assert not [key for key, value in values.items() if isinstance(value, str) and re.match(r"[\d.]+e", value)], task

    @pytest.mark.parametrize("algo", CLASSES)
    def test_atari_is_the_default_of_the_class(self, algo: str) -> None:
        defaults = {name: parameter.default for name, parameter in inspect.signature(CLASSES[algo]).parameters.items()}
        defaults |= choose("auto", True, PAPER_BUDGET, 1)
        values = {key: value for key, value in config(algo)["atari"].items() if key not in ZOO_KEYS}
        assert len(values) >= 11
        assert values == {key: defaults[key] for key in values}
        assert config(algo)["atari"]["n_timesteps"] == PAPER_BUDGET

    @pytest.mark.parametrize("algo", CLASSES)
    def test_presets_differ_where_they_should(self, algo: str) -> None:
        base, table3, vector = (config(algo, preset)["atari"] for preset in ("", "table3", "atari_vec_env"))
        rates = {"beta_lr": 3.3e-6} | ({"prior_lr": 2e-6} if algo == "mirl" else {})
        assert table3 == {**base, **rates}
        unwrapped = {key: value for key, value in base.items() if key not in ("env_wrapper", "frame_stack")}
        assert vector == {**unwrapped, "n_envs": 8, "vec_env_wrapper": "sb3_mirl.zoo.atari.atari_vec_env"}

    def test_what_conf_means(self, tmp_path: Path) -> None:
        own = tmp_path / "own.yml"
        assert config_of("mirl", str(own)) == str(own)
        assert config_of("mirl", "table3") == str(CONFIGS / "table3" / "mirl.yml")
        assert config_of("softdqn", "tests.conftest") == "tests.conftest"
        assert config_of("dqn") is None and config_of("dqn", "table3") == "table3"
        with pytest.raises(ValueError, match=r"-conf tabel3 is neither a preset of mirl \(atari_vec_env, table3\)"):
            config_of("mirl", "tabel3")

    def test_the_zoo_uses_them(self) -> None:
        import rl_zoo3.train

        assert rl_zoo3.train.ExperimentManager is exp_manager.ExperimentManager is Experiment


def _noted(made: list[Any], *args: Any, **kwargs: Any) -> MIRL:
    made.append(MIRL(*args, **kwargs))
    return made[-1]


def dimensions(values: dict[str, Any]) -> dict[str, Any]:
    """The point of the search space at which hyperparameters of a configuration lie."""
    n_envs = values.get("n_envs", 1)
    ratio = update_ratio(n_envs)
    frequency, updates = values.get("train_freq", ratio[0]), values.get("gradient_steps", ratio[1])
    rate, averaged = str(values["learning_rate"]), values.get("tau", 1) < 1
    net_arch = resolve("policy_kwargs", values.get("policy_kwargs", "dict()")).get("net_arch", [])
    others = {"n_steps": 1, "beta_init": 0.01, "beta_lr": 3e-5, "beta_max": 1e4, "exploration_fraction": 0.1, "tau": 1.0}
    more = ("exploration_final_eps", "exploration", "target_update_interval", "prior_lr")
    return {
        **{name: values.get(name, default) for name, default in others.items()},
        **{name: values[name] for name in more if name in values},
        "one_minus_gamma": 1 - values["gamma"],
        "batch_size_pow": int(np.log2(values["batch_size"])),
        "learning_rate": float(rate.removeprefix("lin_")),
        "learning_rate_schedule": "linear" if rate.startswith("lin_") else "constant",
        "train_freq": frequency,
        "gradient_steps": frequency * n_envs if updates == -1 else updates,
        "target": "averaged" if averaged else "copied",
        "net_arch": next(name for name, units in NET_ARCHS.items() if units == net_arch),
        "exploration_mix": values.get("exploration_mix", 0.0),
    }


@pytest.mark.parametrize("algo", CLASSES)
@pytest.mark.parametrize("preset", ["", "table3", "atari_vec_env"])
def test_search_space_holds_what_is_shipped(algo: str, preset: str) -> None:
    for task, values in config(algo, preset).items():
        point = dimensions(values)
        with warnings.catch_warnings():
            # optuna warns of values outside of a dimension
            warnings.simplefilter("error")
            trial = optuna.trial.FixedTrial(point)
            sampled = HYPERPARAMS_SAMPLER[algo](trial, 2, values.get("n_envs", 1), NO_HER)
        for name in ("gamma", "batch_size", "train_freq", "n_steps", "beta_init", "prior_lr", "tau", "exploration_final_eps"):
            if name in values:
                assert sampled[name] == pytest.approx(values[name]), (task, name)
        if "policy_kwargs" in values:
            assert sampled["policy_kwargs"]["net_arch"] == resolve("policy_kwargs", values["policy_kwargs"])["net_arch"]


@pytest.mark.parametrize("algo", CLASSES)
def test_search_samples_what_the_algorithm_takes(algo: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen, choices = [], set()
    for _ in range(30):
        trial = study.ask()
        sampled = HYPERPARAMS_SAMPLER[algo](trial, 2, 4, NO_HER)
        model = CLASSES[algo]("MlpPolicy", "CartPole-v1", buffer_size=100, **sampled)
        # what --trial-id makes of the stored trial
        stored = {name: resolve(name, value) for name, value in HYPERPARAMS_CONVERTER[algo](trial.params).items()}
        assert repr(stored) == repr({name: sampled[name] for name in stored}) and set(stored) == set(sampled)
        assert model.beta_max >= model.beta_init and model.gradient_steps <= 4 * model.train_freq.frequency  # type: ignore[union-attr]
        choices.add((callable(model.learning_rate), model.tau < 1, model.n_steps > 1))
        seen.append([model.beta_lr, model.beta_init, *([model.prior_lr] if isinstance(model, MIRL) else [])])
    assert {each for choice in choices for each in enumerate(choice)} == {(i, yes) for i in range(3) for yes in (False, True)}
    # two orders of magnitude of each
    assert (np.max(seen, axis=0) / np.min(seen, axis=0) > 100).all()
