"""Checks of action spaces."""

from typing import Any

import numpy as np
from gymnasium import spaces


class ActionSpaceError(ValueError, AssertionError):
    """SB3 says by an AssertionError that an algorithm does not support the actions; who expects that one gets it."""


def check_bounded_box(space: spaces.Space[Any], name: str) -> None:
    """
    Refuse actions that are not continuous, or have no bounds.

    :param space: of the actions
    :param name: of the algorithm, for the message
    :raises ActionSpaceError: naming the space
    """
    if not isinstance(space, spaces.Box):
        raise ActionSpaceError(
            f"{name} needs continuous actions, a space Box, got {space}. For discrete actions there is sb3_mirl.SoftDQN."
        )
    if not np.isfinite([space.low, space.high]).all():
        raise ActionSpaceError(
            f"{name} needs actions between finite bounds, got {space}. Declare bounds by a wrapper: "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(low, high))."
        )
