"""Evaluations of a run at regular snapshots, in files that a resumed run goes on with."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.atari.evaluation import evaluate
from sb3_mirl.common.files import read_arrays
from sb3_mirl.mirl import MIRL
from sb3_mirl.soft_dqn import SoftDQN

if TYPE_CHECKING:
    from sb3_mirl.experiments.cell import Settings

Report = Callable[[int], None]
REPORT_EVERY = 1000  # environment steps
HISTORY = "prior_history.npz"
SNAPSHOTS = "snapshots.csv"
COLUMNS = ("timesteps", "beta", "training_score", "seconds")


class SnapshotCallback(BaseCallback):
    """
    Every ``snapshot_every`` environment steps: evaluates the agent in each way asked for, and writes

    - ``<exploration>/evaluations.npz``, SB3's format: ``timesteps`` (T,), ``results`` and ``ep_lengths`` (T, episodes)
    - ``snapshots.csv``: timesteps, beta, training_score (mean return of the last training episodes), seconds
    - ``prior_history.npz`` of MIRL, as :meth:`sb3_mirl.PriorCallback.save` does

    The evaluation draws from its own random numbers: training is the same whether and how one evaluates.
    """

    def __init__(
        self,
        folder: Path,
        evaluation: VecEnv,
        settings: "Settings",
        report: Report,
    ) -> None:
        super().__init__()
        self.folder, self.evaluation, self.settings, self.report = folder, evaluation, settings, report

    def _on_training_start(self) -> None:
        self._begun, self._reported = time.monotonic(), self.num_timesteps
        self._rows = _read_rows(self.folder / SNAPSHOTS, self.num_timesteps)
        self._seconds_before = self._rows[-1]["seconds"] if self._rows else 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps - self._reported >= REPORT_EVERY or self.num_timesteps >= self.settings.timesteps:
            self.report(self.num_timesteps - self._reported)
            self._reported = self.num_timesteps
        return True

    def _on_rollout_end(self) -> None:
        # not in _on_step: here the prior, the counters and the replay memory include the step
        if self.num_timesteps % self.settings.snapshot_every == 0:
            self._snapshot(cast(DQN, self.model))

    def _snapshot(self, model: DQN) -> None:
        for exploration in self.settings.eval_exploration:
            self._evaluate(model, exploration)
        episodes: list[dict[str, Any]] = list(model.ep_info_buffer or [])
        self._rows.append(
            {
                "timesteps": self.num_timesteps,
                "beta": model.beta if isinstance(model, SoftDQN) else np.inf,
                "training_score": float(np.mean([episode["r"] for episode in episodes])) if episodes else np.nan,
                "seconds": self._seconds_before + time.monotonic() - self._begun,
            }
        )
        pd.DataFrame(self._rows).to_csv(self.folder / SNAPSHOTS, index=False)
        if isinstance(model, MIRL) and model.prior_callback is not None:
            model.prior_callback.save(self.folder / HISTORY)

    def _evaluate(self, model: DQN, exploration: str) -> None:
        returns, lengths = evaluate(
            model, self.evaluation, self.settings.eval_episodes, self.settings.eval_epsilon, exploration,
            seed=self.num_timesteps,
        )  # fmt: skip
        path = self.folder / exploration / "evaluations.npz"
        path.parent.mkdir(exist_ok=True)
        past = read_evaluations(path, self.num_timesteps)
        np.savez_compressed(
            path,
            timesteps=np.append(past["timesteps"], self.num_timesteps),
            results=np.concatenate([past["results"].reshape(-1, len(returns)), returns[None]]),
            ep_lengths=np.concatenate([past["ep_lengths"].reshape(-1, len(lengths)), lengths[None]]),
        )


def read_evaluations(path: Path, before: int | None = None) -> dict[str, np.ndarray]:
    """
    :param path: an ``evaluations.npz``; it need not exist
    :param before: drop the evaluations from this step on
    :return: ``timesteps`` (T,), ``results`` (T, episodes) and ``ep_lengths`` (T, episodes)
    :raises ValueError: if the file is damaged
    """
    if not path.exists():
        return {"timesteps": np.zeros(0, dtype=int), "results": np.zeros((0, 0)), "ep_lengths": np.zeros((0, 0), dtype=int)}
    names = ("timesteps", "results", "ep_lengths")
    data = read_arrays(path, names)
    if [data[name].ndim for name in names] != [1, 2, 2]:
        raise ValueError(f"{path} holds no evaluations: results must be (timesteps, episodes). Remove it.")
    kept = np.ones(len(data["timesteps"]), dtype=bool) if before is None else data["timesteps"] < before
    return {name: data[name][kept] for name in names}


def read_table(path: Path) -> pd.DataFrame:
    """
    :param path: a ``snapshots.csv``
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
    :param path: what :meth:`sb3_mirl.PriorCallback.save` wrote
    :return: ``timesteps`` (T,), ``prior`` (T, A), ``beta``, ``beta_max_q`` and ``mutual_information`` (T,), ``actions`` (A,)
    :raises ValueError: if it is damaged
    """
    data = read_arrays(path, ("timesteps", "prior", "beta", "beta_max_q", "mutual_information"))
    if "actions" not in data or data["prior"].shape[1:] not in (data["actions"].shape, ()):
        raise ValueError(f"{path} holds no history of a prior: it must have one name per action. Remove it.")
    return data


def _read_rows(path: Path, last: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = read_table(path)
    return cast(list[dict[str, Any]], rows[rows["timesteps"] <= last].to_dict("records"))
