"""Why a partition function is infinite, in the user's terms."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from sb3_mirl.irl import kernels
from sb3_mirl.irl.destination_graphs import DestinationGraph
from sb3_mirl.irl.network import Array, RoadNetwork
from sb3_mirl.irl.passes import Diverging, Passes

_NAMED = 8  # states that a message names at most
_WAY_OUT = (
    "make the weights more negative (longer paths must be less probable), begin the fit from other initial_weights, or give a "
    "horizon"
)


class PartitionDiverges(ValueError):
    """The sum over all paths to a destination is infinite, so that there is no distribution over them.

    ``destination`` is the destination; ``states`` the cycle whose rewards sum to 0 or more, if there is one (``is_cycle``),
    and otherwise the states among which there are more paths than their rewards make improbable.
    """

    def __init__(self, message: str, destination: int, states: Sequence[int], is_cycle: bool) -> None:
        super().__init__(message)
        self.destination, self.states, self.is_cycle = destination, list(states), is_cycle

    def __reduce__(self) -> tuple[type, tuple[str, int, list[int], bool]]:
        return type(self), (str(self), self.destination, self.states, self.is_cycle)


def finite_passes(network: RoadNetwork, graph: DestinationGraph, rewards: Array) -> Passes:
    """The passes of a destination.

    :param rewards: (E,)
    :raises PartitionDiverges: the partition function is infinite
    """
    try:
        return Passes(graph, rewards)
    except Diverging as diverging:
        raise _explain(network, graph, rewards, diverging.value) from None


def _explain(network: RoadNetwork, graph: DestinationGraph, rewards: Array, value: Array) -> PartitionDiverges:
    """
    :param value: (n,) where the sweeps were when they gave up
    """
    reward, after = rewards[graph.edge], value.copy()
    kernels.log_sweep(graph.start, graph.head, reward, after)
    growing = int(np.argmax(np.nan_to_num(after - value)))
    nodes, total = _best_cycle(graph, reward, after, growing)
    is_cycle = total >= 0
    if not is_cycle:
        ones = csr_array((np.ones(len(graph.head)), graph.head, graph.start), shape=(graph.n_nodes,) * 2)
        component = connected_components(ones, connection="strong")[1]
        nodes = [growing, *(int(node) for node in np.flatnonzero(component == component[growing]) if node != growing)]
    states = graph.state[nodes].tolist()
    shown = [*map(str, states[:_NAMED]), *(["..."] if len(states) > _NAMED else [])]
    if is_cycle:
        why = f"the rewards along the cycle {' -> '.join([*shown, str(states[0])])} sum to {total:.6g}, and must be negative"
    else:
        why = f"among the {len(states)} states {', '.join(shown)} paths grow in number faster than their probability falls"
    message = f"the partition function for destination {network.name_state(graph.destination)} is infinite: {why}; {_WAY_OUT}"
    return PartitionDiverges(message, graph.destination, states, is_cycle)


def _best_cycle(graph: DestinationGraph, reward: Array, value: Array, node: int) -> tuple[list[int], float]:
    """The cycle that the best edges lead into, and the sum of its rewards; -inf if they lead to the destination."""
    seen: dict[int, int] = {}
    steps: list[float] = []
    while node not in seen:
        if node == 0:
            return [], -np.inf
        seen[node] = len(seen)
        edges = slice(graph.start[node], graph.start[node + 1])
        k = int(edges.start + np.argmax(reward[edges] + value[graph.head[edges]]))
        steps.append(float(reward[k]))
        node = int(graph.head[k])
    return list(seen)[seen[node] :], sum(steps[seen[node] :])
