"""Experiments of many runs, games x agents x seeds: run in parallel, resumed where killed, read back for the plots.

Needs the extra ``plots`` (pandas, loky), and for runs on many machines ``cluster`` (Ray).
"""

import warnings
from typing import Any

from sb3_mirl.experiments.agents import AGENTS
from sb3_mirl.experiments.games import ATARI, MINATAR
from sb3_mirl.experiments.runner import run_all, run_each
from sb3_mirl.experiments.settings import Run, Settings, Suite
from sb3_mirl.experiments.work import ReportCallback

__all__ = ["AGENTS", "ATARI", "MINATAR", "ReportCallback", "Run", "Settings", "Suite", "run_all", "run_each"]


def __getattr__(name: str) -> Any:
    if name == "Cell":
        warnings.warn("sb3_mirl.experiments.Cell is now called Run.", FutureWarning, stacklevel=2)
        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
