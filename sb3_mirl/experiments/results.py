"""The runs of an experiment as tables: from the files of its cells to CSVs, and from CSVs to arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sb3_mirl.experiments.cell import Cell
from sb3_mirl.experiments.snapshots import HISTORY, SNAPSHOTS, read_evaluations, read_history, read_table

HISTORY_POINTS = 200
Normalise = Callable[[str, NDArray[np.float64]], NDArray[np.float64]]
"""(game, raw scores) -> per cent"""


def collect(out: Path) -> None:
    """
    Writes the CSVs of all cells in ``out``, unfinished ones as far as they are:

    - ``episodes.csv``: game, agent, seed, timesteps, exploration, episode, score (unclipped return), length (steps)
    - ``snapshots.csv``: game, agent, seed, timesteps, exploration, score (mean of the episodes), training_score, beta,
      seconds
    - ``history.csv`` (MIRL): game, agent, seed, timesteps, beta, beta_max_q, mutual_information (nats)
    - ``priors.csv`` (MIRL): game, agent, seed, timesteps, action, probability

    :raises FileNotFoundError: if there is no evaluation yet
    :raises ValueError: if a file is damaged
    """
    cells = [Cell.of(path) for path in sorted(out.glob("cells/*/*/seed_*"))]
    episodes = [frame for cell in cells for frame in _episodes(out, cell)]
    if not episodes:
        raise FileNotFoundError(f"No evaluations in {out / 'cells'}: run the experiment to its first snapshot.")
    table = pd.concat(episodes, ignore_index=True)
    table.to_csv(out / "episodes.csv", index=False)
    details = pd.concat([_labelled(read_table(out / c.folder / SNAPSHOTS), c) for c in cells if _has(out, c, SNAPSHOTS)])
    keys = ["game", "agent", "seed", "timesteps"]
    means = table.groupby([*keys, "exploration"], as_index=False)["score"].mean()
    means.merge(details, how="left", on=keys).to_csv(out / "snapshots.csv", index=False, float_format="%.6g")
    histories = [_history(out, cell) for cell in cells if _has(out, cell, HISTORY)]
    if histories:
        pd.concat([h for h, _ in histories]).to_csv(out / "history.csv", index=False, float_format="%.6g")
        pd.concat([p for _, p in histories]).to_csv(out / "priors.csv", index=False, float_format="%.5g")


def score_arrays(
    snapshots: pd.DataFrame, agents: Sequence[str], games: Sequence[str], exploration: str, normalise: Normalise
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """
    Scores of the runs that are complete: those seeds of an agent that reached the last snapshot in all games.

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


def best_snapshots(snapshots: pd.DataFrame, exploration: str) -> pd.DataFrame:
    """
    Table 1's measure: the score of each run's best snapshot, averaged over the seeds.

    :return: index game, columns agents, raw scores
    """
    chosen = snapshots[snapshots["exploration"] == exploration]
    best = chosen.groupby(["game", "agent", "seed"])["score"].max()
    return best.groupby(["game", "agent"]).mean().unstack("agent")


def markdown(table: pd.DataFrame) -> str:
    """A table with its index as the first column, all cells as they print but for TeX's dollars."""
    head = [str(table.index.name or ""), *map(str, table.columns)]
    rows = [[str(index), *map(str, row)] for index, row in zip(table.index, table.to_numpy(), strict=True)]
    lines = [head, ["---"] + ["---:"] * len(table.columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("$", "") + "\n"


def _has(out: Path, cell: Cell, name: str) -> bool:
    return (out / cell.folder / name).exists()


def _labelled(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    return table.assign(game=cell.game, agent=cell.agent, seed=cell.seed)


def _episodes(out: Path, cell: Cell) -> list[pd.DataFrame]:
    frames = []
    for path in sorted((out / cell.folder).glob("*/evaluations.npz")):
        data = read_evaluations(path)
        n_points, n_episodes = data["results"].shape
        frame = pd.DataFrame(
            {
                "timesteps": data["timesteps"].repeat(n_episodes),
                "exploration": path.parent.name,
                "episode": np.tile(np.arange(n_episodes), n_points),
                "score": data["results"].ravel(),
                "length": data["ep_lengths"].ravel(),
            }
        )
        frames.append(_labelled(frame, cell)[["game", "agent", "seed", *frame.columns]])
    return frames


def _history(out: Path, cell: Cell) -> tuple[pd.DataFrame, pd.DataFrame]:
    data = read_history(out / cell.folder / HISTORY)
    n_points = len(data["timesteps"])
    kept = np.unique(np.linspace(0, n_points - 1, min(n_points, HISTORY_POINTS)).astype(int))
    series = {name: data[name][kept] for name in ("timesteps", "beta", "beta_max_q", "mutual_information")}
    prior = pd.DataFrame(data["prior"][kept], columns=[str(a) for a in data["actions"]], index=data["timesteps"][kept])
    long = prior.rename_axis("timesteps").reset_index().melt("timesteps", var_name="action", value_name="probability")
    first = ["game", "agent", "seed"]
    return _labelled(pd.DataFrame(series), cell)[[*first, *series]], _labelled(long, cell)[[*first, *long.columns]]
