"""Moments of optimisers that have died away."""

import itertools
from typing import Any

import torch as th

SMALLEST = 1e-32
EVERY = 100
"""Steps of an optimiser: at Adam's factor of 0.9 a moment needs 130 from 1e-32 to where subnormal numbers begin."""

EPS = 1e-10
"""Beside it, moments below 1e-32 change nothing; Adam's is 1e-8."""


def drop_dead_moments(optimizer: th.optim.Optimizer) -> None:
    """
    Set moments below 1e-32 to 0, at every 100th step of an optimiser on the CPU.

    Where a weight has no gradient any more, as those of a unit that is never active, its moments shrink for ever. Below 1e-38
    floats are subnormal, and processors take many times as long for them: in Breakout, a step of Adam took four times as
    long after 1000 updates.

    :param optimizer: changed in place; one whose ``eps`` does not hide such moments is left as it is
    """
    group = optimizer.param_groups[0]
    if group["params"][0].device.type != "cpu" or group.get("eps", 0) < EPS:
        return
    some_state: dict[str, Any] = next(iter(optimizer.state.values()), {})
    if int(some_state.get("step", 1)) % EVERY:
        return
    for value in itertools.chain.from_iterable(state.values() for state in optimizer.state.values()):
        if isinstance(value, th.Tensor) and value.is_floating_point() and value.dim() > 0:
            value.copy_(th.hardshrink(value, SMALLEST))
