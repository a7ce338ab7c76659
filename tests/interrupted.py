"""Trainings that are cut off and resumed, and what must then be the same."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from sb3_mirl import MIRL, ResumableCheckpoint, resume

MakeModel = Callable[[GymEnv], Any]


class PulledPlug(Exception):
    """Ends a training as abruptly as a process can end it for itself."""


class PullPlug(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise PulledPlug
        return True


def cut_off(
    model: BaseAlgorithm, folder: Path, at: int, total: int, save_freq: int, callbacks: tuple[BaseCallback, ...] = ()
) -> None:
    """Learns with checkpoints, and without an end."""
    with pytest.raises(PulledPlug):
        model.learn(total, callback=[*callbacks, ResumableCheckpoint(folder, save_freq), PullPlug(at)])


def scramble() -> None:
    """A new process: other random numbers."""
    random.seed(99)
    np.random.seed(99)
    th.manual_seed(99)


def whole_and_resumed(
    make_model: MakeModel,
    make_env: Callable[[], GymEnv],
    folder: Path,
    total: int = 400,
    at: int = 290,
    save_freq: int = 120,
    make_callbacks: Callable[[], tuple[BaseCallback, ...]] = tuple,
) -> tuple[Any, Any]:
    """
    The same training twice: in one go and without checkpoints, and cut off at ``at`` and resumed from the last checkpoint.
    Both end with equal random states, or this fails.
    """
    whole = make_model(make_env())
    whole.learn(total, callback=list(make_callbacks()))
    states = random_states()
    scramble()
    cut_off(make_model(make_env()), folder, at, total, save_freq, make_callbacks())
    scramble()
    resumed = resume(folder, make_env(), device="cpu")
    assert at - save_freq <= resumed.num_timesteps < at
    np.random.rand(3)
    resumed.learn(total, callback=[*make_callbacks(), ResumableCheckpoint(folder, save_freq)])
    assert random_states() == states
    return whole, resumed


def random_states() -> tuple[bytes, ...]:
    return pickle.dumps(random.getstate()), pickle.dumps(np.random.get_state()), th.get_rng_state().numpy().tobytes()


COUNTERS = ("_n_updates", "_n_calls", "_episode_num", "exploration_rate", "_current_progress_remaining", "num_timesteps")


def assert_same(one: Any, two: Any) -> None:
    """Bit for bit: weights, optimisers, counters, prior, beta, epsilon, history, and the memory or rollout row by row."""
    assert_equal(one.policy.state_dict(), two.policy.state_dict())
    assert_equal(one.get_parameters(), two.get_parameters())
    for name in COUNTERS:
        assert getattr(one, name, None) == getattr(two, name, None), name
    assert_equal(one._last_obs, two._last_obs)
    assert [e["r"] for e in one.ep_info_buffer or ()] == [e["r"] for e in two.ep_info_buffer or ()]
    assert_equal(one.action_space.sample(), two.action_space.sample())
    if isinstance(one, MIRL) and isinstance(two, MIRL):
        assert one.prior_callback is not None and two.prior_callback is not None
        assert_equal(one.prior_callback.history, two.prior_callback.history)
        assert one.prior_callback.mutual_information() == two.prior_callback.mutual_information()
    if hasattr(one, "rollout_buffer"):
        for name in ("observations", "actions", "rewards", "advantages", "returns", "log_probs"):
            assert_equal(getattr(one.rollout_buffer, name), getattr(two.rollout_buffer, name))
    else:
        assert_same_memory(one.replay_buffer, two.replay_buffer, one.get_vec_normalize_env())


def assert_same_memory(one: Any, two: Any, normalize: Any = None) -> None:
    """The same samples, in the same order."""
    assert (type(one), one.pos, one.full, one.size()) == (type(two), two.pos, two.full, two.size())
    samples = []
    for buffer in (one, two):
        np.random.seed(0)
        samples.append(buffer.sample(2000, env=normalize)._asdict())
    assert_equal(*samples)


def assert_equal(one: Any, two: Any) -> None:
    """Nested dictionaries and sequences of numbers, arrays and tensors are equal."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
