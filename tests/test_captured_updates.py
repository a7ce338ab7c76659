"""The updates' CUDA graph without CUDA: recorded operator by operator on the CPU, and replayed as a graph is, in place."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_mirl import MIRL
from sb3_mirl.soft_dqn import captured, update
from sb3_mirl.soft_dqn.captured import CapturedUpdates
from tests.conftest import ScriptedEnv, copy_of, tensors_in


class RecordedGraph(TorchDispatchMode):
    """
    Like a CUDA graph it runs the same operators on the same memory again, whatever Python would do now: what is not
    read from a tensor in place has the value that it had when it was recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Callable[[], Any], list[th.Tensor]]] = []  # operators, and where their results lie

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._steps.append((lambda: func(*args, **(kwargs or {})), tensors_in(result)))
        return result

    @th.no_grad()
    def replay(self) -> None:
        for run, places in self._steps:
            for place, value in zip(places, tensors_in(run()), strict=True):
                if place.data_ptr() != value.data_ptr():  # else a view, or changed in place
                    place.copy_(value)


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """The graphs that have been recorded."""
    made: list[RecordedGraph] = []

    @contextmanager
    def record(graph: RecordedGraph, capture_error_mode: str) -> Any:
        assert capture_error_mode == "thread_local"
        with graph:
            yield
        made.append(graph)

    cuda = captured.th.cuda
    for name, replacement in {
        "CUDAGraph": RecordedGraph, "graph": record, "Stream": Stream, "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(cuda, name, replacement)
    return made


@pytest.fixture
def models(small: dict[str, Any]) -> tuple[MIRL, MIRL]:
    """Two copies of a model in the middle of its training; no gradient is so large that the CPU would clip it."""
    env = DummyVecEnv([ScriptedEnv] * 3)
    model = MIRL("MlpPolicy", env, **{**small, "max_grad_norm": None}, beta_lr=0.1).learn(200)
    other = MIRL("MlpPolicy", env, **{**small, "max_grad_norm": None}, beta_lr=0.1)
    other.policy, other.replay_buffer = copy_of(model.policy), model.replay_buffer
    other.set_logger(model.logger)
    return model, other


def make_updates(model: MIRL, updates: Any, n: int, batch_size: int, seed: int) -> th.Tensor:
    np.random.seed(seed)
    sample = update.sampler(model.replay_buffer, None)  # type: ignore[arg-type]
    return updates(model.policy, sample, model.update_rule(), n, batch_size)


def assert_equal(plain: MIRL, replayed: MIRL) -> None:
    for name, value in plain.policy.state_dict().items():
        th.testing.assert_close(replayed.policy.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_replayed_updates_are_those_made_one_by_one(models: tuple[MIRL, MIRL], graphs: list[RecordedGraph]) -> None:
    """Also when beta, the prior, the target network and the learning rate have changed since the recording."""
    updates = CapturedUpdates()
    before = models[0].policy.state_dict()["beta"].item()
    for seed in range(4):
        plain, replayed = models
        losses = make_updates(plain, update.eager_updates, 5, 8, seed)
        th.testing.assert_close(make_updates(replayed, updates, 5, 8, seed), losses, rtol=1e-5, atol=1e-7)
        assert_equal(plain, replayed)
        for model in models:
            model.policy.log_prior.copy_(th.tensor([0.2, 0.3 + 0.1 * seed, 0.5 - 0.1 * seed]).double().log())
            model.policy.q_net_target.load_state_dict(model.policy.q_net.state_dict())
            model.learning_rate, model.lr_schedule = 1e-3 / (seed + 1), lambda _, rate=1e-3 / (seed + 1): rate
            model._update_learning_rate(model.policy.optimizer)
    assert len(graphs) == 1 and models[0].beta != before


def test_what_makes_a_graph_stale_records_another(models: tuple[MIRL, MIRL], graphs: list[RecordedGraph]) -> None:
    plain, replayed = models
    updates = CapturedUpdates()
    for n, batch_size, made in ((2, 8, 1), (2, 8, 1), (3, 8, 2), (3, 4, 3)):
        make_updates(plain, update.eager_updates, n, batch_size, seed=n)
        make_updates(replayed, updates, n, batch_size, seed=n)
        assert len(graphs) == made
        assert_equal(plain, replayed)
    for model in models:  # as loading does
        model.policy.optimizer.load_state_dict(deepcopy(model.policy.optimizer.state_dict()))
    make_updates(plain, update.eager_updates, 3, 4, seed=9)
    make_updates(replayed, updates, 3, 4, seed=9)
    assert len(graphs) == 4
    assert_equal(plain, replayed)


def test_recording_itself_changes_nothing(models: tuple[MIRL, MIRL], graphs: list[RecordedGraph]) -> None:
    """Warm-up, recording and first replay make one lot of updates, with an optimiser that had no state before too."""
    for model in models:
        model.policy.optimizer.state.clear()
    make_updates(models[0], update.eager_updates, 2, 8, seed=0)
    make_updates(models[1], CapturedUpdates(), 2, 8, seed=0)
    assert_equal(*models)
    steps = [{int(state["step"]) for state in model.policy.optimizer.state.values()} for model in models]
    assert steps == [{2}, {2}]
