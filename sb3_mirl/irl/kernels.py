"""The compiled loops over one destination's graph (numba; imported only when a model computes something).

Arrays of a graph of n nodes, m edges (see ``destination_graphs``): node 0 is the destination and has no edges, nodes are
numbered from near to far; ``start`` (n + 1,), the edges of node i are ``start[i]`` to ``start[i + 1] - 1``; ``head`` (m,),
where they lead; ``reward`` (m,) r_e. Nothing holds the GIL, so that destinations run in parallel threads.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Starts = NDArray[np.int64]

SETTLED, UNSETTLED, OVERFLOWN = 0, 1, 2
"""How ``relax`` ended."""

_LARGE = 1e100  # far from the largest float, so that one more sweep seldom overflows
_ROUNDING = 1e-15


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Numba's compiler, with the types left as they are for the type checker."""
    machine_code: Callable[P, R] = njit(nogil=True, cache=True)(function)
    return machine_code


@compiled
def renumber(order: Ints, index: Ints, out_start: Starts, out_head: Ints, out_edge: Ints) -> tuple[Starts, Ints, Ints]:
    """The part of a network that leads to a destination, in a new numbering: ``start``, ``head`` and ``edge`` (m,).

    :param order: (n,) the network's states in the order of the new numbers, the destination first
    :param index: (S,) the new number of each state, -1 for those left out
    :param out_start: (S + 1,), ``out_head`` and ``out_edge`` (E,): the network's edges by tail
    """
    n = order.size
    start = np.zeros(n + 1, dtype=np.int64)
    for i in range(1, n):
        count = 0
        for k in range(out_start[order[i]], out_start[order[i] + 1]):
            count += index[out_head[k]] >= 0
        start[i + 1] = start[i] + count
    head = np.empty(start[n], dtype=np.int32)
    edge = np.empty(start[n], dtype=np.int32)
    place = 0
    for i in range(1, n):
        for k in range(out_start[order[i]], out_start[order[i] + 1]):
            if index[out_head[k]] >= 0:
                head[place] = index[out_head[k]]
                edge[place] = out_edge[k]
                place += 1
    return start, head, edge


@compiled
def log_sweep(start: Starts, head: Ints, reward: Floats, value: Floats) -> None:
    """One Gauss-Seidel sweep of log z_u = log sum_e exp(r_e) z_v, near nodes first, in place; -inf is a z of 0."""
    for i in range(1, start.size - 1):
        top = -np.inf
        for k in range(start[i], start[i + 1]):
            top = max(top, reward[k] + value[head[k]])
        if top > -np.inf:
            total = 0.0
            for k in range(start[i], start[i + 1]):
                total += np.exp(reward[k] + value[head[k]] - top)
            value[i] = top + np.log(total)


@compiled
def relax(start: Starts, head: Ints, weight: Floats, y: Floats, n_sweeps: int, tolerance: float) -> tuple[int, int]:
    """Gauss-Seidel sweeps of y_u = sum_e w_e y_v, near nodes first, in place: from below, they rise to the fixed point.

    :param tolerance: largest relative error accepted, as extrapolated from the changes of the last two sweeps
    :return: how it ended (see above), and the number of sweeps
    """
    before = np.inf
    for sweep in range(n_sweeps):
        change, largest = 0.0, 0.0
        for i in range(1, start.size - 1):
            total = 0.0
            for k in range(start[i], start[i + 1]):
                total += weight[k] * y[head[k]]
            difference = abs(total - y[i])
            if difference > change * total:
                change = difference / total
            largest = max(largest, total)
            y[i] = total
        if not largest < _LARGE:
            return OVERFLOWN, sweep + 1
        if change <= _ROUNDING or (change < before < np.inf and change * change <= tolerance * (before - change)):
            return SETTLED, sweep + 1
        before = change
    return UNSETTLED, n_sweeps


@compiled
def scaled_rewards(start: Starts, head: Ints, reward: Floats, value: Floats) -> Floats:
    """(m,): r_e + value_v - value_u; the exponential is left to NumPy, whose own is the quicker one."""
    scaled = np.empty(head.size)
    for i in range(1, start.size - 1):
        for k in range(start[i], start[i + 1]):
            scaled[k] = reward[k] + value[head[k]] - value[i]
    return scaled


@compiled
def transition_probabilities(start: Starts, head: Ints, weight: Floats, y: Floats) -> Floats:
    """(m,): P(e|u) = w_e y_v / sum w y; the sum is over what leaves u, so that rows sum to 1 to the last digit."""
    probability = np.empty(head.size)
    for i in range(1, start.size - 1):
        total = 0.0
        for k in range(start[i], start[i + 1]):
            probability[k] = weight[k] * y[head[k]]
            total += probability[k]
        for k in range(start[i], start[i + 1]):
            probability[k] /= total
    return probability


@compiled
def push(
    start: Starts,
    head: Ints,
    probability: Floats,
    mass: Floats,
    visits: Floats,
    n_sweeps: int,
    tolerance: float,
    least: float,
) -> bool:
    """Sweeps of D = s + P^T D, far nodes first: what waits in ``mass`` moves on and is counted in ``visits``, both (n,).

    :param least: mass that waits for more, and is left if none comes
    :param tolerance: the sum of the visits still to come that is accepted, as extrapolated from the last two sweeps
    :return: whether that was reached
    """
    before = np.inf
    for _ in range(n_sweeps):
        moved = 0.0
        for i in range(start.size - 2, 0, -1):
            waiting = mass[i]
            if abs(waiting) > least:
                mass[i] = 0.0
                visits[i] += waiting
                moved += abs(waiting)
                for k in range(start[i], start[i + 1]):
                    mass[head[k]] += waiting * probability[k]
        if moved == 0.0 or (moved < before < np.inf and moved * moved <= tolerance * (before - moved)):
            return True
        before = moved
    return False


@compiled
def scatter(places: Ints, values: Floats, total: Floats) -> None:
    """Add ``values`` to ``total`` at ``places``, in place."""
    for k in range(places.size):
        total[places[k]] += values[k]


@compiled
def expected_features(
    start: Starts, head: Ints, probability: Floats, own: Floats, g: Floats, n_sweeps: int, tolerance: float
) -> bool:
    """Gauss-Seidel sweeps of g_u = own_u + sum_e P(e|u) g_v, near nodes first, in place.

    :param own: (n, K) features expected on the next edge
    :param g: (n, K) features expected on the way to the destination
    :param tolerance: largest error accepted, relative to the largest |g|, as extrapolated from the last two sweeps
    :return: whether that was reached
    """
    n_features = own.shape[1]
    row = np.empty(n_features)
    before = np.inf
    for _ in range(n_sweeps):
        change, largest = 0.0, 0.0
        for i in range(1, start.size - 1):
            for c in range(n_features):
                row[c] = own[i, c]
            for k in range(start[i], start[i + 1]):
                to, p = head[k], probability[k]
                for c in range(n_features):
                    row[c] += p * g[to, c]
            for c in range(n_features):
                change = max(change, abs(row[c] - g[i, c]))
                largest = max(largest, abs(row[c]))
                g[i, c] = row[c]
        bound = tolerance * largest
        if change <= _ROUNDING * largest or (change < before < np.inf and change * change <= bound * (before - change)):
            return True
        before = change
    return False


@compiled
def own_features(start: Starts, edge: Ints, features: Floats, probability: Floats) -> Floats:
    """(n, K): the features (E, K) expected on the next edge that leaves each node."""
    own = np.zeros((start.size - 1, features.shape[1]))
    for i in range(1, start.size - 1):
        for k in range(start[i], start[i + 1]):
            for c in range(features.shape[1]):
                own[i, c] += probability[k] * features[edge[k], c]
    return own


@compiled
def add_gram(start: Starts, head: Ints, edge: Ints, features: Floats, flow: Floats, g: Floats, gram: Floats) -> None:
    """Add sum_e x_e h_e h_e^T with h_e = f_e + g_v - g_u to the lower triangle of ``gram`` (K, K); x is ``flow`` (m,)."""
    n_features = features.shape[1]
    h = np.empty(n_features)
    for i in range(1, start.size - 1):
        for k in range(start[i], start[i + 1]):
            if flow[k] > 0.0:
                for c in range(n_features):
                    h[c] = features[edge[k], c] + g[head[k], c] - g[i, c]
                for a in range(n_features):
                    scaled = flow[k] * h[a]
                    for b in range(a + 1):
                        gram[a, b] += scaled * h[b]


@compiled
def best_paths(start: Starts, head: Ints, reward: Floats, value: Floats, choice: Starts, n_sweeps: int) -> bool:
    """Sweeps of V_u = max_e r_e + V_v, near nodes first, until nothing changes.

    :param value: (n,) -inf but for the destination; becomes the largest reward of a path
    :param choice: (n,) becomes the first edge of that path
    :return: whether it came to an end, as it does if no cycle's rewards sum to more than 0
    """
    for _ in range(n_sweeps):
        changed = False
        for i in range(1, start.size - 1):
            for k in range(start[i], start[i + 1]):
                candidate = reward[k] + value[head[k]]
                if candidate > value[i]:
                    value[i] = candidate
                    choice[i] = k
                    changed = True
        if not changed:
            return True
    return False


@compiled
def walk(
    start: Starts, head: Ints, probability: Floats, origin: int, n_paths: int, generator: np.random.Generator
) -> tuple[Ints, Starts]:
    """Sampled paths from node ``origin`` to node 0, one after the other, and where each of them ends."""
    nodes = np.empty(256, dtype=np.int32)
    ends = np.empty(n_paths, dtype=np.int64)
    used = 0
    for path in range(n_paths):
        node = origin
        while True:
            if used == nodes.size:
                nodes = np.concatenate((nodes, np.empty_like(nodes)))
            nodes[used] = node
            used += 1
            if node == 0:
                break
            u = generator.random()
            k = start[node]
            while k < start[node + 1] - 1 and u >= probability[k]:
                u -= probability[k]
                k += 1
            node = head[k]
        ends[path] = used
    return nodes[:used], ends
