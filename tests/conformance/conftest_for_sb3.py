"""Installed as conftest.py beside SB3's own tests: puts the algorithm named by $SB3_MIRL_ALGO in its parent's place."""

import importlib
import os
from typing import Any

import stable_baselines3

import sb3_mirl

name, parent = os.environ["SB3_MIRL_ALGO"], os.environ["SB3_MIRL_PARENT"]
base: Any = getattr(stable_baselines3, name) if name == parent else getattr(sb3_mirl, name)
DEFAULTS: dict[str, dict[str, Any]] = {
    # DQN's warm-up instead of the paper's 50 000 steps, or these short runs would never reach an update
    "DQN": {"learning_starts": 100},
    # A2C's own: its tests compare returns without costs
    "A2C": {"ent_coef": 0.0},
}


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    for argument, value in DEFAULTS[parent].items():
        kwargs.setdefault(argument, value)
    base.__init__(self, *args, **kwargs)


# the class keeps its parent's name so that exactly the parent's test ids are selected, and compared
replacement = type(parent, (base,), {"__init__": _init, "tb_log_name": parent})
setattr(stable_baselines3, parent, replacement)
module = importlib.import_module(f"stable_baselines3.{parent.lower()}")
setattr(module, parent, replacement)
