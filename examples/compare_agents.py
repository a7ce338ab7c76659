"""
Which differences between agents are more than chance? Means with bootstrap intervals, and corrected tests of each pair.

    python examples/compare_agents.py examples/figures/minatar.csv
    python examples/compare_agents.py results/minatar/snapshots.csv --measure none --agents dqn mirl

Reads the snapshots.csv of one or more experiments and takes each run's score at the last snapshot of its game. Prints, in
Markdown:

- the mean over seeds of each game and agent, with its 95 % bootstrap interval and the number of seeds
- for each game and pair of agents the difference of their means with its bootstrap interval, Welch's p, and p corrected for
  the number of tests: by Holm (the probability of any false discovery) and by Benjamini and Hochberg (their expected share)
- the probability that a run of one agent scores higher than one of another in a game drawn at random, over the games
  that both have played

``--measure training`` is the mean of the last 100 episodes of training; the others are evaluations, by how these explored.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, ttest_ind

from sb3_mirl.experiments.results import last_scores, markdown
from sb3_mirl.experiments.statistics import REPS, Estimate, difference, mean, probability_of_improvement
from sb3_mirl.plots import LABELS

LEVEL = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshots", type=Path, nargs="+", help="snapshots.csv")
    parser.add_argument("--agents", nargs="+", default=["dqn", "sql", "sql_m", "mirl"], help="(default: the paper's four)")
    parser.add_argument("--games", nargs="+", help="(default: all)")
    parser.add_argument("--seeds", type=seed_range, default=range(1000), metavar="FIRST-LAST", help="(default: all)")
    parser.add_argument("--measure", default="training", help="training (default), prior, uniform or none")
    parser.add_argument("--reps", type=int, default=REPS, help=f"resamples of each bootstrap (default: {REPS})")
    args = parser.parse_args()
    missing = [path for path in args.snapshots if not path.exists()]
    if missing:
        raise SystemExit(f"There is no {missing[0]}: run the experiment first.")
    table = last_scores(pd.concat([pd.read_csv(path) for path in args.snapshots]))
    chosen = (table["measure"] == args.measure) & table["agent"].isin(args.agents) & table["seed"].isin(args.seeds)
    if args.games:
        chosen &= table["game"].isin(args.games)
    scores = table[chosen]
    if scores.empty:
        raise SystemExit(
            f"No run of {', '.join(args.agents)} with the measure {args.measure!r} in {', '.join(map(str, args.snapshots))}."
        )
    print(f"Score at the last snapshot, measure: {args.measure}; mean over seeds [95 % bootstrap interval] (seeds)\n")
    print(means(scores, args.agents, args.reps))
    print(differences(scores, args.agents, args.reps))
    print(improvements(scores, args.agents, args.reps))


def compare(scores: pd.DataFrame, agents: Sequence[str], reps: int = REPS) -> pd.DataFrame:
    """
    Test each pair of agents in each game, by Welch's t-test, and correct for the number of tests.

    :param scores: game, agent, seed, score; one line per run
    :param agents: names, in the order of the table; a pair needs two seeds of each in a game
    :return: game, agent, other, difference (other's mean less agent's), p, p_holm (family-wise error rate), p_bh (false
        discovery rate, Benjamini & Hochberg 1995); p is NaN where no score differs from its mean
    """
    rows = []
    for game, runs in scores.groupby("game"):
        samples = {agent: runs.loc[runs["agent"] == agent, "score"].to_numpy() for agent in agents}
        for agent, other in itertools.combinations((a for a in agents if len(samples[a]) > 1), 2):
            x, y = samples[other], samples[agent]
            p = ttest_ind(x, y, equal_var=False).pvalue if np.ptp(x) + np.ptp(y) > 0 else np.nan
            rows.append((game, agent, other, difference(x, y, reps), p))
    table = pd.DataFrame(rows, columns=["game", "agent", "other", "difference", "p"])
    tested = table["p"].dropna()
    return table.assign(
        p_holm=pd.Series(holm(tested), tested.index), p_bh=pd.Series(false_discovery_control(tested), tested.index)
    )


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """
    Correct p-values for their number, keeping the probability of any false discovery (Holm 1979).

    :param p: (n,)
    :return: (n,), in the same order
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    steps = np.maximum.accumulate(np.arange(len(values), 0, -1) * values[order])
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def means(scores: pd.DataFrame, agents: list[str], reps: int) -> str:
    cells = {}
    for (game, agent), runs in scores.groupby(["game", "agent"]):
        cells[game, label(agent)] = f"{mean(runs['score'], reps):.2f} ({len(runs)})"
    table = pd.Series(cells).unstack().rename_axis("game")
    return markdown(table[[label(agent) for agent in agents if label(agent) in table]].fillna(""))


def differences(scores: pd.DataFrame, agents: list[str], reps: int) -> str:
    table = compare(scores, agents, reps)
    columns = {
        "pair": [f"{label(other)} − {label(agent)}" for agent, other in zip(table["agent"], table["other"], strict=True)],
        "difference": [f"{difference:+.2f}" for difference in table["difference"]],
        "p (Welch)": table["p"].map("{:.2g}".format),
        "Holm": table["p_holm"].map("{:.2g}".format),
        "Benjamini-Hochberg": table["p_bh"].map("{:.2g}".format),
    }
    text = markdown(pd.DataFrame(columns).set_index(pd.Index(table["game"], name="game")))
    below = {name: int((table[name] < LEVEL).sum()) for name in ("p", "p_holm", "p_bh")}
    return (
        f"{text}\n{table['p'].count()} tests, p < {LEVEL} in {below['p']} of them; in {below['p_holm']} after Holm's "
        f"correction, in {below['p_bh']} after Benjamini and Hochberg's.\n"
    )


def improvements(scores: pd.DataFrame, agents: list[str], reps: int) -> str:
    cells = {}
    for agent, other in itertools.combinations(agents, 2):
        estimate, n_games = improvement(scores, agent, other, reps)
        if estimate is not None:
            cells[f"{label(other)} > {label(agent)}"] = [f"{estimate:.2f}", n_games]
    table = pd.DataFrame.from_dict(cells, orient="index", columns=["probability", "games"]).rename_axis("pair")
    return markdown(table)


def improvement(scores: pd.DataFrame, agent: str, other: str, reps: int) -> tuple[Estimate | None, int]:
    """Return the probability that ``other`` is better, and the number of games: those with all seeds that both have."""
    pair = {
        name: scores[scores["agent"] == name].pivot(index="seed", columns="game", values="score") for name in (agent, other)
    }
    games = pair[agent].columns.intersection(pair[other].columns)
    arrays = {name: table[games].dropna().to_numpy() for name, table in pair.items()}
    if not len(games) or not all(map(len, arrays.values())):
        return None, 0
    return probability_of_improvement(arrays, [(other, agent)], reps)[f"{other},{agent}"], len(games)


def label(agent: str) -> str:
    return LABELS.get(agent, agent)


def seed_range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    main()
