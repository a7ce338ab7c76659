"""The route model's pictures, and that its examples run and print what they promise."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from sb3_mirl.irl import MaxEntRouteChoice, RoadNetwork, plots  # noqa: E402
from tests.irl_oracles import grid, trips  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()  # what cannot be drawn fails here
    plt.close(figure)


def on_a_plane(segments=False):
    network = grid(4)
    xy = np.stack(np.divmod(np.arange(16), 4)[::-1], axis=1).astype(float)
    coordinates = np.stack([xy, xy + 0.5], axis=1) if segments else xy
    return RoadNetwork(network.tail, network.head, network.features, coordinates=coordinates)


def test_they_are_among_all_pictures():
    from sb3_mirl import plots as everything

    assert everything.route_map is plots.route_map and everything.weights is plots.weights
    assert everything.destination_accuracy is plots.destination_accuracy


def test_a_map_draws_flows_as_widths(ax):
    network = on_a_plane()
    model = MaxEntRouteChoice.from_weights(network, [-2.0, -1.0])
    flows = model.remaining_flows([0, 1], [15, 12], [0.7, 0.3])
    assert plots.route_map(ax, network, flows, [0, 1], [15, 12], [0.7, 0.3]) is ax
    streets, widths, path = ax.collections[:3]
    assert len(streets.get_segments()) == network.n_edges and len(path.get_segments()) == 1
    drawn = np.sort(widths.get_linewidths())
    assert drawn[-1] == pytest.approx(7) and len(drawn) == (flows > 1e-3 * flows.max()).sum()
    assert np.ptp(drawn / np.sqrt(np.sort(flows)[-len(drawn) :])) < 1e-6
    assert [text.get_text() for text in ax.texts] == ["1: 0.70", "2: 0.30"]


def test_on_a_map_of_segments_flows_are_those_that_enter(ax):
    network = on_a_plane(segments=True)
    flows = np.arange(network.n_edges, dtype=float)
    plots.route_map(ax, network, flows, [0, 1, 2], [5])
    entering = np.bincount(network.head, flows)
    widths = ax.collections[1].get_linewidths()
    assert np.max(widths) == pytest.approx(7) and len(widths) == (entering > 1e-3 * entering.max()).sum()
    assert len(ax.collections[2].get_segments()) == 3 and ax.texts[0].get_text() == "1"
    with pytest.raises(ValueError, match=r"one number per edge, \(48,\), got \(3,\)"):
        plots.route_map(ax, network, [1, 2, 3])
    with pytest.raises(ValueError, match="no coordinates"):
        plots.route_map(ax, grid(4), np.ones(48))


def test_weights_have_intervals(ax):
    network = grid(5, n_features=2)
    model = MaxEntRouteChoice(network).fit(trips(MaxEntRouteChoice.from_weights(network, [-2.0, -1.0, -0.5]), 100, seed=0))
    assert plots.weights(ax, model) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == list(network.feature_names)
    low, high = ax.lines[0].get_xdata()
    assert (low + high) / 2 == pytest.approx(model.weights_[0]) and high - low == pytest.approx(
        2 * 1.96 * model.weight_errors_[0], rel=1e-3
    )
    ax.clear()
    plots.weights(ax, model, ["feature_2"], relative_to="feature_1", worth=60)
    assert ax.lines[1].get_xdata()[0] == pytest.approx(60 * model.weights_[2] / model.weights_[1]) and "60" in ax.get_xlabel()


def test_accuracy_has_an_interval(ax):
    assert plots.destination_accuracy(ax, [0, 0.5, 1], [0.3, 0.8, 1.0], n_paths=100) is ax
    assert ax.lines[0].get_ydata().tolist() == [30, 80, 100]
    (band,) = ax.collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert ends.min() == pytest.approx(100 * 0.2189, abs=0.05) and ends.max() == pytest.approx(100, abs=0.01)  # Wilson's


def run(name, *arguments):
    result = subprocess.run([sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_quickstart_prints_weights_and_destinations(tmp_path):
    printed = run("route_choice_quickstart.py")
    assert "highway=residential" in printed and "U-turn" in printed and printed.count("to ((") == 5


@pytest.mark.slow  # 20 s
def test_the_paper_on_a_village(tmp_path):
    printed = run("reproduce_routes.py", "--scale", "0.0068", "--trips", "40", "--out", str(tmp_path))
    assert "| MaxEnt paths |" in printed and "100 % seen: 1.000 right" in printed and "interstate" in printed
    for name in ("summary.md", "model.npz", "fit.npz", "figure_3.png", "figure_4_and_5.png"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.slow  # 20 s
def test_the_reward_of_an_agent_and_the_benchmark(tmp_path):
    printed = run("reward_of_an_agent.py", "--out", str(tmp_path))
    assert "log rho(right) / rho(up) is 3.211" in printed and (tmp_path / "reward_of_an_agent.png").stat().st_size > 0
    header, _, row = run("benchmark_irl.py", "--sizes", "1000", "--rounds", "1", "--lu").splitlines()
    assert header.count("|") == row.count("|") and row.startswith("| 881 | 2932 |")
