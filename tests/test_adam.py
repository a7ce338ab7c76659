"""Adam's step without torch's wrappers: bit for bit the optimiser's, which makes it wherever somebody could tell."""

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sb3_mirl.soft_dqn import adam

Optimizer = Callable[[list[th.Tensor]], th.optim.Optimizer]


def twins(make: Optimizer) -> tuple[th.optim.Optimizer, th.optim.Optimizer]:
    th.manual_seed(0)
    values = [th.randn(7, 3), th.randn(3), th.randn(())]
    one, two = (make([value.clone().requires_grad_() for value in values]) for _ in range(2))
    return one, two


def assert_same_steps(one: th.optim.Optimizer, two: th.optim.Optimizer, n: int = 5) -> None:
    """Ours on the first, torch's on the second."""
    for i in range(n):
        for a, b in zip(one.param_groups, two.param_groups, strict=True):
            a["lr"] = b["lr"] = 0.1 / (i + 1)
            for p, q in zip(a["params"], b["params"], strict=True):
                p.grad = th.randn_like(p)
                q.grad = p.grad.clone()
        adam.step(one)
        two.step()
    for p, q in zip(one.state, two.state, strict=True):
        th.testing.assert_close((p, one.state[p]), (q, two.state[q]), rtol=0, atol=0)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The optimisers that torch's own step was called for."""
    made: list[Any] = []
    for cls in (th.optim.Adam, th.optim.SGD):  # AdamW is an Adam
        monkeypatch.setattr(cls, "step", lambda self, step=cls.step: (made.append(self), step(self)))
    return made


@pytest.mark.parametrize("kwargs", [{}, dict(weight_decay=0.1, maximize=True, eps=1e-3, betas=(0.5, 0.7))])
def test_steps_are_those_of_torch(kwargs: dict[str, Any], steps: list[Any]) -> None:
    one, two = twins(lambda p: th.optim.Adam(p, fused=True, **kwargs))
    assert_same_steps(one, two)
    assert steps.count(one) == 1, "the first, which makes the moments"


def test_parameters_without_a_gradient_stay() -> None:
    one, two = twins(lambda p: th.optim.Adam(p, fused=True))
    assert_same_steps(one, two)
    *_, last = one.param_groups[0]["params"]
    last.grad = None
    adam.step(one)
    assert [state["step"].item() for state in one.state.values()] == [6, 6, 5]


def hooked(register: str) -> Optimizer:
    def make(parameters: list[th.Tensor]) -> th.optim.Optimizer:
        optimizer = th.optim.Adam(parameters, fused=True)
        getattr(optimizer, register)(lambda *args: None)
        return optimizer

    return make


class Own(th.optim.Adam):
    """Whose step may be another's one day."""


def scheduled(parameters: list[th.Tensor]) -> th.optim.Optimizer:
    optimizer = th.optim.Adam(parameters, fused=True)
    th.optim.lr_scheduler.ConstantLR(optimizer)
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        hooked("register_step_pre_hook"),
        hooked("register_step_post_hook"),
        scheduled,
        lambda p: th.optim.Adam(p, fused=True, amsgrad=True),
        lambda p: th.optim.Adam(p, fused=True, decoupled_weight_decay=True, weight_decay=0.1),
        lambda p: th.optim.Adam(p),
        lambda p: th.optim.Adam([{"params": p[:1]}, {"params": p[1:]}], fused=True),
        lambda p: th.optim.AdamW(p, fused=True),
        lambda p: Own(p, fused=True),
        lambda p: th.optim.SGD(p),
    ],
)
def test_it_stands_back(make: Optimizer, steps: list[Any]) -> None:
    one, two = twins(make)
    assert_same_steps(one, two)
    assert steps.count(one) == 5


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_hooks_of_all_optimisers_are_called(register: Callable[..., Any]) -> None:
    one, _ = twins(lambda p: th.optim.Adam(p, fused=True))
    seen: list[Any] = []
    handle = register(lambda *args: seen.append(args))
    try:
        for _ in range(3):
            for p in one.param_groups[0]["params"]:
                p.grad = th.ones_like(p)
            adam.step(one)
    finally:
        handle.remove()
    assert len(seen) == 3
