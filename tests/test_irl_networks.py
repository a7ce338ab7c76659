"""Networks from street graphs, labels, and models that come back as they were from files, pickles and clones."""

import pickle
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import csr_array

import sb3_mirl
from sb3_mirl.irl import (
    ActionBased,
    MaxEntRouteChoice,
    MaxMargin,
    RoadNetwork,
    ShortestPath,
    destination_accuracy,
    evaluate_routes,
    path_overlap,
)
from sb3_mirl.irl.graphs import TURNS
from tests.irl_oracles import grid, trips


def osmnx_like():
    """A MultiDiGraph as OSMnx makes them: parallel edges, lists, strings, degrees; a cross of streets and a way around."""
    graph = nx.MultiDiGraph(crs="epsg:4326")
    places = {10: (0, 0), 11: (0, 1), 12: (1, 0), 13: (0, -1), 14: (-1, 0), 15: (2.5, 1)}
    for node, (x, y) in places.items():
        graph.add_node(node, x=7 + x / 100 / np.cos(np.radians(50)), y=50 + y / 100)
    for node in (11, 12, 13, 14):
        for u, v in ((10, node), (node, 10)):
            graph.add_edge(u, v, highway="residential", length=100.0, lanes="2", maxspeed="50 mph", osmid=1)
    graph.add_edge(12, 15, highway=["primary", "residential"], length=90.0, lanes=["2", "3"], maxspeed="50 mph", osmid=[2, 3])
    graph.add_edge(15, 12, highway="primary", length=90.0, lanes="2", maxspeed="30 mph", osmid=4)
    graph.add_edge(12, 15, highway="primary", length=80.0, lanes="2", maxspeed="30 mph", osmid=5)  # parallel and shorter
    graph.add_edge(15, 11, highway="primary", length=130.0, lanes="2", maxspeed="30 mph", osmid=6)
    return graph


def row(network, before, after):
    """The features of one transition, by name."""
    states = network.encode([before, after])
    edge = int(network.find_edges(states[:1], states[1:])[0])
    assert edge >= 0
    values = network.features.toarray()[edge]
    return {name: value for name, value in zip(network.feature_names, values, strict=True) if value != 0}


def test_an_osmnx_graph_becomes_segments_with_turns():
    network = RoadNetwork.from_networkx(osmnx_like(), ["highway", "lanes", "length"])
    assert network.n_states == 12
    expected = ["highway=primary", "highway=residential", "lanes=2", "lanes=3", "length", *TURNS]
    assert list(network.feature_names) == expected
    coming_from_the_south = (13, 10, 0)
    assert row(network, coming_from_the_south, (10, 11, 0)) == {
        "highway=residential": 100,
        "lanes=2": 100,
        "length": 100,
        "straight": 1,
    }
    assert "left" in row(network, coming_from_the_south, (10, 14, 0)) and "right" in row(
        network, coming_from_the_south, (10, 12, 0)
    )
    assert "U-turn" in row(network, coming_from_the_south, (10, 13, 0))
    # a list shares the length out
    merged = row(network, (10, 12, 0), (12, 15, 0))
    assert merged["highway=primary"] == merged["highway=residential"] == 45 and merged["lanes=2"] == merged["lanes=3"] == 45
    assert "left" in merged
    assert "hard left" in row(network, (12, 15, 1), (15, 11, 0))  # from north-east to west
    assert "left" in row(network, (15, 11, 0), (11, 10, 0))  # from west to south
    lengths = dict(zip(network.labels, network.segment_length, strict=True))
    assert lengths[12, 15, 1] == 80 and network.coordinates.shape == (12, 2, 2)
    edge = network.find_edges(*network.encode([(10, 12, 0), (12, 15, 1)])[:, None])[0]
    assert network.length[edge] == 80  # of the street entered


def test_paths_are_encoded_from_nodes_and_from_segments_and_decoded():
    network = RoadNetwork.from_networkx(osmnx_like(), ["length"])
    by_nodes = network.encode([13, 10, 12, 15, 11])
    assert network.decode(by_nodes) == [(13, 10, 0), (10, 12, 0), (12, 15, 1), (15, 11, 0)]  # the shorter of the parallel ones
    assert network.encode(network.decode(by_nodes)).tolist() == by_nodes.tolist()
    assert network.encode([(12, 15, 0), (15, 11, 0)]).tolist() != by_nodes[2:].tolist()
    with pytest.raises(ValueError, match="no street leads from 13 to 12, step 0"):
        network.encode([13, 12, 15])
    with pytest.raises(ValueError, match="step 1 of the path is 'x'"):
        network.encode([(13, 10, 0), "x"])
    model = MaxEntRouteChoice.from_weights(network, [-0.02, *[-0.5] * 5, -5])
    assert len(network.decode(model.predict(*by_nodes[[0, -1]]))) >= 3


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])
def test_all_kinds_of_graphs_are_read(kind):
    graph = kind()
    for node, (x, y) in {"a": (0, 0), "b": (1, 0), "c": (1, 1), "d": (0, 1)}.items():
        graph.add_node(node, x=x, y=y)
    for u, v in ("ab", "bc", "cd", "da"):
        graph.add_edge(u, v, km=1.5, road="street")
    directed = graph.is_directed()
    segments = RoadNetwork.from_networkx(graph, ["km"], length="km")
    assert segments.n_states == (4 if directed else 8) and segments.n_edges == (4 if directed else 16)
    turns = segments.features.toarray()[:, -6:].sum(axis=0)
    assert turns[TURNS.index("left")] == 4 and turns[TURNS.index("U-turn")] == (0 if directed else 8)
    nodes = RoadNetwork.from_networkx(graph, {"km": "number", "road": "category"}, turns=False, length=None)
    assert nodes.n_states == 4 and nodes.n_edges == (4 if directed else 8) and nodes.labels == ("a", "b", "c", "d")
    assert nodes.features.toarray()[0].tolist() == [1.5, 1.0] and (nodes.length == 1).all()
    assert nodes.decode(nodes.encode("abc")) == ["a", "b", "c"]


def test_a_graphml_file_gives_the_same_network(tmp_path):
    graph = osmnx_like()
    text = graph.copy()
    for *_, data in text.edges(data=True):
        for name, value in data.items():
            data[name] = str(value)  # as OSMnx writes them, lists too
    nx.write_graphml(text, tmp_path / "town.graphml")
    back = nx.read_graphml(tmp_path / "town.graphml")
    features = {"highway": "category", "lanes": "category", "length": "number"}
    one, two = RoadNetwork.from_networkx(graph, features), RoadNetwork.from_networkx(back, features)
    assert one.feature_names == two.feature_names
    index = {tuple(map(str, label[:2])): state for state, label in enumerate(one.labels)}
    assert len(index) == 11 and sorted(one.segment_length) == sorted(two.segment_length)
    assert np.sort(one.features.toarray().sum(axis=0)) == pytest.approx(np.sort(two.features.toarray().sum(axis=0)))


def test_degrees_of_longitude_are_shorter_where_the_crs_says_degrees():
    graph = nx.DiGraph(crs="epsg:4326")
    for node, (x, y) in {
        "a": (0, 60),
        "b": (0, 61),
        "c": (1, 61.8),
    }.items():  # at 60 degrees, 1 of longitude is half of latitude
        graph.add_node(node, x=x, y=y)
    graph.add_edges_from([("a", "b", {"length": 1}), ("b", "c", {"length": 1})])
    assert row(RoadNetwork.from_networkx(graph, ["length"]), ("a", "b"), ("b", "c"))["right"] == 1  # 32 degrees
    assert "straight" not in row(RoadNetwork.from_networkx(graph, ["length"]), ("a", "b"), ("b", "c"))
    graph.graph["crs"] = "epsg:25832"
    assert row(RoadNetwork.from_networkx(graph, ["length"]), ("a", "b"), ("b", "c"))["right"] == 1  # 51 degrees
    graph.nodes["c"]["x"] = 0.6
    assert row(RoadNetwork.from_networkx(graph, ["length"]), ("a", "b"), ("b", "c"))["right"] == 1
    graph.graph["crs"] = "epsg:4326"
    assert row(RoadNetwork.from_networkx(graph, ["length"]), ("a", "b"), ("b", "c"))["straight"] == 1


def test_overlap_is_of_edges_or_of_segments():
    network = grid(3, length=np.arange(1, 25))
    path, other = [0, 1, 2, 5], [0, 1, 4, 5]
    edges = network.find_edges(path[:-1], path[1:])
    assert path_overlap(network, path, other) == pytest.approx(network.length[edges[0]] / network.length[edges].sum())
    assert path_overlap(network, path, path) == 1
    segments = RoadNetwork(network.tail, network.head, network.features, segment_length=np.arange(1, 10))
    assert path_overlap(segments, path, other) == pytest.approx((2 + 6) / (2 + 3 + 6))  # 1 and 5 are entered by both


class Fixed:
    """Predicts one path for each pair, whatever it is asked; the posterior prefers the destination that is nearest."""

    def __init__(self, network, predictions):
        self.network, self.predictions, self.asked = network, predictions, []

    def predict(self, origin, destination, **arguments):
        self.asked.append(arguments)
        return self.predictions[origin, destination]

    def log_probability(self, paths):
        return -np.arange(1.0, len(paths) + 1)

    def destination_probabilities(self, partial, destinations, prior):
        self.asked.append(list(partial))
        near = np.exp(-np.abs(np.array(destinations) - partial[-1])) * (prior or 1)
        return near / near.sum()


def test_routes_are_scored_by_length():
    line = np.arange(11)
    tail, head = np.r_[line[:-1], 0, 0], np.r_[line[1:], 5, 9]
    network = RoadNetwork(tail, head, np.ones((12, 1)), length=np.r_[np.ones(10), 5.0, 9.0])
    walked = [line, line, line[:10]]
    model = Fixed(network, {(0, 10): [0, 9, 10], (0, 9): line[:10]})
    scores = evaluate_routes(model, walked, path="cheapest")
    assert scores == pytest.approx((np.mean([0.1, 0.1, 1]), 1 / 3, -2))
    assert model.asked == [{"path": "cheapest"}] * 2  # each pair once
    model.predictions[0, 9] = [0, 5, 6, 7, 8, 9]  # 4 of 9
    assert evaluate_routes(model, walked[2:]) == pytest.approx((4 / 9, 0, -1))


def test_match90_counts_nine_tenths():
    """A path of ten streets of which the prediction has nine, and one of which it has eight."""
    line = np.arange(11)
    tail, head = np.r_[line[:-1], 0, 11, 0, 12], np.r_[line[1:], 11, 1, 12, 2]
    network = RoadNetwork(tail, head, np.ones((14, 1)))
    around = {(0, 10): np.r_[0, 11, line[1:]]}
    assert evaluate_routes(Fixed(network, around), [line])[:2] == pytest.approx((0.9, 1))
    around = {(0, 10): np.r_[0, 12, line[2:]]}
    assert evaluate_routes(Fixed(network, around), [line])[:2] == pytest.approx((0.8, 0))


def test_destination_accuracy_is_by_the_share_of_edges_seen():
    line = np.arange(11)
    network = RoadNetwork(line[:-1], line[1:], np.ones((10, 1)))
    model = Fixed(network, {})
    accuracy, logs = destination_accuracy(model, [line, line[:4]], [3, 10], shares=(0, 0.5, 1))
    assert model.asked == [[0], list(range(6)), list(range(11)), [0], [0, 1, 2], [0, 1, 2, 3]]
    assert accuracy.tolist() == [0.5, 0.5, 1]
    right = [np.exp([-10.0, -5, 0]) / np.exp([[-10.0, -3], [-5, -2], [0, -7]]).sum(axis=1)]
    right += [np.exp([-3.0, -1, 0]) / np.exp([[-10.0, -3], [-8, -1], [-7, 0]]).sum(axis=1)]
    assert logs == pytest.approx(np.log(right).mean(axis=0))


def test_edges_are_found():
    network = grid(4)
    assert (network.find_edges(network.tail, network.head) == np.arange(network.n_edges)).all()
    assert network.find_edges([0, 15], [5, 0]).tolist() == [-1, -1]


@pytest.fixture(scope="module")
def model():
    network = RoadNetwork.from_networkx(osmnx_like(), ["highway"])
    truth = MaxEntRouteChoice.from_weights(network, [-0.02, -0.03, *[-0.5] * 5, -2], max_detour=3.0)
    return MaxEntRouteChoice(network, max_detour=3.0, l2=1e-6).fit(trips_between(truth, 60))


def trips_between(truth, n):
    generator, paths = np.random.default_rng(0), []
    while len(paths) < n:
        origin, destination = (int(s) for s in generator.integers(truth.network.n_states, size=2))
        if origin != destination:
            paths += truth.sample(origin, destination, 1, seed=len(paths))
    return paths


def same(one, other):
    assert other.get_params()["max_detour"] == 3.0 and type(other) is type(one)
    assert (other.weights_ == one.weights_).all()
    assert np.array_equal(other.weight_errors_, one.weight_errors_) and np.array_equal(other.covariance_, one.covariance_)
    assert (other.log_likelihood_, other.converged_) == (one.log_likelihood_, one.converged_)
    assert np.array_equal(other.history_["feature_gap"], one.history_["feature_gap"])
    assert other.network.labels == one.network.labels and other.network.feature_names == one.network.feature_names
    for destination in (0, 5):
        assert np.array_equal(other.log_partition(destination), one.log_partition(destination))
    assert np.array_equal(other.edge_flows(3, 7), one.edge_flows(3, 7))
    assert str(other.summary()) == str(one.summary())


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "drivers")
    assert (tmp_path / "drivers.npz").exists()
    same(model, MaxEntRouteChoice.load(tmp_path / "drivers"))
    same(model, MaxEntRouteChoice.load(tmp_path / "drivers.npz"))
    with np.load(tmp_path / "drivers.npz", allow_pickle=False) as data:
        assert all(data[name].dtype != object for name in data.files)


def test_save_and_load_dense_features_reference_and_horizon(tmp_path):
    network = grid(4)
    uniform = 1 / np.bincount(network.tail)[network.tail]
    model = MaxEntRouteChoice.from_weights(network, [-1.0, -0.5], horizon=9, reference=uniform, initial_weights=[-2, -2])
    model.save(tmp_path / "m.npz")
    back = MaxEntRouteChoice.load(tmp_path / "m.npz")
    assert back.horizon == 9 and np.array_equal(back.reference, uniform) and np.isnan(back.log_likelihood_)
    assert np.array_equal(back.log_partition(5), model.log_partition(5))


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", tail=[0], head=[1], length=[1.0])
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=name):
            MaxEntRouteChoice.load(tmp_path / name)
    with pytest.raises(OSError):
        MaxEntRouteChoice.load(tmp_path / "absent")
    labelled = RoadNetwork([0], [1], [[1.0]], labels=[object(), object()])
    with pytest.raises(ValueError, match="label of type object"):
        MaxEntRouteChoice.from_weights(labelled, [-1.0]).save(tmp_path / "x")


def test_pickles(model):
    same(model, pickle.loads(pickle.dumps(model)))
    network = grid(3)
    paths = trips(MaxEntRouteChoice.from_weights(network, [-2.0, -1.0]), 20, seed=0)
    for baseline in (ShortestPath(network, 1).fit(), MaxMargin(network, epochs=1).fit(paths), ActionBased(network).fit(paths)):
        back = pickle.loads(pickle.dumps(baseline))
        assert back.predict(0, 8).tolist() == baseline.predict(0, 8).tolist()
    assert back.log_probability(paths) == pytest.approx(baseline.log_probability(paths), abs=0)


def test_clones_have_the_parameters_and_nothing_learned(model):
    clone = model.clone()
    assert clone.get_params() == model.get_params() and not hasattr(clone, "weights_")
    assert clone.network is model.network
    assert model.__sklearn_clone__().get_params() == model.get_params()
    # what scikit-learn's own clone demands
    assert all(type(model)(**model.get_params()).get_params()[k] is v for k, v in model.get_params(deep=False).items())
    assert clone.set_params(l1=0.5, horizon=9) is clone and clone.l1 == 0.5
    with pytest.raises(ValueError, match="no parameter 'l3'"):
        clone.set_params(l3=1)
    assert "max_detour=3.0" in repr(model) and "l1" not in repr(model)


def test_arrays_are_copies_that_cannot_be_written():
    tail, features = np.array([0, 1]), np.ones((2, 1))
    network = RoadNetwork(tail, [1, 2], features)
    tail[0], features[0] = 2, 7
    assert network.tail[0] == 0 and network.features[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        network.features[0] = 2
    sparse = csr_array(np.ones((2, 1)))
    held = RoadNetwork([0, 1], [1, 2], sparse)
    sparse.data[:] = 5
    assert held.features.toarray().tolist() == [[1], [1]]


def test_everything_public_imports_without_torch_and_networkx_and_networks_without_numba():
    """In a package whose ``__init__``, which imports torch, is not run."""
    code = """
import sys, types
package = types.ModuleType("sb3_mirl")
package.__path__ = [sys.argv[1]]
sys.modules["sb3_mirl"] = package
import sb3_mirl.irl as irl
irl.RoadNetwork([0, 1], [1, 0], [[1.0], [1.0]])
assert "numba" not in sys.modules
for name in irl.__all__:
    getattr(irl, name)
irl.MaxEntRouteChoice.from_weights(irl.RoadNetwork([0, 1], [1, 0], [[1.0], [1.0]]), [-1.0]).predict(0, 1)
found = {"torch", "stable_baselines3", "networkx", "matplotlib"} & set(sys.modules)
assert not found, found
"""
    folder = str(Path(sb3_mirl.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
