"""Moments that have died away are dropped: no weight notices, and no number is left that a processor is slow with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_mirl import VIREL, ContinuousSQL, SoftA2C, SoftDQN, SoftPQN
from sb3_mirl.common import moments
from sb3_mirl.common.moments import drop_dead_moments

Optimizer = Callable[[Any], th.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "Adam": lambda p: th.optim.Adam(p),
    "fused Adam": lambda p: th.optim.Adam(p, fused=True, eps=1.5e-4),
    "RAdam": lambda p: th.optim.RAdam(p),
    "RMSprop": lambda p: RMSpropTFLike(p, alpha=0.9, eps=1e-5),
}


def trained(make: Optimizer, drops: bool, n_steps: int = 1000) -> tuple[list[th.Tensor], th.optim.Optimizer]:
    """A network whose first unit dies after ten steps."""
    th.manual_seed(0)
    network = th.nn.Sequential(th.nn.Linear(3, 4), th.nn.ReLU(), th.nn.Linear(4, 1))
    network[0].weight.data.abs_()
    optimizer = make(network.parameters())
    for step in range(n_steps):
        if step == 10:
            network[0].bias.data[0] = -100.0
        optimizer.zero_grad()
        (network(th.rand(8, 3)) - 1).square().mean().backward()
        optimizer.step()
        if drops:
            drop_dead_moments(optimizer)
    return [p.detach() for p in network.parameters()], optimizer


def tensors(optimizer: th.optim.Optimizer) -> th.Tensor:
    values = [value for state in optimizer.state.values() for value in state.values()]
    return th.cat([value.flatten() for value in values if isinstance(value, th.Tensor) and value.dim() > 0])


def n_subnormal(optimizer: th.optim.Optimizer) -> int:
    values = tensors(optimizer)
    return int(((values != 0) & (values.abs() < th.finfo(values.dtype).tiny)).sum())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_weight_notices(name: str) -> None:
    plain, of_torch = trained(OPTIMIZERS[name], drops=False)
    dropped, ours = trained(OPTIMIZERS[name], drops=True)
    assert n_subnormal(of_torch) > 0 and n_subnormal(ours) == 0
    assert all(map(th.equal, plain, dropped))
    alive = tensors(of_torch).abs() > 1e-20
    assert th.equal(tensors(of_torch)[alive], tensors(ours)[alive])


@pytest.mark.parametrize("make", [lambda p: th.optim.Adam(p, eps=1e-20), lambda p: th.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_moments_that_count_stay(make: Optimizer) -> None:
    optimizer = trained(make, drops=True)[1]
    assert 0 < tensors(optimizer).abs().min() < 1e-32


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (SoftDQN, {"learning_starts": 50}),
        (SoftDQN, {"learning_starts": 50, "update_path": "eager"}),
        (SoftPQN, {}),
        (SoftA2C, {}),
        (SoftA2C, {"update": "soft_q"}),
    ],
)
def test_every_algorithm_drops_them(cls: Any, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    of_all(monkeypatch)
    model = cls("MlpPolicy", "CartPole-v1", **arguments).learn(80)
    assert model._n_updates > 0 and not tensors(model.policy.optimizer).any()


@pytest.mark.parametrize("cls", [VIREL, ContinuousSQL])
def test_every_optimiser_of_an_algorithm(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    of_all(monkeypatch)
    model = cls("MlpPolicy", "Pendulum-v1", learning_starts=50, batch_size=8).learn(60)
    assert not tensors(model.actor.optimizer).any() and not tensors(model.critic.optimizer).any()


def of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """All moments are dead, after every step."""
    monkeypatch.setattr(moments, "SMALLEST", 1e9)
    monkeypatch.setattr(moments, "EVERY", 1)
