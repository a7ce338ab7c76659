"""What a tabular run leaves behind, in SB3's own file formats."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import ResultsWriter

from sb3_mirl.common.files import write_whole
from sb3_mirl.tabular.kernels import Evaluation, Log


class Records:
    """Episodes, evaluations and, when asked for, the actions of a run.

    ``evaluation_timesteps`` (N,), ``evaluation_returns`` and ``evaluation_lengths`` (N, episodes) are the snapshots;
    ``episode_returns``, ``episode_lengths`` and ``episode_ends`` (the step) (E,) the training episodes; ``states`` and
    ``actions`` (steps,) are filled by ``learn(record_actions=True)``. Without them a run keeps 24 bytes per training episode
    and what it evaluates.
    """

    def __init__(self) -> None:
        self._clear()
        self._writer: ResultsWriter | None = None
        self._started = self._last = 0.0

    def _clear(self) -> None:
        self.evaluation_timesteps: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.evaluation_returns: NDArray[np.float64] = np.empty((0, 0))
        self.evaluation_lengths: NDArray[np.int64] = np.empty((0, 0), dtype=np.int64)
        self.episode_returns: NDArray[np.float64] = np.empty(0)
        self.episode_lengths: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.episode_ends: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.states: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self.actions: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._chunks: dict[str, list[NDArray[Any]]] = {}

    @contextmanager
    def open(self, log_path: str | os.PathLike[str] | None, env_id: str, anew: bool) -> Iterator[None]:
        """Record a run, or with ``anew`` False the continuation of one; the arrays are there when it ends.

        :param log_path: folder that gets ``monitor.csv`` (a line per training episode, SB3's ``Monitor``) and
            ``evaluations.npz`` (SB3's ``EvalCallback``; it replaces an older one when it is whole); a continuation adds to them
        """
        if anew or not self._started:
            self._clear()
            self._started = time.time()
        self._last = time.time()
        if log_path is not None:
            target = os.path.join(log_path, "monitor.csv")
            header: dict[str, float | str] = {"t_start": self._started, "env_id": env_id}
            self._writer = ResultsWriter(target, header=header, override_existing=anew or not os.path.exists(target))
        try:
            yield
        finally:
            self._join_chunks()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if log_path is not None and len(self.evaluation_timesteps):
                write_whole(os.path.join(log_path, "evaluations.npz"), "npz", self._write_evaluations)

    def add(
        self, log: Log, n_episodes: int, evaluation: Evaluation, snapshots: NDArray[np.int64], first: int, n_steps: int
    ) -> None:
        """Take over what the ``n_steps`` steps after step ``first`` left in the loop's arrays."""
        now = time.time()
        if self._writer is not None:
            # the compiled loop has no clock: episodes are taken to end evenly over the chunk
            begun, taken = self._last - self._started, now - self._last
            times = begun + (log.ends[:n_episodes] - first) / n_steps * taken
            for r, length, t in zip(log.returns[:n_episodes], log.lengths[:n_episodes], times, strict=True):
                self._writer.write_row({"r": round(float(r), 6), "l": int(length), "t": round(float(t), 9)})  # SB3 sorts by t
        self._last = now
        new: dict[str, NDArray[Any]] = {
            "episode_returns": log.returns[:n_episodes].copy(),  # not the whole chunk's buffer
            "episode_lengths": log.lengths[:n_episodes].copy(),
            "episode_ends": log.ends[:n_episodes].copy(),
            "states": log.states,
            "actions": log.actions,
        }
        if len(snapshots):
            new |= {"evaluation_timesteps": snapshots}
            new |= {"evaluation_returns": evaluation.returns, "evaluation_lengths": evaluation.lengths}
        for name, array in new.items():
            self._chunks.setdefault(name, []).append(array)

    def _join_chunks(self) -> None:
        for name, arrays in self._chunks.items():
            before = getattr(self, name)
            setattr(self, name, np.concatenate([before, *arrays] if len(before) else arrays))
        self._chunks = {}

    def _write_evaluations(self, path: str) -> None:
        with open(path, "wb") as file:  # given a path, NumPy would append ".npz"
            np.savez(
                file,
                timesteps=self.evaluation_timesteps,
                results=self.evaluation_returns,
                ep_lengths=self.evaluation_lengths,
            )
