"""The runs of an experiment as tables: from the files of the runs to CSVs, and from CSVs to arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sb3_mirl.common.extras import extra
from sb3_mirl.experiments import snapshots as files
from sb3_mirl.experiments.settings import Run

with extra("plots"):
    import pandas as pd

HISTORY_POINTS = 200
LABELS = ["game", "agent", "seed"]
SERIES = ["beta", "beta_max_q", "mutual_information"]
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
    episodes = _together(out, f"*/{files.EVALUATIONS}", _episodes)
    if episodes.empty:
        raise FileNotFoundError(f"There are no results in {out}: run the experiment to its first snapshot.")
    files.write_csv(episodes, out / "episodes.csv")
    keys = [*LABELS, "timesteps"]
    means = episodes.groupby([*keys, "exploration"], as_index=False)["score"].mean()
    details = _together(out, files.SNAPSHOTS, files.read_table)
    files.write_csv(means.merge(details, how="left", on=keys), out / "snapshots.csv", "%.6g")
    history = histories(out)
    if not history.empty:
        files.write_csv(history[[*keys, *SERIES]], out / "history.csv", "%.6g")
        files.write_csv(priors(history), out / "priors.csv", "%.5g")


def histories(out: Path) -> pd.DataFrame:
    """
    Return the records of all priors in ``out``, at most :data:`HISTORY_POINTS` points of each, empty if there are none.

    :return: game, agent, seed, timesteps, beta, beta_max_q, mutual_information (nats), a column for each action
    """
    return _together(out, files.HISTORY, _history)


def priors(history: pd.DataFrame) -> pd.DataFrame:
    """
    Return the priors in records of them, a line for each action at each point.

    :param history: from :func:`histories`
    :return: game, agent, seed, timesteps, action, probability
    """
    keys = [*LABELS, "timesteps"]
    return history.drop(columns=SERIES).melt(keys, var_name="action", value_name="probability").dropna()


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
    wide = chosen.pivot(index=["agent", "seed"], columns=["game", "timesteps"], values="score")
    complete = wide.reindex(columns=pd.MultiIndex.from_product([games, timesteps])).dropna()
    arrays = {}
    for agent in [agent for agent in agents if agent in complete.index]:
        raw = complete.loc[agent].to_numpy().reshape(-1, len(games), len(timesteps))
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


def _together(out: Path, pattern: str, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read the files of all runs, with game, agent and seed in front."""
    paths = sorted(out.glob(f"cells/*/*/seed_*/{pattern}"))
    if not paths:
        return pd.DataFrame()
    runs = [Run.of(Path(*path.relative_to(out).parts[:4])) for path in paths]
    return pd.concat(map(read, paths), keys=runs, names=LABELS).reset_index(LABELS).reset_index(drop=True)


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


def _history(path: Path) -> pd.DataFrame:
    """At most :data:`HISTORY_POINTS` points of a prior's history, with a column for each action."""
    data = files.read_history(path)
    n_points = len(data["timesteps"])
    kept = np.unique(np.linspace(0, n_points - 1, min(n_points, HISTORY_POINTS)).astype(int))
    columns = {name: data[name] for name in ("timesteps", *SERIES)} | dict(zip(data["actions"], data["prior"].T, strict=True))
    return pd.DataFrame({name: values[kept] for name, values in columns.items()})
