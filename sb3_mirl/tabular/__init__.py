"""Tabular MIRL: finite MDPs, exact solvers, and the agents of the paper's gridworlds.

numba, scipy and torch are imported only by what needs them.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_mirl.tabular.mdp import TabularMDP
from sb3_mirl.tabular.planning import (
    SoftSolution,
    behaviour_policy,
    occupancy,
    soft_backward_induction,
    soft_value_iteration,
    stationary_distribution,
)

if TYPE_CHECKING:
    from sb3_mirl.tabular.agents import QLearning, SoftQLearning, TabularMIRL, train_in_parallel
    from sb3_mirl.tabular.mutual_information import MutualInformationSolution, solve_mutual_information
    from sb3_mirl.tabular.variational import VariationalSolution, variational_em

_HOMES = {
    "MutualInformationSolution": "mutual_information",
    "solve_mutual_information": "mutual_information",
    "VariationalSolution": "variational",
    "variational_em": "variational",
}

__all__ = [
    "MutualInformationSolution",
    "QLearning",
    "SoftQLearning",
    "SoftSolution",
    "TabularMDP",
    "TabularMIRL",
    "VariationalSolution",
    "behaviour_policy",
    "occupancy",
    "soft_backward_induction",
    "soft_value_iteration",
    "solve_mutual_information",
    "stationary_distribution",
    "train_in_parallel",
    "variational_em",
]


def __getattr__(name: str) -> Any:
    if name == "learn_side_by_side":
        warnings.warn("learn_side_by_side is now train_in_parallel", DeprecationWarning, stacklevel=2)
        name = "train_in_parallel"
    if name not in __all__:
        raise AttributeError(f"module 'sb3_mirl.tabular' has no attribute {name!r}")
    module = _HOMES.get(name, "agents")
    return getattr(import_module(f"sb3_mirl.tabular.{module}"), name)
