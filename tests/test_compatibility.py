"""Files of earlier releases, in tests/data/<version>/, are read and used like those of this one."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.save_util import load_from_pkl

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.tabular import TabularMIRL
from tests.make_release_files import drawn, expectations

pytestmark = pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 cannot read what NumPy 2 pickled")
RELEASES = sorted(path for path in (Path(__file__).parent / "data").iterdir() if path.is_dir())
each_release = pytest.mark.parametrize("folder", RELEASES, ids=[path.name for path in RELEASES])


def expected(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "expected.json").read_text())[name]


def test_there_are_files_of_a_release() -> None:
    assert "0.1.0" in [path.name for path in RELEASES]


@each_release
@pytest.mark.parametrize(("name", "cls"), [("mirl", MIRL), ("softdqn", SoftDQN)])
def test_models_of_earlier_releases(folder: Path, name: str, cls: type[SoftDQN]) -> None:
    model = cls.load(folder / name, env=gym.make("CartPole-v1"), device="cpu")
    wanted = expected(folder, name)
    found = expectations(model)
    assert found["actions"] == wanted["actions"] and found["num_timesteps"] == wanted["num_timesteps"]
    for key in ("beta", "prior", "q", "exploration_rate"):
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-5, atol=1e-6, err_msg=key)
    assert abs(np.diff(model.prior)[0]) > 0.01 or name == "softdqn", "a learned prior"
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == wanted["num_timesteps"] + 100
    assert model.policy.optimizer.state_dict()["state"][0]["step"] > wanted["num_timesteps"] // 8, "Adam went on"


@each_release
def test_tabular_agents_of_earlier_releases(folder: Path) -> None:
    agent = TabularMIRL.load(folder / "tabular.zip", env="MirlSquare-v0")
    wanted = expected(folder, "tabular")
    np.testing.assert_array_equal(agent.q, wanted["q"])
    np.testing.assert_allclose(agent.prior, wanted["prior"])
    agent.learn(1000, reset_num_timesteps=False)
    assert agent.num_timesteps == wanted["num_timesteps"] + 1000


@each_release
def test_replay_buffers_of_earlier_releases(folder: Path) -> None:
    buffer = load_from_pkl(folder / "frame_replay_buffer.pkl")
    wanted = expected(folder, "frame_replay_buffer")
    found = drawn(buffer)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    buffer.reset()
    assert buffer.size() == 0
