"""Shared by all tests: one thread, as two workers share two cores; small nets; stand-ins for an environment and a GPU."""

import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sb3_mirl.soft_dqn.policies import SoftQPolicy

th.set_num_threads(1)


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    """Sums depend on the number of threads; and a command of the zoo changes its algorithms for the rest of its process."""
    th.set_num_threads(1)
    yield
    if "sb3_mirl.zoo" in sys.modules:
        sys.modules["sb3_mirl.zoo"].register()


class ScriptedEnv(gym.Env[np.ndarray, int]):
    """Random observations and rewards from a seed, episodes of fixed length; one step can be made to go wrong."""

    def __init__(self, length: int = 20, n_actions: int = 3, bad_step: int | None = None, bad: str = "reward") -> None:
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = spaces.Discrete(n_actions)
        self.length, self.bad_step, self.bad = length, bad_step, bad
        self.total, self.elapsed = 0, 0

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "RIGHT", "LEFT"][: int(self.action_space.n)]  # type: ignore[attr-defined]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.elapsed = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.total += 1
        self.elapsed += 1
        observation, reward = self._observation(), float(self.np_random.normal() + 0.3 * action)
        if self.total == self.bad_step:
            if self.bad == "reward":
                reward = float("nan")
            else:
                observation[2] = np.inf
        return observation, reward, self.elapsed >= self.length, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


def tensors_in(values: Any) -> list[th.Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, th.Tensor)]


class OnTheDeviceOnly(TorchDispatchMode):
    """
    Nothing of the host's goes into an operator or comes out of one, on the meta device, which stands for a GPU where there
    is none: reading a value fails there by itself.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        assert all(tensor.is_meta for tensor in tensors_in((args, kwargs, result))), func
        return result


SMALL: dict[str, Any] = dict(
    learning_starts=50,
    buffer_size=1000,
    learning_rate=1e-3,
    target_update_interval=100,
    policy_kwargs=dict(net_arch=[16]),
    seed=0,
    device="cpu",
)


def copy_of(policy: SoftQPolicy) -> SoftQPolicy:
    """A policy that can be trained apart from the original, with an optimiser of its own in the same state."""
    copy = deepcopy(policy)
    copy.optimizer = type(policy.optimizer)(copy.q_net.parameters(), **policy.optimizer.defaults)
    copy.optimizer.load_state_dict(deepcopy(policy.optimizer.state_dict()))
    copy.adopt_optimizer_state()
    return copy


@pytest.fixture
def small() -> dict[str, Any]:
    """Hyperparameters with which a few hundred steps do everything once."""
    return {**SMALL, "policy_kwargs": dict(net_arch=[16])}
