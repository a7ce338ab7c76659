"""Action sets made larger by actions that bring nothing new: the case for which a learned prior over actions is meant."""

import math
from typing import Any, get_args

import gymnasium as gym
from gymnasium import spaces

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.envs.gridworld import ExtraActions


class PaddedActions(gym.ActionWrapper[Any, Any, Any]):
    """
    Give an environment more actions than it has.

    (``GridWorldEnv`` has arguments of its own for this, so that its table has the actions too.)

    :param env: an environment with actions counted from 0
    :param n_actions: number of actions, at least those of ``env``
    :param extra_actions: what the further ones do: "idle" does action ``idle``, "copies" action ``a`` modulo those of ``env``
    :param idle: the action that does nothing, 0 in MinAtar and Atari
    :raises ValueError: if the actions of ``env`` do not fit, or an argument is out of range
    """

    def __init__(self, env: gym.Env[Any, Any], n_actions: int, extra_actions: ExtraActions = "idle", idle: int = 0) -> None:
        super().__init__(env)
        if not isinstance(env.action_space, spaces.Discrete) or env.action_space.start != 0:
            raise ValueError(f"The actions must be Discrete and count from 0, got {env.action_space}.")
        own = int(env.action_space.n)
        check_range("n_actions", n_actions, own, math.inf, whole=True)
        check_range("idle", idle, 0, own - 1, whole=True)
        check_choice("extra_actions", extra_actions, get_args(ExtraActions))
        copies = extra_actions == "copies"
        self._does = [a if a < own else a % own if copies else idle for a in range(n_actions)]
        self._own = own
        self.action_space = spaces.Discrete(n_actions)

    def action(self, action: int) -> int:
        """Return what the environment within does."""
        return self._does[int(action)]

    def get_action_meanings(self) -> list[str]:
        """Return the name of each action, in order; a further one has its number behind the name of what it does."""
        names = self.env.get_wrapper_attr("get_action_meanings")()
        return names + [f"{names[does]} {a}" for a, does in enumerate(self._does) if a >= self._own]
