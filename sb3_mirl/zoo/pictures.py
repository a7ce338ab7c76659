"""The zoo's pictures, which it only shows, as files: for machines without a display."""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np

from sb3_mirl.common.extras import extra

with extra("plots"):
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.figure import Figure


def draw(command: str) -> None:
    """
    Run one of the zoo's commands that draw, with a further option ``--save FILE``.

    :param command: "plot_train", "plot_from_file" or "all_plots"; its arguments are in ``sys.argv``
    :raises SystemExit: if the runs are too few for the picture
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--save", type=Path)
    known, sys.argv[1:] = parser.parse_known_args(sys.argv[1:])
    if {"-h", "--help"} & set(sys.argv):
        print("Beside the zoo's options: --save FILE writes the pictures into FILE, FILE-2, ... and shows none.\n")
    if known.save is not None:
        matplotlib.use("Agg")
        pyplot.show = lambda *args, **kwargs: None
    with extra("zoo"):
        module = importlib.import_module("rl_zoo3.plots")
    try:
        getattr(module, command)()
    except (ValueError, KeyError) as error:
        _explain(command, error)
        raise
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    if not any(axes.has_data() for figure in figures for axes in figure.axes):
        why = "no run has as many episodes as the window, -w" if command == "plot_train" else "there are no evaluations"
        print(f"sb3_mirl {command}: the picture is empty, because {why}.", file=sys.stderr)
    windows = matplotlib.backends.backend_registry.list_builtin(matplotlib.backends.BackendFilter.INTERACTIVE)
    if known.save is not None:
        _save(figures, known.save)
    elif figures and matplotlib.get_backend().lower() not in map(str.lower, windows):
        print("There is no display here, and nothing was shown: --save FILE writes the pictures.", file=sys.stderr)


def _explain(command: str, error: Exception) -> None:
    """Raise SystemExit with advice where the zoo's error says nothing to its user."""
    if command == "all_plots" and isinstance(error, np.exceptions.AxisError):
        raise SystemExit(
            "sb3_mirl all_plots: a single run needs at least two episodes in each evaluation: train with --eval-episodes."
        ) from error
    if command != "plot_from_file":
        return
    if isinstance(error, ValueError) and "empty" in str(error):
        raise SystemExit(
            "sb3_mirl plot_from_file: it needs at least two runs of each algorithm (other seeds), evaluated by at least two "
            "episodes each; what has fewer was skipped. all_plots draws the curves of single runs."
        ) from error
    if isinstance(error, KeyError):
        raise SystemExit(
            f"sb3_mirl plot_from_file: {error} has no evaluations in one of the environments: train with --eval-freq, or "
            "leave it out by --skip-keys or --skip-envs."
        ) from error


def _save(figures: list[Figure], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for index, figure in enumerate(figures, 1):
        name = path if index == 1 else path.with_stem(f"{path.stem}-{index}")
        figure.savefig(name, bbox_inches="tight")
        print(f"Saved {name if name.suffix else f'{name}.png'}")
