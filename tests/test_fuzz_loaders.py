"""Files, maps and tables of random content: each is loaded to something valid, or refused by an error with a message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sb3_mirl import MIRL, PriorCallback
from sb3_mirl.atari import GAMES, normalized_score
from sb3_mirl.atari.scores import game_name
from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.experiments import Run, Settings
from sb3_mirl.experiments.snapshots import read_evaluations, read_history, read_table
from sb3_mirl.experiments.training import is_done
from sb3_mirl.tabular import QLearning, TabularMDP, soft_value_iteration
from tests.conftest import SMALL, ScriptedEnv

RUN, SETTINGS = Run("Breakout", "mirl", 0), Settings(80, 40, "paper")


def fuzz(max_examples: int) -> Any:
    """The same examples in every run, and no time limit for one of them."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=max_examples, derandomize=True, deadline=None, database=None, suppress_health_check=quiet)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A truncation, bit flips, bytes cut out or put in; or bytes that were never a file."""
    kind = draw(st.sampled_from(["truncated", "flipped", "cut", "put", "random"]))
    if kind == "random":
        return draw(st.binary(max_size=300))
    place = draw(st.integers(0, len(whole) - 1) | st.integers(max(0, len(whole) - 400), len(whole) - 1))
    if kind == "truncated":
        return whole[:place]
    if kind == "cut":
        return whole[:place] + whole[place + draw(st.integers(1, 50)) :]
    if kind == "put":
        return whole[:place] + draw(st.binary(min_size=1, max_size=20)) + whole[place:]
    content = bytearray(whole)
    for i in [place, *draw(st.lists(st.integers(0, len(whole) - 1), max_size=3))]:
        content[i] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    model = MIRL("MlpPolicy", ScriptedEnv(), **{**SMALL, "policy_kwargs": dict(net_arch=[2]), "learning_starts": 5}).learn(20)
    model.save(folder / "model")
    th.save(model.policy.state_dict(), folder / "weights.pth")
    assert isinstance(model.prior_callback, PriorCallback)
    model.prior_callback.save(folder / "history.npz")
    QLearning("MirlSquare-v0", seed=0).learn(50).save(folder / "agent")
    np.savez_compressed(folder / "evaluations.npz", timesteps=[1, 2], results=np.ones((2, 3)), ep_lengths=np.ones((2, 3)))
    table = pd.DataFrame({"timesteps": [4, 8], "beta": [0.1, 0.2], "training_score": [None, 3.0], "seconds": [1.5, 2.5]})
    table.to_csv(folder / "table.csv", index=False)
    (folder / "settings.json").write_text(json.dumps({"timesteps": 80, "preset": "paper", "overrides": {"beta_lr": 1e-4}}))
    (folder / "config.yml").write_text(
        "CartPole-v1: &c\n  policy: 'MlpPolicy'\n  n_timesteps: !!float 5e4\nAcrobot-v1:\n  <<: *c\n"
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loads_or_explains(load: Callable[[Any], Any], content: Any, *allowed: type[Exception]) -> Any:
    """What ``load`` gives, None if it refused ``content`` by an error that it documents."""
    try:
        return load(content)
    except (ValueError, *allowed) as error:
        # subclasses such as UnicodeDecodeError speak of bytes, not of files
        assert type(error) in (ValueError, *allowed) and len(str(error)) > 20, repr(error)
        return None


def check_model(path: Path) -> None:
    model = MIRL.load(path, device="cpu")
    assert th.isfinite(model.q_net(th.zeros(1, 4))).all() and model.prior.sum() == pytest.approx(1)


def check_agent(path: Path) -> None:
    agent = QLearning.load(path, env="MirlSquare-v0").learn(5)
    assert agent.q.shape == (64, 4) and np.isfinite(agent.q).all()


def check_weights(path: Path) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), **{**SMALL, "policy_kwargs": dict(net_arch=[2]), "buffer_size": 5})
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    try:
        model.load_weights(path)
    except ValueError:
        assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
        raise
    assert np.isfinite(model.prior).all() and model.prior.sum() == pytest.approx(1) and 0 < model.beta <= model.beta_max
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


def check_evaluations(path: Path) -> None:
    data = read_evaluations(path)
    assert len(data["timesteps"]) == len(data["results"]) == len(data["ep_lengths"])


def check_history(path: Path) -> None:
    data = read_history(path)
    assert data["prior"].shape == (len(data["timesteps"]), len(data["actions"]))


def check_settings(path: Path) -> None:
    folder = path.parent / RUN.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_bytes(path.read_bytes())
    assert is_done(RUN, SETTINGS, path.parent) is False


FILES: dict[str, tuple[Callable[[Path], Any], int]] = {
    "model.zip": (check_model, 60),
    "weights.pth": (check_weights, 100),
    "agent.zip": (check_agent, 60),
    "evaluations.npz": (check_evaluations, 150),
    "history.npz": (check_history, 150),
    "table.csv": (read_table, 100),
    "settings.json": (check_settings, 100),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_file(name: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    load, max_examples = FILES[name]
    path = tmp_path / name

    def written(content: bytes) -> Any:
        path.write_bytes(content)
        return load(path)

    @fuzz(max_examples)
    @given(damaged(whole[name]))
    def run(content: bytes) -> None:
        loads_or_explains(written, content)

    run()
    if name != "settings.json":
        written(whole[name])


def test_damaged_model_gives_no_weights(whole: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.zip"

    def written(content: bytes) -> None:
        path.write_bytes(content)
        check_weights(path)

    @fuzz(100)
    @given(damaged(whole["model.zip"]))
    def run(content: bytes) -> None:
        loads_or_explains(written, content)

    run()


def test_damaged_configuration(whole: dict[str, bytes], tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")
    from sb3_mirl.zoo.experiment import check_config

    path = tmp_path / "config.yml"

    @fuzz(150)
    @given(damaged(whole["config.yml"]) | st.text(alphabet="{}[]:,&*!-?|>'\"#% \nab1", max_size=40).map(str.encode))
    @example(b"[" * 2000)
    @example(b"a: 2001-99-99")
    @example(b"a: !!python/object/apply:os.getcwd []")
    def run(content: bytes) -> None:
        path.write_bytes(content)
        loads_or_explains(lambda p: check_config(str(p)), path)

    run()
    path.write_bytes(whole["config.yml"])
    check_config(str(path))


@fuzz(80)
@given(
    st.lists(st.text(alphabet=".G#", min_size=1, max_size=5), max_size=4)
    | st.text(max_size=10)
    | st.lists(st.text(max_size=3) | st.none() | st.integers() | st.lists(st.just("G")), max_size=3)
    | st.tuples(st.sampled_from(["..G", ".#G", "G.."]), st.sampled_from(["...", "#.#", "GGG"]))
    | st.none()
    | st.binary(max_size=5)
)
def test_random_map(layout: Any) -> None:
    env = loads_or_explains(GridWorldEnv, layout)
    if env is not None:
        assert soft_value_iteration(TabularMDP.from_env(env), 1.0).v.shape == (len(env.cells),)
        assert env.observation_space.contains(env.reset(seed=0)[0])


class Table(gym.Env[int, int]):
    """Any ``P``."""

    def __init__(self, table: Any, start: Any) -> None:
        self.P, self.initial_state_distrib = table, start
        self.observation_space, self.action_space = spaces.Discrete(2), spaces.Discrete(2)


ODD = st.sampled_from([None, "a", -1, 7, 0.5, float("nan"), float("inf"), (), 10**30, -(2**63)])
OUTCOMES = st.sampled_from([[(1.0, 1, 0.5, False)], [(0.5, 0, 0.0, False), (0.5, 1, 1.0, True)], [(1, np.int64(0), -1, True)]])
WRONG = (
    st.tuples(st.just(1.0) | ODD, st.just(1) | ODD, st.just(0.0) | ODD, st.booleans()).map(lambda o: [o])
    | st.lists(st.tuples(st.floats(), st.integers(-3, 3), st.floats(), st.booleans()), max_size=2)
    | ODD
)
ACTIONS = st.dictionaries(st.integers(0, 2), OUTCOMES | WRONG, max_size=3) | st.lists(OUTCOMES, min_size=2, max_size=2) | ODD


@fuzz(200)
@given(
    st.fixed_dictionaries(
        {0: st.lists(OUTCOMES, min_size=2, max_size=2), 1: st.lists(OUTCOMES | WRONG, min_size=2, max_size=2)}
    )
    | st.dictionaries(st.integers(0, 2), ACTIONS, max_size=3)
    | ODD,
    st.sampled_from([[1.0, 0.0], [0.5, 0.5]]) | st.lists(st.floats(), max_size=3),
)
@example({s: [[(1.0, 2, 0.0, False)]] * 2 for s in range(2)}, [1.0, 0.0])  # the compiled loop would leave its arrays
def test_random_table(table: Any, start: Any) -> None:
    env = Table(table, start)
    mdp = loads_or_explains(TabularMDP.from_env, env)
    if mdp is not None and (mdp.n_states, mdp.n_actions) == (2, 2):
        assert np.isfinite(soft_value_iteration(mdp, 1.0).q).all()
    agent = loads_or_explains(lambda env: QLearning(env, seed=0).learn(20), env)
    assert (agent is None) == (mdp is None or (mdp.n_states, mdp.n_actions) != (2, 2))
    assert agent is None or np.isfinite(agent.q).all()


@fuzz(150)
@given(
    st.text(max_size=12)
    | st.sampled_from(GAMES).flatmap(lambda game: st.sampled_from([game.upper(), f"ALE/{game}-v5", f" {game}?", game[:-1]]))
    | st.none()
    | st.integers(),
    st.floats(-100, 100),
)
def test_random_game(game: Any, score: float) -> None:
    percent = loads_or_explains(lambda name: normalized_score(name, score), game, TypeError)
    if percent is not None:
        assert np.isfinite(percent) and game_name(game) in GAMES
