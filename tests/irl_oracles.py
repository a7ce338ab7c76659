"""What the route model's tests compare with: paths counted one by one, and dense linear algebra."""

import itertools
from typing import NamedTuple

import numpy as np

from sb3_mirl.irl import RoadNetwork


class Problem(NamedTuple):
    """A small network with a reward of its own on every edge: the features are the edges, the weights their rewards (E,)."""

    network: RoadNetwork
    rewards: np.ndarray


def identity_network(edges: list[tuple[int, int]], n_states: int | None = None, **arguments) -> RoadNetwork:
    """One feature per edge."""
    tail, head = zip(*edges, strict=True)
    return RoadNetwork(tail, head, np.eye(len(edges)), n_states=n_states, **arguments)


def random_dag(seed: int, n_states: int = 7) -> Problem:
    """Edges from lower to higher states, all of which lead to the last one; rewards of either sign."""
    generator = np.random.default_rng(seed)
    edges = [(i, i + 1) for i in range(n_states - 1)]
    edges += [(i, j) for i in range(n_states) for j in range(i + 2, n_states) if generator.random() < 0.5]
    edges = [edges[i] for i in generator.permutation(len(edges))]
    return Problem(identity_network(edges), generator.normal(0, 1.5, len(edges)))


def random_cyclic(seed: int, n_states: int = 7, radius: float = 0.8, loops: bool = True) -> Problem:
    """A strongly connected graph whose weights exp(r) have the given spectral radius, with or without edges to oneself."""
    generator = np.random.default_rng(seed)
    edges = [(i, (i + 1) % n_states) for i in range(n_states)]
    for i in range(n_states):
        for j in range(n_states):
            if j != (i + 1) % n_states and (loops or i != j) and generator.random() < 0.35:
                edges.append((i, j))
    edges = [edges[i] for i in generator.permutation(len(edges))]
    network, rewards = identity_network(edges), generator.normal(0, 1.5, len(edges))
    largest = np.abs(np.linalg.eigvals(weight_matrix(network, rewards))).max()
    return Problem(network, rewards + np.log(radius / largest))


def weight_matrix(network: RoadNetwork, rewards: np.ndarray, destination: int | None = None) -> np.ndarray:
    """W (S, S), entries exp(r); without the edges that leave ``destination``."""
    matrix = np.zeros((network.n_states, network.n_states))
    matrix[network.tail, network.head] = np.exp(rewards)
    if destination is not None:
        matrix[destination] = 0
    return matrix


class Dense(NamedTuple):
    """By linear algebra: log z (S,), P (E,), and D (S, S), D[o] the expected visits from o (the destination's own aside)."""

    log_z: np.ndarray
    probability: np.ndarray
    visits: np.ndarray


def dense(network: RoadNetwork, rewards: np.ndarray, destination: int) -> Dense:
    """G = (I - W_d)^-1, z = G's column of the destination, D_ou = G_ou z_u / z_o."""
    inverse = np.linalg.inv(np.eye(network.n_states) - weight_matrix(network, rewards, destination))
    z = inverse[:, destination]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_z = np.log(z)
        probability = np.exp(rewards) * z[network.head] / z[network.tail]
        visits = inverse * z[None, :] / z[:, None]
    probability = np.where((network.tail == destination) | (z[network.tail] == 0), 0, probability)
    return Dense(log_z, probability, visits)


def all_paths(network: RoadNetwork, origin: int, destination: int, longest: int) -> list[list[int]]:
    """The state sequences of at most ``longest`` edges that end at their first arrival."""
    successors: dict[int, list[int]] = {state: [] for state in range(network.n_states)}
    for tail, head in zip(network.tail.tolist(), network.head.tolist(), strict=True):
        successors[tail].append(head)
    found, open_paths = [], [[origin]]
    while open_paths:
        path = open_paths.pop()
        if path[-1] == destination:
            found.append(path)
        elif len(path) <= longest:
            open_paths += [[*path, state] for state in successors[path[-1]]]
    return found


def path_rewards(network: RoadNetwork, rewards: np.ndarray, paths: list[list[int]]) -> np.ndarray:
    """(N,): the sum of rewards along each path."""
    index = {pair: i for i, pair in enumerate(zip(network.tail.tolist(), network.head.tolist(), strict=True))}
    return np.array([sum(rewards[index[step]] for step in itertools.pairwise(path)) for path in paths])


def edge_counts(network: RoadNetwork, path: list[int]) -> np.ndarray:
    """(E,): how often each edge is on a path."""
    counts = np.zeros(network.n_edges)
    np.add.at(counts, network.find_edges(path[:-1], path[1:]), 1)
    return counts


def grid(side: int, seed: int = 0, n_features: int = 1, **arguments) -> RoadNetwork:
    """A square of two-way streets, its states row by row: a constant feature, and random ones between 0 and 1."""
    generator, cells = np.random.default_rng(seed), np.arange(side * side).reshape(side, side)
    across, down = (np.stack(pair, -1).reshape(-1, 2) for pair in ((cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])))
    pairs = np.concatenate([across, down, across[:, ::-1], down[:, ::-1]])
    features = np.column_stack([np.ones(len(pairs)), generator.uniform(0, 1, (len(pairs), n_features))])
    return RoadNetwork(pairs[:, 0], pairs[:, 1], features, **arguments)


def trips(model, n: int, seed: int) -> list[np.ndarray]:
    """One sampled path for each of ``n`` drawn pairs of origin and destination."""
    generator, paths = np.random.default_rng(seed), []
    while len(paths) < n:
        origin, destination = (int(state) for state in generator.integers(model.network.n_states, size=2))
        if origin != destination:
            paths += model.sample(origin, destination, 1, seed=int(generator.integers(2**31)))
    return paths
