"""The runs of an experiment as tables: from the files of the runs to CSVs, and from CSVs to arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sb3_mirl.experiments import snapshots as files
from sb3_mirl.experiments.settings import Run

HISTORY_POINTS = 200
LABELS = ["game", "agent", "seed"]
Normalise = Callable[[str, NDArray[np.float64]], NDArray[np.float64]]
"""(game, raw scores) -> per cent"""


def collect(out: Path) -> None:
    """
    Write the CSVs of all runs in ``out``, unfinished ones as far as they are:

    - ``episodes.csv``: game, agent, seed, timesteps, exploration, episode, score (unclipped return), length (steps)
    - ``snapshots.csv``: game, agent, seed, timesteps, exploration, score (mean of the episodes), training_score, beta,
      seconds
    - ``history.csv`` (MIRL): game, agent, seed, timesteps, beta, beta_max_q, mutual_information (nats)
    - ``priors.csv`` (MIRL): game, agent, seed, timesteps, action, probability

    :raises FileNotFoundError: if there is no evaluation yet
    :raises ValueError: if a file is damaged
    """
    folders = sorted(out.glob("cells/*/*/seed_*"))
    episodes = [
        _labelled(_episodes(path), path.parents[1])
        for folder in folders
        for path in sorted(folder.glob(f"*/{files.EVALUATIONS}"))
    ]
    if not episodes:
        raise FileNotFoundError(f"There are no results in {out}: run the experiment to its first snapshot.")
    table = pd.concat(episodes, ignore_index=True)
    files.write_csv(table, out / "episodes.csv")
    details = pd.concat(
        [_labelled(files.read_table(f / files.SNAPSHOTS), f) for f in folders if (f / files.SNAPSHOTS).exists()]
    )
    keys = [*LABELS, "timesteps"]
    means = table.groupby([*keys, "exploration"], as_index=False)["score"].mean()
    files.write_csv(means.merge(details, how="left", on=keys), out / "snapshots.csv", "%.6g")
    histories = {f: _thinned(files.read_history(f / files.HISTORY)) for f in folders if (f / files.HISTORY).exists()}
    if histories:
        files.write_csv(pd.concat([_labelled(_series(h), f) for f, h in histories.items()]), out / "history.csv", "%.6g")
        files.write_csv(pd.concat([_labelled(_priors(h), f) for f, h in histories.items()]), out / "priors.csv", "%.5g")


def score_arrays(
    snapshots: pd.DataFrame, agents: Sequence[str], games: Sequence[str], exploration: str, normalise: Normalise
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """
    Return the scores of the runs that are complete: those seeds of an agent that reached the last snapshot in all games.

    :param snapshots: ``snapshots.csv``
    :param agents: names; one without a complete seed is left out
    :param games: names, in the order of the arrays
    :param exploration: how evaluation explored
    :param normalise: of :data:`Normalise`
    :return: timesteps (T,), and for each agent normalised scores (seeds, games, T)
    """
    chosen = snapshots[(snapshots["exploration"] == exploration) & snapshots["game"].isin(games)]
    timesteps = np.sort(chosen["timesteps"].unique())
    arrays = {}
    for agent in agents:
        wide = chosen[chosen["agent"] == agent].pivot(index=["seed", "game"], columns="timesteps", values="score")
        wide = wide.reindex(columns=timesteps).dropna()
        present = wide.groupby(level="seed").size()
        seeds = present.index[present == len(games)]
        if len(seeds):
            raw = np.stack([[wide.loc[(seed, game)].to_numpy() for game in games] for seed in seeds])
            arrays[agent] = np.stack([normalise(game, raw[:, i]) for i, game in enumerate(games)], axis=1)
    return timesteps, arrays


def last_scores(snapshots: pd.DataFrame) -> pd.DataFrame:
    """
    Return the scores at the last snapshot, one line per run and measure.

    :param snapshots: ``snapshots.csv``
    :return: game, agent, seed, measure ("training": the last episodes of training, else how evaluation explored), score
    """
    last = snapshots[snapshots["timesteps"] == snapshots.groupby("game")["timesteps"].transform("max")]
    training = last.drop_duplicates(LABELS).assign(exploration="training", score=lambda runs: runs["training_score"])
    both = pd.concat([training, last]).rename(columns={"exploration": "measure"})
    return both[[*LABELS, "measure", "score"]].reset_index(drop=True)


def best_snapshots(snapshots: pd.DataFrame, exploration: str) -> pd.DataFrame:
    """
    Return Table 1's measure: the score of each run's best snapshot, averaged over the seeds.

    The best of several noisy evaluations is biased upward, the more the more snapshots there are.

    :return: index game, columns agents, raw scores
    """
    chosen = snapshots[snapshots["exploration"] == exploration]
    best = chosen.groupby(LABELS)["score"].max()
    return best.groupby(["game", "agent"]).mean().unstack("agent")


def markdown(table: pd.DataFrame) -> str:
    """Return a table with its index as the first column, all cells as they print but for TeX's dollars."""
    head = [str(table.index.name or ""), *map(str, table.columns)]
    rows = [[str(index), *map(str, row)] for index, row in zip(table.index, table.to_numpy(), strict=True)]
    lines = [head, ["---"] + ["---:"] * len(table.columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("$", "") + "\n"


def _labelled(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    return table.assign(**Run.of(folder)._asdict())[[*LABELS, *table.columns]]


def _episodes(path: Path) -> pd.DataFrame:
    data = files.read_evaluations(path)
    n_points, n_episodes = data["results"].shape
    return pd.DataFrame(
        {
            "timesteps": data["timesteps"].repeat(n_episodes),
            "exploration": path.parent.name,
            "episode": np.tile(np.arange(n_episodes), n_points),
            "score": data["results"].ravel(),
            "length": data["ep_lengths"].ravel(),
        }
    )


def _thinned(history: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    n_points = len(history["timesteps"])
    kept = np.unique(np.linspace(0, n_points - 1, min(n_points, HISTORY_POINTS)).astype(int))
    return {name: values if name == "actions" else values[kept] for name, values in history.items()}


def _series(history: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({name: history[name] for name in ("timesteps", "beta", "beta_max_q", "mutual_information")})


def _priors(history: dict[str, np.ndarray]) -> pd.DataFrame:
    wide = pd.DataFrame(history["prior"], columns=history["actions"].astype(str)).assign(timesteps=history["timesteps"])
    return wide.melt("timesteps", var_name="action", value_name="probability")
