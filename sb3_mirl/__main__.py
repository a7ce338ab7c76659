"""
``python -m sb3_mirl <command> ...``: the RL Zoo's commands, which then know ``--algo mirl`` and ``--algo softdqn``.

The options are the zoo's own: ``python -m sb3_mirl train --help``, https://rl-baselines3-zoo.readthedocs.io.
"""

import importlib
import os
import runpy
import sys
import tempfile
from pathlib import Path

# where the zoo keeps a function of the command's name
FUNCTIONS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "plot_train": "rl_zoo3.plots",
    "plot_from_file": "rl_zoo3.plots",
    "all_plots": "rl_zoo3.plots",
}
# the others are scripts
SCRIPTS = ("record_video", "record_training", "push_to_hub", "load_from_hub", "benchmark")
# these load an agent together with an environment, but not to train it
PLAYERS = ("record_video", "push_to_hub")


def main() -> None:
    """Runs the zoo's command named by the first argument."""
    commands = ", ".join((*FUNCTIONS, *SCRIPTS))
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print(f"{(__doc__ or '').strip()}\n\nCommands: {commands}")
        return
    if command not in (*FUNCTIONS, *SCRIPTS):
        sys.exit(f"sb3_mirl: unknown command {command!r}. Commands: {commands}")
    try:
        import sb3_mirl.zoo  # noqa: F401  registers the algorithms
    except ModuleNotFoundError as error:
        sys.exit(f"sb3_mirl: the RL Zoo is not complete ({error}): pip install 'sb3-mirl[zoo,plots]'")
    if command == "train":
        from sb3_mirl.zoo.continuing import name_agent

        sys.argv[2:] = name_agent(sys.argv[2:])
    if command in PLAYERS:
        from sb3_mirl.zoo.players import play_without_memory

        play_without_memory()
    with tempfile.TemporaryDirectory() as hook:
        _register_in_children(Path(hook))
        _run(command)


def _run(command: str) -> None:
    del sys.argv[1]
    if command in FUNCTIONS:
        sys.argv[0] = command
        getattr(importlib.import_module(FUNCTIONS[command]), command)()
    else:
        runpy.run_module(f"rl_zoo3.{command}", run_name="__main__", alter_sys=True)


def _register_in_children(folder: Path) -> None:
    """The zoo's record_training and benchmark start ``python -m rl_zoo3....``, which imports a module ``custom_envs``."""
    (folder / "custom_envs.py").write_text("import sb3_mirl.zoo\n")
    for variable, first in (("PYTHONPATH", str(folder)), ("PATH", str(Path(sys.executable).parent))):
        rest = os.environ.get(variable)
        os.environ[variable] = first if rest is None else f"{first}{os.pathsep}{rest}"


if __name__ == "__main__":
    main()
