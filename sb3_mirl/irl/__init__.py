"""Maximum entropy inverse reinforcement learning: the rewards that explain observed paths (Ziebart et al. 2008).

``MaxEntRouteChoice`` for paths on a graph with features on its edges, ``MaxEntIRL`` for trajectories in a ``TabularMDP``.
numba, scipy and torch are imported only by what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_mirl.irl.agents import collect_trajectories, features_from_env
    from sb3_mirl.irl.baselines import ActionBased, MaxMargin, ShortestPath
    from sb3_mirl.irl.divergence import PartitionDiverges
    from sb3_mirl.irl.mdp import MaxEntIRL
    from sb3_mirl.irl.metrics import RouteScores, destination_accuracy, evaluate_routes, path_overlap
    from sb3_mirl.irl.network import RoadNetwork
    from sb3_mirl.irl.routes import MaxEntRouteChoice
    from sb3_mirl.irl.weights import WeightTable

_HOMES = {
    "agents": ("collect_trajectories", "features_from_env"),
    "baselines": ("ActionBased", "MaxMargin", "ShortestPath"),
    "divergence": ("PartitionDiverges",),
    "mdp": ("MaxEntIRL",),
    "metrics": ("RouteScores", "destination_accuracy", "evaluate_routes", "path_overlap"),
    "network": ("RoadNetwork",),
    "routes": ("MaxEntRouteChoice",),
    "weights": ("WeightTable",),
}

__all__ = [
    "ActionBased",
    "MaxEntIRL",
    "MaxEntRouteChoice",
    "MaxMargin",
    "PartitionDiverges",
    "RoadNetwork",
    "RouteScores",
    "ShortestPath",
    "WeightTable",
    "collect_trajectories",
    "destination_accuracy",
    "evaluate_routes",
    "features_from_env",
    "path_overlap",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sb3_mirl.irl.{module}"), name)
    raise AttributeError(f"module 'sb3_mirl.irl' has no attribute {name!r}")
