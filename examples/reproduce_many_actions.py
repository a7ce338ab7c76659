"""
Does a learned prior help where there are many actions, of which few matter? Return against the number of actions.

    python examples/reproduce_many_actions.py                                  # the 3 x 20 corridor, three minutes
    python examples/reproduce_many_actions.py --world square --seeds 5
    python examples/reproduce_many_actions.py --games breakout freeway --seeds 5 --timesteps 3e5 --jobs 2   # MinAtar, days

The action set is padded to 18, 64 and 256 actions in two ways: by actions that do nothing ("idle"), and by copies of the
environment's own ("copies"). Uniform exploration then wastes most of its actions, or spreads what it learns over the copies.

Q-learning, SQL, SQL_m and MIRL with the defaults of `reproduce_gridworlds.py`; on MinAtar SoftDQN at beta = inf, SQL and MIRL
with those of `reproduce_minatar.py`. The score is the mean return over the snapshots of the first half of training, and over
those of its last tenth, by the paper's evaluation (epsilon 0.05, random actions as in training). Finished runs are kept: the
same command goes on.

Writes to --out: many_actions.csv (one line per run), many_actions.md (means with 95 % bootstrap intervals, and the differences
between MIRL and each other agent, paired by seed) and many_actions.png, with every seed. Needs sb3-mirl[plots].
"""

import argparse
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _command_line import experiment_parser, run
from matplotlib.axes import Axes

import sb3_mirl  # noqa: F401  registers the gridworlds
from sb3_mirl import plots
from sb3_mirl.common.files import claimed, write_whole
from sb3_mirl.experiments import MINATAR, statistics
from sb3_mirl.experiments.results import markdown
from sb3_mirl.experiments.snapshots import write_csv
from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMIRL, train_in_parallel
from sb3_mirl.tabular.agents import TabularAgent

WORLDS = {"corridor": "MirlCorridor-v0", "square": "MirlSquare-v0"}
SIZES, EXTRA = (4, 18, 64, 256), ("idle", "copies")
TABULAR, DEEP = ("ql", "sql", "sql_m", "mirl"), ("dqn", "sql", "mirl")
SNAPSHOTS, MAX_EVAL_STEPS = 100, 100
MEASURES = {"first_half": "first half of training", "last_tenth": "last tenth of training"}
KEYS = ["task", "extra", "n_actions", "agent", "seed"]


class Cell(NamedTuple):
    """What distinguishes the tabular runs."""

    task: str
    extra: str
    n_actions: int
    agent: str
    seed: int

    def make(self) -> TabularAgent:
        """Return the untrained agent."""
        env = gym.make(WORLDS[self.task], n_actions=self.n_actions, extra_actions=self.extra)
        if self.agent == "ql":
            return QLearning(env, seed=self.seed)
        if self.agent == "mirl":
            return TabularMIRL(env, seed=self.seed)
        return SoftQLearning(env, exploration="marginal" if self.agent == "sql_m" else "uniform", seed=self.seed)


def main() -> None:
    parser = experiment_parser(__doc__, MINATAR, 500_000, 50_000)
    parser.set_defaults(games=[], algos=None, seeds=10, out=Path("results/many_actions"))
    parser.add_argument("--world", choices=list(WORLDS), default="corridor", help="of the tabular agents (default: corridor)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N", help="numbers of actions")
    parser.add_argument("--extra", nargs="+", choices=EXTRA, default=list(EXTRA), help="what the further actions do")
    args = parser.parse_args()
    with claimed(args.out):
        table = deep(args) if args.games else tabular(args)
        report(table, args.out)


def tabular(args: argparse.Namespace) -> pd.DataFrame:
    """Run what is missing of the gridworld's part; return one line per run."""
    file = args.out / "many_actions.csv"
    done = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*KEYS, *MEASURES, "timesteps"])
    if len(done) and set(done["timesteps"]) != {args.timesteps}:
        raise SystemExit(f"{file} has runs of {done['timesteps'].iloc[0]} steps: choose another --out.")
    known = set(done[KEYS].itertuples(index=False, name=None))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    groups = itertools.product(seeds, args.extra, sorted(args.sizes), args.algos or TABULAR)
    waiting = [cell for seed, extra, n, agent in groups if (cell := Cell(args.world, extra, n, agent, seed)) not in known]
    if not args.plots_only:
        # a batch is what a kill loses
        for start in range(0, len(waiting), batch := len(TABULAR) * len(SIZES)):
            rows = train(waiting[start : start + batch], args.timesteps)
            done = pd.concat([done, rows]) if len(done) else rows
            write_csv(done, file, "%.6g")
            print(f"{min(start + batch, len(waiting))}/{len(waiting)} runs", flush=True)
    return done


def train(cells: Sequence[Cell], timesteps: int) -> pd.DataFrame:
    """Train agents at once; return one line for each."""
    agents = [cell.make() for cell in cells]
    train_in_parallel(agents, timesteps, eval_freq=max(1, timesteps // SNAPSHOTS), max_eval_steps=MAX_EVAL_STEPS)
    curves = [agent.records.evaluation_returns.mean(axis=1) for agent in agents]
    scores = [{"first_half": c[: len(c) // 2].mean(), "last_tenth": c[-max(1, len(c) // 10) :].mean()} for c in curves]
    rows = [{**cell._asdict(), **score, "timesteps": timesteps} for cell, score in zip(cells, scores, strict=True)]
    return pd.DataFrame(rows)


def deep(args: argparse.Namespace) -> pd.DataFrame:
    """Run what is missing of MinAtar's part; return one line per run."""
    games = args.games
    args.algos = args.algos or list(DEEP)
    args.games = [f"{game}+{extra}_{n}" for game in games for extra in args.extra for n in sorted(args.sizes) if n >= 6]
    run(args, MINATAR)
    snapshots = pd.read_csv(args.out / "snapshots.csv").query("exploration == @args.eval_exploration[0]")
    end = snapshots["timesteps"].max()
    parts = {"first_half": snapshots["timesteps"] <= end / 2, "last_tenth": snapshots["timesteps"] > 0.9 * end}
    keys = ["game", "agent", "seed"]
    table = pd.DataFrame({name: snapshots[part].groupby(keys)["score"].mean() for name, part in parts.items()}).reset_index()
    table[["task", "extra", "n_actions"]] = table["game"].str.extract(r"(.+)\+(.+)_(\d+)")
    table = table.astype({"n_actions": int})[[*KEYS, *MEASURES]].assign(timesteps=end).dropna()
    write_csv(table, args.out / "many_actions.csv", "%.6g")
    return table


def report(table: pd.DataFrame, out: Path) -> None:
    """Write the tables and the figure of all tasks."""
    parts = []
    for task, of_task in table.groupby("task"):
        parts += [text for extra, runs in of_task.groupby("extra") for text in (means(task, extra, runs), gains(runs))]
        figure = draw(of_task)
        name = "many_actions.png" if table["task"].nunique() == 1 else f"many_actions_{task}.png"
        write_whole(out / name, "png", partial(figure.savefig, format="png", dpi=110))
        plt.close(figure)
    (out / "many_actions.md").write_text("\n".join(parts))
    print("\n".join(parts))


def means(task: str, extra: str, runs: pd.DataFrame) -> str:
    """Return mean scores with bootstrap intervals in Markdown."""
    cells = {}
    for (n_actions, agent), group in runs.groupby(["n_actions", "agent"]):
        for measure, name in MEASURES.items():
            cells[f"{name}, {n_actions} actions", agent] = f"{statistics.mean(group[measure]):.1f} ({len(group)})"
    table = pd.Series(cells).unstack()
    order = [f"{name}, {n} actions" for name in MEASURES.values() for n in sorted(runs["n_actions"].unique())]
    table = table.loc[order, [agent for agent in (*TABULAR, *DEEP[:1]) if agent in table]].fillna("")
    return f"{task}, {extra}: mean return [95 % bootstrap interval] (seeds)\n\n{named(table)}"


def gains(runs: pd.DataFrame) -> str:
    """Return MIRL's score less each other agent's, paired by seed, in Markdown."""
    cells = {}
    for measure, name in MEASURES.items():
        wide = runs.pivot(index=["n_actions", "seed"], columns="agent", values=measure)
        for n_actions, of_size in wide.groupby("n_actions"):
            for agent in [agent for agent in wide if agent != "mirl" and "mirl" in wide]:
                pairs = (of_size["mirl"] - of_size[agent]).dropna()
                if len(pairs):
                    cells[f"{name}, {n_actions} actions", agent] = f"{statistics.mean(pairs):+.1f}"
    if not cells:
        return ""
    table = pd.Series(cells).unstack(sort=False).fillna("")
    return f"MIRL less the others, paired by seed; {table.size} intervals, not corrected for their number\n\n{named(table)}"


def named(table: pd.DataFrame) -> str:
    return markdown(table.rename(columns=plots.LABELS).rename_axis(""))


def draw(runs: pd.DataFrame) -> plt.Figure:
    """Return the figure: scores against the number of actions, a row per measure, a column per kind of padding."""
    kinds = [extra for extra in EXTRA if extra in set(runs["extra"])]
    figure, axes = plt.subplots(
        2, len(kinds), figsize=(5 * len(kinds), 7), layout="constrained", squeeze=False, sharex=True, sharey="row"
    )
    for (row, (measure, name)), (column, extra) in itertools.product(enumerate(MEASURES.items()), enumerate(kinds)):
        curves(axes[row, column], runs[runs["extra"] == extra], measure)
        axes[row, column].set_title(f"{name}; further actions: {extra}", loc="left", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    figure.supylabel("mean return of an episode")
    figure.supxlabel("number of actions")
    return figure


def curves(ax: Axes, runs: pd.DataFrame, measure: str) -> None:
    """Draw each agent's mean with its interval, and every seed as a dot."""
    agents = [agent for agent in plots.COLOURS if agent in set(runs["agent"])]
    for place, agent in enumerate(agents):
        groups = dict(list(runs[runs["agent"] == agent].groupby("n_actions")[measure]))
        x = np.array(list(groups)) * 1.04 ** (place - (len(agents) - 1) / 2)  # beside each other
        estimates = [statistics.mean(group) for group in groups.values()]
        for at, group in zip(x, groups.values(), strict=True):
            ax.plot(np.full(len(group), at), group, ".", color=plots.COLOURS[agent], alpha=0.35, markersize=4)
        low, high = (np.array([e.point - e.low for e in estimates]), np.array([e.high - e.point for e in estimates]))
        points = [e.point for e in estimates]
        ax.errorbar(x, points, np.nan_to_num([low, high]), color=plots.COLOURS[agent], label=plots.LABELS[agent], capsize=2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(runs["n_actions"].unique()), sorted(runs["n_actions"].unique()))
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
