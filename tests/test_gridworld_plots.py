"""The pictures' numbers, and that Figure 1's script writes what it promises."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from scipy.stats import ttest_1samp  # noqa: E402

from sb3_mirl import plots  # noqa: E402
from sb3_mirl.envs.gridworld import MAPS  # noqa: E402

SCRIPT = Path(__file__).parent.parent / "examples" / "reproduce_gridworlds.py"


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()  # what cannot be drawn fails here
    plt.close(figure)


def test_the_interval_is_the_t_tests():
    values = np.random.default_rng(0).normal(size=(10, 3))
    mean, low, high = plots.mean_interval(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(values.mean(axis=0))
    assert low == pytest.approx(expected.low) and high == pytest.approx(expected.high)


def test_missing_values_are_missing():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    mean, low, high = plots.mean_interval(values)
    assert mean[:2] == pytest.approx([2, 5]) and np.isnan(mean[2])
    assert low[0] < 2 < high[0] and np.isnan(low[1])


def test_smoothing_is_the_moving_average_it_says():
    values = np.array([[1.0, 4.0, 2.0, 8.0]])
    alpha, weights, expected = 2 / (10 + 1), [], []
    for i in range(4):
        weights = [(1 - alpha) ** (i - j) for j in range(i + 1)]
        expected.append(np.average(values[0, : i + 1], weights=weights))
    assert plots.smoothed(values, 10)[0] == pytest.approx(expected)
    gap = plots.smoothed(np.array([[1.0, np.nan, 3.0]]), 10)[0]
    assert gap[1] == 1.0 and gap[2] == pytest.approx(np.average([1, 3], weights=[1 - alpha, 1]))


def test_learning_curve_draws_the_mean_in_the_agents_colour(ax):
    values = np.random.default_rng(0).normal(size=(5, 20))
    assert plots.learning_curve(ax, np.arange(20), values, "mirl") is ax
    (line,) = ax.lines
    assert line.get_ydata() == pytest.approx(values.mean(axis=0))
    assert line.get_color() == plots.COLOURS["mirl"] and line.get_label() == "MIRL"


def test_gridworld_draws_a_cell_per_character_and_an_arrow_per_free_cell(ax):
    rows = MAPS["square"]
    policy = np.eye(4)[np.arange(64) % 4]
    assert plots.gridworld(ax, rows, policy) is ax
    cells = [patch for patch in ax.patches if isinstance(patch, matplotlib.patches.Rectangle)]
    arrows = [patch for patch in ax.patches if isinstance(patch, matplotlib.patches.FancyArrowPatch)]
    assert len(cells) == 64 and len(arrows) == "".join(rows).count(".")


def test_the_rose_is_as_long_as_it_is_probable(ax):
    prior = np.array([0.1, 0.6, 0.25, 0.05])
    assert plots.prior_rose(ax, prior, (0.0, 0.0), 3.0) is ax
    petals = [patch for patch in ax.patches if isinstance(patch, matplotlib.patches.Polygon)]
    lengths = np.array([np.abs(petal.get_xy()).max() for petal in petals])
    assert lengths / lengths.max() == pytest.approx(prior / prior.max())
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.60", "0.25", "0.05"]
    ax.set(xlim=(-4, 4), ylim=(-4, 4))


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        ([5.0], [2.0], "3.00"),
        ([100.0, 400.0], [400.0, 700.0], "-300.00 ± 0.00"),
        ([1.0, 2.0], [4.0, 3.0], "-2.00 ± 12.71"),  # two seeds are too few for a test
        ([1.0, 2.0, 3.0, 4.0], [4.0, 5.0, 6.0, 7.0], "-3.00 ± 0.00"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "0.00 ± 0.00"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "2.00 ± 2.48 (p 0.07)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_p_values_are_given_where_there_is_something_to_test(ours, theirs, text):
    paired = runpy.run_path(str(SCRIPT))["paired"]
    assert paired(np.array(ours), np.array(theirs), "final return") == text


def test_reproduce_gridworlds_writes_its_files(tmp_path):
    """Without a warning, with one progress bar, and where the system knows no affinity (macOS, Windows)."""
    code = f"import os, runpy; del os.sched_getaffinity; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    command += ["--seeds", "2", "--timesteps", "3000", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=300, encoding="utf-8")
    assert done.stdout.count("run/s") == 1 and "16/16" in done.stdout and "(p " not in done.stdout
    for name, column in (("evaluations", "mean_return"), ("correct_action", "correct_action")):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(table.columns) == ["world", "agent", "seed", "timestep", column]
        assert set(table["world"]) == {"corridor", "square"} and set(table["agent"]) == {"ql", "sql", "sql_m", "mirl"}
        assert len(table) == 2 * 4 * 2 * 30 and table["timestep"].max() == 3000
    shares = pd.read_csv(tmp_path / "correct_action.csv")["correct_action"].dropna()
    assert shares.between(0, 1).all()
    returns = pd.read_csv(tmp_path / "evaluations.csv")["mean_return"]
    assert returns.between(-100, 9).all()
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("| mirl - ql |") == 2 and "steps to the optimum" in summary
    assert plt.imread(tmp_path / "figure1.png").shape[1] > 1000


@pytest.mark.slow
def test_the_papers_claims(tmp_path):
    """Figure 1: MIRL ahead of QL and SQL on the corridor, on a par on the square, the correct action found sooner."""
    subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path)], check=True, capture_output=True, timeout=600)
    returns, correct = (
        pd.read_csv(tmp_path / f"{name}.csv")
        .pivot_table(index=["world", "agent", "timestep"], columns="seed")
        .droplevel(0, axis=1)
        for name in ("evaluations", "correct_action")
    )
    early = {agent: returns.loc["corridor", agent].loc[:100_000].mean() for agent in ("ql", "sql", "sql_m", "mirl")}
    for baseline in ("ql", "sql", "sql_m"):
        assert ttest_1samp(early["mirl"] - early[baseline], 0, alternative="greater").pvalue < 0.05
    last = {agent: returns.loc["square", agent].loc[225_000:].mean().mean() for agent in early}
    assert abs(last["mirl"] - max(last.values())) < 0.2
    found = {
        agent: (correct.loc["corridor", agent].mean(axis=1).rolling(50).mean() > 0.8).idxmax()
        for agent in ("ql", "sql", "mirl")
    }
    assert found["mirl"] < found["ql"] and found["mirl"] < found["sql"]
