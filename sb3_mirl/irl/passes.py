"""Algorithm 1 of Ziebart et al. (2008) for one destination: the backward pass, the forward pass, and the second moments.

A path's probability is P(path | o, d) = exp(sum r_e) / z_o (Eq. 2) over all paths from o that end at their first arrival at d.
What the paper prints as N sweeps is solved to its fixed point here, with the destination's z kept at 1:

    backward   z_d = 1,  z_u = sum_{e: u->v} exp(r_e) z_v                  (steps 1 and 2)
    policy     P(e|u) = exp(r_e) z_v / z_u                                 (step 3, Eq. 5)
    forward    D = s + P^T D,  x_e = D_u P(e|u)                            (steps 4 to 6)
    moments    g_u = sum_e P(e|u) (f_e + g_v),  Cov f = sum_e x_e h_e h_e^T,  h_e = f_e + g_v - g_u

D are expected visits, s the origins' counts, x the expected traversals; the last line is the law of total variance along the
path, and gives the Hessian of the likelihood.

The linear systems are solved by Gauss-Seidel sweeps in scaled numbers, z_u = exp(value_u) y_u, where ``value`` begins as the
reward of the best path and takes up y when that grows large. Where sweeps are slow, a factorisation; where there is no
solution, ``Diverging``.
"""

from typing import Any

import numpy as np
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import splu

from sb3_mirl.irl import kernels
from sb3_mirl.irl.destination_graphs import DestinationGraph
from sb3_mirl.irl.network import Array, add_up

_SWEEPS = 512  # where sweeps have not settled by then a factorisation decides,
_CHECKS = (64, 128, 256, _SWEEPS)  # after so many sweeps it is looked for growth that cannot end
_OVERFLOWS = (3, 6, 9)  # or if y overflows so often; before that growth is looked for too
_NEWTON_STEPS = 50
_TOLERANCE = 1e-12
_GROWTH = 1e-9  # relative changes below this are taken for rounding when growth is looked for


class Diverging(Exception):
    """The partition function is infinite; ``value`` (n,) is what the sweeps had reached. ``divergence.explain`` says why."""

    def __init__(self, value: Array) -> None:
        super().__init__("the partition function is infinite")
        self.value = value


class Passes:
    """The backward pass of one destination at given rewards, and what follows from it.

    :param graph: the destination's graph
    :param rewards: (E,) r_e
    :raises Diverging: the partition function is infinite

    ``log_z`` (n,) and ``probability`` (m,), P(e|u).
    """

    def __init__(self, graph: DestinationGraph, rewards: Array) -> None:
        self.graph = graph
        self.log_z, self.probability = backward(graph, rewards[graph.edge])

    def log_partition(self, states: Any, travelled: Any = 0) -> Array:
        """log z of ``states`` after ``travelled`` edges; -inf where they do not lead to the destination."""
        nodes = self.graph.nodes(states, travelled)
        return np.where(nodes >= 0, self.log_z[nodes], -np.inf)

    def edge_flows(self, mass: Array, neglect: float = 0.0) -> Array:
        """(m,): the expected traversals of the graph's edges.

        :param mass: (n,) s, how many paths begin at each node
        :param neglect: the share of the paths that need not be followed to the end
        """
        visits = forward(self.graph, self.probability, mass, neglect)
        return np.asarray(self.graph.at_tails(visits) * self.probability)

    def feature_covariance(self, features: Array, mass: Array) -> Array:
        """(K, K): the sum of the covariance matrices of the paths' feature counts.

        :param features: (E, K), C-contiguous
        :param mass: (n,) how many paths begin at each node
        """
        graph, gram = self.graph, np.zeros((features.shape[1], features.shape[1]))
        g = expected_features(
            graph, self.probability, kernels.own_features(graph.start, graph.edge, features, self.probability)
        )
        kernels.add_gram(graph.start, graph.head, graph.edge, features, self.edge_flows(mass), g, gram)
        return np.tril(gram) + np.tril(gram, -1).T


def backward(graph: DestinationGraph, reward: Array) -> tuple[Array, Array]:
    """The backward pass: log z (n,) and P (m,).

    :param reward: (m,) finite
    :raises Diverging: the partition function is infinite
    """
    edges, n = (graph.start, graph.head), graph.n_nodes
    value, choice = np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
    value[0] = 0.0
    while not np.isfinite(value).all():  # from below: single paths, of which z is the sum
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


def forward(graph: DestinationGraph, probability: Array, mass: Array, neglect: float = 0.0) -> Array:
    """D (n,) of D = s + P^T D.

    :param probability: (m,) P
    :param mass: (n,) s; the destination's own is not counted
    :param neglect: the share of the mass that need not be followed to the end
    """
    waiting, visits = mass.copy(), np.zeros(graph.n_nodes)
    waiting[0] = 0
    total = np.abs(waiting).sum()
    least = neglect * total / graph.n_nodes
    if not kernels.push(graph.start, graph.head, probability, waiting, visits, _SWEEPS, _TOLERANCE * total, least):
        visits[1:] += solve(graph, probability, waiting[1:], transposed=True)
    return visits


def expected_features(graph: DestinationGraph, probability: Array, own: Array) -> Array:
    """g (n, K) of g = own + P g: what is expected on the way to the destination.

    :param probability: (m,) P
    :param own: (n, K) what is expected on the next edge
    """
    g = np.zeros_like(own)
    if not kernels.expected_features(graph.start, graph.head, probability, own, g, _SWEEPS, _TOLERANCE):
        g[1:] = solve(graph, probability, own[1:])
    return g


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
                y[1:] = solve(graph, weight, right[1:])
            if np.isfinite(y).all():
                break
            sums = np.concatenate([[1.0], add_up(tails, weight, graph.n_nodes)[1:]])
            value[1:] += solve(graph, weight / sums[tails], np.log(sums[1:]))
        except RuntimeError:  # singular
            raise Diverging(value) from None
        if not np.isfinite(value).all():
            break
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise Diverging(value)
    return weight, y


def solve(graph: DestinationGraph, weight: Array, right: Array, transposed: bool = False) -> Array:
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
