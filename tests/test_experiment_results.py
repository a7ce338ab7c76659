"""What becomes of an experiment's results: statistics with known answers, comparisons of agents, pictures."""

import colorsys
import re
import runpy
import sys
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy.stats import t as student_t
from scipy.stats import trim_mean

from sb3_mirl import plots
from sb3_mirl.experiments import results, statistics

EXAMPLES = Path(__file__).parent.parent / "examples"
FIGURES = EXAMPLES / "figures"


def scores_of(rng: np.random.Generator, seeds: int, offset: float = 0.0) -> np.ndarray:
    return rng.normal(size=(seeds, 4, 3)) + offset


def test_aggregates_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    scores = {"mirl": scores_of(rng, 8, 10.0), "dqn": scores_of(rng, 5)}
    state = np.random.get_state()[1].copy()
    iqm, again = statistics.iqm(scores, reps=200), statistics.iqm(scores, reps=200)
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    for agent, x in scores.items():
        for t in range(3):
            assert iqm[agent].point[t] == pytest.approx(trim_mean(x[..., t].ravel(), 0.25))
        np.testing.assert_array_equal(iqm[agent].low, again[agent].low)
        assert (iqm[agent].low < iqm[agent].point).all() and (iqm[agent].point < iqm[agent].high).all()
    median = statistics.median(scores, reps=50)
    np.testing.assert_allclose(median["dqn"].point, np.median(scores["dqn"].mean(axis=0), axis=0))
    last = {agent: x[..., -1] for agent, x in scores.items()}
    better = statistics.probability_of_improvement(last, [("mirl", "dqn"), ("dqn", "dqn")], reps=50)
    assert better["mirl,dqn"].point == 1 and better["dqn,dqn"].point == 0.5
    profile = statistics.performance_profile(last, [-100, 5, 100], reps=50)
    np.testing.assert_array_equal(profile["mirl"].point, [1, 1, 0])
    np.testing.assert_array_equal(profile["dqn"].point, [1, 0, 0])


def test_the_interval_of_a_mean_is_that_of_all_resamples() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 50.0])
    every = np.array([x[list(chosen)].mean() for chosen in product(range(5), repeat=5)])
    estimate = statistics.mean(x, reps=20_000)
    assert estimate.point == 12
    np.testing.assert_allclose([estimate.low, estimate.high], np.percentile(every, [2.5, 97.5]), atol=0.25)
    assert 1 <= estimate.low and estimate.high <= 50, "it stays in the range of the scores"
    assert f"{estimate:.0f}" == "12 [2, 31]" and f"{statistics.mean(x[:1]):.0f}" == "1"
    shifted = statistics.difference(x + 5, np.zeros(3), reps=20_000)
    np.testing.assert_allclose(shifted, np.array(estimate) + 5, atol=0.25)
    both = statistics.mean(np.stack([x, -x], axis=1))
    np.testing.assert_allclose(both.point, [12, -12])
    assert both.low[0] == -both.high[1]


RLIABLE = {
    # rliable 1.2.0, 2000 resamples, of examples/figures/minatar.csv as `of_the_readme` reads it: point, low, high
    "iqm": {"sql": (0.8272, 0.7808, 0.8796), "mirl": (0.8438, 0.7713, 0.9045)},
    "median": {"sql": (0.8278, 0.7744, 0.9058), "mirl": (0.8031, 0.7222, 0.8974)},
    "profile": {"sql": (0.16, 0.04, 0.28), "mirl": (0.28, 0.16, 0.4)},
    "improvement": {"mirl,sql": (0.488, 0.328, 0.6402), "mirl,dqn": (0.6, 0.448, 0.744)},
}


def of_the_readme() -> dict[str, np.ndarray]:
    """The evaluations of MinAtar with random actions, over the best agents' scores: (seeds, games, T)."""
    best = {"asterix": 5, "breakout": 7, "freeway": 40, "seaquest": 2, "space_invaders": 36}
    snapshots = pd.read_csv(FIGURES / "minatar.csv")
    return results.score_arrays(snapshots, ["dqn", "sql", "mirl"], list(best), "prior", lambda game, x: x / best[game])[1]


def test_numbers_are_those_of_rliable() -> None:
    scores = of_the_readme()
    assert scores["mirl"].shape == (5, 5, 2)
    last = {agent: x[..., -1] for agent, x in scores.items()}
    ours = {
        "iqm": statistics.iqm({agent: x[..., -1:] for agent, x in scores.items()}),
        "median": statistics.median({agent: x[..., -1:] for agent, x in scores.items()}),
        "profile": statistics.performance_profile(last, [1.0]),
        "improvement": statistics.probability_of_improvement(last, [("mirl", "sql"), ("mirl", "dqn")]),
    }
    for name, estimates in RLIABLE.items():
        for key, (point, low, high) in estimates.items():
            estimate = ours[name][key]
            assert estimate.point.item() == pytest.approx(point, abs=5e-5), (name, key)
            # two draws of 2000 resamples differ by about 0.005
            assert [estimate.low.item(), estimate.high.item()] == pytest.approx([low, high], abs=0.02), (name, key)


def test_wider_levels_give_wider_intervals() -> None:
    scores = {agent: x[..., -1] for agent, x in of_the_readme().items()}
    (narrow,), (wide,) = (
        statistics.probability_of_improvement(scores, [("mirl", "sql")], level=level).values() for level in (0.8, 0.975)
    )
    assert wide.low < narrow.low < narrow.point < narrow.high < wide.high


def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    monkeypatch.setattr(sys, "argv", ["report_results.py", *map(str, arguments), "--reps", "50"])
    runpy.run_path(str(EXAMPLES / "report_results.py"), run_name="__main__")
    return capsys.readouterr().out


def test_the_numbers_of_the_results_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = report(monkeypatch, capsys, "minatar", "--figures", tmp_path)
    assert (tmp_path / "minatar_seeds.png").stat().st_size > 10_000
    assert "60 tests, p < 0.05 in 16 of them; in 0 after Holm's correction, in 4 after" in told
    assert re.search(r"\| asterix, greedy \| 6.61 \[.*\] \(5\) \|", told)
    training, greedy = told.split("training: probability")[1].split("greedy: probability")
    assert "| MIRL > SQL | 0.53 [" in training and "| MIRL > SQL | 0.45 [" in greedy
    assert "| MIRL, mixed exploration > MIRL | 0.76 [" in report(monkeypatch, capsys, "rare_action")
    assert re.search(
        r"corridor, idle: .*\n(.*\n)*\| first half of training, 256 actions ", report(monkeypatch, capsys, "many_actions")
    )
    with pytest.raises(SystemExit, match="There is no section 'nothing', choose from minatar, "):
        report(monkeypatch, capsys, "nothing")


@pytest.mark.parametrize(("advantage", "decided"), [(3.0, "shown"), (-3.0, "refuted"), (0.0, "open")])
def test_the_plan_decides(
    advantage: float, decided: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (game, agent, seed, t, "none", rng.normal() + advantage * (agent == "mirl"), np.inf, t + advantage * (agent == "mirl"))
        for game, agent, seed, t in product("ab", ("dqn", "sql", "mirl"), range(4), (1, 2))
    ]
    rows += [("a", "sql", 9, 1, "none", 1e9, 1.0, 1e9)]  # has not come to its end
    columns = ["game", "agent", "seed", "timesteps", "exploration", "score", "beta", "training_score"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "snapshots.csv", index=False)
    told = report(monkeypatch, capsys, "plan", "--scores", tmp_path / "snapshots.csv")
    assert re.search(rf"\| MIRL > SQL, greedy, 97.5 % \| .* \| 2 \| 4 and 4 \| {decided} \|", told)
    assert re.search(r"\| MIRL > SoftDQN, β=∞, greedy, 95 % \| .* \| 2 \| 4 and 4 \|  \|", told)
    assert f"| a, training | 1.50 [1.50, 1.50] (4) | 1.50 [1.50, 1.50] (4) | {1.5 + advantage:.2f} [" in told
    assert "12 tests" in told or "6 tests" in told


def test_pairs_are_tested_by_welch_and_corrected_for_their_number() -> None:
    rng = np.random.default_rng(0)
    draws = {(game, agent): rng.normal(i, 1 + i, size=4 + i) for game in "ab" for i, agent in enumerate(("x", "y", "z"))}
    draws |= {("c", "x"): np.ones(3), ("c", "y"): np.ones(3), ("c", "z"): np.ones(1)}
    rows = [(game, agent, seed, score) for (game, agent), values in draws.items() for seed, score in enumerate(values)]
    compare = runpy.run_path(str(EXAMPLES / "compare_agents.py"))["compare"]
    table = compare(pd.DataFrame(rows, columns=["game", "agent", "seed", "score"]), ["x", "y", "z"])
    pairs = list(zip(table["game"], table["agent"], table["other"], strict=True))
    assert pairs == [(g, *pair) for g in "ab" for pair in (("x", "y"), ("x", "z"), ("y", "z"))] + [("c", "x", "y")]
    for row in table.head(6).itertuples():
        x, y = draws[row.game, row.agent], draws[row.game, row.other]
        variances = y.var(ddof=1) / len(y), x.var(ddof=1) / len(x)
        t = (y.mean() - x.mean()) / np.sqrt(sum(variances))
        df = sum(variances) ** 2 / (variances[0] ** 2 / (len(y) - 1) + variances[1] ** 2 / (len(x) - 1))
        assert row.p == pytest.approx(2 * student_t.sf(abs(t), df))
        assert row.difference.point == pytest.approx(y.mean() - x.mean())
    assert table[["p", "p_holm", "p_bh"]].iloc[6].isna().all(), "nothing differs: nothing is tested"
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    for column, method in (("p_holm", "holm"), ("p_bh", "fdr_bh")):
        np.testing.assert_allclose(table[column][:6], multipletests(table["p"][:6], method=method)[1])


def test_the_readmes_comparison_of_agents(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"compare_agents.py {FIGURES / 'minatar.csv'} --seeds 0-4 --reps 20"
    monkeypatch.setattr(sys, "argv", line.split())
    runpy.run_path(str(EXAMPLES / "compare_agents.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "30 tests, p < 0.05 in 11 of them; in 2 after Holm's correction, in 9 after Benjamini and Hochberg's." in told
    assert re.search(r"\| asterix \| SQL_m − SoftDQN, β=∞ \| -1.31 \[.*\] \| 0.0014 \| 0.041 \| 0.017 \|", told)
    assert re.search(r"\| freeway \| 6.42 \[.*\] \(5\) \|", told) and re.search(r"\| MIRL > SQL \| 0.53 \[.*\] \| 5 \|", told)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reproduce_atari.py --plots-only --out {}", "There are no results in {}: run the experiment first"),
        ("reproduce_minatar.py --plots-only --out {}", "There are no results in {}: run the experiment first"),
        ("diagnose_prior.py {}", "There is no finished run of SQL or MIRL in {}: run the experiment first."),
        ("compare_agents.py {}/snapshots.csv", "There is no {}/snapshots.csv: run the experiment first."),
        ("benchmark_throughput.py --plots-only --out {}", "There is no {}/throughput.csv: run the benchmark first."),
    ],
)
def test_what_has_not_been_run_is_said_in_one_sentence(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, *arguments = line.format(tmp_path).split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit, match=re.escape(message.format(tmp_path))):
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_one_seed_has_no_interval() -> None:
    estimate = statistics.iqm({"mirl": np.ones((1, 4, 2))}, reps=20)["mirl"]
    assert (estimate.point == 1).all() and np.isnan(estimate.low).all() and np.isnan(estimate.high).all()


def test_only_seeds_complete_in_all_games_are_aggregated() -> None:
    rows = [
        (game, "mirl", seed, t, "prior", 10.0 * seed + t)
        for game in ("a", "b")
        for seed in (0, 1, 2)
        for t in (1, 2)
        if (game, seed, t) != ("b", 1, 2)
    ]
    table = pd.DataFrame(rows, columns=["game", "agent", "seed", "timesteps", "exploration", "score"])
    timesteps, arrays = results.score_arrays(table, ["mirl", "sql"], ["a", "b"], "prior", lambda game, x: 2 * x)
    assert timesteps.tolist() == [1, 2] and set(arrays) == {"mirl"}
    np.testing.assert_array_equal(arrays["mirl"], 2 * np.array([[[1, 2], [1, 2]], [[21, 22], [21, 22]]]))
    best = results.best_snapshots(table, "prior")
    assert best.loc["a", "mirl"] == (2 + 12 + 22) / 3


def test_names_at_the_ends_of_curves_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(18), size=50)
    names = [f"ACTION{i}" for i in range(18)]
    history = {
        "timesteps": np.arange(50), "prior": prior, "actions": np.array(names), "beta": np.logspace(-2, 3, 50),
        "beta_max_q": np.linspace(-5, 400, 50), "mutual_information": rng.random(50),
    }  # fmt: skip
    figure = plots.plot_prior_history(history, title="game")
    figure.canvas.draw()
    top, beta, beta_max_q, information = figure.axes
    # the extent of an annotation would include its line
    boxes = [Text.get_window_extent(text) for text in top.texts if text.get_text() in names]
    boxes.sort(key=lambda box: box.y0)
    assert len(boxes) == 18 and all(low.y0 + 0.9 * low.height < high.y0 for low, high in pairwise(boxes))
    assert [ax.get_yscale() for ax in (beta, beta_max_q, information)] == ["log", "symlog", "linear"]
    with pytest.raises(ValueError, match="nothing is recorded before learning_starts"):
        plots.plot_prior_history({**history, "timesteps": np.zeros(0)})


def test_a_prior_without_a_history_yet_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "g" / "mirl" / "seed_0"
    (folder / "prior").mkdir(parents=True)
    np.savez(folder / "prior" / "evaluations.npz", timesteps=[8], results=[[1.0, 3.0]], ep_lengths=[[5, 5]])
    (folder / "snapshots.csv").write_text("timesteps,beta,training_score,seconds\n8,0.5,2.5,1\n")
    empty = {name: [] for name in ("timesteps", "prior", "beta", "beta_max_q", "mutual_information")}
    np.savez(folder / "prior_history.npz", actions=["LEFT", "RIGHT"], **empty)
    results.collect(tmp_path)
    assert {path.name for path in tmp_path.glob("*.csv")} == {"episodes.csv", "snapshots.csv"}
    (row,) = pd.read_csv(tmp_path / "snapshots.csv").itertuples(index=False)
    assert tuple(row) == ("g", "mirl", 0, 8, "prior", 2, 0.5, 2.5, 1)


def drawn_from(snapshots: pd.DataFrame, priors: pd.DataFrame) -> Any:
    """The examples' module of figures, with the CSVs of an experiment."""
    import _figures

    games = list(snapshots["game"].unique())
    return _figures, _figures.Results(snapshots, None, priors, games, "prior", lambda _, x: x, "unit", 1.0)


def a_prior(game: str, agent: str, actions: Sequence[str]) -> pd.DataFrame:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(actions)), size=2)
    rows = [(game, agent, 0, 100 * t, name, p) for t in (0, 1) for name, p in zip(actions, probabilities[t], strict=True)]
    return pd.DataFrame(rows, columns=["game", "agent", "seed", "timesteps", "action", "probability"])


def some_snapshots(game: str, agents: Sequence[str]) -> pd.DataFrame:
    rows = [(game, agent, seed, t, "prior", seed + t, t) for agent in agents for seed in (0, 1) for t in (50, 100)]
    return pd.DataFrame(rows, columns=["game", "agent", "seed", "timesteps", "exploration", "score", "training_score"])


def test_every_coloured_curve_of_a_prior_is_named() -> None:
    names = ["NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE"]
    figures, six = drawn_from(some_snapshots("g", ["mirl"]), a_prior("g", "mirl", names))
    ax = figures.priors(six).axes[0]
    assert {text.get_text() for text in ax.texts} == set(names)
    colours = {line.get_color() for line in ax.lines[1:]}
    assert colours == {text.get_color() for text in ax.texts} == set(plots.ACTION_COLOURS)
    many = [f"A{i}" for i in range(18)]
    figures, eighteen = drawn_from(some_snapshots("g", ["mirl"]), a_prior("g", "mirl", many))
    ax = figures.priors(eighteen).axes[0]
    assert {line.get_color() for line in ax.lines[1:]} - {text.get_color() for text in ax.texts} == {"#8a8a85"}, "grey"


def test_the_rare_actions_figure_has_labels_and_its_legend_outside() -> None:
    agents = ["dqn", "mirl", "mirl_mix"]
    priors = pd.concat([a_prior("g", agent, ["LEFT", "RIGHT", "PUSH"]) for agent in agents[1:]])
    figures, csvs = drawn_from(some_snapshots("g", agents), priors)
    figure = figures.rare_action(csvs, "g", "PUSH")
    assert [ax.get_ylabel() for ax in figure.axes] == ["return of the last 100 episodes", "ρ(PUSH)"]
    assert all(ax.get_legend() is None for ax in figure.axes), "it would lie on the curves"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [plots.LABELS[agent] for agent in agents]
    for agent, line in zip(agents, legend.get_lines(), strict=True):
        hue = colorsys.rgb_to_hsv(*to_rgb(line.get_color()))[0] * 360
        assert (15 < hue < 45) is agent.startswith("mirl"), "MIRL and its variants are orange, nothing else is"


def test_curves_of_games_go_as_far_as_all_seeds_have_come() -> None:
    snapshots = some_snapshots("g", ["sql"]).iloc[:-1]
    figures, csvs = drawn_from(snapshots, a_prior("g", "mirl", ["A"]))
    *seeds, line = figures.game_curves(csvs, ["sql"]).axes[0].lines
    assert [list(seed.get_ydata()) for seed in seeds] == [[50], [51]], "every seed is a thin line"
    assert line.get_xdata().tolist() == [50] and line.get_ydata().tolist() == [50.5]
