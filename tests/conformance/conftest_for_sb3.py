"""Installed as conftest.py beside SB3's own tests: puts the algorithm named by $SB3_MIRL_ALGO in $SB3_MIRL_PARENT's place."""

import os
from typing import Any

import stable_baselines3

import sb3_mirl

name, parent = os.environ["SB3_MIRL_ALGO"], os.environ["SB3_MIRL_PARENT"]
own_name, _, variant = name.partition("-")
base: Any = getattr(stable_baselines3 if name == parent else sb3_mirl, own_name)

# DQN's warm-up instead of the paper's 50 000 steps, or these short runs would never reach an update
changed: dict[str, Any] = {"learning_starts": 100} if parent == "DQN" else {}
if parent == "A2C":
    changed["ent_coef"] = 0.0  # its own: its tests compare returns without costs
if own_name == "VIREL":
    # values of 50 are to be learned in 500 steps in one of the tests: at the default its first errors make the agent so hot
    # that it needs 600
    changed["residual_scale"] = 1e-3
if own_name == "ContinuousSQL":
    # DDPG's warm-up, and targets that follow at every update: 500 steps are to learn in some of the tests
    changed |= {"learning_starts": 100, "tau": 0.005, "target_update_interval": 1}
if variant:
    changed["critics"] = variant


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    base.__init__(self, *args, **{**changed, **kwargs})


# the class keeps the parent's name so that exactly its test ids are selected, and compared
replacement = type(parent, (base,), {"__init__": _init, "tb_log_name": parent})
setattr(stable_baselines3, parent, replacement)
setattr(getattr(stable_baselines3, parent.lower()), parent, replacement)
