"""Evaluations of a run at regular snapshots, in files that a resumed run goes on with."""

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.common.callbacks import StatelessCallback
from sb3_mirl.common.extras import extra
from sb3_mirl.common.files import read_arrays, write_whole
from sb3_mirl.evaluation import evaluate
from sb3_mirl.experiments.settings import Settings
from sb3_mirl.mirl import MIRL
from sb3_mirl.soft_dqn import SoftDQN

with extra("plots"):
    import pandas as pd

EVALUATIONS, HISTORY, SNAPSHOTS = "evaluations.npz", "prior_history.npz", "snapshots.csv"
COLUMNS = ("timesteps", "beta", "training_score", "seconds")


class SnapshotCallback(StatelessCallback):
    """
    Every ``snapshot_every`` environment steps: evaluate the agent in each way asked for, and write

    - ``<exploration>/evaluations.npz``, SB3's format: ``timesteps`` (T,), ``results`` and ``ep_lengths`` (T, episodes)
    - ``snapshots.csv``: timesteps, beta, training_score (mean return of the last training episodes), seconds
    - ``prior_history.npz`` of MIRL, as :meth:`sb3_mirl.PriorCallback.save` does

    TensorBoard gets the evaluations' means as ``eval/mean_reward_<exploration>``, beside what the agent logs.
    A checkpoint keeps nothing of it, as what was recorded is in the files.
    The evaluation draws from its own random numbers: training is the same whether and how one evaluates.
    """

    def __init__(self, folder: Path, evaluation: VecEnv, settings: Settings) -> None:
        super().__init__()
        self.folder, self.evaluation, self.settings = folder, evaluation, settings

    def _on_training_start(self) -> None:
        self._begun = time.monotonic()
        path = self.folder / SNAPSHOTS
        before = read_table(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
        self._rows: list[dict[Any, Any]] = before[before["timesteps"] <= self.num_timesteps].to_dict("records")
        self._seconds_before = self._rows[-1]["seconds"] if self._rows else 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # not in _on_step: here the prior, the counters and the replay memory include the step
        if self.num_timesteps % self.settings.snapshot_every == 0:
            self._snapshot(cast(DQN, self.model))

    def _snapshot(self, model: DQN) -> None:
        for exploration in self.settings.eval_exploration:
            self._evaluate(model, exploration)
        model.dump_logs()
        episodes: list[dict[str, Any]] = list(model.ep_info_buffer or [])
        self._rows.append(
            {
                "timesteps": self.num_timesteps,
                "beta": model.beta if isinstance(model, SoftDQN) else np.inf,
                "training_score": float(np.mean([episode["r"] for episode in episodes])) if episodes else np.nan,
                "seconds": self._seconds_before + time.monotonic() - self._begun,
            }
        )
        write_csv(pd.DataFrame(self._rows), self.folder / SNAPSHOTS)
        if isinstance(model, MIRL) and model.prior_callback is not None:
            model.prior_callback.save(self.folder / HISTORY)

    def _evaluate(self, model: DQN, exploration: str) -> None:
        now, settings = self.num_timesteps, self.settings
        returns, lengths = evaluate(
            model, self.evaluation, settings.eval_episodes, settings.eval_epsilon, exploration, seed=now
        )
        self.logger.record(f"eval/mean_reward_{exploration}", returns.mean())
        arrays = {"timesteps": np.array([now]), "results": returns[None], "ep_lengths": lengths[None]}
        path = self.folder / exploration / EVALUATIONS
        if path.exists():
            past = read_evaluations(path)
            # a run that was killed after its last checkpoint comes here a second time
            kept = past["timesteps"] < now
            arrays = {name: np.concatenate([past[name][kept], row]) for name, row in arrays.items()}
        path.parent.mkdir(exist_ok=True)
        write_whole(path, "npz", lambda part: _write_arrays(part, arrays))


def write_csv(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Write a table without its index; an older file is replaced when the new one is whole."""
    write_whole(path, "csv", lambda part: table.to_csv(part, index=False, float_format=float_format))


def _write_arrays(part: Path, arrays: dict[str, np.ndarray]) -> None:
    # an open file, as NumPy would append ".npz" to the name
    with part.open("wb") as file:
        np.savez_compressed(file, **cast(dict[str, Any], arrays))


def read_evaluations(path: Path) -> dict[str, np.ndarray]:
    """
    Read and check an ``evaluations.npz``.

    :return: ``timesteps`` (T,), ``results`` (T, episodes) and ``ep_lengths`` (T, episodes)
    :raises ValueError: if the file is damaged
    """
    names = ("timesteps", "results", "ep_lengths")
    data = read_arrays(path, names)
    if [data[name].ndim for name in names] != [1, 2, 2]:
        raise ValueError(f"{path} holds no evaluations: results must be (timesteps, episodes). Remove it.")
    return data


def read_table(path: Path) -> pd.DataFrame:
    """
    Read and check a run's ``snapshots.csv``.

    :raises ValueError: if it is damaged
    """
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own are of this type
        raise ValueError(f"{path} is damaged, or no table ({error}). Remove it.") from error
    for name in COLUMNS:
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{path} has no column {name!r} of numbers. Remove it.")
    return table


def read_history(path: Path) -> dict[str, np.ndarray]:
    """
    Read and check what :meth:`sb3_mirl.PriorCallback.save` wrote.

    :return: ``timesteps`` (T,), ``prior`` (T, A), ``beta``, ``beta_max_q`` and ``mutual_information`` (T,), ``actions`` (A,)
    :raises ValueError: if it is damaged
    """
    data = read_arrays(path, ("timesteps", "prior", "beta", "beta_max_q", "mutual_information"))
    if "actions" not in data or data["prior"].shape[1:] not in (data["actions"].shape, ()):
        raise ValueError(f"{path} holds no history of a prior: it must have one name per action. Remove it.")
    # () stands for no point yet, before learning_starts
    return {**data, "prior": data["prior"].reshape(len(data["prior"]), len(data["actions"]))}
