"""
Is there a range of temperatures in which the learned prior helps? SQL and MIRL at constant beta and several scales of reward.

    python examples/sweep_temperature.py --jobs 2                    # two games, two seeds, 3e5 steps: a day of two cores
    python examples/sweep_temperature.py --ray --cpus 1              # the same on a cluster
    python examples/sweep_temperature.py --betas 10 --scales 0.1 --games asterix breakout freeway seaquest space_invaders \\
        --first-seed 210 --seeds 5 --timesteps 1e6 --out results/confirmation    # one setting, confirmed on all games

While beta times the spread of Q is large, the target is DQN's hard maximum and the prior acts through exploration alone
(`diagnose_prior.py`). Here beta stays where it is put, in units of 1 over the game's own reward: rewards multiplied by c are
learned at beta / c. What differs between scales is then the size of Q beside Adam's steps and Huber's bend, not the
temperature; scores are always those of the game.

Each setting is an experiment of its own in --out, in the files of `reproduce_minatar.py`. Writes temperature.csv (one line per
run), temperature.md and temperature.png to --out. The seeds are not those of the table (docs/results/minatar_plan.md).
"""

import argparse
import itertools
import sys
from copy import copy
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from _command_line import experiment_parser, run

from sb3_mirl import plots
from sb3_mirl.common.files import write_whole
from sb3_mirl.experiments import MINATAR, Run, statistics
from sb3_mirl.experiments.results import last_scores, markdown
from sb3_mirl.experiments.snapshots import write_csv

BETAS, SCALES = (1.0, 3.0, 10.0, 30.0, 100.0), (1.0, 0.1)
MEASURES = {"training": "training", "none": "greedy"}
KEYS = ["game", "scale", "beta", "agent", "seed", "measure"]


def main() -> None:
    parser = experiment_parser(__doc__, MINATAR, 300_000, 100_000)
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS), help="inverse temperatures")
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES), help="what rewards are multiplied by")
    parser.set_defaults(
        games=["breakout", "freeway"], algos=["sql", "mirl"], seeds=2, first_seed=200, eval_exploration=["none"],
        out=Path("results/temperature"),
    )  # fmt: skip
    args = parser.parse_args()
    failed: list[Run] = []
    for scale, beta in itertools.product(args.scales, args.betas):
        failed += sweep(args, scale, beta)
    report(gather(args.out), args.out)
    sys.exit(bool(failed))


def sweep(args: argparse.Namespace, scale: float, beta: float) -> list[Run]:
    """Run what is missing of one setting; return the runs that failed."""
    setting = copy(args)
    setting.out = args.out / f"scale_{scale:g}_beta_{beta:g}"
    if args.plots_only and not setting.out.exists():
        return []
    setting.games = [game if scale == 1 else f"{game}+rewards_{scale:g}" for game in args.games]
    constant = [("beta_schedule", "constant"), ("beta_init", beta / scale), ("beta_max", beta / scale)]
    setting.overrides = [*args.overrides, *constant]
    return run(setting, MINATAR)


def gather(out: Path) -> pd.DataFrame:
    """Return the last scores of all settings in units of the games' own rewards, one line per run and measure."""
    parts = []
    for file in sorted(out.glob("scale_*_beta_*/snapshots.csv")):
        scale, beta = (float(text) for text in file.parent.name.removeprefix("scale_").split("_beta_"))
        table = last_scores(pd.read_csv(file)).query("measure in @MEASURES")
        game, score = table["game"].str.split("+").str[0], table["score"] / scale
        parts.append(table.assign(game=game, scale=scale, beta=beta, score=score))
    if not parts:
        raise SystemExit(f"There are no results in {out}: run the experiment first.")
    table = pd.concat(parts)[[*KEYS, "score"]].replace({"measure": MEASURES}).dropna()
    write_csv(table, out / "temperature.csv", "%.6g")
    return table


def report(table: pd.DataFrame, out: Path) -> None:
    """Write the table of means and the figure."""
    cells = {}
    for (game, measure, scale, beta, agent), runs in table.groupby(["game", "measure", "scale", "beta", "agent"])["score"]:
        cells[f"{game}, {measure}, rewards × {scale:g}, β {beta:g}", agent] = f"{statistics.mean(runs):.2f} ({len(runs)})"
    text = markdown(pd.Series(cells).unstack(sort=False).fillna("").rename(columns=plots.LABELS).rename_axis("setting"))
    (out / "temperature.md").write_text(text)
    print(text)
    figure = draw(table)
    write_whole(out / "temperature.png", "png", partial(figure.savefig, format="png", dpi=110))
    plt.close(figure)


def draw(table: pd.DataFrame) -> plt.Figure:
    """Return the figure: score against beta; a row per game and measure, a column per scale; every seed is a dot."""
    rows = list(itertools.product(table["game"].unique(), MEASURES.values()))
    scales = sorted(table["scale"].unique(), reverse=True)
    figure, axes = plt.subplots(
        len(rows), len(scales), figsize=(4.5 * len(scales), 2.4 * len(rows) + 0.6), squeeze=False, sharex=True, sharey="row",
        layout="constrained",
    )  # fmt: skip
    for (row, (game, measure)), (column, scale) in itertools.product(enumerate(rows), enumerate(scales)):
        ax = axes[row, column]
        chosen = table.query("game == @game and measure == @measure and scale == @scale")
        for agent, runs in chosen.groupby("agent"):
            mean = runs.groupby("beta")["score"].mean()
            ax.plot(mean.index, mean, color=plots.COLOURS[agent], label=plots.LABELS[agent])
            ax.plot(runs["beta"], runs["score"], ".", color=plots.COLOURS[agent], alpha=0.5)
        ax.set_xscale("log")
        ax.set_title(f"{game}, {measure}; rewards × {scale:g}", loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel("β, per unit of the game's reward")
    figure.supylabel("return of an episode")
    return figure


if __name__ == "__main__":
    main()
