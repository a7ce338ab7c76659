"""Why a partition function is infinite, in the user's terms."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from sb3_mirl.irl import kernels
from sb3_mirl.irl.destination_graphs import DestinationGraph
from sb3_mirl.irl.network import Array, RoadNetwork

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


def explain(network: RoadNetwork, graph: DestinationGraph, rewards: Array, value: Array) -> PartitionDiverges:
    """
    :param rewards: (E,)
    :param value: (n,) where the sweeps were when they gave up
    """
    to = f"the partition function for destination {network.name_state(graph.destination)} is infinite"
    cycle = _loop(graph, rewards)
    growing = int(value.argmax())
    if cycle is None:
        reward = graph.local(rewards)
        after = value.copy()
        kernels.log_sweep(graph.start, graph.head, reward, after)
        growing = int(np.argmax(np.nan_to_num(after - value)))
        cycle = _best_cycle(graph, reward, after, growing)
    if cycle is not None:
        nodes, total = cycle
        states = [int(graph.state[node]) for node in nodes]
        shown = states if len(states) <= _NAMED else [*states[: _NAMED - 1], "..."]
        names = " -> ".join(map(str, [*shown, states[0]]))
        return PartitionDiverges(
            f"{to}: the rewards along the cycle {names} sum to {total:.6g}, and must be negative; {_WAY_OUT}",
            graph.destination,
            states,
            is_cycle=True,
        )
    ones = csr_array((np.ones(len(graph.head)), graph.head, graph.start), shape=(graph.n_nodes,) * 2)
    component = connected_components(ones, connection="strong")[1]
    together = np.flatnonzero(component == component[growing])
    states = [int(graph.state[growing]), *(int(graph.state[node]) for node in together if node != growing)]
    names = ", ".join(map(str, states[:_NAMED])) + (", ..." if len(states) > _NAMED else "")
    return PartitionDiverges(
        f"{to}: among the {len(states)} states {names} paths grow in number faster than their probability falls; {_WAY_OUT}",
        graph.destination,
        states,
        is_cycle=False,
    )


def _loop(graph: DestinationGraph, rewards: Array) -> tuple[list[int], float] | None:
    """A state whose edge to itself has no negative reward."""
    for node in np.flatnonzero(graph.loop >= 0):
        if rewards[graph.loop[node]] >= 0:
            return [int(node)], float(rewards[graph.loop[node]])
    return None


def _best_cycle(graph: DestinationGraph, reward: Array, value: Array, node: int) -> tuple[list[int], float] | None:
    """The cycle that the best edges lead into, if its rewards do not sum to a negative number."""
    seen: dict[int, int] = {}
    steps: list[float] = []
    while node != 0 and node not in seen:
        seen[node] = len(seen)
        edges = slice(graph.start[node], graph.start[node + 1])
        k = int(edges.start + np.argmax(reward[edges] + value[graph.head[edges]]))
        steps.append(float(reward[k]))
        node = int(graph.head[k])
    if node == 0:
        return None
    total = sum(steps[seen[node] :])
    return (list(seen)[seen[node] :], total) if total >= 0 else None
