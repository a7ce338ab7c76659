"""The agents that the paper compares, and two that take MIRL apart."""

import math
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.mirl import MIRL
from sb3_mirl.soft_dqn import SoftDQN

MIX = 0.1
"""Weight of the uniform distribution in the exploration of "mirl_mix"."""

AGENTS: dict[str, tuple[type[SoftDQN], dict[str, Any]]] = {
    "dqn": (SoftDQN, {"beta_schedule": "constant", "beta_init": math.inf}),
    "sql": (SoftDQN, {}),
    "sql_m": (SoftDQN, {"exploration": "marginal"}),
    "mirl": (MIRL, {}),
    "mirl_u": (MIRL, {"exploration": "uniform"}),
    "mirl_mix": (MIRL, {"exploration_mix": MIX}),
}
"""Name: class and arguments. ``sql`` and ``sql_m`` are the ablation of the paper's Figure 3. ``mirl_u`` learns with the
prior but explores uniformly, ``mirl_mix`` is section 7's remedy for useful but rare actions."""

_OF_MIRL_ALONE = ("prior_lr", "prior_floor")


def make_agent(name: str, env: VecEnv, policy: str, hyperparameters: dict[str, Any], **kwargs: Any) -> SoftDQN:
    """
    :param name: a key of :data:`AGENTS`
    :param env: training environment
    :param policy: such as "CnnPolicy"
    :param hyperparameters: the same for all agents; what only MIRL knows is left out for the others
    :param kwargs: further arguments, such as ``seed`` and ``device``
    :raises ValueError: for an unknown name
    """
    if name not in AGENTS:
        raise ValueError(f"Unknown agent {name!r}, choose from {', '.join(AGENTS)}.")
    agent_class, chosen = AGENTS[name]
    shared = {k: v for k, v in hyperparameters.items() if agent_class is MIRL or k not in _OF_MIRL_ALONE}
    return agent_class(policy, env, **{**shared, **chosen, **kwargs})
