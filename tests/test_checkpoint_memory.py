"""Replay memory on disk: only what is new is written, and what comes back is what was there."""

import pickle
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_mirl import MIRL, ResumableCheckpoint, resume
from sb3_mirl.checkpoint import memory
from sb3_mirl.replay import FrameReplayBuffer, Rows, rows_of
from tests.conftest import SMALL, ScriptedEnv
from tests.interrupted import assert_equal, assert_same_memory, cut_off

N_ENVS, CAPACITY, STACK = 2, 40, 3
IMAGES = spaces.Box(0, 255, (STACK, 36, 36), np.uint8)
VECTORS = spaces.Box(-1, 1, (5,), np.float32)
ACTIONS = spaces.Discrete(3)


class Stream:
    """Transitions of environments with random episode ends and timeouts; images are stacks of frames."""

    def __init__(self, space: spaces.Space, mean_length: float = 9) -> None:
        self.space, self.rng, self.mean_length = space, np.random.default_rng(0), mean_length
        self.obs = self._first()

    def _draw(self, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._draw(sub) for key, sub in space.items()}
        if space is IMAGES:
            return self.rng.integers(0, 256, (N_ENVS, 1, 36, 36), np.uint8)
        return self.rng.normal(size=(N_ENVS, *space.shape)).astype(np.float32)  # type: ignore[misc]

    def _first(self) -> Any:
        return self._stacked(np.zeros((N_ENVS, *IMAGES.shape), np.uint8)) if self.space is IMAGES else self._draw(self.space)

    def _stacked(self, obs: np.ndarray) -> np.ndarray:
        return np.concatenate([obs[:, 1:], self._draw(IMAGES)], axis=1)

    def feed(self, buffers: list[Any], steps: int) -> None:
        for _ in range(steps):
            next_obs = self._stacked(self.obs) if self.space is IMAGES else self._draw(self.space)
            done = self.rng.random(N_ENVS) < 1 / self.mean_length
            infos = [{"TimeLimit.truncated": bool(d and self.rng.random() < 0.5)} for d in done]
            action, reward = self.rng.integers(0, 3, N_ENVS), self.rng.normal(size=N_ENVS)
            for buffer in buffers:
                buffer.add(self.obs, next_obs, action, reward, done, infos)
            if done.any():
                fresh = self._first()
                if isinstance(fresh, dict):
                    next_obs = fresh
                else:
                    next_obs = np.where(done.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, next_obs)
            self.obs = next_obs


def buffer_of(cls: type[ReplayBuffer], space: spaces.Space, **kwargs: Any) -> Any:
    return cls(CAPACITY * N_ENVS, space, ACTIONS, "cpu", N_ENVS, **kwargs)


CASES: dict[str, tuple[Callable[[], Any], Stream | Any]] = {
    "plain": (lambda: buffer_of(ReplayBuffer, VECTORS), VECTORS),
    "dict": (lambda: buffer_of(DictReplayBuffer, spaces.Dict(a=VECTORS, b=VECTORS)), spaces.Dict(a=VECTORS, b=VECTORS)),
    "n-step": (lambda: buffer_of(NStepReplayBuffer, VECTORS, n_steps=3), VECTORS),
    "frames": (lambda: buffer_of(FrameReplayBuffer, IMAGES, frame_stack=STACK, n_steps=2), IMAGES),
}


def numbered(buffer: Any, n_added: int) -> Rows:
    rows = rows_of(buffer, n_added)
    assert rows is not None and rows.n_added == n_added
    return rows


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mean_length", [2, 9], ids=["short", "long"])
def test_rows_come_back(case: str, mean_length: int) -> None:
    """Chunks of several sizes, of a memory that fills up and begins anew; short episodes make the frames' pool grow."""
    make, space = CASES[case]
    buffer, stream = make(), Stream(space, mean_length)
    chunks, n_added, grown = [], 0, False
    for steps in (1, 12, 20, 30, 7, 60, 25):
        stream.feed([buffer], steps)
        rows = numbered(buffer, n_added + steps)
        first = max(n_added, rows.n_added - rows.n_kept)
        edges = sorted({first, (first + rows.n_added) // 2, rows.n_added})
        chunks += [(last, rows.read_rows(start, last)) for start, last in pairwise(edges)]
        n_added += steps
        chunks = [chunk for chunk in chunks if chunk[0] > rows.n_added - rows.n_kept]
        copy = make()
        copied = rows_of(copy)
        assert copied is not None
        copied.set_position(through_pickle(rows.get_position()))
        for _, arrays in chunks:
            copied.write_rows(arrays)
        assert_same_memory(buffer, copy)
        # and both go on alike
        follow = Stream(space, mean_length)
        follow.rng, follow.obs = np.random.default_rng(n_added), stream.obs
        reference = through_pickle(buffer)
        follow.feed([copy, reference], 15)
        assert_same_memory(reference, copy)
        grown |= case == "frames" and buffer._writer.pool.extra is not None
    assert n_added > 2 * CAPACITY and grown == (case == "frames")


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / "memory").iterdir()}


class TestIncrement:
    def learn(self, folder: Path, n_steps: int, **changed: Any) -> MIRL:
        model = MIRL("MlpPolicy", ScriptedEnv(), **{**SMALL, **changed})
        return model.learn(n_steps, callback=ResumableCheckpoint(folder, save_freq=100, keep=2))

    def test_only_what_is_new_is_written(self, tmp_path: Path) -> None:
        model = self.learn(tmp_path, 400)
        before = sizes(tmp_path)
        # the newest row is written again by the next checkpoint
        rows = [(int(name[5:17]), int(name[18:30])) for name in sorted(before)]
        assert rows == [(0, 100), (99, 200), (199, 300), (299, 400)]
        model.learn(100, reset_num_timesteps=False, callback=ResumableCheckpoint(tmp_path, save_freq=100, keep=2))
        after = sizes(tmp_path)
        assert set(before) < set(after) and len(after) == 5
        assert {name: after[name] for name in before} == before

    def test_chunks_go_when_their_rows_are_overwritten(self, tmp_path: Path) -> None:
        self.learn(tmp_path, 1000, buffer_size=250)
        # the two checkpoints kept need rows 650 to 999
        assert [int(name[5:17]) for name in sorted(sizes(tmp_path))] == [599, 699, 799, 899]

    def test_large_parts_become_several_chunks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "CHUNK_BYTES", 1000)
        model = self.learn(tmp_path, 100)
        assert len(sizes(tmp_path)) > 3
        assert_same_memory(model.replay_buffer, resume(tmp_path, ScriptedEnv()).replay_buffer)

    def test_a_memory_changed_by_others_is_written_again(self, tmp_path: Path) -> None:
        model = self.learn(tmp_path, 200)
        assert model.replay_buffer is not None
        model.replay_buffer.rewards[:50] = 7
        model.replay_buffer.pos = 50
        model.learn(100, reset_num_timesteps=False, callback=ResumableCheckpoint(tmp_path, save_freq=100, keep=1))
        assert_same_memory(model.replay_buffer, resume(tmp_path, ScriptedEnv()).replay_buffer)

    def test_another_size_is_refused(self, tmp_path: Path) -> None:
        self.learn(tmp_path, 100)
        with pytest.raises(ValueError, match="it has rows=1000, the model rows=300"):
            resume(tmp_path, ScriptedEnv(), buffer_size=300)
        with pytest.raises(ValueError, match="environments: 1 in the run, 2 here"):
            resume(tmp_path, DummyVecEnv([ScriptedEnv] * 2))


class OwnBuffer(ReplayBuffer):
    """May have anything in it."""


@pytest.mark.parametrize("kwargs", [{"replay_buffer_class": OwnBuffer}, {"optimize_memory_usage": True}], ids=["own", "lean"])
def test_other_buffers_are_saved_whole(kwargs: dict[str, Any], tmp_path: Path) -> None:
    if "optimize_memory_usage" in kwargs:
        kwargs = {**kwargs, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = MIRL("MlpPolicy", ScriptedEnv(), **SMALL, **kwargs)
    cut_off(model, tmp_path, at=320, total=400, save_freq=100)
    assert len(sizes(tmp_path)) == 2, "one for each checkpoint"
    resumed = resume(tmp_path, ScriptedEnv())
    assert type(resumed.replay_buffer) is type(model.replay_buffer)
    assert resumed.replay_buffer.size() == 300
    np.testing.assert_array_equal(resumed.replay_buffer.observations[:300], model.replay_buffer.observations[:300])  # type: ignore[union-attr]


class TestEnvironmentsStartAnew:
    """Where their state is out of reach."""

    def test_subprocesses(self, tmp_path: Path) -> None:
        with two_processes() as env:
            cut_off(MIRL("MlpPolicy", env, **SMALL, n_steps=3), tmp_path, at=330, total=600, save_freq=90)
        with two_processes() as env:
            resumed = resume(tmp_path, env)
            buffer, newest = resumed.replay_buffer, resumed.num_timesteps // 2 - 1
            assert resumed._last_obs is None and buffer.pos == newest + 1
            assert (buffer.dones[newest] == 0).all()
            resumed.learn(400, callback=ResumableCheckpoint(tmp_path, save_freq=90))
            same_as_at_first = buffer.observations[newest + 1] == buffer.observations[0]
            assert not same_as_at_first.any(), "the run's first episodes are not played again"
        with two_processes() as env:
            again = resume(tmp_path, env)
        # the end of the trajectory was marked after its row had been saved
        np.testing.assert_array_equal(again.replay_buffer.timeouts[newest], [1, 1])
        assert again.num_timesteps == 400

    def test_another_environment(self, tmp_path: Path) -> None:
        cut_off(MIRL("MlpPolicy", ScriptedEnv(), **SMALL), tmp_path, at=120, total=400, save_freq=90)
        resumed = resume(tmp_path, DummyVecEnv([ScriptedEnv]))  # without the Monitor that the run had
        assert resumed.num_timesteps == 92
        assert resumed._last_obs is None

    @pytest.mark.atari
    def test_atari_vec_env(self, tmp_path: Path) -> None:
        pytest.importorskip("ale_py")
        from sb3_mirl.envs import AtariVecEnv

        arguments: dict[str, Any] = {**SMALL, "policy_kwargs": {}, "learning_starts": 500, "n_steps": 2}
        model = MIRL("CnnPolicy", AtariVecEnv("breakout", 4, seed=0), **arguments)
        cut_off(model, tmp_path, at=330, total=600, save_freq=100)
        saved = (tmp_path / "memory").glob("*")
        assert sum(path.stat().st_size for path in saved) < 300 * 84 * 84 / 5
        resumed = resume(tmp_path, AtariVecEnv("breakout", 4, seed=0))
        buffer = resumed.replay_buffer
        assert type(buffer) is FrameReplayBuffer and buffer.pos == 75
        rows, envs = np.arange(70).repeat(4), np.tile(np.arange(4), 70)
        samples = [b._gather(th.from_numpy(rows), th.from_numpy(envs), None)._asdict() for b in (buffer, model.replay_buffer)]
        assert_equal(*samples)
        resumed.learn(340)
        np.testing.assert_array_equal(buffer.timeouts[74], 1 - buffer.dones[74])


def two_processes() -> Any:
    return closing(SubprocVecEnv([ScriptedEnv] * 2, start_method="fork"))
