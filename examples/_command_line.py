"""What the experiments' scripts share: choice of the runs, settings, and starting them."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from sb3_mirl.evaluation import EXPLORATION_CHOICES, N_EPISODES
from sb3_mirl.experiments.agents import AGENTS
from sb3_mirl.experiments.results import collect
from sb3_mirl.experiments.runner import run_all, run_each
from sb3_mirl.experiments.settings import Run, Settings, Suite

DEFAULT_AGENTS = ("dqn", "sql", "sql_m", "mirl")


def experiment_parser(description: str | None, suite: Suite, timesteps: int, snapshot_every: int) -> argparse.ArgumentParser:
    """
    Make the parser of an experiment's command line.

    :param description: what the program does
    :param suite: its games and presets
    :param timesteps: default of environment steps in a run
    :param snapshot_every: default of environment steps between two snapshots
    """
    games, presets, out = suite.games, suite.presets, f"results/{suite.name}"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--games", nargs="+", default=list(games), metavar="GAME", help=", ".join(games))
    add("--algos", nargs="+", default=list(DEFAULT_AGENTS), choices=list(AGENTS), metavar="ALGO", help=", ".join(AGENTS))
    add("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    add("--first-seed", type=int, default=0, help="(default: 0)")
    add("--timesteps", type=steps, default=timesteps, help=f"environment steps of a run (default: {timesteps:g})")
    add("--snapshot-every", type=steps, default=snapshot_every, help=f"environment steps (default: {snapshot_every:g})")
    add("--eval-episodes", type=int, default=N_EPISODES, help=f"episodes per snapshot (default: {N_EPISODES})")
    add("--eval-exploration", nargs="+", default=["prior"], choices=EXPLORATION_CHOICES, metavar="HOW", help=(
        "how evaluation's random actions are drawn: prior (as in training, the paper's way), uniform, none (epsilon 0); "
        "several evaluate each snapshot several times, and the first one is drawn"
    ))  # fmt: skip
    add("--preset", choices=presets, default=presets[0], help="hyperparameters")
    add("--set", dest="overrides", nargs="+", default=[], type=_override, metavar="NAME=NUMBER", help=(
        "hyperparameters in place of the preset's, for example prior_lr=1e-5 beta_lr=1e-4"
    ))  # fmt: skip
    add("--n-envs", type=int, default=8, help="environments per run (default: 8)")
    add_machines(parser)
    add("--cpus", type=int, help="cores of a run (default: its share of this machine, with --ray 1)")
    add("--gpus", type=float, default=0.0, help="GPUs of a run, with --ray; 0.25 lets four share one (default: 0)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--no-checkpoints", dest="checkpoints", action="store_false", help="save disk: killed runs start again")
    add("--out", type=Path, default=Path(out), help=f"(default: {out})")
    add("--plots-only", action="store_true", help="run nothing, draw what there is in --out")
    return parser


def add_machines(parser: argparse.ArgumentParser) -> None:
    """Add what says where the runs are executed, for :func:`sb3_mirl.experiments.run_each`."""
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default: 1)")
    parser.add_argument("--ray", nargs="?", const=True, default=False, metavar="ADDRESS", help=(
        "run on a cluster of Ray, by default the one that RAY_ADDRESS or `ray start` names, else on this machine; --out must "
        "be a folder that all machines share"
    ))  # fmt: skip


def execute(
    runs: Sequence[Run],
    train: Callable[..., None],
    is_done: Callable[[Run, Path], bool],
    timesteps: int,
    out: Path,
    args: argparse.Namespace,
    **arguments: Any,
) -> list[Run]:
    """
    Do what is left of an experiment with other agents than DQN's, each run with one thread.

    :param runs: in the order in which they start
    :param train: called as ``train(run, timesteps=..., out=..., report=..., **arguments)``, as of :func:`run_each`
    :param is_done: called with a run and ``out``
    :param timesteps: environment steps of each run
    :param out: folder of the experiment
    :param args: of :func:`add_machines`
    :return: the runs that failed
    :raises SystemExit: at Ctrl-C or SIGTERM
    """
    out = out.absolute()
    one, done = partial(train, timesteps=timesteps, out=out, **arguments), partial(is_done, out=out)
    try:
        return run_each(dict.fromkeys(runs, timesteps), one, done, out, args.jobs, args.ray, cpus=1)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the same command goes on from here.") from None
    except ImportError as error:
        raise SystemExit(str(error)) from None


def run(args: argparse.Namespace, suite: Suite) -> list[Run]:
    """
    Do what is left of an experiment, unless ``--plots-only`` is given, and write its CSVs.

    The first seed of all games and agents comes first: a cut-off experiment still compares all of them.

    :param args: of :func:`experiment_parser`
    :return: the runs that failed
    :raises SystemExit: at Ctrl-C or SIGTERM, where :func:`run_all` refuses the settings, and where there are no results
    """
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    runs = [Run(game, agent, seed) for seed in seeds for game in args.games for agent in args.algos]
    failed: list[Run] = []
    try:
        if not args.plots_only:
            settings = {f.name: vars(args)[f.name] for f in fields(Settings) if f.name in args}
            settings |= {"eval_exploration": tuple(args.eval_exploration), "overrides": dict(args.overrides)}
            chosen = {name: vars(args)[name] for name in ("jobs", "device", "ray", "cpus", "gpus")}
            failed = run_all(runs, suite, Settings(**settings), args.out, **chosen)
        if not args.plots_only or (args.out / "cells").exists():
            collect(args.out)
        elif not (args.out / "snapshots.csv").exists():
            raise FileNotFoundError(f"There are no results in {args.out}: run the experiment first, without --plots-only.")
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the same command goes on from here.") from None
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise SystemExit(str(error)) from None
    return failed


def _override(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"NAME=NUMBER is needed, such as prior_lr=1e-5, got {text!r}") from None
    # SB3 needs whole numbers where it counts
    return name, int(value) if value.is_integer() else value


def steps(text: str) -> int:
    """Read 1e6 as well as 1000000."""
    number = float(text)
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"a positive whole number of steps is needed, got {text}")
    return int(number)
