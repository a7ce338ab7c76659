"""Checks of action spaces."""

from typing import Any

import numpy as np
from gymnasium import spaces


class ActionSpaceError(ValueError, AssertionError):
    """SB3 says by an AssertionError that an algorithm does not support the actions; who expects that one gets it."""


def check_discrete(space: spaces.Space[Any], name: str) -> None:
    """
    Refuse actions that are not one of n, counted from 0.

    :param space: of the actions
    :param name: of the algorithm, for the message
    :raises ActionSpaceError: naming the space
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return
    if isinstance(space, spaces.Discrete):
        advice = "Map other numbers to these by gymnasium's TransformAction wrapper."
    elif isinstance(space, spaces.Box):
        advice = "For continuous actions there are sb3_mirl.VIREL and sb3_mirl.ContinuousSQL."
    else:
        advice = "For several actions at once there is sb3_mirl.SoftA2C."
    raise ActionSpaceError(f"{name} needs discrete actions counted from 0, a space Discrete(n), got {space}. {advice}")


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
