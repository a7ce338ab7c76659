"""
The paper's Atari experiment (section 5.2): 19 games, DQN, SQL, SQL_m and MIRL.

All of it (weeks on one GPU), by the paper's protocol: 5e7 steps, snapshots every 1e5 steps, each evaluated by 30 episodes of
at most 4500 steps at epsilon 0.05 with unclipped scores:

    python examples/reproduce_atari.py --out results/atari

A part of it, with the hyperparameters scaled to the budget:

    python examples/reproduce_atari.py --games Seaquest Boxing --algos dqn sql mirl --seeds 1 --timesteps 2e5 \\
        --snapshot-every 4e4 --preset short --out results/atari_short

Whether the speed costs learning: this package's DQN beside Stable-Baselines3's, same hyperparameters:

    python examples/reproduce_atari.py --games Boxing --algos dqn sb3_dqn --seeds 3 --timesteps 2e5 \\
        --snapshot-every 4e4 --preset short --out results/parity

Finished runs are kept and a killed one goes on from its last snapshot (with its replay memory: up to 7 GB on disk for each
run under way): the same command continues. Writes to --out: raw CSVs, Table 1 beside the paper's own figures, Figures 2
to 8 and aggregates with intervals as PNGs. `--plots-only` draws them again from the CSVs.
"""

import sys

import _figures
import numpy as np
import pandas as pd
from _command_line import experiment_parser, run
from numpy.typing import NDArray

from sb3_mirl.atari import normalized_score
from sb3_mirl.atari.scores import HUMANS, PAPER_AGENTS, PAPER_TABLE_1, game_name
from sb3_mirl.experiments import ATARI
from sb3_mirl.experiments.results import Normalise, best_snapshots, markdown

SMOOTHING = 1e6
"""Environment steps in the moving average of Figure 2."""


def main() -> None:
    parser = experiment_parser(__doc__, ATARI, 50_000_000, 100_000)
    parser.add_argument("--human", choices=HUMANS, default=HUMANS[0], help="human scores; the paper's are mnih2015")
    args = parser.parse_args()
    args.games = [game_name(game) for game in args.games]
    failed = run(args, ATARI)

    def normalise(game: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return normalized_score(game, scores, args.human)

    exploration = args.eval_exploration[0]
    results = _figures.read(args.out, exploration, normalise, "% of human")
    every = int(np.diff(np.sort(results.snapshots["timesteps"].unique()), prepend=0).min())
    results = results._replace(smoothing=max(1.0, SMOOTHING / every))
    table = table_1(results.snapshots, exploration, normalise)
    table.to_csv(args.out / "table_1.csv", float_format="%.2f")
    last = _figures.final(results)
    text = markdown(table.map(lambda percent: "" if pd.isna(percent) else f"{percent:.2f}")) + _figures.summary(results, last)
    (args.out / "table_1.md").write_text(_heading(results.snapshots, exploration) + text)
    print(text)
    for path in _figures.draw_all(results, last, args.out):
        print(path)
    sys.exit(bool(failed))


def table_1(snapshots: pd.DataFrame, exploration: str, normalise: Normalise) -> pd.DataFrame:
    """Return Table 1: per cent of human at each run's best snapshot, mean over the seeds, beside the paper's figures."""
    from sb3_mirl.plots import LABELS

    raw = best_snapshots(snapshots, exploration)
    ours = pd.DataFrame({g: normalise(g, row.to_numpy()) for g, row in raw.iterrows()}, index=raw.columns).T
    ours = ours[[agent for agent in LABELS if agent in ours]].rename(columns=LABELS)
    paper = pd.DataFrame(PAPER_TABLE_1, index=[f"paper's {agent.upper()}" for agent in PAPER_AGENTS]).T
    table = ours.join(paper).rename_axis("game, % of human")
    return pd.concat([table, table.agg(["mean", "median"])]).rename_axis(table.index.name)


def _heading(snapshots: pd.DataFrame, exploration: str) -> str:
    return (
        f"Best snapshot of each run up to {snapshots['timesteps'].max():,} environment steps, mean over "
        f"{snapshots['seed'].nunique()} seed(s), evaluation's exploration: {exploration}.\n"
        "The paper's budget is 50,000,000 steps.\n\n"
    )


if __name__ == "__main__":
    main()
