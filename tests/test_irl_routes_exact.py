"""The route model against enumeration and dense algebra, its reductions, its range, and what must not change anything."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from sb3_mirl.irl import ActionBased, MaxEntIRL, MaxEntRouteChoice, PartitionDiverges, RoadNetwork
from sb3_mirl.irl.baselines import choice_likelihood
from sb3_mirl.irl.cache import Cache
from sb3_mirl.irl.destination_graphs import Graphs
from sb3_mirl.irl.objective import RouteLikelihood
from sb3_mirl.irl.passes import Passes
from sb3_mirl.irl.trips import read_trips
from sb3_mirl.tabular import TabularMDP
from tests.irl_oracles import (
    all_paths,
    dense,
    edge_counts,
    grid,
    identity_network,
    path_rewards,
    random_cyclic,
    random_dag,
    weight_matrix,
)

seeds = st.integers(0, 100_000)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_on_a_dag_everything_is_a_sum_over_its_paths(seed):
    network, rewards = random_dag(seed)
    last = network.n_states - 1
    model = MaxEntRouteChoice.from_weights(network, rewards)
    paths = all_paths(network, 0, last, 20)
    scores = path_rewards(network, rewards, paths)
    probability = np.exp(scores - logsumexp(scores))
    assert model.log_partition(last)[0] == pytest.approx(logsumexp(scores), rel=1e-12, abs=1e-12)
    assert model.log_probability(paths) == pytest.approx(np.log(probability), abs=1e-11)
    flows = sum(p * edge_counts(network, path) for p, path in zip(probability, paths, strict=True))
    assert model.edge_flows(0, last) == pytest.approx(flows, abs=1e-12)
    for state in range(network.n_states):
        visited = sum(p for p, path in zip(probability, paths, strict=True) if state in path)
        assert model.visit_probability(0, last, state) == pytest.approx(visited, abs=1e-12)
    best = paths[int(np.argmax(scores))]
    assert model.predict(0, last).tolist() == best
    actions = model.action_probabilities(last)
    assert np.bincount(network.tail, actions)[:last] == pytest.approx(np.ones(last), abs=1e-12)
    assert actions == pytest.approx(dense(network, rewards, last).probability, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([0.3, 0.8, 0.97]), st.booleans())
def test_with_cycles_it_is_linear_algebra(seed, radius, loops):
    network, rewards = random_cyclic(seed, radius=radius, loops=loops)
    destination, origin = 2, 5
    model, exact = MaxEntRouteChoice.from_weights(network, rewards), dense(network, rewards, destination)
    tolerance = {"rel": 1e-8, "abs": 1e-9}
    assert model.log_partition(destination) == pytest.approx(exact.log_z, **tolerance)
    assert model.action_probabilities(destination) == pytest.approx(exact.probability, **tolerance)
    visits = exact.visits[origin]
    assert model.edge_flows(origin, destination) == pytest.approx(visits[network.tail] * exact.probability, **tolerance)
    for state in range(network.n_states):
        if state != destination:  # a first visit, and then as many as from there
            expected = exact.visits[origin, state] / exact.visits[state, state]
            assert model.visit_probability(origin, destination, state) == pytest.approx(expected, **tolerance)
    assert model.visit_probability(origin, destination, destination) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_destination_posteriors_are_bayes_rule(seed):
    network, rewards = random_cyclic(seed, n_states=8, radius=0.7)
    generator = np.random.default_rng(seed)
    model = MaxEntRouteChoice.from_weights(network, rewards)
    partial = [int(generator.integers(8))]
    for _ in range(3):
        partial.append(int(generator.choice(network.head[network.tail == partial[-1]])))
    destinations = [d for d in range(8) if d not in partial[:-1]]
    prior = generator.dirichlet(np.ones(len(destinations)))
    likelihood = []
    for destination in destinations:
        exact = dense(network, rewards, destination)
        steps = path_rewards(network, rewards, [partial])[0]
        likelihood.append(np.exp(steps + exact.log_z[partial[-1]] - exact.log_z[partial[0]]))
    expected = prior * likelihood / (prior @ likelihood)
    found = model.destination_probabilities(partial, destinations, prior)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    # the remaining flows are those from its end, averaged over the destinations
    flows = np.zeros(network.n_edges)
    for destination, p in zip(destinations, expected, strict=True):
        if destination != partial[-1]:
            exact = dense(network, rewards, destination)
            flows += p * exact.visits[partial[-1]][network.tail] * exact.probability
    assert model.remaining_flows(partial, destinations, prior) == pytest.approx(flows, rel=1e-8, abs=1e-10)


def test_a_destination_that_was_passed_is_impossible_and_one_that_is_reached_is_done():
    network, rewards = random_cyclic(3, n_states=6, radius=0.6, loops=False)
    model = MaxEntRouteChoice.from_weights(network, rewards)
    path = [0, 1, 2, 3]
    passed, reached, other = model.destination_probabilities(path, [1, 3, 5])
    assert passed == 0 and reached > 0 and other > 0
    # z_B = 1 at the destination itself
    ratio = np.exp(-dense(network, rewards, 3).log_z[0])
    rest = dense(network, rewards, 5)
    assert reached / other == pytest.approx(ratio / np.exp(rest.log_z[3] - rest.log_z[0]), rel=1e-8)
    alone = model.destination_probabilities(path, [3])
    assert alone == [1] and model.remaining_flows(path, [3]).sum() == 0


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_gradient_and_hessian_are_the_derivatives(seed):
    plain, rewards = random_cyclic(seed, n_states=8, radius=0.6)
    generator = np.random.default_rng(seed)
    features = np.column_stack([rewards, generator.normal(0, 0.3, (plain.n_edges, 3))])
    network = RoadNetwork(plain.tail, plain.head, features)
    theta = np.array([1, 0.1, -0.1, 0.05])
    model = MaxEntRouteChoice.from_weights(network, theta)
    paths = [path for d in (1, 4) for path in model.sample(0, d, 3, seed) + model.sample(7, d, 2, seed)]
    weights = generator.uniform(0.5, 2, len(paths))
    likelihood = RouteLikelihood(network, read_trips(network, paths, weights), Graphs(network), None)
    value, gradient = likelihood.value_and_gradient(theta)
    assert value == pytest.approx(np.average(model.log_probability(paths), weights=weights), abs=1e-10)
    information = likelihood.information(theta)
    for k, step in enumerate(1e-5 * np.eye(4)):
        (up, g_up), (down, g_down) = likelihood.value_and_gradient(theta + step), likelihood.value_and_gradient(theta - step)
        assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-6)
        assert -information[k] == pytest.approx((g_up - g_down) / 2e-5, rel=1e-5, abs=1e-5)
    # group by group it is the same
    parts = [likelihood.value_and_gradient(theta, i) for i in range(len(likelihood.groups))]
    shares = np.array([group.weights.sum() for group in likelihood.groups]) / likelihood.total
    assert sum(s * v for s, (v, _) in zip(shares, parts, strict=True)) == pytest.approx(value, abs=1e-12)
    assert sum(s * g for s, (_, g) in zip(shares, parts, strict=True)) == pytest.approx(gradient, abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_action_based_likelihood_and_its_gradient(seed):
    plain, _ = random_cyclic(seed, n_states=8)
    generator = np.random.default_rng(seed)
    features = generator.uniform(0.1, 1, (plain.n_edges, 3))
    network, theta = RoadNetwork(plain.tail, plain.head, features), np.array([-1.0, -0.5, -0.7])
    model = ActionBased.from_weights(network, theta)
    paths = MaxEntRouteChoice.from_weights(network, 3 * theta).sample(0, 4, 5, seed)
    # by the definition
    rewards, value = network.rewards(theta), np.full(8, -np.inf)
    value[4] = 0
    for _ in range(8):
        for edge in np.flatnonzero(network.tail != 4):
            value[network.tail[edge]] = max(value[network.tail[edge]], rewards[edge] + value[network.head[edge]])
    expected = []
    for path in paths:
        total = 0.0
        for tail, head in itertools.pairwise(path):
            out = np.flatnonzero(network.tail == tail)
            q = rewards[out] + value[network.head[out]]
            total += q[network.head[out] == head][0] - logsumexp(q)
        expected.append(total)
    assert model.log_probability(paths) == pytest.approx(expected, abs=1e-10)
    graphs, groups = Graphs(network), read_trips(network, paths).groups()
    value, gradient = choice_likelihood(network, graphs, groups, theta, 1)
    assert value == pytest.approx(sum(expected), abs=1e-9)
    for k, step in enumerate(1e-6 * np.eye(3)):
        up, down = (choice_likelihood(network, graphs, groups, theta + sign * step, 1)[0] for sign in (1, -1))
        assert gradient[k] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-5)


def test_the_recursive_logit_is_the_same_model():
    """Fosgerau, Frejinger and Karlstrom (2013): z = M z + b, V = log z, by numpy."""
    network, rewards = random_cyclic(11, n_states=9, radius=0.85)
    matrix, b = weight_matrix(network, rewards, destination=4), np.eye(9)[4]
    z = np.linalg.solve(np.eye(9) - matrix, b)
    assert MaxEntRouteChoice.from_weights(network, rewards).log_partition(4) == pytest.approx(np.log(z), rel=1e-10, abs=1e-10)


def regular_graph(seed, n_states=8, degree=3):
    """Every state has edges to ``degree`` others."""
    generator = np.random.default_rng(seed)
    edges = []
    for i in range(n_states):
        others = {(i + 1) % n_states}
        while len(others) < degree:
            others.add(int(generator.integers(n_states)))
            others.discard(i)
        edges += [(i, j) for j in others]
    return identity_network(edges), generator.uniform(-3, -1.5, len(edges))


def test_a_uniform_reference_changes_nothing_where_out_degrees_are_equal():
    network, rewards = regular_graph(0)
    uniform = np.full(network.n_edges, 1 / 3)
    plain = MaxEntRouteChoice.from_weights(network, rewards)
    shifted = MaxEntRouteChoice.from_weights(network, rewards + np.log(3), reference=uniform)
    # a constant per edge is a feature of its own: with it, the reference changes nothing
    assert shifted.action_probabilities(3) == pytest.approx(plain.action_probabilities(3), abs=1e-12)
    _dag, values = random_dag(1)  # on paths of equal lengths it changes nothing at all
    layered = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 5), (4, 5)]
    network, values = identity_network(layered), np.linspace(-1, 1, 8)
    halves = np.array([0.5] * 6 + [1.0] * 2)
    paths = all_paths(network, 0, 5, 3)
    with_reference = MaxEntRouteChoice.from_weights(network, values, reference=halves)
    assert with_reference.log_probability(paths) == pytest.approx(
        MaxEntRouteChoice.from_weights(network, values).log_probability(paths), abs=1e-13
    )


def test_a_reference_multiplies_the_probabilities_of_paths():
    network, rewards = random_dag(5)
    generator, last = np.random.default_rng(0), network.n_states - 1
    raw = generator.uniform(0.1, 1, network.n_edges)
    reference = raw / np.bincount(network.tail, raw)[network.tail]
    paths = all_paths(network, 0, last, 20)
    scores = path_rewards(network, rewards + np.log(reference), paths)
    model = MaxEntRouteChoice.from_weights(network, rewards, reference=reference)
    assert model.log_probability(paths) == pytest.approx(scores - logsumexp(scores), abs=1e-12)
    # an edge that the policy never takes is not there
    tail = int(network.tail[np.bincount(network.tail)[network.tail] > 1][0])
    out = np.flatnonzero(network.tail == tail)
    reference[out] = np.eye(len(out))[0]
    closed = MaxEntRouteChoice.from_weights(network, rewards, reference=reference)
    assert closed.action_probabilities(last)[out] == pytest.approx(np.eye(len(out))[0], abs=1e-14)
    with pytest.raises(ValueError, match="no destination"):
        closed.destination_probabilities([tail, int(network.head[out[1]])], [last])
    gone = [path for path in paths if set(network.find_edges(path[:-1], path[1:])) & set(out[1:].tolist())]
    assert np.isneginf(closed.log_probability(gone)).all()


def test_a_long_horizon_is_none_and_a_short_one_is_the_sum_over_short_paths():
    network, rewards = random_cyclic(7, n_states=6, radius=0.5)
    endless, long = (MaxEntRouteChoice.from_weights(network, rewards, horizon=h) for h in (None, 120))
    assert long.log_partition(3) == pytest.approx(endless.log_partition(3), abs=1e-10)
    assert long.edge_flows(0, 3) == pytest.approx(endless.edge_flows(0, 3), abs=1e-10)
    assert long.action_probabilities(3) == pytest.approx(endless.action_probabilities(3), abs=1e-10)
    assert long.visit_probability(0, 3, 4) == pytest.approx(endless.visit_probability(0, 3, 4), abs=1e-10)
    assert long.predict(0, 3).tolist() == endless.predict(0, 3).tolist()
    short = MaxEntRouteChoice.from_weights(network, rewards, horizon=5)
    paths = all_paths(network, 0, 3, 5)
    scores = path_rewards(network, rewards, paths)
    probability = np.exp(scores - logsumexp(scores))
    assert short.log_partition(3)[0] == pytest.approx(logsumexp(scores), abs=1e-12)
    assert short.log_probability(paths) == pytest.approx(np.log(probability), abs=1e-12)
    flows = sum(p * edge_counts(network, path) for p, path in zip(probability, paths, strict=True))
    assert short.edge_flows(0, 3) == pytest.approx(flows, abs=1e-12)
    visited = sum(p for p, path in zip(probability, paths, strict=True) if 4 in path)
    assert short.visit_probability(0, 3, 4) == pytest.approx(visited, abs=1e-12)
    longer = [path for path in all_paths(network, 0, 3, 6) if len(path) == 7]
    assert np.isneginf(short.log_probability(longer)).all()
    # after two edges three are left
    partial = next(path for path in paths if len(path) > 4)[:3]
    ratios = []
    for destination in (3, 4):
        through = [p for p in all_paths(network, 0, destination, 5) if p[:3] == partial]
        everything = all_paths(network, 0, destination, 5)
        ratios.append(
            np.exp(logsumexp(path_rewards(network, rewards, through)) - logsumexp(path_rewards(network, rewards, everything)))
        )
    if 4 not in partial[:-1]:
        expected = np.array(ratios) / sum(ratios)
        assert short.destination_probabilities(partial, [3, 4]) == pytest.approx(expected, abs=1e-10)
    # a horizon needs no convergence
    free = MaxEntRouteChoice.from_weights(network, np.zeros(network.n_edges), horizon=5)
    assert np.exp(free.log_partition(3)[0]) == pytest.approx(len(paths), rel=1e-12)


def test_a_large_detour_is_none_and_a_small_one_keeps_the_near_states():
    network = grid(12)
    theta, origin, destination = [-2.0, -1.0], 27, 30
    whole, wide, narrow = (MaxEntRouteChoice.from_weights(network, theta, max_detour=d) for d in (None, 50.0, 0.5))
    assert wide.edge_flows(origin, destination) == pytest.approx(whole.edge_flows(origin, destination), abs=1e-12)
    # 3 edges apart: states up to 4.5 edges from the destination are kept
    flows = narrow.edge_flows(origin, destination)
    row, column = np.divmod(np.arange(144), 12)
    near = np.abs(row - destination // 12) + np.abs(column - destination % 12) <= 4.5
    used = flows > 0
    assert near[network.tail[used]].all() and near[network.head[used]].all()
    assert near[network.tail][used].sum() == (near[network.tail] & near[network.head] & (network.tail != destination)).sum()
    assert flows == pytest.approx(whole.edge_flows(origin, destination), abs=0.02)
    far = 143
    outside = whole.predict(far, destination)
    assert narrow.log_probability([whole.predict(origin, destination)])[0] > -np.inf
    # a farther origin in the same question widens what is kept
    assert narrow.log_probability([outside])[0] > -np.inf
    detour = [origin, origin - 1, origin - 2, origin - 3, *range(origin - 2, destination + 1)]
    assert np.isneginf(narrow.log_probability([detour]))[0] and whole.log_probability([detour])[0] > -np.inf


def test_the_detours_of_the_fit_are_kept():
    network = grid(8)
    truth = MaxEntRouteChoice.from_weights(network, [-2.0, -1.0], max_detour=1.0)
    paths = truth.sample(0, 27, 40, seed=0) + truth.sample(63, 27, 40, seed=1)
    model = MaxEntRouteChoice(network, max_detour=1.0).fit(paths)
    whole = MaxEntRouteChoice(network).fit(paths)
    assert model.converged_ and np.abs(model.weights_ - whole.weights_).max() < 0.05
    seen = np.isfinite(model.log_partition(27))
    distance = Graphs(network).distances(27)
    assert (seen == (distance <= 2 * max(distance[0], distance[63]))).all()
    # the farthest origin counts, whichever comes first
    near, far = 28, 45  # 1 and 4 edges away
    for origins in ((near, far), (far, near)):
        paths = [truth.predict(origin, 27) for origin in origins]
        narrow = MaxEntRouteChoice(network, max_detour=0.5, l2=1.0).fit(paths)
        assert (np.isfinite(narrow.log_partition(27)) == (distance <= 6)).all()
        assert np.isfinite(narrow.log_probability(paths)).all()


@pytest.mark.parametrize("seed", range(3))
def test_one_destination_is_an_mdp_with_a_horizon(seed):
    """Where every walk ends at the destination in time, the path model with a uniform reference is MaxEntIRL."""
    generator, degree, layers, width = np.random.default_rng(seed), 2, 4, 3
    # the last layer has one state, the destination; each state has two different successors in the next layer
    states = [list(range(i * width, (i + 1) * width)) for i in range(layers)]
    destination = layers * width
    edges = []
    for here, there in itertools.pairwise(states):
        for state in here:
            edges += [(state, int(s)) for s in generator.choice(there, degree, replace=False)]
    edges += [(state, destination) for state in states[-1]]
    tail, head = np.array(edges).T
    features = generator.normal(size=(len(edges), 2))
    reference = np.where(head == destination, 1.0, 1 / degree)
    theta, horizon = np.array([0.7, -0.4]), 4
    route = MaxEntRouteChoice.from_weights(RoadNetwork(tail, head, features), theta, reference=reference)
    n_states = destination + 1
    transition, mdp_features = np.zeros((n_states, degree, n_states)), np.zeros((n_states, degree, 2))
    taken = np.zeros((n_states, degree), dtype=int)
    for state in range(destination):
        out = np.flatnonzero(tail == state)
        for action in range(degree):
            edge = out[action % len(out)]  # the last step has one edge, which both actions take
            taken[state, action] = edge
            mdp_features[state, action] = features[edge]
            if head[edge] != destination:
                transition[state, action, head[edge]] = 1
    initial = np.zeros(n_states)
    initial[:width] = 1 / width
    mdp = TabularMDP(transition, np.zeros((n_states, degree)), initial, 0.9)
    model = MaxEntIRL.from_weights(mdp, mdp_features, theta, horizon=horizon, discount=1.0)
    for layer, here in enumerate(states):
        for state in here:
            assert model.v_[layer, state] == pytest.approx(route.log_partition(destination)[state], abs=1e-12)
            if layer < layers - 1:
                expected = route.action_probabilities(destination)[taken[state]]
                assert model.policy_[layer, state] == pytest.approx(expected, abs=1e-12)
    # and so are the fits
    paths = [path for origin in range(width) for path in route.sample(origin, destination, 60, seed=seed)]
    trajectories = []
    for path in paths:
        states_, actions = path[:-1], []
        for s, t in itertools.pairwise(path):
            edge = int(np.flatnonzero((tail == s) & (head == t))[0])
            actions.append(int(np.flatnonzero(taken[s] == edge)[0]))
        trajectories.append((states_, np.array(actions)))
    fitted = MaxEntIRL(mdp, mdp_features, horizon=horizon, discount=1.0).fit(trajectories)
    by_routes = MaxEntRouteChoice(RoadNetwork(tail, head, features), reference=reference, initial_weights=[0, 0]).fit(paths)
    assert fitted.weights_ == pytest.approx(by_routes.weights_, abs=1e-5)
    assert fitted.weight_errors_ == pytest.approx(by_routes.weight_errors_, rel=0.05)  # seen and expected information


def line(n_states, two_way):
    tail = np.arange(n_states - 1)
    head = tail + 1
    if two_way:
        tail, head = np.r_[tail, head], np.r_[head, tail]
    return RoadNetwork(tail, head, np.ones((len(tail), 1)))


def test_a_hundred_thousand_states_in_a_line():
    n = 100_000
    model = MaxEntRouteChoice.from_weights(line(n, two_way=False), [-1.5])
    assert model.log_partition(n - 1) == pytest.approx(-1.5 * np.arange(n - 1, -1, -1))
    assert model.edge_flows(0, n - 1) == pytest.approx(np.ones(n - 1))
    assert len(model.predict(0, n - 1)) == n
    two_way = MaxEntRouteChoice.from_weights(line(n, two_way=True), [-1.0])
    z = two_way.log_partition(n - 1)
    # far from the ends z falls by x per state, x = e^-1 (1 + x^2)
    x = (1 - np.sqrt(1 - 4 * np.exp(-2.0))) / (2 * np.exp(-1.0))
    assert np.diff(z)[1000:-1000] == pytest.approx(-np.log(x), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units_of_features_change_nothing(scale):
    network, rewards = random_cyclic(2, radius=0.9)
    scaled = RoadNetwork(network.tail, network.head, scale * network.features)
    plain, other = MaxEntRouteChoice.from_weights(network, rewards), MaxEntRouteChoice.from_weights(scaled, rewards / scale)
    assert other.log_partition(1) == pytest.approx(plain.log_partition(1), abs=1e-10)


def test_an_infinite_line_is_refused():
    with pytest.raises(PartitionDiverges):
        MaxEntRouteChoice.from_weights(line(3000, two_way=True), [np.log(0.55)]).log_partition(2999)


def test_weights_times_a_thousand_as_far_as_finite():
    network, rewards = random_cyclic(2, radius=0.4)
    rewards = np.minimum(rewards, -0.01)
    hot, cold = (MaxEntRouteChoice.from_weights(network, s * rewards) for s in (1e3, 1e-3))
    best = hot.predict(5, 1)
    score = path_rewards(network, 1e3 * rewards, [best.tolist()])[0]
    assert hot.log_partition(1)[5] == pytest.approx(score, rel=1e-9)
    assert hot.edge_flows(5, 1).sum() == pytest.approx(len(best) - 1, abs=1e-6)
    with pytest.raises(PartitionDiverges):
        cold.log_partition(1)


def test_near_the_border_the_factorisation_takes_over():
    """A radius of 1 - 1e-7 needs 1e8 sweeps; 1 + 1e-7 is refused."""
    network = identity_network([(0, 1), (1, 0), (1, 2)])
    for excess, finite in ((-1e-7, True), (1e-7, False)):
        rewards = np.array([0.5, -0.5 + excess, -1.0])
        model = MaxEntRouteChoice.from_weights(network, rewards)
        if finite:
            expected = 0.5 - 1.0 - np.log(-np.expm1(excess))
            assert model.log_partition(2)[0] == pytest.approx(expected, abs=1e-8)
            assert model.edge_flows(0, 2)[0] == pytest.approx(-1 / np.expm1(excess), rel=1e-6)
            assert model.edge_flows(0, 2)[2] == pytest.approx(1, abs=1e-6)
        else:
            with pytest.raises(PartitionDiverges, match="0 -> 1 -> 0|1 -> 0 -> 1"):
                model.log_partition(2)


@pytest.mark.parametrize("radius", [1.0001, 1.02, 1.5, 1e3])
@pytest.mark.parametrize("seed", range(4))
def test_an_infinite_partition_function_is_refused_at_every_radius(seed, radius):
    network, rewards = random_cyclic(seed, n_states=12, radius=1.0, loops=seed % 2 == 0)
    reduced = np.delete(np.delete(weight_matrix(network, rewards), 0, axis=0), 0, axis=1)  # what can diverge is without 0
    shift = np.log(radius / np.abs(np.linalg.eigvals(reduced)).max())
    with pytest.raises(PartitionDiverges) as caught:
        MaxEntRouteChoice.from_weights(network, rewards + shift).log_partition(0)
    assert caught.value.destination == 0 and len(caught.value.states) and 0 not in caught.value.states
    if caught.value.is_cycle:
        cycle = [*caught.value.states, caught.value.states[0]]
        assert path_rewards(network, rewards + shift, [cycle])[0] >= 0
    below = MaxEntRouteChoice.from_weights(network, rewards + shift + np.log(0.9999 / radius))
    assert np.isfinite(below.log_partition(0)).all()


def test_relabelling_and_reordering_change_nothing():
    network, rewards = random_cyclic(9, n_states=8, radius=0.7)
    generator = np.random.default_rng(1)
    names, order = generator.permutation(8), generator.permutation(network.n_edges)
    other = RoadNetwork(names[network.tail][order], names[network.head][order], network.features[order])
    one, two = (MaxEntRouteChoice.from_weights(n, rewards) for n in (network, other))
    assert two.log_partition(int(names[3]))[names] == pytest.approx(one.log_partition(3), abs=1e-11)
    assert two.edge_flows(int(names[0]), int(names[3])) == pytest.approx(one.edge_flows(0, 3)[order], abs=1e-11)
    small = RoadNetwork(network.tail, network.head, np.column_stack([np.ones(network.n_edges), rewards]))
    renamed = RoadNetwork(other.tail, other.head, small.features[order])
    paths = MaxEntRouteChoice.from_weights(small, [-0.5, 0.8]).sample(0, 3, 30, seed=0)
    first = MaxEntRouteChoice(small).fit(paths)
    second = MaxEntRouteChoice(renamed).fit([names[path] for path in reversed(paths)])
    assert second.weights_ == pytest.approx(first.weights_, abs=1e-5)


def test_what_is_asked_for_in_turns_is_partly_kept():
    cache, made = Cache(capacity=3 * 80), []
    for _ in range(2):
        for key in range(5):
            value = cache.get(key, lambda key=key: made.append(key) or np.full(10, key, dtype=np.float64))
            assert value[0] == key
    assert made == [0, 1, 2, 3, 4, 2, 3, 4]
    assert cache.get(4, lambda: None)[0] == 4  # what was asked for last is there
    assert cache.get("large", lambda: np.zeros(1000)).shape == (1000,)
    assert copy.deepcopy(cache).get(0, lambda: np.ones(1)) == [1]


def test_threads_change_nothing():
    network = grid(8)
    truth = MaxEntRouteChoice.from_weights(network, [-2.0, -1.0])
    paths = [path for d in (10, 30, 55, 60) for path in truth.sample(0, d, 10, seed=d)]
    one, two = (MaxEntRouteChoice(network, n_jobs=n).fit(paths) for n in (1, 2))
    assert (one.weights_ == two.weights_).all() and (one.log_probability(paths) == two.log_probability(paths)).all()


def test_samples_have_the_models_frequencies_and_a_seed():
    network, rewards = random_cyclic(4, n_states=6, radius=0.8)
    model = MaxEntRouteChoice.from_weights(network, rewards)
    paths = model.sample(0, 3, 20_000, seed=7)
    counts = sum(edge_counts(network, path) for path in paths) / len(paths)
    spread = np.array([edge_counts(network, path) for path in paths[:2000]]).std(axis=0) / np.sqrt(len(paths))
    assert (np.abs(counts - model.edge_flows(0, 3)) < 5 * spread + 1e-3).all()
    again, other = model.sample(0, 3, 50, seed=7), model.sample(0, 3, 50, seed=8)
    assert all((a == b).all() for a, b in zip(paths[:50], again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(again, other, strict=True))
    short = MaxEntRouteChoice.from_weights(network, rewards, horizon=4).sample(0, 3, 500, seed=1)
    assert max(map(len, short)) <= 5 and len({tuple(path) for path in short}) > 1


def test_out_of_reach_is_minus_infinity_and_never_nan():
    network = identity_network([(0, 1), (1, 2), (2, 1), (3, 0)], n_states=5)
    model = MaxEntRouteChoice.from_weights(network, np.full(4, -1.0))
    assert model.log_partition(2).tolist() == [-2, -1, 0, -3, -np.inf]
    assert model.log_partition(4).tolist() == [-np.inf] * 4 + [0]
    assert (model.action_probabilities(4) == 0).all()
    assert model.destination_probabilities([0, 1], [2, 3]).tolist() == [1, 0]


def test_one_pass_serves_all_origins_of_a_destination():
    network, rewards = random_cyclic(6, radius=0.7)
    graph = Graphs(network).to(2)
    passes = Passes(graph, rewards)
    mass = np.zeros(graph.n_nodes)
    mass[graph.nodes([0, 5])] = [2.0, 0.5]
    total = np.zeros(network.n_edges)
    graph.add_to(total, passes.edge_flows(mass))
    model = MaxEntRouteChoice.from_weights(network, rewards)
    assert total == pytest.approx(2 * model.edge_flows(0, 2) + 0.5 * model.edge_flows(5, 2), abs=1e-10)
