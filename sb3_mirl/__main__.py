"""
sb3_mirl <command> ...: the RL Zoo's commands, which then know --algo mirl, --algo softdqn and the others of this package.

The options are the zoo's own: sb3_mirl train --help, https://rl-baselines3-zoo.readthedocs.io.
"""

import importlib
import os
import runpy
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from sb3_mirl.hyperparameters import did_you_mean

COMMANDS = {
    "train": "train an agent; go on with a run (-i); search hyperparameters (-optimize)",
    "enjoy": "watch a trained agent play, or only score it (--no-render)",
    "record_video": "film a trained agent",
    "record_training": "film an agent at all stages of its training",
    "plot_train": "draw the returns of training episodes (--save FILE)",
    "all_plots": "draw and tabulate the evaluations of many runs (--save FILE)",
    "plot_from_file": "draw what all_plots has gathered, with rliable's intervals (--save FILE)",
    "push_to_hub": "upload an agent to the Hugging Face Hub",
    "load_from_hub": "download an agent from there",
    "benchmark": "score all agents of a folder",
}
PLOTS = ("plot_train", "all_plots", "plot_from_file")
# where there is a function of the command's name; the others are scripts of the zoo
FUNCTIONS = {"train": "rl_zoo3.train", "enjoy": "rl_zoo3.enjoy", "benchmark": "sb3_mirl.zoo.patches"}
# these load an agent together with an environment, but not to train it
PLAYERS = ("record_video", "push_to_hub")


def main() -> None:
    """Run the zoo's command named by the first argument."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print((__doc__ or "").strip(), "", *(f"  {name:16} {what}" for name, what in COMMANDS.items()), sep="\n")
        return
    if command == "--version":
        from sb3_mirl import __version__

        print(f"sb3_mirl {__version__}")
        return
    if command not in COMMANDS:
        sys.exit(f"sb3_mirl: unknown command {command!r}{did_you_mean(command, COMMANDS)}")
    try:
        import sb3_mirl.zoo.command_line as command_line  # registers the algorithms too

        if command in PLOTS:
            importlib.import_module("sb3_mirl.zoo.pictures")
    except ModuleNotFoundError as error:
        sys.exit(f"sb3_mirl {command}: {error}")
    arguments = sys.argv[2:] = command_line.prepared(command, sys.argv[2:])
    with tempfile.TemporaryDirectory() as hook:
        _prepare_children(Path(hook))
        try:
            _run(command)
        except Exception as error:
            if not command_line.is_advice(error, arguments):
                raise
            sys.exit(f"sb3_mirl {command}: {error}")


def _run(command: str) -> None:
    del sys.argv[1]
    sys.argv[0] = f"sb3_mirl {command}"
    if command in PLAYERS:
        from sb3_mirl.zoo.patches import play_without_memory

        play_without_memory()
    if command in PLOTS:
        from sb3_mirl.zoo.pictures import draw

        draw(command)
    elif command in FUNCTIONS:
        getattr(importlib.import_module(FUNCTIONS[command]), command)()
    else:
        runpy.run_module(f"rl_zoo3.{command}", run_name="__main__", alter_sys=True)


def _prepare_children(folder: Path) -> None:
    """
    Give the processes that the zoo starts what they look for: ``python -m rl_zoo3....`` a module ``custom_envs``, which
    registers the algorithms, and videos a program ``ffmpeg``, which moviepy brings under another name.
    """
    (folder / "custom_envs.py").write_text("import sb3_mirl.zoo\n")
    if which("ffmpeg") is None and find_spec("imageio_ffmpeg"):
        from imageio_ffmpeg import get_ffmpeg_exe

        (folder / "ffmpeg").symlink_to(get_ffmpeg_exe())
    python = Path(sys.executable).parent
    for variable, first in (("PYTHONPATH", str(folder)), ("PATH", f"{python}{os.pathsep}{folder}")):
        rest = os.environ.get(variable)
        os.environ[variable] = first if rest is None else f"{first}{os.pathsep}{rest}"


if __name__ == "__main__":
    main()
