"""The foundation by itself: a new algorithm in a few lines, and what it gets with them."""

import importlib
import io
import pickle
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from stable_baselines3.her import HerReplayBuffer

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from sb3_mirl.common import weights, workers
from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.off_policy import GuardedOffPolicy
from sb3_mirl.common.weights import read_weights
from sb3_mirl.replay import FrameReplayBuffer
from tests.conftest import SMALL, ScriptedEnv
from tests.interrupted import assert_same, whole_and_resumed


class Greedier(GuardedOffPolicy, SAC):
    """SAC whose entropy coefficient falls by a factor with every call of ``train``: a toy, for "Adding an algorithm"."""

    def __init__(self, policy: Any, env: Any, decay: float = 0.999, _init_setup_model: bool = True, **kwargs: Any) -> None:
        super().__init__(policy, env, _init_setup_model=False, **kwargs)
        self.decay = decay
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_range("decay", self.decay, 0, 1, low_open=True)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.register_buffer("temperature", th.ones((), device=self.device))

    def check_weights(self, state: dict[str, th.Tensor], path: Any) -> None:
        if state["temperature"] <= 0:
            raise ValueError(f"The temperature in {path} is {state['temperature'].item()}, it must be positive.")

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        self.policy.temperature.mul_(self.decay)  # type: ignore[union-attr, operator]
        self.ent_coef_optimizer, self.ent_coef_tensor = None, self.policy.temperature  # type: ignore[assignment]
        super().train(gradient_steps, batch_size)

    def record_state(self) -> None:
        self.logger.record("train/temperature", float(self.policy.temperature))  # type: ignore[arg-type]


ARGUMENTS: dict[str, Any] = dict(learning_starts=30, buffer_size=120, batch_size=16, seed=0, device="cpu", ent_coef=1.0)
make_model = partial(Greedier, "MlpPolicy", **ARGUMENTS, decay=0.99)
pendulum = partial(make_vec_env, "Pendulum-v1", 2)


class TestToyAlgorithm:
    def test_resumes_bit_for_bit(self, tmp_path: Path) -> None:
        whole, resumed = whole_and_resumed(make_model, pendulum, tmp_path, total=240, at=190, save_freq=80)
        assert 0 < float(whole.policy.temperature) == float(resumed.policy.temperature) < 0.99
        assert_same(whole, resumed)

    def test_checks(self) -> None:
        with pytest.raises(ValueError, match=r"decay=2 must be a number in \(0, 1\]"):
            Greedier("MlpPolicy", "Pendulum-v1", decay=2)
        with pytest.raises(ValueError, match=r"tau=-1 must be a number in \[0, 1\]"):
            Greedier("MlpPolicy", "Pendulum-v1", tau=-1)
        model = make_model(pendulum())
        with pytest.raises(ValueError, match="reward of environment 0 is nan at step 62"):
            model.learn(200, callback=lambda *_: model.num_timesteps < 60 or spoil(model))
        assert model.replay_buffer is not None and model.replay_buffer.size() == 30

    def test_files(self, tmp_path: Path) -> None:
        model = make_model(pendulum()).learn(100)
        model.save(tmp_path / "toy")
        loaded = Greedier.load(tmp_path / "toy")
        assert loaded.decay == 0.99 and loaded.replay_buffer is None
        assert float(loaded.policy.temperature) == float(model.policy.temperature)  # type: ignore[arg-type]
        SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "sac")
        with pytest.raises(ValueError, match=r"another algorithm than Greedier: its policy is of stable_baselines3.sac"):
            Greedier.load(tmp_path / "sac")
        other = make_model(pendulum())
        other.load_weights(tmp_path / "toy")
        assert all(v.equal(model.policy.state_dict()[k]) for k, v in other.policy.state_dict().items())
        state = {**model.policy.state_dict(), "temperature": th.tensor(-1.0)}
        th.save(state, tmp_path / "cold.pth")
        with pytest.raises(ValueError, match="The temperature in .* is -1.0"):
            other.load_weights(tmp_path / "cold.pth")

    def test_logs(self, tmp_path: Path) -> None:
        model = make_model(pendulum(), tensorboard_log=str(tmp_path)).learn(500)
        assert (tmp_path / "Greedier_1").is_dir() and model.logger.name_to_value.get("train/temperature") is None


def spoil(model: Any) -> bool:
    for env in model.get_env().unwrapped.envs:
        env.unwrapped.state = np.array([np.nan, np.nan])
    return True


class TestMemory:
    """``n_steps`` is never dropped without a word."""

    def test_a_named_class_makes_n_step_returns_too(self) -> None:
        env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(4, 36, 36, channel_first=True)]), 4, channels_order="first")
        for named in (None, FrameReplayBuffer):
            model = MIRL("CnnPolicy", env, n_steps=3, gamma=0.5, replay_buffer_class=named, buffer_size=50)
            assert isinstance(model.replay_buffer, FrameReplayBuffer)
            assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (3, 0.5)

    @pytest.mark.parametrize("named", [None, HerReplayBuffer], ids=["dictionary", "hindsight"])
    def test_what_cannot_make_them_is_refused(self, named: Any) -> None:
        from stable_baselines3.common.envs import BitFlippingEnv

        with pytest.raises(ValueError, match=r"ReplayBuffer makes no n-step returns, got n_steps=3"):
            SoftDQN("MultiInputPolicy", BitFlippingEnv(n_bits=4), n_steps=3, replay_buffer_class=named, buffer_size=50)

    def test_no_warning_of_sb3s_that_is_not_true(self, recwarn: Any, tmp_path: Path) -> None:
        MIRL("MlpPolicy", ScriptedEnv(), n_steps=3, **SMALL).save(tmp_path / "model")
        MIRL.load(tmp_path / "model", env=ScriptedEnv())
        assert not [w for w in recwarn if "n_steps" in str(w.message)]


def nested(depth: int, doubling: str) -> bytes:
    """A pickle of a dictionary whose key is a tuple in a tuple ..., each twice."""
    body = b"\x80\x02}(I1\n\x85"
    for level in range(depth):
        if doubling == "memo":
            body += b"q%c" % level + b"h%c" % level + b"\x86"
        elif doubling == "reused memo":  # whose place a string had before
            body += b"X\x01\x00\x00\x00aq\x000q\x00h\x00\x86"
        else:
            body += b"2\x86"
    return body + b"I1\nu."


@pytest.mark.parametrize("doubling", ["memo", "reused memo", "dup"])
def test_weights_cannot_hang_the_reader(doubling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.th, "load", lambda *args, **kwargs: pytest.fail("it has been unpickled"))
    pickled = nested(40, doubling)
    if doubling == "memo":
        key, depth = next(iter(pickle.loads(nested(10, doubling)))), 0
        while isinstance(key, tuple):
            key, depth = key[0], depth + 1
        assert depth == 11, "it is what it claims to be"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3")
    (tmp_path / "evil.pth").write_bytes(archive.getvalue())
    with pytest.raises(ValueError, match="holds something else than tensors, which is not loaded"):
        read_weights(tmp_path / "evil.pth", {"w": th.ones(3)})


@pytest.mark.parametrize(("n", "message"), [(30, "30 unknown"), (300, "something else than tensors")])
def test_long_pickles_are_not_read(n: int, message: str, tmp_path: Path) -> None:
    th.save({f"w{i}": th.ones(1) for i in range(n)}, tmp_path / "long.pth")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "long.pth", {"w": th.ones(3)})


def test_processors_are_counted_where_the_system_does_not_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(workers.os, "sched_getaffinity", raising=False)
    assert workers.usable_cpus() == workers.os.cpu_count()
    monkeypatch.setattr(workers.os, "cpu_count", lambda: None)
    assert workers.usable_cpus() == 1


class TestPriorCallback:
    def learn(self, callback: Any) -> MIRL:
        model = MIRL("MlpPolicy", ScriptedEnv(), prior_lr=0.1, beta_init=1.0, **SMALL)
        return model.learn(100, callback=callback)

    def test_lists_in_lists_fold_once(self) -> None:
        from stable_baselines3.common.callbacks import CallbackList

        plain, own = self.learn(None), PriorCallback()
        np.testing.assert_array_equal(self.learn(CallbackList([CallbackList([own])])).prior, plain.prior)
        assert len(own.history["timesteps"]) == 50

    def test_now_and_then_is_refused(self) -> None:
        from stable_baselines3.common.callbacks import CallbackList, EvalCallback, EveryNTimesteps

        for callback in (
            EveryNTimesteps(1, PriorCallback()),
            EveryNTimesteps(1, CallbackList([PriorCallback()])),
            EvalCallback(ScriptedEnv(), callback_after_eval=PriorCallback()),
        ):
            with pytest.raises(ValueError, match="updates the prior at every step, but .* calls it now and then"):
                self.learn(callback)

    def test_given_twice_is_refused(self) -> None:
        own = PriorCallback()
        with pytest.raises(ValueError, match="updated by one PriorCallback, got 2"):
            self.learn([own, own])

    def test_another_model_begins_another_record(self) -> None:
        own = PriorCallback()
        self.learn(own)
        first = own.history["timesteps"]
        model = self.learn(own)
        np.testing.assert_array_equal(own.history["timesteps"], first)
        assert model.prior_callback is own and own.n_calls == 100

    def test_a_class_is_not_an_object(self) -> None:
        with pytest.raises(TypeError, match=r"callback=PriorCallback is a class, give an object: PriorCallback\(\)"):
            self.learn(PriorCallback)

    def test_the_floor_holds(self) -> None:
        model = MIRL("MlpPolicy", ScriptedEnv(), prior_lr=0.5, prior_floor=0.05, beta_init=50.0, **SMALL).learn(200)
        assert model.prior.min() == pytest.approx(0.05) and model.prior.max() > 0.5


def test_observation_spaces_are_judged_in_any_depth() -> None:
    space = spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2, start=1)))
    from sb3_mirl.common.checks import check_observation_space

    with pytest.raises(ValueError, match="counted from 0"):
        check_observation_space(space, "X")


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("sb3_mirl.plots", "matplotlib.pyplot", "plots"),
        ("sb3_mirl.irl.plots", "matplotlib.axes", "plots"),
        ("sb3_mirl.experiments.snapshots", "pandas", "plots"),
        ("sb3_mirl.experiments.results", "pandas", "plots"),
        ("sb3_mirl.envs.ale", "ale_py", "atari"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rliable", reason="pip install '.[plots]'")
    importlib.import_module(module.rpartition(".")[0])
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*the extra \[{extra}\] of sb3_mirl.*pip install '.\[{extra}\]'"):
        importlib.import_module(module)
