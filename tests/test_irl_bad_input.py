"""What does not fit is refused with the item, the value and the way out."""

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
from gymnasium import spaces

from sb3_mirl.irl import (
    ActionBased,
    MaxEntIRL,
    MaxEntRouteChoice,
    MaxMargin,
    PartitionDiverges,
    RoadNetwork,
    ShortestPath,
    collect_trajectories,
    destination_accuracy,
    features_from_env,
    path_overlap,
)
from sb3_mirl.tabular import TabularMDP
from tests.conftest import ScriptedEnv
from tests.irl_oracles import grid, identity_network


def network(**arguments):
    return grid(3, **arguments)


def model(**arguments):
    return MaxEntRouteChoice.from_weights(network(), [-2.0, -1.0], **arguments)


def refused(message):
    return pytest.raises(ValueError, match=message)


EDGES = {"tail": [0, 1, 2], "head": [1, 2, 0], "features": np.ones((3, 1))}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tail": [0, 1]}, "got 2 and 3"),
        ({"tail": [], "head": [], "features": np.ones((0, 1))}, "got 0 and 0"),
        ({"tail": [0.5, 1, 2]}, "tail must be a list of state numbers"),
        ({"tail": [0, -1, 2]}, r"edge 1 \(-1 -> 2\) leaves the network"),
        ({"n_states": 2}, r"edge 1 \(1 -> 2\) leaves the network, whose states are 0..1"),
        ({"head": [1, 1, 1], "tail": [0, 2, 0]}, "edges 0 and 2 both lead from 0 to 1.*segments the states"),
        ({"features": np.ones(3)}, r"shape \(edges, features\)"),
        ({"features": np.ones((2, 1))}, r"\(3, K\), got \(2, 1\)"),
        ({"features": [[1], [np.nan], [1]]}, r"feature 'feature_0' of edge 1 \(1 -> 2\) is nan"),
        ({"features": [[1, 0], [1, 0], [1, np.inf]], "feature_names": ["a", "b"]}, r"feature 'b' of edge 2 \(2 -> 0\) is inf"),
        ({"feature_names": ["a", "a"]}, "feature_names must hold 1 different ones, got 2, 1 of them different"),
        ({"length": [1, 0, 1]}, r"length must be positive and finite, got 0.0 on edge 1 \(1 -> 2\)"),
        ({"length": [1, 1]}, r"length must have the shape \(3,\)"),
        ({"segment_length": [1, 1, np.nan]}, "segment_length must be positive and finite, got nan on state 2"),
        ({"coordinates": np.zeros((2, 2))}, "coordinates must have the shape"),
        ({"labels": ["a", "b", "a"]}, "labels must hold 3 different ones"),
    ],
)
def test_networks(change, message):
    with refused(message):
        RoadNetwork(**{**EDGES, **change})


def test_sparse_features_are_checked_too():
    from scipy.sparse import csr_array

    with refused(r"feature 'feature_1' of edge 2 \(2 -> 0\) is nan"):
        RoadNetwork([0, 1, 2], [1, 2, 0], csr_array([[1.0, 0], [1, 0], [0, np.nan]]))


def street_graph(**attributes):
    graph = nx.MultiDiGraph()
    for node, (x, y) in enumerate(((0, 0), (1, 0), (1, 1))):
        graph.add_node(node, x=x, y=y)
    for u, v in ((0, 1), (1, 2), (2, 0)):
        graph.add_edge(u, v, **{"length": 1.0, "road": "a", **attributes})
    return graph


def test_street_graphs():
    graph = street_graph()
    del graph.edges[1, 2, 0]["road"]
    with refused(r"street \(1, 2, 0\) has no 'road'.*missing is not 0: fill it in.*it has length"):
        RoadNetwork.from_networkx(graph, ["road"])
    with refused("street .* has no 'road' .it is nan"):
        RoadNetwork.from_networkx(street_graph(road=float("nan")), ["road"])
    with refused("'road' of street .* must be a finite number, got '50 mph'"):
        RoadNetwork.from_networkx(street_graph(road="50 mph"), {"road": "number"})
    with refused("must be positive, got 0.0"):
        RoadNetwork.from_networkx(street_graph(length=0), ["road"])
    with refused("must be positive, got -2"):
        RoadNetwork.from_networkx(street_graph(length="-2"), ["road"])
    with refused("has no 'length'"):
        RoadNetwork.from_networkx(street_graph(length=None), ["road"])
    with refused("'number' or 'category', got 'text'"):
        RoadNetwork.from_networkx(street_graph(), {"road": "text"})
    with refused(r"write \['road'\]"):
        RoadNetwork.from_networkx(street_graph(), "road")
    graph = street_graph()
    del graph.nodes[1]["y"]
    with refused("node 1 needs a finite coordinate 'y', got None.*turns=False"):
        RoadNetwork.from_networkx(graph, ["road"])
    graph = street_graph()
    graph.add_edge(0, 1, length=2.0, road="b")
    with refused("both lead from 0 to 1.*segments the states"):
        RoadNetwork.from_networkx(graph, ["road"], turns=False)
    with refused("features is empty"):
        RoadNetwork.from_networkx(street_graph(), [], turns=False)
    with refused("a networkx graph is needed, got dict"):
        RoadNetwork.from_networkx({}, ["road"])
    with refused("the graph has no edges"):
        RoadNetwork.from_networkx(nx.DiGraph(), ["road"])
    lonely = nx.DiGraph()
    lonely.add_nodes_from([(0, {"x": 0, "y": 0}), (1, {"x": 1, "y": 0})])
    lonely.add_edge(0, 1, length=1)
    with refused("no street of the graph leads on"):
        RoadNetwork.from_networkx(lonely, ["length"])


@pytest.mark.parametrize(
    "paths, message",
    [
        ([], "the list is empty"),
        (5, "a list is needed, got 5"),
        ([[0, 1], [0]], "path 1 has 1 state"),
        ([[0, 1], [0, 1, 5, 8]], "path 1 has no edge for its step 1, from state 1 to state 5: close the gap"),
        ([[0, 1, 0, 3, 0]], "path 0 is at its destination state 0 at step 0 already, before its end: split it"),
        ([[0, 1, 2, 1, 4, 1]], "path 0 is at its destination state 1 at step 1 already"),
        ([[0, 1, 9]], "path 0 has state 9 at step 2: the network's states are 0..8"),
        ([[0, -1]], "path 0 has state -1 at step 1"),
        ([[0, 1], ["a", "b"]], r"path 1 must be a sequence of state numbers.*network.encode\(path\)"),
        ([[0.0, 1.0]], "path 0 must be a sequence of state numbers"),
        ([[[0, 1]]], "path 0 must be a sequence of state numbers"),
    ],
)
def test_paths(paths, message):
    for use in (
        MaxEntRouteChoice(network()).fit,
        model().log_probability,
        MaxMargin(network()).fit,
        ActionBased(network()).fit,
    ):
        with refused(message):
            use(paths)


def test_labels_help_to_name_states():
    labelled = grid(3, labels=list("abcdefghi"))
    with refused(r"from state 1 \('b'\) to state 5 \('f'\)"):
        MaxEntRouteChoice(labelled).fit([[1, 5]])


@pytest.mark.parametrize(
    "weights, message",
    [
        ([1.0], r"one number per path, \(2,\), got \(1,\)"),
        ([1.0, -1.0], "got -1.0 for path 1"),
        ([1.0, np.nan], "got nan for path 1"),
        ([0, 0], "0 for every path"),
    ],
)
def test_sample_weights(weights, message):
    with refused(message):
        MaxEntRouteChoice(network()).fit([[0, 1], [1, 2]], sample_weight=weights)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"l1": -1}, "l1=-1"),
        ({"l2": np.inf}, "l2=inf"),
        ({"optimizer": "adam"}, "optimizer='adam' is not known"),
        ({"max_detour": -0.1}, "max_detour=-0.1"),
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 2.5}, "horizon=2.5"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"initial_weights": [-1.0]}, "initial_weights must hold a finite number for each of the 2 features"),
        ({"reference": [0.5]}, "reference must hold one probability per edge"),
        ({"reference": np.full(24, 0.5)}, "the edges that leave state 1 sum to 1.5, not to 1"),
        ({"reference": np.full(24, -0.5)}, r"reference must hold probabilities, got -0.5 for edge 0 \(0 -> 1\)"),
        ({"horizon": 1}, "path 0 has 2 edges, more than horizon=1"),
        ({"max_detour": 0.0}, "path 0 leaves what max_detour=0.0 allows at step 1, at state 3"),
        ({"network": "Sioux Falls"}, "network must be a RoadNetwork, got str"),
    ],
)
def test_parameters(change, message):
    paths = [[0, 1, 2]] if "max_detour" not in change else [[4, 3, 6, 7, 8, 5]]
    with refused(message):
        MaxEntRouteChoice(**{"network": network(), **change}).fit(paths)


def test_weights_of_the_wrong_shape():
    for weights in ([-1.0], [-1.0, np.nan], [[-1.0, -1.0]]):
        with refused("weights must hold a finite number for each of the 2 features"):
            MaxEntRouteChoice.from_weights(network(), weights)
        with refused("weights must hold a finite number"):
            ActionBased.from_weights(network(), weights)


def test_weights_beyond_the_range_of_floats():
    big = RoadNetwork([0, 1], [1, 2], [[1e200], [1.0]])
    with refused(r"the weights give edge 0 \(0 -> 1\) a reward of -inf: they are too large"):
        MaxEntRouteChoice.from_weights(big, [-1e200])


def test_a_path_that_the_reference_never_takes():
    uniform = 1 / np.bincount(network().tail)[network().tail]
    closed = uniform.copy()
    out = np.flatnonzero(network().tail == 0)
    closed[out] = [1, 0]
    towards = int(network().head[out[1]])
    with refused(f"step 0 of path 1, edge {out[1]} .* has probability 0 in the reference"):
        MaxEntRouteChoice(network(), reference=closed).fit([[1, 2], [0, towards]])


def test_an_edge_without_any_feature():
    features = np.array([[1.0, 0], [0, 0], [0, 1]])
    with refused(r"edge 1 \(1 -> 2\) has only zeros.*constant feature.*initial_weights"):
        MaxEntRouteChoice(RoadNetwork([0, 1, 2], [1, 2, 0], features)).fit([[0, 1, 2]])
    MaxEntRouteChoice(RoadNetwork([0, 1, 2], [1, 2, 0], features), initial_weights=[-1, -1], l2=1).fit([[0, 1, 2]])


def test_destinations_out_of_reach():
    island = identity_network([(0, 1), (1, 0), (2, 0)], n_states=4)
    choice = MaxEntRouteChoice.from_weights(island, [-1.0] * 3)
    for ask in (
        choice.predict,
        choice.edge_flows,
        lambda o, d: choice.sample(o, d, 1),
        lambda o, d: choice.visit_probability(o, d, 0),
    ):
        with refused("destination state 2 is out of reach of origin state 0"):
            ask(0, 2)
    with refused("within 3 edges"):
        model(horizon=3).predict(0, 8)
    for baseline in (ShortestPath(island, 0).fit(), ActionBased.from_weights(island, [-1.0] * 3)):
        with refused("destination state 3 is out of reach of origin state 1"):
            baseline.predict(1, 3)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda m: m.predict(0, 9), r"destination must be a state of the network, 0..8, got 9"),
        (lambda m: m.predict("a", 1), "origin must be a state of the network, 0..8, got 'a'"),
        (lambda m: m.log_partition(-1), "destination must be a state"),
        (lambda m: m.action_probabilities(1.5), "destination must be a state"),
        (lambda m: m.visit_probability(0, 8, 77), "state must be a state of the network, 0..8, got 77"),
        (lambda m: m.sample(0, 8, 0), "n=0"),
        (lambda m: m.destination_probabilities([], [8]), "the partial path is empty"),
        (lambda m: m.destination_probabilities([0, 4], [8]), "the partial path has no edge for its step 0"),
        (lambda m: m.destination_probabilities([0, 1], []), "the list is empty"),
        (lambda m: m.destination_probabilities([0, 1], [8, 8]), "destinations must be different states"),
        (lambda m: m.destination_probabilities([0, 1], [8, 9]), "each of destinations must be a state"),
        (lambda m: m.destination_probabilities([0, 1], [8, 7], [0.5, 0.6]), "prior must hold 2 probabilities that sum to 1"),
        (lambda m: m.destination_probabilities([0, 1], [8, 7], [1.0]), "prior must hold 2 probabilities"),
        (lambda m: m.destination_probabilities([0, 1], [8, 7], [-1.0, 2.0]), "prior must hold 2 probabilities"),
        (
            lambda m: m.destination_probabilities([0, 1, 2], [0, 1]),
            r"no destination of \[0, 1\] is possible along the partial",
        ),
        (lambda m: m.remaining_flows([0, 1, 2], [1]), "no destination"),
        (lambda m: m.destination_probabilities([0, 1, 2], [1, 8], [1.0, 0.0]), "no destination"),
        (lambda m: m.summary("fuel"), "there is no feature 'fuel', choose from feature_0, feature_1"),
        (lambda m: m.summary(7), "there is no feature 7"),
    ],
)
def test_questions(ask, message):
    with refused(message):
        ask(model())


def test_what_is_not_fitted():
    for ask in (
        lambda m: m.predict(0, 1),
        lambda m: m.summary(),
        lambda m: m.save("x"),
        lambda m: m.log_probability([[0, 1]]),
    ):
        with refused("this MaxEntRouteChoice is not fitted: call fit"):
            ask(MaxEntRouteChoice(network()))
    for baseline in (MaxMargin(network()), ActionBased(network())):
        with refused("not fitted"):
            baseline.predict(0, 1)
    with refused("the weight of 'feature_1' is 0"):
        MaxEntRouteChoice.from_weights(network(), [-2.0, 0.0]).summary("feature_1")


def test_the_partition_function_is_infinite():
    cyclic = identity_network([(0, 1), (1, 2), (2, 0), (2, 3), (3, 3), (3, 4)])
    with pytest.raises(PartitionDiverges) as caught:
        MaxEntRouteChoice.from_weights(cyclic, [0.1, 0.2, -0.1, -1.0, -1.0, -1.0]).log_partition(4)
    assert isinstance(caught.value, ValueError) and caught.value.is_cycle
    assert sorted(caught.value.states) == [0, 1, 2] and "sum to 0.2, and must be negative" in str(caught.value)
    assert "horizon" in str(caught.value) and "destination state 4" in str(caught.value)
    with pytest.raises(PartitionDiverges, match="cycle 3 -> 3 sum to 0") as caught:
        MaxEntRouteChoice.from_weights(cyclic, [-1.0] * 4 + [0.0, -1.0]).log_partition(4)
    assert caught.value.states == [3]
    # no cycle is rewarded: there are too many of them
    with pytest.raises(PartitionDiverges, match="among the 8 states .* paths grow in number faster") as caught:
        MaxEntRouteChoice.from_weights(network(), [-0.3, 0.0]).log_partition(4)
    assert not caught.value.is_cycle and sorted(caught.value.states) == [0, 1, 2, 3, 5, 6, 7, 8]
    with pytest.raises(PartitionDiverges):
        MaxEntRouteChoice(network(), initial_weights=[-0.3, 0.0]).fit([[0, 1, 2]])
    with pytest.raises(PartitionDiverges):
        MaxEntRouteChoice.from_weights(network(), [-0.3, 0.0]).score([[0, 1, 2]])
    # which cannot happen within a horizon
    assert np.isfinite(MaxEntRouteChoice.from_weights(network(), [-0.3, 0.0], horizon=20).log_partition(4)).all()


def test_baselines():
    with refused("there is no feature 'time'"):
        ShortestPath(network(), "time").fit()
    with refused(r"costs must be finite and not negative, got -1.0 on edge 0 \(0 -> 1\)"):
        ShortestPath(network(), -np.ones(24)).fit()
    with refused(r"costs must have the shape \(24,\)"):
        ShortestPath(network(), np.ones(3)).fit()
    with refused("epochs=0"):
        MaxMargin(network(), epochs=0).fit([[0, 1]])
    with refused("path='shortest' is not known"):
        ActionBased.from_weights(network(), [-1.0, -1.0]).predict(0, 1, path="shortest")
    with refused("the rewards along a cycle sum to more than 0"):
        ActionBased.from_weights(network(), [1.0, 1.0]).log_probability([[0, 1]])
    with refused("without an edge it has no length"):
        path_overlap(network(), [0], [0])
    with refused("path 1 ends at state 2, which is not one of the destinations"):
        destination_accuracy(model(), [[0, 1], [1, 2]], [1])


def mdp(**change):
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[0, 1, 2] = transition[1, :, 2] = 1
    arguments = {"transition": transition, "reward": np.zeros((3, 2)), "initial": [1.0, 0, 0], "discount": 0.9}
    return TabularMDP(**{**arguments, **change})


@pytest.mark.parametrize(
    "trajectories, message",
    [
        ([], "the list of trajectories is empty"),
        (3, "trajectories must be a list"),
        ([([0, 1], [0, 0]), ([0], [])], "trajectory 1 has 1 states and 0 actions"),
        ([([0, 1, 2, 2], [0, 0])], "as many states or one more"),
        ([([0, 3], [0, 0])], "trajectory 0 has state 3 at step 1: the MDP's are 0..2"),
        ([([0, 1], [0, 2])], "trajectory 0 has action 2 at step 1"),
        ([([0.5], [0])], "the states of trajectory 0 must be a sequence of integers"),
        ([(1, 2, 3)], r"trajectory 0 must be \(states, actions\)"),
        ([([1], [0])], "trajectory 0 begins in state 1, whose initial probability is 0"),
        ([([0, 2], [0, 0])], "from state 0 by action 0 to state 2 at step 0: that has probability 0"),
        ([([0, 1, 2, 0], [0, 0, 0])], "from state 2 by action 0 to state 0 at step 2"),
    ],
)
def test_trajectories(trajectories, message):
    with refused(message):
        MaxEntIRL(mdp(), np.eye(3)).fit(trajectories)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mdp": "FrozenLake"}, "mdp must be a TabularMDP, got str"),
        ({"features": np.ones((2, 1))}, r"shape \(3, 2, K\) or \(3, K\), got \(2, 1\)"),
        ({"features": np.full((3, 2, 1), np.nan)}, "got nan for feature 0 at state 0, action 0"),
        ({"beta": 0}, "beta=0"),
        ({"prior": [0.5, 0.6]}, "prior must hold 2 probabilities"),
        ({"prior": [0.0, 1.0]}, "takes action 0 at step 0, whose prior is 0"),
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 1}, "trajectory 0 has 2 actions, more than horizon=1"),
        ({"discount": 1.0}, "discount=1.0"),
        ({"l2": -1}, "l2=-1"),
        ({"dynamics": "maxent"}, "dynamics='maxent' is not known"),
        ({"feature_names": ["a"]}, "feature_names must hold 3 names, got 1"),
    ],
)
def test_mdp_parameters(change, message):
    with refused(message):
        MaxEntIRL(**{"mdp": mdp(), "features": np.eye(3), **change}).fit([([0, 1], [0, 0])])


def test_weights_of_an_mdp():
    with refused("weights must hold a finite number for each of the 3 features"):
        MaxEntIRL.from_weights(mdp(), np.eye(3), [1.0])


@pytest.mark.parametrize(
    "occupancy, message",
    [
        (np.ones((3, 3)), r"occupancy must hold numbers that are not negative, \(3, 2\)"),
        (-np.ones((3, 2)), "not negative"),
        (np.zeros((3, 2)), "not all 0"),
        (np.full((3, 2), np.nan), "not negative"),
        (np.ones((3, 2)), r"occupancy does not fit the MDP: at state .* use fit\(trajectories\)"),
    ],
)
def test_occupancies(occupancy, message):
    with refused(message):
        MaxEntIRL(mdp(), np.eye(3)).fit_occupancy(occupancy)


class Boxed(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)


def test_environments():
    policy = np.full((3, 2), 0.5)
    with refused("observations must be Discrete, got Box"):
        collect_trajectories(policy, Boxed(), 1)
    with refused("observations must be Discrete"):
        collect_trajectories(policy, ScriptedEnv(), 1)
    lake = gym.make("FrozenLake-v1")
    with refused("n_episodes=0"):
        collect_trajectories(np.full((16, 4), 0.25), lake, 0)
    with refused("predict or be a policy"):
        collect_trajectories(np.ones((16, 4)), lake, 1)
    with refused(r"state_features must have the shape \(16, K\), got \(4, 1\)"):
        features_from_env(lake, np.ones((4, 1)))
    with refused("transition table"):
        features_from_env(gym.make("CartPole-v1"), np.ones((4, 1)))
