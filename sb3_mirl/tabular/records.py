"""What a tabular run leaves behind, in SB3's own file formats."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import ResultsWriter

from sb3_mirl.common.files import write_whole
from sb3_mirl.tabular.kernels import Log, empty_log


class Records:
    """Episodes, evaluations and, when asked for, the actions of a run.

    ``evaluation_timesteps`` (N,), ``evaluation_returns`` and ``evaluation_lengths`` (N, episodes) are the snapshots;
    ``episode_returns``, ``episode_lengths`` and ``episode_ends`` (the step) (E,) the training episodes; ``states`` and
    ``actions`` (steps,) are filled by ``learn(record_actions=True)``. Without them a run keeps 24 bytes per training episode
    and what it evaluates.
    """

    episode_returns: NDArray[np.float64]
    episode_lengths: NDArray[np.int64]
    episode_ends: NDArray[np.int64]
    states: NDArray[np.int32]
    actions: NDArray[np.int32]
    evaluation_timesteps: NDArray[np.int64]
    evaluation_returns: NDArray[np.float64]
    evaluation_lengths: NDArray[np.int64]

    def __init__(self) -> None:
        self._writer: ResultsWriter | None = None
        self._started = self._last = 0.0
        self._chunks: list[Log] = []
        self._keep([empty_log(0, False, 0, 0)])

    def _keep(self, logs: list[Log]) -> None:
        for name, arrays in zip(Log._fields, zip(*logs, strict=True), strict=True):
            setattr(self, name, np.concatenate([array for array in arrays if len(array)] or arrays[:1]))

    def check_episodes(self, n_eval_episodes: int) -> None:
        """Refuse another number of episodes than that of the snapshots so far."""
        snapshots, episodes = self.evaluation_returns.shape
        if snapshots and episodes != n_eval_episodes:
            raise ValueError(f"n_eval_episodes={n_eval_episodes} must stay {episodes} when a run goes on")

    @contextmanager
    def open(self, log_path: str | os.PathLike[str] | None, env_id: str, anew: bool) -> Iterator[None]:
        """Record a run, or with ``anew`` False the continuation of one; the arrays are there when it ends.

        :param log_path: folder that gets ``monitor.csv`` (a line per training episode, SB3's ``Monitor``) and
            ``evaluations.npz`` (SB3's ``EvalCallback``, replaced when the new one is whole); a continuation adds to them
        """
        if anew or not self._started:
            self._keep([empty_log(0, False, 0, 0)])
            self._started = time.time()
        self._last = time.time()
        if log_path is not None:
            target = os.path.join(log_path, "monitor.csv")
            header: dict[str, float | str] = {"t_start": self._started, "env_id": env_id}
            self._writer = ResultsWriter(target, header=header, override_existing=anew or not os.path.exists(target))
        try:
            yield
        finally:
            before = Log(*(getattr(self, name) for name in Log._fields))
            self._keep([before, *self._chunks])
            self._chunks = []
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if log_path is not None and len(self.evaluation_timesteps):
                write_whole(os.path.join(log_path, "evaluations.npz"), "npz", self._write_evaluations)

    def add(self, log: Log, n_episodes: int, first: int, n_steps: int) -> None:
        """Take over what the ``n_steps`` steps after step ``first`` left in ``log``."""
        log = log._replace(  # copies: not the whole chunk's buffer
            **{name: getattr(log, name)[:n_episodes].copy() for name in Log._fields if name.startswith("episode")}
        )
        now = time.time()
        if self._writer is not None:
            # the compiled loop has no clock: episodes are taken to end evenly over the chunk
            times = self._last - self._started + (log.episode_ends - first) / n_steps * (now - self._last)
            for r, length, t in zip(log.episode_returns, log.episode_lengths, times, strict=True):
                self._writer.write_row({"r": round(float(r), 6), "l": int(length), "t": round(float(t), 9)})  # SB3 sorts by t
        self._last = now
        self._chunks.append(log)

    def _write_evaluations(self, path: str) -> None:
        with open(path, "wb") as file:  # given a path, NumPy would append ".npz"
            results, lengths = self.evaluation_returns, self.evaluation_lengths
            np.savez(file, timesteps=self.evaluation_timesteps, results=results, ep_lengths=lengths)
