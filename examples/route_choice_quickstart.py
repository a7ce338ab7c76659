"""From a street graph and trips to the drivers' tastes, and to where a driver is going.

    python examples/route_choice_quickstart.py                # a small town made by networkx
    python examples/route_choice_quickstart.py town.graphml   # a graph saved by osmnx.save_graphml

Trips are node lists, as map matching gives them; here they are drawn from known weights.
"""

import math
import random
import sys

import networkx as nx
import numpy as np

from sb3_mirl.irl import MaxEntRouteChoice, RoadNetwork


def town() -> nx.DiGraph:
    """A grid of streets of three kinds, in metres, a little crooked so that there are all kinds of turns."""
    graph = nx.grid_2d_graph(10, 10).to_directed()
    generator = random.Random(0)
    for column, row in graph.nodes:
        graph.nodes[column, row].update(x=100 * column + generator.gauss(0, 22), y=100 * row + generator.gauss(0, 22))
    for (a, b), (c, d), street in graph.edges(data=True):
        street["length"] = math.dist(*((graph.nodes[node]["x"], graph.nodes[node]["y"]) for node in ((a, b), (c, d))))
        street["highway"] = "primary" if a == c == 5 else "tertiary" if b == d and b % 3 == 1 else "residential"
    return graph


def main() -> None:
    graph = nx.read_graphml(sys.argv[1]) if len(sys.argv) > 1 else town()
    graph = graph.subgraph(max(nx.strongly_connected_components(graph), key=len))
    network = RoadNetwork.from_networkx(graph, features={"highway": "category"})
    print(network)

    # trips: yours would be network.encode(nodes) for each list of nodes
    per_feature = {"straight": -0.3, "left": -1.0, "right": -0.6, "hard left": -1.5, "hard right": -1.2, "U-turn": -4.0}
    tastes = [per_feature.get(name, -0.006 if "primary" in name else -0.01) for name in network.feature_names]
    drivers, generator = MaxEntRouteChoice.from_weights(network, tastes), np.random.default_rng(0)
    destinations = [int(state) for state in generator.choice(network.n_states, min(20, network.n_states // 2), replace=False)]
    trips = [
        drivers.sample(int(generator.integers(network.n_states)), d, 1, seed=i)[0] for i, d in enumerate(25 * destinations)
    ]
    nodes = [[network.label(int(state))[0] for state in trip] + [network.label(int(trip[-1]))[1]] for trip in trips]

    paths = [path for path in map(network.encode, nodes) if len(path) > 1 and path[-1] not in path[:-1]]
    model = MaxEntRouteChoice(network).fit(paths)
    print(model.summary())

    seen = max(trips, key=len)[:4]
    print("seen so far:", network.decode(seen))
    for destination, p in zip(destinations[:5], model.destination_probabilities(seen, destinations[:5]), strict=True):
        print(f"to {network.label(destination)}: {p:.3f}")


if __name__ == "__main__":
    main()
