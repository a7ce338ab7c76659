"""Maximum entropy inverse reinforcement learning: the rewards that explain observed paths (Ziebart et al. 2008).

``MaxEntRouteChoice`` for paths on a graph with features on its edges, ``MaxEntIRL`` for trajectories in a ``TabularMDP``.
numba, scipy and torch are imported only by what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_mirl.irl.baselines import ActionBased, MaxMargin, ShortestPath
    from sb3_mirl.irl.divergence import PartitionDiverges
    from sb3_mirl.irl.mdp import MaxEntIRL
    from sb3_mirl.irl.metrics import RouteScores, destination_accuracy, evaluate_routes, path_overlap
    from sb3_mirl.irl.network import RoadNetwork
    from sb3_mirl.irl.routes import MaxEntRouteChoice
    from sb3_mirl.irl.trajectories import collect_trajectories, features_from_env
    from sb3_mirl.irl.weights import WeightTable

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


_HOMES = {
    **dict.fromkeys(("ActionBased", "MaxMargin", "ShortestPath"), "baselines"),
    **dict.fromkeys(("RouteScores", "destination_accuracy", "evaluate_routes", "path_overlap"), "metrics"),
    **dict.fromkeys(("collect_trajectories", "features_from_env"), "trajectories"),
    "MaxEntIRL": "mdp",
    "MaxEntRouteChoice": "routes",
    "PartitionDiverges": "divergence",
    "RoadNetwork": "network",
    "WeightTable": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sb3_mirl.irl' has no attribute {name!r}")
    return getattr(import_module(f"sb3_mirl.irl.{_HOMES[name]}"), name)
