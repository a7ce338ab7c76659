"""Fits of the route model: optimum, statistics, penalties, interruption, and the two optimisers against each other."""

import warnings

import numpy as np
import pytest
from _city import make_city  # of the examples

from sb3_mirl.irl import ActionBased, MaxEntRouteChoice, MaxMargin, RoadNetwork, ShortestPath, baselines, evaluate_routes
from sb3_mirl.irl.destination_graphs import Graphs
from sb3_mirl.irl.objective import RouteLikelihood
from sb3_mirl.irl.optimise import minimise
from sb3_mirl.irl.trips import read_trips
from sb3_mirl.irl.weights import feature_scales, start_weights
from tests.irl_oracles import grid, identity_network, random_cyclic, trips

THETA = np.array([-1.8, -1.0, -0.5, -0.2])


@pytest.fixture(scope="module")
def town():
    """A grid of 49 crossings, its drivers, and 300 of their trips."""
    network = grid(7, n_features=3)
    truth = MaxEntRouteChoice.from_weights(network, THETA)
    return network, truth, trips(truth, 300, seed=0)


@pytest.fixture(scope="module")
def fitted(town):
    network, _, paths = town
    return MaxEntRouteChoice(network).fit(paths)


def likelihood_of(network, paths, weights=None):
    return RouteLikelihood(network, read_trips(network, paths, weights), Graphs(network), None)


def test_at_the_optimum_the_feature_counts_match(town, fitted):
    network, truth, paths = town
    assert fitted.converged_ and fitted.feature_gap_ <= 1e-6
    observed = sum(network.features[network.find_edges(p[:-1], p[1:])].sum(axis=0) for p in paths) / len(paths)
    flows = sum(fitted.edge_flows(int(p[0]), int(p[-1])) for p in paths) / len(paths)
    gap = np.abs(network.features.T @ flows - observed) / feature_scales(network.features)
    assert gap.max() == pytest.approx(fitted.feature_gap_, abs=1e-7)
    assert fitted.log_likelihood_ == pytest.approx(fitted.log_probability(paths).sum(), abs=1e-8)
    assert fitted.score(paths) == pytest.approx(fitted.log_likelihood_ / 300)
    assert fitted.score(paths) > truth.score(paths)
    assert (np.diff(fitted.history_["log_likelihood"]) > -1e-9).all() and len(fitted.history_["feature_gap"])


def test_errors_are_the_inverse_hessian(town, fitted):
    network, _, paths = town
    likelihood, h = likelihood_of(network, paths), 1e-4
    rows = [
        (likelihood.value_and_gradient(fitted.weights_ + e)[1] - likelihood.value_and_gradient(fitted.weights_ - e)[1])
        / (2 * h)
        for e in h * np.eye(4)
    ]
    covariance = np.linalg.inv(-300 * np.array(rows))
    assert fitted.covariance_ == pytest.approx(covariance, rel=1e-4)
    assert fitted.weight_errors_ == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-4)


def test_the_errors_say_how_far_the_weights_are_off():
    """20 seeds, origins and destinations drawn, no path dropped: e' Cov^-1 e / K has mean 1."""
    network = grid(6, n_features=3)
    truth = MaxEntRouteChoice.from_weights(network, THETA)
    distances = []
    for seed in range(20):
        model = MaxEntRouteChoice(network).fit(trips(truth, 120, seed))
        error = model.weights_ - THETA
        distances.append(error @ np.linalg.solve(model.covariance_, error) / 4)
    assert 0.6 <= np.mean(distances) <= 1.5


def test_twenty_correlated_features_take_less_than_fifty_gradients():
    city = make_city(600, seed=3)
    truth = MaxEntRouteChoice.from_weights(city.network, city.weights)
    generator = np.random.default_rng(0)
    destinations = generator.choice(city.network.n_states, 12, replace=False)
    paths = [
        truth.sample(int(generator.integers(city.network.n_states)), int(d), 1, seed=i)[0]
        for i in range(15)
        for d in destinations
    ]
    paths = [path for path in paths if len(path) > 1]
    model = MaxEntRouteChoice(city.network).fit(paths)
    assert city.network.n_features >= 18 and model.converged_ and model.n_gradients_ <= 50
    assert model.score(paths) >= truth.score(paths)


def test_every_start_leads_to_the_same_weights(town, fitted):
    network, _, paths = town
    for start in ([-4.0, 0, 0, 0], [-2.5, -3.0, 1.0, 0.5]):
        again = MaxEntRouteChoice(network, initial_weights=start).fit(paths)
        assert again.weights_ == pytest.approx(fitted.weights_, abs=1e-4)


def test_a_weight_of_two_is_the_path_twice(town):
    network, _, paths = town
    weights = np.arange(1, 41) % 3  # zeros too
    repeated = [path for path, n in zip(paths[:40], weights, strict=True) for _ in range(n)]
    weighted, several = (MaxEntRouteChoice(network).fit(*a) for a in ((paths[:40], weights), (repeated,)))
    assert weighted.weights_ == pytest.approx(several.weights_, abs=1e-5)
    assert weighted.covariance_ == pytest.approx(several.covariance_, rel=1e-3)
    assert weighted.score(paths[:40], weights) == pytest.approx(several.score(repeated), abs=1e-7)


def test_exponentiated_gradient_comes_to_the_same_likelihood_and_signs(town, fitted):
    network, _, paths = town
    online = MaxEntRouteChoice(network, optimizer="exponentiated").fit(paths)
    assert online.converged_
    assert 0 <= fitted.score(paths) - online.score(paths) <= 1e-2
    assert (np.sign(online.weights_) == np.sign(THETA)).all()
    again = MaxEntRouteChoice(network, optimizer="exponentiated").fit(paths)
    assert (again.weights_ == online.weights_).all()


def test_exponentiated_gradient_weighs_the_destinations_by_their_paths():
    """Two kinds of drivers, one of which is seen twenty times as often."""
    network, paths = grid(5, n_features=2), []
    for theta, destination in (([-1.5, -3.0, -0.1], 24), ([-1.5, -0.1, -3.0], 20)):
        drivers = MaxEntRouteChoice.from_weights(network, theta)
        paths += [drivers.sample(origin, destination, 1, seed=origin)[0] for origin in range(20)]
    weights = np.repeat([20.0, 1.0], 20)
    best, online = (MaxEntRouteChoice(network, optimizer=o).fit(paths, weights) for o in ("bfgs", "exponentiated"))
    assert 0 <= best.score(paths, weights) - online.score(paths, weights) <= 1e-2


def test_the_l1_optimum_satisfies_its_conditions_and_is_sparse(town):
    network, _, paths = town
    l1 = 1.0
    model = MaxEntRouteChoice(network, l1=l1).fit(paths)
    scales = feature_scales(network.features)
    gradient = likelihood_of(network, paths).value_and_gradient(model.weights_)[1] / scales
    at_zero = model.weights_ == 0
    assert model.converged_ and 0 < at_zero.sum() < 4
    assert (np.abs(gradient[at_zero]) <= l1 + 1e-6).all()
    assert gradient[~at_zero] == pytest.approx(l1 * np.sign(model.weights_[~at_zero]), abs=1e-5)


def test_the_l2_optimum_satisfies_its_conditions(town, fitted):
    network, _, paths = town
    model, scales = MaxEntRouteChoice(network, l2=0.1).fit(paths), feature_scales(network.features)
    gradient = likelihood_of(network, paths).value_and_gradient(model.weights_)[1] / scales
    assert gradient == pytest.approx(0.1 * model.weights_ * scales, abs=1e-5)
    assert np.linalg.norm(model.weights_ * scales) < np.linalg.norm(fitted.weights_ * scales)
    assert (model.weight_errors_ < fitted.weight_errors_).all()
    penalised = likelihood_of(network, paths).information(model.weights_) + 0.1 * np.diag(scales**2)
    assert model.covariance_ == pytest.approx(np.linalg.inv(300 * penalised), rel=1e-6)
    assert model.log_likelihood_ == pytest.approx(model.log_probability(paths).sum(), abs=1e-7)


def test_units_change_the_weights_and_nothing_else(town):
    network, _, paths = town
    units = np.array([1.0, 1e4, 1e-4, 60.0])
    scaled = RoadNetwork(network.tail, network.head, network.features * units)
    for penalties in ({}, {"l1": 0.05, "l2": 0.05}):
        plain, other = (MaxEntRouteChoice(n, **penalties).fit(paths) for n in (network, scaled))
        assert other.weights_ * units == pytest.approx(plain.weights_, abs=1e-5)
        assert other.weight_errors_ * units == pytest.approx(plain.weight_errors_, rel=1e-4)


def test_sparse_features_are_the_dense_ones(town, fitted):
    from scipy.sparse import coo_matrix

    network, _, paths = town
    sparse = RoadNetwork(network.tail, network.head, coo_matrix(network.features))
    model = MaxEntRouteChoice(sparse).fit(paths)
    assert model.weights_ == pytest.approx(fitted.weights_, abs=1e-6)
    assert model.covariance_ == pytest.approx(fitted.covariance_, rel=1e-5)


def test_collinear_features_are_named_and_predictions_unaffected(town, fitted):
    network, _, paths = town
    doubled = np.column_stack(
        [network.features, network.features[:, 1] - 2 * network.features[:, 3], np.zeros(network.n_edges)]
    )
    names = ("constant", "length", "lights", "rail", "mixture", "ferry")
    with pytest.warns(UserWarning, match="'length', 'rail', 'mixture', 'ferry' are collinear"):
        model = MaxEntRouteChoice(RoadNetwork(network.tail, network.head, doubled, feature_names=names)).fit(paths)
    assert np.isinf(model.weight_errors_).tolist() == [False, True, False, True, True, True]
    assert model.weight_errors_[[0, 2]] == pytest.approx(fitted.weight_errors_[[0, 2]], rel=1e-4)
    assert model.log_probability(paths) == pytest.approx(fitted.log_probability(paths), abs=1e-5)
    assert "inf" in str(model.summary())


def test_a_model_with_a_horizon_a_reference_and_cycles_with_itself_is_fitted():
    network, rewards = random_cyclic(1, n_states=8, radius=0.8)
    features = np.column_stack([np.ones(network.n_edges), np.random.default_rng(0).normal(size=network.n_edges)])
    reference = np.exp(rewards) / np.bincount(network.tail, np.exp(rewards))[network.tail]
    network = RoadNetwork(network.tail, network.head, features)
    for arguments in ({"horizon": 12}, {"reference": reference}, {}):
        truth = MaxEntRouteChoice.from_weights(network, [-2.0, 0.4], **arguments)
        paths = trips(truth, 200, seed=2)
        model = MaxEntRouteChoice(network, **arguments).fit(paths)
        error = model.weights_ - truth.weights_
        assert model.converged_ and error @ np.linalg.solve(model.covariance_, error) < 12
        assert model.score(paths) >= truth.score(paths)


def test_the_summary_has_a_row_per_feature_and_ratios_with_their_errors(fitted):
    table = fitted.summary(relative_to="feature_1", worth=60.0)
    lines = str(table).splitlines()
    assert [line.split()[0] for line in lines[2:6]] == list(fitted.network.feature_names) and "60" in lines[-1]
    assert table.t == pytest.approx(fitted.weights_ / fitted.weight_errors_)
    assert table.ratios == pytest.approx(60 * fitted.weights_ / fitted.weights_[1])
    assert table.ratio_errors[1] == pytest.approx(0, abs=1e-6)
    # the delta method against a simulation
    draws = np.random.default_rng(0).multivariate_normal(fitted.weights_, fitted.covariance_ / 100, 20_000)
    spread = (60 * draws / draws[:, [1]]).std(axis=0) * 10
    assert table.ratio_errors[[0, 2, 3]] == pytest.approx(spread[[0, 2, 3]], rel=0.05)
    assert "ratio" not in str(fitted.summary())


def test_an_interrupted_fit_keeps_its_best_weights_and_goes_on_from_its_file(town, fitted, monkeypatch, tmp_path):
    network, _, paths = town
    calls, original = [0], RouteLikelihood.value_and_gradient

    def stops(self, weights, group=None):
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return original(self, weights, group)

    file = tmp_path / "runs" / "fit"
    with monkeypatch.context() as patched:
        patched.setattr(RouteLikelihood, "value_and_gradient", stops)
        with pytest.warns(UserWarning, match="interrupted after 4 iterations"):
            model = MaxEntRouteChoice(network).fit(paths, checkpoint=file)
    assert not model.converged_ and np.isnan(model.weight_errors_).all()
    assert model.score(paths) == pytest.approx(model.history_["log_likelihood"].max() / 300)
    resumed = MaxEntRouteChoice(network).fit(paths, checkpoint=file)
    assert resumed.n_iterations_ < fitted.n_iterations_ and resumed.weights_ == pytest.approx(fitted.weights_, abs=1e-5)
    assert resumed.history_["log_likelihood"][0] == pytest.approx(model.log_likelihood_, abs=1e-6)
    with pytest.raises(ValueError, match="other paths or parameters"):
        MaxEntRouteChoice(network, l2=1).fit(paths, checkpoint=file)


def test_progress_is_shown_on_demand(town, capfd):
    network, _, paths = town
    MaxEntRouteChoice(network, verbose=1).fit(paths[:20])
    assert "log likelihood per path" in capfd.readouterr().err
    MaxEntRouteChoice(network).fit(paths[:20])
    assert capfd.readouterr().err == ""


def test_a_fit_that_is_cut_short_says_so(town):
    network, _, paths = town
    with pytest.warns(UserWarning, match="ended after 2 iterations"):
        model = MaxEntRouteChoice(network, max_iterations=2).fit(paths)
    assert not model.converged_ and model.n_iterations_ == 2


def test_the_start_costs_something_everywhere(town):
    network, _, _ = town
    for signed in (False, True):
        theta = start_weights(network, signed)
        sums = np.bincount(network.tail, np.exp(network.rewards(theta)))
        assert 0.85 < sums.max() < 1 and (network.rewards(theta) < 0).all()
    assert np.ptp(network.rewards(start_weights(network))) < 1e-3  # as equal as possible: far fewer gradients on a city
    mixed = RoadNetwork(network.tail, network.head, network.features * [1, -1, 1, 1])
    assert (mixed.rewards(start_weights(mixed, signed=True)) < 0).all()


def test_the_minimiser_turns_back_from_where_the_function_is_infinite():
    def barrier(x):
        if (x <= 0).any():
            return np.inf, np.zeros(2)
        return float(x @ x - np.log(x).sum()), 2 * x - 1 / x

    found = minimise(barrier, np.array([20.0, 0.01]), None, tolerance=1e-9)
    assert found.converged and found.x == pytest.approx([np.sqrt(0.5)] * 2, abs=1e-8)
    with pytest.raises(ValueError, match="finite"):
        minimise(barrier, np.array([-1.0, 1.0]))


def test_the_minimiser_leaves_a_saddle_behind():
    """Not convex: BFGS's matrix stays positive definite."""

    def valley(x):
        a, b = 1 - x[0], x[1] - x[0] ** 2
        return a * a + 100 * b * b, np.array([-2 * a - 400 * x[0] * b, 200 * b])

    found = minimise(valley, np.array([-1.2, 1.0]), None, tolerance=1e-8)
    assert found.converged and found.x == pytest.approx([1, 1], abs=1e-6) and found.n_gradients < 100


def test_baselines_are_fitted_and_ordered_as_in_table_1():
    """On the model's own samples; the costs of travel time alone are the crudest."""
    network = grid(7, n_features=3)
    truth = MaxEntRouteChoice.from_weights(network, 2.5 * THETA)
    train, test = trips(truth, 250, seed=4), trips(truth, 400, seed=5)
    models = {
        "maxent": MaxEntRouteChoice(network).fit(train),
        "action": ActionBased(network).fit(train),
        "margin": MaxMargin(network, epochs=4).fit(train),
        "time": ShortestPath(network, "feature_0").fit(train),
    }
    scores = {name: evaluate_routes(model, test) for name, model in models.items()}
    costs = evaluate_routes(models["action"], test, path="cheapest")
    assert scores["maxent"].matching > scores["time"].matching + 0.02
    assert scores["maxent"].matching >= max(costs.matching, scores["action"].matching) - 0.01
    assert scores["margin"].matching > scores["time"].matching
    assert scores["maxent"].log_probability > scores["action"].log_probability
    assert np.isnan(scores["margin"].log_probability) and np.isnan(scores["time"].log_probability)
    assert 0 <= scores["maxent"].match90 <= scores["maxent"].matching <= 1
    assert (models["margin"].weights_ <= 0).all()


def test_action_based_weights_come_near_those_that_made_the_choices():
    """Choices sampled from the action-based model itself."""
    network, theta = grid(5, n_features=2), np.array([-1.0, -1.5, -0.5])
    truth = ActionBased.from_weights(network, theta)
    policies, generator, paths = {}, np.random.default_rng(0), []
    for _ in range(400):
        origin, destination = (int(s) for s in generator.choice(25, 2, replace=False))
        if destination not in policies:
            policies[destination] = np.exp(truth._choices(destination).on_network(network.n_edges))
        probability = policies[destination]
        path = [origin]
        while path[-1] != destination:
            out = np.flatnonzero(network.tail == path[-1])
            path.append(int(network.head[generator.choice(out, p=probability[out] / probability[out].sum())]))
        paths.append(path)
    model = ActionBased(network).fit(paths)
    assert model.log_likelihood_ >= truth.log_probability(paths).sum() - 1e-6
    assert model.weights_ == pytest.approx(theta, abs=0.4)
    assert model.score(paths) == pytest.approx(model.log_likelihood_ / 400)


def test_paths_of_equal_cost_and_loops_do_not_confuse_the_planner():
    edges = [(0, 0), (0, 1), (1, 0), (1, 2), (0, 2)]
    network = identity_network(edges)
    cheap = ShortestPath(network, [0.0, 0.0, 0.0, 1.0, 1.0]).fit()
    assert cheap.predict(0, 2).tolist() in ([0, 2], [0, 1, 2])
    model = ActionBased.from_weights(network, [-1.0, -1, -1, -1, -1])
    assert np.exp(model.log_probability([[0, 2]]))[0] == pytest.approx(np.exp(-1) / (np.exp(-1) + 2 * np.exp(-2)))
    assert np.exp(model.log_probability([[0, 0, 2]]))[0] == pytest.approx(np.exp(-3) / (np.exp(-1) + 2 * np.exp(-2)) ** 2)


def test_no_warning_without_a_reason(town):
    network, _, paths = town
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaxEntRouteChoice(network).fit(paths[:50])


def test_interrupted_baselines_keep_what_they_have_and_show_progress(town, monkeypatch, capfd):
    network, _, paths = town
    for module_name, model in (
        ("BestPaths", MaxMargin(network, epochs=1, verbose=1)),
        ("choice_likelihood", ActionBased(network, verbose=1)),
    ):
        original, calls = getattr(baselines, module_name), [0]

        def stops(*arguments, original=original, calls=calls):
            calls[0] += 1
            if calls[0] == 8:
                raise KeyboardInterrupt
            return original(*arguments)

        with monkeypatch.context() as patched, pytest.warns(UserWarning, match="interrupted"):
            patched.setattr(baselines, module_name, stops)
            model.fit(paths[:40])
        assert (model.weights_ < 0).all() and model.predict(0, 48)[-1] == 48
    shown = capfd.readouterr().err
    assert "max margin" in shown and "action: " in shown


def test_a_file_of_a_fit_with_another_reference_or_features_is_refused(town, tmp_path):
    network, _, paths = town
    uniform = 1 / np.bincount(network.tail)[network.tail]
    MaxEntRouteChoice(network, reference=uniform).fit(paths[:20], checkpoint=tmp_path / "fit")
    MaxEntRouteChoice(network, reference=uniform).fit(paths[:20], checkpoint=tmp_path / "fit")
    other = RoadNetwork(network.tail, network.head, 2 * network.features)
    for model in (MaxEntRouteChoice(network), MaxEntRouteChoice(other, reference=uniform)):
        with pytest.raises(ValueError, match="other paths or parameters"):
            model.fit(paths[:20], checkpoint=tmp_path / "fit")


def test_where_the_hessian_is_too_large_the_fit_goes_without_it(town, fitted, monkeypatch):
    network, _, paths = town
    monkeypatch.setattr("sb3_mirl.irl.routes._HESSIAN_NUMBERS", 10)
    with pytest.warns(UserWarning, match="no standard errors: the Hessian of 4 features"):
        model = MaxEntRouteChoice(network).fit(paths)
    assert model.converged_ and model.weights_ == pytest.approx(fitted.weights_, abs=1e-4)
    assert np.isnan(model.covariance_).all() and model.n_gradients_ > fitted.n_gradients_


def test_max_margin_asks_for_a_margin_that_grows_with_the_share_not_shared():
    """Two ways of equal length and equal cost at the start: the one that was taken must become cheaper by its whole length."""
    network = RoadNetwork([0, 1, 0, 2], [1, 3, 2, 3], [[1, 0], [1, 0], [0, 1], [0, 1]])
    model = MaxMargin(network, l2=0, rate=0.02, epochs=300).fit([[0, 1, 3]])
    taken, other = 2 * model.weights_
    assert 0.6 < taken - other < 1.3
    rewards = model._margin_rewards(np.array([3.0, 2.0]), np.array([0, 1]))
    assert rewards.tolist() == [-3, -3, -1.5, -1.5]


def test_the_most_probable_path_of_choices_is_not_the_cheapest():
    """Label bias: two cheap ways share what a third one has for itself."""
    edges = [(0, 1), (1, 2), (1, 3), (2, 5), (3, 5), (0, 4), (4, 5)]
    model = ActionBased.from_weights(identity_network(edges), [-1, -1, -1, -1, -1, -1.55, -1.55])
    assert model.predict(0, 5).tolist() == [0, 4, 5] == model.predict(0, 5, path="probable").tolist()
    assert model.predict(0, 5, path="cheapest").tolist() in ([0, 1, 2, 5], [0, 1, 3, 5])
