"""What any replay buffer consists of: its settings, and rows, numbered in the order in which they were added."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_mirl.replay.buffer import FrameReplayBuffer
from sb3_mirl.replay.layout import per_env

_SETTINGS = (
    "gamma",
    "gae_lambda",
    "optimize_memory_usage",
    "handle_timeout_termination",
    "n_sampled_goal",
    "goal_selection_strategy",
    "copy_info_dict",
)
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ArrayRows:
    """
    The rows of SB3's buffers, which keep them in arrays (C, N, ...); :class:`~sb3_mirl.replay.FrameReplayBuffer` has the same
    methods itself.

    :param buffer: one of SB3's buffers
    :param n_added: number of rows added since the last reset
    """

    def __init__(self, buffer: ReplayBuffer, n_added: int) -> None:
        self.buffer = buffer
        self.n_added = n_added
        self.n_kept = buffer.buffer_size  # number of the newest rows of which something is kept
        self._arrays: dict[str, np.ndarray] = {}
        for name in _ARRAYS:
            value = getattr(buffer, name)
            self._arrays |= {f"{name}/{key}": value[key] for key in value} if isinstance(value, dict) else {name: value}

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """
        Return copies of the rows from ``first``, counted from the last reset and among the ``n_kept`` newest, to ``last`` - 1.
        """
        rows = np.arange(first, last) % self.n_kept
        return {"rows": rows, **{name: array[rows] for name, array in self._arrays.items()}}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """
        Put rows back where they were: after :meth:`set_position`, and older rows first.

        :raises ValueError: if they are rows of another shape
        """
        rows = arrays["rows"]
        for name, array in self._arrays.items():
            array[rows] = per_env(f"saved {name}", arrays[name], len(rows), array.shape[1:])

    def get_position(self) -> dict[str, Any]:
        """Return everything but the rows."""
        return {"n_added": self.n_added}

    def set_position(self, position: dict[str, Any]) -> None:
        """Continue where another buffer was, whose rows are to be written next."""
        self.n_added = position["n_added"]
        self.buffer.pos, self.buffer.full = self.n_added % self.n_kept, self.n_added >= self.n_kept


Rows = ArrayRows | FrameReplayBuffer
"""What can be saved and restored row by row."""


def describe(buffer: BaseBuffer) -> dict[str, Any]:
    """
    Describe a buffer by all that must agree for one to stand in for another: with different values, the algorithm would
    silently be another one, or break later. Device and contents are left out.

    :param buffer: any of SB3's buffers, or :class:`~sb3_mirl.replay.FrameReplayBuffer`
    :return: values to be compared by ``==``, in the order in which they matter: "class"; "rows" and "environments", of which
        one transition each is a row; the spaces; "n_steps" (1 for buffers without); "gamma" where samples depend on it;
        "frame_stack" and "channels" (the stacking axis, "first" or "last") of frames; and the other settings that the
        class has
    """
    found: dict[str, Any] = {
        "class": type(buffer).__name__,
        "rows": buffer.buffer_size,
        "environments": buffer.n_envs,
        "observation_space": buffer.observation_space,
        "action_space": buffer.action_space,
        "n_steps": getattr(buffer, "n_steps", 1),
    }
    found |= {name: getattr(buffer, name) for name in _SETTINGS if hasattr(buffer, name)}
    if isinstance(buffer, ReplayBuffer) and found["n_steps"] == 1:
        found.pop("gamma", None)
    if isinstance(buffer, FrameReplayBuffer):
        found |= {"frame_stack": buffer.layout.frame_stack, "channels": "first" if buffer.layout.channels_first else "last"}
    return found


def check_same(own: Mapping[str, Any], found: Mapping[str, Any], source: Any, ignored: Collection[str] = ()) -> None:
    """
    Compare what :func:`describe` says of a model's buffer with what it said of another one, read from ``source``.

    :raises ValueError: naming the first difference that is not ``ignored``
    """
    for name in {**own, **found}:
        here, there = own.get(name), found.get(name)
        if name not in ignored and here != there:
            raise ValueError(
                f"{source} does not fit this model: it has {name}={there!r}, the model {name}={here!r}. Make the model with "
                "the arguments and the environment of the one that saved it, or start with an empty memory."
            )


def rows_of(buffer: ReplayBuffer, n_added: int | None = None) -> Rows | None:
    """
    Return a replay buffer's rows.

    :param buffer: a replay buffer
    :param n_added: number of rows added so far, where it is known: SB3's buffers do not count them
    :return: its rows, or None for a buffer that may be more than rows (another class, a subclass, HER's, SB3's
        memory-optimised variant)
    """
    if type(buffer) is FrameReplayBuffer:
        return buffer
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer) or buffer.optimize_memory_usage:
        return None
    least = buffer.pos + (buffer.buffer_size if buffer.full else 0)
    agrees = n_added is not None and n_added % buffer.buffer_size == buffer.pos
    return ArrayRows(buffer, max(n_added, least) if agrees and n_added is not None else least)
