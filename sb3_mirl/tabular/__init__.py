"""Tabular MIRL: finite MDPs, exact solvers, and the agents of the paper's gridworlds.

numba and scipy are imported only by what needs them.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_mirl.tabular.mdp import TabularMDP

if TYPE_CHECKING:
    from sb3_mirl.tabular.agents import QLearning, SoftQLearning, TabularMIRL, train_in_parallel
    from sb3_mirl.tabular.mutual_information import MutualInformationSolution, solve_mutual_information
    from sb3_mirl.tabular.planning import (
        SoftSolution,
        behaviour_policy,
        occupancy,
        soft_backward_induction,
        soft_value_iteration,
        stationary_distribution,
    )

__all__ = [
    "MutualInformationSolution",
    "QLearning",
    "SoftQLearning",
    "SoftSolution",
    "TabularMDP",
    "TabularMIRL",
    "behaviour_policy",
    "occupancy",
    "soft_backward_induction",
    "soft_value_iteration",
    "solve_mutual_information",
    "stationary_distribution",
    "train_in_parallel",
]

_HOMES = {name: "planning" for name in __all__}
_HOMES |= dict.fromkeys(("MutualInformationSolution", "solve_mutual_information"), "mutual_information")
_HOMES |= dict.fromkeys(("QLearning", "SoftQLearning", "TabularMIRL", "train_in_parallel"), "agents")
_RENAMED = {"learn_side_by_side": "train_in_parallel"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"sb3_mirl.tabular.{name} is now {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'sb3_mirl.tabular' has no attribute {name!r}")
    return getattr(import_module(f"sb3_mirl.tabular.{_HOMES[name]}"), name)
