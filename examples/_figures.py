"""The paper's figures from the CSVs of an experiment, for reproduce_atari.py and reproduce_minatar.py."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_mirl import plots
from sb3_mirl.common.files import write_whole
from sb3_mirl.experiments import statistics
from sb3_mirl.experiments.results import Normalise, last_scores, markdown, score_arrays

PAPER_AGENTS = ("dqn", "sb3_dqn", "sql", "mirl")  # SB3's beside ours, where it was run
ABLATION_AGENTS = ("dqn", "sql", "sql_m", "mirl")
COLUMNS = 5


class Results(NamedTuple):
    """An experiment's CSVs, and how to normalise their scores."""

    snapshots: pd.DataFrame
    history: pd.DataFrame | None
    priors: pd.DataFrame | None
    games: Sequence[str]
    exploration: str
    normalise: Normalise
    unit: str
    smoothing: float  # snapshots in the moving average of the normalised curves

    def agents(self, wanted: Sequence[str]) -> list[str]:
        """Return those of the agents that there are."""
        return [agent for agent in wanted if agent in set(self.snapshots["agent"])]


class Final(NamedTuple):
    """All agents at the last snapshot, with bootstrap intervals."""

    scores: dict[str, np.ndarray]  # (seeds, games), normalised
    iqm: dict[str, statistics.Estimate]
    improvements: dict[str, statistics.Estimate]  # "mirl,<agent>": probability that a run of MIRL is better
    caption: str


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of a line among many: the palette is repeated with other dashes."""
    turn, place = divmod(number, len(plots.ACTION_COLOURS))
    return {"color": plots.ACTION_COLOURS[place], "linestyle": ("-", "--", ":")[turn % 3]}


def shared_legend(figure: Figure, width: float) -> None:
    """One legend above all axes, each name in it once; ``width`` of a name in inches."""
    handles = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    columns = min(max(1, int(figure.get_figwidth() / width)), len(handles))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, frameon=False)


def read(out: Path, exploration: str, normalise: Normalise, unit: str, smoothing: float = 1.0) -> Results:
    """
    Read the CSVs of an experiment.

    :param exploration: how the evaluations to be drawn explored
    :param unit: of the normalised score
    :param smoothing: window of the normalised curves, in snapshots
    """
    snapshots = pd.read_csv(out / "snapshots.csv")
    history, priors = (pd.read_csv(p) if (p := out / name).exists() else None for name in ("history.csv", "priors.csv"))
    finished = snapshots[snapshots["timesteps"] == snapshots["timesteps"].max()]
    games = list(dict.fromkeys(finished["game"]))
    return Results(snapshots, history, priors, games, exploration, normalise, unit, smoothing)


def final(results: Results) -> Final | None:
    """Estimate what :func:`aggregates` draws; None where no agent has run all games with a seed. Takes some seconds."""
    _, scores = _scores(results, plots.COLOURS)
    if not scores:
        return None
    last = {agent: x[..., -1] for agent, x in scores.items()}
    pairs = [("mirl", other) for other in last if other != "mirl"] if "mirl" in last else []
    improvements = statistics.probability_of_improvement(last, pairs) if pairs else {}
    iqm = statistics.iqm({agent: x[..., -1:] for agent, x in scores.items()})
    return Final(last, iqm, improvements, _caption(results, scores))


def draw_all(results: Results, last: Final | None, out: Path) -> list[Path]:
    """
    Write all figures.

    :param last: from :func:`final`
    :return: the files written
    """
    figures: dict[str, Callable[[Results], Figure | None]] = {
        "figure_2_median": lambda r: normalised_curves(r, PAPER_AGENTS),
        "figure_3_ablation": lambda r: normalised_curves(r, ABLATION_AGENTS),
        "figure_4_priors": priors,
        "figure_5_games": lambda r: game_curves(r, r.agents(PAPER_AGENTS)),
        "figure_6_ablation_games": lambda r: game_curves(r, r.agents(("sql", "sql_m", "mirl", "mirl_u", "mirl_mix"))),
        "figure_7_beta": lambda r: histories(r, "beta", "β"),
        "figure_8_beta_max_q": lambda r: histories(r, "beta_max_q", "β max$_a$ Q(s, a)"),
        "seeds": seeds,
        "aggregates": lambda r: None if last is None else aggregates(r, last),
    }
    if "rare_action" in results.games:
        figures["rare_action"] = lambda r: rare_action(r, "rare_action", "PUSH")
    written = []
    for name, draw in figures.items():
        figure = draw(results)
        if figure is not None:
            written.append(out / f"{name}.png")
            write_whole(written[-1], "png", partial(figure.savefig, format="png", dpi=110))
            plt.close(figure)
    return written


def normalised_curves(results: Results, agents: Sequence[str]) -> Figure | None:
    """Draw Figures 2 and 3: the median over games, and beside it the IQM over games and seeds, both with intervals."""
    timesteps, scores = _scores(results, agents)
    if not scores:
        return None
    smooth = {a: plots.smoothed(x.reshape(-1, x.shape[-1]), results.smoothing).reshape(x.shape) for a, x in scores.items()}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharex=True)
    for ax, name, aggregate in zip(axes, ("Median over games", "IQM"), (statistics.median, statistics.iqm), strict=True):
        for agent, estimate in aggregate(smooth, reps=500).items():
            plots.estimate_curve(ax, timesteps, estimate, agent)
        ax.set_title(name, loc="left")
        plots.step_axis(ax, float(timesteps[-1]))
    axes[0].set_ylabel(f"normalised score ({results.unit})")
    axes[1].legend(frameon=False)
    figure.suptitle(_caption(results, scores))
    return figure


def aggregates(results: Results, last: Final) -> Figure:
    """Draw IQM, performance profile, and probability that MIRL improves on each other agent, all at the last snapshot."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained", width_ratios=[1, 1.3, 1])
    plots.estimate_bars(axes[0], last.iqm)
    axes[0].set_title("IQM", loc="left")
    axes[0].set_xlabel(f"normalised score ({results.unit})")
    # in some games scores are many times what they are in most
    highest = 1.5 * np.percentile(np.concatenate([x.ravel() for x in last.scores.values()]), 90)
    thresholds = np.linspace(0, max(float(highest), 1.0), 80)
    for agent, estimate in statistics.performance_profile(last.scores, thresholds).items():
        plots.estimate_curve(axes[1], thresholds, estimate, agent)
    axes[1].set(xlabel=f"τ ({results.unit})", ylim=(0, 1), xlim=(0, thresholds[-1]))
    axes[1].set_title("Fraction of runs with score > τ", loc="left")
    axes[1].spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, loc="upper right")
    if last.improvements:
        plots.estimate_bars(axes[2], last.improvements)
        axes[2].axvline(0.5, color="0.5", linewidth=0.8, linestyle=":", zorder=0)
        axes[2].set(xlim=(0, 1))
        axes[2].set_title("Probability of improvement", loc="left")
    figure.suptitle(last.caption)
    return figure


def summary(results: Results, last: Final | None) -> str:
    """Return the numbers of :func:`aggregates` in Markdown, with their intervals."""
    if last is None:
        return ""
    cells = {
        f"IQM, {results.unit}": {agent: f"{last.iqm[agent]:.2f}" for agent in last.scores},
        "probability that MIRL is better": {key.split(",")[1]: f"{x:.2f}" for key, x in last.improvements.items()},
    }
    table = pd.DataFrame(cells, index=list(last.scores)).fillna("").rename(index=plots.LABELS).rename_axis("last snapshot")
    return f"\n{last.caption}\n\n{markdown(table)}"


def final_scores(snapshots: pd.DataFrame) -> str:
    """
    Return the scores at the last snapshot in Markdown: mean over the seeds with its 95 % bootstrap interval (number of
    seeds); "training" is the mean of the last 100 episodes of training.
    """
    cells = {}
    for (game, measure, agent), runs in last_scores(snapshots).groupby(["game", "measure", "agent"])["score"]:
        cells[f"{game}, {measure}", plots.LABELS[agent]] = f"{statistics.mean(runs):.1f} ({len(runs)})"
    table = pd.Series(cells).unstack().rename_axis("game, evaluation's exploration")
    return markdown(table[[label for label in plots.LABELS.values() if label in table.columns]].fillna(""))


def game_curves(results: Results, agents: Sequence[str]) -> Figure | None:
    """Draw Figures 5 and 6: the score of each game, mean with its 95 % bootstrap interval, and every seed as a thin line."""
    chosen = results.snapshots[results.snapshots["exploration"] == results.exploration]
    chosen = chosen[chosen["agent"].isin(agents)]

    def draw(ax: Axes, game: str) -> None:
        for agent in agents:
            runs = chosen[(chosen["game"] == game) & (chosen["agent"] == agent)]
            if len(runs):
                # as far as all seeds have come
                table = runs.pivot(index="seed", columns="timesteps", values="score").dropna(axis="columns")
                plots.estimate_curve(ax, table.columns, statistics.mean(table), agent, runs=table)
        plots.step_axis(ax, float(chosen["timesteps"].max()))

    games = [game for game in results.games if game in set(chosen["game"])]
    return _grid(games, draw, "score", legend=True) if agents else None


def priors(results: Results) -> Figure | None:
    """Draw Figure 4: the prior of MIRL in each game, mean over the seeds; the six most probable actions are named."""
    if results.priors is None:
        return None
    of_mirl = results.priors[results.priors["agent"] == "mirl"]

    def draw(ax: Axes, game: str) -> None:
        mean_prior(ax, of_mirl[of_mirl["game"] == game])

    return _grid([g for g in results.games if g in set(of_mirl["game"])], draw, "ρ(a)")


def mean_prior(ax: Axes, runs: pd.DataFrame) -> None:
    """
    Draw the mean over the seeds of one agent's prior in one game.

    :param runs: its lines of ``priors.csv``
    """
    mean = runs.groupby(["timesteps", "action"], sort=False)["probability"].mean().unstack()
    history = {"timesteps": mean.index, "prior": mean.to_numpy(), "actions": list(mean.columns)}
    plots.prior_curves(ax, history, len(plots.ACTION_COLOURS))


def histories(results: Results, name: str, label: str) -> Figure | None:
    """Draw Figures 7 and 8: beta and beta max Q of MIRL in each game, one line per seed."""
    if results.history is None:
        return None
    of_mirl = results.history[results.history["agent"] == "mirl"]

    def draw(ax: Axes, game: str) -> None:
        for _, run in of_mirl[of_mirl["game"] == game].groupby("seed"):
            plots.history_curve(ax, {key: run[key].to_numpy() for key in run}, name, alpha=0.7)

    return _grid([g for g in results.games if g in set(of_mirl["game"])], draw, label)


def seeds(results: Results) -> Figure:
    """Draw the score of every run at the last snapshot, in training and greedily or as it is evaluated, with its mean."""
    last = last_scores(results.snapshots).dropna(subset="score")
    wanted = dict.fromkeys(("training", "none", results.exploration))
    measures = [measure for measure in wanted if measure in set(last["measure"])]
    games = [game for game in results.games if game in set(last["game"])]
    size = max(2.6 * len(games), 5), 2.6 * len(measures) + 0.4
    figure, axes = plt.subplots(len(measures), len(games), figsize=size, squeeze=False, layout="constrained")
    for ax, (measure, game) in zip(axes.flat, itertools.product(measures, games), strict=True):
        chosen = last[(last["game"] == game) & (last["measure"] == measure)]
        scores = {agent: runs for agent in plots.COLOURS if len(runs := chosen.loc[chosen["agent"] == agent, "score"])}
        plots.seed_dots(ax, scores, {agent: statistics.mean(runs) for agent, runs in scores.items()})
        ax.set_title(f"{game.replace('_', ' ')}, {'greedy' if measure == 'none' else measure}", loc="left", fontsize=9)
    figure.suptitle("Every run at the last snapshot; mean with its 95 % bootstrap interval", fontsize=10)
    return figure


def rare_action(results: Results, game: str, action: str) -> Figure | None:
    """Draw section 7's weakness: each agent's return in training, and the prior of the rare action; seeds are thin lines."""
    chosen = results.snapshots[(results.snapshots["game"] == game) & (results.snapshots["exploration"] == results.exploration)]
    if results.priors is None or chosen.empty:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for agent in results.agents(list(plots.COLOURS)):
        colour = plots.COLOURS[agent]
        runs = chosen[chosen["agent"] == agent].pivot(index="seed", columns="timesteps", values="training_score")
        left.plot(runs.columns, runs.to_numpy().T, color=colour, linewidth=0.6, alpha=0.4)
        left.plot(runs.columns, runs.mean(), color=colour, linewidth=2.2, label=plots.LABELS[agent])
        rho = results.priors.query("game == @game and agent == @agent and action == @action")
        for _, run in rho.groupby("seed"):
            right.plot(run["timesteps"], run["probability"], color=colour, linewidth=0.9, alpha=0.6)
    left.set_title("Return in training: mean and each seed", loc="left")
    left.set(ylabel="return of the last 100 episodes", ylim=(0, 1.05 * chosen["training_score"].max()))
    right.set_title(f"Prior of the rare action {action}: each seed", loc="left")
    right.set(ylabel=f"ρ({action})", yscale="log")
    for ax in (left, right):
        plots.step_axis(ax, float(chosen["timesteps"].max()))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(left.lines), frameon=False)
    return figure


def _scores(results: Results, agents: Sequence[str] | Mapping[str, str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return score_arrays(results.snapshots, list(agents), results.games, results.exploration, results.normalise)


def _caption(results: Results, scores: Mapping[str, np.ndarray]) -> str:
    seeds = sorted({len(x) for x in scores.values()})
    n_seeds = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    games = f"{len(results.games)} games" if len(results.games) > 1 else results.games[0]
    return f"{games}, {n_seeds} seed{'s' if seeds[-1] > 1 else ''}, 95 % bootstrap intervals"


def _grid(games: Sequence[str], draw: Callable[[Axes, str], None], label: str, legend: bool = False) -> Figure | None:
    if not games:
        return None
    columns = min(COLUMNS, len(games))
    rows = -(-len(games) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(3.4 * columns, 5), 2.6 * rows + 0.4), squeeze=False, layout="constrained"
    )  # fmt: skip
    for ax, game in zip(axes.flat, games, strict=False):
        draw(ax, game)
        ax.set_title(game.replace("_", " "), loc="left")
        ax.set_xlabel("")
    for ax in list(axes.flat)[len(games) :]:
        ax.set_visible(False)
    figure.supxlabel("environment steps")
    figure.supylabel(label)
    if legend:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure
