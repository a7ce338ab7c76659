"""Tabular MIRL: finite MDPs, exact solvers, and the agents of the paper's gridworlds.

numba and scipy are imported only by what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_mirl.tabular.mdp import TabularMDP

if TYPE_CHECKING:
    from sb3_mirl.tabular.agents import QLearning, SoftQLearning, TabularMIRL, learn_side_by_side
    from sb3_mirl.tabular.chains import behaviour_policy, occupancy, stationary_distribution
    from sb3_mirl.tabular.mutual_information import MutualInformationSolution, solve_mutual_information
    from sb3_mirl.tabular.planning import SoftSolution, soft_backward_induction, soft_value_iteration
    from sb3_mirl.tabular.variational import VariationalSolution, variational_em

_HOMES = {
    "agents": ("QLearning", "SoftQLearning", "TabularMIRL", "learn_side_by_side"),
    "chains": ("behaviour_policy", "occupancy", "stationary_distribution"),
    "mutual_information": ("MutualInformationSolution", "solve_mutual_information"),
    "planning": ("SoftSolution", "soft_backward_induction", "soft_value_iteration"),
    "variational": ("VariationalSolution", "variational_em"),
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
    "learn_side_by_side",
    "occupancy",
    "soft_backward_induction",
    "soft_value_iteration",
    "solve_mutual_information",
    "stationary_distribution",
    "variational_em",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sb3_mirl.tabular.{module}"), name)
    raise AttributeError(f"module 'sb3_mirl.tabular' has no attribute {name!r}")
