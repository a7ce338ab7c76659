"""The agents that the paper compares, two that take MIRL apart, and SB3's own DQN."""

import difflib
import inspect
import math
from collections.abc import Iterable
from typing import Any

from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.mirl import MIRL
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.soft_dqn import SoftDQN
from sb3_mirl.soft_dqn.defaults import PAPER
from sb3_mirl.soft_dqn.policies import ADAM
from sb3_mirl.soft_dqn.soft_dqn import update_ratio

MIX = 0.1
"""Weight of the uniform distribution in the exploration of "mirl_mix"."""

AGENTS: dict[str, tuple[type[DQN], dict[str, Any]]] = {
    "dqn": (SoftDQN, {"beta_schedule": "constant", "beta_init": math.inf}),
    "sql": (SoftDQN, {}),
    "sql_m": (SoftDQN, {"exploration": "marginal"}),
    "mirl": (MIRL, {}),
    "mirl_u": (MIRL, {"exploration": "uniform"}),
    "mirl_mix": (MIRL, {"exploration_mix": MIX}),
    "sb3_dqn": (DQN, {}),
}
"""Name: class and arguments. ``dqn`` is this package's ``SoftDQN`` at beta = inf, ``sb3_dqn`` Stable-Baselines3's own.
``sql`` and ``sql_m`` are the ablation of the paper's Figure 3. ``mirl_u`` learns with the prior but explores uniformly,
``mirl_mix`` is section 7's remedy for useful but rare actions."""


def make_agent(name: str, env: VecEnv, policy: str, hyperparameters: dict[str, Any], **kwargs: Any) -> DQN:
    """
    Make an untrained agent.

    :param name: a key of :data:`AGENTS`
    :param env: training environment
    :param policy: such as "CnnPolicy"
    :param hyperparameters: the same for all agents; each is given those that it has
    :param kwargs: further arguments, such as ``seed`` and ``device``
    :raises ValueError: for an unknown name, and for hyperparameters that no agent has
    """
    if name not in AGENTS:
        raise ValueError(f"Unknown agent {name!r}, choose from {', '.join(AGENTS)}.")
    check_hyperparameters(hyperparameters)
    agent_class, chosen = AGENTS[name]
    known = _arguments(agent_class)
    shared = {name: value for name, value in hyperparameters.items() if name in known}
    if not issubclass(agent_class, SoftDQN):
        shared = {
            **_our_defaults(env),
            **shared,
            "policy_kwargs": {"optimizer_kwargs": ADAM, **shared.get("policy_kwargs", {})},
        }
    else:
        shared["preset"] = "paper"
    return agent_class(**{**shared, **chosen, **kwargs, "policy": policy, "env": env})


def check_hyperparameters(names: Iterable[str]) -> None:
    """
    Refuse misspelt hyperparameters; some agent of :data:`AGENTS` must have each.

    :raises ValueError: naming the first that no agent has
    """
    known = set[str]().union(*(_arguments(agent_class) for agent_class, _ in AGENTS.values()))
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(known))}."
            raise ValueError(f"No agent has a hyperparameter {name!r}: {hint}")


def _arguments(agent_class: type[DQN]) -> set[str]:
    bases = [base for base in agent_class.__mro__ if issubclass(base, DQN)]
    names = set[str]().union(*(inspect.signature(base).parameters for base in bases))
    return {name for name in names if not name.startswith("_")} - {"args", "kwargs", "policy", "env"}


def _our_defaults(env: VecEnv) -> dict[str, Any]:
    """The paper's values for SB3's DQN, with what SoftDQN chooses by itself: the update ratio, and frames stored once."""
    theirs = inspect.signature(DQN).parameters
    ours = {name: p.default for name, p in inspect.signature(SoftDQN).parameters.items() if name in theirs}
    ours |= {name: value for name, value in PAPER.items() if name in theirs}
    train_freq, gradient_steps = update_ratio(env.num_envs)
    chosen: dict[str, Any] = {"train_freq": train_freq, "gradient_steps": gradient_steps}
    frame_stack = FrameReplayBuffer.frame_stack_of(env, env.observation_space)
    if frame_stack is not None:
        chosen |= {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {"frame_stack": frame_stack}}
    return {**ours, **chosen}
