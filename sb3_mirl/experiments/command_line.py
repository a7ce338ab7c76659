"""What the experiments' command lines share: choice of the runs, settings, and starting them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sb3_mirl.atari.evaluation import EXPLORATIONS, N_EPISODES
from sb3_mirl.experiments.agents import AGENTS
from sb3_mirl.experiments.cell import Cell, Settings, Suite
from sb3_mirl.experiments.runner import run_all


def experiment_parser(
    description: str | None,
    games: Sequence[str],
    agents: Sequence[str],
    timesteps: int,
    snapshot_every: int,
    presets: Sequence[str],
    out: str,
) -> argparse.ArgumentParser:
    """
    :param games: all games, by default all of them are run
    :param agents: run by default, out of all of ``AGENTS``
    :param presets: names of hyperparameter settings, the default first
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--games", nargs="+", default=list(games), metavar="GAME", help=", ".join(games))
    add("--algos", nargs="+", default=list(agents), choices=list(AGENTS), metavar="ALGO", help=", ".join(AGENTS))
    add("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    add("--timesteps", type=_steps, default=timesteps, help=f"environment steps of a run (default: {timesteps:g})")
    add("--snapshot-every", type=_steps, default=snapshot_every, help=f"environment steps (default: {snapshot_every:g})")
    add("--eval-episodes", type=int, default=N_EPISODES, help=f"episodes per snapshot (default: {N_EPISODES})")
    add("--eval-exploration", nargs="+", default=["prior"], choices=EXPLORATIONS, metavar="HOW", help=(
        "how evaluation's random actions are drawn: prior (as in training, the paper's way), uniform, none (epsilon 0); "
        "several evaluate each snapshot several times, and the first one is drawn"
    ))  # fmt: skip
    add("--preset", choices=presets, default=presets[0], help="hyperparameters")
    add("--set", nargs="+", default=[], type=_override, metavar="NAME=NUMBER", help=(
        "hyperparameters in place of the preset's, for example prior_lr=1e-5 beta_lr=1e-4"
    ))  # fmt: skip
    add("--n-envs", type=int, default=8, help="environments per run (default: 8)")
    add("--jobs", type=int, default=1, help="runs at the same time (default: 1)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--no-checkpoints", action="store_true", help="save disk: a killed run starts again, not from its last snapshot")
    add("--out", type=Path, default=Path(out), help=f"(default: {out})")
    add("--plots-only", action="store_true", help="run nothing, draw what there is in --out")
    return parser


def run(args: argparse.Namespace, suite: Suite) -> list[Cell]:
    """
    Runs all cells, the first seed of all games and agents first: a cut-off experiment still compares all of them.

    :param args: of :func:`experiment_parser`
    :return: the cells that failed
    :raises SystemExit: at Ctrl-C
    """
    settings = Settings(
        timesteps=args.timesteps,
        snapshot_every=args.snapshot_every,
        preset=args.preset,
        n_envs=args.n_envs,
        eval_exploration=tuple(args.eval_exploration),
        eval_episodes=args.eval_episodes,
        overrides=dict(args.set),
        checkpoints=not args.no_checkpoints,
    )
    cells = [Cell(game, agent, seed) for seed in range(args.seeds) for game in args.games for agent in args.algos]
    try:
        return run_all(cells, suite, settings, args.out, args.jobs, args.device)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the same command goes on from here.") from None


def _override(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"NAME=NUMBER is needed, such as prior_lr=1e-5, got {text!r}") from None
    # SB3 needs whole numbers where it counts
    return name, int(value) if value.is_integer() else value


def _steps(text: str) -> int:
    """1e6 as well as 1000000."""
    number = float(text)
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"a positive whole number of steps is needed, got {text}")
    return int(number)
