"""Runs of algorithms that are not ours: killed, resumed, and then the uninterrupted run bit for bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_mirl import MIRL, ResumableCheckpoint, resume
from tests.conftest import SMALL, ScriptedEnv
from tests.interrupted import PulledPlug, assert_same, cut_off, whole_and_resumed

OFF_POLICY: dict[str, Any] = dict(buffer_size=150, learning_starts=40, batch_size=16, seed=1, device="cpu")
ON_POLICY: dict[str, Any] = dict(seed=1, device="cpu")
NOISE = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
pendulum, cartpole = partial(make_vec_env, "Pendulum-v1", 2), partial(make_vec_env, "CartPole-v1", 2)

ALGORITHMS: dict[str, tuple[Callable[..., BaseAlgorithm], Callable[[], Any]]] = {
    "dqn": (partial(DQN, "MlpPolicy", **OFF_POLICY, target_update_interval=60, exploration_fraction=0.9), cartpole),
    "sac": (partial(SAC, "MlpPolicy", **OFF_POLICY), pendulum),
    "sac-sde": (partial(SAC, "MlpPolicy", **OFF_POLICY, use_sde=True, train_freq=16), pendulum),
    "td3": (partial(TD3, "MlpPolicy", **OFF_POLICY, action_noise=NOISE), pendulum),
    "ppo": (partial(PPO, "MlpPolicy", **ON_POLICY, n_steps=20, batch_size=20, n_epochs=2, use_sde=True), pendulum),
    "a2c": (partial(A2C, "MlpPolicy", **ON_POLICY, learning_rate=lambda left: 1e-3 * left), cartpole),
    "a2c-normalized": (partial(A2C, "MlpPolicy", **ON_POLICY), lambda: VecNormalize(cartpole())),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resumed_is_uninterrupted(name: str, tmp_path: Path) -> None:
    make_model, make_env = ALGORITHMS[name]
    whole, resumed = whole_and_resumed(make_model, make_env, tmp_path, total=320, at=250, save_freq=100)
    assert whole._n_updates > 0 and type(resumed) is type(whole)
    assert_same(whole, resumed)


def test_contribs_algorithms_go_on_too(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="pip install sb3-contrib")
    make_model = partial(contrib.QRDQN, "MlpPolicy", **OFF_POLICY, target_update_interval=60)
    assert_same(*whole_and_resumed(make_model, cartpole, tmp_path, total=320, at=250, save_freq=100))


KILLED = """
import os, signal, sys
from stable_baselines3.common.callbacks import ConvertCallback
from tests.test_resume_any import ALGORITHMS
from sb3_mirl import ResumableCheckpoint
make_model, make_env = ALGORITHMS[sys.argv[1]]
model = make_model(make_env())
def kill(*_): return model.num_timesteps < 250 or os.kill(os.getpid(), signal.SIGKILL)
model.learn(320, callback=[ResumableCheckpoint(sys.argv[2], 100), ConvertCallback(kill)])
"""


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_killed_processes_go_on(name: str, tmp_path: Path) -> None:
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, name, str(tmp_path)], capture_output=True, text=True, env=environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    make_model, make_env = ALGORITHMS[name]
    whole = make_model(make_env()).learn(320)
    resumed = resume(tmp_path, make_env(), device="cpu")
    assert resumed.num_timesteps == 200
    assert_same(whole, resumed.learn(320, callback=ResumableCheckpoint(tmp_path, 100)))


def test_steps_after_a_resumption_mean_what_they_mean_in_sb3(tmp_path: Path) -> None:
    make_model, make_env = ALGORITHMS["a2c"]
    cut_off(make_model(make_env()), tmp_path, at=250, total=320, save_freq=100)
    assert resume(tmp_path, make_env()).learn(40, reset_num_timesteps=False).num_timesteps == 240
    model = resume(tmp_path, make_env(), cls=A2C)
    with pytest.warns(UserWarning, match="Nothing is left to do: 200 of 200 steps"):
        assert model.learn(200).num_timesteps == 200
    assert type(model) is A2C and model.learn(60).num_timesteps == 60
    with pytest.raises(TypeError, match="is of A2C, not of PPO"):
        resume(tmp_path, make_env(), cls=PPO)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """As at a terminal: programs in the background of a shell are begun without SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_error_leaves_neither_the_folder_nor_ctrl_c_behind(tmp_path: Path, ctrl_c: None) -> None:
    """SB3 does not say when an error has ended ``learn``: whoever comes next notices."""
    make_model, make_env = ALGORITHMS["a2c"]
    checkpoint = ResumableCheckpoint(tmp_path, 100)

    def fail(*_: Any) -> bool:
        raise PulledPlug

    with pytest.raises(PulledPlug):
        make_model(make_env()).learn(320, callback=[checkpoint, ConvertCallback(fail)])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert not checkpoint.interrupted
    make_model(make_env()).learn(20, callback=ResumableCheckpoint(tmp_path, 100))
    assert resume(tmp_path, make_env()).num_timesteps == 20


class Recorder(BaseCallback):
    """Counts in an argument of its constructor, and keeps what cannot be pickled."""

    def __init__(self, fired: int = 0) -> None:
        super().__init__()
        self.fired, self.at, self.lock = fired, list[int](), Lock()

    def _on_step(self) -> bool:
        self.fired += 1
        self.at.append(self.num_timesteps)
        return True


class Own(BaseCallback):
    """Says itself what is to be saved, and begins anew with every training."""

    def _on_training_start(self) -> None:
        self.seen = 0

    def _on_step(self) -> bool:
        self.seen += 1
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


@pytest.mark.parametrize("times", [1, 2], ids=["killed once", "killed twice"])
def test_callbacks_go_on(tmp_path: Path, times: int) -> None:
    def callbacks() -> list[BaseCallback]:
        return [EveryNTimesteps(150, Recorder()), Own(), StopTrainingOnMaxEpisodes(20)]

    def model() -> MIRL:
        return MIRL("MlpPolicy", ScriptedEnv(length=12), **{**SMALL, "learning_starts": 40})

    uninterrupted = callbacks()
    whole = model().learn(600, callback=uninterrupted)
    cut_off(model(), tmp_path, at=205, total=600, save_freq=40, callbacks=tuple(callbacks()))
    if times == 2:
        cut_off(
            resume(tmp_path, ScriptedEnv(length=12)), tmp_path, at=225, total=600, save_freq=8, callbacks=tuple(callbacks())
        )
    resumed = callbacks()
    run = resume(tmp_path, ScriptedEnv(length=12)).learn(600, callback=[*resumed, ResumableCheckpoint(tmp_path)])
    assert run.num_timesteps == whole.num_timesteps == 240
    for one, two in zip(uninterrupted, resumed, strict=True):
        assert one.n_calls == two.n_calls
    assert uninterrupted[0].callback.at == resumed[0].callback.at == [150]  # type: ignore[attr-defined]
    assert uninterrupted[0].callback.fired == resumed[0].callback.fired  # type: ignore[attr-defined]
    assert uninterrupted[1].seen == resumed[1].seen  # type: ignore[attr-defined]


class OwnEvaluation(EvalCallback):
    def __init__(self, folder: Path, freq: int) -> None:
        super().__init__(Monitor(ScriptedEnv()), eval_freq=freq, n_eval_episodes=1, log_path=str(folder))


@pytest.mark.parametrize("subclass", [False, True])
def test_configuration_of_callbacks_is_that_of_the_new_ones(subclass: bool, tmp_path: Path) -> None:
    def evaluate(folder: str, freq: int) -> EvalCallback:
        if subclass:
            return OwnEvaluation(tmp_path / folder, freq)
        return EvalCallback(Monitor(ScriptedEnv()), eval_freq=freq, n_eval_episodes=1, log_path=str(tmp_path / folder))

    model = MIRL("MlpPolicy", ScriptedEnv(), **SMALL)
    cut_off(model, tmp_path / "run", at=150, total=300, save_freq=100, callbacks=(evaluate("old", 40),))
    evaluation = evaluate("new", 50)
    resume(tmp_path / "run", ScriptedEnv()).learn(300, callback=[evaluation, ResumableCheckpoint(tmp_path / "run")])
    steps = np.load(tmp_path / "new" / "evaluations.npz")["timesteps"]
    np.testing.assert_array_equal(steps, [40, 80, 150, 200, 250, 300])


class Reporting(BaseCallback):
    def __init__(self, report: Callable[[int], object]) -> None:
        super().__init__()
        self.report = report

    def _on_step(self) -> bool:
        self.report(self.num_timesteps)
        return True


def test_functions_of_callbacks_are_those_of_the_new_ones(tmp_path: Path) -> None:
    """Their closures change with the training, which does not make them a state."""
    old, new = list[int](), list[int]()
    cut_off(MIRL("MlpPolicy", ScriptedEnv(), **SMALL), tmp_path, 150, 300, 100, (Reporting(lambda step: old.append(step)),))
    callbacks = [Reporting(lambda step: new.append(step)), ResumableCheckpoint(tmp_path)]
    resume(tmp_path, ScriptedEnv()).learn(300, callback=callbacks)
    assert len(old) == 150 and new == list(range(101, 301))


def test_what_cannot_go_on_is_said(tmp_path: Path, capsys: Any) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), **SMALL, verbose=1)
    model.learn(100, callback=[Recorder(), ResumableCheckpoint(tmp_path, 50)])
    assert "What a resumed run will not go on with: Recorder/0.lock cannot be pickled" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["mirl", "a2c"])
@pytest.mark.parametrize(
    ("here", "message"),
    [
        (cartpole, "in VecNormalize: True in the run, False here"),
        (lambda: VecNormalize(cartpole(), norm_reward=False), "VecNormalize of: .'obs', 'reward'. in the run, .'obs'. here"),
        (lambda: VecNormalize(make_vec_env("CartPole-v1", 3)), "environments: 2 in the run, 3 here"),
    ],
    ids=["plain", "partly", "number"],
)
def test_another_environment_is_refused_before_anything_is_loaded(
    algorithm: str, here: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = VecNormalize(cartpole())
    model = MIRL("MlpPolicy", env, **SMALL) if algorithm == "mirl" else A2C("MlpPolicy", env, **ON_POLICY)
    model.learn(100, callback=ResumableCheckpoint(tmp_path, 50))
    monkeypatch.setattr(BaseAlgorithm, "load", None)
    monkeypatch.setattr(MIRL, "load", None)
    with pytest.raises(ValueError, match=f"The environment is not that of the run.*{message}.*build it as it was built"):
        resume(tmp_path, here())


def test_other_layers_start_new_episodes_with_a_warning(tmp_path: Path) -> None:
    MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv]), **SMALL).learn(100, callback=ResumableCheckpoint(tmp_path, 50))
    with pytest.warns(
        UserWarning, match="new episodes.*DummyVecEnv > Monitor > ScriptedEnv.*saved one was DummyVecEnv > ScriptedEnv"
    ):
        resume(tmp_path, DummyVecEnv([lambda: Monitor(ScriptedEnv())]))
