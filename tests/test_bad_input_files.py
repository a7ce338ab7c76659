"""Files that are damaged, foreign or made to do harm, and disks that are full."""

import io
import os
import pathlib
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.envs import FakeImageEnv

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.tabular import QLearning
from tests.conftest import SMALL, ScriptedEnv


def make_model(**arguments: Any) -> MIRL:
    return MIRL("MlpPolicy", ScriptedEnv(), **{**SMALL, **arguments})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of file, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    make_model(beta_init=2.0, prior_lr=0.01, exploration="marginal").learn(120).save(folder / "mirl")
    DQN("MlpPolicy", ScriptedEnv(), **SMALL).save(folder / "dqn")
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, device="cpu").save(folder / "ppo")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu").save(folder / "sac")
    QLearning("MirlSquare-v0", seed=0).learn(50).save(folder / "table")
    whole = (folder / "mirl.zip").read_bytes()
    (folder / "truncated.zip").write_bytes(whole[: len(whole) // 2])
    (folder / "text.zip").write_text("no archive")
    (folder / "flipped.zip").write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    zipfile.ZipFile(folder / "empty.zip", "w").close()
    return folder


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", FileNotFoundError, "nothing.zip"),
        ("text.zip", ValueError, "text.zip is damaged, or not a zip file written by MIRL.save"),
        # what is left ends with an archive: the weights
        ("truncated.zip", ValueError, "truncated.zip was not written by MIRL.save, or is no longer whole: it has no 'data'"),
        ("flipped.zip", ValueError, "flipped.zip.*no longer whole: '.*' in it is damaged"),
        ("empty.zip", ValueError, "was not written by MIRL.save, or is no longer whole: it has no 'data'"),
        ("table", ValueError, "was not written by MIRL.save.*it has no 'policy.pth'"),
        ("dqn", ValueError, "another algorithm than MIRL: its policy is of stable_baselines3.dqn"),
        ("ppo", ValueError, "another algorithm than MIRL: its policy is of stable_baselines3.common"),
        ("sac", ValueError, "another algorithm than MIRL: its policy is of stable_baselines3.sac"),
    ],
)
def test_load_refuses(files: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MIRL.load(files / name)


def test_load_refuses_another_environment(files: Path) -> None:
    with pytest.raises(ValueError, match=r"Observation spaces do not match: Box\(-1.0, 1.0, \(4,\), float32\) != Box"):
        MIRL.load(files / "mirl", env=gym.make("CartPole-v1"))


def test_load_takes_open_files(files: Path) -> None:
    stream = io.BytesIO((files / "mirl.zip").read_bytes())
    for _ in range(2):
        stream.seek(0)
        assert MIRL.load(stream).beta == MIRL.load(files / "mirl").beta


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.zip", "text.zip is damaged, or not a zip file written by QLearning.save"),
        ("empty.zip", "it has no 'data'"),
        ("mirl", "mirl was saved by MIRL, not by QLearning: load it by MIRL.load"),
    ],
)
def test_tabular_load_refuses(files: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QLearning.load(files / name)


# full disks


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond ``n_bytes``: as on a full disk, writing fails in the middle of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def trained() -> MIRL:
    return make_model(prior_lr=0.01).learn(120)


def image_model() -> SoftDQN:
    """With a FrameReplayBuffer."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(3, screen_height=36, screen_width=36, n_channels=1)]), 4)
    return SoftDQN("CnnPolicy", env, **{**SMALL, "policy_kwargs": None}).learn(20)


WRITERS: dict[str, Callable[[MIRL], tuple[Callable[[Path], None], str]]] = {
    "model": lambda model: (model.save, "m.zip"),
    "replay": lambda model: (model.save_replay_buffer, "r.pkl"),
    "frames": lambda model: (image_model().save_replay_buffer, "f.pkl"),
    "history": lambda model: (model.prior_callback.save, "h.npz"),  # type: ignore[union-attr]
    "table": lambda model: (QLearning("MirlSquare-v0", seed=0).learn(9).save, "q.zip"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_older_file(kind: str, trained: MIRL, tmp_path: Path) -> None:
    save, name = WRITERS[kind](trained)
    target = tmp_path / name
    save(target)
    older = target.read_bytes()
    with room_for(1000), pytest.raises(OSError, match=f"too large; what was in .*{name} before is still there"):
        save(target)
    assert target.read_bytes() == older
    assert os.listdir(tmp_path) == [name], "nothing half-written is left"
    save(target)
    assert len(target.read_bytes()) == len(older)


def test_saving_keeps_sb3s_names(trained: MIRL, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Will create it"):
        trained.save(tmp_path / "new" / "model")
    trained.save(str(tmp_path / "model.v2"))
    (tmp_path / "linked.zip").symlink_to(tmp_path / "model.v2")
    trained.save(tmp_path / "linked")
    stream = io.BytesIO()
    trained.save(stream)
    assert (tmp_path / "linked.zip").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["linked.zip", "model.v2", "new"]
    assert os.listdir(tmp_path / "new") == ["model.zip"]
    for source in (tmp_path / "new/model", tmp_path / "model.v2", tmp_path / "linked", io.BytesIO(stream.getvalue())):
        assert MIRL.load(source).num_timesteps == 120


# weights of unknown origin


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.Path.touch, (self.marker,)


def with_member(source: Path, target: Path, member: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with one member replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, content if name == member else old.read(name))
    return target


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    th.save(value, stream)
    return stream.getvalue()


def state_of(model: SoftDQN) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_unchanged(model: SoftDQN, before: dict[str, th.Tensor]) -> None:
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("kind", ["zip", "name without suffix", "state dictionary"])
def test_weights_beta_prior_and_counts_are_taken(files: Path, tmp_path: Path, kind: str) -> None:
    source = MIRL.load(files / "mirl", env=ScriptedEnv())
    th.save(source.policy.state_dict(), tmp_path / "policy.pth")
    model = make_model(seed=1)
    before = state_of(model)
    model.load_weights({"zip": str(files / "mirl.zip"), "state dictionary": tmp_path / "policy.pth"}.get(kind, files / "mirl"))
    assert_unchanged(source, state_of(model))
    assert model.beta == source.beta != 0.01 and model.policy.action_counts.sum() == 120
    assert not th.equal(before["log_prior"], model.policy.log_prior)
    observations = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)
    expected, _ = source.predict(observations, deterministic=True)
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], expected)
    assert model.learn(80)._n_updates > 0


def test_code_in_a_model_file_is_not_run(files: Path, tmp_path: Path) -> None:
    import base64
    import json

    marker = tmp_path / "harm"
    with zipfile.ZipFile(files / "mirl.zip") as archive:
        data = json.loads(archive.read("data"))
    data["policy_class"][":serialized:"] = base64.b64encode(pickle.dumps(Payload(marker))).decode()
    path = with_member(files / "mirl.zip", tmp_path / "harmful.zip", "data", json.dumps(data).encode())
    model = make_model()
    model.load_weights(path)
    assert model.policy.action_counts.sum() == 120 and not marker.exists()
    with pytest.raises((TypeError, AttributeError)):
        MIRL.load(path)
    assert marker.exists(), "the payload works, as the docstring of `load` warns"


@pytest.mark.parametrize("make", [lambda content: saved({"q_net": content}), pickle.dumps], ids=["torch", "pickle"])
def test_code_in_the_weights_is_not_run(files: Path, tmp_path: Path, make: Callable[[Any], bytes]) -> None:
    marker = tmp_path / "harm"
    path = with_member(files / "mirl.zip", tmp_path / "harmful.zip", "policy.pth", make(Payload(marker)))
    model = make_model()
    before = state_of(model)
    with pytest.raises(
        ValueError, match="harmful.zip is damaged, or holds something else than tensors, which is not loaded"
    ) as error:
        model.load_weights(path)
    assert "weights_only" not in str(error.value) and error.value.__suppress_context__, "torch tells how to run the code"
    assert not marker.exists()
    assert_unchanged(model, before)


def altered(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, name: value(state[name])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: [1, 2], r"does not hold the weights of this model \(\d+ missing"),
        (lambda state: {k: v for k, v in state.items() if k != "beta"}, r"1 missing: \['beta'\]; 0 unknown"),
        (lambda state: {**state, "pi.weight": th.ones(1)}, r"1 unknown: \['pi.weight'\]"),
        (lambda state: {**state, 3: th.ones(1)}, r"1 unknown: \[\]"),
        (
            altered("q_net.q_net.0.weight", lambda w: w[:, :2]),
            r"torch.float32 \(16, 2\), this model needs torch.float32 \(16, 4\)",
        ),
        (altered("q_net.q_net.0.weight", lambda w: w.double()), "is torch.float64"),
        (altered("q_net.q_net.0.weight", lambda w: w.to_sparse()), "is not a plain tensor"),
        (altered("q_net.q_net.0.weight", lambda w: 1.5), "is not a plain tensor but a float"),
        (altered("q_net.q_net.0.weight", lambda w: th.full_like(w, th.nan)), "'q_net.q_net.0.weight' .* not finite"),
        (
            altered("q_net_target.q_net.0.bias", lambda w: th.full_like(w, -th.inf)),
            "'q_net_target.q_net.0.bias' .* not finite",
        ),
        (altered("beta", lambda b: b * 0), r"beta in .* is 0.0, this model needs it in \(0, 10000\]"),
        (altered("beta", lambda b: b - 99), "beta in .* is -9"),
        (altered("beta", lambda b: b * th.nan), "beta in .* is nan"),
        (altered("beta", lambda b: b + 1e6), "beta in .* is 1000"),
        (altered("log_prior", lambda p: p + 1), "prior in .* sums to 2.71828 and not to 1"),
        (altered("log_prior", lambda p: p * th.nan), "prior in .* sums to nan"),
        (altered("log_prior", lambda p: p * th.inf), "prior in .* sums to 0"),
        (altered("action_counts", lambda c: -1 - c), "'action_counts' .* negative"),
        (altered("action_counts", lambda c: c / 0), "'action_counts' .* not finite"),
    ],
)
def test_wrong_weights_change_nothing(files: Path, tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    model = make_model()
    before = state_of(model)
    th.save(change(MIRL.load(files / "mirl").policy.state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        model.load_weights(tmp_path / "w.pth")
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", ["text.zip", "truncated.zip", "empty.zip", "table", "dqn", "ppo", "sac"])
def test_foreign_files_hold_no_weights(files: Path, name: str) -> None:
    model = make_model()
    before = state_of(model)
    with pytest.raises(ValueError, match="is damaged, or|does not hold the weights of this model|is of a larger network"):
        model.load_weights(files / name)
    assert_unchanged(model, before)


def test_a_dead_action_and_a_hard_maximum_are_weights(files: Path, tmp_path: Path) -> None:
    state = MIRL.load(files / "mirl").policy.state_dict()
    state["log_prior"], state["beta"] = th.tensor([0.5, 0.5, 0.0]).double().log(), th.tensor(th.inf).double()
    th.save(state, tmp_path / "w.pth")
    model = make_model(beta_schedule="constant", beta_init=th.inf)
    model.load_weights(tmp_path / "w.pth")
    np.testing.assert_array_equal(model.prior, [0.5, 0.5, 0])
    with pytest.raises(ValueError, match=r"beta in .* is inf, this model needs it in \(0, 10000\]"):
        make_model().load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("depth", ["archive", "weights", "larger network"])
def test_more_than_the_model_needs_is_not_read(files: Path, tmp_path: Path, depth: str) -> None:
    """30 MB of zeros in 30 kB, compressed as a member of the archive and inside of the weights."""
    path, zeros = tmp_path / "bomb.zip", bytes(30_000_000)
    if depth == "archive":
        with_member(files / "mirl.zip", path, "policy.pth", zeros, zipfile.ZIP_DEFLATED)
    elif depth == "weights":
        plain = saved(MIRL.load(files / "mirl").policy.state_dict())
        (tmp_path / "w.pth").write_bytes(plain)
        name = next(n for n in zipfile.ZipFile(tmp_path / "w.pth").namelist() if n.endswith("data/0"))
        with_member(tmp_path / "w.pth", path, name, zeros, zipfile.ZIP_DEFLATED)
    else:
        make_model(policy_kwargs=dict(net_arch=[3000, 300])).save(path)
    assert depth == "larger network" or path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb.zip unpacks to \d+ bytes or more, and the weights of this model to less than"):
        make_model().load_weights(path)
