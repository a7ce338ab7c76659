"""Experiments of many runs, games x agents x seeds: run in parallel, resumed where killed, read back for the plots.

Needs the extra ``plots`` (pandas, rliable).
"""

from sb3_mirl.experiments.agents import AGENTS
from sb3_mirl.experiments.cell import Cell, Settings, Suite
from sb3_mirl.experiments.runner import run_all

__all__ = ["AGENTS", "Cell", "Settings", "Suite", "run_all"]
