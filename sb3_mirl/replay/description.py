"""What a replay buffer is, beside its contents: its settings and its rows."""

from typing import Any

from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_mirl.replay.buffer import FrameReplayBuffer
from sb3_mirl.replay.rows import ArrayRows, Rows

_SETTINGS = (
    "gamma",
    "gae_lambda",
    "optimize_memory_usage",
    "handle_timeout_termination",
    "n_sampled_goal",
    "goal_selection_strategy",
    "copy_info_dict",
)


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


def rows_of(buffer: ReplayBuffer, n_added: int | None = None) -> Rows | None:
    """
    Return a replay buffer's rows.

    :param buffer: a replay buffer
    :param n_added: number of rows added so far, where it is known: SB3's buffers do not count them
    :return: its rows, or None for a buffer that may be more than rows (another class, a subclass, HER's, SB3's
        memory-optimised variant)
    """
    if type(buffer) is FrameReplayBuffer:
        return buffer.rows
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer) or buffer.optimize_memory_usage:
        return None
    least = buffer.pos + (buffer.buffer_size if buffer.full else 0)
    agrees = n_added is not None and n_added % buffer.buffer_size == buffer.pos and n_added >= least
    return ArrayRows(buffer, n_added if agrees and n_added is not None else least)
