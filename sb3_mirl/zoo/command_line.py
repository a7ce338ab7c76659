"""What the zoo's commands are told in other words, and which of their errors are advice that needs no traceback."""

import argparse
import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
from rl_zoo3 import ALGOS

from sb3_mirl.checkpoint.folder import MODEL, CheckpointFolder
from sb3_mirl.common.extras import how_to_install
from sb3_mirl.hyperparameters import did_you_mean
from sb3_mirl.zoo.experiment import CHECKPOINTS, Experiment


def prepared(command: str, arguments: list[str]) -> list[str]:
    """
    Return the arguments that the zoo's command gets.

    :param command: its name
    :param arguments: as typed
    :raises SystemExit: with a sentence, if the command could not work
    """
    algo = _option(arguments, "--algo")
    if algo is not None and algo not in ALGOS:
        raise SystemExit(f"sb3_mirl {command}: --algo {algo} is not known{did_you_mean(algo, ALGOS)}")
    if command == "train":
        if "--track" in arguments and find_spec("wandb") is None:
            raise SystemExit(f"sb3_mirl train: --track needs Weights & Biases, wandb. {how_to_install('wandb')}")
        return _newest_agent(arguments)
    if command == "enjoy" and "--no-render" not in arguments and not _has_display():
        print(
            "There is no display here: playing with --no-render. `sb3_mirl record_video` takes the same options and makes "
            "a film.",
            file=sys.stderr,
        )
        return [*arguments, "--no-render"]
    return arguments


def is_advice(error: Exception, arguments: list[str]) -> bool:
    """
    Return whether an error is about what was typed and says so, so that the way to it is of no interest.

    :param error: from one of the zoo's commands
    :param arguments: of the command; ``--verbose 2`` asks for the way
    """
    if _option(arguments, "--verbose") == "2":
        return False
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(code.co_name == "learn" for code in frames):
        return False
    if any(code is Experiment.setup_experiment.__code__ for code in frames):
        return isinstance(error, (ValueError, AssertionError, TypeError, OSError, RuntimeError, ImportError, gym.error.Error))
    here = {"rl_zoo3", "sb3_mirl"} & set(Path(frames[-1].co_filename).parts)
    return bool(here and str(error)) and isinstance(error, (ValueError, AssertionError))


def _newest_agent(arguments: list[str]) -> list[str]:
    """
    Replace ``-i <folder of a run>`` by an agent in it, which the zoo asks for.

    :raises SystemExit: if the folder has no checkpoints
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--trained-agent", default="")
    known, others = parser.parse_known_args(arguments)
    run = Path(known.trained_agent)
    Experiment.resumes = bool(known.trained_agent) and run.is_dir()
    if not Experiment.resumes:
        return arguments
    checkpoints = CheckpointFolder(run / CHECKPOINTS).paths() or CheckpointFolder(run).paths()
    if not checkpoints:
        raise SystemExit(
            f"sb3_mirl train: {run} has no checkpoints. Either it was not trained with --save-freq, or it was stopped before "
            "the first one. Give -i the zip of an agent, or train anew."
        )
    return [*others, "-i", str(checkpoints[0] / MODEL)]


def _option(arguments: list[str], name: str) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, nargs="?", dest="value")
    return parser.parse_known_args(arguments)[0].value


def _has_display() -> bool:
    elsewhere = sys.platform in ("win32", "darwin")
    return elsewhere or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
