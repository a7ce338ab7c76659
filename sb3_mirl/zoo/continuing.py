"""Where the zoo's runs have their checkpoints."""

import argparse
import re
from pathlib import Path

from sb3_mirl.checkpoint.folder import MODEL, CheckpointFolder

CHECKPOINTS = "checkpoints"  # in the folder of a run


def checkpoints_of(agent: Path) -> Path | None:
    """
    The checkpoints with which training an agent goes on.

    :param agent: what ``-i`` names: a checkpoint's model, or the run's last one: the final agent, or the newest of the
        ``rl_model_<steps>_steps.zip`` of a run that was killed
    :return: their folder; None if there is none, or for another of the run's agents (the best one, an older one)
    """
    if agent.parent.name.startswith("checkpoint_"):
        return agent.parent.parent
    folder = agent.parent / CHECKPOINTS
    steps = {path: _steps(path) for path in agent.parent.glob("rl_model_*_steps.zip")}
    is_last = _steps(agent) == max(steps.values()) if agent in steps else agent.stem != "best_model"
    return folder if is_last and CheckpointFolder(folder).paths() else None


def _steps(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem))


def name_agent(arguments: list[str]) -> list[str]:
    """
    The arguments of ``train`` with ``-i <folder of a run>`` replaced by an agent in it, which the zoo asks for.

    :param arguments: the command line
    :return: arguments for the zoo
    :raises SystemExit: if the folder has no checkpoints
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--trained-agent", default="")
    known, others = parser.parse_known_args(arguments)
    run = Path(known.trained_agent)
    if not known.trained_agent or not run.is_dir():
        return arguments
    checkpoints = CheckpointFolder(run / CHECKPOINTS).paths() or CheckpointFolder(run).paths()
    if not checkpoints:
        raise SystemExit(
            f"sb3_mirl: {run} has no checkpoints. Either it was not trained with --save-freq, or it was stopped before the "
            "first one. Give -i the zip of an agent, or train anew."
        )
    return [*others, "-i", str(checkpoints[0] / MODEL)]
