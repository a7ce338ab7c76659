"""Algorithm 1 of Ziebart et al. (2008) for one destination: the backward pass, the forward pass, and the second moments.

A path's probability is P(path | o, d) = exp(sum r_e) / z_o (Eq. 2) over all paths from o that end at their first arrival at d.
What the paper prints as N sweeps is solved to its fixed point here, with the destination's z kept at 1:

    backward   z_d = 1,  z_u = sum_{e: u->v} exp(r_e) z_v                  (steps 1 and 2)
    policy     P(e|u) = exp(r_e) z_v / z_u                                 (step 3, Eq. 5)
    forward    D = s + P^T D,  x_e = D_u P(e|u)                            (steps 4 to 6)
    moments    g_u = sum_e P(e|u) (f_e + g_v),  Cov f = sum_e x_e h_e h_e^T,  h_e = f_e + g_v - g_u

D are expected visits, s the origins' counts, x the expected traversals; the last line is the law of total variance along the
path, and gives the Hessian of the likelihood.
"""

from typing import Any

import numpy as np

from sb3_mirl.irl import kernels
from sb3_mirl.irl.destination_graphs import DestinationGraph
from sb3_mirl.irl.linear import Diverging, backward, expected_features, forward
from sb3_mirl.irl.network import Array


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
        self.log_z, self.probability = backward(graph, reward)

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
        g = expected_features(graph, self.probability, own)
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
