"""Installed as conftest.py beside SB3's own tests: puts the algorithm named by $SB3_MIRL_ALGO in DQN's place."""

import os
from typing import Any

import stable_baselines3

import sb3_mirl

name = os.environ["SB3_MIRL_ALGO"]
base: Any = {"DQN": stable_baselines3.DQN, "SoftDQN": sb3_mirl.SoftDQN, "MIRL": sb3_mirl.MIRL}[name]


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    # DQN's warm-up instead of the paper's 50 000 steps, or these short runs would never reach an update
    kwargs.setdefault("learning_starts", 100)
    base.__init__(self, *args, **kwargs)


# the class keeps DQN's name so that exactly DQN's test ids are selected, and compared
stable_baselines3.DQN = stable_baselines3.dqn.DQN = type("DQN", (base,), {"__init__": _init, "tb_log_name": "DQN"})
