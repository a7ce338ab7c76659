"""Files of the tabular agents: saved by one class and loaded by another, torn while they are written, whole afterwards."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import sb3_mirl.tabular
from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMIRL, train_in_parallel
from sb3_mirl.tabular.agents import TabularAgent

AGENTS = {cls.__name__: cls for cls in (QLearning, SoftQLearning, TabularMIRL)}
DEEP = {cls.__name__: cls for cls in (MIRL, SoftDQN)}


class Mine(TabularMIRL):
    """A user's."""


class Yours(TabularMIRL):
    """Another user's."""


class Other(TabularAgent):
    """A user's own rule."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for name, cls in (AGENTS | {"Mine": Mine}).items():
        cls("MirlSquare-v0", seed=0).learn(100).save(folder / name)
    Other("MirlSquare-v0", QLearning("MirlSquare-v0").rule, 0.05, seed=0).save(folder / "Other")
    for name, deep in DEEP.items():
        deep("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu").save(folder / name)
    return folder


@pytest.mark.parametrize("loaded_by", AGENTS)
@pytest.mark.parametrize("saved_by", AGENTS)
def test_each_class_loads_its_own_files_only(saved: Path, saved_by: str, loaded_by: str) -> None:
    cls = AGENTS[loaded_by]
    if saved_by == loaded_by:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert type(cls.load(saved / saved_by, env="MirlSquare-v0")) is cls
        return
    message = f"{saved_by} was saved by {saved_by}, not by {loaded_by}: load it by {saved_by}.load"
    for env in (None, "MirlSquare-v0", "an environment that is never made"):
        with pytest.raises(ValueError, match=message):
            cls.load(saved / saved_by, env=env)


@pytest.mark.parametrize("loaded_by", AGENTS)
@pytest.mark.parametrize("saved_by", DEEP)
def test_files_of_the_deep_agents_are_refused(saved: Path, saved_by: str, loaded_by: str) -> None:
    with pytest.raises(ValueError, match=f"{saved_by} (holds no tabular agent|was saved by {saved_by})"):
        AGENTS[loaded_by].load(saved / saved_by)


@pytest.mark.parametrize("loaded_by", DEEP)
@pytest.mark.parametrize("saved_by", AGENTS)
def test_the_deep_agents_refuse_tabular_files(saved: Path, saved_by: str, loaded_by: str) -> None:
    with pytest.raises(ValueError, match=saved_by):
        DEEP[loaded_by].load(saved / saved_by)


@pytest.mark.parametrize(
    ("saved_by", "cls"), [("Mine", TabularMIRL), ("TabularMIRL", Mine), ("Mine", Yours)], ids=["base", "subclass", "sibling"]
)
def test_a_users_subclass_and_its_base_load_each_others_files_with_a_warning(saved: Path, saved_by: str, cls: type) -> None:
    with pytest.warns(UserWarning, match=f"was saved by {saved_by}, a relative of {cls.__name__}: what only {saved_by} does"):
        agent = cls.load(saved / saved_by)
    assert type(agent) is cls and agent.num_timesteps == 100


def test_a_users_subclass_is_of_its_base_class(saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(Mine.load(saved / "Mine")) is Mine and type(Other.load(saved / "Other")) is Other
    for saved_by, cls in (("Mine", QLearning), ("QLearning", Mine), ("Other", QLearning), ("QLearning", Other)):
        with pytest.raises(ValueError, match=f"was saved by {saved_by}, not by {cls.__name__}: load it by {saved_by}.load"):
            cls.load(saved / saved_by)


def test_files_that_do_not_name_their_class_still_load() -> None:
    path = Path(__file__).parent / "data" / "0.1.0" / "tabular.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cls in (TabularMIRL, Mine):
            agent = cls.load(path, env="MirlSquare-v0")
            assert type(agent) is cls and agent.learn(10, reset_num_timesteps=False).num_timesteps == 20_010


TORN = """
import os, signal, sys
import numpy as np
from sb3_mirl.tabular import QLearning

agent = QLearning("MirlSquare-v0", seed=0).learn(200, eval_freq=100, n_eval_episodes=3, log_path=sys.argv[1])
whole = np.savez

def half(file, **arrays):
    whole(file, **arrays)
    name = file if isinstance(file, (str, os.PathLike)) else file.name
    if not isinstance(file, (str, os.PathLike)):
        file.flush()
    os.truncate(name, os.path.getsize(name) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

np.savez = half
agent.learn(200, eval_freq=100, n_eval_episodes=3, log_path=sys.argv[1], reset_num_timesteps=False)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL")
def test_a_kill_while_evaluations_are_written_leaves_those_before(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", TORN, str(tmp_path)], capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    torn = [path for path in tmp_path.iterdir() if path.name not in ("evaluations.npz", "monitor.csv")]
    assert len(torn) == 1 and torn[0].stat().st_size > 0, "it was killed in the middle"
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [100, 200]
    # and the same command again goes through
    agent = QLearning("MirlSquare-v0", seed=0).learn(400, eval_freq=100, n_eval_episodes=3, log_path=tmp_path)
    data = np.load(tmp_path / "evaluations.npz")
    assert data["timesteps"].tolist() == [100, 200, 300, 400]
    assert np.array_equal(data["results"], agent.records.evaluation_returns)
    assert np.array_equal(data["ep_lengths"], agent.records.evaluation_lengths)


def test_where_the_system_knows_no_affinity_agents_learn_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows have no ``os.sched_getaffinity``."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    agents = train_in_parallel([QLearning("MirlSquare-v0", seed=seed) for seed in range(3)], 100)
    assert [agent.num_timesteps for agent in agents] == [100, 100, 100]
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # nor how many processors there are
    train_in_parallel(agents, 100)


def test_old_names_warn_and_work() -> None:
    with pytest.warns(DeprecationWarning, match="learn_side_by_side is now train_in_parallel"):
        assert sb3_mirl.tabular.learn_side_by_side is train_in_parallel
    with pytest.raises(AttributeError, match="no attribute 'side_by_side'"):
        sb3_mirl.tabular.side_by_side  # noqa: B018
    for name in sb3_mirl.tabular.__all__:
        assert getattr(sb3_mirl.tabular, name).__name__ == name
