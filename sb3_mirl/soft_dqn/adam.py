"""A step of torch's fused Adam without what surrounds its arithmetic."""

from typing import Any

import torch as th
from torch.optim.adam import adam
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

_OTHER_FORMULAS = ("amsgrad", "capturable", "differentiable", "decoupled_weight_decay")


def step(optimizer: th.optim.Optimizer) -> None:
    """
    Call ``optimizer.step()``. For a fused Adam that nobody watches, torch's own function does the same with the optimiser's
    own state; hooks, marks for the profiler and state that may be missing take longer than the step of a small network.

    :param optimizer: its parameters are on the CPU and have their gradients
    """
    group = optimizer.param_groups[0]
    parameters = [p for p in group["params"] if p.grad is not None]
    states: list[Any] = [optimizer.state.get(p) for p in parameters]
    if not (_is_plain(optimizer) and all(states)):  # the first step makes the states
        optimizer.step()
        return
    with th.no_grad():
        adam(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            **{name: group[name] for name in ("lr", "weight_decay", "eps", "maximize")},
        )


def _is_plain(optimizer: Any) -> bool:
    if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) > 1:
        return False
    (group,) = optimizer.param_groups
    watched = (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or "step" in vars(optimizer)  # replaced, as torch's schedulers of the learning rate do
    )
    return group["fused"] and not watched and not any([group.get(name) for name in _OTHER_FORMULAS])
