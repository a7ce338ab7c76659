"""Algorithm 1 of Ziebart et al. (2008) for one destination: the backward pass, the forward pass, and the second moments.

A path's probability is P(path | o, d) = exp(sum r_e) / z_o (Eq. 2) over all paths from o that end at their first arrival at d.
What the paper prints as N sweeps is solved to its fixed point here, with the destination's z kept at 1:

    backward   z_d = 1,  z_u = sum_{e: u->v} exp(r_e) z_v                  (steps 1 and 2)
    policy     P(e|u) = exp(r_e) z_v / z_u                                 (step 3, Eq. 5)
    forward    D = s + P^T D,  x_e = D_u P(e|u)                            (steps 4 to 6)
    moments    g_u = sum_e P(e|u) (f_e + g_v),  Cov f = sum_e x_e h_e h_e^T,  h_e = f_e + g_v - g_u

D are expected visits, s the origins' counts, x the expected traversals; the last line is the law of total variance along the
path, and gives the Hessian of the likelihood. All is Gauss-Seidel along the distance to the destination, in scaled numbers:
z_u = exp(value_u) y_u, where ``value`` begins as the reward of the best path and takes up y when that grows large.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import splu

from sb3_mirl.irl import kernels
from sb3_mirl.irl.cache import Cache
from sb3_mirl.irl.network import Array, RoadNetwork, add_up

_SWEEPS = 512  # where sweeps have not settled by then a factorisation decides,
_CHECKS = (64, 128, 256, _SWEEPS)  # after so many sweeps it is looked for growth that cannot end
_OVERFLOWS = (3, 6, 9)  # or if y overflows so often; before that growth is looked for too
_NEWTON_STEPS = 50
_TOLERANCE = 1e-12
_GROWTH = 1e-9  # relative changes below this are taken for rounding when growth is looked for


class Diverging(Exception):
    """The partition function is infinite; ``value`` (n,) is what the sweeps had reached. See ``divergence.explain``."""

    def __init__(self, value: Array) -> None:
        super().__init__("the partition function is infinite")
        self.value = value


@dataclass(frozen=True)
class DestinationGraph:
    """What leads to one destination, numbered from near to far; it depends on no weight.

    ``start``, ``head``, ``edge`` and ``loop`` as in ``kernels``. ``state`` (n,) is the network's number of each node, ``node``
    (L, S) the node of each state or -1; L is 1 or, with a horizon H, H + 1: ``node[t]`` are the nodes with t edges to go.
    """

    destination: int
    start: kernels.Starts
    head: kernels.Ints
    edge: kernels.Ints
    loop: kernels.Ints
    state: kernels.Ints
    node: NDArray[np.int32]
    has_loops: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_loops", bool((self.loop >= 0).any()))

    @property
    def n_nodes(self) -> int:
        """n."""
        return len(self.state)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(array.nbytes for array in (self.start, self.head, self.edge, self.loop, self.state, self.node))

    @property
    def tails(self) -> NDArray[np.int64]:
        """(m,): the node that each edge leaves."""
        return np.repeat(np.arange(self.n_nodes), np.diff(self.start))

    def nodes(self, states: Any, travelled: Any = 0) -> NDArray[np.int64]:
        """The nodes of ``states`` after ``travelled`` edges, -1 for those that do not lead to the destination."""
        if len(self.node) == 1:
            return self.node[0][states].astype(np.int64)
        left = len(self.node) - 1 - np.asarray(travelled)
        return np.where(left >= 0, self.node[np.maximum(left, 0), states], -1).astype(np.int64)

    def add_to(self, total: Array, flow: Array, loop_flow: Array | None = None) -> None:
        """Add flows along the graph's edges (m,) and loops (n,) to those of the network's edges (E,), in place."""
        kernels.scatter(self.edge, flow, total)  # with a horizon an edge is there many times
        if loop_flow is not None:
            there = self.loop >= 0
            total[self.loop[there]] += loop_flow[there]

    def local(self, values: Array) -> Array:
        """(m,): the values of the network's edges (E,) on the graph's."""
        return np.asarray(values[self.edge])


class Graphs:
    """Builds and keeps the destinations' graphs of a network.

    :param network: the network
    :param allowed: (E,) which edges exist; None for all
    :param horizon: the largest number of edges of a path; None for no limit
    :param max_detour: keep the states within 1 + ``max_detour`` times the farthest origin's distance; None for all
    :param capacity: bytes of graphs to keep
    """

    def __init__(
        self,
        network: RoadNetwork,
        allowed: NDArray[np.bool_] | None = None,
        horizon: int | None = None,
        max_detour: float | None = None,
        capacity: int = 2**28,
    ) -> None:
        self.network, self.horizon, self.max_detour = network, horizon, max_detour
        order, starts = network.out_edges
        if allowed is not None and not allowed.all():
            kept = allowed[order]
            starts = np.concatenate([[0], np.cumsum(kept)])[starts]
            order = order[kept]
        self._edges, self._starts = order, starts
        self._heads = network.head[order].astype(np.int32)
        shape = (network.n_states, network.n_states)
        # of a transposed CSR the columns are the rows: distances to the destination become distances from it
        self._reversed = csr_array((network.length[order], self._heads, starts), shape=shape).T.tocsr()
        self.farthest: dict[int, float] = {}
        self._kept: Cache[tuple[int, float], DestinationGraph] = Cache(capacity)
        self._last: tuple[int, Array] | None = None  # the distances that were asked for last

    def distances(self, destination: int, limit: float = np.inf) -> Array:
        """(S,): the reference distance of each state to the destination; infinite beyond ``limit`` or out of reach."""
        return np.asarray(dijkstra(self._reversed, indices=destination, limit=limit))

    def note_origins(self, destination: int, origins: Any, within: float = np.inf) -> None:
        """Keep the states that detours from these origins may use from now on.

        :param origins: states
        :param within: an upper bound of their distances, which saves time
        """
        if self.max_detour is not None:
            distances = self.distances(destination, within * (1 + 1e-9))[origins]
            farthest = distances[np.isfinite(distances)].max(initial=0.0)
            self.farthest[destination] = max(float(farthest), self.farthest.get(destination, 0.0))

    def to(self, destination: int, origins: Iterable[int] = ()) -> DestinationGraph:
        """The graph of a destination; with ``max_detour``, of the noted origins and these."""
        limit = np.inf if self.max_detour is None else self._limit(destination, list(origins), self.max_detour)
        graph = self._kept.get((destination, limit))
        if graph is None:
            graph = self._build(destination, self.distances(destination, limit), limit)
            self._kept.put((destination, limit), graph)
        return graph

    def _limit(self, destination: int, origins: list[int], max_detour: float) -> float:
        """How far from the destination states may be."""
        farthest = self.farthest.get(destination, 0.0 if origins else np.inf)
        if origins:
            if self._last is None or self._last[0] != destination:
                self._last = destination, self.distances(destination)
            own = self._last[1][origins]
            farthest = max(farthest, float(own[np.isfinite(own)].max(initial=0.0)))
        return (1 + max_detour) * farthest

    def _build(self, destination: int, distances: Array, limit: float) -> DestinationGraph:
        inside = np.flatnonzero(np.isfinite(distances) & (distances <= limit))
        order = inside[np.argsort(distances[inside], kind="stable")].astype(np.int32)
        index = np.full(self.network.n_states, -1, dtype=np.int32)
        index[order] = np.arange(len(order), dtype=np.int32)
        start, head, edge, loop = kernels.renumber(order, index, self._starts, self._heads, self._edges)
        graph = DestinationGraph(destination, start, head, edge, loop, order, index[None])
        return graph if self.horizon is None else unfold(graph, self.horizon)


def unfold(graph: DestinationGraph, horizon: int) -> DestinationGraph:
    """The same problem with at most ``horizon`` edges: a node for each state and number of edges to go, and no cycle."""
    n, tails = graph.n_nodes, graph.tails
    loops = np.flatnonzero(graph.loop >= 0)
    tails, heads = np.concatenate([tails, loops]), np.concatenate([graph.head, loops])
    edges = np.concatenate([graph.edge, graph.loop[loops]])
    order = np.lexsort((heads, tails))
    tails, heads, edges = tails[order], heads[order], edges[order]
    ones = csr_array((np.ones(len(tails)), (heads, tails)), shape=(n, n))
    hops = dijkstra(ones, indices=0, unweighted=True)  # (n,): the fewest edges to the destination

    states, numbers = [graph.state[:1]], np.full((horizon + 1, n), -1, dtype=np.int32)
    numbers[:, 0] = 0
    start, all_heads, all_edges, n_nodes = [np.zeros(2, dtype=np.int64)], [], [], 1
    for left in range(1, horizon + 1):
        here = np.flatnonzero(hops[1:] <= left) + 1
        numbers[left, here] = n_nodes + np.arange(len(here))
        there = (hops[tails] <= left) & (numbers[left - 1, heads] >= 0)
        counts = np.bincount(tails[there], minlength=n)[here]
        start.append(start[-1][-1] + np.cumsum(counts))
        all_heads.append(numbers[left - 1, heads[there]])
        all_edges.append(edges[there])
        states.append(graph.state[here])
        n_nodes += len(here)
    node = np.full((horizon + 1, graph.node.shape[1]), -1, dtype=np.int32)
    node[:, graph.state] = numbers
    empty = np.zeros(0, dtype=np.int32)
    return DestinationGraph(
        destination=graph.destination,
        start=np.concatenate(start),
        head=np.concatenate([empty, *all_heads]).astype(np.int32),
        edge=np.concatenate([empty, *all_edges]).astype(np.int32),
        loop=np.full(n_nodes, -1, dtype=np.int32),
        state=np.concatenate(states),
        node=node,
    )


class Passes:
    """The backward pass of one destination at given rewards, and what follows from it.

    :param graph: the destination's graph
    :param rewards: (E,) r_e
    :raises Diverging: the partition function is infinite

    ``log_z`` (n,); ``probability`` (m,) is P(e|u) given that the state is left, ``looping`` (n,) the probability of the edge
    from a state to itself; a loop sums up to a factor 1 / (1 - exp(r)) on all else, so that the sweeps need not know of it.
    """

    def __init__(self, graph: DestinationGraph, rewards: Array) -> None:
        self.graph = graph
        self.looping: Array = np.zeros(graph.n_nodes)
        reward = graph.local(rewards)
        if graph.has_loops:
            there = np.flatnonzero(graph.loop >= 0)
            loop_rewards = rewards[graph.loop[there]]
            if (loop_rewards >= 0).any():
                value = np.full(graph.n_nodes, -np.inf)
                value[there[loop_rewards >= 0]] = 0
                raise Diverging(value)
            self.looping[there] = np.exp(loop_rewards)
            reward = reward - np.repeat(np.log1p(-self.looping), np.diff(graph.start))
        self.log_z, self.probability = _backward(graph, reward)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, without the graph's."""
        return self.log_z.nbytes + self.probability.nbytes + self.looping.nbytes

    def log_partition(self, states: Any, travelled: Any = 0) -> Array:
        """log z of ``states`` after ``travelled`` edges; -inf where they do not lead to the destination."""
        nodes = self.graph.nodes(states, travelled)
        return np.where(nodes >= 0, self.log_z[nodes], -np.inf)

    def edge_flows(self, mass: Array, neglect: float = 0.0) -> tuple[Array, Array | None]:
        """The expected traversals of the graph's edges (m,) and of its loops (n,) or None.

        :param mass: (n,) s, how many paths begin at each node
        :param neglect: the share of the paths that need not be followed to the end
        """
        visits = forward(self.graph, self.probability, mass, neglect)
        flow = np.repeat(visits, np.diff(self.graph.start)) * self.probability
        return flow, visits * self.turns if self.graph.has_loops else None

    @property
    def turns(self) -> Array:
        """(n,): how often the loop is taken before the state is left."""
        return self.looping / (1 - self.looping)

    def actual_probability(self) -> Array:
        """(m,): P(e|u), with the loops among what may be taken."""
        return self.probability * np.repeat(1 - self.looping, np.diff(self.graph.start))

    def feature_covariance(self, features: Array, mass: Array) -> Array:
        """(K, K): the sum of the covariance matrices of the paths' feature counts.

        :param features: (E, K), C-contiguous
        :param mass: (n,) how many paths begin at each node
        """
        graph, turns = self.graph, self.turns
        own = kernels.own_features(graph.start, graph.edge, features, self.probability, graph.loop, turns)
        g = np.zeros_like(own)
        arguments = (graph.start, graph.head, self.probability, own)
        if not kernels.expected_features(*arguments, g, _SWEEPS, _TOLERANCE):
            g[1:] = _solve(graph, self.probability, own[1:])
        flow, loop_flow = self.edge_flows(mass)
        gram = np.zeros((features.shape[1], features.shape[1]))
        kernels.add_gram(graph.start, graph.head, graph.edge, features, flow, g, gram)
        gram = np.tril(gram) + np.tril(gram, -1).T
        if loop_flow is not None:
            there = np.flatnonzero(graph.loop >= 0)
            of_loops = features[graph.loop[there]]
            # where the loop is followed by itself or by what leaves, g_v - g_u is 0 for it
            gram += (of_loops * loop_flow[there, None]).T @ of_loops
        return gram


def forward(graph: DestinationGraph, probability: Array, mass: Array, neglect: float = 0.0) -> Array:
    """D (n,) of D = s + P^T D, counting a visit once however often its loop is taken.

    :param probability: (m,) P
    :param mass: (n,) s; the destination's own is not counted
    :param neglect: the share of the mass that need not be followed to the end
    """
    waiting, visits = mass.copy(), np.zeros(graph.n_nodes)
    waiting[0] = 0
    total = np.abs(waiting).sum()
    least = neglect * total / graph.n_nodes
    if not kernels.push(graph.start, graph.head, probability, waiting, visits, _SWEEPS, _TOLERANCE * total, least):
        visits[1:] += _solve(graph, probability, waiting[1:], transposed=True)
    return visits


def _backward(graph: DestinationGraph, reward: Array) -> tuple[Array, Array]:
    """log z (n,) and P (m,) of rewards (m,)."""
    edges, n = (graph.start, graph.head), graph.n_nodes
    value, choice = np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
    value[0] = 0.0
    # from below: single paths first, of which the sum is more
    while not np.isfinite(value).all():
        kernels.best_paths(*edges, reward, value, choice, 1)
    done = overflows = 0
    while True:
        weight, y = _scaled_weights(graph, reward, value), np.ones(n)
        until = next(check for check in _CHECKS if check > done)
        status, sweeps = kernels.relax(*edges, weight, y, until - done, _TOLERANCE)
        done, overflows = done + sweeps, overflows + (status == kernels.OVERFLOWN)
        if status == kernels.SETTLED:
            break
        if np.isfinite(y).all():
            value += np.log(y)
        else:
            kernels.log_sweep(*edges, reward, value)
        if done in _CHECKS or overflows in _OVERFLOWS:
            _check_growth(graph, reward, value)
        if done >= _SWEEPS or overflows >= _OVERFLOWS[-1]:
            weight, y = _factorise(graph, reward, value)
            break
    return value + np.log(y), kernels.transition_probabilities(*edges, weight, y)


def _scaled_weights(graph: DestinationGraph, reward: Array, value: Array) -> Array:
    """(m,): exp(r_e + value_v - value_u), the edges' weights for y."""
    with np.errstate(over="ignore"):
        return np.exp(kernels.scaled_rewards(graph.start, graph.head, reward, value))


def _check_growth(graph: DestinationGraph, reward: Array, value: Array) -> None:
    """Two more sweeps, in place, and whether they prove that there is no end.

    Sweeps from below rise by delta, and delta <- G delta with some G >= 0 of which the radius is at least 1 if and only if
    that of the graph is (Stein and Rosenberg). If delta grows on all of its support, that radius is at least 1 (Collatz
    and Wielandt).

    :raises Diverging: they do
    """
    before = value.copy()
    kernels.log_sweep(graph.start, graph.head, reward, value)
    middle = value.copy()
    kernels.log_sweep(graph.start, graph.head, reward, value)
    with np.errstate(over="ignore"):
        first, second = -np.expm1(before - middle), np.expm1(value - middle)  # (n,) relative to the middle one
    support = first > _GROWTH
    if not np.isfinite(value).all() or (support.any() and (second - first > 2 * _GROWTH * (1 + second))[support].all()):
        raise Diverging(value)


def _factorise(graph: DestinationGraph, reward: Array, value: Array) -> tuple[Array, Array]:
    """Weights (m,) and y (n,) by factorisations, where sweeps are slow: near the border, and along very long ways.

    A positive solution of y = W y, y_destination = 1 exists if and only if the sweeps converge. Where ``value`` is too far
    from log z for y to be a float, a step of Newton's method on value = log sum exp(r + value) brings it closer: from below,
    it rises to log z (it is soft policy iteration).

    :param value: (n,) becomes the values that ``weight`` is relative to
    :raises Diverging: there is no positive solution
    """
    tails = graph.tails
    into_destination = graph.head == 0
    for _ in range(_NEWTON_STEPS):
        weight, y = _scaled_weights(graph, reward, value), np.ones(graph.n_nodes)
        right = add_up(tails[into_destination], weight[into_destination], graph.n_nodes)
        try:
            with np.errstate(all="ignore"):
                y[1:] = _solve(graph, weight, right[1:])
            if np.isfinite(y).all():
                break
            sums = np.concatenate([[1.0], add_up(tails, weight, graph.n_nodes)[1:]])
            value[1:] += _solve(graph, weight / sums[tails], np.log(sums[1:]))
        except RuntimeError:  # singular
            raise Diverging(value) from None
        if not np.isfinite(value).all():
            break
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise Diverging(value)
    return weight, y


def _solve(graph: DestinationGraph, weight: Array, right: Array, transposed: bool = False) -> Array:
    """x of (I - W) x = right, over all nodes but the destination.

    :param weight: (m,)
    :param right: (n - 1,) or (n - 1, K)
    :raises RuntimeError: the matrix is singular
    """
    n = graph.n_nodes
    matrix = csr_array((weight, graph.head, graph.start), shape=(n, n))[1:, 1:]
    options = {"SymmetricMode": True}  # the diagonal is dominant enough: no pivoting, less fill
    factors = splu(csc_array(eye_array(n - 1) - matrix), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    return np.asarray(factors.solve(right, trans="T" if transposed else "N"))
